// Verify: a checkpoint run against expected tensors beside it.
//
// `expected.safetensors` in the folder holds input_ids [B, T] i64, logits [B, T, V] and, each if
// wanted, attention_mask [B, T] (left padding), state.{layer} [B, H, K, D] and conv_state.{layer}
// [B, d, W] after the prompt, loss (the mean next-token loss), grad.{parameter}, greedy [B, G] i64
// (ids of the greedy continuation) with greedy_margin [B, G] (gap between the best two logits).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "metala/base/device.h"
#include "metala/base/dtype.h"

namespace metala {

struct VerifyOptions {
  // Bound, for each tensor, on max |got - want| / max |want|.
  double tolerance = 1e-4;
  DType dtype = DType::f32;  // f32 or f64: what to compute in; on a GPU f32
  Device device;
};

struct Comparison {
  std::string tensor;
  double absolute = 0;  // max |got - want|
  double relative = 0;  // divided by max |want|
  bool within = false;  // NaN is never within
};

struct VerifyReport {
  std::vector<Comparison> comparisons;
  // Greedy tokens are compared, each after the expected ones before it, where the margin exceeds
  // 1e-3 of the largest logit.
  std::int64_t greedy_compared = 0;
  std::int64_t greedy_equal = 0;
  bool passed = false;
};

// Throws Error for files that are missing, malformed or do not fit the model.
VerifyReport verify(const std::string& folder, const VerifyOptions&);

}  // namespace metala
