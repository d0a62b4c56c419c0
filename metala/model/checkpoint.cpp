#include "metala/model/checkpoint.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <memory>

#include "metala/base/quantized.h"
#include "metala/base/random.h"
#include "metala/base/threads.h"
#include "metala/io/file.h"

namespace metala {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t largest_config = std::size_t{1} << 20;
constexpr const char* embedding_name = "model.embed_tokens.weight";
constexpr const char* head_name = "lm_head.weight";

void add_block(std::vector<TensorSpec>& all, const Config& c, std::int64_t layer) {
  const std::int64_t d = c.width;
  const std::int64_t dk = c.query_width;
  const std::int64_t f = c.glu_width;
  const std::string block = fmt::format("model.layers.{}.", layer);
  const auto add = [&](const char* name, Shape shape) { all.push_back({block + name, shape}); };
  if (c.short_conv_width > 0) add("token_mixer.conv1d.weight", {d, 1, c.short_conv_width});
  add("token_mixer.q_proj.weight", {dk, d});
  if (c.decay == DecayType::dynamic) add("token_mixer.k_gate.weight", {dk, d});
  if (c.decay == DecayType::fixed) add("token_mixer.decay", {dk});
  if (c.key == KeyType::projected) add("token_mixer.k_proj.weight", {dk, d});
  add("token_mixer.v_proj.weight", {d, d});
  add("token_mixer.g_proj.weight", {d, d});
  add("token_mixer.g_proj.bias", {d});
  add("token_mixer.out_proj.weight", {d, d});
  if (c.self_augmentation) add("token_mixer.aug_balance", {dk});
  if (c.channel_mixer != ChannelMixer::identity) {
    add("channel_mixer.l1.weight", {f, d});
    if (c.channel_mixer == ChannelMixer::glu) add("channel_mixer.l2.weight", {f, d});
    add("channel_mixer.l3.weight", {d, f});
    if (c.bias) {
      add("channel_mixer.l1.bias", {f});
      if (c.channel_mixer == ChannelMixer::glu) add("channel_mixer.l2.bias", {f});
      add("channel_mixer.l3.bias", {d});
    }
  }
  if (c.norm == NormType::layernorm) {
    for (const char* norm : {"token_norm", "channel_norm"}) {
      all.push_back({block + norm + ".weight", {d}});
      all.push_back({block + norm + ".bias", {d}});
    }
  }
}

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.dtype() == b.dtype() && a.shape() == b.shape() &&
         std::memcmp(a.raw(), b.raw(), a.bytes()) == 0;
}

// Which of embedding and head a file with tied embeddings holds is up to its writer.
void settle_tied(const TensorFiles& files, Checkpoint& checkpoint, const std::string& folder) {
  const bool embedding = files.contains(embedding_name);
  const bool head = files.contains(head_name);
  if (!head) return;
  const Tensor matrix = files.tensor(head_name);
  if (!embedding) {
    checkpoint.tensors.insert_or_assign(embedding_name, matrix);
  } else if (!same_bits(files.tensor(embedding_name), matrix)) {
    checkpoint.notes.push_back(fmt::format(
        "{}: {} differs from {} although tie_word_embeddings is true; the embedding is used",
        folder, head_name, embedding_name));
  }
}

std::string torch_name(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "float32";
    case DType::bf16:
    case DType::q8:
    case DType::q4:
      return "bfloat16";
    case DType::f16:
      return "float16";
    default:
      fail("checkpoint: weights are written as f32, bf16, f16, q8 or q4, not {}", name_of(dtype));
  }
}

// A matrix in blocks travels as bytes: U8 [rows, bytes of a row].
Tensor as_bytes(const Tensor& t) {
  if (!in_blocks(t.dtype())) return t;
  const auto row = bytes_of(t.dtype(), static_cast<std::size_t>(t.size(1)));
  return Tensor::wrap(t.raw(), {t.size(0), static_cast<std::int64_t>(row)}, DType::u8,
                      std::make_shared<Tensor>(t));
}

// Undoes as_bytes where `shape` is what the bytes stand for.
Tensor as_blocks(const Tensor& t, const Shape& shape) {
  if (t.dtype() != DType::u8 || t.rank() != 2 || shape.rank() != 2 || t.size(0) != shape[0] ||
      shape[1] % quantized::multiple != 0) {
    return t;
  }
  for (const DType type : {DType::q8, DType::q4}) {
    const auto row = bytes_of(type, static_cast<std::size_t>(shape[1]));
    if (t.size(1) == static_cast<std::int64_t>(row)) {
      const bool aligned = reinterpret_cast<std::uintptr_t>(t.raw()) % 2 == 0;  // for the scales
      const auto owner = std::make_shared<Tensor>(aligned ? t : t.copy());
      return Tensor::wrap(owner->raw(), shape, type, owner);
    }
  }
  return t;
}

