// TokenDataset: documents as tokens, PREFIX.bin and PREFIX.idx, mapped.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "metala/data/token_index.h"
#include "metala/io/file.h"

namespace metala {

// The prefix of a dataset from any of its names: PREFIX, PREFIX.bin, PREFIX.idx.
std::string dataset_prefix(const std::string& named);

// Throws Error, saying how datasets are made, when PREFIX.idx does not exist.
void require_dataset(const std::string& prefix);

class TokenDataset {
 public:
  // Throws Error as TokenIndex does, and for missing files.
  static TokenDataset open(const std::string& prefix);

  const std::string& prefix() const { return prefix_; }
  const TokenIndex& index() const { return index_; }
  // Every sequence counts as a document (token_index.h).
  std::int64_t documents() const { return index_.sequences(); }
  std::int64_t tokens() const { return index_.tokens(); }
  std::int32_t length(std::int64_t document) const { return index_.length(document); }

  // Tokens offset, offset + 1, ... of a document, which must hold that many. Throws Error for one
  // that is negative or does not fit 32 bits.
  void read(std::int64_t document, std::int64_t offset, std::span<std::int32_t> into) const;
  std::vector<std::int32_t> read(std::int64_t document) const;
  // The same of a dataset of labels, whose numbers may be negative.
  void read_labels(std::int64_t document, std::int64_t offset, std::span<std::int32_t> into) const;

 private:
  TokenDataset(std::string prefix, MappedFile bin, TokenIndex index)
      : prefix_(std::move(prefix)), bin_(std::move(bin)), index_(std::move(index)) {}

  std::string prefix_;
  MappedFile bin_;
  TokenIndex index_;
};

// Throws Error naming the document unless `labels` has a number for each token.
void check_labels(const TokenDataset& tokens, const TokenDataset& labels);

}  // namespace metala
