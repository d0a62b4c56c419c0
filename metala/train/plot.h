// Plot: curves as a small SVG that reads well on light and dark pages.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace metala {

struct Curve {
  std::string name;
  std::vector<std::pair<double, double>> points;  // (x, y); not-a-number values leave a gap
};

struct Plot {
  std::string title, x_label, y_label;
  std::vector<Curve> curves;
};

std::string svg(const Plot&);
void write_svg(const Plot&, const std::string& path);  // atomic (io/file.h)

// Ticks at round numbers that cover [low, high]: multiples of 1, 2 or 5 times a power of ten.
std::vector<double> round_ticks(double low, double high, int about);

}  // namespace metala
