#include "metala/distributed/rendezvous.h"

#include <fcntl.h>
#include <fmt/ranges.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "metala/base/error.h"

namespace metala {
namespace {

using Clock = std::chrono::steady_clock;

// Who knocks says this and its rank; anything else on the port is not one of ours.
struct Greeting {
  char magic[8] = {'m', 'e', 't', 'a', 'l', 'a', '0', '1'};
  std::int32_t rank = 0;
  std::int32_t size = 0;
};

class Socket {
 public:
  explicit Socket(int fd) : fd_(fd) {}
  ~Socket() {
    if (fd_ >= 0) close(fd_);
  }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

  // Until it can be read or written, or time runs out.
  bool ready(short events, Clock::time_point until) const {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now());
    pollfd wanted = {fd_, events, 0};
    return left.count() > 0 && poll(&wanted, 1, static_cast<int>(left.count())) == 1;
  }
  bool send_all(std::span<const std::byte> bytes, Clock::time_point until) const {
    while (!bytes.empty()) {
      if (!ready(POLLOUT, until)) return false;
      const auto sent = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      bytes = bytes.subspan(static_cast<std::size_t>(sent));
    }
    return true;
  }
  bool receive_all(std::span<std::byte> bytes, Clock::time_point until) const {
    while (!bytes.empty()) {
      if (!ready(POLLIN, until)) return false;
      const auto received = recv(fd_, bytes.data(), bytes.size(), 0);
      if (received <= 0) return false;
      bytes = bytes.subspan(static_cast<std::size_t>(received));
    }
    return true;
  }

 private:
  int fd_;
};

struct AddressDeleter {
  void operator()(addrinfo* list) const { freeaddrinfo(list); }
};
using Addresses = std::unique_ptr<addrinfo, AddressDeleter>;

Addresses addresses_of(const std::string& master, bool to_listen) {
  const auto colon = master.rfind(':');
  require(colon != std::string::npos && colon > 0 && colon + 1 < master.size(),
          "master \"{}\": wanted HOST:PORT; set MASTER_ADDR and MASTER_PORT, or --master", master);
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = to_listen ? AI_PASSIVE : 0;
  addrinfo* found = nullptr;
  const std::string host = master.substr(0, colon), port = master.substr(colon + 1);
  // Rank 0 listens on all its addresses: the name may mean only one of them, as others see it.
  const int status = getaddrinfo(to_listen ? nullptr : host.c_str(), port.c_str(), &hints, &found);
  require(status == 0, "master {}: {}", master, gai_strerror(status));
  return Addresses(found);
}

int listening_socket(const std::string& master) {
  const Addresses addresses = addresses_of(master, true);
  int reason = 0;
  for (const addrinfo* a = addresses.get(); a != nullptr; a = a->ai_next) {
    const int fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
    const int yes = 1;
    if (fd >= 0) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
    if (fd >= 0 && bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, 1024) == 0) return fd;
    reason = errno;
    if (fd >= 0) close(fd);
  }
  fail("master {}: rank 0 cannot listen there: {}; choose another MASTER_PORT", master,
       std::strerror(reason));
}

int connected_socket(const std::string& master, Clock::time_point until) {
  const Addresses addresses = addresses_of(master, false);
  for (const addrinfo* a = addresses.get(); a != nullptr; a = a->ai_next) {
    const int fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
    // How long sending may take is also how long connecting may: a host that drops what comes to it
    // would keep this one for minutes.
    const auto left = std::chrono::duration_cast<std::chrono::microseconds>(until - Clock::now());
    const std::int64_t patience = std::max<std::int64_t>(left.count(), 1);
    const timeval wait = {patience / 1000000, patience % 1000000};
    if (fd >= 0) setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));
    if (fd >= 0 && connect(fd, a->ai_addr, a->ai_addrlen) == 0) return fd;
    if (fd >= 0) close(fd);
  }
  return -1;
}

std::unique_ptr<Lifeline> hand_out(const std::string& master, int size,
                                   std::span<const std::byte> bytes, Clock::time_point until) {
  const Socket door(listening_socket(master));
  std::vector<std::unique_ptr<Socket>> guests(static_cast<std::size_t>(size - 1));
  std::vector<int> missing;
  for (int rank = 1; rank < size; ++rank) missing.push_back(rank);
  while (!missing.empty()) {
    require(door.ready(POLLIN, until), "rank 0: rank {} of {} did not come to {}",
            fmt::join(missing, ", "), size, master);
    auto guest = std::make_unique<Socket>(accept4(door.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (guest->get() < 0) continue;
    // A stranger may hold the door for two seconds, no longer.
    const auto patience = std::min(until, Clock::now() + std::chrono::seconds(2));
    Greeting greeting;
    const Greeting wanted;
    if (!guest->receive_all(std::as_writable_bytes(std::span(&greeting, 1)), patience) ||
        std::memcmp(greeting.magic, wanted.magic, sizeof(wanted.magic)) != 0) {
      continue;
    }
    require(greeting.size == size, "rank {} was told of {} ranks, rank 0 of {}", greeting.rank,
            greeting.size, size);
    if (!guest->send_all(bytes, patience) || std::erase(missing, greeting.rank) == 0) continue;
    guests[static_cast<std::size_t>(greeting.rank - 1)] = std::move(guest);
  }
  std::vector<int> sockets;
  for (const auto& guest : guests) sockets.push_back(guest->release());
  return std::make_unique<Lifeline>(0, size, std::move(sockets));
}

std::unique_ptr<Lifeline> fetch(const std::string& master, int rank, int size,
                                std::span<std::byte> bytes, Clock::time_point until) {
  do {
    Socket door(connected_socket(master, until));
    Greeting greeting;
    greeting.rank = rank;
    greeting.size = size;
    if (door.get() >= 0 && door.send_all(std::as_bytes(std::span(&greeting, 1)), until) &&
        door.receive_all(bytes, until)) {
      return std::make_unique<Lifeline>(rank, size, std::vector<int>{door.release()});
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  } while (Clock::now() < until);
  fail("rank {} of {}: rank 0 does not answer at {}", rank, size, master);
}

}  // namespace

std::unique_ptr<Lifeline> share_from_rank_0(const std::string& master, int rank, int size,
                                            std::span<std::byte> bytes,
                                            std::chrono::milliseconds timeout) {
  const auto until = Clock::now() + timeout;
  if (rank == 0) return hand_out(master, size, bytes, until);
  return fetch(master, rank, size, bytes, until);
}

}  // namespace metala
