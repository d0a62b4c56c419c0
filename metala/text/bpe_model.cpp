#include "metala/text/bpe_model.h"

#include "metala/text/byte_characters.h"
#include "metala/text/json_fields.h"
#include "metala/text/unicode.h"

namespace metala {
namespace {

constexpr std::string_view marked_space = "\xE2\x96\x81";  // U+2581

// Where a U+2581 stands after something else, from `from` on.
std::size_t find_part(std::string_view text, std::size_t from) {
  for (auto at = text.find(marked_space, from); at != std::string_view::npos;
       at = text.find(marked_space, at + marked_space.size())) {
    if (at > 0 && !text.substr(0, at).ends_with(marked_space)) return at;
  }
  return text.size();
}

void refuse_options(const JsonFields& fields) {
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    require(fields.text(key, "").empty(), "{} is \"{}\"; metala reads vocabularies without it",
            fields.place_of(key), printable(fields.text(key, "")));
  }
  const nlohmann::json* dropout = fields.find("dropout");
  require(dropout == nullptr || (dropout->is_number() && dropout->get<double>() == 0),
          "{} is not 0; with it the same text has different ids each time",
          fields.place_of("dropout"));
}

}  // namespace

BpeModel::BpeModel(const BpeTables& tables, const nlohmann::json& json, bool byte_level,
                   const std::string& place)
    : byte_level_(byte_level), merges_(tables.merges.size()) {
  const JsonFields fields(json, place);
  refuse_options(fields);
  ignore_merges_ = fields.flag("ignore_merges", false);
  fuse_unk_ = fields.flag("fuse_unk", false);
  read_vocabulary(tables, place);
  read_merges(tables, place);
  const std::string unk = fields.text("unk_token", "");
  if (!unk.empty()) {
    unk_ = id(unk);
    require(unk_ >= 0, "{} is \"{}\", which is not in the vocabulary", fields.place_of("unk_token"),
            printable(unk));
  }
  read_bytes(fields.flag("byte_fallback", false), place);
  if (!byte_level_) read_code_points();
}

void BpeModel::read_vocabulary(const BpeTables& tables, const std::string& place) {
  const std::size_t count = tables.vocabulary.size();
  require(count > 0, "{} has no vocab", place);
  std::vector<bool> taken(count);
  tokens_.resize(count);
  ids_.reserve(count);
  for (const auto& [token, id] : tables.vocabulary) {
    require(id < count, "{}.vocab: \"{}\" has id {}, but there are {} tokens: ids have holes",
            place, printable(token), id, count);
    require(!taken[id], "{}.vocab: \"{}\" has id {}, which is another's", place, printable(token),
            id);
    taken[id] = true;
    tokens_[id] = token;
    ids_.emplace(token, static_cast<std::int32_t>(id));
    if (!ignore_merges_) continue;
    auto piece = byte_level_ ? byte_characters::bytes(token) : token;
    if (piece) whole_.emplace(std::move(*piece), static_cast<std::int32_t>(id));
  }
}

void BpeModel::read_merges(const BpeTables& tables, const std::string& place) {
  parts_at_spaces_ = !byte_level_ && !ignore_merges_ && ids_.contains(std::string(marked_space));
  std::uint32_t rank = 0;
  for (const auto& [left, right] : tables.merges) {
    const std::string whole = left + right;
    for (const auto* token : {&left, &right, &whole}) {
      require(!token->empty() && ids_.contains(*token),
              "{}.merges[{}] is of \"{}\" and \"{}\", but \"{}\" is not in the vocabulary", place,
              rank, printable(left), printable(right), printable(*token));
    }
    merges_.add(id(left), id(right), rank, id(whole));
    ++rank;
    parts_at_spaces_ = parts_at_spaces_ && find_part(whole, 0) == whole.size();
  }
  merge_count_ = rank;
}

