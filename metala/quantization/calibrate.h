// Weights in 8-bit or 4-bit blocks, rounded with an eye on a text: layer by layer, each matrix is
// rounded by GPTQ (gptq.h) for the vectors that it meets when the layers before it, as rounded,
// read that text.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>

#include "metala/base/tensor.h"
#include "metala/model/config.h"

namespace metala {

// `tensors` of a model of this configuration, as save_checkpoint would store them (stored_type in
// checkpoint.h) for `type`, q8 or q4. ids, offsets: the text's sequences, end to end. Keeps the
// hidden vectors of all its tokens in memory, 4 d bytes each. `progress` is told how many layers
// are done. Throws Error for ids outside the vocabulary, and weights or a text that make values
// that are not finite.
std::map<std::string, Tensor> calibrated(
    const Config&, const std::map<std::string, Tensor>& tensors, DType type,
    std::span<const std::int32_t> ids, std::span<const std::int64_t> offsets,
    const std::function<void(std::int64_t layers)>& progress = {});

}  // namespace metala
