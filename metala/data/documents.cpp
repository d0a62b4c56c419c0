#include "metala/data/documents.h"

#include <algorithm>
#include <filesystem>
#include <limits>
#include <optional>
#include <string_view>

#include "metala/base/error.h"
#include "metala/io/input_stream.h"
#include "metala/io/json.h"
#include "metala/text/utf8.h"

namespace metala {
namespace {

namespace fs = std::filesystem;

bool hidden(const fs::path& path) {
  return path.filename().string().starts_with(".");
}

bool named_jsonl(std::string path) {
  for (const char* compressed : {".gz", ".zst"}) {
    if (path.ends_with(compressed)) path.resize(path.size() - std::string(compressed).size());
  }
  return path.ends_with(".jsonl");
}

std::vector<std::string> files_below(const std::string& folder) {
  std::vector<std::string> below;
  auto walk = fs::recursive_directory_iterator(folder);
  for (auto entry = begin(walk); entry != end(walk); ++entry) {
    if (hidden(entry->path())) {
      if (entry->is_directory()) entry.disable_recursion_pending();
    } else if (entry->is_regular_file()) {
      below.push_back(entry->path().string());
    }
  }
  std::sort(below.begin(), below.end());
  return below;
}

// Thrown while a document is parsed, and told to whoever counts them.
class MalformedDocument : public Error {
 public:
  MalformedDocument(Malformed why, const std::string& message) : Error(message), kind(why) {}
  Malformed kind;
};

std::string checked_text(std::string text, const std::string& where, bool replace) {
  const std::size_t valid = valid_utf8_prefix(text);
  if (valid == text.size()) return text;
  if (replace) return replace_invalid_utf8(text);
  throw MalformedDocument(
      Malformed::not_utf8,
      fmt::format("{}: byte {} is not UTF-8; convert the text, or pass --replace-invalid", where,
                  valid));
}

// Throws unless every number is an id, or -100 where `unlabelled` allows it.
std::vector<std::int32_t> integers(const nlohmann::json& list, const char* field, bool unlabelled,
                                   const std::string& where) {
  require(list.is_array(), "{}: {} must be a list of numbers", where, field);
  std::vector<std::int32_t> out;
  for (const auto& n : list) {
    constexpr std::uint64_t most = std::numeric_limits<std::int32_t>::max();
    const bool fits = n.is_number_unsigned() ? n.get<std::uint64_t>() <= most
                                             : unlabelled && n.is_number_integer() && n == -100;
    require(fits, "{}: {} holds {}; wanted ids{}", where, field,
            n.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).substr(0, 40),
            unlabelled ? ", or -100" : "");
    out.push_back(n.get<std::int32_t>());
  }
  return out;
}

Document labelled_document(const nlohmann::json& json, const std::string& where) {
  try {
    Document document;
    document.ids = integers(json["ids"], "ids", false, where);
    require(json.contains("labels"), "{}: has ids but no labels", where);
    document.labels = integers(json["labels"], "labels", true, where);
    require(document.ids.size() == document.labels.size(), "{}: {} ids but {} labels", where,
            document.ids.size(), document.labels.size());
    return document;
  } catch (const Error& e) {
    throw MalformedDocument(Malformed::bad_labels, e.what());
  }
}

// Picks one string field out of an object while its text is parsed; nothing else is stored.
class TextField : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit TextField(const std::string& field) : field_(field) {}
  std::optional<std::string> take() { return std::move(found_); }

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool string(string_t& value) override {
    if (depth_ == 1 && here_) {
      if (found_) return false;  // given twice; parse_json says so in a sentence
      found_ = std::move(value);
    }
    return true;
  }
  bool key(string_t& name) override {
    if (depth_ != 1) return true;
    here_ = name == field_;
    return name != "ids";  // a document of ids and labels, which parse_line reads whole
  }
  bool start_object(std::size_t) override { return deeper(); }
  bool end_object() override { return --depth_, true; }
  bool start_array(std::size_t) override { return deeper(); }
  bool end_array() override { return --depth_, true; }
  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception&) override {
    return false;
  }

 private:
  bool deeper() {
    constexpr int deepest = 64;
    return ++depth_ <= deepest;
  }
  const std::string& field_;
  std::optional<std::string> found_;
  int depth_ = 0;
  bool here_ = false;
};

Document parse_line(const std::string& line, const std::string& where,
                    const DocumentOptions& options) {
  TextField field(options.text_field);
  if (nlohmann::json::sax_parse(line, &field)) {
    if (auto text = field.take()) return {std::move(*text), {}, {}};
  }
  nlohmann::json json;
  try {
    json = parse_json(line, where);
    require(json.is_object(), "{}: wanted a JSON object", where);
  } catch (const Error& e) {
    throw MalformedDocument(Malformed::not_json, e.what());
  }
  if (json.contains("ids")) return labelled_document(json, where);
  throw MalformedDocument(Malformed::no_text,
                          fmt::format("{}: has no string field \"{}\"; name the field with "
                                      "--text-field",
                                      where, options.text_field));
}

}  // namespace

