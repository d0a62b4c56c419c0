// metala verify DIR: a checkpoint against the expected tensors beside it.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "metala/base/error.h"
#include "metala/cli/checks.h"
#include "metala/cli/commands.h"
#include "metala/device/open_device.h"
#include "metala/eval/verify.h"

namespace metala::cli {
namespace {

struct Options {
  std::string folder;
  VerifyOptions verify;
  std::string dtype = "f32";
  std::string device = "cpu";
  bool json = false;
};

void print_table(const VerifyReport& report, double tolerance) {
  fmt::print("{:<48} {:>12} {:>12}\n", "tensor", "absolute", "relative");
  for (const auto& c : report.comparisons) {
    fmt::print("{:<48} {:>12.3e} {:>12.3e}{}\n", c.tensor, c.absolute, c.relative,
               c.within ? "" : "  beyond the tolerance");
  }
  if (report.greedy_compared > 0) {
    fmt::print("greedy tokens: {} of {} equal\n", report.greedy_equal, report.greedy_compared);
  }
  fmt::print("{}: {} tensors, tolerance {:g}\n", report.passed ? "passed" : "FAILED",
             report.comparisons.size(), tolerance);
}

void print_json(const VerifyReport& report) {
  nlohmann::ordered_json out;
  out["passed"] = report.passed;
  out["greedy"] = {{"compared", report.greedy_compared}, {"equal", report.greedy_equal}};
  out["tensors"] = nlohmann::ordered_json::array();
  for (const auto& c : report.comparisons) {
    out["tensors"].push_back({{"name", c.tensor},
                              {"absolute", c.absolute},
                              {"relative", c.relative},
                              {"within", c.within}});
  }
  fmt::print("{}\n", out.dump(2));
}

void run(const Options& options) {
  VerifyOptions verify_options = options.verify;
  verify_options.dtype = options.dtype == "f64" ? DType::f64 : DType::f32;
  verify_options.device = open_device(options.device);
  const VerifyReport report = verify(options.folder, verify_options);
  if (options.json) {
    print_json(report);
  } else {
    print_table(report, verify_options.tolerance);
  }
  if (report.passed) return;
  for (const auto& c : report.comparisons) {
    require(c.within, "verify: {} differs by {:.3e} of its largest value; tolerance {:g}", c.tensor,
            c.relative, verify_options.tolerance);
  }
  fail("verify: {} of {} greedy tokens differ", report.greedy_compared - report.greedy_equal,
       report.greedy_compared);
}

}  // namespace

void add_verify(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "verify", "Run a checkpoint against DIR/expected.safetensors and report the differences");
  command->add_option("dir", options->folder, "Model folder")->required();
  command
      ->add_option("--tolerance", options->verify.tolerance,
                   "Bound on max |got - want| / max |want|, for each tensor")
      ->capture_default_str()
      ->check(not_negative());
  command->add_option("--dtype", options->dtype, "Compute in f32 or f64")
      ->capture_default_str()
      ->check(CLI::IsMember({"f32", "f64"}));
  add_device(command, options->device);
  command->add_flag("--json", options->json, "Print the report as JSON");
  command->callback([options] { run(*options); });
}

}  // namespace metala::cli
