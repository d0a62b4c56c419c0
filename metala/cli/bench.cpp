// metala bench: what this machine does with a model, beside what it could do.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <cmath>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "metala/base/threads.h"
#include "metala/bench/machine_limits.h"
#include "metala/bench/workloads.h"
#include "metala/cli/checks.h"
#include "metala/cli/commands.h"
#include "metala/device/open_device.h"

namespace metala::cli {
namespace {

using nlohmann::ordered_json;

struct Options {
  std::string what = "all";
  Config config = bench::config_374m();
  std::string weights = "f32";
  std::vector<std::int64_t> batches = {1};
  std::vector<std::int64_t> contexts = {0};
  std::int64_t steps = 32;
  std::int64_t tokens = 512;
  std::int64_t sequences = 2;
  std::int64_t repetitions = 5;
  std::string filter = ".";
  bool json = false;
  std::string device = "cpu";
};

std::string milliseconds(const bench::Samples& s) {
  return fmt::format("{:.3f} ms [{:.3f} {:.3f}] n={}", 1e3 * s.median(), 1e3 * s.least(),
                     1e3 * s.most(), s.seconds.size());
}

// Collects what was measured: lines for a reader, one object for a script.
class Report {
 public:
  Report(const Options& options, Device device, const bench::MachineLimits& limits)
      : options_(options), limits_(limits), gpu_(device.is_cuda()) {
    if (gpu_) {
      copy_ = bench::copy_bytes_per_second(device);
      json_["device"] = device.text();
      json_["copy_bytes_per_second"] = copy_;
      say(fmt::format(
          "{}; medians [least most] of n; it copies 1 GiB at {:.2f} TB/s, read and written",
          device.text(), copy_ / 1e12));
      return;
    }
    json_["threads"] = thread_count();
    say(
        fmt::format("{} threads; medians [least most] of n; what the machine reads and multiplies "
                    "was measured between the repetitions",
                    thread_count()));
  }

  void decode(const bench::DecodeResult& r) {
    if (gpu_) {
      const double rate = r.bytes_with_state_per_second();
      say(fmt::format(
          "decode  {} batch {} context {}: {} a step, {:.1f} tok/s; weights and states pass at "
          "{:.0f} GB/s = {:.0f}% of copying",
          options_.weights, r.batch, r.context, milliseconds(r.step), r.tokens_per_second(),
          rate / 1e9, 100 * rate / copy_));
      json_["decode"].push_back({{"weights", options_.weights},
                                 {"batch", r.batch},
                                 {"context", r.context},
                                 {"seconds", r.step.seconds},
                                 {"tokens_per_second", r.tokens_per_second()},
                                 {"weight_bytes", r.weight_bytes},
                                 {"state_bytes", r.state_bytes},
                                 {"share_of_copy_bandwidth", rate / copy_}});
      return;
    }
    const double share = r.bytes_per_second() / limits_.read_bytes_per_second();
    say(fmt::format(
        "decode  {} batch {} context {}: {} a step, {:.1f} tok/s, {:.1f} GB/s of "
        "weights = {:.0f}% of the {:.1f} GB/s of only reading them",
        options_.weights, r.batch, r.context, milliseconds(r.step), r.tokens_per_second(),
        r.bytes_per_second() / 1e9, 100 * share, limits_.read_bytes_per_second() / 1e9));
    json_["decode"].push_back({{"weights", options_.weights},
                               {"batch", r.batch},
                               {"context", r.context},
                               {"seconds", r.step.seconds},
                               {"tokens_per_second", r.tokens_per_second()},
                               {"weight_bytes", r.weight_bytes},
                               {"read_samples", limits_.read_samples()},
                               {"share_of_read_bandwidth", share},
                               {"parts", said(r.shares)}});
  }

  void compute(const char* name, const bench::ComputeResult& r) {
    const double mean = r.profiled.mean();
    const double rate = r.product_flops / r.product_seconds;
    if (gpu_) {
      say(fmt::format(
          "{:7} {} {} tokens: {} a pass, {:.0f} tok/s; {:.0f}% of the time in matrix products, "
          "those at {:.0f} TFLOP/s (profiled part by part: {})",
          name, options_.weights, r.tokens, milliseconds(r.pass), r.tokens_per_second(),
          100 * r.product_seconds / mean, rate / 1e12, milliseconds(r.profiled)));
      json_[name].push_back({{"tokens", r.tokens},
                             {"weights", options_.weights},
                             {"seconds", r.pass.seconds},
                             {"tokens_per_second", r.tokens_per_second()},
                             {"share_of_time_in_products", r.product_seconds / mean},
                             {"products_flops_per_second", rate},
                             {"parts", said(r.shares)}});
      return;
    }
    say(fmt::format(
        "{:7} {} tokens: {} a pass, {:.0f} tok/s; {:.0f}% of the time in matrix "
        "products, those at {:.0f}% of the sgemm peak of {:.0f} GFLOP/s",
        name, r.tokens, milliseconds(r.pass), r.tokens_per_second(), 100 * r.product_seconds / mean,
        100 * rate / limits_.sgemm_flops_per_second(), limits_.sgemm_flops_per_second() / 1e9));
    json_[name].push_back(
        {{"tokens", r.tokens},
         {"seconds", r.pass.seconds},
         {"tokens_per_second", r.tokens_per_second()},
         {"sgemm_samples", limits_.sgemm_samples()},
         {"share_of_time_in_products", r.product_seconds / mean},
         {"products_share_of_sgemm_peak", rate / limits_.sgemm_flops_per_second()},
         {"parts", said(r.shares)}});
  }

