// The fast f32 forms, picked by metala_attention.cpp. Arguments are checked before they come here.
#pragma once

#include "metala/ops/metala_attention/metala_attention.h"

namespace metala::metala_attention::cpu {

// step: one token at a time, the state read and written once for each.
// chunk: 16 tokens at a time by matrix products; always used when bidirectional.
enum class Form { fastest, step, chunk };

void forward(const Options&, const Inputs&, Offsets offsets, const Tensor& o, const Tensor& mixed,
             const Tensor& after, Form = Form::fastest);
void transition(const Options&, const Inputs&, Offsets offsets, const Tensor& added,
                const Tensor& decay);
void backward(const Options&, const Inputs&, Offsets offsets, const Tensor& mixed,
              const Tensor& do_, const Tensor& dafter, const Gradients&);

}  // namespace metala::metala_attention::cpu
