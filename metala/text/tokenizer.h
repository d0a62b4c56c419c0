// Tokenizer: text to ids and back.
//
// Every token stands for a fixed string of bytes, so decoding is concatenation and can be streamed;
// a token may hold part of a character (text/utf8.h puts them together).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace metala {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Any bytes; what is not valid UTF-8 is encoded byte by byte.
  virtual std::vector<std::int32_t> encode(std::string_view text) const = 0;
  // The bytes that `id` adds to the text; empty for control tokens and ids outside the vocabulary.
  virtual std::string_view bytes(std::int32_t id) const = 0;
  // A name to show for `id`.
  virtual std::string piece(std::int32_t id) const = 0;
  virtual std::int64_t size() const = 0;
  virtual std::int32_t bos() const = 0;
  virtual std::int32_t eos() const = 0;
  virtual std::int32_t pad() const = 0;
  virtual std::string description() const = 0;
  virtual void save(const std::string& folder) const = 0;

  std::string decode(std::span<const std::int32_t> ids) const;
  // Documents side by side on all threads, in order.
  std::vector<std::vector<std::int32_t>> encode_all(std::span<const std::string> texts) const;
};

// One token a byte: id 3 + byte; 0 pad, 1 beginning, 2 end. 259 ids. Exact for any bytes.
std::unique_ptr<Tokenizer> byte_tokenizer();

// A SentencePiece model from its serialised form; `source` names it in errors.
std::unique_ptr<Tokenizer> sentencepiece_tokenizer(const std::string& serialized,
                                                   const std::string& source);

// Trains a byte-fallback BPE vocabulary that decodes exactly to what was encoded: no
// normalisation, no added or removed spaces; spaces may join pieces, line breaks do not. `next`
// gives one text after the other and false at the end; at most `most_bytes` of text are used.
// Throws Error for a vocabulary too large or too small for the text.
std::string train_sentencepiece(const std::function<bool(std::string&)>& next,
                                std::int64_t vocabulary, std::size_t most_bytes);

// What a model folder holds: tokenizer.model (SentencePiece) or a tokenizer_config.json of ours
// (bytes). Throws Error that lists what was looked for.
std::unique_ptr<Tokenizer> open_tokenizer(const std::string& folder);

}  // namespace metala