  void finish() const {
    if (options_.json) fmt::print("{}\n", json_.dump(2));
  }

 private:
  ordered_json said(const bench::Shares& shares) const {
    ordered_json all;
    for (const auto& [part, share] : shares) {
      all[part] = share;
      say(fmt::format("          {:24} {:5.1f}%", part, 100 * share));
    }
    return all;
  }

  void say(const std::string& line) const {
    if (options_.json) return;
    fmt::print("{}\n", line);
    std::fflush(stdout);
  }

  const Options& options_;
  const bench::MachineLimits& limits_;
  const bool gpu_;
  double copy_ = 0;  // of the GPU, bytes a second
  ordered_json json_;
};

// The rooms' own benchmarks, through Google Benchmark.
void run_ops(const Options& options) {
  std::string filter = "--benchmark_filter=" + options.filter;
  std::string program = "metala bench ops";
  std::string format = options.json ? "--benchmark_format=json" : "--benchmark_format=console";
  std::vector<char*> arguments = {program.data(), filter.data(), format.data()};
  int count = static_cast<int>(arguments.size());
  benchmark::Initialize(&count, arguments.data());
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}

const std::map<std::string, DType>& weight_types() {
  static const std::map<std::string, DType> types = {{"f32", DType::f32},
                                                     {"bf16", DType::bf16},
                                                     {"f16", DType::f16},
                                                     {"q8", DType::q8},
                                                     {"q4", DType::q4}};
  return types;
}

void run(Options& options) {
  Config& c = options.config;
  c.query_width = c.width / 2;
  check_config(c, "bench");
  c.attention_scale = 1 / std::sqrt(static_cast<double>(c.key_width()));
  const auto wanted = [&](const char* name) {
    return options.what == name || options.what == "all";
  };
  if (options.what == "ops") return run_ops(options);
  const DType weights = weight_types().at(options.weights);
  bench::MachineLimits limits;
  const bench::Place place = {open_device(options.device), weights};
  Report report(options, place.device, limits);
  // What the CPU can do is measured beside what it does.
  const auto read = [&](const std::vector<Tensor>& tensors) {
    if (place.device.is_cpu()) limits.read(tensors);
  };
  const auto multiply = [&] {
    if (place.device.is_cpu()) limits.multiply();
  };
  if (wanted("decode")) {
    const bench::DecodeBench decode(c, place);
    for (const auto batch : options.batches) {
      for (const auto context : options.contexts) {
        limits.forget();
        report.decode(decode.run(batch, context, options.steps, read));
      }
    }
  }
  if (wanted("prefill")) {
    limits.forget();
    report.compute("prefill",
                   bench::prefill(c, place, options.tokens, options.repetitions, multiply));
  }
  if (wanted("train")) {
    limits.forget();
    report.compute("train", bench::training_step(c, place, options.sequences, options.tokens,
                                                 options.repetitions, multiply));
  }
  report.finish();
}

}  // namespace

void add_bench(CLI::App& app) {
  auto options = std::make_shared<Options>();
  Options& o = *options;
  CLI::App* command = app.add_subcommand(
      "bench",
      "Measure decoding, prefill, training steps and operators, as shares of what this machine "
      "can read and multiply (measured in the same run); random weights");
  command->add_option("what", o.what, "decode, prefill, train, ops or all (all but ops)")
      ->capture_default_str()
      ->check(CLI::IsMember({"decode", "prefill", "train", "ops", "all"}));
  command->add_option("--width", o.config.width, "Model width d")->capture_default_str();
  command->add_option("--layers", o.config.layers, "Layers")->capture_default_str();
  command->add_option("--heads", o.config.heads, "Heads")->capture_default_str();
  command->add_option("--glu-width", o.config.glu_width, "GLU width f")->capture_default_str();
  command->add_option("--vocab-size", o.config.vocab_size, "Vocabulary")->capture_default_str();
  command->add_option("--weights", o.weights, "Type of the weights: f32, bf16, f16, q8, q4")
      ->capture_default_str()
      ->check(CLI::IsMember(weight_types()));
  const auto count = [&](const char* name, std::int64_t& value, const char* help) {
    command->add_option(name, value, help)->capture_default_str()->check(positive());
  };
  command
      ->add_option("--batch", o.batches,
                   "decode: sequences at once; several values make several rows")
      ->capture_default_str()
      ->check(positive());
  command
      ->add_option("--context", o.contexts,
                   "decode: tokens read before the timed steps; several values make several rows")
      ->capture_default_str()
      ->check(not_negative());
  count("--steps", o.steps, "decode: timed steps");
  count("--tokens", o.tokens, "prefill: tokens; train: tokens of a sequence");
  count("--sequences", o.sequences, "train: sequences in a step");
  count("--repetitions", o.repetitions, "prefill, train: timed passes");
  add_device(command, o.device);
  command->add_option("--filter", o.filter, "ops: run only those matching this expression")
      ->capture_default_str();
  command->add_flag("--json", o.json, "Print JSON, raw samples included");
  command->callback([options] { run(*options); });
}

}  // namespace metala::cli
