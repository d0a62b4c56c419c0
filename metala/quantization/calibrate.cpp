#include "metala/quantization/calibrate.h"

#include <array>
#include <optional>
#include <vector>

#include "metala/autograd/tape.h"
#include "metala/base/error.h"
#include "metala/device/arena.h"
#include "metala/device/cpu/matrix_product.h"
#include "metala/model/block.h"
#include "metala/model/checkpoint.h"
#include "metala/model/language_model.h"
#include "metala/model/parameters.h"
#include "metala/quantization/gptq.h"

namespace metala {
namespace {

using Tensors = std::map<std::string, Tensor>;

// The sums of x x^T over the rows x that matrices have met, one sum for those that meet the same.
class Moments {
 public:
  void add(const Tensor& x, std::span<const Tensor> matrices) {
    const void* key = matrices.front().raw();
    auto found = sums_.find(key);
    if (found == sums_.end()) {
      found = sums_.emplace(key, Tensor::zeros({x.size(1), x.size(1)})).first;
      for (const Tensor& matrix : matrices) key_of_.emplace(matrix.raw(), key);
    }
    matrix_product(x, Transpose::yes, x, Transpose::no, 1.0f, found->second);
  }

  // Calls f(sum, matrices) for each sum, with those of `named` that share it.
  template <class F>
  void for_each(const Tensors& named, F f) const {
    for (const auto& [key, sum] : sums_) {
      Tensors sharing;
      for (const auto& [name, tensor] : named) {
        const auto found = key_of_.find(tensor.raw());
        if (found != key_of_.end() && found->second == key) sharing.emplace(name, tensor);
      }
      f(sum, sharing);
    }
  }

 private:
  std::map<const void*, Tensor> sums_;         // by the first of the matrices
  std::map<const void*, const void*> key_of_;  // of each matrix
};

// Every sequence of `rows` read by the block, in place.
void read(const Block& block, std::span<const std::int64_t> offsets, const Tensor& rows,
          const Tape::ProductListener& listener = {}) {
  Arena arena;
  for (std::size_t b = 0; b + 1 < offsets.size(); ++b) {
    arena.reset();
    Tape tape(arena, Tape::Mode::compute);
    if (listener) tape.listen(listener);
    const Tensor sequence = rows.rows(offsets[b], offsets[b + 1]);
    const std::array<std::int64_t, 2> whole = {0, sequence.size(0)};
    const Tensor y = block(tape, Variable::constant(sequence), whole, {}, nullptr).value();
    if (y.raw() != sequence.raw()) sequence.copy_from(y);
  }
}

std::optional<std::size_t> layer_of(const std::string& name) {
  const std::string prefix = "model.layers.";
  if (!name.starts_with(prefix)) return std::nullopt;
  return std::stoul(name.substr(prefix.size()));
}

// The hidden vectors that the first layer reads.
Tensor embedded(const LanguageModel& model, std::span<const std::int32_t> ids) {
  Arena arena;
  Tape tape(arena, Tape::Mode::compute);
  return functions::embedding(tape, ids, model.embedding(), model.embedding_scale(), -1)
      .value()
      .copy();
}

}  // namespace

std::map<std::string, Tensor> calibrated(const Config& config, const Tensors& tensors, DType type,
                                         std::span<const std::int32_t> ids,
                                         std::span<const std::int64_t> offsets,
                                         const std::function<void(std::int64_t)>& progress) {
  require(in_blocks(type), "calibrate: for q8 or q4, not {}", name_of(type));
  require(!ids.empty(), "calibrate: the text is empty");
  check_offsets("calibrate", offsets, static_cast<std::int64_t>(ids.size()));
  // The model as far as it is rounded; from the first layer to the last its matrices in blocks take
  // the place of those of `tensors`.
  Tensors current = tensors;
  std::vector<Tensors> large(static_cast<std::size_t>(config.layers));  // of each layer
  for (const auto& spec : expected_tensors(config)) {
    Tensor& t = current.at(spec.name);
    const DType stored = stored_type(spec, type);
    const auto layer = layer_of(spec.name);
    if (layer.has_value() && in_blocks(stored)) {
      large[*layer].emplace(spec.name, t);
    } else if (t.dtype() != stored) {
      t = t.cast(stored);
    }
  }
  const auto block = [&](std::size_t layer) {
    return LanguageModel(config, Parameters(current)).blocks()[layer];
  };
  const LanguageModel start(config, Parameters(current));
  start.check_ids(ids);
  const Tensor rows = embedded(start, ids);
  for (std::size_t layer = 0; layer < large.size(); ++layer) {
    Moments moments;
    read(block(layer), offsets, rows.copy(),
         [&](const Tensor& x, std::span<const Tensor> matrices) { moments.add(x, matrices); });
    moments.for_each(large[layer], [&](const Tensor& sum, const Tensors& matrices) {
      if (matrices.empty()) return;
      const Tensor factor = inverse_factor(sum);
      for (const auto& [name, matrix] : matrices) {
        current.at(name) = gptq(matrix.cast(DType::f32), factor, type);
      }
    });
    read(block(layer), offsets, rows);
    if (progress) progress(static_cast<std::int64_t>(layer) + 1);
  }
  return current;
}

}  // namespace metala
