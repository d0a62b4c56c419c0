// Metrics: what a run measured, one record a step, into metrics.jsonl (the run's own truth) and
// TensorBoard events.
#pragma once

#include <cstdint>
#include <fstream>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "metala/train/tensorboard.h"

namespace metala {

using MetricValues = std::vector<std::pair<std::string, double>>;

class Metrics {
 public:
  // Goes on with the run's records after `step` steps: those of later steps, left by a run that was
  // killed after its last checkpoint, are dropped. Throws Error if the folder cannot be written or
  // metrics.jsonl is not one of ours.
  Metrics(const std::string& run, std::int64_t step);

  // Flushed at once. Not-a-number values are written as null.
  void record(std::int64_t step, const MetricValues& values);

 private:
  std::string path_;
  std::ofstream lines_;
  std::optional<TensorBoardWriter> events_;
};

// The values of two metrics, of each record until `step` that has both.
std::vector<std::pair<double, double>> read_metrics_together(const std::string& path,
                                                             const std::string& one,
                                                             const std::string& other,
                                                             std::int64_t step);

// The points (step, value) of one metric in a metrics.jsonl.
std::vector<std::pair<double, double>> read_metric(const std::string& path,
                                                   const std::string& name);

}  // namespace metala
