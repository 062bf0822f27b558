/* Exact integer convolutions: the kernels behind rhodec.entropy.integer_network.
 *
 * One call evaluates one layer: convolution 1x1 or 3x3 (dense or depthwise, stride 1, zero padding), bias,
 * requantisation to int16, clamp, optional pixel shuffle by 2. Activations are int16 in H x W x C order,
 * weights and accumulators: int16 in +-2047 and int32. For accumulator acc, multiplier m, shift s:
 *
 *     y = clamp(floor((acc * m + 2^(s-1)) / 2^s), low, high)           with the exact product
 *
 * Invariants
 *  1. Every path gives the same integers. The caller proved sum|w|*max|a| + |b| < 2^30 for each output channel
 *     (integer_network.py), so no partial sum overflows and the order of the additions is free.
 *  2. No input can harm: sums wrap (unsigned or vector arithmetic), products of two int16 where one is within
 *     +-2047 cannot overflow, requantisation is proved for every int32 accumulator (see requantise_portable).
 *  3. All pointers that a kernel follows are made in convolve() from checked sizes, or point to l->zeros.
 *     Weights and per-channel constants are padded to whole blocks, activations are never read past their end.
 *  4. >> of a negative number is arithmetic and conversion to a narrower signed type wraps: implementation-defined
 *     in C11, and so on every compiler that Python supports.
 *
 * The loop over pixels is an indirect convolution (Dukhan, "The Indirect Convolution Algorithm", 2019): a kernel
 * gets one pointer for each tap and pixel of its group, and a tap outside the image points to a row of zeros.
 * Borders, odd sizes, short groups and "only the positions of one cell of the 2x2 grid" then need no code of
 * their own, and nothing is copied. Requantisation in 32 bits: DETERMINISM notes, section 6; the idea of integer
 * networks for coding: Balle, Johnston, Minnen, "Integer Networks for Data Compression with Latent-Variable
 * Models", ICLR 2019.
 */
#ifndef INTNET_CORE_ONLY
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#endif
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if (defined(__x86_64__) || defined(__i386__)) && defined(__GNUC__)
#define INTNET_X86 1
#include <immintrin.h>
#define AVX2_TARGET __attribute__((target("avx2")))
#ifndef INTNET_EMULATED_AVX512 /* tests run the VNNI kernel on any AVX2 machine with replaced intrinsics */
#define VNNI_TARGET __attribute__((target("avx512f,avx512vnni")))
#endif
#endif

enum {
    MAX_TAPS = 9,
    MAX_GROUP = 8,  /* pixels that one kernel call computes */
    MAX_BLOCK = 32, /* output channels that one kernel call computes */
    MAX_WEIGHT = 2047,
    STRIP = 8,      /* groups that share one block of weights while it is in the L1 cache */
    MAX_CHANNELS = 1 << 12,
    MAX_SIDE = 1 << 22 /* height and width; products of sizes then stay below 2^58 */
};

typedef enum {
    INTNET_OK,
    BAD_FORM,
    BAD_WEIGHT,
    BAD_MULTIPLIER,
    BAD_SHIFT,
    BAD_CLAMP,
    BAD_GRID,
    BAD_BUFFER,
    BAD_PATH,
    NO_MEMORY
} status;

static const char *const messages[] = {
    [INTNET_OK] = "no error",
    [BAD_FORM] = "a layer of this form (kernel, channels, depthwise, shuffle) is not supported",
    [BAD_WEIGHT] = "a weight is outside -2047..2047",
    [BAD_MULTIPLIER] = "a multiplier is neither 0 nor in 16384..32767",
    [BAD_SHIFT] = "a shift is outside 1..45",
    [BAD_CLAMP] = "an output clamp is empty or outside the range of int16",
    [BAD_GRID] = "rows, cell or channels lie outside the layer's output",
    [BAD_BUFFER] = "a buffer is misaligned or its length does not match the sizes given",
    [BAD_PATH] = "this kernel path is unknown or not supported by this processor",
    [NO_MEMORY] = "out of memory",
};

typedef struct layer layer;

/* sums[i][block] += sums over taps and input channels for the pixels px[tap][i] of a group; weights: one block.
 * Everything is read before anything is written, so a pixel may be there twice. */
typedef void dense_kernel(const layer *l, const int16_t *weights, const int16_t *const *px, int32_t *const *sums);
/* sums[count][block] := sums over taps for the pixels px[count][tap], whose channels begin at `first`. */
typedef void depthwise_kernel(const layer *l, const int16_t *weights, const int16_t *const *px, int first, int count,
                              int32_t *sums);
/* to[count][block] := requantised sums[count][stride]; `slot` is where the block's constants begin. */
typedef void requantise_kernel(const layer *l, size_t slot, const int32_t *sums, int64_t stride, int count, int16_t *const *to);

typedef struct {
    const char *name;
    int group, block;
    int pair; /* reduction steps stored side by side: weights are [step / pair][block][pair] */
    dense_kernel *dense;
    depthwise_kernel *depthwise;
    requantise_kernel *requantise;
} kernels;

struct layer {
    const kernels *k;
    int inputs, outputs, taps, depthwise;
    int phases;   /* 4 with pixel shuffle (one for each sub-position), else 1 */
    int channels; /* output channels of one phase */
    int blocks;   /* of one phase, the last one padded */
    size_t block_weights;
    int16_t *weights;                             /* [phases][blocks][block_weights] */
    int32_t *bias, *multiplier, *shift, *low, *high; /* [phases][blocks][block] */
    uint8_t *split; /* [phases][blocks]: every shift >= 16, so the 32-bit requantisation applies */
    int16_t *zeros; /* [inputs] */
};

/* ---- portable kernels: plain C that compilers vectorise ---------------------------------------------------- */

enum { PORTABLE_GROUP = 4, PORTABLE_BLOCK = 16 };

