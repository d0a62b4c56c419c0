#include "metala/distributed/lifeline.h"

#include <fmt/ranges.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>

#include "metala/base/error.h"

namespace metala {
namespace {

using namespace std::chrono_literals;

enum Kind : std::int32_t {
  are_you_there = 1,
  here = 2,
  goodbye = 3,
  has_died = 4,         // rank 0 says so of `rank`
  does_not_answer = 5,  // likewise
  call_the_roll = 6,    // asked of rank 0; `rank` is its patience in milliseconds
  roll_is_over = 7,
};

void add(std::vector<int>& ranks, int rank) {
  if (std::find(ranks.begin(), ranks.end(), rank) == ranks.end()) ranks.push_back(rank);
}

}  // namespace

Lifeline::Lifeline(int rank, int size, std::vector<int> sockets) : rank_(rank), size_(size) {
  for (const int socket : sockets) lines_.push_back({socket});
  wake_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  require(wake_ >= 0, "ranks: no file descriptor is left to watch the other ranks with");
  thread_ = std::thread([this] { run(); });
}

Lifeline::~Lifeline() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    tell_all({goodbye, rank_});
  }
  wake();
  thread_.join();
  for (const auto& line : lines_) {
    if (line.socket >= 0) close(line.socket);
  }
  close(wake_);
}

std::string Lifeline::lost() const {
  const std::lock_guard lock(mutex_);
  if (lost_.empty()) return "";
  return fmt::format("rank {} has died", fmt::join(lost_, ", "));
}

std::string Lifeline::missing(std::chrono::milliseconds patience) {
  std::unique_lock lock(mutex_);
  const std::int64_t before = rolls_;
  silent_.clear();
  if (rank_ == 0) {
    if (!rolling_) begin_roll(patience);
  } else {
    send(lines_[0], {call_the_roll, static_cast<std::int32_t>(patience.count())});
  }
  wake();
  const bool ended =
      changed_.wait_for(lock, patience + 1s, [&] { return rolls_ > before || !lost_.empty(); });
  if (!lost_.empty()) return fmt::format("rank {} has died", fmt::join(lost_, ", "));
  if (!ended) add(silent_, 0);
  if (silent_.empty()) return "";
  return fmt::format("rank {} does not answer; it hangs or was stopped", fmt::join(silent_, ", "));
}

void Lifeline::run() {
  for (;;) {
    std::vector<pollfd> watched = {{wake_, POLLIN, 0}};
    std::vector<int> ranks = {-1};
    int wait = -1;
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) return;
      if (rolling_ && (all_answered() || Clock::now() >= roll_ends_)) end_roll();
      for (std::size_t i = 0; i < lines_.size(); ++i) {
        if (lines_[i].socket < 0) continue;
        watched.push_back({lines_[i].socket, POLLIN, 0});
        ranks.push_back(rank_ == 0 ? static_cast<int>(i) + 1 : 0);
      }
      if (rolling_) wait = 10;
    }
    poll(watched.data(), watched.size(), wait);
    const std::lock_guard lock(mutex_);
    std::uint64_t woken = 0;
    if (watched[0].revents != 0 && read(wake_, &woken, sizeof(woken)) < 0) continue;
    for (std::size_t i = 1; i < watched.size(); ++i) {
      if (watched[i].revents != 0) receive(ranks[i]);
    }
  }
}

void Lifeline::receive(int rank) {
  Line& from = line(rank);
  Message message = {};
  if (recv(from.socket, &message, sizeof(message), MSG_WAITALL) != sizeof(message)) {
    close(from.socket);
    from.socket = -1;
    if (from.goodbye) return;
    add(lost_, rank);
    if (rank_ == 0) tell_all({has_died, rank});
    changed_.notify_all();
    return;
  }
  switch (message.kind) {
    case are_you_there:
      send(from, {here, rank_});
      break;
    case here:
      from.answered = true;
      break;
    case goodbye:
      from.goodbye = true;
      break;
    case has_died:
      add(lost_, message.rank);
      changed_.notify_all();
      break;
    case does_not_answer:
      if (message.rank != rank_) add(silent_, message.rank);
      break;
    case call_the_roll:
      if (rank_ == 0 && !rolling_) begin_roll(std::chrono::milliseconds(message.rank));
      break;
    case roll_is_over:
      ++rolls_;
      changed_.notify_all();
      break;
    default:
      break;
  }
}

void Lifeline::begin_roll(std::chrono::milliseconds patience) {
  rolling_ = true;
  roll_ends_ = Clock::now() + patience;
  silent_.clear();
  for (auto& line : lines_) line.answered = false;
  tell_all({are_you_there, 0});
}

bool Lifeline::all_answered() const {
  return std::all_of(lines_.begin(), lines_.end(), [](const Line& line) {
    return line.socket < 0 || line.answered || line.goodbye;
  });
}

void Lifeline::end_roll() {
  rolling_ = false;
  for (std::size_t i = 0; i < lines_.size(); ++i) {
    const Line& line = lines_[i];
    if (line.socket >= 0 && !line.answered && !line.goodbye) add(silent_, static_cast<int>(i) + 1);
  }
  for (const int rank : silent_) tell_all({does_not_answer, rank});
  tell_all({roll_is_over, 0});
  ++rolls_;
  changed_.notify_all();
}

// A few bytes always fit; where they do not, the other side has long stopped reading.
void Lifeline::send(Line& to, Message message) const {
  if (to.socket < 0) return;
  const auto sent = ::send(to.socket, &message, sizeof(message), MSG_NOSIGNAL | MSG_DONTWAIT);
  static_cast<void>(sent);
}

void Lifeline::tell_all(Message message) {
  for (auto& line : lines_) send(line, message);
}

void Lifeline::wake() const {
  const std::uint64_t one = 1;
  const auto written = write(wake_, &one, sizeof(one));
  static_cast<void>(written);
}

}  // namespace metala
