// The work that training must do, for saying how well a machine is used.
#pragma once

#include <string_view>

#include "metala/model/config.h"

namespace metala {

// Floating-point operations a token costs in training: three times its forward pass, recomputation
// not counted.
//   6 (elements of all matrices it is multiplied with, the head among them)
//   + 3 L (4 K D H + C (H K + d))      the state's update and reading; inside a chunk of C tokens
// A linear layer costs 2 operations an element; K and D are a head's widths.
double training_flops_per_token(const Config&);

// 10^12 dense bf16 operations a second that an NVIDIA GPU could do at most, by its driver's name,
// "NVIDIA H200"; 0: not known. From the vendor's data sheets, without sparsity.
double peak_tflops(std::string_view gpu);

}  // namespace metala
