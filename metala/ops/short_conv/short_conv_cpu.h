// The fast f32 form, picked by short_conv.cpp. Arguments are checked before they come here.
#pragma once

#include "metala/base/ragged.h"
#include "metala/base/tensor.h"

namespace metala::short_conv {

constexpr std::size_t widest = 16;  // taps

}  // namespace metala::short_conv

namespace metala::short_conv::cpu {

// Where every sequence has one token, all of them are worked on as one.
void forward(const Tensor& x, const Tensor& weight, Offsets offsets, const Tensor& before, Tensor y,
             Tensor after);
void backward(const Tensor& dy, const Tensor& x, const Tensor& weight, Offsets offsets,
              const Tensor& before, const Tensor& dafter, Tensor dx, Tensor dweight,
              Tensor dbefore);

}  // namespace metala::short_conv::cpu
