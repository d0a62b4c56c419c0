#include "metala/model/neox_layers.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "metala/base/error.h"
#include "metala/io/torch_file.h"

namespace metala {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view layer_word = "layer_";
constexpr std::string_view part_word = "-model_";
constexpr std::string_view whole_word = "mp_rank_";
constexpr std::string_view ending = "model_states.pt";
constexpr std::string_view module_word = "sequential.";
constexpr std::int64_t most_layers = 10'000, most_parts = 1024;

// Takes `word` and then a number off the front of `text`.
std::optional<std::int64_t> numbered(std::string_view& text, std::string_view word,
                                     std::int64_t most) {
  if (!text.starts_with(word)) return std::nullopt;
  std::int64_t number = 0;
  const char* begin = text.data() + word.size();
  const auto [end, failure] = std::from_chars(begin, text.data() + text.size(), number);
  if (failure != std::errc() || number < 0 || number > most) return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return number;
}

constexpr NeoxName block_names[] = {
    {"attention.conv1d.weight", "token_mixer.conv1d.weight", NeoxSplit::replicated},
    {"attention.q_proj.weight", "token_mixer.q_proj.weight", NeoxSplit::rows},
    {"attention.k_gate.weight", "token_mixer.k_gate.weight", NeoxSplit::rows},
    {"attention.v_proj.weight", "token_mixer.v_proj.weight", NeoxSplit::rows},
    {"attention.g_proj.weight", "token_mixer.g_proj.weight", NeoxSplit::rows},
    {"attention.g_proj.bias", "token_mixer.g_proj.bias", NeoxSplit::rows},
    {"attention.out_proj.weight", "token_mixer.out_proj.weight", NeoxSplit::columns},
    {"attention.aug_balance", "token_mixer.aug_balance", NeoxSplit::replicated},
    {"mlp.w1.weight", "channel_mixer.l1.weight", NeoxSplit::rows},
    {"mlp.w3.weight", "channel_mixer.l2.weight", NeoxSplit::rows},
    {"mlp.w2.weight", "channel_mixer.l3.weight", NeoxSplit::columns},
    {"mlp.w1.bias", "channel_mixer.l1.bias", NeoxSplit::rows, true},
    {"mlp.w3.bias", "channel_mixer.l2.bias", NeoxSplit::rows, true},
    {"mlp.w2.bias", "channel_mixer.l3.bias", NeoxSplit::replicated, true},
};

NeoxSplit split_of(const std::string& name) {
  for (const NeoxName& known : block_names) {
    if (name == known.theirs) return known.split;
  }
  const bool matrix = name == "word_embeddings.weight" || name == "final_linear.weight";
  return matrix ? NeoxSplit::rows : NeoxSplit::replicated;
}

struct FileName {
  std::int64_t layer = 0, part = 0;
};

std::optional<FileName> layer_file(std::string_view name) {
  const auto layer = numbered(name, layer_word, most_layers);
  const auto part = layer ? numbered(name, part_word, most_parts) : std::nullopt;
  if (!part || name.substr(0, 1) != "-" || name.substr(1) != ending) return std::nullopt;
  return FileName{*layer, *part};
}

std::optional<FileName> whole_file(std::string_view name) {
  const auto part = numbered(name, whole_word, most_parts);
  if (!part || name.substr(0, 1) != "_" || name.substr(1) != ending) return std::nullopt;
  return FileName{0, *part};
}

// The files of one kind, by layer and part.
std::map<std::pair<std::int64_t, std::int64_t>, std::string> files_of(
    const std::string& folder, std::optional<FileName> (*parse)(std::string_view)) {
  std::map<std::pair<std::int64_t, std::int64_t>, std::string> files;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(folder, none)) {
    const std::string name = entry.path().filename().string();
    if (const auto parsed = parse(name))
      files.emplace(std::pair(parsed->layer, parsed->part), name);
  }
  return files;
}

// The parts of one tensor, in order, and the file of the first, for messages.
struct Parts {
  std::string what;
  std::vector<Tensor> tensors;
};
using PartsByName = std::map<std::string, Parts>;

void add_part(PartsByName& layer, const std::string& name, std::int64_t part, const TorchFile& file,
              const std::string& name_in_file) {
  Parts& parts = layer[name];
  const std::string what = file.path() + ": " + name_in_file;
  if (part == 0) parts.what = what;
  require(static_cast<std::int64_t>(parts.tensors.size()) == part, "{}: is not in the part before",
          what);
  parts.tensors.push_back(file.tensor(name_in_file));
}

