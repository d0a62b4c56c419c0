#include "metala/ops/metala_attention/metala_attention_padded_cuda.h"

#include "metala/device/cuda/cuda_device.h"
#include "metala/device/cuda/cuda_error.h"
#include "metala/device/cuda/vector.cuh"
#include "metala/ops/metala_attention/metala_attention_chunk_cuda.h"
#include "metala/ops/metala_attention/metala_attention_local_cuda.h"
#include "metala/ops/metala_attention/metala_attention_segments.cuh"

namespace metala::metala_attention::cuda {
namespace {

using metala::cuda::Few;
using metala::cuda::from_float;
using metala::cuda::Pieces;
using metala::cuda::to_float;

// The least of the compiled sizes that holds heads of this one; none: {0, 0}.
Size wider(Size size) {
  for (const Size each : {Size{32, 32}, {32, 64}, {64, 64}, {64, 128}, {128, 128}, {128, 256}}) {
    if (size.key_width <= each.key_width && size.value_width <= each.value_width) return each;
  }
  return {0, 0};
}

// Two arrays [count, rows, columns] of different rows and columns, elements of which next to one
// another: `stride` leads to the next of count, rows follow without gaps.
template <class T>
struct Array {
  T* data;
  std::int64_t stride;
  int rows, columns;
};

constexpr int threads = 256;  // a block's: columns of the wider array in x, its count in y

// Kernels take `size` elements at once; rows of both arrays are multiples of them.
// wide = narrow, and zeros around it.
template <int size, class T>
__global__ void __launch_bounds__(threads)
    spread(const Array<const T> narrow, const Array<T> wide, std::int64_t count) {
  const std::int64_t n = static_cast<std::int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  const int row = static_cast<int>(blockIdx.y);
  const int column = static_cast<int>(threadIdx.x) * size;
  if (n >= count) return;
  Few<T, size> value;
#pragma unroll
  for (T& one : value.at) one = from_float<T>(0.0f);
  if (row < narrow.rows && column < narrow.columns) {
    value = *reinterpret_cast<const Few<T, size>*>(narrow.data + n * narrow.stride +
                                                   row * narrow.columns + column);
  }
  *reinterpret_cast<Few<T, size>*>(wide.data + n * wide.stride + row * wide.columns + column) =
      value;
}

// narrow = or += its part of wide.
template <int size, class T>
__global__ void __launch_bounds__(threads)
    gather(const Array<const T> wide, const Array<T> narrow, std::int64_t count, bool add) {
  const std::int64_t n = static_cast<std::int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  const int row = static_cast<int>(blockIdx.y);
  const int column = static_cast<int>(threadIdx.x) * size;
  if (n >= count || column >= narrow.columns) return;
  auto value = *reinterpret_cast<const Few<T, size>*>(wide.data + n * wide.stride +
                                                      row * wide.columns + column);
  auto& to = *reinterpret_cast<Few<T, size>*>(narrow.data + n * narrow.stride +
                                              row * narrow.columns + column);
  if (add) {
#pragma unroll
    for (int i = 0; i < size; ++i) {
      value.at[i] = from_float<T>(to_float(to.at[i]) + to_float(value.at[i]));
    }
  }
  to = value;
}

// Calls f.template operator()<size>() with as many elements, up to 16 bytes, as rows of the narrow
// array let be taken at once; the wide array's always do.
template <class T, class F>
void with_elements(const Array<T>& narrow, F&& f) {
  const auto fits = [&](int size) {
    const auto bytes = static_cast<std::uintptr_t>(size) * sizeof(T);
    return bytes <= 16 && narrow.columns % size == 0 && narrow.stride % size == 0 &&
           reinterpret_cast<std::uintptr_t>(narrow.data) % bytes == 0;
  };
  if (fits(8)) return f.template operator()<8>();
  if (fits(4)) return f.template operator()<4>();
  if (fits(2)) return f.template operator()<2>();
  f.template operator()<1>();
}

// Both kinds of arrays that there are: token matrices [N, H * width] by head, states [B * H, K, D].
template <class T>
Array<T> by_head(const Tensor& t, std::int64_t heads) {
  return {static_cast<T*>(t.raw()), t.stride(0), static_cast<int>(heads),
          static_cast<int>(t.size(1) / heads)};
}
template <class T>
Array<T> by_state(const Tensor& t) {
  return {static_cast<T*>(t.raw()), t.size(2) * t.size(3), static_cast<int>(t.size(2)),
          static_cast<int>(t.size(3))};
}

class Padding {
 public:
  Padding(const Options& options, Size size, Device device, cudaStream_t stream)
      : heads_(options.heads), size_(size), device_(device), stream_(stream) {}

