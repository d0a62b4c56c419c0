// The fast f32 form, picked by cross_entropy.cpp. Arguments are checked before they come here.
#pragma once

#include "metala/ops/cross_entropy/cross_entropy.h"

namespace metala::cross_entropy::cpu {

Result run(const Tensor& x, const Tensor& weight, std::span<const std::int32_t> labels,
           double scale, const Tensor& dx, const Tensor& dweight, const Tensor& row_loss,
           std::span<std::int32_t> row_best);

}  // namespace metala::cross_entropy::cpu
