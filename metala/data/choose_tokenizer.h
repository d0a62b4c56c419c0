// The tokenizer that a user names for a corpus.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "metala/data/documents.h"
#include "metala/text/tokenizer.h"

namespace metala {

struct TokenizerChoice {
  // "bytes"; "sentencepiece", learned from the corpus; or a tokenizer's file or folder.
  std::string name = "bytes";
  std::int64_t vocabulary = 4096;  // of one that is learned
};

// A vocabulary is learned from documents spread over all inputs, 24 MiB of them at most.
std::unique_ptr<Tokenizer> choose_tokenizer(const TokenizerChoice&,
                                            const std::vector<std::string>& inputs,
                                            const DocumentOptions&);

// Throws Error, naming the first that differs, unless every id stands for the same text in both.
// `of_one` and `of_other` say whose they are: "data/corpus", "the tokenizer of this run".
void require_same_ids(const Tokenizer& one, const std::string& of_one, const Tokenizer& other,
                      const std::string& of_other);

}  // namespace metala
