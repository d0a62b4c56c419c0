// Decoders of tokenizer.json: tokens of the vocabulary to text.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace metala {

class TokenDecoder {
 public:
  // Sequence, ByteLevel, Metaspace, ByteFallback, Fuse, Strip, Replace; null joins tokens with
  // spaces. Throws Error naming another type, or an order in which what a token adds to a text
  // would depend on more than whether it is the first: after Fuse or ByteLevel only
  // Strip{content: " ", start: 0 or 1, stop: 0} is read.
  TokenDecoder(const nlohmann::json& json, const std::string& place);
  ~TokenDecoder();
  TokenDecoder(TokenDecoder&&) noexcept;

  // The bytes that `token` adds to a text. A token <0xXX> of ByteFallback is that byte.
  std::string bytes(const std::string& token, bool first) const;
  // The text of `tokens` as the original library makes it: unlike the bytes put together, a run of
  // <0xXX> that is not UTF-8 as a whole is one U+FFFD for each byte.
  std::string text(std::vector<std::string> tokens) const;

 private:
  struct Stage;
  void read(const nlohmann::json& json, const std::string& place);
  void add(Stage stage, const std::string& place);

  std::vector<Stage> stages_;  // on token after token
  bool byte_fallback_ = false;
  bool joins_with_spaces_ = false;
  bool fused_ = false;
  bool strips_first_space_ = false;  // of the whole text
};

}  // namespace metala
