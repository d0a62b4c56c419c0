#include "metala/data/token_index.h"

#include <cstring>
#include <limits>
#include <string_view>

#include "metala/base/error.h"
#include "metala/io/byte_reader.h"

namespace metala {
namespace {

constexpr std::string_view mapped_magic("MMIDIDX\0\0", 9);
constexpr std::string_view legacy_magic("TNTIDX\0\0", 8);

template <class T>
T loaded(const std::byte* array, std::int64_t i) {
  T value;
  std::memcpy(&value, array + i * static_cast<std::int64_t>(sizeof value), sizeof value);
  return value;
}

TokenType checked_type(std::uint64_t code, const std::string& source) {
  require((code >= 1 && code <= 5) || code == 8,
          "{}: type code is {}; wanted whole numbers: 1 (u8), 2 (i8), 3 (i16), 4 (i32), 5 (i64) or "
          "8 (u16)",
          source, code);
  return static_cast<TokenType>(code);
}

// A count of entries that the rest of the file could hold at all, so that sums cannot overflow.
std::int64_t checked_count(std::uint64_t count, const char* what, const ByteReader& in) {
  require(count <= in.remaining(), "{}: claims {} {}, in {} bytes", in.source(), count, what,
          in.remaining());
  return static_cast<std::int64_t>(count);
}

}  // namespace

std::int64_t size_of(TokenType type) {
  switch (type) {
    case TokenType::u8:
    case TokenType::i8:
      return 1;
    case TokenType::i16:
    case TokenType::u16:
      return 2;
    case TokenType::i32:
      return 4;
    case TokenType::i64:
      break;
  }
  return 8;
}

const char* name_of(TokenType type) {
  switch (type) {
    case TokenType::u8:
      return "u8";
    case TokenType::i8:
      return "i8";
    case TokenType::i16:
      return "i16";
    case TokenType::u16:
      return "u16";
    case TokenType::i32:
      return "i32";
    case TokenType::i64:
      break;
  }
  return "i64";
}

TokenIndex::TokenIndex(std::span<const std::byte> bytes, std::shared_ptr<void> owner,
                       const std::string& source, std::uint64_t bin_bytes)
    : owner_(std::move(owner)) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (text.starts_with(mapped_magic)) {
    read_mapped(bytes, source);
  } else if (text.starts_with(legacy_magic)) {
    read_legacy(bytes, source);
  } else {
    fail("{}: is not an index of tokens; wanted \"MMIDIDX\" or \"TNTIDX\" in front", source);
  }
  check(source, bin_bytes);
}

void TokenIndex::read_mapped(std::span<const std::byte> bytes, const std::string& source) {
  ByteReader in(bytes, source);
  in.take(mapped_magic.size());
  const auto version = in.number<std::uint64_t>();
  require(version == 1, "{}: version is {}; wanted 1", source, version);
  type_ = checked_type(in.number<std::uint8_t>(), source);
  const auto n = in.number<std::uint64_t>();
  const auto c = in.number<std::uint64_t>();
  sequences_ = checked_count(n, "sequences", in);
  documents_ = checked_count(c, "document borders", in) - 1;
  require(in.remaining() == 12 * n + 8 * c,
          "{}: {} sequences and {} document borders take {} bytes behind the header; there are {}",
          source, n, c, 12 * n + 8 * c, in.remaining());
  lengths_ = in.take(4 * n).data();
  offsets_ = in.take(8 * n).data();
  documents_at_ = in.take(8 * c).data();
}

