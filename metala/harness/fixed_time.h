// A moment for tests of what shows the time.
#pragma once

#include <ctime>

namespace metala::harness {

// Noon of 26 July 2024, here: what the goldens' strftime_now shows.
inline std::time_t fixed_now() {
  std::tm when{};
  when.tm_year = 124;
  when.tm_mon = 6;
  when.tm_mday = 26;
  when.tm_hour = 12;
  when.tm_isdst = -1;
  return std::mktime(&when);
}

}  // namespace metala::harness
