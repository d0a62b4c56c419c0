#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <array>
#include <map>

#include "metala/base/error.h"
#include "metala/io/printable.h"
#include "metala/text/added_tokens.h"
#include "metala/text/clean_up.h"
#include "metala/text/file_tokenizer.h"
#include "metala/text/tokenizer.h"
#include "metala/text/tokenizer_config.h"
#include "metala/text/utf8.h"

namespace metala {
namespace {

constexpr std::string_view escaped_space = "\xE2\x96\x81";  // U+2581, SentencePiece's space

std::string unescaped(const std::string& piece) {
  std::string out;
  std::size_t done = 0;
  for (auto at = piece.find(escaped_space); at != std::string::npos;
       at = piece.find(escaped_space, done)) {
    out.append(piece, done, at - done);
    out += ' ';
    done = at + escaped_space.size();
  }
  return out.append(piece, done);
}

// Takes a number of protocol buffers' wire format off the front; false where there is none.
bool take_number(std::string_view& bytes, std::uint64_t& number) {
  number = 0;
  for (unsigned shift = 0; shift < 64 && !bytes.empty(); shift += 7) {
    const auto byte = static_cast<unsigned char>(bytes.front());
    bytes.remove_prefix(1);
    number |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
    if (byte < 0x80) return true;
  }
  return false;
}

// Whether any field 1 of `message` that holds bytes is one that `holds`. What is no message ends
// it: the library refuses that.
template <class Holds>
bool any_first_field(std::string_view message, Holds holds) {
  std::uint64_t key = 0, size = 0;
  while (take_number(message, key)) {
    const auto type = key & 7;
    if (type == 3 || type == 4) continue;  // a group's fields, as if they were the message's
    if (type == 0) {
      if (!take_number(message, size)) return false;
      continue;
    }
    if (type == 1 || type == 5) {
      size = type == 1 ? 8 : 4;
    } else if (type != 2 || !take_number(message, size)) {
      return false;
    }
    if (size > message.size()) return false;
    const bool first = static_cast<std::uint32_t>(key) >> 3 == 1;
    if (type == 2 && first && holds(message.substr(0, size))) return true;
    message.remove_prefix(size);
  }
  return false;
}

// A null character in a piece, the first field of a model's first fields, makes the library end the
// program.
bool has_a_null_in_a_piece(const std::string& serialized) {
  return any_first_field(serialized, [](std::string_view piece) {
    return any_first_field(
        piece, [](std::string_view text) { return text.find('\0') != std::string_view::npos; });
  });
}

void load(sentencepiece::SentencePieceProcessor& processor, const std::string& serialized,
          const std::string& source) {
  require(!has_a_null_in_a_piece(serialized),
          "{}: a piece of the model holds a null character; it is damaged", source);
  const auto status = processor.LoadFromSerializedProto(serialized);
  require(status.ok() && processor.GetPieceSize() > 0,
          "{}: is not a SentencePiece model, or is damaged", source);
}

// The same model with normalizer_spec.add_dummy_prefix false: what is appended to a protocol
// buffer overrides what stands in it.
std::string without_dummy_prefix(const std::string& serialized) {
  return serialized + std::string("\x1a\x02\x18\x00", 4);
}

class SentencePieceTokenizer : public FileTokenizer {
 public:
  SentencePieceTokenizer(const std::string& serialized, const std::string& source,
                         const TokenizerConfig& config)
      : FileTokenizer(config) {
    keep_file("tokenizer.model", serialized);
    load(processor_, serialized, source);
    load(continuing_, without_dummy_prefix(serialized), source);
    for (int id = 0; id < processor_.GetPieceSize(); ++id) {
      bytes_.push_back(bytes_of_piece(id));
      if (processor_.IsControl(id)) added_.add(processor_.IdToPiece(id), control_token(id), source);
      if (!processor_.IsByte(id)) continue;
      byte_ids_[static_cast<unsigned char>(bytes_.back()[0])] = id;
      ++byte_pieces_;
    }
    for (const auto& token : config.added) add_beside(token, source);
    puts_space_first_ = puts_space_first();
    strips_all_spaces_ = strips_all_spaces();
    bos_ = processor_.bos_id();
    eos_ = processor_.eos_id();
    pad_ = processor_.pad_id();
    take_roles(config.named, config.path, [this](const std::string& name) { return id_of(name); });
    take_frame(config, config.is_llama());
  }

