// Documents: the texts that a corpus is made of, from files of several kinds.
//
//   FILE.jsonl    a document each line: {"text": "..."}; for training on given labels also
//                 {"ids": [...], "labels": [...]}, as many: labels[i] is what is to be predicted
//                 after ids[0] .. ids[i], -100 where there is nothing to learn
//   DIRECTORY     every file below it, in the order of names; hidden ones are left out
//   -             standard input, lines as in FILE.jsonl
//   any other     one document
//
// Any of them compressed (io/input_stream.h): FILE.jsonl.zst, FILE.txt.gz. Text must be UTF-8.
// Errors name file and line, or file and byte.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace metala {

class InputStream;

struct Document {
  std::string text;
  std::vector<std::int32_t> ids, labels;  // instead of text
};

enum class DocumentFormat { by_name, jsonl, text };

struct DocumentOptions {
  std::string text_field = "text";
  bool replace_invalid = false;  // U+FFFD for what is not UTF-8, instead of an error
  DocumentFormat format = DocumentFormat::by_name;
};

struct DocumentFile {
  std::string path;
  std::uint64_t bytes = 0;  // 0 for standard input
  bool lines = false;       // a document each line
};

// The files that `inputs` stand for. Throws Error for one that does not exist.
std::vector<DocumentFile> document_files(const std::vector<std::string>& inputs, DocumentFormat);

// Bytes of all files that `inputs` name.
std::uint64_t total_bytes(const std::vector<std::string>& inputs);

// Where reading stands: what is before it has been read.
struct DocumentPosition {
  std::uint64_t file = 0;    // its number
  std::uint64_t offset = 0;  // in its text, decompressed
  std::int64_t line = 0;     // lines of it that were read
};

// A run of whole documents, as they lie in their file: lines, or all of it.
struct DocumentBlock {
  std::string path, text;
  bool lines = false;
  std::int64_t first_line = 1;
  DocumentPosition end;        // behind this block
  std::uint64_t consumed = 0;  // bytes of all files so far, compressed ones as they lie on the disk
};

// Cuts files into blocks of about `block_bytes`; a longer line or file makes a longer one.
class DocumentReader {
 public:
  static constexpr std::size_t block_bytes = std::size_t{1} << 20;
  static constexpr std::size_t largest_document = std::size_t{1} << 30;

  explicit DocumentReader(std::vector<DocumentFile>, DocumentPosition from = {});
  ~DocumentReader();
  DocumentReader(const DocumentReader&) = delete;
  DocumentReader& operator=(const DocumentReader&) = delete;

  // False at the end.
  bool next(DocumentBlock&);

 private:
  bool open();
  std::size_t fill();
  std::string next_text();

  std::vector<DocumentFile> files_;
  DocumentPosition at_;
  std::unique_ptr<InputStream> stream_;  // of the file at at_, if one is open
  std::string carried_;                  // read, and part of the next block
  bool file_ended_ = false;
  std::uint64_t before_ = 0;  // bytes of the files before
};

// What a document that cannot be read has wrong with it.
enum class Malformed { not_json, no_text, not_utf8, bad_labels };
constexpr int malformed_kinds = 4;
const char* name_of(Malformed);

// Calls `take` for each document of a block in order. A malformed one is given to `malformed` with
// a message that names file and line; without `malformed` the message is thrown as an Error.
void for_each_document(
    const DocumentBlock&, const DocumentOptions&, const std::function<void(Document)>& take,
    const std::function<void(Malformed, const std::string& message)>& malformed = {});

// Calls `take` for every document in order. `progress`, if given, is told the bytes read so far.
// Returns the bytes read.
std::uint64_t read_documents(const std::vector<std::string>& inputs, const DocumentOptions&,
                             const std::function<void(Document)>& take,
                             const std::function<void(std::uint64_t)>& progress = {});

}  // namespace metala
