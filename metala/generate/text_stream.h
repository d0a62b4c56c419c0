// TextStream: tokens in, text out that can be shown at once.
//
// Never gives half a character, nor anything that may turn out to begin a stop string; ends just
// before the first stop string. Cost a token does not depend on how much came before. The text goes
// on from a prompt unless it `begins`: then a space that the tokenizer puts first is left out.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "metala/text/clean_up.h"
#include "metala/text/tokenizer.h"
#include "metala/text/utf8.h"

namespace metala {

class TextStream {
 public:
  TextStream(const Tokenizer& tokenizer, std::vector<std::string> stops, bool begins = false)
      : tokenizer_(&tokenizer), stops_(std::move(stops)), begins_(begins) {}

  std::string push(std::int32_t id);
  std::string flush();
  bool stopped() const { return stopped_; }

 private:
  std::string release(const std::string& text, bool all);

  const Tokenizer* tokenizer_;
  std::vector<std::string> stops_;
  bool begins_;
  Utf8Stream utf8_;
  CleanUpStream clean_up_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace metala
