#include "metala/distributed/communicator_nccl.h"

#include <nccl.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <condition_variable>
#include <cstdlib>
#include <list>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "metala/base/error.h"
#include "metala/device/cuda/cuda_device.h"
#include "metala/device/cuda/cuda_error.h"
#include "metala/distributed/rendezvous.h"

namespace metala {
namespace {

using Clock = std::chrono::steady_clock;

void check_nccl(ncclResult_t status, const std::string& what) {
  require(status == ncclSuccess, "{}: NCCL: {}", what, ncclGetErrorString(status));
}

ncclDataType_t type_of(const Tensor& t, const std::string& what) {
  switch (t.dtype()) {
    case DType::f32:
      return ncclFloat32;
    case DType::f64:
      return ncclFloat64;
    case DType::bf16:
      return ncclBfloat16;
    case DType::i64:
      return ncclInt64;
    default:
      fail("{}: sums over GPUs are of f32, f64, bf16 or i64, not {}", what, name_of(t.dtype()));
  }
}

class Event {
 public:
  Event() {
    cuda::check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "making an event");
  }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void record(cudaStream_t stream) const {
    cuda::check(cudaEventRecord(event_, stream), "recording an event");
  }
  void hold(cudaStream_t stream) const {
    cuda::check(cudaStreamWaitEvent(stream, event_, 0), "waiting for an event");
  }
  cudaError_t query() const { return cudaEventQuery(event_); }

 private:
  cudaEvent_t event_ = nullptr;
};

// The one stream of a device's operations, whichever groups they are of: in two streams the ranks
// could start two groups' operations in different orders, and wait for each other.
class Stream {
 public:
  Stream() {
    cuda::check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream");
  }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

// Memory of the GPU for what lies on the CPU and must travel. It is lent again and never given back
// before the end: freeing waits for all that the GPU does, and an operation may wait for a rank
// that has died.
class Staging : public std::enable_shared_from_this<Staging> {
 public:
  explicit Staging(Device device) : device_(device) {}

  Tensor copy_of(const Tensor& t) {
    const std::size_t bytes = std::bit_ceil(std::max<std::size_t>(t.bytes(), 256));
    std::shared_ptr<void> memory;
    {
      const std::lock_guard lock(mutex_);
      auto& free = free_[bytes];
      if (!free.empty()) {
        memory = std::move(free.back());
        free.pop_back();
      }
    }
    if (!memory) memory = memory_of(device_).allocate(bytes);
    const std::shared_ptr<void> lent(memory.get(),
                                     [staging = shared_from_this(), memory, bytes](void*) {
                                       const std::lock_guard lock(staging->mutex_);
                                       staging->free_[bytes].push_back(memory);
                                     });
    const Tensor there = Tensor::wrap(memory.get(), t.shape(), t.dtype(), lent, device_);
    there.copy_from(t);
    return there;
  }

 private:
  const Device device_;
  std::mutex mutex_;
  std::map<std::size_t, std::vector<std::shared_ptr<void>>> free_;  // by size
};

// An operation on its way, and what must live until it has arrived.
struct Flight {
  std::string what;
  Event done;
  std::vector<Tensor> tensors;
  Clock::time_point deadline;
};

// Who of the other ranks is gone, by whatever connects this one with them besides NCCL.
class Others {
 public:
  Others(std::shared_ptr<Lifeline> line, std::shared_ptr<Communicator> host)
      : line_(std::move(line)), host_(std::move(host)) {}

  // At once: "rank 1 has died"; empty: nobody is known to be.
  std::string lost() const { return line_ ? line_->lost() : ""; }
  // By asking them.
  std::string missing() const {
    if (line_) return line_->missing(std::chrono::seconds(2));
    return host_ ? host_->missing() : "";
  }

 private:
  std::shared_ptr<Lifeline> line_;
  std::shared_ptr<Communicator> host_;
};

// Watches what is on its way: where an operation fails, takes too long or waits for a rank that has
// died it aborts NCCL, which lets the GPU's streams go on, so that whoever waits for them comes
// back and finds the failure.
class Watch {
 public:
  Watch(Device device, ncclComm_t group, Others others, std::chrono::milliseconds timeout)
      : device_(device),
        group_(group),
        others_(std::move(others)),
        timeout_(timeout),
        thread_([this] { run(); }) {}

  ~Watch() { stop(); }

