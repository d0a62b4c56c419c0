// TokenWriter: writes PREFIX.bin and PREFIX.idx (token_index.h), document by document, in a few
// megabytes of memory, and can go on with what a killed process left.
//
// The tokens grow in PREFIX.bin.partial, the lengths in PREFIX.lengths.partial. `finish` writes the
// index beside them and gives both their names, the index last: where there is an .idx the dataset
// is whole. A job that is killed in between can still go on.
#pragma once

#include <cstdint>
#include <fstream>
#include <span>
#include <string>

#include "metala/data/token_index.h"

namespace metala {

// The smallest type that GPT-NeoX would choose: u16 for vocabularies below 65,500, else i32.
TokenType token_type_for(std::int64_t vocabulary);

// What has been written.
struct TokenPosition {
  std::int64_t sequences = 0, tokens = 0;
};

class TokenWriter {
 public:
  // With a position, goes on behind it with the partial files that are there: what lies beyond it
  // is cut off. Throws Error if they are shorter than that.
  TokenWriter(const std::string& prefix, TokenType, TokenPosition from = {});
  // Leaves the partial files; `discard` removes them.
  ~TokenWriter() = default;

  // Throws Error for an id that the type cannot hold and for a failed write.
  void add(std::span<const std::int32_t> sequence, bool ends_document = true);

  // Makes what was added durable.
  TokenPosition sync();
  // `labels`: the writer of a dataset that is whole just before this one is.
  void finish(TokenWriter* labels = nullptr);
  void discard();

  const TokenPosition& position() const { return position_; }

 private:
  std::string bin_path() const { return prefix_ + ".bin.partial"; }
  std::string lengths_path() const { return prefix_ + ".lengths.partial"; }
  std::string index_path() const { return prefix_ + ".idx.partial"; }
  void seal();
  void publish() const;
  void require_written(std::ostream&, const std::string& path);

  std::string prefix_;
  TokenType type_;
  TokenPosition position_;
  std::ofstream bin_, lengths_;  // a length n; ~n where the sequence does not end its document
  std::string encoded_;
};

}  // namespace metala
