// Seeded test inputs. The `strided` forms are slices of wider memory poisoned with NaN, so that an
// op that ignores strides or reads past a row is seen.
#pragma once

#include <cmath>
#include <limits>

#include "metala/base/random.h"
#include "metala/base/tensor.h"

namespace metala::harness {

inline void set(const Tensor& t, std::int64_t flat_index, double value) {
  if (t.dtype() == DType::f64) {
    t.data<double>()[flat_index] = value;
  } else if (t.dtype() == DType::f32) {
    t.data<float>()[flat_index] = static_cast<float>(value);
  } else if (t.dtype() == DType::bf16) {
    t.data<bf16>()[flat_index] = bf16(static_cast<float>(value));
  } else {
    t.data<f16>()[flat_index] = f16(static_cast<float>(value));
  }
}

// N(mean, deviation^2), rounded to float32 first so that f32 and f64 copies hold equal numbers.
inline Tensor random_normal(Shape shape, DType type, std::uint64_t seed, double deviation = 1,
                            double mean = 0) {
  Tensor t = Tensor::uninitialized(shape, type);
  const Philox random(seed, hash_name("random_normal"));
  for (std::int64_t i = 0; i < t.count(); ++i) {
    const double x = mean + deviation * random.normal(static_cast<std::uint64_t>(i));
    set(t, i, static_cast<double>(static_cast<float>(x)));
  }
  return t;
}

inline Tensor filled(Shape shape, DType type, double value) {
  Tensor t = Tensor::uninitialized(shape, type);
  for (std::int64_t i = 0; i < t.count(); ++i) set(t, i, value);
  return t;
}

inline Tensor poisoned(Shape shape, DType type) {
  return filled(shape, type, std::numeric_limits<double>::quiet_NaN());
}

// The same values as a [N, d] matrix with gaps of NaN between its rows.
inline Tensor strided(const Tensor& matrix, std::int64_t gap = 3) {
  Tensor wide = poisoned({matrix.size(0), matrix.size(1) + gap}, matrix.dtype());
  Tensor view = wide.slice(1, 1, 1 + matrix.size(1));
  view.copy_from(matrix);
  return view;
}

}  // namespace metala::harness
