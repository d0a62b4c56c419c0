#include "metala/distributed/mpi_engine_mpi.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>

#include "metala/base/error.h"

namespace metala::mpi {
namespace {

using namespace std::chrono_literals;

constexpr int question = 1, answer = 2;  // tags of roll calls
constexpr auto idle = 100ms;             // between looks for roll calls when there is nothing to do
constexpr auto spin = 50us;              // before the thread begins to sleep between calls
constexpr auto longest_sleep = 200us;
constexpr auto grace = 2s;  // for answers to a roll call

std::string error_text(int code) {
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(code, text, &length);
  return {text, static_cast<std::size_t>(length)};
}

}  // namespace

Engine::Engine(std::chrono::milliseconds timeout) : timeout_(timeout) {
  thread_ = std::thread([this] { run(); });
  std::unique_lock lock(mutex_);
  finished_.wait(lock, [&] { return ready_; });
  if (startup_failure_.empty()) return;
  lock.unlock();
  thread_.join();
  fail("MPI: {}", startup_failure_);
}

Engine::~Engine() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  submitted_.notify_all();
  thread_.join();
}

std::shared_ptr<Engine::Job> Engine::submit(std::string what, Start start) {
  auto job = std::make_shared<Job>();
  job->what = std::move(what);
  job->start = std::move(start);
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back(job);
  }
  submitted_.notify_one();
  return job;
}

void Engine::wait(Job& job) {
  std::unique_lock lock(mutex_);
  finished_.wait(lock, [&] { return job.done; });
  require(job.failure.empty(), "{}: {}", job.what, job.failure);
}

void Engine::call(const std::string& what, const std::function<int()>& f) {
  wait(*submit(what, [&f](std::vector<MPI_Request>&) { return f(); }));
}

std::string Engine::missing() {
  std::string found;
  // Not an operation that others take part in: it does not count.
  call("roll call", [&] {
    --started_;
    found = roll_call();
    return MPI_SUCCESS;
  });
  return found;
}

void Engine::abort() {
  // Its own thread may be inside MPI and never come back, so nobody waits for it for long.
  submit("abort", [](std::vector<MPI_Request>&) { return MPI_Abort(MPI_COMM_WORLD, 1); });
  std::this_thread::sleep_for(5s);
  std::_Exit(1);
}

void Engine::run() {
  int level = 0;
  const int code = MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &level);
  {
    const std::lock_guard lock(mutex_);
    ready_ = true;
    if (code != MPI_SUCCESS) startup_failure_ = error_text(code);
    if (startup_failure_.empty() && level < MPI_THREAD_FUNNELED) {
      startup_failure_ = "this MPI cannot be used by a program with threads";
    }
    if (startup_failure_.empty()) {
      MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
      MPI_Comm_size(MPI_COMM_WORLD, &size_);
      MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
      MPI_Comm_dup(MPI_COMM_WORLD, &roll_);
    }
  }
  finished_.notify_all();
  if (!startup_failure_.empty()) return;

  std::vector<std::shared_ptr<Job>> active;
  auto busy = Clock::now();  // when something last moved
  auto looked = busy;
  for (;;) {
    std::deque<std::shared_ptr<Job>> fresh;
    {
      std::unique_lock lock(mutex_);
      if (active.empty() && queue_.empty() && !stopping_) submitted_.wait_for(lock, idle);
      if (stopping_) break;
      fresh.swap(queue_);
    }
    for (auto& job : fresh) {
      begin(job);
      if (!job->done) active.push_back(job);
    }
    const auto before = active.size();
    std::erase_if(active, [&](const auto& job) { return advance(job); });
    const auto now = Clock::now();
    if (now - looked > idle / 2 || active.empty()) {
      answer_roll_calls();
      looked = now;
    }
    if (!fresh.empty() || active.size() != before) busy = now;
    if (active.empty()) continue;
    const auto waited = now - busy;
    if (waited < spin) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(std::min<Clock::duration>(waited / 4, longest_sleep));
    }
  }
  // A rank that ends in order has nothing left to do, and so have the others; one that does not
  // must not wait for them.
  if (active.empty() && !broken_) {
    MPI_Comm_free(&roll_);
    MPI_Finalize();
  }
}

