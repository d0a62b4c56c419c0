// The copy engine (TMA) and the clusters of compute capability 9.0 on: tiles of a matrix come to
// shared memory in the background, barriers there count their bytes, and the blocks of a cluster
// read each other's.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace metala::cuda {

__device__ __forceinline__ std::uint32_t shared_address(const void* p) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

// What a thread has seen in shared memory before it arrives at a barrier of its cluster happens
// before what others do after they await it. The fences are those that concern shared memory alone:
// a release to the cluster would also wait for all that the thread has written elsewhere.
#if __CUDACC_VER_MAJOR__ > 12 || (__CUDACC_VER_MAJOR__ == 12 && __CUDACC_VER_MINOR__ >= 8)
#define METALA_RELEASE_TO_CLUSTER "fence.release.sync_restrict::shared::cta.cluster;\n"
#define METALA_ARRIVE_IN_CLUSTER "mbarrier.arrive.relaxed.cluster"
#define METALA_AWAIT_CLUSTER "mbarrier.try_wait.parity.relaxed.cluster"
#define METALA_ACQUIRE_FROM_CLUSTER "fence.acquire.sync_restrict::shared::cluster.cluster;\n"
#define METALA_ARRIVE_TO_MEET "barrier.cluster.arrive.relaxed.aligned;\n"
#else
#define METALA_RELEASE_TO_CLUSTER ""
#define METALA_ARRIVE_IN_CLUSTER "mbarrier.arrive.release.cluster"
#define METALA_AWAIT_CLUSTER "mbarrier.try_wait.parity.acquire.cluster"
#define METALA_ACQUIRE_FROM_CLUSTER ""
#define METALA_ARRIVE_TO_MEET "barrier.cluster.arrive.release.aligned;\n"
#endif

// Passes from phase to phase when `arrivals` have come and all bytes that they expect.
struct Barrier {
  std::uint64_t word;

  __device__ __forceinline__ void start(int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&word)),
                 "r"(arrivals)
                 : "memory");
  }
  __device__ __forceinline__ void arrive() {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&word))
                 : "memory");
  }
  __device__ __forceinline__ void arrive_and_expect(int bytes) {
    asm volatile(
        "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&word)),
        "r"(bytes)
        : "memory");
  }
  // Until the phase of this parity has ended: the first phase's is 0.
  __device__ __forceinline__ void await(int parity) {
    asm volatile(
        "{.reg .pred ended;\n"
        "again: mbarrier.try_wait.parity.shared::cta.b64 ended, [%0], %1;\n"
        "@!ended bra again;}" ::"r"(shared_address(&word)),
        "r"(parity)
        : "memory");
  }

  // The same barrier of another block of the cluster, for what this thread and those of its warp,
  // if it has synchronized with them, have done.
  __device__ __forceinline__ void arrive_in_block(int rank) {
    asm volatile("{.reg .u32 there;\n" METALA_RELEASE_TO_CLUSTER
                 "mapa.shared::cluster.u32 there, %0, %1;\n" METALA_ARRIVE_IN_CLUSTER
                 ".shared::cluster.b64 _, [there];}" ::"r"(shared_address(&word)),
                 "r"(rank)
                 : "memory");
  }
  // Of arrivals from the cluster.
  __device__ __forceinline__ void await_cluster(int parity) {
    asm volatile(
        "{.reg .pred ended;\n"
        "again: " METALA_AWAIT_CLUSTER
        ".shared::cta.b64 ended, [%0], %1;\n"
        "@!ended bra again;\n" METALA_ACQUIRE_FROM_CLUSTER "}" ::"r"(shared_address(&word)),
        "r"(parity)
        : "memory");
  }
};

// After one thread has started barriers, before others and the copy engine use them; the threads
// must then still be synchronized, those of the cluster by `meet`.
__device__ __forceinline__ void show_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;\nfence.proxy.async.shared::cta;" ::: "memory");
}

__device__ __forceinline__ void prefetch_map(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// The map's tile at (row, column), zeros where the matrix has ended; the barrier is told when it is
// there. By one thread.
__device__ __forceinline__ void copy_tile(void* to, const CUtensorMap& map, int row, int column,
                                          Barrier& barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3}], [%4];" ::"r"(shared_address(to)),
      "l"(&map), "r"(column), "r"(row), "r"(shared_address(&barrier.word))
      : "memory");
}

// Has the second-level cache fetch the map's tile at (row, column).
__device__ __forceinline__ void prefetch_tile(const CUtensorMap& map, int row, int column) {
  asm volatile("cp.async.bulk.prefetch.tensor.2d.L2.global.tile [%0, {%1, %2}];" ::"l"(&map),
               "r"(column), "r"(row)
               : "memory");
}

// A tile as copy_tile would have brought it, back to the map's (row, column) in the background. By
// one thread, after all who wrote the tile have shown it (show_to_products, warpgroup.cuh) and met
// that thread; the tile may be overwritten once the thread has awaited that its stores have read.
__device__ __forceinline__ void store_tile(const void* from, const CUtensorMap& map, int row,
                                           int column) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];\n"
      "cp.async.bulk.commit_group;" ::"l"(&map),
      "r"(column), "r"(row), "r"(shared_address(from))
      : "memory");
}
__device__ __forceinline__ void await_reading_stores() {
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

// `bytes`, a multiple of 16, to where `to` would be in another block of the cluster, in the
// background; its barrier is told when they are there. By one thread, as store_tile.
__device__ __forceinline__ void send_to_block(void* to, const void* from, int bytes,
                                              Barrier& barrier, int rank) {
  asm volatile(
      "{.reg .u32 there, told;\n"
      "mapa.shared::cluster.u32 there, %0, %4;\n"
      "mapa.shared::cluster.u32 told, %3, %4;\n"
      "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes "
      "[there], [%1], %2, [told];}" ::"r"(shared_address(to)),
      "r"(shared_address(from)), "r"(bytes), "r"(shared_address(&barrier.word)), "r"(rank)
      : "memory");
}

// Of the block in its cluster.
__device__ __forceinline__ int cluster_rank() {
  std::uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}

// All threads of the cluster, by whole warps. What they wrote is not shown by it.
__device__ __forceinline__ void meet() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.aligned;" ::
                   : "memory");
}

// The same, and what they wrote to shared memory is seen by the others.
__device__ __forceinline__ void meet_and_show() {
  asm volatile(METALA_RELEASE_TO_CLUSTER METALA_ARRIVE_TO_MEET
               "barrier.cluster.wait.aligned;\n" METALA_ACQUIRE_FROM_CLUSTER ::
                   : "memory");
}

#undef METALA_RELEASE_TO_CLUSTER
#undef METALA_ARRIVE_IN_CLUSTER
#undef METALA_AWAIT_CLUSTER
#undef METALA_ACQUIRE_FROM_CLUSTER
#undef METALA_ARRIVE_TO_MEET

// Four floats from where `at` would be in another block of the cluster.
__device__ __forceinline__ float4 load_of_block(const float* at, int rank) {
  float4 v;
  asm volatile(
      "{.reg .u32 there; mapa.shared::cluster.u32 there, %4, %5;\n"
      "ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [there];}"
      : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
      : "r"(shared_address(at)), "r"(rank)
      : "memory");
  return v;
}

#endif

}  // namespace metala::cuda
