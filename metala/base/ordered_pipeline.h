// ordered_pipeline: one reader, many workers, one writer, without a thread of its own for each.
//
// Equal workers take the pieces of a job one after the other, work on them side by side, and hand
// the results over in the order of the pieces. Whoever finishes the piece that is due also hands
// over the finished ones behind it, so nobody waits for a turn; pieces are taken at most a few a
// worker ahead of the one that is due, which bounds memory.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <map>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace metala {

//   take:  bool(Piece&)         false at the end; one call at a time
//   work:  Result(Piece&&)      side by side
//   put:   void(Result&&)       in order, one call at a time
// An exception ends the job and is thrown again here. One from `work` is thrown when its piece is
// due: everything before it has been put, so the same input always fails at the same place.
template <class Piece, class Result, class Take, class Work, class Put>
void ordered_pipeline(int workers, Take&& take, Work&& work, Put&& put) {
  struct Finished {
    std::optional<Result> result;
    std::exception_ptr failure;
  };
  constexpr std::int64_t ahead = 4;  // pieces a worker
  const std::int64_t window = ahead * workers;
  std::mutex reading, state;
  std::condition_variable moved;
  std::map<std::int64_t, Finished> finished;
  std::int64_t taken = 0;
  std::int64_t due = 0;
  bool ended = false;
  bool putting = false;
  std::exception_ptr failure;

  const auto stop = [&](std::exception_ptr why) {
    const std::lock_guard lock(state);
    if (!failure) failure = std::move(why);
    ended = true;
    moved.notify_all();
  };
  const auto take_one = [&](Piece& piece) -> std::int64_t {
    const std::lock_guard read(reading);
    {
      std::unique_lock lock(state);
      moved.wait(lock, [&] { return ended || taken < due + window; });
      if (ended) return -1;
    }
    if (take(piece)) return taken++;
    const std::lock_guard lock(state);
    ended = true;
    moved.notify_all();
    return -1;
  };
  const auto hand_over = [&](std::int64_t number, Finished done) {
    std::unique_lock lock(state);
    finished.emplace(number, std::move(done));
    if (putting) return;
    putting = true;
    for (auto next = finished.find(due); next != finished.end() && !failure;
         next = finished.find(due)) {
      Finished piece = std::move(next->second);
      finished.erase(next);
      lock.unlock();
      if (piece.failure) std::rethrow_exception(piece.failure);
      put(std::move(*piece.result));
      lock.lock();
      ++due;
      moved.notify_all();
    }
    putting = false;
  };
  const auto worker = [&] {
    try {
      for (Piece piece;;) {
        const std::int64_t number = take_one(piece);
        if (number < 0) return;
        Finished done;
        try {
          done.result = work(std::move(piece));
        } catch (...) {
          done.failure = std::current_exception();
        }
        hand_over(number, std::move(done));
      }
    } catch (...) {
      stop(std::current_exception());
    }
  };
  std::vector<std::thread> others;
  try {
    for (int i = 1; i < workers; ++i) others.emplace_back(worker);
  } catch (const std::system_error&) {  // the system has no more: those that there are suffice
  }
  worker();
  for (auto& other : others) other.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace metala
