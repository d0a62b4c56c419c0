// The BPE model of tokenizer.json: the ids of a piece of text.
#pragma once

#include <array>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "metala/text/byte_pairs.h"
#include "metala/text/piece_cache.h"

namespace metala {

// A vocabulary and its merges as they stand in the file.
struct BpeTables {
  std::vector<std::pair<std::string, std::uint64_t>> vocabulary;
  std::vector<std::pair<std::string, std::string>> merges;
};

class BpeModel {
 public:
  // `json` is "model" without the tables. `byte_level`: pieces are bytes, spelled in the vocabulary
  // by byte_characters. Throws Error for ids that are not 0, 1, 2, ..., for merges of or to what
  // is no token, and naming an option that is not read.
  BpeModel(const BpeTables& tables, const nlohmann::json& json, bool byte_level,
           const std::string& place);

  // Appends the ids of a piece: valid UTF-8.
  void encode(std::string_view piece, PieceCache& cache, std::vector<std::int32_t>& ids) const;
  // Appends the id of a byte that is no part of a character; unk, or nothing, if it has none.
  void encode_byte(unsigned char byte, std::vector<std::int32_t>& ids) const;

  // The tokens by id, as the file spells them.
  const std::vector<std::string>& tokens() const { return tokens_; }
  // -1 if there is none.
  std::int32_t id(const std::string& token) const;
  std::size_t merge_count() const { return merge_count_; }

 private:
  void read_vocabulary(const BpeTables& tables, const std::string& place);
  void read_merges(const BpeTables& tables, const std::string& place);
  void read_bytes(bool byte_fallback, const std::string& place);
  void read_code_points();
  void encode_part(std::string_view piece, PieceCache& cache, std::vector<std::int32_t>& ids) const;
  void encode_new(std::string_view piece, std::vector<std::int32_t>& ids) const;
  std::vector<std::int32_t> symbols(std::string_view piece) const;
  std::int32_t code_point_id(std::string_view character) const;

  bool byte_level_;
  bool ignore_merges_ = false, fuse_unk_ = false;
  bool byte_fallback_ = false;    // and all 256 bytes are there
  bool parts_at_spaces_ = false;  // no merge reaches over a beginning U+2581
  std::int32_t unk_ = -1;
  std::vector<std::string> tokens_;
  std::unordered_map<std::string, std::int32_t> ids_;
  std::unordered_map<std::string, std::int32_t>
      whole_;                               // pieces that ignore_merges takes as they are
  std::array<std::int32_t, 256> byte_ids_;  // byte_level: of the byte; else of <0xXX>
  std::array<std::int32_t, 128> ascii_ids_;
  std::unordered_map<std::string_view, std::int32_t> character_ids_;  // beyond ASCII
  Merges merges_;
  std::size_t merge_count_ = 0;
};

}  // namespace metala
