#include "metala/cli/ranks.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <memory>
#include <utility>

#include "metala/cli/checks.h"
#include "metala/device/open_device.h"
#include "metala/distributed/agreement.h"
#include "metala/distributed/launch.h"
#include "metala/distributed/world.h"
#include "metala/io/printable.h"

namespace metala::cli {
namespace {

Launch launch_of(const RankOptions& options) {
  if (options.ranks == 0) {
    if (options.rank >= 0) throw UsageError("--rank needs --ranks");
    if (options.local_rank >= 0) throw UsageError("--local-rank needs --ranks");
    if (!options.master.empty()) throw UsageError("--master needs --ranks");
    return launch_from(environment_variable);
  }
  if (options.rank < 0 || options.rank >= options.ranks) {
    throw UsageError(
        fmt::format("--ranks {} needs --rank, from 0 to {}", options.ranks, options.ranks - 1));
  }
  Launch launch;
  launch.source = "--rank";
  launch.rank = static_cast<int>(options.rank);
  launch.size = static_cast<int>(options.ranks);
  launch.local_rank = static_cast<int>(std::max<std::int64_t>(options.local_rank, 0));
  launch.master = options.master;
  return launch;
}

// Standard error goes nowhere; what it was is returned.
int silence() {
  const int speaking = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
  const int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
  if (nowhere >= 0) {
    dup2(nowhere, STDERR_FILENO);
    close(nowhere);
  }
  return speaking;
}

void run_on_ranks(const Launch& launch, const std::string& device_name,
                  std::chrono::milliseconds timeout,
                  const std::function<void(Communicator&, Device)>& body) {
  const int speaking = launch.rank > 0 ? silence() : STDERR_FILENO;
  std::unique_ptr<Communicator> world;
  try {
    const Device device = open_device(
        device_name == "cuda" ? fmt::format("cuda:{}", launch.local_rank) : device_name);
    world = open_world(launch, device, timeout);
    require_same(*world, {{"program", program_fingerprint()}});
    body(*world, device);
  } catch (const AgreedError& e) {
    if (launch.rank == 0) {
      // The others leave the world together with this rank, at the program's end: a launcher that
      // sees one fail kills the rest, and the line must be out by then.
      static std::unique_ptr<Communicator> until_the_end;
      until_the_end = std::move(world);
      if (e.misuse()) throw UsageError(e.what());
      throw Error(e.what());
    }
    world.reset();
    std::exit(e.misuse() ? 2 : 1);
  } catch (const std::exception& e) {
    const std::string line =
        fmt::format("metala: rank {} of {}: {}\n", launch.rank, launch.size, one_line(e.what()));
    if (write(speaking, line.data(), line.size()) < 0) std::_Exit(1);
    if (world) world->abort();
    std::_Exit(1);
  }
}

}  // namespace

void add_rank_options(CLI::App& command, RankOptions& o) {
  command
      .add_option("--communication-timeout", o.timeout,
                  "Seconds after which ranks that wait for another give up")
      ->capture_default_str()
      ->check(number("above 0, at most 1000000", [](double x) { return x > 0 && x <= 1000000; }));
  constexpr double most_ranks = 1 << 30;
  const auto rank = number("from 0 to 2^30", [](double x) { return x >= 0 && x <= most_ranks; });
  command
      .add_option("--rank", o.rank,
                  "This process's rank; mpirun, srun and torchrun say it themselves")
      ->check(rank);
  command.add_option("--ranks", o.ranks, "Number of ranks, with --rank")
      ->check(number("from 1 to 2^30", [](double x) { return x >= 1 && x <= most_ranks; }));
  command.add_option("--local-rank", o.local_rank, "Rank on this machine, with --rank")
      ->check(rank);
  command.add_option("--master", o.master, "HOST:PORT of rank 0, with --rank, for GPUs");
}

void on_all_ranks(const RankOptions& options, const std::string& device,
                  const std::function<void(Communicator&, Device)>& body) {
  const Launch launch = launch_of(options);
  if (launch.size == 1) return body(*alone(), open_device(device));
  run_on_ranks(launch, device,
               std::chrono::milliseconds(static_cast<std::int64_t>(options.timeout * 1000)), body);
}

}  // namespace metala::cli