  // From then on nothing more fails.
  void stop() {
    if (!thread_.joinable()) return;
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  void add(const std::shared_ptr<Flight>& flight) {
    std::vector<std::shared_ptr<Flight>> landed;  // and what they held, given up by this thread
    {
      const std::lock_guard lock(mutex_);
      flight->deadline = Clock::now() + timeout_;
      flights_.push_back(flight);
      landed.swap(landed_);
    }
    changed_.notify_all();
  }

  // Calls NCCL with a group that has not been aborted, nor is meanwhile.
  template <class Call>
  ncclResult_t on_whole_group(Call call) {
    const std::lock_guard lock(calls_);
    require_whole();
    return call();
  }

  bool failed() const { return failed_; }
  void require_whole() const {
    if (!failed_) return;
    const std::lock_guard lock(mutex_);
    fail("{}", failure_);
  }

 private:
  void run() {
    cudaSetDevice(device_.index);
    // Its questions are no part of a graph that another thread may be recording.
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    cudaThreadExchangeStreamCaptureMode(&mode);
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [&] { return stopping_ || (!flights_.empty() && !failed_); });
      if (stopping_) return;
      changed_.wait_for(lock, std::chrono::milliseconds(20), [&] { return stopping_; });
      std::string failure;
      std::erase_if(flights_, [&](const auto& flight) {
        const cudaError_t status = flight->done.query();
        if (status == cudaErrorNotReady && Clock::now() < flight->deadline) return false;
        if (status != cudaSuccess && failure.empty()) failure = describe(*flight, status);
        // The watch frees no memory of the GPU: it would wait for what it is there to end.
        landed_.push_back(flight);
        return true;
      });
      if (failure.empty() && !flights_.empty()) failure = broken_while(*flights_.front());
      if (failure.empty()) continue;
      failure_ = failure;
      failed_ = true;
      lock.unlock();
      {
        // A call that does not come back waits for what the abort ends.
        std::unique_lock calls(calls_, std::defer_lock);
        static_cast<void>(calls.try_lock_for(std::chrono::seconds(1)));
        ncclCommAbort(group_);
      }
      lock.lock();
    }
  }

  std::string describe(const Flight& flight, cudaError_t status) const {
    if (status != cudaErrorNotReady) {
      return fmt::format("{}: {}", flight.what, cudaGetErrorString(status));
    }
    const std::string missing = others_.missing();
    return fmt::format("{}: no end within {} s: {}", flight.what,
                       std::chrono::duration<double>(timeout_).count(),
                       missing.empty() ? "another rank has not come to it" : missing);
  }

  // Why an operation that is still on its way will not arrive; empty: it may.
  std::string broken_while(const Flight& flight) const {
    const std::string lost = others_.lost();
    if (!lost.empty()) return fmt::format("{}: {}", flight.what, lost);
    ncclResult_t state = ncclSuccess;
    ncclCommGetAsyncError(group_, &state);
    if (state == ncclSuccess || state == ncclInProgress) return "";
    const std::string missing = others_.missing();
    return fmt::format("{}: NCCL: {}{}{}", flight.what, ncclGetErrorString(state),
                       missing.empty() ? "" : ": ", missing);
  }

  const Device device_;
  const ncclComm_t group_;
  const Others others_;
  const std::chrono::milliseconds timeout_;
  std::timed_mutex calls_;  // held in calls of NCCL, and by the abort of its group
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::list<std::shared_ptr<Flight>> flights_;
  std::vector<std::shared_ptr<Flight>> landed_;
  std::string failure_;
  std::atomic<bool> failed_ = false;
  bool stopping_ = false;
  std::thread thread_;
};

class GpuOperation : public Operation {
 public:
  GpuOperation(std::shared_ptr<Flight> flight, const Watch& watch, cudaStream_t compute)
      : flight_(std::move(flight)), watch_(watch), compute_(compute) {}
  void wait() override {
    watch_.require_whole();
    flight_->done.hold(compute_);
  }

 private:
  std::shared_ptr<Flight> flight_;
  const Watch& watch_;
  cudaStream_t compute_;
};

// An operation on copies, on the GPU, of tensors on the CPU.
class StagedOperation : public Operation {
 public:
  StagedOperation(Pending there, Tensor copy, Tensor result, const Watch& watch)
      : there_(std::move(there)),
        copy_(std::move(copy)),
        result_(std::move(result)),
        watch_(watch) {}
  void wait() override {
    if (!there_) return;
    std::exchange(there_, nullptr)->wait();
    if (result_.defined()) result_.copy_from(copy_.to({}));
    watch_.require_whole();
  }