void BpeModel::read_bytes(bool byte_fallback, const std::string& place) {
  bool all = true;
  for (int byte = 0; byte < 256; ++byte) {
    const std::string name = byte_level_ ? byte_characters::of(static_cast<unsigned char>(byte))
                                         : fmt::format("<0x{:02X}>", byte);
    const std::int32_t found = id(name);
    byte_ids_[static_cast<std::size_t>(byte)] = found;
    all = all && found >= 0;
  }
  require(!byte_fallback || !byte_level_ || all,
          "{}: has byte_fallback, a ByteLevel pre-tokenizer, and not all characters of that",
          place);
  require(!byte_fallback || byte_level_ || all,
          "{}: has byte_fallback, but not all of <0x00> to <0xFF>", place);
  byte_fallback_ = byte_fallback && !byte_level_;
}

void BpeModel::read_code_points() {
  ascii_ids_.fill(-1);
  for (std::size_t id = 0; id < tokens_.size(); ++id) {
    const std::string& token = tokens_[id];
    if (token.empty() || unicode::code_point(token, 0).bytes != token.size()) continue;
    if (token.size() == 1) {
      ascii_ids_[static_cast<unsigned char>(token[0])] = static_cast<std::int32_t>(id);
    } else {
      character_ids_.emplace(token, static_cast<std::int32_t>(id));
    }
  }
}

std::int32_t BpeModel::id(const std::string& token) const {
  const auto found = ids_.find(token);
  return found == ids_.end() ? -1 : found->second;
}

std::int32_t BpeModel::code_point_id(std::string_view character) const {
  if (character.size() == 1) return ascii_ids_[static_cast<unsigned char>(character[0])];
  const auto found = character_ids_.find(character);
  return found == character_ids_.end() ? -1 : found->second;
}

// Characters, or bytes, to ids. An unknown one is spelled in bytes, or is unk, which waits for the
// next known one (so bytes in between come first), or is left out.
std::vector<std::int32_t> BpeModel::symbols(std::string_view piece) const {
  std::vector<std::int32_t> out;
  out.reserve(piece.size());
  bool unk_waits = false;
  for (std::size_t at = 0; at < piece.size();) {
    const std::size_t bytes = byte_level_ ? 1 : unicode::code_point(piece, at).bytes;
    const std::string_view character = piece.substr(at, bytes);
    at += bytes;
    const std::int32_t known = byte_level_ ? byte_ids_[static_cast<unsigned char>(character[0])]
                                           : code_point_id(character);
    if (known >= 0) {
      if (unk_waits) out.push_back(unk_);
      unk_waits = false;
      out.push_back(known);
    } else if (byte_fallback_) {
      for (const char c : character) out.push_back(byte_ids_[static_cast<unsigned char>(c)]);
    } else if (unk_ >= 0) {
      if (unk_waits && !fuse_unk_) out.push_back(unk_);
      unk_waits = true;
    }
  }
  if (unk_waits) out.push_back(unk_);
  return out;
}

void BpeModel::encode_new(std::string_view piece, std::vector<std::int32_t>& ids) const {
  if (ignore_merges_) {
    const auto whole = whole_.find(std::string(piece));
    if (whole != whole_.end()) {
      ids.push_back(whole->second);
      return;
    }
  }
  std::vector<std::int32_t> merged = symbols(piece);
  merges_.apply(merged);
  ids.insert(ids.end(), merged.begin(), merged.end());
}

void BpeModel::encode_part(std::string_view piece, PieceCache& cache,
                           std::vector<std::int32_t>& ids) const {
  append_cached(cache, piece, ids,
                [this](std::string_view p, std::vector<std::int32_t>& out) { encode_new(p, out); });
}

void BpeModel::encode(std::string_view piece, PieceCache& cache,
                      std::vector<std::int32_t>& ids) const {
  if (!parts_at_spaces_) return encode_part(piece, cache, ids);
  for (std::size_t at = 0; at < piece.size();) {
    const std::size_t end = find_part(piece, at + 1);
    encode_part(piece.substr(at, end - at), cache, ids);
    at = end;
  }
}

void BpeModel::encode_byte(unsigned char byte, std::vector<std::int32_t>& ids) const {
  const std::int32_t known = byte_level_ || byte_fallback_ ? byte_ids_[byte] : -1;
  if (known >= 0 || unk_ >= 0) ids.push_back(known >= 0 ? known : unk_);
}

}  // namespace metala
