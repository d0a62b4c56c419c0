// Whole-model workloads of `metala bench`, and what each must at least read or compute.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "metala/base/tensor.h"
#include "metala/model/config.h"
#include "metala/model/language_model.h"
#include "metala/model/parameters.h"

namespace metala::bench {

// Seconds of each repetition, in the order they ran.
struct Samples {
  std::vector<double> seconds;
  double median() const;
  double mean() const;
  double least() const;
  double most() const;
};

// Parts of a workload by name, and their shares of its time where it was profiled.
using Shares = std::vector<std::pair<std::string, double>>;

// Where a model runs and how its weights are stored there.
struct Place {
  Device device;
  DType weights = DType::f32;
};

struct DecodeResult {
  std::int64_t context = 0;  // tokens read before the timed ones
  Samples step;              // one step: a token for each sequence of the batch
  std::int64_t batch = 1;
  std::int64_t weight_bytes = 0;  // bytes of weights that a step must read
  std::int64_t state_bytes = 0;   // bytes of state that a step reads and writes
  Samples profiled;               // the steps that the shares are of, on a CPU
  Shares shares;
  double tokens_per_second() const;
  double bytes_per_second() const;  // of weights
  double bytes_with_state_per_second() const;
};

// Called between repetitions: the time to measure what they are compared with.
using Between = std::function<void()>;

// Decoding with random weights.
class DecodeBench {
 public:
  DecodeBench(const Config&, Place);

  // Tokens come from a fixed list, so only the model is timed, and on a GPU the greedy choice of
  // the next tokens, whose ids come to the CPU. `between` is given the weights that a step reads.
  DecodeResult run(std::int64_t batch, std::int64_t context, std::int64_t steps,
                   const std::function<void(const std::vector<Tensor>&)>& between) const;

 private:
  Parameters parameters_;
  LanguageModel model_;
};

struct ComputeResult {
  std::int64_t tokens = 0;
  Samples pass;
  Samples profiled;            // the passes that the profile is of
  double product_seconds = 0;  // inside matrix products, a profiled pass
  double product_flops = 0;
  Shares shares;
  double tokens_per_second() const;
};

ComputeResult prefill(const Config&, Place, std::int64_t tokens, std::int64_t repetitions,
                      const Between&);

// Forward, backward, clipping and AdamW on one batch; bf16 on a GPU beside f32 weights.
ComputeResult training_step(const Config&, Place, std::int64_t sequences, std::int64_t length,
                            std::int64_t repetitions, const Between&);

// The 374M model of the figures in docs/benchmarks.md: d 1024, L 24, H 8, f 2816, V 32000.
Config config_374m();

}  // namespace metala::bench