static void dense_portable(const layer *l, const int16_t *w, const int16_t *const *px, int32_t *const *sums)
{
    uint32_t acc[PORTABLE_GROUP][PORTABLE_BLOCK];
    for (int i = 0; i < PORTABLE_GROUP; i++)
        memcpy(acc[i], sums[i], sizeof acc[i]);
    for (int tap = 0; tap < l->taps; tap++, px += PORTABLE_GROUP)
        for (int c = 0; c < l->inputs; c++, w += PORTABLE_BLOCK)
            for (int i = 0; i < PORTABLE_GROUP; i++) {
                int32_t a = px[i][c];
                for (int n = 0; n < PORTABLE_BLOCK; n++)
                    acc[i][n] += (uint32_t)(a * w[n]);
            }
    for (int i = 0; i < PORTABLE_GROUP; i++)
        memcpy(sums[i], acc[i], sizeof acc[i]);
}

static int channels_left(const layer *l, int first)
{
    return l->inputs - first < l->k->block ? l->inputs - first : l->k->block;
}

static void depthwise_portable(const layer *l, const int16_t *w, const int16_t *const *px, int first, int count, int32_t *sums)
{
    int valid = channels_left(l, first);
    for (int i = 0; i < count; i++, px += l->taps, sums += PORTABLE_BLOCK) {
        uint32_t acc[PORTABLE_BLOCK] = {0};
        for (int tap = 0; tap < l->taps; tap++) {
            const int16_t *p = px[tap] + first, *weight = w + tap * PORTABLE_BLOCK;
            int16_t a[PORTABLE_BLOCK] = {0};
            if (valid == PORTABLE_BLOCK) /* a copy of fixed size is two loads, not a call */
                memcpy(a, p, sizeof a);
            else
                memcpy(a, p, sizeof *a * (size_t)valid);
            for (int n = 0; n < PORTABLE_BLOCK; n++)
                acc[n] += (uint32_t)(a[n] * weight[n]);
        }
        memcpy(sums, acc, sizeof acc);
    }
}

static int16_t clamp16(int64_t y, int32_t low, int32_t high)
{
    return (int16_t)(y < low ? low : y > high ? high : y);
}

/* With s >= 16 the 64-bit form splits: acc = 2^15 h + r, 0 <= r < 2^15, floor(acc*m / 2^15) = h*m + floor(r*m / 2^15),
 * and floors nest. For any int32 acc and m < 2^15: |h*m + ...| < 2^31, so only the last addition may wrap, and it
 * does not when |acc| < 2^30. */
static void requantise_portable(const layer *l, size_t slot, const int32_t *sums, int64_t stride, int count, int16_t *const *to)
{
    const int32_t *b = l->bias + slot, *m = l->multiplier + slot, *s = l->shift + slot;
    const int32_t *low = l->low + slot, *high = l->high + slot;
    int block = l->k->block;
    for (int i = 0; i < count; i++, sums += stride) {
        int16_t y[MAX_BLOCK]; /* not to alias the constants, so that the loops are vectorised */
        if (l->split[slot / (size_t)block])
            for (int n = 0; n < block; n++) {
                int32_t acc = (int32_t)((uint32_t)sums[n] + (uint32_t)b[n]);
                int32_t t = (acc >> 15) * m[n] + (((acc & 32767) * m[n]) >> 15);
                t = (int32_t)((uint32_t)t + (1u << (s[n] - 16))) >> (s[n] - 15);
                y[n] = (int16_t)(t < low[n] ? low[n] : t > high[n] ? high[n] : t);
            }
        else
            for (int n = 0; n < block; n++) {
                int32_t acc = (int32_t)((uint32_t)sums[n] + (uint32_t)b[n]);
                int64_t t = ((int64_t)acc * m[n] + ((int64_t)1 << (s[n] - 1))) >> s[n];
                y[n] = clamp16(t, low[n], high[n]);
            }
        memcpy(to[i], y, sizeof *y * (size_t)block);
    }
}

#ifdef INTNET_X86
/* ---- x86 kernels: pairs of int16 products summed in int32 --------------------------------------------------- */

static inline int32_t two_inputs(const int16_t *p)
{
    int32_t pair;
    memcpy(&pair, p, sizeof pair);
    return pair;
}

static inline int32_t last_input(const int16_t *p) /* an odd channel count ends with half a pair */
{
    return (int32_t)(uint16_t)*p;
}

/* One pair of input channels: GROUP broadcast activations against VECTORS vectors of weights. */
#define DENSE_STEP(READ, VECTOR, VECTORS, GROUP, SPLAT, LOAD, DOT)                                                      \
    do {                                                                                                                \
        VECTOR weight[VECTORS];                                                                                         \
        _Pragma("GCC unroll 8") for (int j = 0; j < VECTORS; j++) weight[j] = LOAD(w + 2 * LANES * j);                  \
        _Pragma("GCC unroll 8") for (int i = 0; i < GROUP; i++) {                                                       \
            VECTOR a = SPLAT(READ(p[i] + c));                                                                           \
            _Pragma("GCC unroll 8") for (int j = 0; j < VECTORS; j++) acc[i][j] = DOT(acc[i][j], a, weight[j]);         \
        }                                                                                                               \
        w += 2 * LANES * VECTORS;                                                                                       \
    } while (0)

#define DEFINE_DENSE(NAME, TARGET, VECTOR, VECTORS, GROUP, SPLAT, LOAD, DOT, STORE)                                     \
    TARGET static void NAME(const layer *l, const int16_t *w, const int16_t *const *px, int32_t *const *sums)           \
    {                                                                                                                   \
        enum { LANES = sizeof(VECTOR) / sizeof(int32_t) };                                                              \
        VECTOR acc[GROUP][VECTORS];                                                                                     \
        _Pragma("GCC unroll 8") for (int i = 0; i < GROUP; i++)                                                         \
            _Pragma("GCC unroll 8") for (int j = 0; j < VECTORS; j++) acc[i][j] = LOAD(sums[i] + j * LANES);            \
        for (int tap = 0; tap < l->taps; tap++, px += GROUP) {                                                          \
            const int16_t *p[GROUP];                                                                                    \
            int c = 0, even = l->inputs & ~1;                                                                           \
            _Pragma("GCC unroll 8") for (int i = 0; i < GROUP; i++) p[i] = px[i];                                       \
            for (; c < even; c += 2)                                                                                    \
                DENSE_STEP(two_inputs, VECTOR, VECTORS, GROUP, SPLAT, LOAD, DOT);                                       \
            if (even < l->inputs)                                                                                       \
                DENSE_STEP(last_input, VECTOR, VECTORS, GROUP, SPLAT, LOAD, DOT);                                       \
        }                                                                                                               \
        _Pragma("GCC unroll 8") for (int i = 0; i < GROUP; i++)                                                         \
            _Pragma("GCC unroll 8") for (int j = 0; j < VECTORS; j++) STORE(sums[i] + j * LANES, acc[i][j]);            \
    }

