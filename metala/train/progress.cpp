#include "metala/train/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace metala {
namespace {

int terminal_width() {
  winsize size{};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

}  // namespace

std::string short_number(double value) {
  if (value >= 1e9) return fmt::format("{:.2f}G", value / 1e9);
  if (value >= 1e6) return fmt::format("{:.2f}M", value / 1e6);
  if (value >= 1e4) return fmt::format("{:.1f}k", value / 1e3);
  return fmt::format("{:.0f}", value);
}

std::string short_time(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return "?";
  const auto s = static_cast<std::int64_t>(std::llround(seconds));
  if (s >= 3600) return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
  return fmt::format("{}:{:02}", s / 60, s % 60);
}

void Pace::update(double done, double units, double seconds) {
  last_ = {done, units, seconds};
  if (!begun_) first_ = last_;
  begun_ = true;
}

double Pace::rate() const {
  const double took = last_.seconds - first_.seconds;
  return took > 0 ? (last_.units - first_.units) / took : NAN;
}

double Pace::seconds_left(double total) const {
  const double done = last_.done - first_.done;
  if (!(done > 0) || !(total > 0)) return NAN;
  return (last_.seconds - first_.seconds) * std::max(total - last_.done, 0.0) / done;
}

ProgressBar::ProgressBar(std::string title, double total, std::string unit)
    : title_(std::move(title)),
      unit_(std::move(unit)),
      total_(total),
      terminal_(isatty(STDERR_FILENO) != 0),
      start_(Clock::now()),
      last_(start_) {}

ProgressBar::~ProgressBar() {
  finish();
}

void ProgressBar::update(double done, const std::string& note, double units) {
  done_ = done;
  note_ = note;
  const auto now = Clock::now();
  pace_.update(done, units < 0 ? done : units, std::chrono::duration<double>(now - start_).count());
  const double since = std::chrono::duration<double>(now - last_).count();
  if (since < (terminal_ ? 0.1 : 15.0)) return;
  last_ = now;
  drawn_ = true;
  if (terminal_) {
    fmt::print(stderr, "\r{}\x1b[K", line(terminal_width() - 1));
  } else {
    fmt::print(stderr, "{}\n", line(160));
  }
  std::fflush(stderr);
}

void ProgressBar::say(const std::string& text) {
  clear_line();
  fmt::print(stderr, "{}\n", text);
  std::fflush(stderr);
}

void ProgressBar::finish() {
  if (finished_) return;
  finished_ = true;
  if (terminal_ && drawn_) fmt::print(stderr, "\r{}\x1b[K\n", line(terminal_width() - 1));
  std::fflush(stderr);
}

void ProgressBar::clear_line() const {
  if (terminal_ && drawn_) fmt::print(stderr, "\r\x1b[K");
}

std::string ProgressBar::line(int width) const {
  const double share = total_ > 0 ? std::clamp(done_ / total_, 0.0, 1.0) : 0;
  const double rate = pace_.rate();
  const std::string tail = fmt::format(
      " {:3.0f}% {} {}/s {} left{}{}", 100 * share, std::isnan(rate) ? "?" : short_number(rate),
      unit_, short_time(pace_.seconds_left(total_)), note_.empty() ? "" : "  ", note_);
  const int room = std::clamp(width - static_cast<int>(title_.size() + tail.size()) - 3, 0, 40);
  const int full = static_cast<int>(share * room);
  std::string bar = room < 8 ? ""
                             : " [" + std::string(static_cast<std::size_t>(full), '=') +
                                   std::string(static_cast<std::size_t>(room - full), ' ') + "]";
  std::string text = title_ + bar + tail;
  if (static_cast<int>(text.size()) > width) text.resize(static_cast<std::size_t>(width));
  return text;
}

}  // namespace metala
