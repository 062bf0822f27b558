/* Kernels for processors with AVX2 and fused multiply-adds. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "_overfit_fitting.h"

#ifdef HAS_X86_KERNELS
#pragma GCC target("avx2,fma,bmi2")
#define KERNELS avx2_kernels
#define NAME "avx2"
#define BYTES 32
#define SUPPORTED (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
#include "_overfit_fitting_kernels.h"
#endif
