#include "metala/distributed/launch.h"

#include <charconv>
#include <cstdlib>

#include "metala/base/error.h"

namespace metala {
namespace {

struct Variables {
  const char *rank, *size, *local_rank;
  bool by_mpi;
};

// Slurm's own variables count within a step that srun started (SLURM_STEP_NUM_TASKS), not in the
// batch script, where they are set as well. srun --mpi=pmix sets PMIX_RANK beside them.
constexpr Variables launchers[] = {
    {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", true},
    {"PMIX_RANK", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", true},
    {"PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", true},
    {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", false},
    {"RANK", "WORLD_SIZE", "LOCAL_RANK", false}};

int number(const Environment& environment, const std::string& name) {
  const std::string text = environment(name).value_or("");
  int value = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
  require(parsed.ec == std::errc() && parsed.ptr == text.data() + text.size() && value >= 0,
          "{} is \"{}\"; wanted a number from 0", name, text);
  return value;
}

// MASTER_ADDR and MASTER_PORT, as torchrun sets them and batch scripts export them.
std::string master_of(const Environment& environment) {
  const auto address = environment("MASTER_ADDR");
  if (!address) return "";
  return *address + ":" + environment("MASTER_PORT").value_or("29500");
}

}  // namespace

std::optional<std::string> environment_variable(const std::string& name) {
  const char* value = std::getenv(name.c_str());
  if (value == nullptr) return std::nullopt;
  return value;
}

Launch launch_from(const Environment& environment) {
  for (const auto& names : launchers) {
    if (!environment(names.rank) || !environment(names.size)) continue;
    Launch launch;
    launch.source = names.rank;
    launch.rank = number(environment, names.rank);
    launch.size = number(environment, names.size);
    require(launch.rank < launch.size, "{} is {} and {} is {}; wanted a rank below the size",
            names.rank, launch.rank, names.size, launch.size);
    launch.by_mpi = names.by_mpi;
    if (environment(names.local_rank)) launch.local_rank = number(environment, names.local_rank);
    if (!launch.by_mpi) launch.master = master_of(environment);
    return launch;
  }
  return {};
}

}  // namespace metala