  Tensor rows(Pieces& pieces, std::int64_t count, std::int64_t width) const {
    return pieces.matrix(count, heads_ * width, DType::bf16, device_);
  }
  Tensor states(Pieces& pieces, std::int64_t batch) const {
    const Shape shape = {batch, heads_, size_.key_width, size_.value_width};
    return Tensor::wrap(pieces.take<float>(shape.count()), shape, DType::f32, nullptr, device_);
  }
  // Of one number for each channel.
  Tensor channels(Pieces& pieces) const {
    const std::int64_t count = heads_ * size_.key_width;
    return Tensor::wrap(pieces.take<float>(count), {count}, DType::f32, nullptr, device_);
  }

  void spread_rows(const Tensor& from, const Tensor& to) const {
    run_spread(by_head<const Bf16>(from, heads_), by_head<Bf16>(to, heads_), from.size(0));
  }
  void gather_rows(const Tensor& from, const Tensor& to, bool add) const {
    if (!to.defined()) return;
    run_gather(by_head<const Bf16>(from, heads_), by_head<Bf16>(to, heads_), to.size(0), add);
  }
  void spread_states(const Tensor& from, const Tensor& to) const {
    run_spread(by_state<const float>(from), by_state<float>(to), from.size(0) * heads_);
  }
  void gather_states(const Tensor& from, const Tensor& to, bool add) const {
    run_gather(by_state<const float>(from), by_state<float>(to), to.size(0) * heads_, add);
  }
  void spread_channels(const Tensor& from, const Tensor& to) const {
    run_spread(by_head<const float>(as_row(from), heads_), by_head<float>(as_row(to), heads_), 1);
  }
  void gather_channels(const Tensor& from, const Tensor& to) const {
    run_gather(by_head<const float>(as_row(from), heads_), by_head<float>(as_row(to), heads_), 1,
               true);
  }

 private:
  static Tensor as_row(const Tensor& channels) { return channels.reshape({1, channels.count()}); }

  template <class T>
  void run_spread(const Array<const T>& narrow, const Array<T>& wide, std::int64_t count) const {
    with_elements(narrow, [&]<int size>() {
      const Shapes s = shapes(count, wide.rows, wide.columns / size);
      if (count > 0) spread<size, T><<<s.grid, s.block, 0, stream_>>>(narrow, wide, count);
    });
  }
  template <class T>
  void run_gather(const Array<const T>& wide, const Array<T>& narrow, std::int64_t count,
                  bool add) const {
    with_elements(narrow, [&]<int size>() {
      const Shapes s = shapes(count, narrow.rows, wide.columns / size);
      if (count > 0) gather<size, T><<<s.grid, s.block, 0, stream_>>>(wide, narrow, count, add);
    });
  }
  struct Shapes {
    dim3 grid, block;
  };
  static Shapes shapes(std::int64_t count, int rows, int columns) {
    const int at_once = threads / columns;
    const auto blocks = static_cast<unsigned>((count + at_once - 1) / at_once);
    return {dim3(blocks, static_cast<unsigned>(rows)),
            dim3(static_cast<unsigned>(columns), static_cast<unsigned>(at_once))};
  }

