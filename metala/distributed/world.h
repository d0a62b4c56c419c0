// The group of all ranks, by whatever connects them in this build and on this device.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "metala/base/device.h"
#include "metala/distributed/communicator.h"
#include "metala/distributed/launch.h"

namespace metala {

// Whether this build has them.
bool mpi_built();
bool nccl_built();

// MPI between CPUs, NCCL between GPUs. Throws Error that says what the build or the start lacks.
std::unique_ptr<Communicator> open_world(const Launch&, Device, std::chrono::milliseconds timeout);

// A group of the ranks of `host` for tensors on their GPUs, through NCCL; tensors on the CPU go on
// through `host`. Throws Error in a build without NCCL.
std::unique_ptr<Communicator> gpu_group(Device, std::shared_ptr<Communicator> host,
                                        std::chrono::milliseconds timeout);

}  // namespace metala
