// Commands that run on many ranks at once: finding the others, speaking with one voice, failing
// together.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <string>

#include "metala/base/device.h"
#include "metala/distributed/communicator.h"

namespace metala::cli {

struct RankOptions {
  std::int64_t rank = -1, ranks = 0, local_rank = -1;  // not given: the launcher's variables say
  std::string master;
  double timeout = 600;  // seconds
};

void add_rank_options(CLI::App&, RankOptions&);

// Opens the device (a rank that is told "cuda" takes the GPU of its number on its machine), joins
// the other ranks and calls `body`. Ranks other than 0 print nothing but errors of their own. An
// AgreedError comes through on rank 0 alone, as a UsageError where it was one; any other error
// names its rank and ends all ranks.
void on_all_ranks(const RankOptions&, const std::string& device,
                  const std::function<void(Communicator&, Device)>& body);

}  // namespace metala::cli
