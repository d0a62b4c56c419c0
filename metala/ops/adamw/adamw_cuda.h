// The CUDA form: f32, many tensors a launch. Arguments are checked before they come here.
#pragma once

#include "metala/ops/adamw/adamw.h"

namespace metala::adamw::cuda {

void update(const Options&, std::span<const Slot>, const Tensor& norm);
void sum_of_squares(std::span<const Tensor>, const Tensor& sum);
void square_root(const Tensor& sum);
void join_finiteness(const Tensor& value, const Tensor& sum);

}  // namespace metala::adamw::cuda
