// The fast f32 form, picked by cross_entropy.cpp. Arguments are checked before they come here.
#pragma once

#include "metala/ops/cross_entropy/cross_entropy_forms.h"

namespace metala::cross_entropy::cpu {

Result run(const Tensor& x, const Tensor& weight, Ids labels, double scale, const Gradients&,
           const Rows&);

}  // namespace metala::cross_entropy::cpu
