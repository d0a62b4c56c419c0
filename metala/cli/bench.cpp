// metala bench: what this machine does with a model, beside what it could do.
#include <benchmark/benchmark.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>
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
  bool compare = false;
  bool json = false;
  std::string device = "cpu";
};

// A peer's figures, as published with the machine they are of.
struct Peer {
  const char* weights;
  double decode;  // tokens a second, one sequence
  double share;   // of what its machine reads
  double prompt;  // tokens a second, a prompt of 128
};
constexpr const char* peer_name =
    "February 2025, a Llama of 374M, 2 cores of an AMD EPYC (Zen 3, AVX2) that read 28 GB/s; "
    "prompts of 128 tokens";
constexpr Peer peers[] = {{"f32", 18.6, 0.91, 156},
                          {"bf16", 28.1, 0.68, 147},
                          {"q8", 43.1, 0.56, 142},
                          {"q4", 73.5, 0.50, 171}};

// Null for a model of another size.
const Peer* peer_of(const Config& c, const std::string& weights) {
  const Config same = bench::config_374m();
  if (c.width != same.width || c.layers != same.layers || c.glu_width != same.glu_width ||
      c.vocab_size != same.vocab_size) {
    return nullptr;
  }
  for (const Peer& peer : peers) {
    if (weights == peer.weights) return &peer;
  }
  return nullptr;
}

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
          "decode  {} batch {} context {}: {} a step, {:.1f} tok/s; weights and states pass "
          "at {:.0f} GB/s = {:.0f}% of copying",
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
        "decode  {} batch {} context {}: {} a step, {:.1f} tok/s, {:.1f} GB/s of weights = {:.0f}% "
        "of "
        "the {:.1f} GB/s of only reading them",
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

  void compute(const char* name, const std::string& weights, const bench::ComputeResult& r) {
    const double mean = r.profiled.mean();
    const double rate = r.product_flops / r.product_seconds;
    if (gpu_) {
      say(
          fmt::format("{:7} {} {} tokens: {} a pass, {:.0f} tok/s; {:.0f}% of the time in matrix "
                      "products, those at {:.0f} TFLOP/s (profiled part by part: {})",
                      name, weights, r.tokens, milliseconds(r.pass), r.tokens_per_second(),
                      100 * r.product_seconds / mean, rate / 1e12, milliseconds(r.profiled)));
      json_[name].push_back({{"tokens", r.tokens},
                             {"weights", weights},
                             {"seconds", r.pass.seconds},
                             {"tokens_per_second", r.tokens_per_second()},
                             {"share_of_time_in_products", r.product_seconds / mean},
                             {"products_flops_per_second", rate},
                             {"parts", said(r.shares)}});
      return;
    }
    say(
        fmt::format("{:7} {} {} tokens: {} a pass, {:.0f} tok/s; {:.0f}% of the time in matrix "
                    "products, those at {:.0f}% of the sgemm peak of {:.0f} GFLOP/s",
                    name, weights, r.tokens, milliseconds(r.pass), r.tokens_per_second(),
                    100 * r.product_seconds / mean, 100 * rate / limits_.sgemm_flops_per_second(),
                    limits_.sgemm_flops_per_second() / 1e9));
    json_[name].push_back(
        {{"tokens", r.tokens},
         {"weights", weights},
         {"seconds", r.pass.seconds},
         {"tokens_per_second", r.tokens_per_second()},
         {"sgemm_samples", limits_.sgemm_samples()},
         {"share_of_time_in_products", r.product_seconds / mean},
         {"products_share_of_sgemm_peak", rate / limits_.sgemm_flops_per_second()},
         {"parts", said(r.shares)}});
  }

  // Everything so far in one table, shares and a peer's figures side by side.
  void compare() {
    json_["peer"] = {{"llama.cpp", peer_name}};
    say("");
    say(fmt::format("{:25} {:>7}   {:36} {:>9}  {}", "tokens a second", "metala", "share",
                    "llama.cpp", "share"));
    std::map<std::string, double> alone;  // batch 1, tokens a second
    for (const auto& r : json_["decode"]) {
      const auto weights = r["weights"].get<std::string>();
      const auto batch = r["batch"].get<std::int64_t>();
      const double rate = r["tokens_per_second"].get<double>();
      std::string share = fmt::format("{:.0f}% of reading {:.1f} GB/s",
                                      100 * r["share_of_read_bandwidth"].get<double>(),
                                      bench::median(r["read_samples"]) / 1e9);
      if (batch == 1) alone[weights] = rate;
      if (batch > 1) share = fmt::format("{:.1f} times batch 1", rate / alone[weights]);
      row(fmt::format("decode {} batch {}", weights, batch), rate, share,
          batch == 1 ? peer_of(options_.config, weights) : nullptr, &Peer::decode);
    }
    for (const auto& r : json_["prefill"]) {
      const auto weights = r["weights"].get<std::string>();
      const double share = r["share_of_time_in_products"].get<double>() *
                           r["products_share_of_sgemm_peak"].get<double>();
      row(fmt::format("prefill {} of {}", weights, r["tokens"].get<std::int64_t>()),
          r["tokens_per_second"].get<double>(),
          fmt::format("{:.0f}% of sgemm, {:.0f} GFLOP/s", 100 * share,
                      bench::median(r["sgemm_samples"]) / 1e9),
          peer_of(options_.config, weights), &Peer::prompt);
    }
    if (json_["peer"].size() > 1) say(fmt::format("llama.cpp: {}", peer_name));
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

  void row(const std::string& what, double rate, const std::string& share, const Peer* peer,
           double Peer::*figure) {
    std::string theirs;
    if (peer != nullptr) {
      theirs = fmt::format("{:9.1f}", peer->*figure);
      if (figure == &Peer::decode) theirs += fmt::format("  {:.0f}%", 100 * peer->share);
      json_["peer"][what] = peer->*figure;
    }
    say(fmt::format("{:25} {:7.1f}   {:36} {}", what, rate, share, theirs));
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
  bench::MachineLimits limits;
  bench::Place place = {open_device(options.device), DType::f32};
  Report report(options, place.device, limits);
  // What the CPU can do is measured beside what it does.
  const auto read = [&](const std::vector<Tensor>& tensors) {
    if (place.device.is_cpu()) limits.read(tensors);
  };
  const auto multiply = [&] {
    if (place.device.is_cpu()) limits.multiply();
  };
  const auto use = [&](const std::string& weights) {
    options.weights = weights;
    place.weights = weight_types().at(weights);
  };
  const auto decode = [&] {
    const bench::DecodeBench model(c, place);
    for (const auto batch : options.batches) {
      for (const auto context : options.contexts) {
        limits.forget();
        report.decode(model.run(batch, context, options.steps, read));
      }
    }
  };
  const auto prefill = [&] {
    limits.forget();
    report.compute("prefill", options.weights,
                   bench::prefill(c, place, options.tokens, options.repetitions, multiply));
  };
  if (options.compare) {
    require(place.device.is_cpu(), "bench: --compare is of CPUs; leave --device out");
    options.batches = {1, 16};
    for (const char* weights : {"f32", "bf16", "q8", "q4"}) {
      use(weights);
      decode();
    }
    for (const char* weights : {"f32", "q8"}) {
      use(weights);
      prefill();
    }
    report.compare();
    return report.finish();
  }
  use(options.weights);
  if (wanted("decode")) decode();
  if (wanted("prefill")) prefill();
  if (wanted("train")) {
    limits.forget();
    // A CPU trains in f32.
    report.compute("train", place.device.is_cpu() ? "f32" : options.weights,
                   bench::training_step(c, place, options.sequences, options.tokens,
                                        options.repetitions, multiply));
  }
  report.finish();
}

void refuse_idle_options(const CLI::App& bench, const Options& o) {
  const auto refuse = [&](std::initializer_list<const char*> names, const std::string& why) {
    for (const char* name : names) {
      if (bench.get_option(name)->count() > 0) throw UsageError(fmt::format("{} {}", name, why));
    }
  };
  const auto only_for = [&](const std::vector<std::string>& whats,
                            std::initializer_list<const char*> names) {
    const bool used = std::find(whats.begin(), whats.end(), o.what) != whats.end();
    if (!used) refuse(names, fmt::format("is for metala bench {}", fmt::join(whats, ", ")));
  };
  only_for({"ops"}, {"--filter"});
  only_for({"decode", "all"}, {"--batch", "--context", "--steps"});
  only_for({"prefill", "train", "all"}, {"--tokens", "--repetitions"});
  only_for({"train", "all"}, {"--sequences"});
  only_for({"decode", "prefill", "train", "all"},
           {"--width", "--layers", "--heads", "--glu-width", "--vocab-size", "--weights",
            "--device", "--compare"});
  if (o.what == "train" && o.device == "cpu" && o.weights != "f32") {
    throw UsageError("--weights: a CPU trains in f32");
  }
  if (o.compare) {
    refuse({"what", "--weights", "--batch", "--sequences"},
           "is not for --compare, which has rows of its own");
  }
}

}  // namespace

