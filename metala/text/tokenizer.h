// Tokenizer: text to ids and back.
//
// Every token stands for a string of bytes, so decoding is concatenation and can be streamed; a
// token may hold part of a character (text/utf8.h puts them together). Some formats put a space in
// front of a text when they encode it; they take it off what stands first when they decode.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace metala {

struct TokenizerConfig;

struct EncodeOptions {
  // The names of special tokens, such as <|im_start|>, stand for those tokens: right for a rendered
  // chat template or a prompt. Otherwise they are text like any other: right for documents.
  bool special = false;
  // The text goes on from one encoded before: no space is put in front of it.
  bool continues = false;
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Any bytes; what is not valid UTF-8 is encoded byte by byte where the vocabulary has bytes.
  std::vector<std::int32_t> encode(std::string_view text) const { return encode(text, {}); }
  virtual std::vector<std::int32_t> encode(std::string_view text, EncodeOptions) const = 0;
  // The bytes that `id` adds to a text; empty for special tokens and ids outside the vocabulary.
  virtual std::string_view bytes(std::int32_t id) const = 0;
  // The same where `id` is the first of a text.
  virtual std::string_view first_bytes(std::int32_t id) const { return bytes(id); }
  // Whether the token after `id` is no longer the first.
  virtual bool begins_text(std::int32_t id) const { return !bytes(id).empty(); }
  // A name to show for `id`.
  virtual std::string piece(std::int32_t id) const = 0;
  virtual std::int64_t size() const = 0;
  // Ids that the tokenizer's files name; -1: none.
  virtual std::int32_t bos() const = 0;
  virtual std::int32_t eos() const = 0;
  virtual std::int32_t pad() const = 0;
  // What the original puts around a text unless told otherwise: <s> before it, </s> after it.
  struct Frame {
    std::vector<std::int32_t> before, after;
  };
  virtual Frame frame() const { return {}; }
  // Whether text is shown as clean_up_spaces (text/clean_up.h) leaves it.
  virtual bool cleans_up_spaces() const { return false; }
  virtual std::string description() const = 0;
  // Writes the files that open_tokenizer reads.
  virtual void save(const std::string& folder) const = 0;

  // The bytes of a whole text, special tokens left out.
  std::string decode(std::span<const std::int32_t> ids) const;
  // The same as text, the way the original library shows it: bytes that are no character are
  // U+FFFD, and spaces are cleaned up if the files ask for it.
  virtual std::string text(std::span<const std::int32_t> ids) const;
  // Documents side by side on all threads, in order.
  std::vector<std::vector<std::int32_t>> encode_all(std::span<const std::string> texts) const;
};

// One token a byte: id 3 + byte; 0 pad, 1 beginning, 2 end. 259 ids. Exact for any bytes.
std::unique_ptr<Tokenizer> byte_tokenizer();

// A SentencePiece model from its serialised form; `source` names it in errors.
std::unique_ptr<Tokenizer> sentencepiece_tokenizer(const std::string& serialized,
                                                   const std::string& source);
std::unique_ptr<Tokenizer> sentencepiece_tokenizer(const std::string& serialized,
                                                   const std::string& source,
                                                   const TokenizerConfig&);

// Trains a byte-fallback BPE vocabulary that decodes exactly to what was encoded: no
// normalisation, no added or removed spaces; spaces may join pieces, line breaks do not. `next`
// gives one text after the other and false at the end; at most `most_bytes` of text are used.
// Throws Error for a vocabulary too large or too small for the text.
std::string train_sentencepiece(const std::function<bool(std::string&)>& next,
                                std::int64_t vocabulary, std::size_t most_bytes);

// What a model folder holds, the first of: tokenizer.json; tokenizer.model (SentencePiece);
// NAME.tiktoken (text/tiktoken.h); a tokenizer_config.json of ours (bytes). Or one such file by its
// path. tokenizer_config.json and special_tokens_map.json beside it are followed. Throws Error that
// lists what was looked for, or names the file and field that is wrong or not supported.
std::unique_ptr<Tokenizer> open_tokenizer(const std::string& path);
// The same; null, where nothing of that is there.
std::unique_ptr<Tokenizer> find_tokenizer(const std::string& path);

}  // namespace metala