void Engine::begin(const std::shared_ptr<Job>& job) {
  ++started_;
  job->deadline = Clock::now() + timeout_;
  const int code = job->start(job->requests);
  if (code != MPI_SUCCESS) return finish(job, error_text(code));
  if (job->requests.empty()) finish(job, "");
}

bool Engine::advance(const std::shared_ptr<Job>& job) {
  int done = 0;
  const int code = MPI_Testall(static_cast<int>(job->requests.size()), job->requests.data(), &done,
                               MPI_STATUSES_IGNORE);
  if (code != MPI_SUCCESS) {
    finish(job, error_text(code));
  } else if (done != 0) {
    finish(job, "");
  } else if (Clock::now() > job->deadline) {
    finish(job, failure_after_timeout());
  } else {
    return false;
  }
  return true;
}

void Engine::finish(const std::shared_ptr<Job>& job, std::string failure) {
  {
    const std::lock_guard lock(mutex_);
    broken_ = broken_ || !failure.empty();
    job->failure = std::move(failure);
    job->done = true;
    job->start = nullptr;  // and with it the tensors that it holds
  }
  finished_.notify_all();
}

void Engine::answer_roll_calls() {
  for (;;) {
    int waiting = 0;
    MPI_Status status;
    MPI_Iprobe(MPI_ANY_SOURCE, question, roll_, &waiting, &status);
    if (waiting == 0) return;
    std::int64_t theirs = 0;
    MPI_Recv(&theirs, 1, MPI_INT64_T, status.MPI_SOURCE, question, roll_, MPI_STATUS_IGNORE);
    MPI_Request request = MPI_REQUEST_NULL;
    answered_ = started_;  // a newer count is as good as the one an earlier answer meant
    MPI_Isend(&answered_, 1, MPI_INT64_T, status.MPI_SOURCE, answer, roll_, &request);
    MPI_Request_free(&request);
  }
}

std::string Engine::failure_after_timeout() {
  const std::string missing = roll_call();
  return fmt::format("no end within {} s{}", std::chrono::duration<double>(timeout_).count(),
                     missing.empty() ? ", though all ranks take part; is the network down, or "
                                       "--communication-timeout too short?"
                                     : ": " + missing);
}

// Asks every rank how many operations it has taken part in, and says who is behind or silent.
std::string Engine::roll_call() {
  asked_ = started_;
  std::vector<std::int64_t> counts(static_cast<std::size_t>(size_), -1);
  std::vector<MPI_Request> answers(static_cast<std::size_t>(size_), MPI_REQUEST_NULL);
  for (int rank = 0; rank < size_; ++rank) {
    if (rank == rank_) continue;
    const auto i = static_cast<std::size_t>(rank);
    MPI_Request request = MPI_REQUEST_NULL;
    MPI_Irecv(&counts[i], 1, MPI_INT64_T, rank, answer, roll_, &answers[i]);
    MPI_Isend(&asked_, 1, MPI_INT64_T, rank, question, roll_, &request);
    MPI_Request_free(&request);
  }
  // One by one: testing all of them at once tells of none that has come until all have.
  const auto all_came = [&] {
    int waiting = 0;
    for (auto& each : answers) {
      int came = 0;
      MPI_Test(&each, &came, MPI_STATUS_IGNORE);
      if (came == 0) ++waiting;
    }
    return waiting == 0;
  };
  for (const auto until = Clock::now() + grace; !all_came() && Clock::now() < until;) {
    answer_roll_calls();
    std::this_thread::sleep_for(1ms);
  }
  std::vector<int> silent, behind;
  for (int rank = 0; rank < size_; ++rank) {
    if (rank == rank_) continue;
    const auto i = static_cast<std::size_t>(rank);
    if (answers[i] != MPI_REQUEST_NULL) {
      silent.push_back(rank);
      MPI_Cancel(&answers[i]);
      MPI_Wait(&answers[i], MPI_STATUS_IGNORE);
    } else if (counts[i] < asked_) {
      behind.push_back(rank);
    }
  }
  if (!silent.empty()) {
    return fmt::format("rank {} does not answer; it has died or been stopped",
                       fmt::join(silent, ", "));
  }
  if (!behind.empty()) {
    return fmt::format("rank {} lives but has not come to it", fmt::join(behind, ", "));
  }
  return "";
}

}  // namespace metala::mpi