enum { AVX2_GROUP = 6, AVX2_VECTORS = 2, VNNI_GROUP = 8, VNNI_VECTORS = 2 };

#define LOAD_256(P) _mm256_loadu_si256((const __m256i *)(const void *)(P))
#define STORE_256(P, V) _mm256_storeu_si256((__m256i *)(void *)(P), V)
#define DOT_256(ACC, A, W) _mm256_add_epi32(ACC, _mm256_madd_epi16(A, W))
#define LOAD_512(P) _mm512_loadu_si512((const void *)(P))
#define STORE_512(P, V) _mm512_storeu_si512((void *)(P), V)

DEFINE_DENSE(dense_avx2, AVX2_TARGET, __m256i, AVX2_VECTORS, AVX2_GROUP, _mm256_set1_epi32, LOAD_256, DOT_256, STORE_256)
DEFINE_DENSE(dense_vnni, VNNI_TARGET, __m512i, VNNI_VECTORS, VNNI_GROUP, _mm512_set1_epi32, LOAD_512, _mm512_dpwssd_epi32,
             STORE_512)

/* Packing and unpacking work within 128-bit lanes: of sixteen channels the first vector then holds channels 0-3 and
 * 8-11, the second 4-7 and 12-15. */
#define EVEN_QUARTERS(V0, V1) _mm256_permute2x128_si256(V0, V1, 0x20)
#define ODD_QUARTERS(V0, V1) _mm256_permute2x128_si256(V0, V1, 0x31)

/* Sixteen channels of `count` pixels, two taps to a product. `valid` < 16 channels are copied first, for nothing may be
 * read past them. Inlined for 9 taps and for 1. */
AVX2_TARGET static inline __attribute__((always_inline)) void depthwise_sixteen(const int16_t *w, int block, int taps,
                                                                                const int16_t *const *px, int count,
                                                                                int first, int valid, int32_t *sums)
{
    enum { MAX_PAIRS = (MAX_TAPS + 1) / 2 };
    int pairs = (taps + 1) / 2;
    __m256i even[MAX_PAIRS], odd[MAX_PAIRS];
    _Pragma("GCC unroll 8") for (int t = 0; t < pairs; t++) {
        __m256i w0 = LOAD_256(w + t * block * 2), w1 = LOAD_256(w + (t * block + 8) * 2);
        even[t] = EVEN_QUARTERS(w0, w1);
        odd[t] = ODD_QUARTERS(w0, w1);
    }
    int16_t spare[MAX_TAPS][16] = {{0}};
    for (int i = 0; i < count; i++, px += taps, sums += block) {
        const int16_t *p[2 * MAX_PAIRS];
        _Pragma("GCC unroll 9") for (int tap = 0; tap < taps; tap++) {
            p[tap] = px[tap] + first;
            if (valid < 16)
                p[tap] = memcpy(spare[tap], p[tap], sizeof(int16_t) * (size_t)valid);
        }
        p[taps] = p[0]; /* the odd tap's partner has weight 0 */
        __m256i lo = _mm256_setzero_si256(), hi = lo;
        _Pragma("GCC unroll 8") for (int t = 0; t < pairs; t++) {
            __m256i a0 = LOAD_256(p[2 * t]), a1 = LOAD_256(p[2 * t + 1]);
            lo = DOT_256(lo, _mm256_unpacklo_epi16(a0, a1), even[t]);
            hi = DOT_256(hi, _mm256_unpackhi_epi16(a0, a1), odd[t]);
        }
        STORE_256(sums, EVEN_QUARTERS(lo, hi));
        STORE_256(sums + 8, ODD_QUARTERS(lo, hi));
    }
}

AVX2_TARGET static void depthwise_avx2(const layer *l, const int16_t *w, const int16_t *const *px, int first, int count,
                                       int32_t *sums)
{
    int block = l->k->block, valid = channels_left(l, first);
    for (int n = 0; n < valid; n += 16) {
        const int16_t *weights = w + 2 * n;
        if (l->taps == 9 && valid - n >= 16)
            depthwise_sixteen(weights, block, 9, px, count, first + n, 16, sums + n);
        else if (l->taps == 9)
            depthwise_sixteen(weights, block, 9, px, count, first + n, valid - n, sums + n);
        else
            depthwise_sixteen(weights, block, 1, px, count, first + n, valid - n < 16 ? valid - n : 16, sums + n);
    }
}

/* Constants of eight channels, and their use: int32 whose clamp to int16 does not change what `low` and `high` leave. */
typedef struct {
    __m256i bias, multiplier, half, shift;
} requantiser;

AVX2_TARGET static inline requantiser requantiser_of(const layer *l, size_t at)
{
    const __m256i s = LOAD_256(l->shift + at);
    const __m256i half = _mm256_sllv_epi32(_mm256_set1_epi32(1), _mm256_sub_epi32(s, _mm256_set1_epi32(16)));
    return (requantiser){LOAD_256(l->bias + at), LOAD_256(l->multiplier + at), half,
                         _mm256_sub_epi32(s, _mm256_set1_epi32(15))};
}

AVX2_TARGET static inline __m256i requantised(__m256i sums, const requantiser *r)
{
    __m256i acc = _mm256_add_epi32(sums, r->bias);
    __m256i t = _mm256_mullo_epi32(_mm256_srai_epi32(acc, 15), r->multiplier);
    /* the remainder and the multiplier are below 2^15, hence one madd of their 16-bit halves is the product */
    __m256i rest = _mm256_madd_epi16(_mm256_and_si256(acc, _mm256_set1_epi32(32767)), r->multiplier);
    t = _mm256_add_epi32(t, _mm256_srli_epi32(rest, 15));
    return _mm256_srav_epi32(_mm256_add_epi32(t, r->half), r->shift);
}

