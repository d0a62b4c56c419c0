#include "metala/text/token_decoder.h"

#include <algorithm>
#include <optional>

#include "metala/text/byte_characters.h"
#include "metala/text/json_fields.h"
#include "metala/text/pattern.h"
#include "metala/text/unicode.h"
#include "metala/text/utf8.h"

namespace metala {

struct TokenDecoder::Stage {
  enum class Kind { byte_level, metaspace, byte_fallback, strip, replace };
  Kind kind;
  std::optional<Pattern> pattern = {};  // replace
  std::string content = {};             // replace: with what; metaspace, strip: the character
  std::size_t start = 0, stop = 0;      // strip: copies taken off at most
  bool keeps_first = false;             // metaspace: the first token is like the others

  // `most` bytes may come out.
  std::string applied(const std::string& token, bool first, std::size_t most) const {
    switch (kind) {
      case Kind::byte_level: {
        auto bytes = byte_characters::bytes(token);
        return bytes ? std::move(*bytes) : token;
      }
      case Kind::metaspace:
        return replaced(token, first && !keeps_first ? "" : " ");
      case Kind::strip:
        return stripped(token);
      case Kind::replace:
        return pattern->replaced(token, content, most);
      case Kind::byte_fallback:
        return token;
    }
    return token;
  }

 private:
  std::string replaced(const std::string& token, std::string_view with) const {
    std::string out;
    std::size_t done = 0;
    for (auto at = token.find(content); at != std::string::npos; at = token.find(content, done)) {
      out.append(token, done, at - done);
      out += with;
      done = at + content.size();
    }
    return out.append(token, done);
  }

  std::string stripped(std::string_view token) const {
    for (std::size_t i = 0; i < start && token.starts_with(content); ++i) {
      token.remove_prefix(content.size());
    }
    for (std::size_t i = 0; i < stop && token.ends_with(content); ++i) {
      token.remove_suffix(content.size());
    }
    return std::string(token);
  }
};

namespace {

constexpr std::size_t most_stages = 64;

// How much longer than what it stands for a decoder may make a token.
std::size_t most_decoded(std::size_t bytes) {
  return 16 * bytes + 256;
}

// The byte of a token <0xXX>; -1 for another token.
int fallback_byte(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  int byte = 0;
  for (const char c : token.substr(3, 2)) {
    const bool digit = c >= '0' && c <= '9';
    const bool upper = c >= 'A' && c <= 'F';
    const bool lower = c >= 'a' && c <= 'f';
    if (!digit && !upper && !lower) return -1;
    byte = 16 * byte + (digit ? c - '0' : upper ? c - 'A' + 10 : c - 'a' + 10);
  }
  return byte;
}

// Every run of <0xXX> becomes the text that its bytes are, or U+FFFD for each of them.
std::vector<std::string> with_bytes_joined(const std::vector<std::string>& tokens) {
  std::vector<std::string> out;
  std::string run;
  const auto end_run = [&] {
    if (run.empty()) return;
    if (valid_utf8_prefix(run) == run.size()) {
      out.push_back(run);
    } else {
      out.insert(out.end(), run.size(), "\xEF\xBF\xBD");
    }
    run.clear();
  };
  for (const auto& token : tokens) {
    const int byte = fallback_byte(token);
    if (byte >= 0) {
      run.push_back(static_cast<char>(byte));
      continue;
    }
    end_run();
    out.push_back(token);
  }
  end_run();
  return out;
}

}  // namespace

TokenDecoder::~TokenDecoder() = default;
TokenDecoder::TokenDecoder(TokenDecoder&&) noexcept = default;

TokenDecoder::TokenDecoder(const nlohmann::json& json, const std::string& place) {
  joins_with_spaces_ = json.is_null();
  if (!joins_with_spaces_) read(json, place);
}

void TokenDecoder::add(Stage stage, const std::string& place) {
  require(!fused_, "{} comes after tokens were joined; metala reads Strip of one space there",
          place);
  require(stages_.size() < most_stages, "{} is one of more than {}", place, most_stages);
  fused_ = stage.kind == Stage::Kind::byte_level;
  byte_fallback_ = byte_fallback_ || stage.kind == Stage::Kind::byte_fallback;
  stages_.push_back(std::move(stage));
}

void TokenDecoder::read(const nlohmann::json& json, const std::string& place) {
  using Kind = Stage::Kind;
  const JsonFields fields(json, place);
  const std::string type = fields.type();
  if (type == "Sequence") {
    std::size_t i = 0;
    for (const auto& one : fields.list("decoders")) {
      read(one, fmt::format("{}[{}]", fields.place_of("decoders"), i++));
    }
  } else if (type == "Fuse") {
    fused_ = true;
  } else if (type == "ByteLevel") {
    add({.kind = Kind::byte_level}, place);
  } else if (type == "ByteFallback") {
    add({.kind = Kind::byte_fallback}, place);
  } else if (type == "Metaspace") {
    const bool never = fields.text("prepend_scheme", "always") == "never" ||
                       !fields.flag("add_prefix_space", true);
    const std::string symbol = fields.character("replacement", "\xE2\x96\x81");
    add({.kind = Kind::metaspace, .content = symbol, .keeps_first = never}, place);
  } else if (type == "Replace") {
    add({.kind = Kind::replace,
         .pattern = Pattern(fields.at("pattern"), fields.place_of("pattern")),
         .content = fields.text("content")},
        place);
  } else if (type == "Strip") {
    const std::string content = fields.character("content");
    const auto start = static_cast<std::size_t>(fields.number("start"));
    const auto stop = static_cast<std::size_t>(fields.number("stop"));
    if (fused_ && content == " " && start <= 1 && stop == 0) {
      strips_first_space_ = strips_first_space_ || start == 1;
    } else {
      add({.kind = Kind::strip, .content = content, .start = start, .stop = stop}, place);
    }
  } else {
    fields.refuse_type("Sequence, ByteLevel, Metaspace, ByteFallback, Fuse, Strip, Replace");
  }
}

std::string TokenDecoder::bytes(const std::string& token, bool first) const {
  if (joins_with_spaces_) return first ? token : " " + token;
  std::string out = token;
  for (const auto& stage : stages_) {
    if (stage.kind != Stage::Kind::byte_fallback) {
      out = stage.applied(out, first, most_decoded(token.size()));
    } else if (const int byte = fallback_byte(out); byte >= 0) {
      return std::string(1, static_cast<char>(byte));
    }
  }
  if (first && strips_first_space_ && out.starts_with(' ')) out.erase(0, 1);
  return out;
}

std::string TokenDecoder::text(std::vector<std::string> tokens) const {
  std::string out;
  if (!byte_fallback_) {
    for (std::size_t i = 0; i < tokens.size(); ++i) out += bytes(tokens[i], i == 0);
    return replace_invalid_utf8(out);
  }
  std::size_t size = 0;
  for (const auto& token : tokens) size += token.size();
  const std::size_t most = most_decoded(size);
  for (const auto& stage : stages_) {
    if (stage.kind == Stage::Kind::byte_fallback) {
      tokens = with_bytes_joined(tokens);
      continue;
    }
    for (std::size_t i = 0; i < tokens.size(); ++i)
      tokens[i] = stage.applied(tokens[i], i == 0, most);
  }
  for (const auto& token : tokens) out += token;
  if (strips_first_space_ && out.starts_with(' ')) out.erase(0, 1);
  return replace_invalid_utf8(out);
}

}  // namespace metala
