// The patterns that cut text into the pieces that byte-pair encoding works on.
//
// The well-known ones run as code written for them, which finds what their regular expression
// finds some fifty times as fast; split_patterns_test.cpp holds the two together.
#pragma once

#include <string>
#include <string_view>

namespace metala {

// The end of the piece that begins at `at`. `text` is valid UTF-8 and at < text.size(). Pieces
// follow one another without gaps.
using Splitter = std::size_t (*)(std::string_view text, std::size_t at);

namespace split_patterns {

// GPT-2, GPT-NeoX.
extern const char* const gpt2;
// GPT-4 as first published, and the tokenizers that copied it (Llama 3).
extern const char* const cl100k;
// As cl100k, but a run of white space that ends the text stays whole: tiktoken since 2024.
extern const char* const cl100k_whole_end;
// As cl100k with digits one by one.
extern const char* const qwen;
// GPT-4o. No code of its own.
extern const char* const o200k;

// The code for `pattern` in any of its published spellings; null for another pattern.
Splitter find(std::string_view pattern);

}  // namespace split_patterns
}  // namespace metala
