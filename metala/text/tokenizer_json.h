// tokenizer.json, the file of Hugging Face's tokenizers, with a BPE model.
//
//   text ── added tokens ── normalizer ── added tokens ── pre-tokenizer ── BPE ──▶ ids
//
// Truncation and padding are left to the caller. What is not read is refused by name: other models,
// and components that normalizer.h, pre_tokenizer.h and token_decoder.h do not list.
#pragma once

#include <memory>
#include <string>

#include "metala/text/tokenizer.h"
#include "metala/text/tokenizer_config.h"

namespace metala {

// From the content of the file; `path` is for errors. Throws Error naming the file and the field.
std::unique_ptr<Tokenizer> tokenizer_json(const std::string& content, const TokenizerConfig&,
                                          const std::string& path);

}  // namespace metala
