// A few bytes from rank 0 to every other rank, over one TCP connection each: how ranks that were
// started without MPI learn NCCL's identifier. The connections stay, as lines on which a rank that
// dies is missed (lifeline.h).
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "metala/distributed/lifeline.h"

namespace metala {

// Fills `bytes` on all ranks with those of rank 0, which listens at `master`, HOST:PORT. Returns on
// rank 0 when all have come. Throws Error when time runs out: rank 0 names who did not come, the
// others where they knocked.
std::unique_ptr<Lifeline> share_from_rank_0(const std::string& master, int rank, int size,
                                            std::span<std::byte> bytes,
                                            std::chrono::milliseconds timeout);

}  // namespace metala
