/* Kernels for processors with AVX-512. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "_overfit_fitting.h"

#ifdef HAS_X86_KERNELS
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi2")
#define KERNELS avx512_kernels
#define NAME "avx512"
#define BYTES 64
#define SUPPORTED \
    (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") \
     && __builtin_cpu_supports("avx512vl"))
#include "_overfit_fitting_kernels.h"
#endif
