// metala plot: the curves of training runs, on the terminal or as SVG.
#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "metala/base/error.h"
#include "metala/cli/checks.h"
#include "metala/cli/commands.h"
#include "metala/train/metrics.h"
#include "metala/train/text_plot.h"

namespace metala::cli {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::vector<std::string> runs;
  std::vector<std::string> metrics = {"train/lm_loss", "validation/lm_loss"};
  std::string output;
  int smooth = 0;  // 0: as many points as fit
  int width = 80, height = 20;
};

std::string short_name(const std::string& run) {
  const fs::path path = fs::path(run).lexically_normal();
  return (path.has_filename() ? path : path.parent_path()).filename().string();
}

// Points of a curve that a picture of this width can show.
int window_for(const Curve& curve, int smooth, int width) {
  if (smooth > 0) return smooth;
  return std::max(1, static_cast<int>(curve.points.size()) / width);
}

void run(const Options& o) {
  if (!o.output.empty() && !o.output.ends_with(".svg")) {
    throw UsageError(fmt::format(
        "{}: drawings are written as .svg; make another format of one, with rsvg-convert for PNG",
        o.output));
  }
  Plot plot;
  plot.x_label = "step";
  for (const auto& metric : o.metrics) {
    plot.title += (plot.title.empty() ? "" : ", ") + metric;
    plot.y_label = metric;
  }
  constexpr int points_of_svg = 700;
  for (const auto& run : o.runs) {
    const std::string path = fs::is_directory(run) ? run + "/metrics.jsonl" : run;
    for (const auto& metric : o.metrics) {
      Curve curve = {short_name(run) + " " + metric, read_metric(path, metric)};
      if (curve.points.empty()) continue;
      const int width = o.output.empty() ? o.width : points_of_svg;
      plot.curves.push_back(smoothed(curve, window_for(curve, o.smooth, width)));
    }
  }
  require(!plot.curves.empty(), "{}: holds no values of {}; metrics.jsonl lists what there is",
          o.runs.front(), fmt::join(o.metrics, ", "));
  if (o.output.empty()) {
    fmt::print("{}", text_plot(plot, o.width, o.height));
  } else {
    write_svg(plot, o.output);
  }
}

}  // namespace

void add_plot(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("plot", "Curves of training runs, here or as SVG");
  command->add_option("runs", o->runs, "Folders of runs, or metrics.jsonl files")->required();
  command
      ->add_option("--metric", o->metrics, "What to draw; repeatable; metrics.jsonl has the names")
      ->capture_default_str();
  command->add_option("-o,--output", o->output, "An .svg file instead of the terminal");
  command
      ->add_option("--smooth", o->smooth, "Points that each drawn one is the mean of; 0: as fits")
      ->check(CLI::Range(0, 1000000));
  command->add_option("--width", o->width, "Columns")
      ->capture_default_str()
      ->check(CLI::Range(40, 400));
  command->add_option("--height", o->height, "Rows")
      ->capture_default_str()
      ->check(CLI::Range(4, 100));
  command->callback([o] { run(*o); });
}

}  // namespace metala::cli
