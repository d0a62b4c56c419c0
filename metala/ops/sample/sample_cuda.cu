// A block for each row. The greedy choice: a warp's and then the block's best are the largest
// value, at equal values the lowest id, so the order in which threads meet does not matter.
//
// A draw: what may be drawn is a prefix of the ids in the order of falling logits (ids rising where
// they are equal), so top-k and top-p are each the shortest prefix that holds enough: k ids, or p
// of the weight. A select by digits finds it: sums by a digit of the logit's bits tell the digit
// where the prefix ends, four times. Weights are integers, 2^44 for the most probable id's: sums do
// not depend on the order of their terms. Then the draw is the first id, in the order of ids, by
// which a sum of weights exceeds the uniform number's share of it all.
#include <algorithm>
#include <climits>

#include "metala/device/cuda/cuda_device.h"
#include "metala/device/cuda/cuda_error.h"
#include "metala/device/cuda/vector.cuh"
#include "metala/ops/sample/sample_cuda.h"

namespace metala::sample::cuda {
namespace {

constexpr int threads = 1024;

struct Best {
  float value;
  std::int32_t id;

  // NaN beats every number and stays.
  __device__ void meet(float other, std::int32_t other_id) {
    const bool better = isnan(other) ? !isnan(value) || other_id < id
                                     : other > value || (other == value && other_id < id);
    if (!better) return;
    value = other;
    id = other_id;
  }
};

__device__ __forceinline__ Best best_of_warp(Best best) {
#pragma unroll
  for (int lane = 16; lane > 0; lane /= 2) {
    const float value = __shfl_xor_sync(0xffffffffu, best.value, lane);
    const std::int32_t id = __shfl_xor_sync(0xffffffffu, best.id, lane);
    best.meet(value, id);
  }
  return best;
}

// Calls f(id, logit) for a thread's logits of a row. Many loads at once: with few rows there is
// little else to hide their latency.
template <class F>
__device__ __forceinline__ void each(const float* row, int vocabulary, F f) {
  constexpr int at_once = 16;
  for (int first = static_cast<int>(threadIdx.x); first < vocabulary; first += at_once * threads) {
    float values[at_once];
#pragma unroll
    for (int i = 0; i < at_once; ++i) {
      const int at = first + i * threads;
      values[i] = at < vocabulary ? row[at] : -INFINITY;
    }
#pragma unroll
    for (int i = 0; i < at_once; ++i) {
      if (first + i * threads < vocabulary) f(first + i * threads, values[i]);
    }
  }
}

// Of the row, for every thread.
__device__ Best best_of_row(const float* row, int vocabulary) {
  __shared__ Best of_warps[threads / 32];
  Best best = {-INFINITY, vocabulary};
  each(row, vocabulary, [&](int id, float value) { best.meet(value, id); });
  best = best_of_warp(best);
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = best;
  __syncthreads();
  return best_of_warp(of_warps[threadIdx.x % 32]);
}

__global__ void __launch_bounds__(threads)
    choose(const float* logits, int vocabulary, std::int32_t* ids) {
  const Best best = best_of_row(logits + std::int64_t{blockIdx.x} * vocabulary, vocabulary);
  if (threadIdx.x == 0) ids[blockIdx.x] = isfinite(best.value) ? best.id : -1;
}

using Amount = unsigned long long;  // a count of ids, or a sum of weights
constexpr unsigned everyone = 0xffffffffu;
constexpr int bins = 256;
constexpr int tile = static_cast<int>(most_ids) / bins;  // ids

// Larger for larger logits, equal for equal ones.
__device__ __forceinline__ unsigned key_of(float logit) {
  const unsigned bits = __float_as_uint(logit + 0.0f);  // -0 is 0
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

// The ids that may be drawn: larger keys, and of equal keys the ids up to `id`.
struct Prefix {
  unsigned key = 0;
  int id = INT_MAX;
  __device__ bool has(unsigned other_key, int other_id) const {
    return other_key > key || (other_key == key && other_id <= id);
  }
};

// Where a sum over bins first exceeds a limit.
struct Crossing {
  int bin;
  Amount before;  // the sum of those passed by
};

// What threads of a block share.
struct Shared {
  Amount sums[bins];
  Amount of_warps[threads / 32];
  Crossing crossing;
  int id;
};

__device__ __forceinline__ Amount sum_below(Amount own) {  // of the lanes before and this one
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const Amount other = __shfl_up_sync(everyone, own, distance);
    if (static_cast<int>(threadIdx.x) % 32 >= distance) own += other;
  }
  return own;
}

// Walks the bins up, or down from the last; the last one of the walk if none crosses.
__device__ Crossing cross(Shared& shared, bool down, Amount limit) {
  constexpr int each_lane = bins / 32;
  __syncthreads();
  if (threadIdx.x < 32) {
    const int lane = static_cast<int>(threadIdx.x);
    const auto bin = [&](int i) {
      const int at = lane * each_lane + i;
      return down ? bins - 1 - at : at;
    };
    Amount own = 0;
    for (int i = 0; i < each_lane; ++i) own += shared.sums[bin(i)];
    const Amount upto = sum_below(own);
    const unsigned crossed = __ballot_sync(everyone, upto > limit);
    const int where = crossed == 0 ? 31 : __ffs(static_cast<int>(crossed)) - 1;
    if (lane == where) {
      Amount before = upto - own;
      int i = 0;
      while (i + 1 < each_lane && before + shared.sums[bin(i)] <= limit) {
        before += shared.sums[bin(i)];
        ++i;
      }
      shared.crossing = {bin(i), before};
    }
  }
  __syncthreads();
  return shared.crossing;
}

__device__ void clear(Shared& shared) {
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < bins; i += threads) shared.sums[i] = 0;
  __syncthreads();
}

__device__ Amount sum_of_block(Shared& shared, Amount own) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    own += __shfl_xor_sync(everyone, own, distance);
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared.of_warps[threadIdx.x / 32] = own;
  __syncthreads();
  Amount total = 0;
#pragma unroll
  for (int warp = 0; warp < threads / 32; ++warp) total += shared.of_warps[warp];
  return total;
}

