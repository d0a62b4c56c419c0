#include "metala/distributed/communicator.h"

#include <cstdlib>

namespace metala {
namespace {

class Done : public Operation {
 public:
  void wait() override {}
};

class Alone : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }

  Pending start_all_reduce(const Tensor& values, const std::string& what) override {
    check_same("all-reduce", what, values);
    return std::make_unique<Done>();
  }
  Pending start_reduce_scatter(const Tensor& from, const Tensor& into,
                               const std::string& what) override {
    check_parts("reduce-scatter", what, from, into);
    return copied(from, into);
  }
  Pending start_all_gather(const Tensor& from, const Tensor& into,
                           const std::string& what) override {
    check_parts("all-gather", what, into, from);
    return copied(from, into);
  }
  Pending start_broadcast(const Tensor& values, int, const std::string& what) override {
    check_same("broadcast", what, values);
    return std::make_unique<Done>();
  }
  Pending start_exchange(const Tensor& out, int, const Tensor& in, int,
                         const std::string& what) override {
    require(!out.defined() && !in.defined(), "exchange of {}: there is no other rank", what);
    return std::make_unique<Done>();
  }
  std::unique_ptr<Communicator> split(int) override { return std::make_unique<Alone>(); }
  [[noreturn]] void abort() override { std::_Exit(1); }

 private:
  static Pending copied(const Tensor& from, const Tensor& into) {
    if (from.raw() != into.raw()) into.copy_from(from.reshape(into.shape()));
    return std::make_unique<Done>();
  }
};

}  // namespace

void Communicator::barrier(const std::string& what) {
  all_reduce(Tensor::zeros({1}, DType::i64), what);
}

bool Communicator::any(bool here, const std::string& what) {
  const Tensor sum = Tensor::zeros({1}, DType::i64);
  sum.data<std::int64_t>()[0] = here ? 1 : 0;
  all_reduce(sum, what);
  return sum.data<std::int64_t>()[0] > 0;
}

void Communicator::check_same(const char* operation, const std::string& what,
                              const Tensor& values) const {
  require(values.defined() && values.contiguous(), "{} of {}: wanted a contiguous tensor",
          operation, what);
}

void Communicator::check_parts(const char* operation, const std::string& what, const Tensor& whole,
                               const Tensor& part) const {
  check_same(operation, what, whole);
  check_same(operation, what, part);
  require(whole.dtype() == part.dtype() && whole.device() == part.device() &&
              whole.count() == part.count() * size(),
          "{} of {}: {} {} and {} {} for {} ranks; wanted one type, and a part for each rank",
          operation, what, name_of(whole.dtype()), whole.shape(), name_of(part.dtype()),
          part.shape(), size());
}

std::unique_ptr<Communicator> alone() {
  return std::make_unique<Alone>();
}

}  // namespace metala
