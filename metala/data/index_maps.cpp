#include "metala/data/index_maps.h"

#include <algorithm>
#include <bit>
#include <filesystem>
#include <memory>
#include <utility>
#include <vector>

#include "metala/base/error.h"
#include "metala/base/random.h"
#include "metala/io/npy.h"

namespace metala {
namespace {

using Place = SampleIndex::Place;
static_assert(sizeof(Place) == 8 && std::endian::native == std::endian::little);

struct Names {
  std::string order, places, visits;
};

Names names_of(const std::string& prefix, const std::string& part, const SampleOptions& o) {
  const std::string wanted = o.epochs > 0 ? "None" : std::to_string(o.wanted);
  const std::string name = fmt::format("{}_{}_indexmap_{}ns_{}sl_{}s_packedpi_ac", prefix, part,
                                       wanted, o.length, o.seed);
  return {name + "_doc_idx.npy", name + "_sample_idx.npy", name + "_shuffle_idx.npy"};
}

SampleIndex::Maps mapped(const Names& names) {
  struct Files {
    NpyFile order, places, visits;
  };
  const auto files = std::make_shared<const Files>(
      Files{NpyFile::open(names.order), NpyFile::open(names.places), NpyFile::open(names.visits)});
  const auto check = [](const NpyFile& file, const char* type, std::size_t rank,
                        const std::string& name) {
    require(file.descr() == type && file.shape().size() == rank, "{}: holds {}; wanted {}", name,
            file.descr(), type);
  };
  check(files->order, "<i4", 1, names.order);
  check(files->places, "<i4", 2, names.places);
  check(files->visits, "<u4", 1, names.visits);
  require(files->places.shape()[1] == 2, "{}: its rows are not of two numbers", names.places);
  const auto pairs = files->places.numbers<std::uint32_t>();
  return {files->order.numbers<std::uint32_t>(),
          {reinterpret_cast<const Place*>(pairs.data()), pairs.size() / 2},
          files->visits.numbers<std::uint32_t>(),
          files};
}

// Throws unless `numbers` has `count` numbers of [first, last) that add up to `sum`.
void check_range(std::span<const std::uint32_t> numbers, std::int64_t count, std::int64_t first,
                 std::int64_t last, std::uint64_t sum, const std::string& name) {
  require(static_cast<std::int64_t>(numbers.size()) == count, "{}: {} numbers; wanted {}", name,
          numbers.size(), count);
  std::uint32_t least = 0xffffffff, most = 0;
  std::uint64_t total = 0;
  for (const std::uint32_t n : numbers) {
    least = std::min(least, n);
    most = std::max(most, n);
    total += n;
  }
  require(least >= first && most < last && total == sum,
          "{}: is no order of {} to {}, which this split has", name, first, last - 1);
}

// Whether sample m holds as many tokens as it should, by the documents' lengths.
bool fits(const SampleIndex::Maps& maps, std::size_t m, const LengthOf& length_of,
          std::int64_t length) {
  Place at = maps.places[m];
  const Place end = maps.places[m + 1];
  for (std::int64_t missing = length + 1; at.document < maps.order.size(); ++at.document) {
    const std::int64_t left = length_of(maps.order[at.document]) - at.offset;
    if (left < 0) return false;
    if (left >= missing) {
      at.offset += static_cast<std::uint32_t>(missing - 1);
      return at == end;
    }
    missing -= left;
    at.offset = 0;
  }
  return false;
}

std::uint64_t sum_below(std::int64_t n) {
  return static_cast<std::uint64_t>(n) * static_cast<std::uint64_t>(n - 1) / 2;
}

void check(const SampleIndex::Maps& maps, const Names& names, std::int64_t first, std::int64_t last,
           const LengthOf& length_of, const SampleOptions& options, const PackedSize& size) {
  const std::uint64_t once = sum_below(last) - sum_below(first);
  check_range(maps.order, size.epochs * (last - first), first, last,
              static_cast<std::uint64_t>(size.epochs) * once, names.order);
  check_range(maps.visits, size.samples, 0, size.samples, sum_below(size.samples), names.visits);
  require(static_cast<std::int64_t>(maps.places.size()) == size.samples + 1,
          "{}: {} rows; wanted {}", names.places, maps.places.size(), size.samples + 1);
  const bool rising =
      std::is_sorted(maps.places.begin(), maps.places.end(),
                     [](const Place& a, const Place& b) { return a.document < b.document; });
  require(
      rising && maps.places.front() == Place{} && maps.places.back().document < maps.order.size(),
      "{}: its places do not rise from the first to the last", names.places);
  // All of them would take as long as making them; these find data that is not what it was.
  constexpr std::uint64_t looks = 4096;
  const Philox random(options.seed);
  for (std::uint64_t i = 0; i < looks; ++i) {
    const auto m = random.below(i, static_cast<std::uint64_t>(size.samples));
    require(fits(maps, m, length_of, options.length),
            "{}: sample {} has not {} tokens; the data has changed since", names.places, m,
            options.length);
  }
}

bool all_there(const Names& names) {
  for (const auto* name : {&names.order, &names.places, &names.visits}) {
    std::error_code absent;
    if (!std::filesystem::exists(*name, absent)) return false;
  }
  return true;
}

void write(const Names& names, const SampleIndex::Maps& maps) {
  const auto count = [](std::size_t n) { return static_cast<std::int64_t>(n); };
  write_npy(names.order, "<i4", {count(maps.order.size())}, std::as_bytes(maps.order));
  write_npy(names.places, "<i4", {count(maps.places.size()), 2}, std::as_bytes(maps.places));
  write_npy(names.visits, "<u4", {count(maps.visits.size())}, std::as_bytes(maps.visits));
}

}  // namespace

SampleIndex sample_index(const std::string& prefix, std::int64_t first, std::int64_t last,
                         const LengthOf& length_of, const SampleOptions& options,
                         const std::function<bool(std::int64_t)>& useless,
                         const IndexMapOptions& keeping) {
  const auto made = [&] { return SampleIndex(first, last, length_of, options, useless); };
  if (keeping.part.empty() || options.packing != Packing::packed || !options.shuffle) return made();
  const PackedSize size = packed_size(first, last, length_of, options);
  const std::int64_t read = size.epochs * (last - first);
  // GPT-NeoX has 64-bit maps for more samples than this, and none for more documents.
  constexpr std::int64_t most = 0x7fffffff;
  if (read + size.samples < keeping.least || read > most || 2 * (size.samples + 1) >= most) {
    return made();
  }
  const auto say = [&](const std::string& text) {
    if (keeping.notice) keeping.notice(text);
  };
  const Names names = names_of(prefix, keeping.part, options);
  if (all_there(names)) {
    try {
      SampleIndex::Maps maps = mapped(names);
      check(maps, names, first, last, length_of, options, size);
      return {options.length, size.epochs, std::move(maps)};
    } catch (const Error& e) {
      say(fmt::format("{}; making it anew", e.what()));
    }
  }
  say(fmt::format("ordering {} samples of {}{}", size.samples, prefix,
                  keeping.write ? fmt::format(", kept as {}", names.order) : ""));
  SampleIndex index = made();
  if (!keeping.write) return index;
  try {
    write(names, index.maps());
    return {options.length, size.epochs, mapped(names)};
  } catch (const Error& e) {
    say(fmt::format("the order of samples is not kept: {}", e.what()));
  }
  return index;
}

}  // namespace metala