AVX2_TARGET static void requantise_avx2(const layer *l, size_t slot, const int32_t *sums, int64_t stride, int count,
                                        int16_t *const *to)
{
    int block = l->k->block;
    if (!l->split[slot / (size_t)block]) {
        requantise_portable(l, slot, sums, stride, count, to);
        return;
    }
    for (int n = 0; n < block; n += 16) {
        size_t at = slot + (size_t)n;
        const requantiser r0 = requantiser_of(l, at), r1 = requantiser_of(l, at + 8);
        const __m256i low = _mm256_packs_epi32(LOAD_256(l->low + at), LOAD_256(l->low + at + 8));
        const __m256i high = _mm256_packs_epi32(LOAD_256(l->high + at), LOAD_256(l->high + at + 8));
        for (int i = 0; i < count; i++) {
            const int32_t *from = sums + i * stride + n;
            __m256i y = _mm256_packs_epi32(requantised(LOAD_256(from), &r0), requantised(LOAD_256(from + 8), &r1));
            y = _mm256_min_epi16(_mm256_max_epi16(y, low), high);
            STORE_256(to[i] + n, _mm256_permute4x64_epi64(y, 0xd8));
        }
    }
}
#endif

/* ---- layers ------------------------------------------------------------------------------------------------- */

enum { PORTABLE, AVX2, VNNI, PATHS };

static const kernels all_kernels[PATHS] = {
    [PORTABLE] = {"portable", PORTABLE_GROUP, PORTABLE_BLOCK, 1, dense_portable, depthwise_portable, requantise_portable},
#ifdef INTNET_X86
    [AVX2] = {"avx2", AVX2_GROUP, 8 * AVX2_VECTORS, 2, dense_avx2, depthwise_avx2, requantise_avx2},
    [VNNI] = {"vnni", VNNI_GROUP, 16 * VNNI_VECTORS, 2, dense_vnni, depthwise_avx2, requantise_avx2},
#endif
};

static int path_runs_here(int path)
{
    if (path == PORTABLE)
        return 1;
#ifdef INTNET_X86
    __builtin_cpu_init();
    if (path == AVX2)
        return __builtin_cpu_supports("avx2") != 0;
#ifdef INTNET_EMULATED_AVX512
    if (path == VNNI)
        return __builtin_cpu_supports("avx2") != 0;
#else
    if (path == VNNI)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vnni");
#endif
#endif
    return 0;
}

static void layer_free(layer *l)
{
    if (!l)
        return;
    free(l->weights);
    free(l->bias);
    free(l->multiplier);
    free(l->shift);
    free(l->low);
    free(l->high);
    free(l->split);
    free(l->zeros);
    free(l);
}

/* A layer as the model file holds it: weight [outputs][inputs or 1][kernel][kernel], the others [outputs]. */
typedef struct {
    int inputs, outputs, kernel, depthwise, shuffle;
    const int16_t *weight;
    const int32_t *bias;
    const uint16_t *multiplier;
    const uint8_t *shift;
    const int32_t *low, *high;
} layer_source;

static int form_is_supported(const layer_source *f)
{
    return f->inputs >= 1 && f->inputs <= MAX_CHANNELS && f->outputs >= 1 && f->outputs <= MAX_CHANNELS &&
           (f->kernel == 1 || f->kernel == 3) && !(f->depthwise && (f->inputs != f->outputs || f->shuffle)) &&
           !(f->shuffle && f->outputs % 4);
}

static status check_source(const layer_source *f)
{
    if (!form_is_supported(f))
        return BAD_FORM;
    size_t weights = (size_t)f->outputs * (size_t)(f->depthwise ? 1 : f->inputs) * (size_t)(f->kernel * f->kernel);
    for (size_t i = 0; i < weights; i++)
        if (f->weight[i] < -MAX_WEIGHT || f->weight[i] > MAX_WEIGHT)
            return BAD_WEIGHT;
    for (int o = 0; o < f->outputs; o++) {
        if (f->multiplier[o] && (f->multiplier[o] < 1 << 14 || f->multiplier[o] >= 1 << 15))
            return BAD_MULTIPLIER;
        if (f->shift[o] < 1 || f->shift[o] > 45)
            return BAD_SHIFT;
        if (f->low[o] > f->high[o] || f->low[o] < INT16_MIN || f->high[o] > INT16_MAX)
            return BAD_CLAMP;
    }
    return INTNET_OK;
}

static status layer_new(const layer_source *f, int path, layer **made)
{
    *made = NULL;
    if (path < 0 || path >= PATHS || !path_runs_here(path))
        return BAD_PATH;
    status bad = check_source(f);
    if (bad)
        return bad;
    layer *l = calloc(1, sizeof *l);
    if (!l)
        return NO_MEMORY;
    const kernels *k = l->k = &all_kernels[path];
    l->inputs = f->inputs;
    l->outputs = f->outputs;
    l->taps = f->kernel * f->kernel;
    l->depthwise = f->depthwise;
    l->phases = f->shuffle ? 4 : 1;
    l->channels = f->outputs / l->phases;
    l->blocks = (l->channels + k->block - 1) / k->block;
    int fan = f->depthwise ? 1 : f->inputs; /* input channels of one output; pairs run over them, or over taps */
    int steps = f->depthwise ? (l->taps + k->pair - 1) / k->pair : (fan + k->pair - 1) / k->pair * l->taps;
    l->block_weights = (size_t)steps * (size_t)(k->block * k->pair);
    size_t all_blocks = (size_t)l->phases * (size_t)l->blocks, slots = all_blocks * (size_t)k->block;
    l->weights = calloc(all_blocks * l->block_weights, sizeof *l->weights);
    l->bias = calloc(slots, sizeof *l->bias);
    l->multiplier = calloc(slots, sizeof *l->multiplier);
    l->shift = calloc(slots, sizeof *l->shift);
    l->low = calloc(slots, sizeof *l->low);
    l->high = calloc(slots, sizeof *l->high);
    l->split = calloc(all_blocks, sizeof *l->split);
    l->zeros = calloc((size_t)l->inputs, sizeof *l->zeros);
    if (!l->weights || !l->bias || !l->multiplier || !l->shift || !l->low || !l->high || !l->split || !l->zeros) {
        layer_free(l);
        return NO_MEMORY;
    }
    memset(l->split, 1, all_blocks);
    for (size_t slot = 0; slot < slots; slot++)
        l->shift[slot] = 16; /* padded channels give 0 */
    for (int phase = 0; phase < l->phases; phase++)
        for (int c = 0; c < l->channels; c++) {
            size_t o = (size_t)c * (size_t)l->phases + (size_t)phase;
            size_t block = (size_t)phase * (size_t)l->blocks + (size_t)(c / k->block), n = (size_t)(c % k->block);
            size_t slot = block * (size_t)k->block + n;
            l->bias[slot] = f->bias[o];
            l->multiplier[slot] = f->multiplier[o];
            l->shift[slot] = f->shift[o];
            l->low[slot] = f->low[o];
            l->high[slot] = f->high[o];
            l->split[block] &= f->shift[o] >= 16;
            for (int i = 0; i < fan; i++)
                for (int tap = 0; tap < l->taps; tap++) {
                    int rows = (fan + k->pair - 1) / k->pair;
                    int step = f->depthwise ? tap / k->pair : tap * rows + i / k->pair;
                    int half = (f->depthwise ? tap : i) % k->pair;
                    size_t at = ((size_t)step * (size_t)k->block + n) * (size_t)k->pair + (size_t)half;
                    l->weights[block * l->block_weights + at] =
                        f->weight[(o * (size_t)fan + (size_t)i) * (size_t)l->taps + (size_t)tap];
                }
        }
    *made = l;
    return INTNET_OK;
}

