// Ranks that talk through NCCL: tensors on GPUs, one GPU a rank.
//
// Operations run on a stream of their own beside the device's, ordered against it by events, so a
// gradient travels while the kernels after it compute. Tensors on the CPU go through `host`, or,
// where there is none, through the GPU.
#pragma once

#include <chrono>
#include <memory>

#include "metala/base/device.h"
#include "metala/distributed/communicator.h"
#include "metala/distributed/launch.h"

namespace metala {

// The ranks of `host`, whose broadcast carries NCCL's identifier. All ranks call it together.
std::unique_ptr<Communicator> nccl_group(Device, std::shared_ptr<Communicator> host,
                                         std::chrono::milliseconds timeout);

// The ranks of a launch without MPI: the identifier travels by one TCP exchange with rank 0.
std::unique_ptr<Communicator> nccl_group(Device, const Launch&, std::chrono::milliseconds timeout);

}  // namespace metala
