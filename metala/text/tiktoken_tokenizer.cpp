#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <unordered_map>

#include "metala/base/error.h"
#include "metala/io/json.h"
#include "metala/io/printable.h"
#include "metala/text/byte_pairs.h"
#include "metala/text/file_tokenizer.h"
#include "metala/text/piece_cache.h"
#include "metala/text/regex.h"
#include "metala/text/split_patterns.h"
#include "metala/text/tiktoken.h"
#include "metala/text/utf8.h"

namespace metala {
namespace {

constexpr std::size_t most_unused_ids = 65'536;
constexpr std::size_t longest_token = 4096;  // finding a token's merges takes its length squared
constexpr std::size_t ranks_of_gpt4 = 100'256;

// Appends what `encoded` stands for; false if it is not base64 with padding.
bool append_base64(std::string_view encoded, std::string& out) {
  if (encoded.empty() || encoded.size() % 4 != 0) return false;
  const std::size_t padding = encoded.ends_with("==") ? 2 : encoded.ends_with('=') ? 1 : 0;
  std::uint32_t bits = 0;
  for (std::size_t i = 0; i < encoded.size(); ++i) {
    const char c = encoded[i];
    std::uint32_t value = 0;
    if (c >= 'A' && c <= 'Z') {
      value = static_cast<std::uint32_t>(c - 'A');
    } else if (c >= 'a' && c <= 'z') {
      value = static_cast<std::uint32_t>(c - 'a' + 26);
    } else if (c >= '0' && c <= '9') {
      value = static_cast<std::uint32_t>(c - '0' + 52);
    } else if (c == '+' || c == '/') {
      value = c == '+' ? 62 : 63;
    } else if (c != '=' || i + padding < encoded.size()) {
      return false;
    }
    bits = (bits << 6) | value;
    if (i % 4 != 3) continue;
    for (const int shift : {16, 8, 0}) out.push_back(static_cast<char>((bits >> shift) & 0xFF));
    bits = 0;
  }
  out.resize(out.size() - padding);
  return true;
}

struct Ranked {
  std::size_t begin, size;  // in the bytes of all tokens
  std::int32_t rank;
};

struct Vocabulary {
  std::string bytes;
  std::vector<Ranked> tokens;
};

Vocabulary parse_ranks(std::string_view text, const std::string& path) {
  Vocabulary vocabulary;
  std::size_t line = 0;
  while (!text.empty()) {
    ++line;
    std::string_view one = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(one.size() + 1, text.size()));
    if (one.ends_with('\r')) one.remove_suffix(1);
    if (one.empty()) continue;
    const std::size_t space = std::min(one.find(' '), one.size());
    const std::string_view number = one.substr(std::min(space + 1, one.size()));
    const std::size_t begin = vocabulary.bytes.size();
    std::int32_t rank = -1;
    const auto [end, problem] = std::from_chars(number.data(), number.data() + number.size(), rank);
    require(append_base64(one.substr(0, space), vocabulary.bytes) && problem == std::errc() &&
                end == number.data() + number.size() && rank >= 0,
            "{}: line {} is \"{}\"; wanted \"base64 rank\"", path, line, printable(one));
    const std::size_t size = vocabulary.bytes.size() - begin;
    require(size <= longest_token, "{}: line {} is a token of {} bytes; at most {} are read", path,
            line, size, longest_token);
    vocabulary.tokens.push_back({begin, size, rank});
  }
  require(!vocabulary.tokens.empty(), "{}: has no ranks", path);
  return vocabulary;
}

struct Description {
  std::string pattern = split_patterns::cl100k;
  std::vector<AddedToken> special;
  std::map<std::string, std::string> named;  // "bos_token" and the like
};

AddedToken special_token(const std::string& name, std::int32_t id) {
  AddedToken token;
  token.content = name;
  token.id = id;
  token.special = true;
  return token;
}

Description gpt4() {
  Description d;
  d.special = {special_token("<|endoftext|>", 100257), special_token("<|fim_prefix|>", 100258),
               special_token("<|fim_middle|>", 100259), special_token("<|fim_suffix|>", 100260),
               special_token("<|endofprompt|>", 100276)};
  for (const char* name : {"bos_token", "eos_token", "pad_token"}) d.named[name] = "<|endoftext|>";
  return d;
}

std::string known_pattern(const std::string& name) {
  if (name == "gpt2") return split_patterns::gpt2;
  if (name == "cl100k") return split_patterns::cl100k;
  if (name == "o200k") return split_patterns::o200k;
  return name;
}

Description parse_description(const std::string& text, const std::string& source) {
  const auto json = parse_json(text, source);
  require(json.is_object(), "{}: not a JSON object", source);
  Description d;
  for (const auto& [key, value] : json.items()) {
    if (key == "special_tokens") {
      require(value.is_object(), "{}: special_tokens is not an object", source);
      for (const auto& [name, id] : value.items()) {
        require(!name.empty() && id.is_number_unsigned() &&
                    id.get<std::uint64_t>() < std::uint64_t{1} << 31,
                "{}: special_tokens: \"{}\" has no id of 0 or more", source, printable(name));
        d.special.push_back(special_token(name, id.get<std::int32_t>()));
      }
      continue;
    }
    const bool names_token = key == "bos_token" || key == "eos_token" || key == "pad_token";
    require(names_token || key == "pattern",
            "{}: \"{}\" is not known; there are pattern, special_tokens, bos_token, eos_token, "
            "pad_token",
            source, printable(key));
    require(value.is_string(), "{}: {} is not a text", source, key);
    if (names_token) {
      d.named[key] = value.get<std::string>();
    } else {
      d.pattern = known_pattern(value.get<std::string>());
    }
  }
  return d;
}

class TiktokenTokenizer : public FileTokenizer {
 public:
  TiktokenTokenizer(const Vocabulary& vocabulary, const Description& description,
                    const TokenizerConfig& config, std::string path)
      : FileTokenizer(config),
        path_(std::move(path)),
        blob_(vocabulary.bytes),
        merges_(3 * vocabulary.tokens.size()) {
    add_tokens(vocabulary);
    add_merges();
    for (const auto& token : description.special) add_special(token);
    for (const auto& token : config.added) {
      if (id_of(token.content) < 0) add_special(token);
    }
    splitter_ = split_patterns::find(description.pattern);
    if (splitter_ == nullptr) {
      regex_ = std::make_unique<Regex>(description.pattern, Regex::Syntax::perl,
                                       path_ + ".json: pattern");
    }
    auto named = description.named;
    named.insert(config.named.begin(), config.named.end());  // the description's first
    take_roles(named, path_, [this](const std::string& name) { return id_of(name); });
    take_frame(config, false);
  }

