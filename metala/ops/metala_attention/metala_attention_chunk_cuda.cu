// 64 tokens at a time on tensor cores: how sequences become blocks, and the launches.
#include "metala/device/cuda/cuda_device.h"
#include "metala/device/cuda/cuda_error.h"
#include "metala/ops/metala_attention/metala_attention_chunk.cuh"
#include "metala/ops/metala_attention/metala_attention_chunk_cuda.h"
#include "metala/ops/metala_attention/metala_attention_join.cuh"
#include "metala/ops/metala_attention/metala_attention_pipeline_cuda.h"
#include "metala/ops/metala_attention/metala_attention_segments.cuh"

namespace metala::metala_attention::cuda {
namespace {

template <int key_width, int value_width, Pass pass>
__global__ void __launch_bounds__(Kernel<key_width, value_width, pass>::threads,
                                  Kernel<key_width, value_width, pass>::blocks_at_once)
    walk_chunks(const Problem p) {
  extern __shared__ __align__(16) unsigned char shared[];
  Kernel<key_width, value_width, pass> kernel(p, reinterpret_cast<Bf16*>(shared),
                                              static_cast<int>(blockIdx.z));
  if (pass == Pass::outputs && kernel.place.tokens == 0 && !kernel.place.last) return;
  kernel.walk();
}

template <int key_width, int value_width, Pass pass>
void launch(const Problem& p, cudaStream_t stream) {
  using K = Kernel<key_width, value_width, pass>;
  const auto kernel = walk_chunks<key_width, value_width, pass>;
  metala::cuda::allow_shared_memory(reinterpret_cast<const void*>(kernel), K::bytes);
  const dim3 grid(static_cast<unsigned>(p.batch * p.heads), value_width / K::slice,
                  static_cast<unsigned>(K::outputs ? p.segments : (p.segments - 1) * p.pieces));
  kernel<<<grid, K::threads, K::bytes, stream>>>(p);
}

template <int key_width, int value_width>
void run(const Problem& p, const Tensor& values, std::int64_t places, cudaStream_t stream) {
  if (p.segments > 1) {
    launch<key_width, value_width, Pass::totals>(p, stream);
    launch_join<key_width, value_width>(p, false, stream);
  }
  if (fits_pipeline({key_width, value_width}, values)) {
    return walk_in_pipeline(p, values, places, false, stream);
  }
  launch<key_width, value_width, Pass::outputs>(p, stream);
}

}  // namespace

void forward_in_chunks(const Options& options, const Inputs& in, Offsets offsets, const Tensor& o,
                       const Tensor& after, const Tensor& states) {
  const auto stream = metala::cuda::enter("metala_attention", {&in.q, &in.u, &in.v, &o, &states});
  Problem p = problem(options, in, offsets);
  p.o_stride = o.stride(0);
  p.before = static_cast<const float*>(in.before.raw());
  p.o = static_cast<Bf16*>(o.raw());
  p.after = static_cast<float*>(after.raw());
  p.chunk_states = static_cast<Bf16*>(states.raw());
  const Size size = size_of(options, in);
  with_size(size, [&]<int key_width, int value_width>() {
    using Joining = Kernel<key_width, value_width, Pass::totals>;
    using Whole = Kernel<key_width, value_width, Pass::outputs>;
    cut(p, size, offsets, metala::cuda::multiprocessors(o.device()), 1,
        {Joining::blocks_at_once, 0.6}, {Whole::blocks_at_once, 1});
    if (p.segments > 1) {
      metala::cuda::Pieces::lay(
          o.device(), [&](metala::cuda::Pieces& pieces) { take_segments(p, size, pieces); });
    }
    run<key_width, value_width>(p, in.v, chunk_places(in, offsets), stream);
  });
  metala::cuda::check_launch("metala_attention");
}

}  // namespace metala::metala_attention::cuda
