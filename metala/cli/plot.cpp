// metala plot: the curves of training runs, on the terminal, as SVG or as PNG.
#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
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

// By rsvg-convert (librsvg), at twice the drawing's size, on white.
void write_png(const Plot& plot, const std::string& path) {
  const std::string drawing = path + ".partial.svg", partial = path + ".partial";
  write_svg(plot, drawing);
  std::vector<std::string> words = {"rsvg-convert", "--zoom",   "2",     "--background-color",
                                    "white",        "--output", partial, drawing};
  std::vector<char*> arguments;
  for (auto& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  pid_t process = 0;
  int status =
      posix_spawnp(&process, arguments.front(), nullptr, nullptr, arguments.data(), environ);
  const bool missing = status == ENOENT;
  if (status == 0) waitpid(process, &status, 0);
  fs::remove(drawing);
  if (status != 0) fs::remove(partial);
  require(!missing,
          "{}: rsvg-convert makes the PNG, and it is not installed (Debian: librsvg2-bin); or name "
          "an .svg file",
          path);
  require(status == 0, "{}: rsvg-convert could not make it", path);
  fs::rename(partial, path);
}

void run(const Options& o) {
  const bool png = o.output.ends_with(".png");
  if (!o.output.empty() && !png && !o.output.ends_with(".svg")) {
    throw UsageError(fmt::format("{}: drawings are written as .svg or .png", o.output));
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
  } else if (png) {
    write_png(plot, o.output);
  } else {
    write_svg(plot, o.output);
  }
}

}  // namespace

void add_plot(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("plot", "Curves of training runs, here, as SVG or as PNG");
  command->add_option("runs", o->runs, "Folders of runs, or metrics.jsonl files")->required();
  command
      ->add_option("--metric", o->metrics, "What to draw; repeatable; metrics.jsonl has the names")
      ->capture_default_str();
  command->add_option("-o,--output", o->output,
                      "An .svg or .png file instead of the terminal (.png needs rsvg-convert)");
  command
      ->add_option("--smooth", o->smooth, "Points that each drawn one is the mean of; 0: as fits")
      ->check(CLI::Range(0, 1000000));
  command->add_option("--width", o->width, "Columns")
      ->capture_default_str()
      ->check(CLI::Range(40, 400));
  command->add_option("--height", o->height, "Rows")
      ->capture_default_str()
      ->check(CLI::Range(4, 100));
  command->callback([o, command] {
    for (const char* size : {"--width", "--height"}) {
      if (!o->output.empty() && command->get_option(size)->count() > 0) {
        throw UsageError(fmt::format("{} is for the terminal; -o has a size of its own", size));
      }
    }
    run(*o);
  });
}

}  // namespace metala::cli