 private:
  Pending there_;
  Tensor copy_, result_;
  const Watch& watch_;
};

class NcclCommunicator : public Communicator {
 public:
  // `host` and `line` where there is MPI and where there is none.
  NcclCommunicator(Device device, ncclComm_t group, std::shared_ptr<Stream> stream,
                   std::shared_ptr<Communicator> host, std::shared_ptr<Lifeline> line, int rank,
                   int size, std::chrono::milliseconds timeout)
      : device_(device),
        group_(group),
        stream_of_all_(std::move(stream)),
        stream_(stream_of_all_->get()),
        host_(std::move(host)),
        line_(std::move(line)),
        staging_(std::make_shared<Staging>(device)),
        rank_(rank),
        size_(size),
        timeout_(timeout),
        compute_(cuda::stream(device)),
        watch_(std::make_unique<Watch>(device, group, Others(line_, host_), timeout)) {}

  ~NcclCommunicator() override {
    cudaSetDevice(device_.index);
    if (!watch_->failed()) cudaStreamSynchronize(stream_);
    watch_->stop();
    if (!watch_->failed()) ncclCommDestroy(group_);  // which an abort has done
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  Pending start_all_reduce(const Tensor& values, const std::string& what) override {
    check_same("all-reduce", what, values);
    if (values.device().is_cpu()) {
      if (host_) return host_->start_all_reduce(values, what);
      const Tensor copy = staging_->copy_of(values);
      return staged(start_all_reduce(copy, what), copy, values);
    }
    const std::string name = "all-reduce of " + what;
    const ncclDataType_t type = type_of(values, name);
    return started(name, {values}, [&] {
      return ncclAllReduce(values.raw(), values.raw(), elements(values), type, ncclSum, group_,
                           stream_);
    });
  }

  Pending start_reduce_scatter(const Tensor& from, const Tensor& into,
                               const std::string& what) override {
    check_parts("reduce-scatter", what, from, into);
    if (from.device().is_cpu()) {
      if (host_) return host_->start_reduce_scatter(from, into, what);
      const Tensor copy = staging_->copy_of(into);
      return staged(start_reduce_scatter(staging_->copy_of(from), copy, what), copy, into);
    }
    const std::string name = "reduce-scatter of " + what;
    const ncclDataType_t type = type_of(from, name);
    return started(name, {from, into}, [&] {
      return ncclReduceScatter(from.raw(), into.raw(), elements(into), type, ncclSum, group_,
                               stream_);
    });
  }

  Pending start_all_gather(const Tensor& from, const Tensor& into,
                           const std::string& what) override {
    check_parts("all-gather", what, into, from);
    if (from.device().is_cpu()) {
      if (host_) return host_->start_all_gather(from, into, what);
      const Tensor copy = staging_->copy_of(into);
      return staged(start_all_gather(staging_->copy_of(from), copy, what), copy, into);
    }
    return started("all-gather of " + what, {from, into}, [&] {
      return ncclAllGather(from.raw(), into.raw(), from.bytes(), ncclUint8, group_, stream_);
    });
  }

  Pending start_broadcast(const Tensor& values, int root, const std::string& what) override {
    check_same("broadcast", what, values);
    if (values.device().is_cpu()) {
      if (host_) return host_->start_broadcast(values, root, what);
      const Tensor copy = staging_->copy_of(values);
      return staged(start_broadcast(copy, root, what), copy, values);
    }
    return started("broadcast of " + what, {values}, [&] {
      return ncclBroadcast(values.raw(), values.raw(), values.bytes(), ncclUint8, root, group_,
                           stream_);
    });
  }

  Pending start_exchange(const Tensor& out, int to, const Tensor& in, int from,
                         const std::string& what) override {
    for (const Tensor* t : {&out, &in}) {
      if (t->defined()) check_same("exchange", what, *t);
    }
    const bool on_cpu = (out.defined() ? out : in).device().is_cpu();
    if (on_cpu && host_) return host_->start_exchange(out, to, in, from, what);
    if (on_cpu && (out.defined() || in.defined())) {
      const Tensor sent = out.defined() ? staging_->copy_of(out) : out;
      const Tensor copy = in.defined() ? staging_->copy_of(in) : in;
      return staged(start_exchange(sent, to, copy, from, what), copy, in);
    }
    return started("exchange of " + what, {out, in}, [&] {
      ncclResult_t status = ncclGroupStart();
      if (out.defined() && status == ncclSuccess) {
        status = ncclSend(out.raw(), out.bytes(), ncclUint8, to, group_, stream_);
      }
      if (in.defined() && status == ncclSuccess) {
        status = ncclRecv(in.raw(), in.bytes(), ncclUint8, from, group_, stream_);
      }
      const ncclResult_t end = ncclGroupEnd();
      return status == ncclSuccess ? end : status;
    });
  }

  std::unique_ptr<Communicator> split(int number) override {
    cuda::check(cudaSetDevice(device_.index), "choosing the GPU");
    ncclComm_t part = nullptr;
    const auto split = [&] { return ncclCommSplit(group_, number, rank_, &part, nullptr); };
    check_nccl(watch_->on_whole_group(split), "splitting ranks into groups");
    int rank = 0, size = 0;
    check_nccl(ncclCommUserRank(part, &rank), "rank in a group");
    check_nccl(ncclCommCount(part, &size), "size of a group");
    std::shared_ptr<Communicator> host;
    if (host_) host = host_->split(number);
    return std::make_unique<NcclCommunicator>(device_, part, stream_of_all_, host, line_, rank,
                                              size, timeout_);
  }

  std::string missing() override { return Others(line_, host_).missing(); }

  [[noreturn]] void abort() override {
    if (host_) host_->abort();
    std::_Exit(1);  // which the others' lines to this rank show them
  }

 private:
  static std::size_t elements(const Tensor& t) { return static_cast<std::size_t>(t.count()); }

  // Enqueues a call of NCCL behind all that the device's stream holds now.
  template <class Call>
  Pending started(const std::string& name, std::vector<Tensor> tensors, Call call) {
    cuda::check(cudaSetDevice(device_.index), "choosing the GPU");
    const auto flight = std::make_shared<Flight>();
    flight->what = name;
    flight->tensors = std::move(tensors);
    const Event before;
    before.record(compute_);
    before.hold(stream_);
    check_nccl(watch_->on_whole_group(call), name);
    flight->done.record(stream_);
    watch_->add(flight);
    return std::make_unique<GpuOperation>(flight, *watch_, compute_);
  }

  Pending staged(Pending there, const Tensor& copy, const Tensor& result) const {
    return std::make_unique<StagedOperation>(std::move(there), copy, result, *watch_);
  }

  const Device device_;
  const ncclComm_t group_;
  const std::shared_ptr<Stream> stream_of_all_;
  const cudaStream_t stream_;
  std::shared_ptr<Communicator> host_;
  std::shared_ptr<Lifeline> line_;
  const std::shared_ptr<Staging> staging_;
  const int rank_, size_;
  const std::chrono::milliseconds timeout_;
  const cudaStream_t compute_;
  std::unique_ptr<Watch> watch_;
};

std::unique_ptr<Communicator> joined(Device device, const ncclUniqueId& id,
                                     std::shared_ptr<Communicator> host,
                                     std::shared_ptr<Lifeline> line, int rank, int size,
                                     std::chrono::milliseconds timeout) {
  cuda::check(cudaSetDevice(device.index), "choosing the GPU");
  ncclComm_t group = nullptr;
  check_nccl(ncclCommInitRank(&group, size, id, rank),
             fmt::format("joining {} ranks on {}", size, device.text()));
  return std::make_unique<NcclCommunicator>(device, group, std::make_shared<Stream>(),
                                            std::move(host), std::move(line), rank, size, timeout);
}

ncclUniqueId fresh_id(int rank) {
  ncclUniqueId id = {};
  if (rank == 0) check_nccl(ncclGetUniqueId(&id), "making an identifier");
  return id;
}

}  // namespace

std::unique_ptr<Communicator> nccl_group(Device device, std::shared_ptr<Communicator> host,
                                         std::chrono::milliseconds timeout) {
  ncclUniqueId id = fresh_id(host->rank());
  host->broadcast(Tensor::wrap(reinterpret_cast<std::uint8_t*>(id.internal), {sizeof(id)}), 0,
                  "NCCL's identifier");
  const int rank = host->rank(), size = host->size();
  return joined(device, id, std::move(host), nullptr, rank, size, timeout);
}

std::unique_ptr<Communicator> nccl_group(Device device, const Launch& launch,
                                         std::chrono::milliseconds timeout) {
  ncclUniqueId id = fresh_id(launch.rank);
  auto line = share_from_rank_0(launch.master, launch.rank, launch.size,
                                std::as_writable_bytes(std::span(id.internal)), timeout);
  return joined(device, id, nullptr, std::move(line), launch.rank, launch.size, timeout);
}

}  // namespace metala
