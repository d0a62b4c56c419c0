#include "metala/train/metrics.h"

#include <cmath>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>

#include "metala/base/error.h"
#include "metala/io/file.h"
#include "metala/io/json.h"

namespace metala {
namespace {

void for_each_record(const std::string& path,
                     const std::function<void(const std::string&, const nlohmann::json&)>& take) {
  std::ifstream in(path, std::ios::binary);
  require(in.good(), "{}: cannot open", path);
  std::int64_t number = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    if (in.eof()) break;  // no line end: a record cut short when its run was killed
    const std::string where = fmt::format("{}:{}", path, number);
    const auto record = parse_json(line, where);
    require(record.is_object() && record.contains("step") && record["step"].is_number_integer(),
            "{}: not a record of metrics (no step)", where);
    take(line, record);
  }
}

// Drops records after `step`, atomically.
void keep_until(const std::string& path, std::int64_t step) {
  std::string kept;
  for_each_record(path, [&](const std::string& line, const nlohmann::json& record) {
    if (record["step"].get<std::int64_t>() <= step) kept += line + "\n";
  });
  write_file_atomically(path, kept);
}

}  // namespace

Metrics::Metrics(const std::string& run, std::int64_t step) : path_(run + "/metrics.jsonl") {
  if (std::filesystem::exists(path_)) keep_until(path_, step);
  keep_tensorboard_events_until(run, step);
  events_.emplace(run);
  lines_.open(path_, std::ios::binary | std::ios::app);
  require(lines_.good(), "{}: cannot write", path_);
}

void Metrics::record(std::int64_t step, const MetricValues& values) {
  nlohmann::ordered_json line;
  line["step"] = step;
  for (const auto& [name, value] : values) {
    if (std::isfinite(value)) {
      line[name] = value;
    } else {
      line[name] = nullptr;
    }
    events_->scalar(step, name, value);
  }
  lines_ << line.dump() << "\n";
  lines_.flush();
  require(lines_.good(), "{}: write failed; is the disk full?", path_);
  events_->flush();
}

std::vector<std::pair<double, double>> read_metrics_together(const std::string& path,
                                                             const std::string& one,
                                                             const std::string& other,
                                                             std::int64_t step) {
  std::vector<std::pair<double, double>> values;
  for_each_record(path, [&](const std::string&, const nlohmann::json& record) {
    const auto has = [&](const std::string& name) {
      return record.contains(name) && record[name].is_number();
    };
    if (!has(one) || !has(other) || record["step"].get<std::int64_t>() > step) return;
    values.emplace_back(record[one].get<double>(), record[other].get<double>());
  });
  return values;
}

std::vector<std::pair<double, double>> read_metric(const std::string& path,
                                                   const std::string& name) {
  std::vector<std::pair<double, double>> points;
  for_each_record(path, [&](const std::string&, const nlohmann::json& record) {
    if (!record.contains(name) || !record[name].is_number()) return;
    points.emplace_back(record["step"].get<double>(), record[name].get<double>());
  });
  return points;
}

}  // namespace metala
