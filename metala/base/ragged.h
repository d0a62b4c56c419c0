// A ragged batch: sequences of different lengths laid end to end, without padding.
//
// Activations of B sequences with N tokens in all are one [N, d] matrix; sequence b owns the rows
// offsets[b] .. offsets[b+1]. Empty sequences are legal.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace metala {

// Numbers that the host looks at and that kernels elsewhere read too: there the same numbers lie in
// the device's memory. Refers to memory of others.
template <class T>
class Mirrored {
 public:
  Mirrored() = default;
  Mirrored(std::span<const T> host, const T* there = nullptr) : host_(host), there_(there) {}
  Mirrored(const std::vector<T>& host) : host_(host) {}
  template <std::size_t n>
  Mirrored(const std::array<T, n>& host) : host_(host) {}

  std::size_t size() const { return host_.size(); }
  bool empty() const { return host_.empty(); }
  const T& operator[](std::size_t i) const { return host_[i]; }
  const T& front() const { return host_.front(); }
  const T& back() const { return host_.back(); }
  auto begin() const { return host_.begin(); }
  auto end() const { return host_.end(); }
  const T* data() const { return host_.data(); }
  std::span<const T> host() const { return host_; }
  const T* there() const { return there_; }  // null: not mirrored

 private:
  std::span<const T> host_;
  const T* there_ = nullptr;
};

using Offsets = Mirrored<std::int64_t>;  // B + 1 entries, the first 0, non-decreasing
using Ids = Mirrored<std::int32_t>;      // of tokens, or labels

inline std::int64_t batch_of(Offsets offsets) {
  return static_cast<std::int64_t>(offsets.size()) - 1;
}

// Throws Error naming the op unless the offsets run from 0 to `tokens` and never fall.
void check_offsets(std::string_view op, Offsets offsets, std::int64_t tokens);

}  // namespace metala