  using Tokenizer::encode;
  std::vector<std::int32_t> encode(std::string_view text, EncodeOptions options) const override {
    std::vector<std::int32_t> ids;
    added_.split(
        text, options.special,
        [&](std::string_view part, std::size_t at) {
          encode_part(part, options.continues && at == 0, ids);
        },
        [&](const AddedToken& token) { ids.push_back(token.id); });
    return ids;
  }

  std::string_view bytes(std::int32_t id) const override {
    if (id < 0 || id >= size()) return {};
    return bytes_[static_cast<std::size_t>(id)];
  }

  std::string_view first_bytes(std::int32_t id) const override {
    std::string_view added = bytes(id);
    const bool marked = puts_space_first_ && added.starts_with(' ') &&
                        id < processor_.GetPieceSize() && !processor_.IsUnknown(id) &&
                        !processor_.IsByte(id);
    if (marked) added.remove_prefix(1);
    return added;
  }

  bool begins_text(std::int32_t id) const override {
    return !(strips_all_spaces_ ? first_bytes(id) : bytes(id)).empty();
  }

  std::string text(std::span<const std::int32_t> ids) const override {
    std::string shown = replace_each_invalid_byte(decode(ids));
    return cleans_up_spaces() ? clean_up_spaces(std::move(shown)) : shown;
  }

  std::string piece(std::int32_t id) const override {
    if (id >= 0 && id < processor_.GetPieceSize()) return processor_.IdToPiece(id);
    const auto beside = names_beside_.find(id);
    return beside == names_beside_.end() ? "<none>" : beside->second;
  }

  std::int64_t size() const override { return static_cast<std::int64_t>(bytes_.size()); }
  std::string description() const override {
    return fmt::format("SentencePiece, {} pieces", size());
  }

 private:
  std::string bytes_of_piece(int id) const {
    if (processor_.IsControl(id) || processor_.IsUnused(id)) return {};
    if (processor_.IsUnknown(id)) return processor_.DecodeIds({id});
    const std::string& piece = processor_.IdToPiece(id);
    if (processor_.IsByte(id)) {  // <0xXX>
      return std::string(1, static_cast<char>(std::stoi(piece.substr(3, 2), nullptr, 16)));
    }
    return unescaped(piece);
  }

  AddedToken control_token(int id) const {
    AddedToken token;
    token.content = processor_.IdToPiece(id);
    token.id = id;
    token.special = true;
    return token;
  }

  // A token of tokenizer_config.json: one of the model's by its name, or the next after them.
  void add_beside(const AddedToken& token, const std::string& source) {
    if (token.id < processor_.GetPieceSize()) {
      require(processor_.IdToPiece(token.id) == token.content,
              "{}: added_tokens_decoder calls {} \"{}\", the model \"{}\"", source, token.id,
              printable(token.content), printable(processor_.IdToPiece(token.id)));
    } else {
      require(token.id == size(), "{}: added_tokens_decoder has id {}; wanted {}, the next", source,
              token.id, size());
      bytes_.push_back(token.special ? "" : token.content);
      names_beside_[token.id] = token.content;
    }
    added_.add(token.content, token, source);
  }

  bool puts_space_first() const {
    std::vector<int> here, there;
    const bool known = processor_.Encode("a", &here).ok() && continuing_.Encode("a", &there).ok();
    return known && here != there;
  }

  // With remove_extra_whitespaces the text begins with the first piece that is more than a space.
  bool strips_all_spaces() const {
    const int space = processor_.PieceToId(std::string(escaped_space));
    return !processor_.IsUnknown(space) && processor_.DecodeIds({space, space}).empty();
  }

  std::int32_t id_of(const std::string& name) const {
    for (const auto& [id, content] : names_beside_) {
      if (content == name) return id;
    }
    const std::int32_t id = processor_.PieceToId(name);  // the unknown token's for what is no piece
    return id >= 0 && processor_.IdToPiece(id) == name ? id : -1;
  }

