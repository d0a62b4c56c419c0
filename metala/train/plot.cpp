#include "metala/train/plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "metala/io/file.h"
#include "metala/train/axis_range.h"

namespace metala {
namespace {

constexpr double width = 720, height = 400;
constexpr double left = 64, right = 20, top = 44, bottom = 52;
// Of equal weight on white and on near-black.
constexpr std::array<const char*, 6> colours = {"#3b82c4", "#e07b39", "#4a9d5b",
                                                "#b05fb0", "#c0504d", "#7f7f7f"};

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '&':
        out += "&amp;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

bool drawable(const std::pair<double, double>& p) {
  return std::isfinite(p.first) && std::isfinite(p.second);
}

struct Frame {
  AxisRange x, y;
  double px(double v) const { return left + x.share(v) * (width - left - right); }
  double py(double v) const { return height - bottom - y.share(v) * (height - top - bottom); }
};

std::string tick_label(double value) {
  if (std::abs(value) >= 10000) return fmt::format("{:g}k", value / 1000);
  return fmt::format("{:.6g}", value);
}

// Of each column of one unit the first, lowest, highest and last point, in their order: a line
// through these covers what a line through all of them covers (the "M4" reduction, Jugel et al.,
// VLDB 2014), and the drawing of a run of a million steps stays as small as one of a thousand.
std::string path_of(const Curve& curve, const Frame& frame) {
  std::string path;
  bool pen_down = false;
  const auto& points = curve.points;
  const auto column = [&](std::size_t i) { return std::floor(frame.px(points[i].first)); };
  for (std::size_t begin = 0; begin < points.size();) {
    if (!drawable(points[begin])) {
      pen_down = false;
      ++begin;
      continue;
    }
    std::size_t end = begin + 1, lowest = begin, highest = begin;
    for (; end < points.size() && drawable(points[end]) && column(end) == column(begin); ++end) {
      if (points[end].second < points[lowest].second) lowest = end;
      if (points[end].second > points[highest].second) highest = end;
    }
    std::array kept = {begin, std::min(lowest, highest), std::max(lowest, highest), end - 1};
    const auto kept_end = std::unique(kept.begin(), kept.end());
    for (auto i = kept.begin(); i != kept_end; ++i) {
      path += fmt::format("{}{:.1f} {:.1f}", pen_down ? "L" : "M", frame.px(points[*i].first),
                          frame.py(points[*i].second));
      pen_down = true;
    }
    begin = end;
  }
  return path;
}

}  // namespace

std::vector<double> round_ticks(double low, double high, int about) {
  if (!(high > low) || about < 1) return {low};
  const double rough = (high - low) / about;
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  double step = 10 * power;
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= rough) {
      step = factor * power;
      break;
    }
  }
  std::vector<double> ticks;
  const double first = std::ceil(low / step - 1e-9);
  for (int i = 0; i <= about; ++i) {  // where neighbouring numbers are further apart, some repeat
    const double tick = (first + i) * step;
    if (tick > high + 1e-9 * step) break;
    ticks.push_back(tick == 0 ? 0 : tick);  // no -0
  }
  return ticks;
}

std::string svg(const Plot& plot) {
  Frame frame;
  for (const auto& curve : plot.curves) {
    for (const auto& point : curve.points) {
      if (!drawable(point)) continue;
      frame.x.include(point.first);
      frame.y.include(point.second);
    }
  }
  frame.x.settle();
  frame.y.settle();
  const double margin = 0.05 * (frame.y.high - frame.y.low);
  frame.y.low -= margin;
  frame.y.high += margin;

  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" "
      "font-family=\"sans-serif\" "
      "font-size=\"12\" fill=\"#808080\">\n"
      "<text x=\"{2}\" y=\"24\" font-size=\"15\">{3}</text>\n",
      width, height, left, escaped(plot.title));
  for (const double tick : round_ticks(frame.y.low, frame.y.high, 6)) {
    out += fmt::format(
        "<line x1=\"{0}\" y1=\"{1:.1f}\" x2=\"{2}\" y2=\"{1:.1f}\" stroke=\"#808080\" "
        "stroke-opacity=\"0.25\"/>\n"
        "<text x=\"{3}\" y=\"{4:.1f}\" text-anchor=\"end\">{5}</text>\n",
        left, frame.py(tick), width - right, left - 8, frame.py(tick) + 4, tick_label(tick));
  }
  for (const double tick : round_ticks(frame.x.low, frame.x.high, 8)) {
    out += fmt::format("<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n",
                       frame.px(tick), height - bottom + 18, tick_label(tick));
  }
  out += fmt::format(
      "<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n"
      "<text transform=\"translate(16 {:.1f}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n",
      (left + width - right) / 2, height - 12, escaped(plot.x_label), (top + height - bottom) / 2,
      escaped(plot.y_label));
  double legend = width - right;
  for (std::size_t i = 0; i < plot.curves.size(); ++i) {
    const auto& curve = plot.curves[i];
    const char* colour = colours[i % colours.size()];
    const std::string path = path_of(curve, frame);
    if (path.empty()) continue;
    out += fmt::format(
        "<path d=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.8\" stroke-linejoin=\"round\" "
        "stroke-linecap=\"round\"/>\n",
        path, colour);
    legend -= 8.0 * static_cast<double>(curve.name.size()) + 30;
    out += fmt::format(
        "<rect x=\"{:.1f}\" y=\"14\" width=\"16\" height=\"4\" rx=\"2\" fill=\"{}\"/>\n"
        "<text x=\"{:.1f}\" y=\"20\">{}</text>\n",
        legend, colour, legend + 22, escaped(curve.name));
  }
  return out + "</svg>\n";
}

void write_svg(const Plot& plot, const std::string& path) {
  write_file_atomically(path, svg(plot));
}

}  // namespace metala
