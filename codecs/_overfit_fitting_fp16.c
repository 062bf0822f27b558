/* Kernels for processors with AVX-512 that compute in half precision. */

#include <immintrin.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "_overfit_fitting.h"

#ifdef HAS_FP16_KERNELS
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512fp16,avx2,fma,bmi2")
#define KERNELS fp16_kernels
#define NAME "avx512fp16"
#define BYTES 64
#define HALF
#define SUPPORTED \
    (__builtin_cpu_supports("avx512fp16") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") \
     && __builtin_cpu_supports("avx512vl"))
#include "_overfit_fitting_kernels.h"
#endif
