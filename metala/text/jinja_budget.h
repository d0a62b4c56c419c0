// What one rendering may cost, whatever the template does: a template comes with a model, and a
// model comes from anyone.
#pragma once

#include <cstddef>
#include <cstdint>

#include "metala/base/error.h"

namespace metala::jinja {

struct Limits {
  std::int64_t steps = 10'000'000;             // expressions, statements, items looked at
  std::int64_t bytes = std::int64_t{1} << 28;  // of all values ever made and of the output
  int depth = 500;                             // of expressions and macros inside each other
};

class Budget {
 public:
  explicit Budget(const Limits& limits) : left_(limits) {}

  void step(std::size_t count = 1) {
    require(count <= static_cast<std::uint64_t>(left_.steps),
            "the template takes too many steps to render");
    left_.steps -= static_cast<std::int64_t>(count);
  }
  // Call it before making something that large.
  void bytes(std::size_t count) {
    require(count <= static_cast<std::uint64_t>(left_.bytes),
            "the template makes too much text to render");
    left_.bytes -= static_cast<std::int64_t>(count);
  }
  void items(std::size_t count) {
    constexpr std::size_t bytes_per_item = 64;
    require(count <= static_cast<std::uint64_t>(left_.bytes) / bytes_per_item,
            "the template makes lists too long to render");
    bytes(count * bytes_per_item);
    step(count);
  }

  // One level deeper until it goes out of scope.
  class Level {
   public:
    explicit Level(Budget& budget) : budget_(budget) {
      require(budget.left_.depth > 0, "the template nests too deep to render");
      --budget_.left_.depth;
    }
    ~Level() { ++budget_.left_.depth; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;

   private:
    Budget& budget_;
  };

 private:
  Limits left_;
};

}  // namespace metala::jinja
