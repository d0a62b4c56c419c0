// Normalizers of tokenizer.json: what is done to a text before it is cut into pieces.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace metala {

class Normalizer {
 public:
  virtual ~Normalizer() = default;
  // Changes `text`, valid UTF-8. `continues`: it goes on from an earlier text, so nothing is put in
  // front. Throws Error when the result would be longer than `most` bytes.
  virtual void apply(std::string& text, bool continues, std::size_t most) const = 0;
  // Whether `text` is certainly left as it is; cheap.
  virtual bool surely_keeps(std::string_view text) const = 0;
};

// Sequence, NFC, NFD, NFKC, NFKD, Lowercase, Strip, Replace, Prepend, ByteLevel; null for null.
// Throws Error naming another type.
std::unique_ptr<Normalizer> read_normalizer(const nlohmann::json& json, const std::string& place);

}  // namespace metala
