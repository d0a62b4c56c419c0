#include "metala/distributed/communicator_mpi.h"

#include <limits>
#include <utility>

#include "metala/base/error.h"
#include "metala/distributed/mpi_engine_mpi.h"

namespace metala {
namespace {

using mpi::Engine;

class MpiOperation : public Operation {
 public:
  MpiOperation(std::shared_ptr<Engine> engine, std::shared_ptr<Engine::Job> job)
      : engine_(std::move(engine)), job_(std::move(job)) {}
  void wait() override { engine_->wait(*job_); }

 private:
  std::shared_ptr<Engine> engine_;
  std::shared_ptr<Engine::Job> job_;
};

MPI_Datatype type_of(const Tensor& t, const std::string& what) {
  switch (t.dtype()) {
    case DType::f32:
      return MPI_FLOAT;
    case DType::f64:
      return MPI_DOUBLE;
    case DType::i64:
      return MPI_INT64_T;
    default:
      fail("{}: sums over MPI ranks are of f32, f64 or i64, not {}", what, name_of(t.dtype()));
  }
}

int int_count(std::size_t n, const std::string& what) {
  require(n <= static_cast<std::size_t>(std::numeric_limits<int>::max()),
          "{}: {} units in one message; MPI counts to 2^31 - 1", what, n);
  return static_cast<int>(n);
}

class MpiCommunicator : public Communicator {
 public:
  MpiCommunicator(std::shared_ptr<Engine> engine, MPI_Comm group, int rank, int size)
      : engine_(std::move(engine)), group_(group), rank_(rank), size_(size) {}

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  Pending start_all_reduce(const Tensor& values, const std::string& what) override {
    const std::string name = named("all-reduce", what);
    check_here("all-reduce", what, values);
    const MPI_Datatype type = type_of(values, name);
    const int count = elements(values, name);
    return started(name, [=, group = group_](std::vector<MPI_Request>& r) {
      return MPI_Iallreduce(MPI_IN_PLACE, values.raw(), count, type, MPI_SUM, group,
                            &r.emplace_back());
    });
  }

  Pending start_reduce_scatter(const Tensor& from, const Tensor& into,
                               const std::string& what) override {
    const std::string name = named("reduce-scatter", what);
    check_here("reduce-scatter", what, from);
    check_parts("reduce-scatter", what, from, into);
    const MPI_Datatype type = type_of(from, name);
    const int count = elements(into, name);
    return started(name, [=, group = group_](std::vector<MPI_Request>& r) {
      return MPI_Ireduce_scatter_block(from.raw(), into.raw(), count, type, MPI_SUM, group,
                                       &r.emplace_back());
    });
  }

  Pending start_all_gather(const Tensor& from, const Tensor& into,
                           const std::string& what) override {
    const std::string name = named("all-gather", what);
    check_here("all-gather", what, into);
    check_parts("all-gather", what, into, from);
    const int count = bytes(from, name);
    const bool in_place =
        from.raw() == static_cast<std::byte*>(into.raw()) + from.bytes() * std::size_t(rank_);
    return started(name, [=, group = group_](std::vector<MPI_Request>& r) {
      return MPI_Iallgather(in_place ? MPI_IN_PLACE : from.raw(), count, MPI_BYTE, into.raw(),
                            count, MPI_BYTE, group, &r.emplace_back());
    });
  }

  Pending start_broadcast(const Tensor& values, int root, const std::string& what) override {
    const std::string name = named("broadcast", what);
    check_here("broadcast", what, values);
    const int count = bytes(values, name);
    return started(name, [=, group = group_](std::vector<MPI_Request>& r) {
      return MPI_Ibcast(values.raw(), count, MPI_BYTE, root, group, &r.emplace_back());
    });
  }

  Pending start_exchange(const Tensor& out, int to, const Tensor& in, int from,
                         const std::string& what) override {
    const std::string name = named("exchange", what);
    if (out.defined()) check_here("exchange", what, out);
    if (in.defined()) check_here("exchange", what, in);
    const int sent = out.defined() ? bytes(out, name) : 0;
    const int received = in.defined() ? bytes(in, name) : 0;
    return started(name, [=, group = group_](std::vector<MPI_Request>& r) {
      int code = MPI_SUCCESS;
      if (in.defined()) {
        code = MPI_Irecv(in.raw(), received, MPI_BYTE, from, 0, group, &r.emplace_back());
      }
      if (out.defined() && code == MPI_SUCCESS) {
        code = MPI_Isend(out.raw(), sent, MPI_BYTE, to, 0, group, &r.emplace_back());
      }
      return code;
    });
  }

  std::unique_ptr<Communicator> split(int number) override {
    MPI_Comm part = MPI_COMM_NULL;
    int rank = 0, size = 0;
    engine_->call(named("splitting", "ranks into groups"), [&, group = group_] {
      const int code = MPI_Comm_split(group, number, rank_, &part);
      if (code != MPI_SUCCESS) return code;
      MPI_Comm_set_errhandler(part, MPI_ERRORS_RETURN);
      MPI_Comm_rank(part, &rank);
      return MPI_Comm_size(part, &size);
    });
    return std::make_unique<MpiCommunicator>(engine_, part, rank, size);
  }

  std::string missing() override { return engine_->missing(); }

  [[noreturn]] void abort() override { engine_->abort(); }

 private:
  std::string named(const char* operation, const std::string& what) const {
    return fmt::format("{} of {}", operation, what);
  }

  void check_here(const char* operation, const std::string& what, const Tensor& t) const {
    check_same(operation, what, t);
    require(t.device().is_cpu(), "{} of {}: MPI moves tensors on the CPU, this one is on {}",
            operation, what, t.device());
  }

  static int elements(const Tensor& t, const std::string& what) {
    return int_count(static_cast<std::size_t>(t.count()), what);
  }
  static int bytes(const Tensor& t, const std::string& what) { return int_count(t.bytes(), what); }

  Pending started(const std::string& name, Engine::Start start) {
    return std::make_unique<MpiOperation>(engine_, engine_->submit(name, std::move(start)));
  }

  std::shared_ptr<Engine> engine_;
  MPI_Comm group_;
  int rank_, size_;
};

}  // namespace

std::unique_ptr<Communicator> mpi_world(std::chrono::milliseconds timeout) {
  const auto engine = std::make_shared<Engine>(timeout);
  return std::make_unique<MpiCommunicator>(engine, MPI_COMM_WORLD, engine->rank(), engine->size());
}

}  // namespace metala
