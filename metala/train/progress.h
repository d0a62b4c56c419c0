// ProgressBar: how far a long job is, on stderr.
//
// Rate and time left are those since the first update: a resumed job does not start at 0, and the
// first step of many is the slowest.
// On a terminal one line that is redrawn at most ten times a second; elsewhere a plain line every
// so often, so that a log stays readable. Shows done of total, rate and time left.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace metala {

// How fast a job goes.
class Pace {
 public:
  // `seconds` on any clock.
  void update(double done, double units, double seconds);
  double rate() const;                      // units a second; NaN before the second update
  double seconds_left(double total) const;  // until `total` is done; NaN while that is not known

 private:
  struct Reading {
    double done = 0, units = 0, seconds = 0;
  };
  Reading first_, last_;
  bool begun_ = false;
};

class ProgressBar {
 public:
  // `unit` is what is counted, for the rate: "tok", "MB".
  ProgressBar(std::string title, double total, std::string unit);
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  // `done` of total; `note` is shown behind. `units` counts for the rate, if not `done` itself.
  void update(double done, const std::string& note = {}, double units = -1);
  // Prints a line of its own above the bar.
  void say(const std::string& line);
  void finish();

 private:
  using Clock = std::chrono::steady_clock;
  std::string line(int width) const;
  void clear_line() const;

  std::string title_, unit_, note_;
  double total_, done_ = 0;
  Pace pace_;
  bool terminal_, finished_ = false, drawn_ = false;
  Clock::time_point start_, last_;
};

// "1.2k", "3.4M"; "3:05", "1:02:09".
std::string short_number(double value);
std::string short_time(double seconds);

}  // namespace metala