Tensor joined_rows(const Parts& parts) {
  Shape shape = parts.tensors[0].shape();
  shape[0] *= static_cast<std::int64_t>(parts.tensors.size());
  const Tensor whole = Tensor::uninitialized(shape, parts.tensors[0].dtype());
  auto* to = static_cast<std::byte*>(whole.raw());
  for (const Tensor& part : parts.tensors) {
    std::memcpy(to, part.raw(), part.bytes());
    to += part.bytes();
  }
  return whole;
}

Tensor joined_columns(const Parts& parts) {
  const Shape shape = parts.tensors[0].shape();
  const auto count = static_cast<std::int64_t>(parts.tensors.size());
  const Tensor whole =
      Tensor::uninitialized({shape[0], shape[1] * count}, parts.tensors[0].dtype());
  const std::size_t run = bytes_of(whole.dtype(), static_cast<std::size_t>(shape[1]));
  auto* to = static_cast<std::byte*>(whole.raw());
  for (std::int64_t row = 0; row < shape[0]; ++row) {
    for (const Tensor& part : parts.tensors) {
      std::memcpy(to, part.row(row).raw(), run);
      to += run;
    }
  }
  return whole;
}

Tensor joined(const std::string& name, const Parts& parts, std::int64_t count) {
  require(static_cast<std::int64_t>(parts.tensors.size()) == count, "{}: is in {} of {} parts",
          parts.what, parts.tensors.size(), count);
  const Tensor& first = parts.tensors[0];
  for (const Tensor& part : parts.tensors) {
    require(part.shape() == first.shape() && part.dtype() == first.dtype(),
            "{}: is {} {} in one part and {} {} in another", parts.what, name_of(first.dtype()),
            first.shape().text(), name_of(part.dtype()), part.shape().text());
  }
  if (count == 1) return first;
  const NeoxSplit split = split_of(name);
  const int rank = split == NeoxSplit::columns ? 2 : 1;
  require(split == NeoxSplit::replicated || first.rank() >= rank,
          "{}: is {}; its parts cannot be joined", parts.what, first.shape().text());
  if (split == NeoxSplit::rows) return joined_rows(parts);
  if (split == NeoxSplit::columns) return joined_columns(parts);
  for (const Tensor& part : parts.tensors) {
    require(std::memcmp(part.raw(), first.raw(), first.bytes()) == 0,
            "{}: differs between parts that should hold the same", parts.what);
  }
  return first;
}

// "sequential.4.mlp.w1.weight" is mlp.w1.weight of layer 4.
void add_module(std::map<std::int64_t, PartsByName>& layers, const TorchFile& file,
                std::int64_t part) {
  for (const auto& name : file.names()) {
    std::string_view rest = name;
    const auto layer = numbered(rest, module_word, most_layers);
    require(layer && rest.size() > 1 && rest[0] == '.', "{}: {} is not named sequential.LAYER.NAME",
            file.path(), name);
    add_part(layers[*layer], std::string(rest.substr(1)), part, file, name);
  }
}

}  // namespace

std::span<const NeoxName> neox_block_names() {
  return block_names;
}

bool is_neox_folder(const std::string& folder) {
  return !files_of(folder, layer_file).empty() || !files_of(folder, whole_file).empty();
}

NeoxLayers read_neox_layers(const std::string& folder) {
  const auto by_layer = files_of(folder, layer_file);
  const auto files = by_layer.empty() ? files_of(folder, whole_file) : by_layer;
  require(!files.empty(), "{}: holds neither {}XX{}YY-{} nor {}YY_{}", folder, layer_word,
          part_word, ending, whole_word, ending);
  NeoxLayers read;
  std::map<std::int64_t, PartsByName> layers;
  for (const auto& [where, name] : files) {
    const auto [layer, part] = where;
    const std::string path = folder + "/" + name;
    if (by_layer.empty()) {
      add_module(layers, TorchFile::open(path, "module"), part);
    } else {
      const TorchFile file = TorchFile::open(path);
      for (const auto& tensor : file.names()) {
        add_part(layers[layer], tensor, part, file, tensor);
      }
    }
    read.parts = std::max(read.parts, part + 1);
  }
  for (const auto& [index, layer] : layers) {
    for (const auto& [name, parts] : layer) {
      read.layers[index].emplace(name, joined(name, parts, read.parts));
    }
  }
  return read;
}

}  // namespace metala