// The first id by which the sum of amount(id, logit), in the order of ids, exceeds the limit.
template <class F>
__device__ int locate(Shared& shared, const float* row, int vocabulary, Amount limit, F amount) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  clear(shared);
  for (int t = static_cast<int>(threadIdx.x) / 32; t * tile < vocabulary; t += threads / 32) {
    Amount own = 0;
#pragma unroll 8
    for (int i = t * tile + lane; i < (t + 1) * tile; i += 32) {
      if (i < vocabulary) own += amount(i, row[i]);
    }
    own = sum_below(own);
    if (lane == 31) shared.sums[t] = own;
  }
  const Crossing in = cross(shared, false, limit);
  if (threadIdx.x < 32) {
    Amount before = in.before;
    int found = -1;
    for (int i = in.bin * tile + lane; found < 0 && i - lane < (in.bin + 1) * tile; i += 32) {
      const Amount upto = before + sum_below(i < vocabulary ? amount(i, row[i]) : 0);
      const unsigned crossed = __ballot_sync(everyone, upto > limit);
      if (crossed != 0) found = i - lane + __ffs(static_cast<int>(crossed)) - 1;
      before = __shfl_sync(everyone, upto, 31);
    }
    if (lane == 0) shared.id = found;
  }
  __syncthreads();
  return shared.id;
}

// The shortest prefix within `given` whose sum of amount(logit) is at least `wanted` > 0.
// coarse(logit): a bin that never rises as logits fall, and spreads them.
template <class F, class G>
__device__ Prefix shorten(Shared& shared, const float* row, int vocabulary, const Prefix& given,
                          Amount wanted, F amount, G coarse) {
  clear(shared);
  each(row, vocabulary, [&](int id, float logit) {
    if (given.has(key_of(logit), id)) atomicAdd(&shared.sums[coarse(logit)], amount(logit));
  });
  Crossing in = cross(shared, true, wanted - 1);
  const int range = in.bin;
  unsigned known = 0;  // of the key's digits
  Prefix prefix = {0, INT_MAX};
  for (int shift = 24; shift >= 0; shift -= 8) {
    const Amount above = in.before;
    clear(shared);
    each(row, vocabulary, [&](int id, float logit) {
      const unsigned key = key_of(logit);
      if (coarse(logit) != range || (key & known) != prefix.key || !given.has(key, id)) return;
      atomicAdd(&shared.sums[key >> shift & (bins - 1)], amount(logit));
    });
    in = cross(shared, true, wanted - 1 - above);
    in.before += above;
    prefix.key |= static_cast<unsigned>(in.bin) << shift;
    known |= static_cast<unsigned>(bins - 1) << shift;
  }
  // Of equal logits as many as it takes.
  const Amount of_ties = shared.sums[in.bin];
  const Amount lacking = wanted - in.before;
  if (of_ties <= lacking) {
    prefix.id = prefix.key == given.key ? given.id : INT_MAX;
    return prefix;
  }
  prefix.id = locate(shared, row, vocabulary, lacking - 1, [&](int id, float logit) {
    const unsigned key = key_of(logit);
    return key == prefix.key && given.has(key, id) ? amount(logit) : 0;
  });
  return prefix;
}