/* ---- evaluation --------------------------------------------------------------------------------------------- */

/* Which outputs to compute. Positions (offset_y + step*r, offset_x + step*q) make a grid of `rows` x `columns`; rows
 * row_begin..row_end of it and channels channel_begin..channel_end are written, to out [rows][columns][channels]
 * (with pixel shuffle: to out [2 rows][2 columns][outputs/4], where the whole grid and all channels are required). */
typedef struct {
    int64_t height, width; /* of the input */
    int64_t step, offset_y, offset_x;
    int64_t row_begin, row_end;
    int64_t channel_begin, channel_end;
    int64_t rows, columns; /* derived by check_grid */
} grid;

static status check_grid(const layer *l, grid *g)
{
    if (g->height < 1 || g->width < 1 || g->height > MAX_SIDE || g->width > MAX_SIDE)
        return BAD_GRID;
    if ((g->step != 1 && g->step != 2) || g->offset_y < 0 || g->offset_x < 0 || g->offset_y >= g->step ||
        g->offset_x >= g->step)
        return BAD_GRID;
    g->rows = (g->height - g->offset_y + g->step - 1) / g->step;
    g->columns = (g->width - g->offset_x + g->step - 1) / g->step;
    if (g->row_begin < 0 || g->row_end < g->row_begin || g->row_end > g->rows)
        return BAD_GRID;
    if (g->channel_begin < 0 || g->channel_end <= g->channel_begin || g->channel_end > l->outputs)
        return BAD_GRID;
    if (l->phases > 1 && (g->step != 1 || g->channel_end - g->channel_begin != l->outputs))
        return BAD_GRID;
    return INTNET_OK;
}

static int64_t input_size(const layer *l, const grid *g) { return g->height * g->width * l->inputs; }
static int64_t output_size(const grid *g) { return g->rows * g->columns * (g->channel_end - g->channel_begin); }

/* The positions of a grid in raster order. */
typedef struct {
    int64_t row, column;
} position;

static position position_at(const grid *g, int64_t number)
{
    return (position){number / g->columns, number % g->columns};
}

static void step_on(const grid *g, position *at)
{
    if (++at->column == g->columns) {
        at->column = 0;
        at->row++;
    }
}

/* p[tap * spacing] := inputs of one position for each tap. */
static void point_at_taps(const layer *l, const grid *g, const int16_t *x, position at, int spacing, const int16_t **p)
{
    int64_t y = g->offset_y + g->step * at.row, column = g->offset_x + g->step * at.column;
    const int16_t *centre = x + (y * g->width + column) * l->inputs;
    if (l->taps == 1) {
        *p = centre;
        return;
    }
    for (int dy = -1; dy <= 1; dy++)
        for (int dx = -1; dx <= 1; dx++, p += spacing) {
            int inside = y + dy >= 0 && y + dy < g->height && column + dx >= 0 && column + dx < g->width;
            *p = inside ? centre + (dy * g->width + dx) * l->inputs : l->zeros;
        }
}

/* to[count][..] := channels from..to of a block's requantised sums[count][stride]. */
static void write_block(const layer *l, size_t block, const int32_t *sums, int64_t stride, int count, int from, int channels,
                        int16_t *const *to)
{
    const kernels *k = l->k;
    if (channels == k->block) {
        k->requantise(l, block * (size_t)k->block, sums, stride, count, to);
        return;
    }
    int16_t rows[STRIP * MAX_GROUP][MAX_BLOCK], *row[STRIP * MAX_GROUP] = {NULL};
    for (int i = 0; i < count; i++)
        row[i] = rows[i];
    k->requantise(l, block * (size_t)k->block, sums, stride, count, row);
    for (int i = 0; i < count; i++)
        memcpy(to[i], rows[i] + from, sizeof **rows * (size_t)channels);
}

