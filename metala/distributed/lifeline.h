// Lifeline: which ranks are alive, for those that were started without MPI.
//
// Between rank 0 and every other rank a connection stays open for as long as both live; the kernel
// closes that of a process that dies, however it dies. Rank 0 tells the others who is gone. Whether
// a rank that is there still runs is found out by asking: one that was stopped does not answer.
// Nothing of what ranks compute travels here.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace metala {

class Lifeline {
 public:
  // Takes connected sockets: on rank 0 one to each other rank, in their order; elsewhere the one to
  // rank 0.
  Lifeline(int rank, int size, std::vector<int> sockets);
  ~Lifeline();  // says goodbye: who ends in order is not lost
  Lifeline(const Lifeline&) = delete;
  Lifeline& operator=(const Lifeline&) = delete;

  // "rank 3 has died", as soon as that is known; empty: nobody has.
  std::string lost() const;

  // Asks all: who is lost, else who does not answer within the time; empty: all ranks live.
  std::string missing(std::chrono::milliseconds patience);

 private:
  using Clock = std::chrono::steady_clock;
  struct Message {
    std::int32_t kind, rank;
  };
  struct Line {
    int socket = -1;  // -1: closed
    bool goodbye = false, answered = false;
  };

  void run();
  void receive(int rank);
  void begin_roll(std::chrono::milliseconds patience);
  void end_roll();
  void send(Line&, Message) const;
  void tell_all(Message);
  void wake() const;
  bool all_answered() const;
  Line& line(int rank) { return lines_[static_cast<std::size_t>(rank_ == 0 ? rank - 1 : 0)]; }

  const int rank_, size_;
  int wake_ = -1;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Line> lines_;
  std::vector<int> lost_, silent_;
  std::int64_t rolls_ = 0;  // that have ended
  bool rolling_ = false, stopping_ = false;
  Clock::time_point roll_ends_;
  std::thread thread_;
};

}  // namespace metala
