// The spaces before punctuation that some vocabularies leave behind: "it 's here ." to "it's here."
#pragma once

#include <string>
#include <string_view>

namespace metala {

// One replacement after the other, as Hugging Face's clean_up_tokenization does it: " ." to ".",
// then " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've" and " 're".
std::string clean_up_spaces(std::string text);

// The same for text that comes in pieces: what is given out adds up to clean_up_spaces of the
// whole. Holds back the beginning of a word, until it is none of these.
class CleanUpStream {
 public:
  std::string push(std::string_view text);
  std::string flush();

 private:
  std::string pending_;
};

}  // namespace metala
