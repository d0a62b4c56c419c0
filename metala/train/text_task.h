// TextTask: predicting the next token of a long text.
//
// The training tokens are one stream, documents end to end with an end token after each. In every
// epoch it is cut into windows of T tokens at a different place and the windows are visited in a
// random order; window i of a run is a pure function of (seed, i). A window's labels are its tokens
// moved by one, so each window reads one token of the next.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "metala/train/task.h"

namespace metala {

// Tokens of some documents, and what they were made from.
struct TokenStream {
  std::vector<std::int32_t> tokens;
  std::vector<std::int32_t> labels;  // same length if the documents bring their own, else empty
  std::int64_t bytes = 0;            // of text, end tokens not counted
};

struct TextTaskOptions {
  std::int64_t length = 256;    // T
  std::int64_t sequences = 16;  // windows in a micro batch
  std::uint64_t seed = 0;
};

class TextTask : public TrainingTask {
 public:
  // Throws Error when the training stream is shorter than two tokens. A validation stream that is
  // makes no batches.
  TextTask(TokenStream training, TokenStream validation, TextTaskOptions);

  LabelledBatch training_batch(std::int64_t index) const override;
  std::int64_t validation_batches() const override;
  LabelledBatch validation_batch(std::int64_t index) const override;

  std::int64_t windows_per_epoch() const;

 private:
  std::int64_t window_start(std::int64_t window) const;
  void add_window(const TokenStream&, std::int64_t start, LabelledBatch&) const;

  TokenStream training_, validation_;
  TextTaskOptions options_;
};

// A permutation of 0..n-1 as a function: a four-round Feistel network on the smallest even number
// of bits that holds n - 1, walked until it lands below n. Needs no memory.
std::uint64_t permuted(std::uint64_t i, std::uint64_t n, std::uint64_t seed, std::uint64_t stream);

}  // namespace metala
