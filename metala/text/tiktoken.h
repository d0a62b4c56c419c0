// tiktoken vocabularies: NAME.tiktoken, a line "base64(bytes) rank" for each token, where the rank
// is the id and the order of merging, and perhaps NAME.tiktoken.json beside it, which says what the
// ranks do not:
//
//   {"pattern": "cl100k",                       gpt2, cl100k, o200k or a regular expression
//    "special_tokens": {"<|endoftext|>": 100257},
//    "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
//
// What neither this file nor tokenizer_config.json says is GPT-4's: its pattern, and its special
// tokens if there are exactly its 100,256 ranks.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "metala/text/tokenizer.h"
#include "metala/text/tokenizer_config.h"

namespace metala {

// From the contents of NAME.tiktoken (`path`, for errors and for saving) and of its JSON. Throws
// Error for ranks that are not as above, lack one of the 256 bytes, repeat a rank or leave out more
// than 65,536, and for a token of more than 4,096 bytes.
std::unique_ptr<Tokenizer> tiktoken_tokenizer(const std::string& ranks,
                                              const std::optional<std::string>& description,
                                              const TokenizerConfig&, const std::string& path);

}  // namespace metala
