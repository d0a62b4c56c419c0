// Walks in a pipeline: the kernel and its launch.
#include "metala/ops/metala_attention/metala_attention_pipeline_cuda.h"

#include "metala/device/cuda/early_launch.cuh"
#include "metala/device/cuda/tensor_map.h"
#include "metala/ops/metala_attention/metala_attention_pipeline_rows.cuh"
#include "metala/ops/metala_attention/metala_attention_pipeline_walk.cuh"

namespace metala::metala_attention::cuda {
namespace {

// Clusters along x are the heads of all sequences, blocks along z segments.
template <bool backwards>
__global__ void __launch_bounds__(Pipeline::threads, 1)
    walk_prepared(const __grid_constant__ CUtensorMap values,
                  const __grid_constant__ CUtensorMap states, const Problem p) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  extern __shared__ __align__(1024) unsigned char shared[];
  const Pipeline memory = {reinterpret_cast<Bf16*>(shared)};
  const int rank = static_cast<int>(blockIdx.x) % Pipeline::blocks;
  const int thread = static_cast<int>(threadIdx.x);
  if (thread == 0) {
    metala::cuda::prefetch_map(values);
    Pipeline::Barriers& barriers = memory.barriers();
    constexpr int warps = Pipeline::walking / 32;
    for (auto& come : barriers.come) come.start(Pipeline::walkers);
    for (auto& prepared : barriers.prepared) prepared.start(1);
    for (auto& used : barriers.used) used.start(warps + 1);
    barriers.copy_used.start(warps);
    metala::cuda::show_barriers();
  }
  metala::cuda::meet();
  metala::cuda::await_previous();
  const Place<Pipeline::key_width, Pipeline::value_width> place(
      p, blockIdx.x / Pipeline::blocks, rank * Pipeline::slice, static_cast<int>(blockIdx.z),
      p.segment_tokens);
  if (__shfl_sync(0xffffffffu, thread / 32, 0) < Pipeline::walking / 32) {
    metala::cuda::take_registers<136>();
    Walker<backwards>{p, place, memory, rank, values, states}.run();
  } else {
    metala::cuda::give_registers<120>();
    Preparer<backwards>{p, place, memory, rank}.run();
  }
  // The other block may still send, or tell that it has used what it was sent.
  metala::cuda::meet();
#endif
}

}  // namespace

bool fits_pipeline(Size size, const Tensor& values) {
#ifdef METALA_NO_WGMMA
  return false;
#else
  if (size != Size{Pipeline::key_width, Pipeline::value_width} || values.size(0) == 0) return false;
  if (Pipeline::bytes > metala::cuda::shared_memory(values.device())) return false;
  cudaFuncAttributes code;
  metala::cuda::check(cudaFuncGetAttributes(&code, walk_prepared<false>),
                      "metala_attention: a kernel's attributes");
  return code.binaryVersion == 90 && code.ptxVersion == 90;
#endif
}

void walk_in_pipeline(const Problem& p, const Tensor& values, std::int64_t places, bool backwards,
                      cudaStream_t stream) {
  const CUtensorMap of_values = metala::cuda::map_of_tiles(values, chunk);
  const Tensor states = Tensor::wrap(
      p.chunk_states, {places * p.heads * Pipeline::key_width, std::int64_t{Pipeline::value_width}},
      DType::bf16, nullptr, values.device());
  const CUtensorMap of_states = p.chunk_states == nullptr
                                    ? of_values
                                    : metala::cuda::map_of_tiles(states, Pipeline::key_width);
  const dim3 grid(static_cast<unsigned>(Pipeline::blocks * p.batch * p.heads), 1,
                  static_cast<unsigned>(p.segments));
  metala::cuda::launch_early_in_clusters(backwards ? walk_prepared<true> : walk_prepared<false>,
                                         grid, Pipeline::blocks, Pipeline::threads, Pipeline::bytes,
                                         stream, of_values, of_states, p);
}

}  // namespace metala::metala_attention::cuda