// Whether any of n 32-bit or 16-bit words has all exponent bits set.
template <class Word>
bool has_special(const Word* words, std::int64_t n, Word exponent) {
  constexpr std::int64_t block = 1 << 16;
  std::atomic<bool> found{false};
  parallel_ranges((n + block - 1) / block, 4, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t b = begin; b < end && !found.load(std::memory_order_relaxed); ++b) {
      const Word* from = words + b * block;
      const std::int64_t count = std::min(block, n - b * block);
      Word special = 0;
      for (std::int64_t i = 0; i < count; ++i) {
        special = static_cast<Word>(special | ((from[i] & exponent) == exponent ? 1 : 0));
      }
      if (special != 0) found.store(true, std::memory_order_relaxed);
    }
  });
  return found.load();
}

bool finite(const Tensor& t) {
  switch (t.dtype()) {
    case DType::f32:
      return !has_special(static_cast<const std::uint32_t*>(t.raw()), t.count(), 0x7f800000u);
    case DType::f64:
      return !has_special(static_cast<const std::uint64_t*>(t.raw()), t.count(),
                          std::uint64_t{0x7ff0000000000000u});
    case DType::bf16:
      return !has_special(static_cast<const std::uint16_t*>(t.raw()), t.count(),
                          std::uint16_t{0x7f80u});
    case DType::f16:
      return !has_special(static_cast<const std::uint16_t*>(t.raw()), t.count(),
                          std::uint16_t{0x7c00u});
    case DType::q8:
    case DType::q4: {
      const std::int64_t groups = t.size(1) / quantized::group;
      for (std::int64_t row = 0; row < t.size(0); ++row) {
        const auto* scales = static_cast<const std::uint16_t*>(t.row(row).raw());
        if (has_special(scales, groups, std::uint16_t{0x7c00u})) return false;
      }
      return true;
    }
    default:
      return true;
  }
}

std::uint64_t mixed(std::uint64_t x) {  // the finaliser of SplitMix64: every bit reaches every bit
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// Blocks of 1 MiB are hashed side by side by eight multiply-rotate lanes each, then combined in
// order.
std::uint64_t hash_bytes(const void* data, std::size_t bytes, std::uint64_t seed) {
  constexpr std::size_t block = std::size_t{1} << 20;
  const std::size_t blocks = (bytes + block - 1) / block;
  std::vector<std::uint64_t> partial(blocks);
  parallel_ranges(static_cast<std::int64_t>(blocks), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t b = begin; b < end; ++b) {
      const std::size_t start = static_cast<std::size_t>(b) * block;
      const auto* at = static_cast<const unsigned char*>(data) + start;
      const std::size_t count = std::min(block, bytes - start);
      std::uint64_t lanes[8] = {1, 2, 3, 4, 5, 6, 7, 8};
      std::size_t i = 0;
      for (; i + 64 <= count; i += 64) {
        std::uint64_t words[8];
        std::memcpy(words, at + i, 64);
        for (int l = 0; l < 8; ++l) {
          lanes[l] = std::rotl((lanes[l] ^ words[l]) * 0x9e3779b97f4a7c15u, 29);
        }
      }
      for (; i < count; ++i)
        lanes[i % 8] = std::rotl((lanes[i % 8] ^ at[i]) * 0x9e3779b97f4a7c15u, 29);
      std::uint64_t h = count;
      for (const auto lane : lanes) h = mixed(h ^ lane);
      partial[static_cast<std::size_t>(b)] = h;
    }
  });
  std::uint64_t h = mixed(seed ^ bytes);
  for (const auto p : partial) h = mixed(h ^ p);
  return h;
}

}  // namespace

std::vector<TensorSpec> expected_tensors(const Config& c) {
  std::vector<TensorSpec> all;
  all.push_back({embedding_name, {c.vocab_size, c.width}});
  for (std::int64_t layer = 0; layer < c.layers; ++layer) add_block(all, c, layer);
  if (c.norm == NormType::layernorm) {
    all.push_back({"model.final_norm.weight", {c.width}});
    all.push_back({"model.final_norm.bias", {c.width}});
  }
  if (!c.tie_word_embeddings) all.push_back({head_name, {c.vocab_size, c.width}});
  return all;
}

