// TokenIndex: the .idx file of a Megatron / GPT-NeoX dataset: where each sequence lies in its .bin.
//
//   "MMIDIDX\0\0"  u64 version 1  u8 type  u64 n  u64 c
//   i32 length[n] (tokens)   i64 byte offset in the .bin [n]   i64 first sequence of document [c]
// little-endian, without padding, so nothing is aligned; c - 1 documents, the last entry is n. Type
// codes: 1 u8, 2 i8, 3 i16, 4 i32, 5 i64, 8 u16. Like GPT-NeoX, metala trains on sequences and
// takes each for a document.
//
// The older "TNTIDX\0\0" (data_impl lazy or cached) is read too:
//   u64 version 1  u64 type  u64 element bytes  u64 n  u64 s  u64 c
//   i64 first dimension[n+1]  i64 first token[n+1]  i64 size[s]  i64 first sequence of document[c]
//
// Everything an index says is checked against itself and the size of the .bin before it is used;
// Error names the file, the field and what was wanted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace metala {

enum class TokenType : std::uint8_t { u8 = 1, i8 = 2, i16 = 3, i32 = 4, i64 = 5, u16 = 8 };
std::int64_t size_of(TokenType);
const char* name_of(TokenType);

class TokenIndex {
 public:
  // Keeps a view of `bytes`, which `owner` keeps alive. `source` starts errors; `bin_bytes` is the
  // size of the .bin.
  TokenIndex(std::span<const std::byte> bytes, std::shared_ptr<void> owner,
             const std::string& source, std::uint64_t bin_bytes);

  TokenType type() const { return type_; }
  std::int64_t sequences() const { return sequences_; }
  std::int64_t tokens() const { return tokens_; }
  std::int32_t length(std::int64_t sequence) const;
  std::int64_t byte_offset(std::int64_t sequence) const;
  // Documents as the file groups its sequences; entry `documents()` is the number of sequences.
  std::int64_t documents() const { return documents_; }
  std::int64_t first_sequence(std::int64_t document) const;

 private:
  void read_mapped(std::span<const std::byte>, const std::string& source);
  void read_legacy(std::span<const std::byte>, const std::string& source);
  void check(const std::string& source, std::uint64_t bin_bytes);

  std::shared_ptr<void> owner_;
  TokenType type_ = TokenType::u16;
  bool legacy_ = false;
  std::int64_t sequences_ = 0, documents_ = 0, tokens_ = 0;
  const std::byte* lengths_ = nullptr;       // i32, in the mapped form
  const std::byte* offsets_ = nullptr;       // i64: bytes, in the legacy form tokens
  const std::byte* documents_at_ = nullptr;  // i64
};

}  // namespace metala
