// Ranks that talk through MPI: tensors on the CPU.
#pragma once

#include <chrono>
#include <memory>

#include "metala/distributed/communicator.h"

namespace metala {

// All ranks that MPI started. One of them in a process; MPI ends with it. Throws Error when MPI
// cannot start.
std::unique_ptr<Communicator> mpi_world(std::chrono::milliseconds timeout);

}  // namespace metala
