#include "metala/train/documents.h"

#include <algorithm>
#include <filesystem>
#include <limits>
#include <string_view>

#include "metala/base/error.h"
#include "metala/io/file.h"
#include "metala/io/json.h"
#include "metala/text/utf8.h"

namespace metala {
namespace {

namespace fs = std::filesystem;

bool hidden(const fs::path& path) {
  return path.filename().string().starts_with(".");
}

// The files that `inputs` stand for, directories walked in the order of names.
std::vector<std::string> files_of(const std::vector<std::string>& inputs) {
  std::vector<std::string> files;
  for (const auto& input : inputs) {
    require(fs::exists(input), "{}: no such file or directory", input);
    if (!fs::is_directory(input)) {
      files.push_back(input);
      continue;
    }
    std::vector<std::string> below;
    auto walk = fs::recursive_directory_iterator(input);
    for (auto entry = begin(walk); entry != end(walk); ++entry) {
      if (hidden(entry->path())) {
        if (entry->is_directory()) entry.disable_recursion_pending();
      } else if (entry->is_regular_file()) {
        below.push_back(entry->path().string());
      }
    }
    std::sort(below.begin(), below.end());
    files.insert(files.end(), below.begin(), below.end());
  }
  return files;
}

std::string checked_text(std::string text, const std::string& where, bool replace) {
  const std::size_t valid = valid_utf8_prefix(text);
  if (valid == text.size()) return text;
  require(replace, "{}: byte {} is not UTF-8; convert the text, or pass --replace-invalid", where,
          valid);
  return replace_invalid_utf8(text);
}

std::vector<std::int32_t> integers(const nlohmann::json& list, const char* field,
                                   const std::string& where) {
  require(list.is_array(), "{}: {} must be a list of numbers", where, field);
  std::vector<std::int32_t> out;
  for (const auto& n : list) {
    require(n.is_number_integer() && n.get<std::int64_t>() >= -100 &&
                n.get<std::int64_t>() <= std::numeric_limits<std::int32_t>::max(),
            "{}: {} holds {}; wanted ids, or -100", where, field,
            n.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).substr(0, 40));
    out.push_back(n.get<std::int32_t>());
  }
  return out;
}

Document parse_line(const std::string& line, const std::string& where,
                    const DocumentOptions& options) {
  const auto json = parse_json(line, where);
  require(json.is_object(), "{}: wanted a JSON object", where);
  Document document;
  if (json.contains("ids")) {
    document.ids = integers(json["ids"], "ids", where);
    require(json.contains("labels"), "{}: has ids but no labels", where);
    document.labels = integers(json["labels"], "labels", where);
    require(document.ids.size() == document.labels.size(), "{}: {} ids but {} labels", where,
            document.ids.size(), document.labels.size());
    return document;
  }
  require(json.contains(options.text_field) && json[options.text_field].is_string(),
          "{}: has no string field \"{}\"; name the field with --text-field", where,
          options.text_field);
  document.text = json[options.text_field].get<std::string>();
  return document;
}

}  // namespace

std::uint64_t total_bytes(const std::vector<std::string>& inputs) {
  std::uint64_t total = 0;
  for (const auto& file : files_of(inputs)) total += fs::file_size(file);
  return total;
}

std::uint64_t read_documents(const std::vector<std::string>& inputs, const DocumentOptions& options,
                             const std::function<void(Document)>& take,
                             const std::function<void(std::uint64_t)>& progress) {
  std::uint64_t read = 0;
  for (const auto& path : files_of(inputs)) {
    const MappedFile file = MappedFile::open(path);
    const std::string_view all(reinterpret_cast<const char*>(file.bytes().data()),
                               file.bytes().size());
    if (!path.ends_with(".jsonl")) {
      take({checked_text(std::string(all), path, options.replace_invalid), {}, {}});
      read += all.size();
      if (progress) progress(read);
      continue;
    }
    std::int64_t number = 0;
    for (std::size_t at = 0; at < all.size();) {
      const std::size_t end = std::min(all.find('\n', at), all.size());
      ++number;
      const std::string_view line = all.substr(at, end - at);
      if (line.find_first_not_of(" \t\r") != std::string_view::npos) {
        const std::string where = fmt::format("{}:{}", path, number);
        take(parse_line(checked_text(std::string(line), where, options.replace_invalid), where,
                        options));
      }
      read += end - at + 1;
      at = end + 1;
      if (progress) progress(read);
    }
  }
  return read;
}

}  // namespace metala
