#include "metala/distributed/world.h"

#include <utility>

#include "metala/base/error.h"
#ifdef METALA_MPI
#include "metala/distributed/communicator_mpi.h"
#endif
#ifdef METALA_NCCL
#include "metala/distributed/communicator_nccl.h"
#endif

namespace metala {
namespace {

#ifdef METALA_MPI
std::unique_ptr<Communicator> checked_mpi_world(const Launch& launch,
                                                std::chrono::milliseconds timeout) {
  auto world = mpi_world(timeout);
  require(world->rank() == launch.rank && world->size() == launch.size,
          "{} says rank {} of {}, MPI says rank {} of {}; start with this MPI's own mpirun, or "
          "under Slurm with srun --mpi=pmix",
          launch.source, launch.rank, launch.size, world->rank(), world->size());
  return world;
}
#else
std::unique_ptr<Communicator> checked_mpi_world(const Launch& launch, std::chrono::milliseconds) {
  fail(
      "{} says rank {} of {}, but this build has no MPI; install libopenmpi-dev and build again, "
      "or start one process",
      launch.source, launch.rank, launch.size);
}
#endif

std::unique_ptr<Communicator> gpu_world(const Launch& launch, Device device,
                                        std::chrono::milliseconds timeout) {
  if (launch.by_mpi) return gpu_group(device, checked_mpi_world(launch, timeout), timeout);
#ifdef METALA_NCCL
  return nccl_group(device, launch, timeout);
#else
  return gpu_group(device, nullptr, timeout);
#endif
}

}  // namespace

bool mpi_built() {
#ifdef METALA_MPI
  return true;
#else
  return false;
#endif
}

bool nccl_built() {
#ifdef METALA_NCCL
  return true;
#else
  return false;
#endif
}

std::unique_ptr<Communicator> gpu_group(Device device, std::shared_ptr<Communicator> host,
                                        std::chrono::milliseconds timeout) {
#ifdef METALA_NCCL
  return nccl_group(device, std::move(host), timeout);
#else
  (void)host;
  (void)timeout;
  fail(
      "several ranks on {}: this build has no NCCL, which connects GPUs; install libnccl-dev, or "
      "set NCCL_ROOT, and build again; or start one process",
      device.text());
#endif
}

std::unique_ptr<Communicator> open_world(const Launch& launch, Device device,
                                         std::chrono::milliseconds timeout) {
  if (launch.size == 1) return alone();
  if (device.is_cuda()) return gpu_world(launch, device, timeout);
  require(launch.by_mpi,
          "{} says rank {} of {}; ranks on the CPU find each other through MPI: start them with "
          "mpirun -n {}, or under Slurm with srun --mpi=pmix",
          launch.source, launch.rank, launch.size, launch.size);
  return checked_mpi_world(launch, timeout);
}

}  // namespace metala
