// What the forms share, and how rows of W are handed to the threads.
#include "metala/ops/linear/linear_cpu.h"

#include <algorithm>
#include <optional>

#include "metala/base/profile.h"
#include "metala/base/threads.h"
#include "metala/ops/linear/linear_vnni_cpu.h"

namespace metala::linear::cpu {
std::vector<Chunk> shrinking_chunks(std::span<const Map> maps) {
  constexpr std::size_t least_bytes = std::size_t{64} << 10;
  std::size_t left = 0;
  for (const auto& map : maps) left += map.weight.bytes();
  const auto shares = static_cast<std::size_t>(2 * thread_count());
  std::vector<Chunk> chunks;
  for (const auto& map : maps) {
    const std::int64_t rows = map.weight.size(0);
    const std::size_t row_bytes =
        bytes_of(map.weight.dtype(), static_cast<std::size_t>(map.weight.size(1))) + 1;
    for (std::int64_t at = 0; at < rows;) {
      const std::size_t bytes = std::max(left / shares, least_bytes);
      const auto count = static_cast<std::int64_t>(bytes / row_bytes) + 1;
      const std::int64_t end = std::min(at + count, rows);
      chunks.push_back({&map, at, end});
      left -= std::min(left, static_cast<std::size_t>(end - at) * row_bytes);
      at = end;
    }
  }
  // As shares of the threads (base/shares.h), each of which begins with long ones.
  std::vector<Chunk> dealt;
  const auto threads = static_cast<std::size_t>(thread_count());
  for (std::size_t t = 0; t < threads; ++t) {
    for (std::size_t i = t; i < chunks.size(); i += threads) dealt.push_back(chunks[i]);
  }
  return dealt;
}

std::int64_t count_of_blocks(std::span<const Map> maps, std::int64_t rows) {
  std::int64_t count = 0;
  for (const auto& map : maps) count += (map.weight.size(0) + rows - 1) / rows;
  return count;
}

Chunk block_of(std::span<const Map> maps, std::int64_t rows, std::int64_t block) {
  for (const auto& map : maps) {
    const std::int64_t all = map.weight.size(0), begin = block * rows;
    if (begin < all) return {&map, begin, std::min(begin + rows, all)};
    block -= (all + rows - 1) / rows;
  }
  return {};
}

WeightRows Chunk::weights() const {
  const Tensor& w = map->weight;
  const std::size_t row_bytes = bytes_of(w.dtype(), static_cast<std::size_t>(w.stride(0)));
  return {static_cast<const std::byte*>(w.raw()) + static_cast<std::size_t>(begin) * row_bytes,
          row_bytes, w.dtype(), static_cast<std::size_t>(end - begin),
          static_cast<std::size_t>(w.size(1))};
}

Results Chunk::results(bool accumulate) const {
  return {map->y.data<float>() + begin, static_cast<std::size_t>(map->y.stride(0)),
          map->bias.defined() ? map->bias.data<float>() + begin : nullptr, accumulate};
}

double flops_of(const Tensor& x, std::span<const Map> maps) {
  double weights = 0;
  for (const Map& map : maps) weights += static_cast<double>(map.weight.count());
  return 2 * static_cast<double>(x.size(0)) * weights;
}

bool any_in_blocks(std::span<const Map> maps) {
  return std::any_of(maps.begin(), maps.end(),
                     [](const Map& map) { return in_blocks(map.weight.dtype()); });
}

bool any_in_bf16(std::span<const Map> maps) {
  return std::any_of(maps.begin(), maps.end(),
                     [](const Map& map) { return map.weight.dtype() == DType::bf16; });
}

void forward_streaming(const Tensor& x, std::span<const Map> maps, bool accumulate) {
  const profile::Scope scope("matrix products", flops_of(x, maps));
  const RoundedRows bytes = any_in_blocks(maps) ? rounded(x) : RoundedRows();
  const Tensor halves = any_in_bf16(maps) ? rounded_to_bf16(x) : Tensor();
  const bool by_vnni = vnni::available();
  std::vector<std::int16_t> shorts;
  if (!by_vnni && bytes.count > 0) shorts.assign(bytes.bytes(0), bytes.bytes(bytes.count));
  std::optional<vnni::StreamedRows> for_q8, for_q4;
  for (const Map& map : maps) {
    const DType type = map.weight.dtype();
    if (!by_vnni || !in_blocks(type)) continue;
    auto& streamed = type == DType::q8 ? for_q8 : for_q4;
    if (!streamed) streamed = vnni::streamed(bytes, type);
  }
  const std::vector<Chunk> chunks = shrinking_chunks(maps);
  parallel_tasks(static_cast<std::int64_t>(chunks.size()), [&](std::int64_t i) {
    const Chunk& chunk = chunks[static_cast<std::size_t>(i)];
    const WeightRows weights = chunk.weights();
    const Results results = chunk.results(accumulate);
    if (!in_blocks(weights.type)) {
      const Tensor& floats = weights.type == DType::bf16 ? halves : x;
      return stream_floats(weights, floats.data<float>(),
                           static_cast<std::size_t>(floats.stride(0)),
                           static_cast<std::size_t>(floats.size(0)), results);
    }
    if (!by_vnni) return stream_integers(weights, shorts.data(), bytes, results);
    vnni::stream(weights, weights.type == DType::q8 ? *for_q8 : *for_q4, results);
  });
}

}  // namespace metala::linear::cpu
