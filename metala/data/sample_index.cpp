#include "metala/data/sample_index.h"

#include <algorithm>
#include <array>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "metala/base/checked_product.h"
#include "metala/base/error.h"
#include "metala/data/numpy_shuffle.h"

namespace metala {

Packing packing_named(const std::string& name) {
  if (name == "packed") return Packing::packed;
  if (name == "pack_until_overflow") return Packing::until_overflow;
  if (name == "unpacked") return Packing::unpacked;
  fail("pack_impl \"{}\" is not known; supported: packed, pack_until_overflow, unpacked", name);
}

namespace {

using Place = SampleIndex::Place;

constexpr std::int64_t most = 0xfffffffe;  // documents read, and samples

// Maps being made.
struct Arrays {
  std::vector<std::uint32_t> order;
  std::vector<Place> places;
  std::vector<std::uint32_t> visits;
};

std::int64_t tokens_of(std::int64_t first, std::int64_t last, const LengthOf& length_of) {
  std::int64_t tokens = 0;
  for (std::int64_t d = first; d < last; ++d) tokens += length_of(d);
  require(tokens > 0, "data: the {} documents hold no tokens", last - first);
  return tokens;
}

void cut(const LengthOf& length_of, std::int64_t length, std::int64_t samples, Arrays& arrays) {
  const auto& order = arrays.order;
  // Lengths are looked up many at a time, as neighbours in `order` lie far apart in memory: so
  // their loads overlap.
  std::array<std::int64_t, 256> lengths;
  std::size_t looked_up = 0;  // before this position
  const auto length_at = [&](std::size_t position) {
    if (position >= looked_up) {
      const std::size_t count = std::min(lengths.size(), order.size() - looked_up);
      for (std::size_t i = 0; i < count; ++i) lengths[i] = length_of(order[looked_up + i]);
      looked_up += count;
    }
    return lengths[position % lengths.size()];
  };
  arrays.places.reserve(static_cast<std::size_t>(samples) + 1);
  Place at;
  arrays.places.push_back(at);
  for (std::int64_t i = 0; i < samples; ++i) {
    std::int64_t missing = length + 1;
    for (;;) {
      const std::int64_t left = length_at(at.document) - at.offset;
      if (left >= missing) {
        at.offset += static_cast<std::uint32_t>(missing - 1);
        break;
      }
      missing -= left;
      ++at.document;
      at.offset = 0;
    }
    arrays.places.push_back(at);
  }
}

// Cut end to end.
Arrays packed(std::int64_t first, std::int64_t last, const LengthOf& length_of,
              const SampleOptions& options, const PackedSize& size) {
  Arrays arrays;
  arrays.order.reserve(static_cast<std::size_t>(size.epochs * (last - first)));
  for (std::int64_t epoch = 0; epoch < size.epochs; ++epoch) {
    for (std::int64_t d = first; d < last; ++d) {
      arrays.order.push_back(static_cast<std::uint32_t>(d));
    }
  }
  std::mt19937 random(options.seed);
  if (options.shuffle) numpy_shuffle(random, std::span(arrays.order));
  cut(length_of, options.length, size.samples, arrays);
  arrays.visits.resize(static_cast<std::size_t>(size.samples));
  std::iota(arrays.visits.begin(), arrays.visits.end(), 0u);
  if (options.shuffle) numpy_shuffle(random, std::span(arrays.visits));
  return arrays;
}

// Of whole documents; counts the epochs.
Arrays whole(std::int64_t first, std::int64_t last, const LengthOf& length_of,
             const SampleOptions& options, const std::function<bool(std::int64_t)>& useless,
             std::int64_t& epochs) {
  require(options.epochs == 0,
          "data: samples of whole documents are counted, not epochs; give train_iters");
  const std::int64_t samples = std::max<std::int64_t>(options.wanted, 2);
  require(samples <= most && last <= most, "data: {} samples of {} documents; at most {} of each",
          samples, last - first, most);
  std::mt19937 random(options.seed);
  Arrays arrays;
  arrays.visits.resize(static_cast<std::size_t>(samples));
  std::iota(arrays.visits.begin(), arrays.visits.end(), 0u);
  if (options.shuffle) numpy_shuffle(random, std::span(arrays.visits));
  std::vector<std::uint32_t> documents(static_cast<std::size_t>(last - first));
  std::iota(documents.begin(), documents.end(), static_cast<std::uint32_t>(first));
  const bool shuffled = options.shuffle && options.packing == Packing::until_overflow;
  if (shuffled) numpy_shuffle(random, std::span(documents));

  auto& order = arrays.order;
  auto& places = arrays.places;
  const bool alone = options.packing == Packing::unpacked;
  std::int64_t filled = 0;  // tokens of the sample being made
  // One document more than there are samples: what the last but one ends with.
  const auto done = [&] {
    return alone ? static_cast<std::int64_t>(order.size()) > samples
                 : static_cast<std::int64_t>(places.size()) >= samples;
  };
  for (epochs = 1; !done(); ++epochs) {
    const std::size_t before = order.size();
    for (std::size_t i = 0; i < documents.size() && !done(); ++i) {
      const std::int64_t length = length_of(documents[i]);
      if (!options.chopped && length > options.length + 1) continue;
      if (useless && useless(documents[i])) continue;
      if (alone || filled == 0 || filled + length > options.length + 1) {
        places.push_back({static_cast<std::uint32_t>(order.size()), 0});
        filled = 0;
      }
      filled += length;
      order.push_back(documents[i]);
    }
    require(order.size() > before,
            "data: no document makes a sample: all are longer than {} tokens or have no label",
            options.length + 1);
    require(static_cast<std::int64_t>(order.size()) <= most, "data: more than {} documents read",
            most);
    if (shuffled && !done()) numpy_shuffle(random, std::span(documents));
  }
  --epochs;
  places.resize(static_cast<std::size_t>(samples));
  places.push_back(
      {static_cast<std::uint32_t>(alone ? samples : static_cast<std::int64_t>(order.size())), 0});
  return arrays;
}

}  // namespace

PackedSize packed_size(std::int64_t first, std::int64_t last, const LengthOf& length_of,
                       const SampleOptions& options) {
  const std::int64_t tokens = tokens_of(first, last, length_of);
  PackedSize size;
  size.epochs = options.epochs;
  if (options.epochs <= 0) {  // least e with (e tokens - 1) div T >= wanted
    const std::int64_t wanted = std::max<std::int64_t>(options.wanted, 2);
    size.epochs =
        checked_product("data: samples times their length", wanted, options.length) / tokens + 1;
  }
  const std::int64_t read = checked_product("data: epochs times tokens", size.epochs, tokens);
  size.samples = (read - 1) / options.length;
  require(size.samples >= 2,
          "data: {} tokens, read {} times, make {} samples of {} tokens; at least 2 are needed. "
          "Give more text or shorter sequences",
          tokens, size.epochs, size.samples, options.length);
  require(size.epochs <= most / (last - first) && size.samples <= most && last <= most,
          "data: {} documents, read {} times, make {} samples; at most {} of each are supported",
          last - first, size.epochs, size.samples, most);
  return size;
}

SampleIndex::SampleIndex(std::int64_t first, std::int64_t last, const LengthOf& length_of,
                         const SampleOptions& options,
                         const std::function<bool(std::int64_t)>& useless)
    : length_(options.length) {
  require(length_ >= 1, "data: samples of {} tokens; wanted 1 or more", length_);
  const auto arrays = std::make_shared<Arrays>();
  if (options.packing == Packing::packed) {
    const PackedSize size = packed_size(first, last, length_of, options);
    epochs_ = size.epochs;
    *arrays = packed(first, last, length_of, options, size);
  } else {
    tokens_of(first, last, length_of);
    *arrays = whole(first, last, length_of, options, useless, epochs_);
  }
  maps_ = {arrays->order, arrays->places, arrays->visits, arrays};
}

}  // namespace metala
