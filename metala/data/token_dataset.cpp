#include "metala/data/token_dataset.h"

#include <cstring>
#include <filesystem>
#include <limits>

#include "metala/base/error.h"

namespace metala {
namespace {

// Widens `into.size()` numbers of type T; false if one does not fit or, unless numbers may be
// `negative`, is no token id.
template <class T>
bool widen(const std::byte* from, std::span<std::int32_t> into, bool negative) {
  bool good = true;
  for (std::size_t i = 0; i < into.size(); ++i) {
    T value;
    std::memcpy(&value, from + i * sizeof value, sizeof value);
    into[i] = static_cast<std::int32_t>(value);
    if constexpr (sizeof(T) == 8) {
      good &= value <= std::numeric_limits<std::int32_t>::max() &&
              value >= std::numeric_limits<std::int32_t>::min();
    }
    if constexpr (std::numeric_limits<T>::is_signed) good &= negative || value >= 0;
  }
  return good;
}

bool widen(TokenType type, const std::byte* from, std::span<std::int32_t> into, bool negative) {
  switch (type) {
    case TokenType::u8:
      return widen<std::uint8_t>(from, into, negative);
    case TokenType::i8:
      return widen<std::int8_t>(from, into, negative);
    case TokenType::i16:
      return widen<std::int16_t>(from, into, negative);
    case TokenType::u16:
      return widen<std::uint16_t>(from, into, negative);
    case TokenType::i32:
      return widen<std::int32_t>(from, into, negative);
    case TokenType::i64:
      break;
  }
  return widen<std::int64_t>(from, into, negative);
}

}  // namespace

std::string dataset_prefix(const std::string& named) {
  for (const char* suffix : {".bin", ".idx"}) {
    if (named.ends_with(suffix)) return named.substr(0, named.size() - 4);
  }
  return named;
}

void require_dataset(const std::string& prefix) {
  require(
      std::filesystem::exists(prefix + ".idx"),
      "{}.idx: no such file; wanted prepared tokens, PREFIX.bin and PREFIX.idx, as `metala data "
      "prepare` writes them",
      prefix);
}

TokenDataset TokenDataset::open(const std::string& named) {
  const std::string prefix = dataset_prefix(named);
  const std::string idx = prefix + ".idx";
  require_dataset(prefix);
  MappedFile bin = MappedFile::open(prefix + ".bin");
  const MappedFile file = MappedFile::open(idx);
  TokenIndex index(file.bytes(), file.owner(), idx, bin.bytes().size());
  return {prefix, std::move(bin), std::move(index)};
}

void TokenDataset::read(std::int64_t document, std::int64_t offset,
                        std::span<std::int32_t> into) const {
  const std::byte* from =
      bin_.bytes().data() + index_.byte_offset(document) + offset * size_of(index_.type());
  require(widen(index_.type(), from, into, false),
          "{}.bin: document {} holds a number that is no token id, at or after its token {}",
          prefix_, document, offset);
}

void TokenDataset::read_labels(std::int64_t document, std::int64_t offset,
                               std::span<std::int32_t> into) const {
  const std::byte* from =
      bin_.bytes().data() + index_.byte_offset(document) + offset * size_of(index_.type());
  require(widen(index_.type(), from, into, true),
          "{}.bin: document {} holds a number that is no label, at or after its token {}", prefix_,
          document, offset);
}

std::vector<std::int32_t> TokenDataset::read(std::int64_t document) const {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(length(document)));
  read(document, 0, tokens);
  return tokens;
}

void check_labels(const TokenDataset& tokens, const TokenDataset& labels) {
  require(labels.documents() == tokens.documents(), "{}: {} documents of labels, {} has {}",
          labels.prefix(), labels.documents(), tokens.prefix(), tokens.documents());
  for (std::int64_t d = 0; d < tokens.documents(); ++d) {
    require(labels.length(d) == tokens.length(d),
            "{}: document {} has {} labels, in {} it has {} tokens", labels.prefix(), d,
            labels.length(d), tokens.prefix(), tokens.length(d));
  }
}

}  // namespace metala
