// DatasetInfo: PREFIX.json, what is known of prepared tokens besides the tokens.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace metala {

struct DatasetInfo {
  std::int64_t documents = 0, tokens = 0;
  std::uint64_t text_bytes = 0;  // of UTF-8 that the tokens stand for
  std::int64_t vocabulary = 0;   // ids of the tokenizer
  std::int32_t end_id = -1;      // closes every document; -1: nothing does
  std::string tokenizer;         // its description
  bool labels = false;           // labels_prefix(PREFIX) says what is to be learned
};

// The folder beside the tokens that holds their tokenizer, as model folders do.
std::string tokenizer_folder(const std::string& prefix);

// The dataset beside the tokens that holds a label for each: what is to be predicted of it, itself
// as a rule, or -100. GPT-NeoX's label data sets are of this form.
std::string labels_prefix(const std::string& prefix);

// Nothing for tokens that another program prepared. Throws Error naming file and field.
std::optional<DatasetInfo> read_dataset_info(const std::string& prefix);
void write_dataset_info(const std::string& prefix, const DatasetInfo&);

}  // namespace metala