// Blocks hold the large matrices only: what decides how long the state remembers, and small
// tensors, keep their precision, and a 4-bit model keeps its embedding and head in 8 bits.
DType stored_type(const TensorSpec& spec, DType wanted) {
  if (!in_blocks(wanted)) return wanted;
  if (spec.shape.rank() != 2) return DType::f32;
  if (spec.name.ends_with("k_gate.weight") || spec.shape[1] % quantized::multiple != 0) {
    return DType::bf16;
  }
  return spec.name == embedding_name || spec.name == head_name ? DType::q8 : wanted;
}

Checkpoint load_checkpoint(const std::string& folder) {
  const std::string config_path = folder + "/config.json";
  require(fs::exists(config_path), "{}: is not a model folder (it has no config.json)", folder);
  Checkpoint checkpoint;
  ParsedConfig parsed = parse_config(read_file(config_path, largest_config), config_path);
  checkpoint.config = parsed.config;
  checkpoint.notes = std::move(parsed.notes);

  const TensorFiles files = TensorFiles::open(folder);
  if (checkpoint.config.tie_word_embeddings) settle_tied(files, checkpoint, folder);
  std::map<std::string, Shape> wanted;
  for (const auto& spec : expected_tensors(checkpoint.config)) {
    wanted.emplace(spec.name, spec.shape);
    if (checkpoint.tensors.contains(spec.name)) continue;
    require(files.contains(spec.name), "{}: tensor {} is missing; config.json calls for it", folder,
            spec.name);
    checkpoint.tensors.emplace(spec.name, files.tensor(spec.name));
  }
  for (auto& [name, tensor] : checkpoint.tensors) {
    const Shape& shape = wanted.at(name);
    tensor = as_blocks(tensor, shape);
    require(tensor.shape() == shape, "{}: {} is {}; config.json says {}",
            files.contains(name) ? files.path_of(name) : folder, name, tensor.shape().text(),
            shape.text());
    const DType type = tensor.dtype();
    require(type == DType::f32 || type == DType::f64 || type == DType::bf16 || type == DType::f16 ||
                in_blocks(type),
            "{}: {} holds {}; weights must be floating-point or in blocks", folder, name,
            name_of(type));
    // The engine computes in float32 at most, so doubles would only cost memory.
    if (type == DType::f64) tensor = tensor.cast(DType::f32);
  }
  for (const auto& name : files.names()) {
    const bool tied_head = checkpoint.config.tie_word_embeddings && name == head_name;
    require(wanted.contains(name) || tied_head,
            "{}: tensor {} is not part of the model that config.json describes; correct the "
            "config or remove the tensor",
            files.path_of(name), name);
  }
  return checkpoint;
}

void save_checkpoint(const std::string& folder, const Config& config,
                     const std::map<std::string, Tensor>& tensors, DType dtype,
                     std::uint64_t shard_bytes, TensorFormat format) {
  std::map<std::string, Tensor> chosen;
  for (const auto& spec : expected_tensors(config)) {
    const auto found = tensors.find(spec.name);
    require(found != tensors.end(), "checkpoint: tensor {} is missing", spec.name);
    check_tensor("checkpoint: " + spec.name, found->second, spec.shape, found->second.dtype());
    const Tensor& t = found->second;
    const DType type = stored_type(spec, dtype);
    chosen.emplace(spec.name, as_bytes(t.dtype() == type ? t : t.cast(type)));
  }
  const std::string json = config_json(config, torch_name(dtype));
  std::error_code failure;
  fs::create_directories(folder, failure);
  require(!failure, "{}: cannot create: {}", folder, failure.message());
  write_tensor_files(folder, chosen, shard_bytes, format);
  write_file_atomically(folder + "/config.json", json);
}

void check_finite(const std::map<std::string, Tensor>& tensors, const std::string& folder) {
  for (const auto& [name, tensor] : tensors) {
    require(finite(tensor),
            "{}: {} holds NaN or infinite weights; the file is damaged or its "
            "training diverged",
            folder, name);
  }
}

std::string fingerprint(const Config& config, const std::map<std::string, Tensor>& tensors) {
  std::uint64_t h = hash_name(config_json(config, ""));
  for (const auto& [name, tensor] : tensors) {
    h = mixed(h ^ hash_name(name) ^ static_cast<std::uint64_t>(tensor.dtype()));
    h = hash_bytes(tensor.raw(), tensor.bytes(), h);
  }
  return fmt::format("{:016x}", h);
}

}  // namespace metala
