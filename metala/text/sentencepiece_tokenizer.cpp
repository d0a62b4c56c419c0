#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <array>

#include "metala/base/error.h"
#include "metala/io/file.h"
#include "metala/text/tokenizer.h"
#include "metala/text/utf8.h"

namespace metala {
namespace {

constexpr std::string_view escaped_space = "\xE2\x96\x81";  // U+2581, SentencePiece's space

std::string unescaped(std::string piece) {
  for (auto at = piece.find(escaped_space); at != std::string::npos;
       at = piece.find(escaped_space, at + 1)) {
    piece.replace(at, escaped_space.size(), " ");
  }
  return piece;
}

class SentencePieceTokenizer : public Tokenizer {
 public:
  SentencePieceTokenizer(const std::string& serialized, const std::string& source)
      : serialized_(serialized) {
    const auto status = processor_.LoadFromSerializedProto(serialized);
    require(status.ok() && processor_.GetPieceSize() > 0,
            "{}: is not a SentencePiece model, or is damaged", source);
    for (int id = 0; id < processor_.GetPieceSize(); ++id) {
      bytes_.push_back(bytes_of_piece(id));
      if (!processor_.IsByte(id)) continue;
      byte_ids_[static_cast<unsigned char>(bytes_.back()[0])] = id;
      ++byte_pieces_;
    }
  }

  std::vector<std::int32_t> encode(std::string_view text) const override {
    std::vector<std::int32_t> ids;
    while (!text.empty()) {
      const std::size_t valid = valid_utf8_prefix(text);
      encode_valid(text.substr(0, valid), ids);
      text.remove_prefix(valid);
      if (text.empty()) break;
      ids.push_back(byte_pieces_ == 256 ? byte_ids_[static_cast<unsigned char>(text[0])]
                                        : processor_.unk_id());
      text.remove_prefix(1);
    }
    return ids;
  }

  std::string_view bytes(std::int32_t id) const override {
    if (id < 0 || id >= size()) return {};
    return bytes_[static_cast<std::size_t>(id)];
  }

  std::string piece(std::int32_t id) const override {
    return id < 0 || id >= size() ? "<none>" : processor_.IdToPiece(id);
  }

  std::int64_t size() const override { return static_cast<std::int64_t>(bytes_.size()); }
  std::int32_t bos() const override { return processor_.bos_id(); }
  std::int32_t eos() const override { return processor_.eos_id(); }
  std::int32_t pad() const override { return processor_.pad_id(); }
  std::string description() const override {
    return fmt::format("SentencePiece, {} pieces", size());
  }

  void save(const std::string& folder) const override {
    write_file_atomically(folder + "/tokenizer.model", serialized_);
  }

 private:
  std::string bytes_of_piece(int id) const {
    if (processor_.IsControl(id) || processor_.IsUnused(id)) return {};
    if (processor_.IsUnknown(id)) return "\xEF\xBF\xBD";
    const std::string& piece = processor_.IdToPiece(id);
    if (processor_.IsByte(id)) {  // <0xXX>
      return std::string(1, static_cast<char>(std::stoi(piece.substr(3, 2), nullptr, 16)));
    }
    return unescaped(piece);
  }

  void encode_valid(std::string_view text, std::vector<std::int32_t>& ids) const {
    std::vector<int> part;
    const auto status = processor_.Encode({text.data(), text.size()}, &part);
    require(status.ok(), "tokenizer: {}", status.ToString());
    ids.insert(ids.end(), part.begin(), part.end());
  }

  std::string serialized_;
  sentencepiece::SentencePieceProcessor processor_;
  std::vector<std::string> bytes_;
  std::array<std::int32_t, 256> byte_ids_{};
  int byte_pieces_ = 0;
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
  return std::make_unique<SentencePieceTokenizer>(serialized, source);
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
  require(status.ok(),
          "tokenizer: cannot train a vocabulary of {}: {}; choose another "
          "--vocab-size",
          vocabulary, status.ToString());
  return model;
}

}  // namespace metala
