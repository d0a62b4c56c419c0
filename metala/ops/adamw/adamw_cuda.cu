// Tensors are cut into parts of 16,384 elements, a block of threads each; a launch takes a table of
// up to 48 tensors as its argument. The norm: a partial sum for each part, then one block adds them
// in order, so that the same gradients give the same bits.
#include <algorithm>
#include <cmath>
#include <vector>

#include "metala/device/cuda/cuda_device.h"
#include "metala/device/cuda/cuda_error.h"
#include "metala/device/cuda/vector.cuh"
#include "metala/ops/adamw/adamw_cuda.h"

namespace metala::adamw::cuda {
namespace {

using metala::cuda::Bf16;
using metala::cuda::F16;
using metala::cuda::Pack;

constexpr int threads = 256;
constexpr int part_elements = 16384;
constexpr int table_size = 48;

struct Entry {
  const float* gradient;
  float *parameter, *first_moment, *second_moment;
  void* working;
  bool bf16;  // working is; else it is f16
  std::int64_t count;
  int first_part;  // of the launch
  bool decays;
};

struct Table {
  Entry entries[table_size];
  int size;
};

// The tensor that holds this block's part, and the part's elements.
struct Place {
  int entry;
  std::int64_t begin, end;
};

__device__ Place place_of(const Table& table) {
  const int part = static_cast<int>(blockIdx.x);
  int entry = 0;
  while (entry + 1 < table.size && table.entries[entry + 1].first_part <= part) ++entry;
  const Entry& e = table.entries[entry];
  const std::int64_t begin = static_cast<std::int64_t>(part - e.first_part) * part_elements;
  const std::int64_t end = begin + part_elements < e.count ? begin + part_elements : e.count;
  return {entry, begin, end};
}

struct Factors {
  float b1, b2, rest1, rest2, correct1, correct2, epsilon, rate, decay;
  double clip, gradient_scale;
};

// Two neighbours at i, an even element.
__device__ __forceinline__ void store_pair(const Entry& e, std::int64_t i, float first,
                                           float second) {
  if (e.bf16) {
    *reinterpret_cast<__nv_bfloat162*>(static_cast<Bf16*>(e.working) + i) =
        __floats2bfloat162_rn(first, second);
  } else {
    *reinterpret_cast<__half2*>(static_cast<F16*>(e.working) + i) =
        __floats2half2_rn(first, second);
  }
}

__device__ __forceinline__ void update_one(const Factors& f, float scale, float decay, float g,
                                           float& p, float& m, float& v) {
  const float gradient = scale * g;
  m = f.b1 * m + f.rest1 * gradient;
  v = f.b2 * v + f.rest2 * gradient * gradient;
  const float direction = m * f.correct1 / (sqrtf(v * f.correct2) + f.epsilon);
  p -= f.rate * (direction + decay * p);
}

__global__ void __launch_bounds__(threads)
    update_parts(const __grid_constant__ Table table, const __grid_constant__ Factors f,
                 const double* norm) {
  const double total = f.gradient_scale * *norm;
  if (!isfinite(total)) return;
  const double ratio = f.clip > 0 ? (total + 1e-6) / f.clip : 1.0;
  const float scale = static_cast<float>(f.gradient_scale * (ratio > 1 ? 1 / ratio : 1.0));
  const Place place = place_of(table);
  const Entry& e = table.entries[place.entry];
  const float decay = e.decays ? f.decay : 0.0f;
  constexpr int at_once = Pack<float>::size;
  const std::int64_t whole = place.begin + (place.end - place.begin) / at_once * at_once;
  for (std::int64_t i = place.begin + threadIdx.x * at_once; i < whole; i += threads * at_once) {
    const auto g = *reinterpret_cast<const Pack<float>*>(e.gradient + i);
    auto p = *reinterpret_cast<const Pack<float>*>(e.parameter + i);
    auto m = *reinterpret_cast<const Pack<float>*>(e.first_moment + i);
    auto v = *reinterpret_cast<const Pack<float>*>(e.second_moment + i);
#pragma unroll
    for (int j = 0; j < at_once; ++j) {
      update_one(f, scale, decay, g.at[j], p.at[j], m.at[j], v.at[j]);
    }
    *reinterpret_cast<Pack<float>*>(e.parameter + i) = p;
    *reinterpret_cast<Pack<float>*>(e.first_moment + i) = m;
    *reinterpret_cast<Pack<float>*>(e.second_moment + i) = v;
    if (e.working == nullptr) continue;
    store_pair(e, i, p.at[0], p.at[1]);
    store_pair(e, i + 2, p.at[2], p.at[3]);
  }
  const std::int64_t last = whole + threadIdx.x;
  if (last >= place.end) return;
  update_one(f, scale, decay, e.gradient[last], e.parameter[last], e.first_moment[last],
             e.second_moment[last]);
  if (e.working == nullptr) return;
  if (e.bf16) {
    static_cast<Bf16*>(e.working)[last] = __float2bfloat16_rn(e.parameter[last]);
  } else {
    static_cast<F16*>(e.working)[last] = __float2half_rn(e.parameter[last]);
  }
}

__device__ double sum_over_block(double x) {
  __shared__ double sums[threads];
  sums[threadIdx.x] = x;
  for (int half = threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  __syncthreads();
  return sums[0];
}

__global__ void __launch_bounds__(threads)
    square_parts(const __grid_constant__ Table table, double* sums) {
  const Place place = place_of(table);
  const float* x = table.entries[place.entry].gradient;
  double own = 0;
#pragma unroll 8
  for (std::int64_t i = place.begin + threadIdx.x; i < place.end; i += threads) {
    const auto value = static_cast<double>(x[i]);
    own += value * value;
  }
  const double total = sum_over_block(own);
  if (threadIdx.x == 0) sums[blockIdx.x] = total;
}

__global__ void __launch_bounds__(threads)
    add_in_order(const double* sums, std::int64_t count, double* all) {
  double own = 0;
  for (std::int64_t i = threadIdx.x; i < count; i += threads) own += sums[i];
  const double total = sum_over_block(own);
  if (threadIdx.x == 0) *all = total;
}

__global__ void take_root(double* sum) {
  *sum = sqrt(*sum);
}

__global__ void mark_unless_finite(const double* value, double* sum) {
  if (!isfinite(*value)) *sum = NAN;
}

// Calls launch(table, parts) for tables that hold all `count` entries.
template <class EntryAt, class Launch>
void in_tables(std::size_t count, EntryAt entry_at, Launch launch) {
  for (std::size_t done = 0; done < count; done += table_size) {
    Table table = {};
    std::int64_t parts = 0;
    for (std::size_t i = done; i < std::min(count, done + table_size); ++i) {
      Entry e = entry_at(i);
      e.first_part = static_cast<int>(parts);
      parts += (e.count + part_elements - 1) / part_elements;
      if (e.count > 0) table.entries[table.size++] = e;
    }
    if (parts > 0) launch(table, static_cast<unsigned>(parts));
  }
}

float* floats(const Tensor& t) {
  return static_cast<float*>(t.raw());
}

}  // namespace

void update(const Options& o, std::span<const Slot> slots, const Tensor& norm) {
  const auto stream = metala::cuda::enter("adamw", {&norm});
  const auto step = static_cast<double>(o.step);
  const Factors factors = {static_cast<float>(o.beta1),
                           static_cast<float>(o.beta2),
                           static_cast<float>(1 - o.beta1),
                           static_cast<float>(1 - o.beta2),
                           static_cast<float>(1 / (1 - std::pow(o.beta1, step))),
                           static_cast<float>(1 / (1 - std::pow(o.beta2, step))),
                           static_cast<float>(o.epsilon),
                           static_cast<float>(o.learning_rate),
                           static_cast<float>(o.weight_decay),
                           o.clip,
                           o.gradient_scale};
  in_tables(
      slots.size(),
      [&](std::size_t i) {
        const Slot& s = slots[i];
        metala::cuda::enter("adamw", {&norm, &s.parameter, &s.gradient, &s.first_moment,
                                      &s.second_moment, &s.working});
        return Entry{floats(s.gradient),
                     floats(s.parameter),
                     floats(s.first_moment),
                     floats(s.second_moment),
                     s.working.raw(),
                     !s.working.defined() || s.working.dtype() == DType::bf16,
                     s.parameter.count(),
                     0,
                     s.decays};
      },
      [&](const Table& table, unsigned parts) {
        update_parts<<<parts, threads, 0, stream>>>(table, factors,
                                                    static_cast<const double*>(norm.raw()));
      });
  metala::cuda::check_launch("adamw");
}

void sum_of_squares(std::span<const Tensor> tensors, const Tensor& sum) {
  const auto stream = metala::cuda::enter("adamw", {&sum});
  std::int64_t parts = 0;
  for (const Tensor& t : tensors) {
    metala::cuda::enter("adamw", {&sum, &t});
    parts += (t.count() + part_elements - 1) / part_elements;
  }
  auto* sums = static_cast<double*>(
      metala::cuda::workspace(sum.device(), static_cast<std::size_t>(parts) * sizeof(double)));
  std::int64_t done = 0;
  in_tables(
      tensors.size(),
      [&](std::size_t i) {
        Entry e = {};
        e.gradient = floats(tensors[i]);
        e.count = tensors[i].count();
        return e;
      },
      [&](const Table& table, unsigned own) {
        square_parts<<<own, threads, 0, stream>>>(table, sums + done);
        done += own;
      });
  add_in_order<<<1, threads, 0, stream>>>(sums, parts, static_cast<double*>(sum.raw()));
  metala::cuda::check_launch("adamw, sum of squares");
}

void square_root(const Tensor& sum) {
  const auto stream = metala::cuda::enter("adamw", {&sum});
  take_root<<<1, 1, 0, stream>>>(static_cast<double*>(sum.raw()));
  metala::cuda::check_launch("adamw, square root");
}

void join_finiteness(const Tensor& value, const Tensor& sum) {
  const auto stream = metala::cuda::enter("adamw", {&value, &sum});
  mark_unless_finite<<<1, 1, 0, stream>>>(static_cast<const double*>(value.raw()),
                                          static_cast<double*>(sum.raw()));
  metala::cuda::check_launch("adamw, finiteness");
}

}  // namespace metala::adamw::cuda