  using Tokenizer::encode;
  std::vector<std::int32_t> encode(std::string_view text, EncodeOptions options) const override {
    const PieceCaches::Loan cache(caches_);
    std::vector<std::int32_t> ids;
    ids.reserve(text.size() / 4);
    special_.split(
        text, options.special,
        [&](std::string_view part, std::size_t) { encode_part(part, *cache, ids); },
        [&](const AddedToken& token) { ids.push_back(token.id); });
    return ids;
  }

  std::string_view bytes(std::int32_t id) const override {
    return id < 0 || id >= size() ? std::string_view() : tokens_[static_cast<std::size_t>(id)];
  }

  std::string piece(std::int32_t id) const override {
    const auto special = names_.find(id);
    if (special != names_.end()) return special->second;
    const auto known = bytes(id);
    return known.empty() ? "<none>" : spell_invalid_utf8(known);
  }

  std::int64_t size() const override { return static_cast<std::int64_t>(tokens_.size()); }
  std::string description() const override {
    return fmt::format("tiktoken, {} ranks, {} special tokens", ids_.size(), names_.size());
  }

 private:
  void add_tokens(const Vocabulary& vocabulary) {
    const std::size_t most = vocabulary.tokens.size() + most_unused_ids;
    for (const auto& token : vocabulary.tokens) {
      const auto rank = static_cast<std::size_t>(token.rank);
      require(rank < most, "{}: rank {} is far beyond the {} that there are", path_, rank,
              vocabulary.tokens.size());
      if (rank >= tokens_.size()) tokens_.resize(rank + 1);
      require(tokens_[rank].empty(), "{}: rank {} is given twice", path_, rank);
      tokens_[rank] = std::string_view(blob_).substr(token.begin, token.size);
      const auto [place, fresh] = ids_.emplace(tokens_[rank], token.rank);
      require(fresh, "{}: ranks {} and {} have the same token", path_, place->second, rank);
    }
    for (int byte = 0; byte < 256; ++byte) {
      const char c = static_cast<char>(byte);
      const auto place = ids_.find({&c, 1});
      require(place != ids_.end(), "{}: has no rank for the byte 0x{:02X}", path_, byte);
      of_byte_[static_cast<std::size_t>(byte)] = place->second;
    }
  }

  // Any two neighbours that make up a token together may merge, the lowest rank first.
  void add_merges() {
    for (const auto& [whole, rank] : ids_) {
      for (std::size_t cut = 1; cut < whole.size(); ++cut) {
        const auto left = ids_.find(whole.substr(0, cut));
        if (left == ids_.end()) continue;
        const auto right = ids_.find(whole.substr(cut));
        if (right == ids_.end()) continue;
        merges_.add(left->second, right->second, static_cast<std::uint32_t>(rank), rank);
      }
    }
  }

