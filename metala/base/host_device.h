// Marks a definition that kernels share with the CPU.
#pragma once

#ifdef __CUDACC__
#define METALA_HOST_DEVICE __host__ __device__
#else
#define METALA_HOST_DEVICE
#endif
