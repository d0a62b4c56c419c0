// Documents: the texts that training and validation read, from files of several kinds.
//
//   FILE.jsonl    a document each line: {"text": "..."}, or ids of an own vocabulary with labels:
//                 {"ids": [...], "labels": [...]}, -100 where there is nothing to learn
//   DIRECTORY     every file below it, in the order of names; hidden ones are left out
//   any other     one document
//
// Text must be UTF-8. Errors name file and line, or file and byte.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace metala {

struct Document {
  std::string text;
  std::vector<std::int32_t> ids, labels;  // instead of text
};

struct DocumentOptions {
  std::string text_field = "text";
  bool replace_invalid = false;  // U+FFFD for what is not UTF-8, instead of an error
};

// Calls `take` for every document in order. `progress`, if given, is told the bytes read so far.
// Returns the bytes read.
std::uint64_t read_documents(const std::vector<std::string>& inputs, const DocumentOptions&,
                             const std::function<void(Document)>& take,
                             const std::function<void(std::uint64_t)>& progress = {});

// Bytes of all files that `inputs` name.
std::uint64_t total_bytes(const std::vector<std::string>& inputs);

}  // namespace metala