  // A byte that is no text becomes the piece of that byte.
  void encode_part(std::string_view part, bool continues, std::vector<std::int32_t>& ids) const {
    while (!part.empty()) {
      const std::size_t valid = valid_utf8_prefix(part);
      if (valid > 0) encode_valid(part.substr(0, valid), continues, ids);
      part.remove_prefix(valid);
      if (part.empty()) break;
      ids.push_back(byte_pieces_ == 256 ? byte_ids_[static_cast<unsigned char>(part[0])]
                                        : processor_.unk_id());
      part.remove_prefix(1);
      continues = true;
    }
  }

  void encode_valid(std::string_view text, bool continues, std::vector<std::int32_t>& ids) const {
    std::vector<int> part;
    const auto& processor = continues ? continuing_ : processor_;
    const auto status = processor.Encode({text.data(), text.size()}, &part);
    require(status.ok(), "tokenizer: {}", status.ToString());
    ids.insert(ids.end(), part.begin(), part.end());
  }

  sentencepiece::SentencePieceProcessor processor_;
  sentencepiece::SentencePieceProcessor continuing_;  // puts no space in front
  bool puts_space_first_ = false;
  bool strips_all_spaces_ = false;
  std::vector<std::string> bytes_;
  std::array<std::int32_t, 256> byte_ids_{};
  int byte_pieces_ = 0;
  AddedTokenFinder added_;
  std::map<std::int32_t, std::string> names_beside_;  // of tokens beyond the model's
};

// Feeds lines of the caller's texts to the trainer, which keeps no line breaks.
class Lines : public sentencepiece::SentenceIterator {
 public:
  Lines(const std::function<bool(std::string&)>& next, std::size_t most_bytes)
      : next_(next), left_(most_bytes) {
    Next();
  }

  bool done() const override { return done_; }
  const std::string& value() const override { return line_; }
  sentencepiece::util::Status status() const override { return {}; }

  void Next() override {
    do {
      if (at_ >= text_.size()) {
        if (left_ == 0 || !next_(text_)) {
          done_ = true;
          return;
        }
        at_ = 0;
      }
      const std::size_t end = std::min(text_.find('\n', at_), text_.size());
      line_ = text_.substr(at_, std::min(end - at_, left_));
      left_ -= line_.size();
      at_ = end + 1;
    } while (line_.empty());
  }

 private:
  const std::function<bool(std::string&)>& next_;
  std::size_t left_;
  std::string text_, line_;
  std::size_t at_ = 0;
  bool done_ = false;
};

}  // namespace

std::unique_ptr<Tokenizer> sentencepiece_tokenizer(const std::string& serialized,
                                                   const std::string& source) {
  return sentencepiece_tokenizer(serialized, source, {});
}

std::unique_ptr<Tokenizer> sentencepiece_tokenizer(const std::string& serialized,
                                                   const std::string& source,
                                                   const TokenizerConfig& config) {
  return std::make_unique<SentencePieceTokenizer>(serialized, source, config);
}

std::string train_sentencepiece(const std::function<bool(std::string&)>& next,
                                std::int64_t vocabulary, std::size_t most_bytes) {
  Lines lines(next, most_bytes);
  require(!lines.done(), "tokenizer: there is no text to train a vocabulary on");
  std::string model;
  const std::unordered_map<std::string, std::string> options = {
      {"model_type", "bpe"},
      {"vocab_size", std::to_string(vocabulary)},
      {"character_coverage", "0.9995"},  // rarer characters are spelled in bytes
      {"byte_fallback", "true"},
      {"normalization_rule_name", "identity"},
      {"remove_extra_whitespaces", "false"},
      {"add_dummy_prefix", "false"},
      {"split_digits", "true"},
      {"max_sentence_length", "65536"},
      {"num_threads", "1"},
      {"minloglevel", "3"}};
  const auto status = sentencepiece::SentencePieceTrainer::Train(options, &lines, &model);
  if (!status.ok()) {
    std::string problem = status.ToString();  // "Internal: file(line) [condition] what is wrong."
    const auto condition = problem.rfind("] ");
    if (condition != std::string::npos) problem.erase(0, condition + 2);
    fail("tokenizer: cannot train a vocabulary of {}; choose another --vocab-size: {}", vocabulary,
         problem);
  }
  return model;
}

}  // namespace metala
