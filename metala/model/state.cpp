#include "metala/model/state.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "metala/io/safetensors.h"

namespace metala {
namespace {

constexpr const char* format_name = "metala-state-1";

Tensor take(const Tensor& from, const std::vector<std::int64_t>& rows) {
  if (!from.defined()) return {};
  Shape shape = from.shape();
  shape[0] = static_cast<std::int64_t>(rows.size());
  const Tensor to = Tensor::uninitialized(shape, from.dtype(), from.device());
  for (std::int64_t i = 0; i < shape[0]; ++i) {
    to.row(i).copy_from(from.row(rows[static_cast<std::size_t>(i)]));
  }
  return to;
}

}  // namespace

State::State(const Config& config, std::int64_t batch, DType type, Device device) {
  require(!config.bidirectional, "state: a bidirectional model has no state");
  tokens_.assign(static_cast<std::size_t>(batch), 0);
  // All layers of a kind in one block: a GPU takes its time to hand out each.
  const std::int64_t rows = config.layers * batch;
  const Tensor recurrent =
      Tensor::zeros({rows, config.heads, config.key_width(), config.value_width()}, type, device);
  Tensor conv;
  if (config.short_conv_width > 0) {
    conv = Tensor::zeros({rows, config.width, config.short_conv_width}, type, device);
  }
  for (std::int64_t i = 0; i < config.layers; ++i) {
    const auto of_layer = [&](const Tensor& all) {
      return all.defined() ? all.rows(i * batch, (i + 1) * batch) : all;
    };
    layers_.push_back({of_layer(recurrent), of_layer(conv)});
  }
}

std::size_t State::bytes() const {
  std::size_t total = logits_.bytes();
  for (const auto& layer : layers_) total += layer.recurrent.bytes() + layer.conv.bytes();
  return total;
}

State State::copy() const {
  std::vector<std::int64_t> all;
  for (std::int64_t b = 0; b < batch(); ++b) all.push_back(b);
  return select(all);
}

State State::to(Device device) const {
  State moved = *this;
  for (auto& layer : moved.layers_) {
    layer.recurrent = layer.recurrent.to(device);
    if (layer.conv.defined()) layer.conv = layer.conv.to(device);
  }
  if (logits_.defined()) moved.logits_ = logits_.to(device);
  return moved;
}

State State::select(const std::vector<std::int64_t>& sequences) const {
  State chosen;
  for (const auto b : sequences) {
    require(b >= 0 && b < batch(), "state: no sequence {} in a state of {}", b, batch());
    chosen.tokens_.push_back(tokens_[static_cast<std::size_t>(b)]);
  }
  for (const auto& layer : layers_) {
    chosen.layers_.push_back({take(layer.recurrent, sequences), take(layer.conv, sequences)});
  }
  chosen.logits_ = take(logits_, sequences);
  return chosen;
}

State State::joined(const std::vector<State>& states) {
  require(!states.empty(), "state: nothing to join");
  const State& first = states.front();
  const auto join = [&](auto part) {
    Shape shape = part(first).shape();
    shape[0] = 0;
    for (const auto& state : states) shape[0] += state.batch();
    const Tensor all = Tensor::uninitialized(shape, part(first).dtype(), part(first).device());
    std::int64_t at = 0;
    for (const auto& state : states) {
      all.rows(at, at + state.batch()).copy_from(part(state));
      at += state.batch();
    }
    return all;
  };
  State all;
  for (const auto& state : states) {
    all.tokens_.insert(all.tokens_.end(), state.tokens_.begin(), state.tokens_.end());
    require(state.logits_.defined() == first.logits_.defined(),
            "state: states with and without logits cannot be joined");
  }
  for (std::size_t i = 0; i < first.layers_.size(); ++i) {
    LayerState layer;
    layer.recurrent = join([i](const State& s) { return s.layers_.at(i).recurrent; });
    if (first.layers_[i].conv.defined()) {
      layer.conv = join([i](const State& s) { return s.layers_.at(i).conv; });
    }
    all.layers_.push_back(std::move(layer));
  }
  if (first.logits_.defined()) all.logits_ = join([](const State& s) { return s.logits_; });
  return all;
}

void State::save(const std::string& path, const std::string& fingerprint, Metadata metadata) const {
  std::map<std::string, Tensor> tensors;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    tensors.emplace(fmt::format("recurrent.{}", i), layers_[i].recurrent.to({}));
    if (layers_[i].conv.defined())
      tensors.emplace(fmt::format("conv.{}", i), layers_[i].conv.to({}));
  }
  if (logits_.defined()) tensors.emplace("logits", logits_.to({}));
  const Tensor tokens = Tensor::uninitialized({batch()}, DType::i64);
  std::copy(tokens_.begin(), tokens_.end(), tokens.data<std::int64_t>());
  tensors.emplace("tokens", tokens);
  metadata["format"] = format_name;
  metadata["model"] = fingerprint;
  write_safetensors(path, tensors, metadata);
}

State State::load(const std::string& path, const Config& config, const std::string& fingerprint,
                  Metadata* metadata) {
  require(!config.bidirectional, "state: a bidirectional model has no state");
  const SafetensorsFile file = SafetensorsFile::open(path);
  const auto entry = [&](const char* key) {
    const auto found = file.metadata().find(key);
    return found == file.metadata().end() ? std::string() : found->second;
  };
  require(entry("format") == format_name,
          "{}: not a state file of metala (its format is \"{}\"; wanted \"{}\")", path,
          entry("format"), format_name);
  require(entry("model") == fingerprint,
          "{}: the state of another model (its fingerprint is {}, this model's {}); load it with "
          "the model that saved it",
          path, entry("model"), fingerprint);

  const Tensor tokens = file.tensor("tokens");
  require(tokens.rank() == 1 && tokens.dtype() == DType::i64, "{}: tokens must be a vector of i64",
          path);
  const std::int64_t batch = tokens.size(0);
  require(batch > 0, "{}: holds no sequence", path);
  // Views of the file are checked before any memory is taken: what a file holds bounds what it asks
  // for.
  const auto tensor = [&](const std::string& name, const Shape& shape) {
    const Tensor view = file.tensor(name);
    check_tensor(fmt::format("{}: {}", path, name), view, shape, DType::f32);
    const Tensor copy = view.copy();
    const float* values = copy.data<float>();
    require(std::all_of(values, values + copy.count(), [](float x) { return std::isfinite(x); }),
            "{}: {} holds a NaN or an infinity; the file is damaged", path, name);
    return copy;
  };
  State state;
  const std::int64_t* counts = tokens.data<std::int64_t>();
  state.tokens_.assign(counts, counts + batch);
  for (const auto count : state.tokens_) {
    require(count >= 0, "{}: tokens holds a negative number, {}", path, count);
    require(count == 0 || file.contains("logits"),
            "{}: a sequence has read {} tokens, but logits is missing; the file is damaged", path,
            count);
  }
  for (std::int64_t i = 0; i < config.layers; ++i) {
    LayerState layer;
    layer.recurrent = tensor(fmt::format("recurrent.{}", i),
                             {batch, config.heads, config.key_width(), config.value_width()});
    if (config.short_conv_width > 0) {
      layer.conv =
          tensor(fmt::format("conv.{}", i), {batch, config.width, config.short_conv_width});
    }
    state.layers_.push_back(std::move(layer));
  }
  if (metadata != nullptr) {
    *metadata = file.metadata();
    metadata->erase("format");
    metadata->erase("model");
  }
  if (file.contains("logits")) state.logits_ = tensor("logits", {batch, config.vocab_size});
  return state;
}

}  // namespace metala
