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

// How fresh weights are drawn. `normal`: every matrix and the embedding N(0, init_std), as the
// authors' Hugging Face class. `small`: GPT-NeoX's small_init, N(0, 2/(5d)), with wang_init,
// N(0, (2/(L sqrt d))^2), for what feeds the residual. `scaled`: as normal, with
// N(0, init_std^2/(2L)) for what feeds the residual (Zoology). Biases and aug_balance are 0, the
// convolution uniform in +-1/sqrt(W), norm weights 1.
enum class Initialization { normal, small, scaled };
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
  // product can take them all. Throws Error for matrices in blocks, which run on the CPU only.
  Parameters on(Device, DType type) const;

 private:
  std::vector<std::string> stack_of(const std::string& name, DType type) const;

  std::map<std::string, Tensor> values_;
  std::map<std::string, Tensor> gradients_;
};

}  // namespace metala
