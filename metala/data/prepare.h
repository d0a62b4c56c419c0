// From text to tokens on disk: PREFIX.bin, PREFIX.idx, PREFIX.json and PREFIX.tokenizer/.
//
// Documents of ids and labels (documents.h) are written with PREFIX_labels.bin and .idx, in which
// GPT-NeoX has a label lie at the token it is compared with: label i of a document at its token
// i+1, the last at its end token, -100 at its first. All documents have labels, or none.
//
// Documents are tokenised on all threads and written in the order of the inputs, so the files do
// not depend on the number of threads. Empty documents are left out, as GPT-NeoX does. All is made
// beside what it replaces (PREFIX.tokenizer.partial/, token_writer.h). Progress is noted in
// PREFIX.prepare.json; a job that was killed goes on from there and ends with the same
// bytes as one that was not.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "metala/data/choose_tokenizer.h"
#include "metala/data/documents.h"

namespace metala {

struct PrepareOptions {
  std::vector<std::string> inputs;
  std::string prefix;
  DocumentOptions documents;
  TokenizerChoice tokenizer;
  bool append_end = true;       // the tokenizer's end token after each document
  bool skip_malformed = false;  // count and leave out, instead of stopping at the first
  bool resume = false;
  bool overwrite = false;
  int threads = 1;
  std::uint64_t note_every = std::uint64_t{256} << 20;  // bytes of text between notes of progress
};

struct PrepareReport {
  std::int64_t documents = 0, tokens = 0, empty = 0;
  std::uint64_t text_bytes = 0;
  std::uint64_t consumed = 0;  // bytes of the input files
  std::array<std::int64_t, malformed_kinds> malformed{};
  std::vector<std::string> examples;  // messages of the first malformed documents
  bool finished = false;

  std::int64_t left_out() const;
};

struct PrepareEvents {
  std::function<void(const PrepareReport&)> progress;  // after each block
  std::function<bool()> interrupted;                   // true: note the progress and stop
};

// Bytes of all input files, 0 when standard input is among them.
std::uint64_t prepare_bytes(const PrepareOptions&);

// Throws Error for a malformed document (unless they are skipped), after noting the progress; for
// documents with labels beside others without; for ids that the tokenizer does not have; for an
// unfinished or finished dataset of that name, when neither resume nor overwrite is asked for; and
// for a resume with other inputs or options.
PrepareReport prepare(const PrepareOptions&, const PrepareEvents& = {});

}  // namespace metala