/* Requires check_grid() == INTNET_OK, input_size() readable values in x, output_size() writable ones in out. */
static void convolve(const layer *l, const grid *g, const int16_t *x, int16_t *out)
{
    const kernels *k = l->k;
    const int16_t *px[STRIP * MAX_TAPS * MAX_GROUP]; /* dense [STRIP][taps][group], depthwise [STRIP * group][taps] */
    int16_t *target[STRIP * MAX_GROUP], *to[STRIP * MAX_GROUP];
    int32_t sums[STRIP * MAX_GROUP * MAX_BLOCK] = {0}; /* a kernel may leave padded channels alone */
    int strip = STRIP * k->group;
    int64_t begin = l->phases > 1 ? 0 : g->channel_begin;
    int64_t end = l->phases > 1 ? l->channels : g->channel_end;
    int64_t out_channels = end - begin, last = g->row_end * g->columns;

    for (int64_t number = g->row_begin * g->columns; number < last; number += strip) {
        int count = last - number < strip ? (int)(last - number) : strip;
        int groups = (count + k->group - 1) / k->group;
        position at = position_at(g, number);
        for (int j = 0; j < groups * k->group; j++) { /* a short group repeats its last pixel */
            if (l->depthwise)
                point_at_taps(l, g, x, at, 1, px + j * l->taps);
            else
                point_at_taps(l, g, x, at, k->group, px + j / k->group * l->taps * k->group + j % k->group);
            int64_t place = l->phases > 1 ? 2 * (at.row * 2 * g->columns + at.column) : at.row * g->columns + at.column;
            target[j] = out + place * out_channels;
            if (j < count - 1)
                step_on(g, &at);
        }
        for (int phase = 0; phase < l->phases; phase++) {
            int64_t shift_target = ((phase >> 1) * 2 * g->columns + (phase & 1)) * out_channels;
            for (int64_t b = begin / k->block; b * k->block < end; b++) {
                size_t block = (size_t)(phase * l->blocks + b);
                const int16_t *weights = l->weights + block * l->block_weights;
                int64_t first = b * k->block;
                int64_t from = first < begin ? begin : first;
                int64_t past = first + k->block < end ? first + k->block : end;
                if (l->depthwise)
                    k->depthwise(l, weights, px, (int)first, count, sums);
                else {
                    memset(sums, 0, sizeof *sums * (size_t)(groups * k->group * k->block));
                    for (int n = 0; n < groups; n++) {
                        int32_t *group_sums[MAX_GROUP];
                        for (int i = 0; i < k->group; i++)
                            group_sums[i] = sums + (n * k->group + i) * k->block;
                        k->dense(l, weights, px + n * l->taps * k->group, group_sums);
                    }
                }
                for (int j = 0; j < count; j++)
                    to[j] = target[j] + shift_target + (from - begin);
                write_block(l, block, sums, k->block, count, (int)(from - first), (int)(past - from), to);
            }
        }
    }
}

/* A 1x1 layer whose inputs become known part by part: its sums, without the bias, are kept as int32 in H x W x outputs
 * and each part (a layer of its own, with some of the input channels) adds to them at the positions of a grid. */

/* acc at the grid's positions += sums of x [rows][columns][inputs]. Requires check_grid() == INTNET_OK, a dense layer of
 * one tap without shuffle, and a grid of all its channels. */
static void accumulate(const layer *l, const grid *g, const int16_t *x, int32_t *acc)
{
    const kernels *k = l->k;
    const int16_t *px[STRIP * MAX_GROUP];
    int32_t *target[STRIP * MAX_GROUP];
    int strip = STRIP * k->group;
    int64_t last = g->row_end * g->columns;
    for (int64_t number = g->row_begin * g->columns; number < last; number += strip) {
        int count = last - number < strip ? (int)(last - number) : strip;
        int groups = (count + k->group - 1) / k->group;
        position at = position_at(g, number);
        for (int j = 0; j < groups * k->group; j++) {
            px[j] = x + (at.row * g->columns + at.column) * l->inputs;
            target[j] = acc + ((g->offset_y + g->step * at.row) * g->width + g->offset_x + g->step * at.column) * l->outputs;
            if (j < count - 1)
                step_on(g, &at);
        }
        for (int b = 0; b < l->blocks; b++) {
            int first = b * k->block, valid = l->outputs - first < k->block ? l->outputs - first : k->block;
            for (int n = 0; n < groups; n++) {
                int32_t *sums[MAX_GROUP], spare[MAX_GROUP][MAX_BLOCK];
                if (valid < k->block)
                    memset(spare, 0, sizeof spare);
                for (int i = 0; i < k->group; i++) {
                    sums[i] = target[n * k->group + i] + first;
                    if (valid < k->block) /* nothing may be read or written past the last channel */
                        sums[i] = memcpy(spare[i], sums[i], sizeof **sums * (size_t)valid);
                }
                k->dense(l, l->weights + (size_t)b * l->block_weights, px + n * k->group, sums);
                for (int i = 0; i < k->group && valid < k->block; i++)
                    memcpy(target[n * k->group + i] + first, spare[i], sizeof **sums * (size_t)valid);
            }
        }
    }
}

/* acc [positions][outputs] -> requantised out [positions][outputs]. */
static void requantise_sums(const layer *l, int64_t positions, const int32_t *acc, int16_t *out)
{
    enum { STEP = STRIP * MAX_GROUP };
    int block = l->k->block;
    for (int64_t begin = 0; begin < positions; begin += STEP) {
        int count = positions - begin < STEP ? (int)(positions - begin) : STEP;
        for (int b = 0; b < l->blocks; b++) {
            int first = b * block, valid = l->outputs - first < block ? l->outputs - first : block;
            int16_t *to[STEP];
            for (int i = 0; i < count; i++)
                to[i] = out + (begin + i) * l->outputs + first;
            if (valid == block) {
                write_block(l, (size_t)b, acc + begin * l->outputs + first, l->outputs, count, 0, block, to);
                continue;
            }
            int32_t sums[STEP][MAX_BLOCK] = {{0}};
            for (int i = 0; i < count; i++)
                memcpy(sums[i], acc + (begin + i) * l->outputs + first, sizeof **sums * (size_t)valid);
            write_block(l, (size_t)b, *sums, MAX_BLOCK, count, 0, valid, to);
        }
    }
}

/* ---- self test: a path against the portable one -------------------------------------------------------------- */

static uint32_t xorshift(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    return *state ^= *state << 5;
}