  void add_special(const AddedToken& token) {
    const auto id = static_cast<std::size_t>(token.id);
    const std::size_t most = ids_.size() + most_unused_ids;
    require(id < most, "{}: the special token {} has id {}, far beyond the {} ranks", path_,
            printable(token.content), id, ids_.size());
    const bool free = id >= tokens_.size() || tokens_[id].empty();
    require(free && names_.emplace(token.id, token.content).second,
            "{}: the special token {} has id {}, which is another's", path_,
            printable(token.content), id);
    if (id >= tokens_.size()) tokens_.resize(id + 1);
    special_ids_.emplace(token.content, token.id);
    special_.add(token.content, token, path_);
    // The text of an added token that is not special is shown.
    if (!token.special) tokens_[id] = names_.at(token.id);
  }

  std::int32_t id_of(const std::string& name) const {
    const auto special = special_ids_.find(name);
    if (special != special_ids_.end()) return special->second;
    const auto place = ids_.find(name);
    return place == ids_.end() ? -1 : place->second;
  }

  void encode_piece(std::string_view piece, PieceCache& cache,
                    std::vector<std::int32_t>& ids) const {
    append_cached(cache, piece, ids, [this](std::string_view p, std::vector<std::int32_t>& out) {
      encode_new_piece(p, out);
    });
  }

  void encode_new_piece(std::string_view piece, std::vector<std::int32_t>& ids) const {
    const auto whole = ids_.find(piece);
    if (whole != ids_.end()) {
      ids.push_back(whole->second);
      return;
    }
    std::vector<std::int32_t> symbols;
    symbols.reserve(piece.size());
    for (const char c : piece) symbols.push_back(of_byte_[static_cast<unsigned char>(c)]);
    merges_.apply(symbols);
    ids.insert(ids.end(), symbols.begin(), symbols.end());
  }

  void encode_part(std::string_view part, PieceCache& cache, std::vector<std::int32_t>& ids) const {
    const std::string_view valid = part.substr(0, valid_utf8_prefix(part));
    const std::size_t first = ids.size();
    std::size_t last_piece = first;
    if (splitter_ != nullptr) {
      for (std::size_t at = 0; at < valid.size();) {
        const std::size_t end = splitter_(valid, at);
        last_piece = ids.size();
        encode_piece(valid.substr(at, end - at), cache, ids);
        at = end;
      }
    } else {
      regex_->each(valid, [&](std::size_t begin, std::size_t end) {
        if (begin == end) return;
        last_piece = ids.size();
        encode_piece(valid.substr(begin, end - begin), cache, ids);
      });
    }
    if (valid.size() < part.size()) {
      encode_invalid(part.substr(valid.size()), first, last_piece, ids);
    }
  }

  // tiktoken's own treatment of bytes that are no text: from the last piece on, all is one piece.
  void encode_invalid(std::string_view rest, std::size_t first, std::size_t last_piece,
                      std::vector<std::int32_t>& ids) const {
    const auto white = [&](std::size_t i) {
      return bytes(ids[i]).find_first_not_of(" \n\t") == std::string_view::npos;
    };
    if (last_piece < ids.size() && white(last_piece)) {
      while (last_piece > first && white(last_piece - 1)) --last_piece;
    }
    std::string piece;
    for (std::size_t i = last_piece; i < ids.size(); ++i) piece += bytes(ids[i]);
    piece += rest;
    ids.resize(last_piece);
    encode_new_piece(piece, ids);
  }

  std::string path_;
  std::string blob_;                      // the bytes of all tokens
  std::vector<std::string_view> tokens_;  // by id; empty: special or unused
  std::unordered_map<std::string_view, std::int32_t> ids_;
  std::array<std::int32_t, 256> of_byte_{};
  Merges merges_;
  AddedTokenFinder special_;
  std::map<std::int32_t, std::string> names_;
  std::unordered_map<std::string, std::int32_t> special_ids_;
  Splitter splitter_ = nullptr;
  std::unique_ptr<Regex> regex_;  // where there is no splitter
  mutable PieceCaches caches_;
};

}  // namespace

std::unique_ptr<Tokenizer> tiktoken_tokenizer(const std::string& ranks,
                                              const std::optional<std::string>& description,
                                              const TokenizerConfig& config,
                                              const std::string& path) {
  const Vocabulary vocabulary = parse_ranks(ranks, path);
  Description d = vocabulary.tokens.size() == ranks_of_gpt4 ? gpt4() : Description();
  if (description) d = parse_description(*description, path + ".json");
  auto tokenizer = std::make_unique<TiktokenTokenizer>(vocabulary, d, config, path);
  const std::string name = std::filesystem::path(path).filename().string();
  tokenizer->keep_file(name, ranks);
  if (description) tokenizer->keep_file(name + ".json", *description);
  return tokenizer;
}

}  // namespace metala
