// TrainReport: what a run shows on the console and records in its folder. Rank 0 has one.
#pragma once

#include <cstdint>
#include <string>

#include "metala/cli/train_options.h"
#include "metala/train/metrics.h"
#include "metala/train/progress.h"
#include "metala/train/trainer.h"

namespace metala::cli {

class TrainReport {
 public:
  // Of a run that has done `step` steps on so many ranks. `tokenizer`, for samples, may be null.
  TrainReport(const TrainCommand&, int ranks, std::int64_t step, const Tokenizer* tokenizer);

  void stepped(const StepReport&, const LanguageModel&);
  void validated(const ValidationReport&);
  void tested(const ValidationReport&);
  void saved(std::int64_t step, double stall_seconds);
  void finish();  // and draws loss.svg

 private:
  double flops_per_second(const StepReport&) const;  // of one rank
  void record(const StepReport&);
  void log(const StepReport&);
  void sample(const LanguageModel&);
  void write_curve() const;

  const TrainCommand& o_;
  const int ranks_;
  const Tokenizer* tokenizer_;
  Metrics metrics_;
  ProgressBar bar_;
  std::int64_t tokens_ = 0;
  double flops_per_token_ = 0, peak_flops_ = 0;
};

}  // namespace metala::cli
