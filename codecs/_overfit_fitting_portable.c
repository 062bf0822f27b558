/* Kernels for any processor: vectors as long as the compiler's registers are. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define KERNELS portable_kernels
#define NAME "portable"
#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
#define SUPPORTED true
#include "_overfit_fitting_kernels.h"