  std::int64_t heads_;
  Size size_;
  Device device_;
  cudaStream_t stream_;
};

}  // namespace

bool fits_padded(const Options& options, const Inputs& in) {
  return in.q.dtype() == DType::bf16 && in.u.defined() && !in.k.defined() &&
         !options.bidirectional && has_room(wider(size_of(options, in)), in.q.device());
}

void forward_padded(const Options& options, const Inputs& in, Offsets offsets, const Tensor& o,
                    const Tensor& after) {
  const auto stream =
      metala::cuda::enter("metala_attention", {&in.q, &in.u, &in.v, &in.before, &o, &after});
  const Size size = wider(size_of(options, in));
  const std::int64_t tokens = in.q.size(0);
  const Padding padding(options, size, in.q.device(), stream);
  Inputs wide;
  Tensor wide_o, wide_after;
  Pieces::lay(
      in.q.device(),
      [&](Pieces& pieces) {
        wide.q = padding.rows(pieces, tokens, size.key_width);
        wide.u = padding.rows(pieces, tokens, size.key_width);
        wide.v = padding.rows(pieces, tokens, size.value_width);
        wide_o = padding.rows(pieces, tokens, size.value_width);
        if (in.before.defined()) wide.before = padding.states(pieces, batch_of(offsets));
        if (after.defined()) wide_after = padding.states(pieces, batch_of(offsets));
      },
      metala::cuda::Scratch::around);
  padding.spread_rows(in.q, wide.q);
  padding.spread_rows(in.u, wide.u);
  padding.spread_rows(in.v, wide.v);
  if (in.before.defined()) padding.spread_states(in.before, wide.before);
  forward_in_chunks(options, wide, offsets, wide_o, wide_after, {});
  padding.gather_rows(wide_o, o, false);
  if (after.defined()) padding.gather_states(wide_after, after, false);
  metala::cuda::check_launch("metala_attention, padded");
}

void backward_padded(const Options& options, const Inputs& in, Offsets offsets, const Tensor& mixed,
                     const Tensor& do_, const Tensor& dafter, const Gradients& to) {
  const auto stream = metala::cuda::enter(
      "metala_attention", {&in.q, &in.u, &in.v, &in.z, &in.aug, &in.before, &mixed, &do_, &dafter,
                           &to.q, &to.u, &to.v, &to.z, &to.aug, &to.before});
  const Size size = wider(size_of(options, in));
  const std::int64_t tokens = in.q.size(0);
  const std::int64_t batch = batch_of(offsets);
  const Padding padding(options, size, in.q.device(), stream);
  Inputs wide;
  Gradients wide_to;
  wide_to.tokens = Write::overwrite;
  Tensor dmixed, wide_dmixed, wide_dafter;
  float* dscore = nullptr;
  Pieces::lay(
      in.q.device(),
      [&](Pieces& pieces) {
        dmixed = pieces.matrix(tokens, in.v.size(1), DType::bf16, in.q.device());
        if (in.aug.defined()) dscore = pieces.take<float>(tokens * options.heads);
        for (Tensor* t : {&wide.q, &wide.u, &wide_to.q, &wide_to.u}) {
          *t = padding.rows(pieces, tokens, size.key_width);
        }
        for (Tensor* t : {&wide.v, &wide_dmixed}) {
          *t = padding.rows(pieces, tokens, size.value_width);
        }
        if (to.v.defined()) wide_to.v = padding.rows(pieces, tokens, size.value_width);
        if (in.aug.defined()) wide.aug = padding.channels(pieces);
        if (to.aug.defined()) wide_to.aug = padding.channels(pieces);
        if (in.before.defined()) wide.before = padding.states(pieces, batch);
        if (dafter.defined()) wide_dafter = padding.states(pieces, batch);
        if (to.before.defined()) wide_to.before = padding.states(pieces, batch);
      },
      metala::cuda::Scratch::around);
  backward_local(options, in, offsets, mixed, do_, dmixed.raw(), dscore, to);
  padding.spread_rows(in.q, wide.q);
  padding.spread_rows(in.u, wide.u);
  padding.spread_rows(in.v, wide.v);
  padding.spread_rows(dmixed, wide_dmixed);
  if (to.v.defined()) padding.spread_rows(to.v, wide_to.v);
  if (in.aug.defined()) padding.spread_channels(in.aug, wide.aug);
  if (in.before.defined()) padding.spread_states(in.before, wide.before);
  if (dafter.defined()) padding.spread_states(dafter, wide_dafter);
  for (const Tensor* sum : {&wide_to.aug, &wide_to.before}) {
    if (sum->defined()) sum->fill_zero();
  }
  backward_in_chunks(options, wide, offsets, {}, wide_dmixed, wide_dafter, wide_to, {},
                     LocalShares{dscore});
  const bool add = to.tokens == Write::accumulate;
  padding.gather_rows(wide_to.q, to.q, add);
  padding.gather_rows(wide_to.u, to.u, add);
  padding.gather_rows(wide_to.v, to.v, false);  // it began with what was there
  if (to.aug.defined()) padding.gather_channels(wide_to.aug, to.aug);
  if (to.before.defined()) padding.gather_states(wide_to.before, to.before, true);
  metala::cuda::check_launch("metala_attention, padded backward");
}

}  // namespace metala::metala_attention::cuda
