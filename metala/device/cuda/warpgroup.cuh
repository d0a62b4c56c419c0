// Products of tiles in shared memory by a warpgroup, the four warps from a multiple of four on,
// with sums in registers. On compute capability 9.0 (90a) by its asynchronous instructions, which
// read operands where they lie; elsewhere warp by warp (mma.cuh).
#pragma once

#include "metala/device/cuda/mma.cuh"

namespace metala::cuda {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) && !defined(METALA_NO_WGMMA)
#define METALA_WGMMA 1
#else
#define METALA_WGMMA 0
#endif

// What was written to shared memory before is seen by the products of those who then pass a barrier
// with this thread.
__device__ __forceinline__ void show_to_products() {
#if METALA_WGMMA
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// A warpgroup's threads give registers back until they have so many, for others of the block to
// take; those wait until there are enough.
template <int count>
__device__ __forceinline__ void give_registers() {
#if METALA_WGMMA
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(count));
#endif
}
template <int count>
__device__ __forceinline__ void take_registers() {
#if METALA_WGMMA
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(count));
#endif
}

// Around the products of a warpgroup: sums may be used, and operands overwritten, after the second;
// or after `await_products`, where `end_products` closes round after round of products and awaits
// all but the latest `running`.
__device__ __forceinline__ void begin_products() {
#if METALA_WGMMA
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
template <int running>
__device__ __forceinline__ void end_products() {
#if METALA_WGMMA
  asm volatile("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned %0;" ::"n"(running)
               : "memory");
#endif
}
__device__ __forceinline__ void await_products() {
#if METALA_WGMMA
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#endif
}
__device__ __forceinline__ void finish_products() {
  end_products<0>();
}

// Sums that have been awaited while other products run are not to be used ahead of that.
template <int tiles>
__device__ __forceinline__ void settle(Sums (&sums)[tiles]) {
#if METALA_WGMMA
#pragma unroll
  for (Sums& s : sums) {
    asm volatile("" : "+f"(s.at[0]), "+f"(s.at[1]), "+f"(s.at[2]), "+f"(s.at[3])::"memory");
  }
#endif
}

#if METALA_WGMMA
// Where an operand begins, that eight of its rows lie behind the eight before, and how it is
// swizzled. The distance in the other direction is not used by operands of one tile's width.
template <int columns>
__device__ __forceinline__ std::uint64_t operand(const __nv_bfloat16* at) {
  constexpr std::uint64_t eight_rows = 8 * columns * 2;
  constexpr std::uint64_t swizzle = columns == 64 ? 1 : 2;  // of 128 or 64 bytes
  const auto address = static_cast<std::uint64_t>(__cvta_generic_to_shared(at));
  return (address & 0x3ffff) >> 4 | std::uint64_t{1} << 16 | eight_rows >> 4 << 32 | swizzle << 62;
}

// sums += a b for 64 rows, 16 of k and as many columns as there are sums. `a_across`: a's tile
// holds its transpose; `b_across`: b's holds b, and not its transpose.
#define METALA_SUMS4(i) "+f"(s[i].at[0]), "+f"(s[i].at[1]), "+f"(s[i].at[2]), "+f"(s[i].at[3])
#define METALA_PRODUCT(tiles, shape, sums, a_place, b_place, a_across_place, b_across_place, ...) \
  template <bool a_across, bool b_across>                                                         \
  __device__ __forceinline__ void multiply_by_warpgroup(Sums(&s)[tiles], std::uint64_t a,         \
                                                        std::uint64_t b) {                        \
    asm volatile(                                                                                 \
        "{.reg .pred add; setp.eq.u32 add, 0, 0;\n"                                               \
        "wgmma.mma_async.sync.aligned." shape ".f32.bf16.bf16 {" sums "}, " a_place ", " b_place  \
        ", add, 1, 1, " a_across_place ", " b_across_place ";}"                                   \
        : __VA_ARGS__                                                                             \
        : "l"(a), "l"(b), "n"(a_across), "n"(b_across));                                          \
  }
METALA_PRODUCT(
    12, "m64n96k16",
    "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,"
    "%23,%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,"
    "%44,%45,%46,%47",
    "%48", "%49", "%50", "%51", METALA_SUMS4(0), METALA_SUMS4(1), METALA_SUMS4(2), METALA_SUMS4(3),
    METALA_SUMS4(4), METALA_SUMS4(5), METALA_SUMS4(6), METALA_SUMS4(7), METALA_SUMS4(8),
    METALA_SUMS4(9), METALA_SUMS4(10), METALA_SUMS4(11))
METALA_PRODUCT(8, "m64n64k16",
               "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,"
               "%23,%24,%25,%26,%27,%28,%29,%30,%31",
               "%32", "%33", "%34", "%35", METALA_SUMS4(0), METALA_SUMS4(1), METALA_SUMS4(2),
               METALA_SUMS4(3), METALA_SUMS4(4), METALA_SUMS4(5), METALA_SUMS4(6), METALA_SUMS4(7))
METALA_PRODUCT(4, "m64n32k16", "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15", "%16",
               "%17", "%18", "%19", METALA_SUMS4(0), METALA_SUMS4(1), METALA_SUMS4(2),
               METALA_SUMS4(3))
METALA_PRODUCT(2, "m64n16k16", "%0,%1,%2,%3,%4,%5,%6,%7", "%8", "%9", "%10", "%11", METALA_SUMS4(0),
               METALA_SUMS4(1))
#undef METALA_PRODUCT
#undef METALA_SUMS4
#endif

// Between begin_products and finish_products: sums += a b over 16 `steps` of k, for 64 rows and 8
// `tiles` columns. A warp's sums are those of 16 rows, as in mma.cuh. The tile of a holds rows by
// k, or k by rows if `a_across`; that of b columns by k, or k by columns if `b_across`, and then
// columns from `b_from` on are taken. Else operands lie from their tile's first element on.
template <bool a_across, bool b_across, int steps, int tiles, int a_columns, int b_columns>
__device__ __forceinline__ void add_product(Sums (&sums)[tiles], Tile<a_columns, true> a,
                                            Tile<b_columns, true> b, int b_from = 0) {
  static_assert(!a_across || a_columns == 64);
#if METALA_WGMMA
  constexpr int a_step = (a_across ? 16 * a_columns : 16) * 2 / 16;  // in pieces of 16 bytes
  constexpr int b_step = (b_across ? 16 * b_columns : 16) * 2 / 16;
  const std::uint64_t first_a = operand<a_columns>(a.data);
  const std::uint64_t first_b = operand<b_columns>(b.data + b_from);
#pragma unroll
  for (int k = 0; k < steps; ++k) {
    multiply_by_warpgroup<a_across, b_across>(sums, first_a + k * a_step, first_b + k * b_step);
  }
#else
  const int row = static_cast<int>(threadIdx.x) / 32 % 4 * 16;
#pragma unroll
  for (int k = 0; k < steps; ++k) {
    const FragmentA rows = a_across ? a.transposed_as_a(row, k * 16) : a.as_a(row, k * 16);
#pragma unroll
    for (int n = 0; n < tiles; n += 2) {
      FragmentB columns[2];
      if (b_across) {
        b.as_b(k * 16, b_from + n * 8, columns);
      } else {
        b.rows_as_b(n * 8, k * 16, columns);
      }
      multiply(sums[n], rows, columns[0]);
      multiply(sums[n + 1], rows, columns[1]);
    }
  }
#endif
}

}  // namespace metala::cuda
