#include "metala/data/choose_tokenizer.h"

#include <algorithm>
#include <filesystem>

#include "metala/base/error.h"
#include "metala/io/input_stream.h"

namespace metala {
namespace {

constexpr std::size_t vocabulary_text = std::size_t{24} << 20;  // plenty for any small vocabulary

// Every n-th document, so that the sample spans the inputs.
std::vector<std::string> sample_texts(const std::vector<std::string>& inputs,
                                      const DocumentOptions& options) {
  const auto stride = std::max<std::uint64_t>(1, total_bytes(inputs) / vocabulary_text);
  std::vector<std::string> texts;
  std::uint64_t index = 0;
  DocumentReader reader(document_files(inputs, options.format));
  for (DocumentBlock block; reader.next(block);) {
    for_each_document(
        block, options,
        [&](Document d) {
          if (index++ % stride == 0 && !d.text.empty()) texts.push_back(std::move(d.text));
        },
        [](Malformed, const std::string&) {});  // whoever prepares the text reports them
  }
  return texts;
}

std::unique_ptr<Tokenizer> learned(std::int64_t vocabulary, const std::vector<std::string>& inputs,
                                   const DocumentOptions& options) {
  require(std::find(inputs.begin(), inputs.end(), InputStream::standard_input) == inputs.end(),
          "a vocabulary cannot be learned from standard input, which is read only once; name "
          "files, or another --tokenizer");
  const auto texts = sample_texts(inputs, options);
  std::size_t at = 0;
  const auto next = [&](std::string& text) {
    if (at == texts.size()) return false;
    text = texts[at++];
    return true;
  };
  return sentencepiece_tokenizer(train_sentencepiece(next, vocabulary, vocabulary_text),
                                 "the trained vocabulary");
}

}  // namespace

std::unique_ptr<Tokenizer> choose_tokenizer(const TokenizerChoice& choice,
                                            const std::vector<std::string>& inputs,
                                            const DocumentOptions& options) {
  if (choice.name == "bytes") return byte_tokenizer();
  if (choice.name == "sentencepiece") return learned(choice.vocabulary, inputs, options);
  require(std::filesystem::exists(choice.name),
          "--tokenizer {} is neither bytes, sentencepiece, nor a file or folder", choice.name);
  return open_tokenizer(choice.name);
}

void require_same_ids(const Tokenizer& one, const std::string& of_one, const Tokenizer& other,
                      const std::string& of_other) {
  const auto ids = static_cast<std::int32_t>(std::max(one.size(), other.size()));
  for (std::int32_t id = 0; id < ids; ++id) {
    const bool same = id < one.size() && id < other.size() && one.bytes(id) == other.bytes(id);
    const auto shown = [id](const Tokenizer& of) {
      return id < of.size() ? '"' + of.piece(id) + '"' : std::string("nothing");
    };
    require(same, "{}: id {} stands for {}, in {} for {}; wanted the same tokenizer", of_one, id,
            shown(one), of_other, shown(other));
  }
}

}  // namespace metala
