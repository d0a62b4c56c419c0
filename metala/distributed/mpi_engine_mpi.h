// The one thread of this process that calls MPI.
//
// Operations are handed to it and go on while the caller computes: MPI moves data only inside its
// own calls, so somebody must keep calling it. Between calls the thread sleeps for longer and
// longer, up to 200 microseconds, since a rank that waits for another must not take its core. It
// also answers when another rank asks whether this one is alive.
#pragma once

#include <mpi.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace metala::mpi {

class Engine {
 public:
  using Start = std::function<int(std::vector<MPI_Request>&)>;  // an MPI error code

  struct Job {
    std::string what;
    Start start;
    std::vector<MPI_Request> requests;
    std::chrono::steady_clock::time_point deadline;
    bool done = false;
    std::string failure;
  };

  explicit Engine(std::chrono::milliseconds timeout);
  ~Engine();  // waits for nobody: unfinished operations are given up
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }

  // Operations start in the order of these calls.
  std::shared_ptr<Job> submit(std::string what, Start);
  // Throws Error when the operation failed or another rank did not take part in time.
  void wait(Job&);
  // Runs f on the thread of MPI.
  void call(const std::string& what, const std::function<int()>& f);
  // Calls the roll: who does not answer, or is behind; empty: nobody.
  std::string missing();
  [[noreturn]] void abort();

 private:
  using Clock = std::chrono::steady_clock;
  void run();
  void begin(const std::shared_ptr<Job>&);
  bool advance(const std::shared_ptr<Job>&);  // whether it has ended
  void finish(const std::shared_ptr<Job>&, std::string failure);
  void answer_roll_calls();
  std::string roll_call();
  std::string failure_after_timeout();

  const std::chrono::milliseconds timeout_;
  int rank_ = 0, size_ = 1;
  MPI_Comm roll_ = MPI_COMM_NULL;  // questions and answers of roll calls
  std::int64_t started_ = 0;       // operations taken part in, in their common order
  // What roll calls send: sending may go on after the call that began it.
  std::int64_t asked_ = 0, answered_ = 0;

  std::mutex mutex_;
  std::condition_variable submitted_, finished_;
  std::deque<std::shared_ptr<Job>> queue_;
  bool ready_ = false, stopping_ = false, broken_ = false;
  std::string startup_failure_;
  std::thread thread_;
};

}  // namespace metala::mpi