/* One layer with extreme weights, inputs at +-255 signed like the weights of channel 0: 1 if both paths agree. */
static status compare_paths(int path, int inputs, int outputs, int kernel, int depthwise, int shuffle, int64_t height,
                            int64_t width, int small_shift, int *same)
{
    int taps = kernel * kernel, fan = depthwise ? 1 : inputs;
    int64_t weights = (int64_t)outputs * fan * taps, values = height * width * inputs, results = height * width * outputs;
    int16_t *weight = malloc((size_t)weights * sizeof *weight);
    int32_t *constant = malloc(sizeof(int32_t) * 3 * (size_t)outputs);
    uint16_t *multiplier = malloc(sizeof(uint16_t) * (size_t)outputs);
    uint8_t *shift = malloc((size_t)outputs);
    int16_t *x = malloc(sizeof(int16_t) * (size_t)values), *y[2];
    layer *l[2] = {NULL, NULL};
    status bad = INTNET_OK;
    uint32_t seed = 2463534242u + (uint32_t)(inputs * 31 + outputs * 7 + taps);
    y[0] = malloc(sizeof(int16_t) * (size_t)results);
    y[1] = malloc(sizeof(int16_t) * (size_t)results);
    if (!weight || !constant || !multiplier || !shift || !x || !y[0] || !y[1])
        bad = NO_MEMORY;
    if (!bad) {
        for (int64_t i = 0; i < weights; i++)
            weight[i] = (int16_t)((int)(xorshift(&seed) % 3 - 1) * (127 - (int)(xorshift(&seed) % 2)));
        for (int o = 0; o < outputs; o++) {
            constant[o] = (int32_t)(xorshift(&seed) % 65537) - 32768;
            constant[outputs + o] = o % 3 ? -32768 : 0;
            constant[2 * outputs + o] = o % 3 ? 32767 : 255;
            multiplier[o] = (uint16_t)((1 << 14) + xorshift(&seed) % (1 << 14));
            shift[o] = (uint8_t)(small_shift && o % 5 == 0 ? 9 + o % 7 : 16 + (int)(xorshift(&seed) % 15));
        }
        for (int64_t i = 0; i < values; i++) {
            int w = weight[(depthwise ? 0 : i % inputs) * taps + taps / 2];
            x[i] = (int16_t)(w > 0 ? 255 : w < 0 ? -255 : xorshift(&seed) % 2 ? 255 : -255);
        }
        layer_source f = {inputs, outputs, kernel, depthwise, shuffle, weight, constant, multiplier, shift,
                          constant + outputs, constant + 2 * outputs};
        grid g = {height, width, 1, 0, 0, 0, height, 0, outputs, 0, 0};
        for (int i = 0; i < 2 && !bad; i++)
            if (!(bad = layer_new(&f, i ? path : PORTABLE, &l[i])) && !(bad = check_grid(l[i], &g)))
                convolve(l[i], &g, x, y[i]);
        *same = !bad && memcmp(y[0], y[1], sizeof(int16_t) * (size_t)results) == 0;
    }
    layer_free(l[0]);
    layer_free(l[1]);
    free(weight);
    free(constant);
    free(multiplier);
    free(shift);
    free(x);
    free(y[0]);
    free(y[1]);
    return bad;
}

static status self_test(int path, int *passed)
{
    static const struct {
        int inputs, outputs, kernel, depthwise, shuffle, height, width, small_shift;
    } forms[] = {
        {512, 35, 1, 0, 0, 3, 5, 0}, {37, 70, 1, 0, 0, 1, 7, 1}, {57, 19, 3, 0, 0, 5, 3, 0}, {2, 64, 3, 0, 0, 1, 1, 1},
        {6, 44, 3, 0, 1, 3, 4, 0},   {61, 61, 3, 1, 0, 4, 5, 1}, {16, 16, 3, 1, 0, 1, 9, 0}, {33, 33, 1, 1, 0, 2, 2, 0},
    };
    *passed = 1;
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        int same = 0;
        status bad = compare_paths(path, forms[i].inputs, forms[i].outputs, forms[i].kernel, forms[i].depthwise,
                                   forms[i].shuffle, forms[i].height, forms[i].width, forms[i].small_shift, &same);
        if (bad)
            return bad;
        *passed &= same;
    }
    return INTNET_OK;
}

/* ================================ Python binding ============================================================== */
#ifndef INTNET_CORE_ONLY

static const char capsule_name[] = "rhodec.entropy._intnet.layer";

static PyObject *raise_status(status bad)
{
    if (bad == NO_MEMORY)
        return PyErr_NoMemory();
    PyErr_SetString(PyExc_ValueError, messages[bad]);
    return NULL;
}

static int path_by_name(const char *name)
{
    for (int path = 0; path < PATHS; path++)
        if (all_kernels[path].name && strcmp(all_kernels[path].name, name) == 0)
            return path;
    return -1;
}

static PyObject *py_paths(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    PyObject *names = PyList_New(0);
    for (int path = 0; names && path < PATHS; path++) {
        if (!path_runs_here(path))
            continue;
        PyObject *name = PyUnicode_FromString(all_kernels[path].name);
        if (!name || PyList_Append(names, name) < 0)
            Py_CLEAR(names);
        Py_XDECREF(name);
    }
    return names;
}

static PyObject *py_self_test(PyObject *module, PyObject *args)
{
    const char *name;
    int passed = 0;
    (void)module;
    if (!PyArg_ParseTuple(args, "s:self_test", &name))
        return NULL;
    status bad = self_test(path_by_name(name), &passed);
    return bad ? raise_status(bad) : PyBool_FromLong(passed);
}

static void capsule_free(PyObject *capsule)
{
    layer_free(PyCapsule_GetPointer(capsule, capsule_name));
}

/* The buffer holds exactly `count` values of `size` bytes, aligned for them. */
static int holds(const Py_buffer *view, int64_t count, size_t size)
{
    return view->len == count * (int64_t)size && (uintptr_t)view->buf % size == 0;
}