void TokenIndex::read_legacy(std::span<const std::byte> bytes, const std::string& source) {
  ByteReader in(bytes, source);
  in.take(legacy_magic.size());
  legacy_ = true;
  const auto version = in.number<std::uint64_t>();
  require(version == 1, "{}: version is {}; wanted 1", source, version);
  type_ = checked_type(in.number<std::uint64_t>(), source);
  const auto element = in.number<std::uint64_t>();
  require(element == static_cast<std::uint64_t>(size_of(type_)),
          "{}: element size is {}; wanted {} for {}", source, element, size_of(type_),
          name_of(type_));
  const auto n = in.number<std::uint64_t>();
  const auto s = in.number<std::uint64_t>();
  const auto c = in.number<std::uint64_t>();
  sequences_ = checked_count(n, "sequences", in);
  checked_count(s, "sizes", in);
  documents_ = checked_count(c, "document borders", in) - 1;
  const std::uint64_t wanted = 16 * (n + 1) + 8 * s + 8 * c;
  require(in.remaining() == wanted,
          "{}: {} sequences, {} sizes and {} document borders take {} bytes behind the header; "
          "there are {}",
          source, n, s, c, wanted, in.remaining());
  const std::byte* dimensions = in.take(8 * (n + 1)).data();
  offsets_ = in.take(8 * (n + 1)).data();
  in.take(8 * s);
  documents_at_ = in.take(8 * c).data();
  for (std::int64_t i = 0; i <= sequences_; ++i) {
    require(loaded<std::int64_t>(dimensions, i) == i,
            "{}: sequence {} has not one dimension; wanted plain rows of tokens", source, i);
  }
}

void TokenIndex::check(const std::string& source, std::uint64_t bin_bytes) {
  const std::int64_t element = size_of(type_);
  std::uint64_t at = 0;  // cannot overflow: n lengths below 2^31 each, n below 2^63 / 12
  for (std::int64_t i = 0; i < sequences_; ++i) {
    if (legacy_) {
      const auto begin = loaded<std::int64_t>(offsets_, i);
      const auto end = loaded<std::int64_t>(offsets_, i + 1);
      require(begin >= 0 && end >= begin && end - begin <= std::numeric_limits<std::int32_t>::max(),
              "{}: sequence {} lies at tokens {} to {}", source, i, begin, end);
    } else {
      const auto own = loaded<std::int32_t>(lengths_, i);
      require(own >= 0, "{}: length of sequence {} is {}", source, i, own);
    }
    require(byte_offset(i) >= 0 && static_cast<std::uint64_t>(byte_offset(i)) == at,
            "{}: sequence {} starts at byte {}; wanted {}, where the last one ended", source, i,
            byte_offset(i), at);
    tokens_ += length(i);
    at += static_cast<std::uint64_t>(length(i) * element);
  }
  require(at == bin_bytes, "{}: its sequences take {} bytes, the .bin has {}; is it cut short?",
          source, at, bin_bytes);
  require(documents_ >= 0, "{}: has no document borders", source);
  for (std::int64_t d = 0; d <= documents_; ++d) {
    const std::int64_t border = first_sequence(d);
    const std::int64_t least = d == 0 ? 0 : first_sequence(d - 1);
    const std::int64_t most = d == 0 ? 0 : sequences_;
    require(border >= least && border <= most,
            "{}: document border {} is {}; wanted {} to {} (borders start at 0 and rise)", source,
            d, border, least, most);
  }
  require(first_sequence(documents_) == sequences_,
          "{}: the last document border is {}; wanted the number of sequences, {}", source,
          first_sequence(documents_), sequences_);
}

std::int32_t TokenIndex::length(std::int64_t sequence) const {
  if (!legacy_) return loaded<std::int32_t>(lengths_, sequence);
  return static_cast<std::int32_t>(loaded<std::int64_t>(offsets_, sequence + 1) -
                                   loaded<std::int64_t>(offsets_, sequence));
}

std::int64_t TokenIndex::byte_offset(std::int64_t sequence) const {
  const auto offset = loaded<std::int64_t>(offsets_, sequence);
  if (!legacy_) return offset;
  std::int64_t bytes = 0;
  return __builtin_mul_overflow(offset, size_of(type_), &bytes) ? -1 : bytes;
}

std::int64_t TokenIndex::first_sequence(std::int64_t document) const {
  return loaded<std::int64_t>(documents_at_, document);
}

}  // namespace metala
