#include "metala/data/dataset_info.h"

#include <filesystem>
#include <limits>

#include "metala/base/error.h"
#include "metala/io/file.h"
#include "metala/io/json.h"

namespace metala {
namespace {

constexpr std::size_t largest = std::size_t{1} << 20;

std::int64_t whole(const nlohmann::json& object, const char* field, std::int64_t least,
                   std::int64_t most, const std::string& source) {
  const auto value = object.value(field, nlohmann::json());
  require(value.is_number_integer() && value.get<std::int64_t>() >= least &&
              value.get<std::int64_t>() <= most,
          "{}: {} is {}; wanted a whole number from {} to {}", source, field,
          value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).substr(0, 60), least,
          most);
  return value.get<std::int64_t>();
}

}  // namespace

std::string tokenizer_folder(const std::string& prefix) {
  return prefix + ".tokenizer";
}

std::string labels_prefix(const std::string& prefix) {
  return prefix + "_labels";
}

std::optional<DatasetInfo> read_dataset_info(const std::string& prefix) {
  const std::string path = prefix + ".json";
  if (!std::filesystem::exists(path)) return std::nullopt;
  const auto json = parse_json(read_file(path, largest), path);
  require(json.is_object(), "{}: wanted a JSON object", path);
  constexpr std::int64_t any = std::numeric_limits<std::int64_t>::max();
  constexpr std::int64_t id = std::numeric_limits<std::int32_t>::max();
  DatasetInfo info;
  info.documents = whole(json, "documents", 0, any, path);
  info.tokens = whole(json, "tokens", 0, any, path);
  info.text_bytes = static_cast<std::uint64_t>(whole(json, "text_bytes", 0, any, path));
  info.vocabulary = whole(json, "vocabulary", 1, id, path);
  info.end_id = static_cast<std::int32_t>(whole(json, "end_id", -1, id, path));
  const auto tokenizer = json.value("tokenizer", nlohmann::json());
  require(tokenizer.is_string(), "{}: tokenizer is not a string", path);
  info.tokenizer = tokenizer.get<std::string>();
  const auto labels = json.value("labels", nlohmann::json(false));
  require(labels.is_boolean(), "{}: labels is neither true nor false", path);
  info.labels = labels.get<bool>();
  return info;
}

void write_dataset_info(const std::string& prefix, const DatasetInfo& info) {
  nlohmann::ordered_json json;
  json["documents"] = info.documents;
  json["tokens"] = info.tokens;
  json["text_bytes"] = info.text_bytes;
  json["vocabulary"] = info.vocabulary;
  json["end_id"] = info.end_id;
  json["tokenizer"] = info.tokenizer;
  if (info.labels) json["labels"] = true;
  write_file_atomically(prefix + ".json", json.dump(2) + "\n");
}

}  // namespace metala
