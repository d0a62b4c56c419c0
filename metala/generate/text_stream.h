// TextStream: tokens in, text out that can be shown at once.
//
// Never gives half a character, nor anything that may turn out to begin a stop string; ends just
// before the first stop string. Cost a token does not depend on how much came before.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "metala/text/tokenizer.h"
#include "metala/text/utf8.h"

namespace metala {

class TextStream {
 public:
  TextStream(const Tokenizer& tokenizer, std::vector<std::string> stops)
      : tokenizer_(&tokenizer), stops_(std::move(stops)) {}

  std::string push(std::int32_t id) { return release(utf8_.push(tokenizer_->bytes(id)), false); }
  std::string flush() { return release(utf8_.flush(), true); }
  bool stopped() const { return stopped_; }

 private:
  std::string release(const std::string& text, bool all);

  const Tokenizer* tokenizer_;
  std::vector<std::string> stops_;
  Utf8Stream utf8_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace metala
