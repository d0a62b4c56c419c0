// Pre-tokenizers of tokenizer.json: text cut into the pieces that the model encodes one by one.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "metala/base/function_ref.h"

namespace metala {

// Where a piece stands: at the start of the text, somewhere later, or at the start of a text that
// goes on from an earlier one, where no space is put in front.
enum class Place { start, later, continued };

// A stage takes a piece (valid UTF-8) and hands on what it cuts it into, in order.
class PreTokenizer {
 public:
  using Sink = FunctionRef<void(std::string_view piece, Place place)>;

  virtual ~PreTokenizer() = default;
  virtual void split(std::string_view text, Place place, Sink sink) const = 0;
};

struct PreTokenizers {
  std::vector<std::unique_ptr<PreTokenizer>> stages;
  // The last stage is ByteLevel's: pieces stay bytes, and the model's vocabulary is to be read as
  // bytes, rather than both spelled in the characters that stand for bytes.
  bool byte_level = false;

  // Runs `text` through all stages; no empty piece reaches `sink`.
  void split(std::string_view text, Place place, PreTokenizer::Sink sink) const;
};

// Sequence, Split, ByteLevel (last), Metaspace, Digits, Whitespace, WhitespaceSplit, Punctuation,
// CharDelimiterSplit, FixedLength; none for null. Throws Error naming another type.
PreTokenizers read_pre_tokenizers(const nlohmann::json& json, const std::string& place);

}  // namespace metala