void add_bench(CLI::App& app) {
  auto options = std::make_shared<Options>();
  Options& o = *options;
  CLI::App* command = app.add_subcommand(
      "bench",
      "Measure decoding, prefill, training steps and operators, as shares of what "
      "this machine can read and multiply (measured in the same run); random "
      "weights");
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
  // Beyond any machine; products of two stay within 64 bits.
  const auto countable = [](double least) {
    constexpr double most = 1 << 30;
    return number(least == 0 ? "from 0 to 2^30" : "from 1 to 2^30",
                  [=](double x) { return x >= least && x <= most; });
  };
  const auto count = [&](const char* name, std::int64_t& value, const char* help) {
    command->add_option(name, value, help)->capture_default_str()->check(countable(1));
  };
  command
      ->add_option("--batch", o.batches,
                   "decode: sequences at once; several values make several rows")
      ->capture_default_str()
      ->check(countable(1));
  command
      ->add_option("--context", o.contexts,
                   "decode: tokens read before the timed steps; several values make several rows")
      ->capture_default_str()
      ->check(countable(0));
  count("--steps", o.steps, "decode: timed steps");
  count("--tokens", o.tokens, "prefill: tokens; train: tokens of a sequence");
  count("--sequences", o.sequences, "train: sequences in a step");
  count("--repetitions", o.repetitions, "prefill, train: timed passes");
  add_device(command, o.device);
  command->add_option("--filter", o.filter, "ops: run only those matching this expression")
      ->capture_default_str();
  command->add_flag(
      "--compare", o.compare,
      "Decoding with f32, bf16, q8 and q4 weights, 1 and 16 sequences, and prefill, in "
      "one table beside published figures of llama.cpp");
  command->add_flag("--json", o.json, "Print JSON, raw samples included");
  command->callback([options, command] {
    refuse_idle_options(*command, *options);
    run(*options);
  });
}

}  // namespace metala::cli
