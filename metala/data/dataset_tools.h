// Joining, cutting and measuring prepared datasets.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "metala/data/token_dataset.h"

namespace metala {

// Writes the documents of all datasets, in order, as PREFIX. Info and tokenizer go along when the
// datasets agree on them, labels when all have some. Throws Error when their tokenizers differ,
// when some have labels and some do not, and for a PREFIX that exists.
void merge_datasets(const std::vector<std::string>& from, const std::string& prefix,
                    const std::function<void(std::int64_t documents)>& progress = {});

// Writes the parts of split_documents (splits.h) as PREFIX_train, PREFIX_valid and PREFIX_test: all,
// or, when one fails, none. An empty part is left out. Returns the number of documents in each.
std::array<std::int64_t, 3> split_dataset(const std::string& from, const std::string& split,
                                          const std::string& prefix);

struct DatasetStatistics {
  std::int64_t documents = 0, tokens = 0, empty = 0;
  // Tokens of a document.
  std::int64_t shortest = 0, median = 0, ninetieth = 0, longest = 0;
  double mean = 0;
  std::int32_t largest_id = -1;
  std::int64_t ending_in_end_id = 0;  // documents whose last token is `end_id`
  std::int64_t labelled = 0;          // tokens to be learned
};

// `labels`, if not null, are the dataset's, and are checked.
DatasetStatistics dataset_statistics(const TokenDataset&, std::int32_t end_id,
                                     const TokenDataset* labels = nullptr);

// The labels that were prepared with a dataset; nothing where it has none.
std::optional<TokenDataset> labels_of(const TokenDataset&);

}  // namespace metala
