// What tokenizer_config.json and special_tokens_map.json say beside a vocabulary.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "metala/text/added_tokens.h"

namespace metala {

struct TokenizerConfig {
  std::string path;                          // of tokenizer_config.json, for errors
  std::string tokenizer_class;               // empty: not said
  std::map<std::string, std::string> named;  // "bos_token" and the like to their texts
  std::optional<bool> add_bos_token, add_eos_token;
  std::vector<AddedToken> added;  // added_tokens_decoder, by id
  bool clean_up_tokenization_spaces = false;
  // The files as they were, by name: they are saved along with a vocabulary.
  std::vector<std::pair<std::string, std::string>> files;

  // Whether bos goes before a text, eos after it, for the classes that build that from
  // add_bos_token and add_eos_token (LLaMA's): true and false unless given.
  bool is_llama() const;
};

// An empty one where there are no files. Throws Error naming the file and field that is wrong.
TokenizerConfig read_tokenizer_config(const std::string& folder);

}  // namespace metala