std::vector<DocumentFile> document_files(const std::vector<std::string>& inputs,
                                         DocumentFormat format) {
  std::vector<DocumentFile> files;
  const auto add = [&](const std::string& path) {
    const bool standard = path == InputStream::standard_input;
    const bool lines = format == DocumentFormat::by_name ? standard || named_jsonl(path)
                                                         : format == DocumentFormat::jsonl;
    std::error_code failure;
    const std::uint64_t bytes = standard ? 0 : fs::file_size(path, failure);
    files.push_back({path, failure ? 0 : bytes, lines});
  };
  for (const auto& input : inputs) {
    if (input == InputStream::standard_input) {
      add(input);
      continue;
    }
    require(fs::exists(input), "{}: no such file or directory", input);
    if (!fs::is_directory(input)) {
      add(input);
      continue;
    }
    for (const auto& path : files_below(input)) add(path);
  }
  return files;
}

std::uint64_t total_bytes(const std::vector<std::string>& inputs) {
  std::uint64_t total = 0;
  for (const auto& file : document_files(inputs, DocumentFormat::by_name)) total += file.bytes;
  return total;
}

DocumentReader::DocumentReader(std::vector<DocumentFile> files, DocumentPosition from)
    : files_(std::move(files)), at_(from) {
  require(at_.file <= files_.size(), "reading starts at file {} of {}", at_.file, files_.size());
  for (std::size_t i = 0; i < at_.file; ++i) before_ += files_[i].bytes;
}

DocumentReader::~DocumentReader() = default;

bool DocumentReader::open() {
  if (at_.file >= files_.size()) return false;
  const std::string& path = files_[at_.file].path;
  stream_ = InputStream::open(path);
  file_ended_ = false;
  std::string skipped;
  for (std::uint64_t left = at_.offset; left > 0;) {
    skipped.resize(static_cast<std::size_t>(std::min<std::uint64_t>(left, block_bytes)));
    const std::size_t got = stream_->read(skipped.data(), skipped.size());
    require(got > 0, "{}: ends {} bytes before the place where reading stopped; has it changed?",
            path, left);
    left -= got;
  }
  return true;
}

// Appends the next piece of the file to what is carried; 0 at its end.
std::size_t DocumentReader::fill() {
  const std::size_t had = carried_.size();
  require(had <= largest_document, "{}: the document at byte {} has more than {} bytes",
          files_[at_.file].path, at_.offset, largest_document);
  carried_.resize(had + block_bytes);
  const std::size_t got = stream_->read(carried_.data() + had, block_bytes);
  carried_.resize(had + got);
  return got;
}

// Whole lines, or the rest of the file.
std::string DocumentReader::next_text() {
  for (;;) {
    const std::size_t had = carried_.size();
    if (fill() == 0) {
      file_ended_ = true;
      return std::exchange(carried_, {});
    }
    if (!files_[at_.file].lines) continue;
    const std::size_t end = std::string_view(carried_).substr(had).rfind('\n');
    if (end == std::string_view::npos) continue;
    std::string rest = carried_.substr(had + end + 1);
    carried_.resize(had + end + 1);
    return std::exchange(carried_, std::move(rest));
  }
}

bool DocumentReader::next(DocumentBlock& block) {
  if (stream_ == nullptr && !open()) return false;
  const DocumentFile& file = files_[at_.file];
  block.path = file.path == InputStream::standard_input ? "standard input" : file.path;
  block.lines = file.lines;
  block.first_line = at_.line + 1;
  block.text = next_text();
  block.consumed = before_ + stream_->consumed();
  if (file_ended_) {
    before_ += file.bytes;
    at_ = {at_.file + 1, 0, 0};
    stream_.reset();
  } else {
    at_.offset += block.text.size();
    at_.line += std::count(block.text.begin(), block.text.end(), '\n');
  }
  block.end = at_;
  return true;
}

const char* name_of(Malformed kind) {
  switch (kind) {
    case Malformed::not_json:
      return "not JSON";
    case Malformed::no_text:
      return "no text";
    case Malformed::not_utf8:
      return "not UTF-8";
    case Malformed::bad_labels:
      break;
  }
  return "with ids but not their labels";
}

void for_each_document(
    const DocumentBlock& block, const DocumentOptions& options,
    const std::function<void(Document)>& take,
    const std::function<void(Malformed, const std::string& message)>& malformed) {
  const auto guarded = [&](auto&& parse) {
    Document document;
    try {
      document = parse();
    } catch (const MalformedDocument& e) {
      if (!malformed) throw;
      malformed(e.kind, e.what());
      return;
    }
    take(std::move(document));
  };
  if (!block.lines) {
    guarded([&] {
      return Document{checked_text(block.text, block.path, options.replace_invalid), {}, {}};
    });
    return;
  }
  const std::string_view all = block.text;
  std::int64_t number = block.first_line;
  for (std::size_t at = 0; at < all.size(); ++number) {
    const std::size_t end = std::min(all.find('\n', at), all.size());
    const std::string_view line = all.substr(at, end - at);
    at = end + 1;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    guarded([&] {
      const std::string where = fmt::format("{}:{}", block.path, number);
      return parse_line(checked_text(std::string(line), where, options.replace_invalid), where,
                        options);
    });
  }
}

std::uint64_t read_documents(const std::vector<std::string>& inputs, const DocumentOptions& options,
                             const std::function<void(Document)>& take,
                             const std::function<void(std::uint64_t)>& progress) {
  DocumentReader reader(document_files(inputs, options.format));
  DocumentBlock block;
  while (reader.next(block)) {
    for_each_document(block, options, take);
    if (progress) progress(block.consumed);
  }
  return block.consumed;
}

}  // namespace metala
