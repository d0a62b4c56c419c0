#include "metala/ops/metala_attention/metala_attention_local_cuda.h"

#include "metala/device/cuda/cuda_device.h"
#include "metala/device/cuda/cuda_error.h"
#include "metala/ops/metala_attention/metala_attention_arguments.cuh"
#include "metala/ops/metala_attention/metala_attention_local.cuh"
#include "metala/ops/metala_attention/metala_attention_share.cuh"

namespace metala::metala_attention::cuda {
namespace {

using metala::cuda::Bf16;
using metala::cuda::Floats;
using metala::cuda::from_float;
using metala::cuda::load;
using metala::cuda::store;
using metala::cuda::to_float;
using metala::cuda::warp_sum;

constexpr int warps = 8;  // of a block

template <class T>
struct Local {
  Rows<const T> mixed, dout;
  T* dmixed;
  float* dscore;
  Rows<T> dv, dz;
  bool add;   // to them
  Rows<T> o;  // may be dout's memory
};

template <class T>
__device__ __forceinline__ void add_to(T& at, float value) {
  at = from_float<T>(to_float(at) + value);
}

// A warp for each token and head.
template <class T>
__global__ void __launch_bounds__(32 * warps)
    local_backward(Arguments<T> p, Local<T> b, std::int64_t token_heads) {
  const std::int64_t index =
      static_cast<std::int64_t>(blockIdx.x) * warps + static_cast<int>(threadIdx.x) / 32;
  if (index >= token_heads) return;
  const std::int64_t t = index / p.heads;
  const int head = static_cast<int>(index % p.heads);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int first = head * p.value_width;
  const T* mixed = b.mixed.row(t) + first;
  const T* dout = b.dout.row(t) + first;
  constexpr int most = 256 / 32;
  const auto exists = [&](int i) { return i * 32 + lane < p.value_width; };
  float y[most];
#pragma unroll
  for (int i = 0; i < most; ++i) y[i] = exists(i) ? to_float(mixed[i * 32 + lane]) : 0.0f;
  const float share = 1 / static_cast<float>(p.value_width);
  const float r = normalise<T>(y, share, exists);
  float e[most];  // the gradient of y
  float sum_e = 0;
  float along = 0;
#pragma unroll
  for (int i = 0; i < most; ++i) {
    const int at = i * 32 + lane;
    e[i] = 0;
    if (at >= p.value_width) continue;
    e[i] = to_float(dout[at]);
    float out = y[i];
    if (p.z.data != nullptr) {
      const float z = to_float(p.z.row(t)[first + at]);
      const float gate = sigmoid(z);
      out *= z * gate;
      if (b.dz.data != nullptr) {
        add_to(b.dz.row(t)[first + at], e[i] * y[i] * gate * (1 + z * sigmoid(-z)));
      }
      e[i] *= z * gate;
    }
    if (b.o.data != nullptr) b.o.row(t)[first + at] = from_float<T>(out);
    sum_e += e[i];
    along += e[i] * y[i];
  }
  const float mean_e = warp_sum(sum_e) * share;
  const float mean_along = warp_sum(along) * share;
  const float score = augmentation_score(p, t, head);
  float dscore = 0;
#pragma unroll
  for (int i = 0; i < most; ++i) {
    const int at = i * 32 + lane;
    if (at >= p.value_width) continue;
    const float dc = r * (e[i] - mean_e - y[i] * mean_along);
    b.dmixed[t * p.heads * p.value_width + first + at] = from_float<T>(dc);
    if (p.aug == nullptr) continue;
    const float v = to_float(p.v.row(t)[first + at]);
    const float dsum = dc * sigmoid(score * v) * sigmoid(-score * v);
    dscore += dsum * v;
    if (b.dv.data != nullptr) add_to(b.dv.row(t)[first + at], dsum * score);
  }
  if (p.aug == nullptr) return;
  dscore = warp_sum(dscore);
  if (lane == 0) b.dscore[index] = dscore;
}

// The same for bf16 with everything that the released models have, in shares.
template <int key_share, int value_share>
__global__ void __launch_bounds__(32 * warps)
    local_backward_in_shares(Arguments<Bf16> p, Local<Bf16> b, std::int64_t token_heads) {
  const std::int64_t index =
      static_cast<std::int64_t>(blockIdx.x) * warps + static_cast<int>(threadIdx.x) / 32;
  if (index >= token_heads) return;
  const std::int64_t t = index / p.heads;
  const int head = static_cast<int>(index % p.heads);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int key = (head * 32 + lane) * key_share;
  const int value = (head * 32 + lane) * value_share;
  Floats<value_share> y = load<value_share>(b.mixed.row(t) + value);
  Floats<value_share> e = load<value_share>(b.dout.row(t) + value);
  Floats<value_share> dz = {};
  Floats<value_share> dv = {};
  if (b.add) {
    dz = load<value_share>(b.dz.row(t) + value);
    dv = load<value_share>(b.dv.row(t) + value);
  }
  const Floats<value_share> z = load<value_share>(p.z.row(t) + value);
  const Floats<value_share> v = load<value_share>(p.v.row(t) + value);
  const Floats<key_share> q = load<key_share>(p.q.row(t) + key);
  const Floats<key_share> u = load<key_share>(p.u.row(t) + key);
  constexpr float share = 1.0f / (32 * value_share);
  const float r = normalise<Bf16>(y.at, share, [](int) { return true; });
  float sum_e = 0;
  float along = 0;
  Floats<value_share> out;
#pragma unroll
  for (int i = 0; i < value_share; ++i) {
    const float gate = fast_sigmoid(z.at[i]);
    out.at[i] = y.at[i] * z.at[i] * gate;
    dz.at[i] += e.at[i] * y.at[i] * gate * (1 + z.at[i] * (1 - gate));
    e.at[i] *= z.at[i] * gate;
    sum_e += e.at[i];
    along += e.at[i] * y.at[i];
  }
  if (b.o.data != nullptr) store(out, b.o.row(t) + value);
  store(dz, b.dz.row(t) + value);
  const float mean_e = warp_sum(sum_e) * share;
  const float mean_along = warp_sum(along) * share;
  float score = 0;
#pragma unroll
  for (int i = 0; i < key_share; ++i) {
    score += q.at[i] * bit_gate(u.at[i], p.inverse_temperature).lose * p.aug[key + i];
  }
  score = warp_sum(score);
  float dscore = 0;
#pragma unroll
  for (int i = 0; i < value_share; ++i) {
    e.at[i] = r * (e.at[i] - mean_e - y.at[i] * mean_along);
    const float opened = fast_sigmoid(score * v.at[i]);
    const float dsum = e.at[i] * opened * (1 - opened);
    dscore += dsum * v.at[i];
    dv.at[i] += dsum * score;
  }
  store(e, b.dmixed + t * p.heads * p.value_width + value);
  store(dv, b.dv.row(t) + value);
  dscore = warp_sum(dscore);
  if (lane == 0) b.dscore[index] = dscore;
}

// Whether local_backward_in_shares was launched.
template <class T>
bool launch_in_shares(const Arguments<T>& p, const Local<T>& b, unsigned blocks,
                      std::int64_t token_heads, cudaStream_t stream) {
  if constexpr (std::is_same_v<T, Bf16>) {
    if (!released_form(p) || b.dv.data == nullptr || b.dz.data == nullptr) return false;
    if (!in_shares(p.value_width, b.mixed, b.dout, b.dv, b.dz)) return false;
    if (b.o.data != nullptr && !in_shares(p.value_width, b.o)) return false;
    return with_shares(p, [&]<int key_share, int value_share>() {
      local_backward_in_shares<key_share, value_share>
          <<<blocks, 32 * warps, 0, stream>>>(p, b, token_heads);
    });
  }
  return false;
}

}  // namespace

void backward_local(const Options& options, const Inputs& in, Offsets offsets, const Tensor& mixed,
                    const Tensor& do_, void* dmixed, float* dscore, const Gradients& to) {
  const auto stream = metala::cuda::enter(
      "metala_attention",
      {&in.q, &in.u, &in.k, &in.v, &in.z, &in.aug, &mixed, &do_, &to.v, &to.z, &to.o});
  const std::int64_t token_heads = in.q.size(0) * options.heads;
  if (token_heads == 0) return;
  metala::cuda::with_type(in.q.dtype(), [&]<class T>(T) {
    const Arguments<T> p = arguments<T>(options, in, offsets);
    const Local<T> b = {
        rows<const T>(mixed), rows<const T>(do_), static_cast<T*>(dmixed),        dscore,
        rows<T>(to.v),        rows<T>(to.z),      to.tokens == Write::accumulate, rows<T>(to.o)};
    const auto blocks = static_cast<unsigned>((token_heads + warps - 1) / warps);
    if (launch_in_shares(p, b, blocks, token_heads, stream)) return;
    prepare(to.v, to.tokens);
    prepare(to.z, to.tokens);
    local_backward<<<blocks, 32 * warps, 0, stream>>>(p, b, token_heads);
  });
}

}  // namespace metala::metala_attention::cuda
