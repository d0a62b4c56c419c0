// Exponentials in the time that a type's precision deserves.
#pragma once

#include <type_traits>

namespace metala::cuda {

// e^x, as precise as T.
template <class T>
__device__ __forceinline__ float exponential(float x) {
  if constexpr (std::is_same_v<T, float>) {
    return expf(x);
  } else {
    return __expf(x);
  }
}

// y / (1 + e^-x), as precise as T: in 16 bits the special-function unit's powers will do, whose
// relative error grows with x to 1e-6.
template <class T>
__device__ __forceinline__ float logistic(float x, float y = 1.0f) {
  if constexpr (std::is_same_v<T, float>) {
    return y / (1.0f + expf(-x));
  } else {
    float power;  // 0 where it would be no normal number
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(-1.44269504f * x));
    return __fdividef(y, 1.0f + power);  // 0 for a divisor of 2^126 or more
  }
}

}  // namespace metala::cuda
