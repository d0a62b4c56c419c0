// BackgroundTask: one job at a time on a thread of its own.
#pragma once

#include <atomic>
#include <exception>
#include <functional>
#include <thread>
#include <utility>

namespace metala {

class BackgroundTask {
 public:
  BackgroundTask() = default;
  BackgroundTask(const BackgroundTask&) = delete;
  BackgroundTask& operator=(const BackgroundTask&) = delete;
  ~BackgroundTask() {
    if (thread_.joinable()) thread_.join();
  }

  // Waits for the job before, then starts this one. Throws what the job before threw.
  void start(std::function<void()> job) {
    wait();
    ended_ = false;
    thread_ = std::thread([this, job = std::move(job)] {
      try {
        job();
      } catch (...) {
        failure_ = std::current_exception();
      }
      ended_ = true;
    });
  }

  // Whether there is nothing to wait for.
  bool ended() const { return ended_; }

  // Throws what the job threw.
  void wait() {
    if (thread_.joinable()) thread_.join();
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  }

 private:
  std::atomic<bool> ended_ = true;
  std::exception_ptr failure_;
  std::thread thread_;
};

}  // namespace metala
