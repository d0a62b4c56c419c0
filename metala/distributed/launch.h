// How this process was started: which rank it is, of how many.
//
// Looked for in this order: Open MPI or PMIx/PMI (mpirun, srun --mpi=pmix), a Slurm step, the
// variables that torchrun sets. With none of them the process is alone.
#pragma once

#include <functional>
#include <optional>
#include <string>

namespace metala {

struct Launch {
  int rank = 0;
  int size = 1;
  int local_rank = 0;   // among the ranks of this machine
  bool by_mpi = false;  // MPI_Init will find the others
  std::string master;   // without MPI: where rank 0 listens, HOST:PORT
  std::string source;   // what told: "OMPI_COMM_WORLD_RANK"; empty: nothing did
};

using Environment = std::function<std::optional<std::string>(const std::string& name)>;

// The process's own environment.
std::optional<std::string> environment_variable(const std::string& name);

// Throws Error naming the variable for a number that is none, or a rank not below the size.
Launch launch_from(const Environment&);

}  // namespace metala
