// Curves drawn with characters, for a terminal.
#pragma once

#include <string>

#include "metala/train/plot.h"

namespace metala {

// Lines of at most `width` characters: a title, `height` rows with labelled ticks on the left, the
// x axis, and a legend with each curve's mark. Where curves meet, the later one is on top.
std::string text_plot(const Plot&, int width, int height);

// Means over windows of `window` neighbouring points, so that noise does not hide the course.
Curve smoothed(const Curve&, int window);

}  // namespace metala
