// A warp takes a head's row in equal shares of consecutive elements: what is local to a token is
// then loaded at once, kept in registers and summed across lanes.
#pragma once

#include "metala/device/cuda/vector.cuh"
#include "metala/ops/metala_attention/metala_attention_arguments.cuh"

namespace metala::metala_attention::cuda {

// Whether rows of heads can be taken in shares: each lane's share is one load.
template <class... R>
bool in_shares(int width, const R&... rows) {
  const auto fits = [width](const auto& r) {
    const int share = width / 32;
    const auto bytes = static_cast<std::uintptr_t>(2 * share);
    return share > 0 && reinterpret_cast<std::uintptr_t>(r.data) % bytes == 0 &&
           r.stride % share == 0;
  };
  return (fits(rows) && ...);
}

// Whether the op has all that the released models have, and no more, in rows that can be taken in
// shares.
inline bool released_form(const Arguments<metala::cuda::Bf16>& p) {
  return p.u.data != nullptr && p.k.data == nullptr && p.z.data != nullptr && p.aug != nullptr &&
         in_shares(p.key_width, p.q, p.u) && in_shares(p.value_width, p.v, p.z);
}

// Calls f.template operator()<share of K, share of D>() for the sizes that are compiled; false for
// another.
template <class F>
bool with_shares(const Arguments<metala::cuda::Bf16>& p, F&& f) {
  const auto take = [&]<int key_share, int value_share>() {
    if (p.key_width != 32 * key_share || p.value_width != 32 * value_share) return false;
    f.template operator()<key_share, value_share>();
    return true;
  };
  return take.template operator()<2, 4>() || take.template operator()<4, 8>() ||
         take.template operator()<1, 1>() || take.template operator()<1, 2>() ||
         take.template operator()<2, 2>() || take.template operator()<4, 4>();
}

}  // namespace metala::metala_attention::cuda
