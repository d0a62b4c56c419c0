#include "metala/cli/train_data.h"

#include <fmt/format.h>

#include "metala/base/error.h"
#include "metala/train/progress.h"

namespace metala::cli {
namespace {

constexpr std::size_t batch_bytes = std::size_t{8} << 20;  // tokenised at a time

// Tokenises documents as they come, a few megabytes at a time on all threads.
class StreamBuilder {
 public:
  explicit StreamBuilder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {
    require(tokenizer.eos() >= 0,
            "train: the tokenizer names no eos_token, which ends documents; name it in "
            "tokenizer_config.json");
  }

  void add(Document document) {
    if (!document.labels.empty()) {
      flush();
      require(stream_.tokens.empty() == stream_.labels.empty(),
              "train: documents with labels and without cannot be mixed");
      for (const auto id : document.ids) {
        require(id >= 0 && id < tokenizer_.size(),
                "train: a document's ids hold {}; the vocabulary has ids from 0 to {}", id,
                tokenizer_.size() - 1);
      }
      for (const auto label : document.labels) {
        require(label < tokenizer_.size(),
                "train: a document's labels hold {}; the vocabulary has ids from 0 to {}, -100 is "
                "nothing to learn",
                label, tokenizer_.size() - 1);
      }
      stream_.tokens.insert(stream_.tokens.end(), document.ids.begin(), document.ids.end());
      stream_.labels.insert(stream_.labels.end(), document.labels.begin(), document.labels.end());
      return;
    }
    if (document.text.empty()) return;
    waiting_bytes_ += document.text.size();
    texts_.push_back(std::move(document.text));
    if (waiting_bytes_ >= batch_bytes) flush();
  }

  TokenStream finish() {
    flush();
    return std::move(stream_);
  }

 private:
  void flush() {
    if (texts_.empty()) return;
    require(stream_.labels.empty(), "train: documents with labels and without cannot be mixed");
    for (const auto& ids : tokenizer_.encode_all(texts_)) {
      stream_.tokens.insert(stream_.tokens.end(), ids.begin(), ids.end());
      stream_.tokens.push_back(tokenizer_.eos());
    }
    stream_.bytes += static_cast<std::int64_t>(waiting_bytes_);
    texts_.clear();
    waiting_bytes_ = 0;
  }

  const Tokenizer& tokenizer_;
  TokenStream stream_;
  std::vector<std::string> texts_;
  std::size_t waiting_bytes_ = 0;
};

TokenStream tokenised(const std::vector<std::string>& inputs, const DocumentOptions& options,
                      const Tokenizer& tokenizer) {
  const auto total = static_cast<double>(total_bytes(inputs)) / 1e6;
  ProgressBar bar("reading text", total, "MB");
  StreamBuilder builder(tokenizer);
  read_documents(
      inputs, options, [&](Document d) { builder.add(std::move(d)); },
      [&](std::uint64_t bytes) { bar.update(static_cast<double>(bytes) / 1e6); });
  return builder.finish();
}

// Cuts the end of a stream off for validation.
TokenStream split_off(TokenStream& training, double share) {
  TokenStream validation;
  const auto count = static_cast<double>(training.tokens.size());
  const auto keep = static_cast<std::size_t>(count * (1 - share));
  const auto cut = [keep](std::vector<std::int32_t>& from) {
    std::vector<std::int32_t> tail(from.begin() + static_cast<std::ptrdiff_t>(keep), from.end());
    from.resize(keep);
    return tail;
  };
  validation.tokens = cut(training.tokens);
  if (!training.labels.empty()) validation.labels = cut(training.labels);
  // Bytes by the share of tokens: exact bytes would need the cut to fall between documents.
  validation.bytes = static_cast<std::int64_t>(static_cast<double>(training.bytes) * share);
  training.bytes -= validation.bytes;
  return validation;
}

}  // namespace

std::unique_ptr<Tokenizer> tokenizer_for_training(const TextDataOptions& options,
                                                  const std::string& reuse) {
  if (!reuse.empty()) return open_tokenizer(reuse);
  if (options.tokenizer.name == "sentencepiece") {
    fmt::print(stderr, "learning a vocabulary of {} pieces\n", options.tokenizer.vocabulary);
  }
  return choose_tokenizer(options.tokenizer, options.inputs, options.documents);
}

std::unique_ptr<TextTask> text_task(const TextDataOptions& options, const Tokenizer& tokenizer) {
  TokenStream training = tokenised(options.inputs, options.documents, tokenizer);
  TokenStream validation = options.validation_inputs.empty()
                               ? split_off(training, options.validation_share)
                               : tokenised(options.validation_inputs, options.documents, tokenizer);
  const std::size_t tokens = training.tokens.size();
  const std::int64_t bytes = training.bytes;
  const std::size_t kept = validation.tokens.size();
  auto task = std::make_unique<TextTask>(std::move(training), std::move(validation), options.task);
  const std::string each =
      bytes > 0 ? fmt::format(" ({:.2f} bytes each)",
                              static_cast<double>(bytes) / static_cast<double>(tokens))
                : "";
  fmt::print(stderr, "training on {} tokens{}, validating on {}\n", tokens, each,
             task->validation_batches() > 0
                 ? fmt::format("{}", kept)
                 : "nothing: the text is too short, name some with --validation");
  return task;
}

}  // namespace metala::cli
