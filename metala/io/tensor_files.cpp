#include "metala/io/tensor_files.h"

#include <filesystem>
#include <utility>

#include "metala/base/error.h"
#include "metala/io/file.h"
#include "metala/io/json.h"
#include "metala/io/printable.h"
#include "metala/io/safetensors.h"
#include "metala/io/torch_file.h"
#include "metala/io/torch_writer.h"

namespace metala {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t longest_index = 100'000'000;

std::shared_ptr<const TensorSource> open_file(const std::string& path) {
  if (path.ends_with(".safetensors")) {
    return std::make_shared<SafetensorsFile>(SafetensorsFile::open(path));
  }
  return std::make_shared<TorchFile>(TorchFile::open(path));
}

void check_file_name(const std::string& file, const std::string& what) {
  require(!file.empty() && file.find('/') == std::string::npos &&
              file.find('\\') == std::string::npos && file != "." && file != "..",
          "{} names \"{}\"; wanted a file in the same folder", what, printable(file));
}

}  // namespace

TensorFiles TensorFiles::open(const std::string& folder) {
  TensorFiles all;
  for (const char* name : {"model.safetensors", "pytorch_model.bin"}) {
    const std::string whole = folder + "/" + name;
    const std::string index = whole + ".index.json";
    if (fs::exists(whole)) {
      all.add_file(open_file(whole));
      return all;
    }
    if (fs::exists(index)) {
      all.add_index(folder, index);
      return all;
    }
  }
  fail("{}: holds neither model.safetensors nor pytorch_model.bin nor an index of one", folder);
}

void TensorFiles::add_file(std::shared_ptr<const TensorSource> file) {
  for (const auto& name : file->names()) where_.emplace(name, file);
}

void TensorFiles::add_index(const std::string& folder, const std::string& path) {
  const auto json = parse_json(read_file(path, longest_index), path);
  require(json.is_object() && json.contains("weight_map") && json["weight_map"].is_object(),
          "{}: weight_map must be an object", path);
  std::map<std::string, std::shared_ptr<const TensorSource>> opened;
  for (const auto& [name, value] : json["weight_map"].items()) {
    const std::string what = fmt::format("{}: weight_map {}", path, printable(name));
    require(value.is_string(), "{} is not a file name", what);
    const auto file = value.get<std::string>();
    check_file_name(file, what);
    auto& source = opened[file];
    if (source == nullptr) source = open_file(folder + "/" + file);
    require(source->contains(name), "{}: {} is not in {}", path, printable(name), printable(file));
    where_.emplace(name, source);
  }
  for (const auto& [file, source] : opened) {
    for (const auto& name : source->names()) {
      require(where_.contains(name), "{}: {} is in {} but not in the index", path, printable(name),
              printable(file));
    }
  }
}

std::vector<std::string> TensorFiles::names() const {
  std::vector<std::string> names;
  for (const auto& [name, file] : where_) names.push_back(name);
  return names;
}

TensorInfo TensorFiles::info(const std::string& name) const {
  return where_.at(name)->info(name);
}

Tensor TensorFiles::tensor(const std::string& name) const {
  const auto found = where_.find(name);
  require(found != where_.end(), "model: tensor {} is missing", name);
  return found->second->tensor(name);
}

const std::string& TensorFiles::path_of(const std::string& name) const {
  return where_.at(name)->path_of(name);
}

void write_tensor_files(const std::string& folder, const std::map<std::string, Tensor>& tensors,
                        std::uint64_t shard_bytes, TensorFormat format) {
  std::vector<std::map<std::string, Tensor>> shards(1);
  std::uint64_t total = 0;
  std::uint64_t in_shard = 0;
  for (const auto& [name, tensor] : tensors) {
    if (!shards.back().empty() && in_shard + tensor.bytes() > shard_bytes) {
      shards.emplace_back();
      in_shard = 0;
    }
    shards.back().emplace(name, tensor);
    in_shard += tensor.bytes();
    total += tensor.bytes();
  }
  const bool torch = format == TensorFormat::torch;
  const std::string stem = torch ? "pytorch_model" : "model";
  const std::string ending = torch ? ".bin" : ".safetensors";
  const auto write = [&](const std::string& file, const std::map<std::string, Tensor>& shard) {
    const std::string path = folder + "/" + file;
    return torch ? write_torch(path, shard) : write_safetensors(path, shard, {{"format", "pt"}});
  };
  if (shards.size() == 1) return write(stem + ending, shards[0]);
  nlohmann::ordered_json index;
  index["metadata"] = {{"total_size", total}};
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const std::string file = fmt::format("{}-{:05}-of-{:05}{}", stem, i + 1, shards.size(), ending);
    write(file, shards[i]);
    for (const auto& [name, tensor] : shards[i]) index["weight_map"][name] = file;
  }
  write_file_atomically(folder + "/" + stem + ending + ".index.json", index.dump(2) + "\n");
}

}  // namespace metala