static PyObject *py_pack(PyObject *module, PyObject *args)
{
    Py_buffer weight, bias, multiplier, shift, low, high;
    const char *name;
    layer_source f;
    layer *l = NULL;
    (void)module;
    if (!PyArg_ParseTuple(args, "siiippy*y*y*y*y*y*:pack", &name, &f.inputs, &f.outputs, &f.kernel, &f.depthwise, &f.shuffle,
                          &weight, &bias, &multiplier, &shift, &low, &high))
        return NULL;
    status bad = BAD_FORM;
    if (form_is_supported(&f)) {
        int64_t weights = (int64_t)f.outputs * (f.depthwise ? 1 : f.inputs) * f.kernel * f.kernel;
        if (!holds(&weight, weights, sizeof *f.weight) || !holds(&bias, f.outputs, sizeof *f.bias) ||
            !holds(&multiplier, f.outputs, sizeof *f.multiplier) || !holds(&shift, f.outputs, sizeof *f.shift) ||
            !holds(&low, f.outputs, sizeof *f.low) || !holds(&high, f.outputs, sizeof *f.high)) {
            bad = BAD_BUFFER;
        } else {
            f.weight = weight.buf;
            f.bias = bias.buf;
            f.multiplier = multiplier.buf;
            f.shift = shift.buf;
            f.low = low.buf;
            f.high = high.buf;
            bad = layer_new(&f, path_by_name(name), &l);
        }
    }
    PyBuffer_Release(&weight);
    PyBuffer_Release(&bias);
    PyBuffer_Release(&multiplier);
    PyBuffer_Release(&shift);
    PyBuffer_Release(&low);
    PyBuffer_Release(&high);
    if (bad)
        return raise_status(bad);
    PyObject *capsule = PyCapsule_New(l, capsule_name, capsule_free);
    if (!capsule)
        layer_free(l);
    return capsule;
}

static PyObject *py_convolve(PyObject *module, PyObject *args)
{
    PyObject *capsule;
    Py_buffer x, out;
    Py_ssize_t height, width, step, offset_y, offset_x, row_begin, row_end, channel_begin, channel_end;
    (void)module;
    if (!PyArg_ParseTuple(args, "Oy*w*(nn)(nnn)(nn)(nn):convolve", &capsule, &x, &out, &height, &width, &step, &offset_y,
                          &offset_x, &row_begin, &row_end, &channel_begin, &channel_end))
        return NULL;
    const layer *l = PyCapsule_GetPointer(capsule, capsule_name);
    status bad = INTNET_OK;
    if (l) {
        grid g = {height, width, step, offset_y, offset_x, row_begin, row_end, channel_begin, channel_end, 0, 0};
        bad = check_grid(l, &g);
        if (!bad && (!holds(&x, input_size(l, &g), sizeof(int16_t)) || !holds(&out, output_size(&g), sizeof(int16_t))))
            bad = BAD_BUFFER;
        if (!bad) {
            Py_BEGIN_ALLOW_THREADS
            convolve(l, &g, x.buf, out.buf);
            Py_END_ALLOW_THREADS
        }
    }
    PyBuffer_Release(&x);
    PyBuffer_Release(&out);
    if (!l)
        return NULL; /* PyCapsule_GetPointer has set the error */
    if (bad)
        return raise_status(bad);
    Py_RETURN_NONE;
}

static int is_pointwise(const layer *l) { return !l->depthwise && l->taps == 1 && l->phases == 1; }

static PyObject *py_accumulate(PyObject *module, PyObject *args)
{
    PyObject *capsule;
    Py_buffer x, acc;
    Py_ssize_t height, width, step, offset_y, offset_x, row_begin, row_end;
    (void)module;
    if (!PyArg_ParseTuple(args, "Oy*w*(nn)(nnn)(nn):accumulate", &capsule, &x, &acc, &height, &width, &step, &offset_y,
                          &offset_x, &row_begin, &row_end))
        return NULL;
    const layer *l = PyCapsule_GetPointer(capsule, capsule_name);
    status bad = INTNET_OK;
    if (l) {
        grid g = {height, width, step, offset_y, offset_x, row_begin, row_end, 0, l->outputs, 0, 0};
        bad = is_pointwise(l) ? check_grid(l, &g) : BAD_FORM;
        if (!bad && (!holds(&x, g.rows * g.columns * l->inputs, sizeof(int16_t)) ||
                     !holds(&acc, g.height * g.width * l->outputs, sizeof(int32_t))))
            bad = BAD_BUFFER;
        if (!bad) {
            Py_BEGIN_ALLOW_THREADS
            accumulate(l, &g, x.buf, acc.buf);
            Py_END_ALLOW_THREADS
        }
    }
    PyBuffer_Release(&x);
    PyBuffer_Release(&acc);
    if (!l)
        return NULL;
    if (bad)
        return raise_status(bad);
    Py_RETURN_NONE;
}

static PyObject *py_requantise(PyObject *module, PyObject *args)
{
    PyObject *capsule;
    Py_buffer acc, out;
    (void)module;
    if (!PyArg_ParseTuple(args, "Oy*w*:requantise", &capsule, &acc, &out))
        return NULL;
    const layer *l = PyCapsule_GetPointer(capsule, capsule_name);
    status bad = INTNET_OK;
    if (l) {
        int64_t positions = acc.len / ((int64_t)sizeof(int32_t) * l->outputs), values = positions * l->outputs;
        if (!is_pointwise(l))
            bad = BAD_FORM;
        else if (!holds(&acc, values, sizeof(int32_t)) || !holds(&out, values, sizeof(int16_t)))
            bad = BAD_BUFFER;
        else {
            Py_BEGIN_ALLOW_THREADS
            requantise_sums(l, positions, acc.buf, out.buf);
            Py_END_ALLOW_THREADS
        }
    }
    PyBuffer_Release(&acc);
    PyBuffer_Release(&out);
    if (!l)
        return NULL;
    if (bad)
        return raise_status(bad);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"paths", py_paths, METH_NOARGS, "Names of the kernel paths that this processor runs, slowest first."},
    {"self_test", py_self_test, METH_VARARGS, "Whether a path gives the portable path's results on adversarial layers."},
    {"pack", py_pack, METH_VARARGS, "Check a layer and lay its weights out for one path."},
    {"convolve", py_convolve, METH_VARARGS, "Evaluate a packed layer; releases the GIL."},
    {"accumulate", py_accumulate, METH_VARARGS, "Add a part of a 1x1 layer's sums; releases the GIL."},
    {"requantise", py_requantise, METH_VARARGS, "Requantise a 1x1 layer's sums; releases the GIL."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_intnet",
    .m_doc = "Exact integer convolutions (see the head of _intnet.c).",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__intnet(void)
{
    return PyModuleDef_Init(&definition);
}
#endif
