// metala doctor: what hardware, libraries and code paths are in use here.
#include <cblas.h>
#include <fmt/format.h>
#include <hwy/detect_targets.h>
#include <hwy/targets.h>

#include <cstdint>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "metala/base/threads.h"
#include "metala/bench/machine_limits.h"
#include "metala/cli/commands.h"
#include "metala/distributed/world.h"

#ifdef METALA_CUDA
#include "metala/device/cuda/cuda_device.h"
#endif

namespace metala::cli {
namespace {

#ifdef METALA_CUDA
void describe_gpus(nlohmann::ordered_json& report) {
  const int count = cuda::device_count();
  if (count == 0) report["GPU"] = "none that CUDA sees; --device cuda will say why";
  for (int i = 0; i < count; ++i) {
    const std::string name = fmt::format("cuda:{}", i);
    try {
      const auto info = cuda::info(cuda::open(i));
      report[name] = fmt::format(
          "{}, compute capability {}.{}, {} multiprocessors, {:.1f} of {:.1f} GiB free, driver for "
          "CUDA {}.{}",
          info.name, info.major, info.minor, info.multiprocessors,
          static_cast<double>(info.free_memory) / (1 << 30),
          static_cast<double>(info.memory) / (1 << 30), info.driver / 1000,
          info.driver % 1000 / 10);
    } catch (const Error& e) {
      report[name] = e.what();
    }
  }
}
#else
void describe_gpus(nlohmann::ordered_json& report) {
  report["GPU"] = "not built in: this build runs on the CPU";
}
#endif

// The value of the first line of a /proc file that starts with `key`.
std::string proc_value(const char* path, const std::string& key) {
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with(key)) continue;
    const auto colon = line.find(':');
    const auto start = line.find_first_not_of(" \t", colon + 1);
    return start == std::string::npos ? "" : line.substr(start);
  }
  return "unknown";
}

// The best of the instruction sets that kernels are compiled for and this processor has.
std::string vector_kernels() {
  const auto best = [](std::int64_t targets) { return hwy::TargetName(targets & -targets); };
  const std::string used = best(hwy::SupportedTargets() & HWY_TARGETS);
  const std::string there = best(hwy::SupportedTargets());
  if (used == there) return used;
  return fmt::format("{}; no kernel is compiled for {}, which this processor has", used, there);
}

void run(bool measure, bool as_json) {
  nlohmann::ordered_json report;
  report["metala"] = METALA_VERSION;
  report["compiler"] = __VERSION__;
#ifdef NDEBUG
  report["build"] = "optimised";
#else
  report["build"] = "debug: asserts on, slow";
#endif
  report["processor"] = proc_value("/proc/cpuinfo", "model name");
  report["threads"] = thread_count();
  report["memory"] = proc_value("/proc/meminfo", "MemTotal");
  report["memory available"] = proc_value("/proc/meminfo", "MemAvailable");
  report["vector kernels"] = vector_kernels();
  report["matrix library"] = openblas_get_config();
  report["matrix kernels"] = openblas_get_corename();
  describe_gpus(report);
  report["ranks on CPUs"] = mpi_built() ? "by MPI" : "not built in: MPI was not found";
  report["ranks on GPUs"] = nccl_built() ? "by NCCL" : "not built in: NCCL was not found";
  if (measure) {
    bench::MachineLimits limits;
    const Tensor buffer = Tensor::zeros({std::int64_t{128} << 20});  // 512 MiB, beyond all caches
    for (int i = 0; i < 5; ++i) {
      limits.read({buffer});
      limits.multiply();
    }
    report["read bandwidth"] = fmt::format("{:.1f} GB/s", limits.read_bytes_per_second() / 1e9);
    report["sgemm peak"] = fmt::format("{:.1f} GFLOP/s", limits.sgemm_flops_per_second() / 1e9);
  }
  if (as_json) {
    fmt::print("{}\n", report.dump(2));
    return;
  }
  for (const auto& [key, value] : report.items()) {
    fmt::print("{:18} {}\n", key, value.is_string() ? value.get<std::string>() : value.dump());
  }
}

}  // namespace

void add_doctor(CLI::App& app) {
  struct Options {
    bool measure = false;
    bool json = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "doctor", "Print what hardware, libraries and kernels are in use, and why a path is not");
  command->add_flag("--measure", options->measure, "Also measure bandwidth and sgemm peak");
  command->add_flag("--json", options->json, "Print JSON");
  command->callback([options] { run(options->measure, options->json); });
}

}  // namespace metala::cli
