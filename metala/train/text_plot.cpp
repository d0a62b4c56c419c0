#include "metala/train/text_plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string_view>
#include <vector>

#include "metala/train/axis_range.h"

namespace metala {
namespace {

constexpr std::string_view marks = "*o+x#@";
constexpr int label_width = 9;

// Cell of 0 .. cells - 1.
int cell(const AxisRange& axis, double x, int cells) {
  return std::clamp(static_cast<int>(std::lround(axis.share(x) * (cells - 1))), 0, cells - 1);
}

bool drawable(const std::pair<double, double>& p) {
  return std::isfinite(p.first) && std::isfinite(p.second);
}

// Every column between two points gets a mark on the straight line between them.
void draw(const Curve& curve, char mark, const AxisRange& x, const AxisRange& y,
          std::vector<std::string>& rows) {
  const int height = static_cast<int>(rows.size());
  const int width = static_cast<int>(rows.front().size());
  const std::pair<double, double>* last = nullptr;
  for (const auto& point : curve.points) {
    if (!drawable(point)) {
      last = nullptr;
      continue;
    }
    const int to = cell(x, point.first, width);
    const int from = last == nullptr ? to : cell(x, last->first, width);
    for (int column = std::min(from, to); column <= std::max(from, to); ++column) {
      const double share = from == to ? 1 : static_cast<double>(column - from) / (to - from);
      const double value =
          last == nullptr ? point.second : last->second + share * (point.second - last->second);
      rows[static_cast<std::size_t>(height - 1 - cell(y, value, height))]
          [static_cast<std::size_t>(column)] = mark;
    }
    last = &point;
  }
}

}  // namespace

Curve smoothed(const Curve& curve, int window) {
  if (window <= 1) return curve;
  Curve out = {curve.name, {}};
  double x = 0, y = 0;
  int count = 0;
  const auto flush = [&] {
    if (count > 0) out.points.emplace_back(x / count, y / count);
    x = y = 0;
    count = 0;
  };
  for (const auto& point : curve.points) {
    if (!drawable(point)) continue;
    x += point.first;
    y += point.second;
    if (++count == window) flush();
  }
  flush();
  return out;
}

std::string text_plot(const Plot& plot, int width, int height) {
  AxisRange x, y;
  for (const auto& curve : plot.curves) {
    for (const auto& point : curve.points) {
      if (!drawable(point)) continue;
      x.include(point.first);
      y.include(point.second);
    }
  }
  x.settle();
  y.settle();
  const int columns = std::max(width - label_width - 2, 16);
  std::vector<std::string> rows(static_cast<std::size_t>(std::max(height, 4)),
                                std::string(static_cast<std::size_t>(columns), ' '));
  for (std::size_t i = 0; i < plot.curves.size(); ++i) {
    draw(plot.curves[i], marks[i % marks.size()], x, y, rows);
  }
  const int count = static_cast<int>(rows.size());
  std::vector<std::string> labels(rows.size());
  for (const double tick : round_ticks(y.low, y.high, std::max(count / 4, 2))) {
    labels[static_cast<std::size_t>(count - 1 - cell(y, tick, count))] =
        fmt::format("{:.5g}", tick);
  }
  std::string out = plot.title + "\n";
  for (std::size_t r = 0; r < rows.size(); ++r) {
    std::string row = rows[r];
    row.erase(row.find_last_not_of(' ') + 1);
    out += fmt::format("{:>{}} |{}\n", labels[r], label_width, row);
  }
  std::string axis(static_cast<std::size_t>(columns), ' ');
  for (const double tick : round_ticks(x.low, x.high, std::max(columns / 12, 2))) {
    const std::string label = fmt::format("{:.6g}", tick);
    const int middle = cell(x, tick, columns) - static_cast<int>(label.size()) / 2;
    const auto at = static_cast<std::size_t>(
        std::clamp(middle, 0, std::max(columns - static_cast<int>(label.size()), 0)));
    const std::string_view place = std::string_view(axis).substr(at, label.size());
    const bool touches = at > 0 && axis[at - 1] != ' ';
    if (touches || place.find_first_not_of(' ') != std::string_view::npos) continue;
    axis.replace(at, label.size(), label);
  }
  axis.erase(axis.find_last_not_of(' ') + 1);
  out += fmt::format("{:>{}} +{}\n", "", label_width,
                     std::string(static_cast<std::size_t>(columns), '-'));
  out += fmt::format("{:>{}}  {}\n", "", label_width, axis);
  for (std::size_t i = 0; i < plot.curves.size(); ++i) {
    out += fmt::format("{:>{}}  {} {}\n", "", label_width, marks[i % marks.size()],
                       plot.curves[i].name);
  }
  return out;
}

}  // namespace metala
