// Parameters: a model's tensors by Hugging Face name, with gradients when it is trained.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "metala/autograd/tape.h"
#include "metala/base/tensor.h"
#include "metala/model/config.h"

namespace metala {

// How a fresh matrix [out, in] is drawn, under GPT-NeoX's names. Deviations, for s = init_std:
//   normal s               small_init sqrt(2 / (5 d))      wang_init 2 / (L sqrt d)
//   scaled_normal s / sqrt(2 L)      single_residual_scaled_normal s / sqrt(L)
//   xavier_normal sqrt(2 / (in + out))      xavier_uniform: uniform in +-sqrt(6 / (in + out))
// orthogonal: sqrt(2) times a matrix whose rows, or columns where there are fewer of them, are
//   orthonormal, uniform among those (Saxe et al., arXiv:1312.6120); scaled_orthogonal sqrt(2 / L)
enum class InitMethod {
  normal,
  small_init,
  wang_init,
  scaled_normal,
  single_residual_scaled_normal,
  xavier_normal,
  xavier_uniform,
  orthogonal,
  scaled_orthogonal
};
InitMethod init_method_named(const std::string& name);

// `outputs` is for what feeds the residual (out_proj, l3), `matrices` for all other matrices and
// the embedding. Biases and aug_balance are 0, the convolution uniform in +-1/sqrt(W), norm
// weights 1.
struct Initialization {
  InitMethod matrices = InitMethod::normal, outputs = InitMethod::normal;
};
// "normal": as the authors' Hugging Face class. "small": GPT-NeoX's small_init and wang_init.
// "scaled": normal and scaled_normal (Zoology).
Initialization initialization_named(const std::string& name);

class Parameters {
 public:
  Parameters() = default;
  // `gradients`: as allocate_gradients would make them, or none.
  explicit Parameters(std::map<std::string, Tensor> tensors,
                      std::map<std::string, Tensor> gradients = {})
      : values_(std::move(tensors)), gradients_(std::move(gradients)) {}

  // Each tensor is drawn from a stream keyed by (seed, its name): the values do not depend on the
  // order of creation nor on what other tensors exist.
  static Parameters initialized(const Config&, Initialization, std::uint64_t seed,
                                DType = DType::f32);

  const std::map<std::string, Tensor>& tensors() const { return values_; }
  const std::map<std::string, Tensor>& gradients() const { return gradients_; }
  std::int64_t count() const;  // elements

  // Gradients, zero, in f32 (f64 for f64) for every tensor; from then on variables are leaves that
  // collect into them.
  void allocate_gradients();
  void zero_gradients() const;

  // Throws Error for a name that is not there.
  Variable variable(const std::string& name) const;

  // A copy with every tensor in the given type (f64 for checking gradients).
  Parameters cast(DType) const;
  // On a GPU, matrices in `type` (f32 or bf16) and everything else in f32; what is so already is
  // shared, not copied. Matrices that multiply the same vector lie one after the other, so that one
  // product can take them all. Matrices in blocks are widened, those in f16 rounded to bf16.
  Parameters on(Device, DType type) const;

 private:
  std::vector<std::string> stack_of(const std::string& name, DType type) const;

  std::map<std::string, Tensor> values_;
  std::map<std::string, Tensor> gradients_;
};

}  // namespace metala