struct Cuts {
  float inverse_temperature, min_p;
  double top_p;
  Amount top_k;  // 0: all
};

__global__ void __launch_bounds__(threads)
    draw_id(const float* logits, int vocabulary, const Cuts cuts, const double* uniform,
            std::int32_t* ids) {
  __shared__ Shared shared;
  const float* const row = logits + std::int64_t{blockIdx.x} * vocabulary;
  const float best = best_of_row(row, vocabulary).value;
  if (!isfinite(best)) {
    if (threadIdx.x == 0) ids[blockIdx.x] = -1;
    return;
  }
  const auto weight = [&](float logit) { return expf((logit - best) * cuts.inverse_temperature); };
  const auto share = [&](float logit) -> Amount { return __float2ull_rn(weight(logit) * 0x1p44f); };
  const auto coarse = [&](float logit) {
    const float fall = fminf((best - logit) * cuts.inverse_temperature * 8, bins - 1.0f);
    return bins - 1 - static_cast<int>(fall);
  };
  Prefix prefix;
  if (cuts.top_k > 0 && cuts.top_k < static_cast<Amount>(vocabulary)) {
    prefix = shorten(
        shared, row, vocabulary, prefix, cuts.top_k, [](float) -> Amount { return 1; }, coarse);
  }
  const auto total = [&] {
    Amount own = 0;
    each(row, vocabulary, [&](int id, float logit) {
      if (prefix.has(key_of(logit), id) && weight(logit) >= cuts.min_p) own += share(logit);
    });
    return sum_of_block(shared, own);
  };
  if (cuts.top_p < 1) {
    Amount own = 0;
    each(row, vocabulary, [&](int id, float logit) {
      if (prefix.has(key_of(logit), id)) own += share(logit);
    });
    const auto all = static_cast<double>(sum_of_block(shared, own));
    const auto wanted = static_cast<Amount>(ceil(cuts.top_p * all));
    prefix = shorten(shared, row, vocabulary, prefix, wanted > 0 ? wanted : 1, share, coarse);
  }
  const Amount whole = total();
  auto limit = static_cast<Amount>(uniform[blockIdx.x] * static_cast<double>(whole));
  if (limit >= whole) limit = whole - 1;
  const int id = locate(shared, row, vocabulary, limit, [&](int at, float logit) -> Amount {
    return prefix.has(key_of(logit), at) && weight(logit) >= cuts.min_p ? share(logit) : 0;
  });
  if (threadIdx.x == 0) ids[blockIdx.x] = id;
}

}  // namespace

void greedy(const Tensor& logits, std::int32_t* ids) {
  const auto stream = metala::cuda::enter("sample", {&logits});
  if (logits.count() == 0) return;
  choose<<<static_cast<unsigned>(logits.size(0)), threads, 0, stream>>>(
      logits.data<float>(), static_cast<int>(logits.size(1)), ids);
  metala::cuda::check_launch("sample: greedy");
}

void draw(const Options& o, const Tensor& logits, const double* uniform, std::int32_t* ids) {
  const auto stream = metala::cuda::enter("sample", {&logits});
  if (logits.count() == 0) return;
  constexpr double coldest = 1e-30;  // else 0 / T would be no number
  const Cuts cuts = {static_cast<float>(1 / std::max(o.temperature, coldest)),
                     static_cast<float>(o.min_p), o.top_p, static_cast<Amount>(o.top_k)};
  draw_id<<<static_cast<unsigned>(logits.size(0)), threads, 0, stream>>>(
      logits.data<float>(), static_cast<int>(logits.size(1)), cuts, uniform, ids);
  metala::cuda::check_launch("sample: draw");
}

}  // namespace metala::sample::cuda
