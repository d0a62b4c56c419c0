#include "metala/cli/interrupt.h"

#include <csignal>

namespace metala::cli {
namespace {

volatile std::sig_atomic_t caught = 0;

void remember(int) {
  caught = 1;
}

}  // namespace

void catch_interrupts() {
  std::signal(SIGINT, remember);
  std::signal(SIGTERM, remember);
  std::signal(SIGUSR1, remember);  // what mpirun passes on, and Slurm sends before a limit
}

bool interrupted() {
  return caught != 0;
}

}  // namespace metala::cli
