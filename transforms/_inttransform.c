/* Integer transforms: the kernels behind rhodec.transforms.integer_transform.
 *
 * Activations are int16 in H x W x C order, weights int16, accumulators int32. A layer (dense 1x1 or depthwise 3x3
 * with zero padding) has for each output channel a bias b, which includes the rounding, and a shift s:
 *
 *     t = (sum_i w_i a_i + b) >> s,      y = clamp(t, -limit, limit)
 *
 * and one of these ends:  leaky:     y = max(y, (3277 y + 2^14) >> 15)                slope 0.1
 *                         residual:  y = clamp(x + clamp(t, -2^15, 2^15 - 1), -limit, limit).
 *
 * Invariants
 *  1. Every path gives the same integers. The caller proved sum|w| * max|a| + |b| < 2^31 for each output channel
 *     (integer_transform.py), so no partial sum overflows and the order of the additions is free.
 *  2. No input can harm: sums wrap (unsigned or vector arithmetic), and two products of int16 with |w| <= 32767
 *     cannot overflow int32 together.
 *  3. Every buffer is as long as the sizes say (checked by the binding); channels come in whole blocks of 16.
 *  4. >> of a negative number is arithmetic and conversion to a narrower signed type wraps: implementation-defined
 *     in C11, and so on every compiler that Python supports.
 *
 * Positions are computed in tiles small enough that a tile and one block of weights stay in the L1 cache; a residual
 * block of five layers goes through stripes of the picture row by row, so that its inner activations stay in the L2
 * cache.
 */
#ifndef INTTRANSFORM_CORE_ONLY
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#endif
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if (defined(__x86_64__) || defined(__i386__)) && defined(__GNUC__)
#define INTTRANSFORM_X86 1
#include <immintrin.h>
#define AVX2_TARGET __attribute__((target("avx2")))
#define VNNI_TARGET __attribute__((target("avx2,avx512f,avx512vnni")))
#endif
#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

enum {
    BLOCK = 16,      /* output channels of one kernel call; channel counts are multiples of it */
    GROUP = 6,       /* positions of one kernel call */
    WIDE_GROUP = 8,  /* the same with twice as many registers */
    TILE = 8 * GROUP, /* positions that share a block of weights while it is in the L1 cache */
    STRIPE = 2 * TILE, /* columns of a residual block whose inner rows stay in the L2 cache */
    TAPS = 9,
    STEM = 8,        /* pixel rows and columns of a position of the finest features */
    SAMPLES = 3 * STEM * STEM,
    PIXEL_CENTRE = 128,
    SLOPE = 3277,    /* of a leaky ReLU, in 2^-15 */
    MAX_SHIFT = 31,
    GAIN_INPUT = (1 << 17) - 1, /* with a 14-bit multiplier and 2^16 for rounding the sum stays below 2^31 */
    MAX_GAIN = (1 << 14) - 1,
    MAX_GAIN_SHIFT = 17,
    MAX_CHANNELS = 1 << 12,
    MAX_SIDE = 1 << 24 /* height and width; products of sizes then stay below 2^63 */
};

typedef enum { TRANSFORM_OK, BAD_FORM, BAD_WEIGHT, BAD_SHIFT, BAD_LIMIT, BAD_GRID, BAD_BUFFER, BAD_PATH, NO_MEMORY } status;

static const char *const messages[] = {
    [TRANSFORM_OK] = "no error",
    [BAD_FORM] = "layers of this form (channels, kernel) are not supported here",
    [BAD_WEIGHT] = "a weight is -32768",
    [BAD_SHIFT] = "a shift or multiplier is out of range",
    [BAD_LIMIT] = "a limit is outside 1..32767",
    [BAD_GRID] = "sizes or rows are out of range",
    [BAD_BUFFER] = "a buffer is misaligned or its length does not match the sizes given",
    [BAD_PATH] = "this kernel path is unknown or not supported by this processor",
    [NO_MEMORY] = "out of memory",
};

/* What a dense layer does with its sums. */
typedef enum { PLAIN, LEAKY, RESIDUAL, REAL } ending;

typedef struct layer layer;

/* `count` positions: x [count][inputs] -> out [count][outputs]. `from` [count][outputs] is what a residual layer adds
 * to, it may be `out`. With REAL, out is float [count][outputs]: (sum + bias) * factor[channel]. */
typedef void dense_kernel(const layer *l, ending end, const int16_t *x, int count, const int16_t *from, void *out,
                          const float *factor);
/* rows[0..2] [count + 2][channels] around a row -> out [count][channels]. */
typedef void depthwise_kernel(const layer *l, const int16_t *const rows[3], int count, int16_t *out);
/* out[count][channels] := clamp((clamp(x) * multiplier + 2^shift / 2) >> shift), x int32 or int16. */
typedef void gain_kernel(const void *x, int is_wide, int64_t count, int channels, const uint16_t *multiplier,
                         const uint8_t *shift, int limit, int16_t *out);

typedef struct {
    const char *name;
    dense_kernel *dense;
    depthwise_kernel *depthwise;
    gain_kernel *gain;
} kernels;

struct layer {
    const kernels *k;
    int inputs, outputs, is_dense, limit;
    int16_t *weights;      /* dense [outputs / 16][inputs / 2][16][2]; depthwise [9][channels] */
    int32_t *bias, *shift; /* [outputs] */
};

/* ---- portable kernels: plain C that compilers vectorise ---------------------------------------------------- */

INLINE int32_t clamp(int32_t v, int32_t low, int32_t high) { return v < low ? low : v > high ? high : v; }

static void dense_portable(const layer *l, ending end, const int16_t *x, int count, const int16_t *from, void *out,
                           const float *factor)
{
    for (int first = 0; first < l->outputs; first += BLOCK) {
        const int16_t *weights = l->weights + (size_t)first * (size_t)l->inputs;
        const int32_t *bias = l->bias + first, *shift = l->shift + first;
        for (int i = 0; i < count; i++) {
            const int16_t *a = x + (size_t)i * (size_t)l->inputs, *w = weights;
            uint32_t acc[BLOCK];
            size_t at = (size_t)i * (size_t)l->outputs + (size_t)first;
            for (int n = 0; n < BLOCK; n++)
                acc[n] = (uint32_t)bias[n];
            for (int c = 0; c < l->inputs; c += 2, w += 2 * BLOCK) {
                int32_t a0 = a[c], a1 = a[c + 1];
                for (int n = 0; n < BLOCK; n++)
                    acc[n] += (uint32_t)(a0 * w[2 * n]) + (uint32_t)(a1 * w[2 * n + 1]);
            }
            if (end == REAL) {
                float *y = (float *)out + at;
                for (int n = 0; n < BLOCK; n++)
                    y[n] = (float)(int32_t)acc[n] * factor[first + n];
                continue;
            }
            int16_t *y = (int16_t *)out + at;
            for (int n = 0; n < BLOCK; n++) {
                int32_t t = clamp((int32_t)acc[n] >> shift[n], INT16_MIN, INT16_MAX);
                if (end == RESIDUAL)
                    t += from[at + (size_t)n];
                t = clamp(t, -l->limit, l->limit);
                if (end == LEAKY && t < 0)
                    t = (t * SLOPE + (1 << 14)) >> 15;
                y[n] = (int16_t)t;
            }
        }
    }
}

static void depthwise_portable(const layer *l, const int16_t *const rows[3], int count, int16_t *out)
{
    int channels = l->outputs;
    for (int i = 0; i < count; i++)
        for (int first = 0; first < channels; first += BLOCK) {
            size_t at = (size_t)i * (size_t)channels + (size_t)first;
            uint32_t acc[BLOCK];
            for (int n = 0; n < BLOCK; n++)
                acc[n] = (uint32_t)l->bias[first + n];
            for (int tap = 0; tap < TAPS; tap++) {
                const int16_t *a = rows[tap / 3] + at + (size_t)(tap % 3) * (size_t)channels;
                const int16_t *w = l->weights + (size_t)tap * (size_t)channels + first;
                for (int n = 0; n < BLOCK; n++)
                    acc[n] += (uint32_t)((int32_t)a[n] * w[n]);
            }
            for (int n = 0; n < BLOCK; n++)
                out[at + (size_t)n] = (int16_t)clamp((int32_t)acc[n] >> l->shift[first + n], -l->limit, l->limit);
        }
}

INLINE int16_t gain_of(int32_t v, int32_t multiplier, int32_t shift, int32_t limit)
{
    int32_t t = clamp(v, -GAIN_INPUT, GAIN_INPUT) * multiplier + ((1 << shift) >> 1);
    return (int16_t)clamp(t >> shift, -limit, limit);
}

INLINE void gain_loops(const void *x, int is_wide, int64_t count, int channels, const uint16_t *multiplier,
                       const uint8_t *shift, int limit, int16_t *out)
{
    for (int64_t i = 0; i < count; i++, out += channels) {
        const int32_t *wide = (const int32_t *)x + i * channels;
        const int16_t *narrow = (const int16_t *)x + i * channels;
        if (is_wide)
            for (int c = 0; c < channels; c++)
                out[c] = gain_of(wide[c], multiplier[c], shift[c], limit);
        else
            for (int c = 0; c < channels; c++)
                out[c] = gain_of(narrow[c], multiplier[c], shift[c], limit);
    }
}

static void gain_portable(const void *x, int is_wide, int64_t count, int channels, const uint16_t *multiplier,
                          const uint8_t *shift, int limit, int16_t *out)
{
    gain_loops(x, is_wide, count, channels, multiplier, shift, limit, out);
}

#ifdef INTTRANSFORM_X86
/* ---- AVX2: pairs of int16 products summed in int32 ---------------------------------------------------------- */

#define LOAD_256(P) _mm256_loadu_si256((const __m256i *)(const void *)(P))
#define STORE_256(P, V) _mm256_storeu_si256((__m256i *)(void *)(P), V)
#define UNROLL _Pragma("GCC unroll 8")

static inline int32_t two_inputs(const int16_t *p)
{
    int32_t pair;
    memcpy(&pair, p, sizeof pair);
    return pair;
}

/* Sums of 16 channels as two vectors whose packing keeps the order of the channels -> int16, then the layer's end. */
AVX2_TARGET INLINE __m256i finish_avx2(ending end, __m256i low, __m256i high, __m256i low_shift, __m256i high_shift,
                                       __m256i limit, const int16_t *from)
{
    __m256i y = _mm256_packs_epi32(_mm256_srav_epi32(low, low_shift), _mm256_srav_epi32(high, high_shift));
    if (end == RESIDUAL)
        y = _mm256_adds_epi16(y, LOAD_256(from));
    y = _mm256_max_epi16(_mm256_min_epi16(y, limit), _mm256_sub_epi16(_mm256_setzero_si256(), limit));
    if (end == LEAKY)
        y = _mm256_max_epi16(y, _mm256_mulhrs_epi16(y, _mm256_set1_epi16(SLOPE)));
    return y;
}

/* Packing works within 128-bit lanes: of a block's two vectors the first holds channels 0-3 and 8-11, the second 4-7
 * and 12-15, then the packed channels are in order. Dense weights are stored that way, biases and shifts are not. */
#define EVEN_QUARTERS(V0, V1) _mm256_permute2x128_si256(V0, V1, 0x20)
#define ODD_QUARTERS(V0, V1) _mm256_permute2x128_si256(V0, V1, 0x31)

/* One block of channels for GROUP positions, of which the first `count` are stored. */
AVX2_TARGET INLINE void dense_group_avx2(const layer *l, ending end, int first, const int16_t *x, int count,
                                         const int16_t *from, void *out, const float *factor)
{
    const int16_t *w = l->weights + (size_t)first * (size_t)l->inputs, *p[GROUP];
    __m256i acc[GROUP][2];
    __m256i b0 = LOAD_256(l->bias + first), b1 = LOAD_256(l->bias + first + 8);
    UNROLL for (int i = 0; i < GROUP; i++) {
        p[i] = x + (size_t)(i < count ? i : count - 1) * (size_t)l->inputs; /* a short group repeats its last */
        acc[i][0] = EVEN_QUARTERS(b0, b1);
        acc[i][1] = ODD_QUARTERS(b0, b1);
    }
    for (int c = 0; c < l->inputs; c += 2, w += 2 * BLOCK) {
        __m256i w0 = LOAD_256(w), w1 = LOAD_256(w + BLOCK);
        UNROLL for (int i = 0; i < GROUP; i++) {
            __m256i a = _mm256_set1_epi32(two_inputs(p[i] + c));
            acc[i][0] = _mm256_add_epi32(acc[i][0], _mm256_madd_epi16(a, w0));
            acc[i][1] = _mm256_add_epi32(acc[i][1], _mm256_madd_epi16(a, w1));
        }
    }
    size_t at = (size_t)first;
    if (end == REAL) {
        __m256 f0 = _mm256_loadu_ps(factor + first), f1 = _mm256_loadu_ps(factor + first + 8);
        UNROLL for (int i = 0; i < GROUP; i++, at += (size_t)l->outputs)
            if (i < count) {
                __m256i v0 = EVEN_QUARTERS(acc[i][0], acc[i][1]), v1 = ODD_QUARTERS(acc[i][0], acc[i][1]);
                _mm256_storeu_ps((float *)out + at, _mm256_mul_ps(_mm256_cvtepi32_ps(v0), f0));
                _mm256_storeu_ps((float *)out + at + 8, _mm256_mul_ps(_mm256_cvtepi32_ps(v1), f1));
            }
        return;
    }
    __m256i v0 = LOAD_256(l->shift + first), v1 = LOAD_256(l->shift + first + 8);
    __m256i s0 = EVEN_QUARTERS(v0, v1), s1 = ODD_QUARTERS(v0, v1), limit = _mm256_set1_epi16((int16_t)l->limit);
    UNROLL for (int i = 0; i < GROUP; i++, at += (size_t)l->outputs)
        if (i < count)
            STORE_256((int16_t *)out + at, finish_avx2(end, acc[i][0], acc[i][1], s0, s1, limit, from + at));
}

AVX2_TARGET INLINE void dense_loops_avx2(const layer *l, ending end, const int16_t *x, int count, const int16_t *from,
                                         void *out, const float *factor)
{
    size_t size = end == REAL ? sizeof(float) : sizeof(int16_t);
    for (int first = 0; first < l->outputs; first += BLOCK)
        for (int i = 0; i < count; i += GROUP) {
            size_t at = (size_t)i * (size_t)l->outputs;
            int some = count - i < GROUP ? count - i : GROUP;
            dense_group_avx2(l, end, first, x + (size_t)i * (size_t)l->inputs, some, end == RESIDUAL ? from + at : NULL,
                             (char *)out + at * size, factor);
        }
}

/* A kernel that has one copy of the inlined loops for each end. */
#define DEFINE_DENSE(NAME, TARGET, LOOPS)                                                                               \
    TARGET static void NAME(const layer *l, ending end, const int16_t *x, int count, const int16_t *from, void *out,    \
                            const float *factor)                                                                        \
    {                                                                                                                   \
        if (end == PLAIN)                                                                                               \
            LOOPS(l, PLAIN, x, count, from, out, factor);                                                               \
        else if (end == LEAKY)                                                                                          \
            LOOPS(l, LEAKY, x, count, from, out, factor);                                                               \
        else if (end == RESIDUAL)                                                                                       \
            LOOPS(l, RESIDUAL, x, count, from, out, factor);                                                            \
        else                                                                                                            \
            LOOPS(l, REAL, x, count, from, out, factor);                                                                \
    }

DEFINE_DENSE(dense_avx2, AVX2_TARGET, dense_loops_avx2)

/* Two taps to a product: unpacking puts their activations side by side, and leaves channels in packing order. */
AVX2_TARGET static void depthwise_avx2(const layer *l, const int16_t *const rows[3], int count, int16_t *out)
{
    enum { PAIRS = (TAPS + 1) / 2 };
    size_t channels = (size_t)l->outputs;
    const __m256i zero = _mm256_setzero_si256(), limit = _mm256_set1_epi16((int16_t)l->limit);
    for (size_t first = 0; first < channels; first += BLOCK) {
        __m256i low_weights[PAIRS], high_weights[PAIRS];
        UNROLL for (int pair = 0; pair < PAIRS; pair++) {
            const int16_t *w = l->weights + (size_t)(2 * pair) * channels + first;
            __m256i w0 = LOAD_256(w), w1 = pair < PAIRS - 1 ? LOAD_256(w + channels) : zero;
            low_weights[pair] = _mm256_unpacklo_epi16(w0, w1);
            high_weights[pair] = _mm256_unpackhi_epi16(w0, w1);
        }
        __m256i v0 = LOAD_256(l->bias + first), v1 = LOAD_256(l->bias + first + 8);
        __m256i b0 = EVEN_QUARTERS(v0, v1), b1 = ODD_QUARTERS(v0, v1);
        v0 = LOAD_256(l->shift + first), v1 = LOAD_256(l->shift + first + 8);
        __m256i s0 = EVEN_QUARTERS(v0, v1), s1 = ODD_QUARTERS(v0, v1);
        for (int i = 0; i < count; i++) {
            size_t at = (size_t)i * channels + first;
            __m256i low = b0, high = b1;
            UNROLL for (int pair = 0; pair < PAIRS; pair++) {
                int tap = 2 * pair, next = tap + 1;
                __m256i a0 = LOAD_256(rows[tap / 3] + at + (size_t)(tap % 3) * channels);
                __m256i a1 = pair < PAIRS - 1 ? LOAD_256(rows[next / 3] + at + (size_t)(next % 3) * channels) : zero;
                low = _mm256_add_epi32(low, _mm256_madd_epi16(_mm256_unpacklo_epi16(a0, a1), low_weights[pair]));
                high = _mm256_add_epi32(high, _mm256_madd_epi16(_mm256_unpackhi_epi16(a0, a1), high_weights[pair]));
            }
            STORE_256(out + at, finish_avx2(PLAIN, low, high, s0, s1, limit, NULL));
        }
    }
}

AVX2_TARGET static void gain_avx2(const void *x, int is_wide, int64_t count, int channels, const uint16_t *multiplier,
                                  const uint8_t *shift, int limit, int16_t *out)
{
    gain_loops(x, is_wide, count, channels, multiplier, shift, limit, out); /* the same loops in other instructions */
}

/* ---- AVX-512 VNNI: a block is one vector; its halves are the two vectors of AVX2 --------------------------- */

VNNI_TARGET INLINE __m512i joined(const int32_t *p) /* 16 values in the order of dense weights */
{
    __m256i v0 = LOAD_256(p), v1 = LOAD_256(p + 8);
    return _mm512_inserti64x4(_mm512_castsi256_si512(EVEN_QUARTERS(v0, v1)), ODD_QUARTERS(v0, v1), 1);
}

/* `blocks` blocks of channels for WIDE_GROUP positions, of which the first `count` are stored. */
VNNI_TARGET INLINE void dense_group_vnni(const layer *l, ending end, int first, const int blocks, const int16_t *x, int count,
                                         const int16_t *from, void *out, const float *factor)
{
    const size_t stride = (size_t)BLOCK * (size_t)l->inputs; /* weights of a block */
    const int16_t *w = l->weights + (size_t)first * (size_t)l->inputs, *p[WIDE_GROUP];
    __m512i acc[WIDE_GROUP][2];
    UNROLL for (int i = 0; i < WIDE_GROUP; i++) {
        p[i] = x + (size_t)(i < count ? i : count - 1) * (size_t)l->inputs; /* a short group repeats its last */
        UNROLL for (int j = 0; j < blocks; j++)
            acc[i][j] = joined(l->bias + first + j * BLOCK);
    }
    for (int c = 0; c < l->inputs; c += 2, w += 2 * BLOCK) {
        __m512i weights[2];
        UNROLL for (int j = 0; j < blocks; j++)
            weights[j] = _mm512_loadu_si512(w + (size_t)j * stride);
        UNROLL for (int i = 0; i < WIDE_GROUP; i++) {
            __m512i a = _mm512_set1_epi32(two_inputs(p[i] + c));
            UNROLL for (int j = 0; j < blocks; j++)
                acc[i][j] = _mm512_dpwssd_epi32(acc[i][j], a, weights[j]);
        }
    }
    const __m256i limit = _mm256_set1_epi16((int16_t)l->limit);
    UNROLL for (int j = 0; j < blocks; j++) {
        size_t at = (size_t)(first + j * BLOCK);
        __m512i shift = joined(l->shift + at);
        __m256i s0 = _mm512_castsi512_si256(shift), s1 = _mm512_extracti64x4_epi64(shift, 1);
        UNROLL for (int i = 0; i < WIDE_GROUP; i++, at += (size_t)l->outputs) {
            if (i >= count)
                continue;
            __m256i low = _mm512_castsi512_si256(acc[i][j]), high = _mm512_extracti64x4_epi64(acc[i][j], 1);
            if (end == REAL) {
                const float *f = factor + first + j * BLOCK;
                __m256 v0 = _mm256_cvtepi32_ps(EVEN_QUARTERS(low, high)), v1 = _mm256_cvtepi32_ps(ODD_QUARTERS(low, high));
                _mm256_storeu_ps((float *)out + at, _mm256_mul_ps(v0, _mm256_loadu_ps(f)));
                _mm256_storeu_ps((float *)out + at + 8, _mm256_mul_ps(v1, _mm256_loadu_ps(f + 8)));
            } else {
                STORE_256((int16_t *)out + at, finish_avx2(end, low, high, s0, s1, limit, from + at));
            }
        }
    }
}

VNNI_TARGET INLINE void dense_loops_vnni(const layer *l, ending end, const int16_t *x, int count, const int16_t *from,
                                         void *out, const float *factor)
{
    size_t size = end == REAL ? sizeof(float) : sizeof(int16_t);
    for (int first = 0; first < l->outputs; first += 2 * BLOCK)
        for (int i = 0; i < count; i += WIDE_GROUP) {
            size_t at = (size_t)i * (size_t)l->outputs;
            int some = count - i < WIDE_GROUP ? count - i : WIDE_GROUP;
            const int16_t *a = x + (size_t)i * (size_t)l->inputs, *base = end == RESIDUAL ? from + at : NULL;
            if (first + BLOCK < l->outputs)
                dense_group_vnni(l, end, first, 2, a, some, base, (char *)out + at * size, factor);
            else
                dense_group_vnni(l, end, first, 1, a, some, base, (char *)out + at * size, factor);
        }
}

DEFINE_DENSE(dense_vnni, VNNI_TARGET, dense_loops_vnni)
#endif

/* ---- layers ------------------------------------------------------------------------------------------------- */

enum { PORTABLE, AVX2, VNNI, PATHS };

static const kernels all_kernels[PATHS] = {
    [PORTABLE] = {"portable", dense_portable, depthwise_portable, gain_portable},
#ifdef INTTRANSFORM_X86
    [AVX2] = {"avx2", dense_avx2, depthwise_avx2, gain_avx2},
    [VNNI] = {"vnni", dense_vnni, depthwise_avx2, gain_avx2},
#endif
};

static int path_runs_here(int path)
{
    if (path == PORTABLE)
        return 1;
#ifdef INTTRANSFORM_X86
    __builtin_cpu_init();
    if (path == AVX2)
        return __builtin_cpu_supports("avx2") != 0;
    if (path == VNNI)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vnni");
#endif
    return 0;
}

/* A layer as the weights file holds it: weight dense [outputs][inputs], depthwise [channels][9]. */
typedef struct {
    int inputs, outputs, is_dense, limit;
    const int16_t *weight;
    const int32_t *bias;
    const uint8_t *shift;
} layer_source;

static int form_is_supported(const layer_source *f)
{
    return f->inputs >= BLOCK && f->inputs <= MAX_CHANNELS && f->inputs % BLOCK == 0 && f->outputs >= BLOCK &&
           f->outputs <= MAX_CHANNELS && f->outputs % BLOCK == 0 && (f->is_dense || f->inputs == f->outputs);
}

static size_t weight_count(const layer_source *f)
{
    return (size_t)f->outputs * (size_t)(f->is_dense ? f->inputs : TAPS);
}

static void layer_free(layer *l)
{
    if (!l)
        return;
    free(l->weights);
    free(l->bias);
    free(l->shift);
    free(l);
}

static status layer_new(const layer_source *f, int path, layer **made)
{
    *made = NULL;
    if (path < 0 || path >= PATHS || !path_runs_here(path))
        return BAD_PATH;
    if (!form_is_supported(f))
        return BAD_FORM;
    if (f->limit < 1 || f->limit > INT16_MAX)
        return BAD_LIMIT;
    for (size_t i = 0; i < weight_count(f); i++)
        if (f->weight[i] == INT16_MIN)
            return BAD_WEIGHT;
    for (int o = 0; o < f->outputs; o++)
        if (f->shift[o] > MAX_SHIFT)
            return BAD_SHIFT;
    layer *l = calloc(1, sizeof *l);
    if (!l)
        return NO_MEMORY;
    *l = (layer){&all_kernels[path], f->inputs, f->outputs, f->is_dense, f->limit, NULL, NULL, NULL};
    l->weights = malloc(weight_count(f) * sizeof *l->weights);
    l->bias = malloc((size_t)f->outputs * sizeof *l->bias);
    l->shift = malloc((size_t)f->outputs * sizeof *l->shift);
    if (!l->weights || !l->bias || !l->shift) {
        layer_free(l);
        return NO_MEMORY;
    }
    memcpy(l->bias, f->bias, (size_t)f->outputs * sizeof *l->bias);
    size_t inputs = (size_t)f->inputs, outputs = (size_t)f->outputs;
    for (size_t o = 0; o < outputs; o++) {
        l->shift[o] = f->shift[o];
        if (!f->is_dense) {
            for (size_t tap = 0; tap < TAPS; tap++)
                l->weights[tap * outputs + o] = f->weight[o * TAPS + tap];
            continue;
        }
        size_t n = o % BLOCK;
        if (path != PORTABLE && n / 4 % 3) /* the packing order of the vector kernels: 0-3, 8-11, 4-7, 12-15 */
            n = n < 8 ? n + 4 : n - 4;
        int16_t *w = l->weights + o / BLOCK * BLOCK * inputs + 2 * n;
        for (size_t c = 0; c < inputs; c++)
            w[c / 2 * 2 * BLOCK + c % 2] = f->weight[o * inputs + c];
    }
    *made = l;
    return TRANSFORM_OK;
}

/* ---- a dense layer over a picture ---------------------------------------------------------------------------- */

/* Where a position's inputs come from, and where its outputs go; FOLD and UNFOLD keep rows before columns before
 * channels. Sizes: of the positions, `height` x `width`; the picture may end before the last positions do, and then
 * its last row and column are repeated. */
typedef enum { AS_IS, FOLD_2, FROM_PIXELS, SOURCES } source_form;  /* int16 [h][w][C], [2h][2w][C/4], uint8 pixels */
typedef enum { INTO, UNFOLD_2, TO_PIXELS, TO_REAL, TARGETS } target_form; /* the same, float [h][w][C] */

typedef struct {
    int64_t height, width, row_begin, row_end;
    int64_t picture_height, picture_width; /* for pixels only: at most STEM times height and width */
} grid;

static int grid_is_good(const grid *g)
{
    return g->height >= 1 && g->width >= 1 && g->height <= MAX_SIDE && g->width <= MAX_SIDE && g->row_begin >= 0 &&
           g->row_end >= g->row_begin && g->row_end <= g->height;
}

static int picture_is_good(const grid *g)
{
    return g->picture_height > STEM * (g->height - 1) - STEM && g->picture_height >= 1 && g->picture_width >= 1 &&
           g->picture_height <= STEM * g->height && g->picture_width > STEM * (g->width - 1) - STEM &&
           g->picture_width <= STEM * g->width;
}

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* Inputs of `count` positions from `position` on -> tile [count][inputs]. */
static void gather(const layer *l, source_form form, const grid *g, const void *x, int64_t position, int count, int16_t *tile)
{
    for (int i = 0; i < count; i++, tile += l->inputs) {
        int64_t row = (position + i) / g->width, column = (position + i) % g->width;
        if (form == FOLD_2) {
            size_t half = (size_t)(l->inputs / 2); /* two neighbours in a row lie side by side */
            const int16_t *from = (const int16_t *)x + (2 * row * g->width + column) * (int64_t)half;
            memcpy(tile, from, half * sizeof *tile);
            memcpy(tile + half, from + g->width * (int64_t)half, half * sizeof *tile);
            continue;
        }
        int is_whole = STEM * (column + 1) <= g->picture_width;
        for (int dy = 0; dy < STEM; dy++) {
            const uint8_t *line =
                (const uint8_t *)x + smaller(STEM * row + dy, g->picture_height - 1) * g->picture_width * 3;
            uint8_t samples[STEM * 3]; /* not to alias the tile, so that the loop below is vectorised */
            if (is_whole)
                memcpy(samples, line + STEM * 3 * column, sizeof samples);
            else
                for (int n = 0; n < STEM * 3; n++)
                    samples[n] = line[3 * smaller(STEM * column + n / 3, g->picture_width - 1) + n % 3];
            for (int n = 0; n < STEM * 3; n++)
                tile[dy * STEM * 3 + n] = (int16_t)(samples[n] - PIXEL_CENTRE);
        }
    }
}

/* tile [count][outputs] -> where they belong. */
static void scatter(const layer *l, target_form form, const grid *g, const int16_t *tile, int64_t position, int count, void *out)
{
    for (int i = 0; i < count; i++, tile += l->outputs) {
        int64_t row = (position + i) / g->width, column = (position + i) % g->width;
        if (form == UNFOLD_2) {
            size_t half = (size_t)(l->outputs / 2);
            int16_t *to = (int16_t *)out + (2 * row * g->width + column) * (int64_t)half;
            memcpy(to, tile, half * sizeof *tile);
            memcpy(to + g->width * (int64_t)half, tile + half, half * sizeof *tile);
            continue;
        }
        int64_t rows = smaller(STEM, g->picture_height - STEM * row), columns = smaller(STEM, g->picture_width - STEM * column);
        for (int64_t dy = 0; dy < rows; dy++) {
            uint8_t *to = (uint8_t *)out + ((STEM * row + dy) * g->picture_width + STEM * column) * 3;
            uint8_t samples[STEM * 3];
            for (int n = 0; n < STEM * 3; n++) {
                int16_t v = tile[dy * STEM * 3 + n];
                v = v < -PIXEL_CENTRE ? -PIXEL_CENTRE : v;
                v = v > 255 - PIXEL_CENTRE ? 255 - PIXEL_CENTRE : v;
                samples[n] = (uint8_t)(v + PIXEL_CENTRE);
            }
            if (columns == STEM)
                memcpy(to, samples, sizeof samples);
            else if (columns > 0)
                memcpy(to, samples, (size_t)columns * 3);
        }
    }
}

static status dense_rows(const layer *l, ending end, source_form source, target_form target, const grid *g, const void *x,
                         void *out, const float *factor)
{
    const size_t inputs = (size_t)l->inputs, outputs = (size_t)l->outputs;
    int16_t *gathered = malloc(TILE * (inputs + outputs) * sizeof *gathered), *made = gathered + TILE * inputs;
    if (!gathered)
        return NO_MEMORY;
    int64_t last = g->row_end * g->width;
    for (int64_t position = g->row_begin * g->width; position < last; position += TILE) {
        int count = (int)smaller(TILE, last - position);
        const int16_t *tile = (const int16_t *)x + position * (int64_t)inputs;
        if (source != AS_IS) {
            gather(l, source, g, x, position, count, gathered);
            tile = gathered;
        }
        if (target == INTO)
            l->k->dense(l, end, tile, count, NULL, (int16_t *)out + position * (int64_t)outputs, NULL);
        else if (target == TO_REAL)
            l->k->dense(l, REAL, tile, count, NULL, (float *)out + position * (int64_t)outputs, factor);
        else {
            l->k->dense(l, end, tile, count, NULL, made, NULL);
            scatter(l, target, g, made, position, count, out);
        }
    }
    free(gathered);
    return TRANSFORM_OK;
}

/* ---- depthwise layers and residual blocks -------------------------------------------------------------------- */

/* A row of a picture between two positions of zeros. */
static int16_t *ring_row(int16_t *ring, int64_t row, int64_t width, int channels)
{
    return ring + (row + 3) % 3 * (width + 2) * channels;
}

static status depthwise_rows(const layer *l, const grid *g, const int16_t *x, int16_t *out)
{
    int64_t size = g->width * l->inputs, padded = size + 2 * l->inputs;
    int16_t *ring = calloc((size_t)padded * 4, sizeof *ring);
    if (!ring)
        return NO_MEMORY;
    for (int64_t row = g->row_begin - 1; row <= g->row_end; row++) {
        if (row >= 0 && row < g->height)
            memcpy(ring_row(ring, row, g->width, l->inputs) + l->inputs, x + row * size, (size_t)size * sizeof *x);
        int64_t centre = row - 1;
        if (centre < g->row_begin)
            continue;
        const int16_t *rows[3];
        for (int64_t dy = -1; dy <= 1; dy++) {
            int is_inside = centre + dy >= 0 && centre + dy < g->height;
            rows[dy + 1] = is_inside ? ring_row(ring, centre + dy, g->width, l->inputs) : ring + 3 * padded;
        }
        l->k->depthwise(l, rows, (int)g->width, out + centre * size);
    }
    free(ring);
    return TRANSFORM_OK;
}

/* x + mix_out(spatial(leaky(mix_in(x)))), then that + reduce(leaky(expand(it))). */
typedef struct {
    const layer *mix_in, *spatial, *mix_out, *expand, *reduce;
} block;

static int block_is_good(const block *b)
{
    int channels = b->mix_in->inputs;
    return b->mix_in->is_dense && !b->spatial->is_dense && b->mix_out->is_dense && b->expand->is_dense &&
           b->reduce->is_dense && b->mix_in->outputs == b->spatial->inputs && b->mix_out->inputs == b->spatial->outputs &&
           b->mix_out->outputs == channels && b->expand->inputs == channels && b->reduce->inputs == b->expand->outputs &&
           b->reduce->outputs == channels;
}

static status block_rows(const block *b, const grid *g, const int16_t *x, int16_t *out)
{
    int channels = b->mix_in->inputs, inner = b->spatial->inputs, wide = b->expand->outputs;
    int64_t stripe = smaller(g->width, STRIPE), padded = (stripe + 2) * inner;
    int16_t *ring = malloc(sizeof *ring * ((size_t)padded * 4 + (size_t)TILE * (size_t)(inner + wide)));
    if (!ring)
        return NO_MEMORY;
    int16_t *filtered = ring + 4 * padded, *expanded = filtered + TILE * inner;
    const kernels *k = b->mix_in->k;
    for (int64_t left = 0; left < g->width; left += stripe) {
        int64_t right = smaller(left + stripe, g->width);
        int64_t first = left ? left - 1 : 0, last = smaller(right + 1, g->width); /* columns that the stripe depends on */
        memset(ring, 0, (size_t)padded * 4 * sizeof *ring);                       /* beyond the picture there are zeros */
        for (int64_t row = g->row_begin - 1; row <= g->row_end; row++) {
            if (row >= 0 && row < g->height) {
                int16_t *mixed = ring_row(ring, row, stripe, inner);
                for (int64_t column = first; column < last; column += TILE)
                    k->dense(b->mix_in, LEAKY, x + (row * g->width + column) * channels, (int)smaller(TILE, last - column),
                             NULL, mixed + (column - left + 1) * inner, NULL);
            }
            int64_t centre = row - 1;
            if (centre < g->row_begin)
                continue;
            for (int64_t column = left; column < right; column += TILE) {
                int count = (int)smaller(TILE, right - column);
                const int16_t *rows[3], *from = x + (centre * g->width + column) * channels;
                int16_t *to = out + (centre * g->width + column) * channels;
                for (int64_t dy = -1; dy <= 1; dy++) {
                    int is_inside = centre + dy >= 0 && centre + dy < g->height;
                    const int16_t *line = is_inside ? ring_row(ring, centre + dy, stripe, inner) : ring + 3 * padded;
                    rows[dy + 1] = line + (column - left) * inner;
                }
                k->depthwise(b->spatial, rows, count, filtered);
                k->dense(b->mix_out, RESIDUAL, filtered, count, from, to, NULL);
                k->dense(b->expand, LEAKY, to, count, NULL, expanded, NULL);
                k->dense(b->reduce, RESIDUAL, expanded, count, to, to, NULL);
            }
        }
    }
    free(ring);
    return TRANSFORM_OK;
}

/* ---- self test: a path against the portable one -------------------------------------------------------------- */

static uint32_t xorshift(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    return *state ^= *state << 5;
}

/* One layer with extreme weights and inputs under every ending: *same = both paths agree. */
static status compare_paths(int path, int inputs, int outputs, int is_dense, int count, int *same)
{
    layer_source f = {inputs, outputs, is_dense, 32767, NULL, NULL, NULL};
    size_t weights = weight_count(&f), values = (size_t)(count + 2) * (size_t)inputs * 3;
    size_t results = (size_t)count * (size_t)outputs;
    int16_t *weight = malloc(weights * sizeof *weight), *x = malloc(values * sizeof *x);
    int16_t *from = malloc(results * sizeof *from);
    int32_t *bias = malloc((size_t)outputs * sizeof *bias);
    uint8_t *shift = malloc((size_t)outputs);
    float *factor = malloc((size_t)outputs * sizeof *factor), *y[2];
    layer *l[2] = {NULL, NULL};
    status bad = TRANSFORM_OK;
    uint32_t seed = 2463534242u + (uint32_t)(inputs * 31 + outputs * 7 + count);
    y[0] = malloc(results * sizeof *y[0]);
    y[1] = malloc(results * sizeof *y[1]);
    if (!weight || !x || !from || !bias || !shift || !factor || !y[0] || !y[1])
        bad = NO_MEMORY;
    *same = 1;
    if (!bad) {
        for (size_t i = 0; i < weights; i++)
            weight[i] = (int16_t)(xorshift(&seed) % 8 ? (int)(xorshift(&seed) % 65535) - 32767 : 32767);
        for (size_t i = 0; i < values; i++)
            x[i] = (int16_t)(xorshift(&seed) % 8 ? (int)(xorshift(&seed) % 65536) - 32768 : -32768);
        for (size_t i = 0; i < results; i++)
            from[i] = (int16_t)xorshift(&seed);
        for (int o = 0; o < outputs; o++) {
            bias[o] = (int32_t)xorshift(&seed);
            shift[o] = (uint8_t)(o % 3 ? 12 + xorshift(&seed) % 8 : xorshift(&seed) % 32);
            factor[o] = (float)(xorshift(&seed) % 1000) * 0.001f;
        }
        f.weight = weight, f.bias = bias, f.shift = shift;
    }
    for (int i = 0; i < 2 && !bad; i++)
        bad = layer_new(&f, i ? path : PORTABLE, &l[i]);
    for (int end = PLAIN; end <= REAL && !bad; end++) {
        const int16_t *rows[3] = {x, x + (count + 2) * inputs, x + 2 * (count + 2) * inputs};
        for (int i = 0; i < 2; i++)
            if (is_dense)
                l[i]->k->dense(l[i], (ending)end, x, count, from, y[i], factor);
            else
                l[i]->k->depthwise(l[i], rows, count, (int16_t *)y[i]);
        *same &= memcmp(y[0], y[1], results * (is_dense && end == REAL ? sizeof(float) : sizeof(int16_t))) == 0;
    }
    layer_free(l[0]);
    layer_free(l[1]);
    free(weight);
    free(x);
    free(from);
    free(bias);
    free(shift);
    free(factor);
    free(y[0]);
    free(y[1]);
    return bad;
}

static status self_test(int path, int *passed)
{
    static const int forms[][4] = {{64, 32, 1, 13}, {16, 48, 1, 1}, {48, 16, 1, 6}, {32, 32, 0, 7}, {16, 16, 0, 1}};
    *passed = 1;
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        int same = 0;
        status bad = compare_paths(path, forms[i][0], forms[i][1], forms[i][2], forms[i][3], &same);
        if (bad)
            return bad;
        *passed &= same;
    }
    return TRANSFORM_OK;
}

/* ================================ Python binding ============================================================== */
#ifndef INTTRANSFORM_CORE_ONLY

static const char capsule_name[] = "rhodec.transforms._inttransform.layer";

static PyObject *raise_status(status bad)
{
    if (bad == NO_MEMORY)
        return PyErr_NoMemory();
    PyErr_SetString(PyExc_ValueError, messages[bad]);
    return NULL;
}

static PyObject *none_or_error(status bad)
{
    if (bad)
        return raise_status(bad);
    Py_RETURN_NONE;
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
    int path = path_by_name(name);
    status bad = path < 0 || !path_runs_here(path) ? BAD_PATH : self_test(path, &passed);
    return bad ? raise_status(bad) : PyBool_FromLong(passed);
}

static void capsule_free(PyObject *capsule)
{
    layer_free(PyCapsule_GetPointer(capsule, capsule_name));
}

/* The buffer holds exactly `count` values of `size` bytes, aligned for them. */
static int holds(const Py_buffer *view, int64_t count, size_t size)
{
    return view->len % (Py_ssize_t)size == 0 && view->len / (Py_ssize_t)size == count && (uintptr_t)view->buf % size == 0;
}

static PyObject *py_pack(PyObject *module, PyObject *args)
{
    Py_buffer weight, bias, shift;
    const char *name;
    layer_source f;
    layer *l = NULL;
    (void)module;
    if (!PyArg_ParseTuple(args, "siiipy*y*y*:pack", &name, &f.inputs, &f.outputs, &f.limit, &f.is_dense, &weight, &bias, &shift))
        return NULL;
    status bad = BAD_FORM;
    if (form_is_supported(&f)) {
        if (!holds(&weight, (int64_t)weight_count(&f), sizeof *f.weight) || !holds(&bias, f.outputs, sizeof *f.bias) ||
            !holds(&shift, f.outputs, sizeof *f.shift)) {
            bad = BAD_BUFFER;
        } else {
            f.weight = weight.buf;
            f.bias = bias.buf;
            f.shift = shift.buf;
            bad = layer_new(&f, path_by_name(name), &l);
        }
    }
    PyBuffer_Release(&weight);
    PyBuffer_Release(&bias);
    PyBuffer_Release(&shift);
    if (bad)
        return raise_status(bad);
    PyObject *capsule = PyCapsule_New(l, capsule_name, capsule_free);
    if (!capsule)
        layer_free(l);
    return capsule;
}

/* Values and bytes of one for what a source or target form says; 0 values for what does not fit. */
static int64_t form_values(int is_pixels, int is_folded, const grid *g, int channels)
{
    if (is_pixels)
        return picture_is_good(g) && channels == SAMPLES ? 3 * g->picture_height * g->picture_width : 0;
    return is_folded && channels % 4 ? 0 : g->height * g->width * channels;
}

static PyObject *py_dense(PyObject *module, PyObject *args)
{
    PyObject *capsule;
    Py_buffer x, out, factor;
    int leaky, source, target;
    grid g;
    long long size[6];
    (void)module;
    if (!PyArg_ParseTuple(args, "Opiiy*w*y*(LL)(LL)(LL):dense", &capsule, &leaky, &source, &target, &x, &out, &factor,
                          &size[0], &size[1], &size[2], &size[3], &size[4], &size[5]))
        return NULL;
    g = (grid){size[0], size[1], size[2], size[3], size[4], size[5]};
    const layer *l = PyCapsule_GetPointer(capsule, capsule_name);
    status bad = TRANSFORM_OK;
    if (l) {
        if (!l->is_dense || source < 0 || source >= SOURCES || target < 0 || target >= TARGETS)
            bad = BAD_FORM;
        else if (!grid_is_good(&g))
            bad = BAD_GRID;
        else {
            int64_t from = form_values(source == FROM_PIXELS, source == FOLD_2, &g, l->inputs);
            int64_t to = form_values(target == TO_PIXELS, target == UNFOLD_2, &g, l->outputs);
            size_t in_size = source == FROM_PIXELS ? 1 : sizeof(int16_t);
            size_t out_size = target == TO_PIXELS ? 1 : target == TO_REAL ? sizeof(float) : sizeof(int16_t);
            if (!from || !to || !holds(&x, from, in_size) || !holds(&out, to, out_size) ||
                !holds(&factor, target == TO_REAL ? l->outputs : 0, sizeof(float)))
                bad = BAD_BUFFER;
        }
        if (!bad) {
            Py_BEGIN_ALLOW_THREADS
            bad = dense_rows(l, leaky ? LEAKY : PLAIN, (source_form)source, (target_form)target, &g, x.buf, out.buf, factor.buf);
            Py_END_ALLOW_THREADS
        }
    }
    PyBuffer_Release(&x);
    PyBuffer_Release(&out);
    PyBuffer_Release(&factor);
    return l ? none_or_error(bad) : NULL; /* PyCapsule_GetPointer has set the error */
}

/* A depthwise layer, or a residual block given by its five layers. */
static PyObject *py_spatial(PyObject *module, PyObject *args)
{
    PyObject *capsules;
    Py_buffer x, out;
    long long size[4];
    (void)module;
    if (!PyArg_ParseTuple(args, "O!y*w*(LL)(LL):spatial", &PyTuple_Type, &capsules, &x, &out, &size[0], &size[1], &size[2],
                          &size[3]))
        return NULL;
    grid g = {size[0], size[1], size[2], size[3], 0, 0};
    const layer *l[5] = {NULL};
    Py_ssize_t count = PyTuple_Size(capsules);
    status bad = count == 1 || count == 5 ? TRANSFORM_OK : BAD_FORM;
    for (Py_ssize_t i = 0; i < count && !bad; i++)
        if (!(l[i] = PyCapsule_GetPointer(PyTuple_GetItem(capsules, i), capsule_name)))
            break;
    if (!PyErr_Occurred()) {
        block b = {l[0], l[1], l[2], l[3], l[4]};
        if (!bad && (count == 5 ? !block_is_good(&b) : l[0]->is_dense))
            bad = BAD_FORM;
        if (!bad && !grid_is_good(&g))
            bad = BAD_GRID;
        if (!bad) {
            int64_t values = g.height * g.width * l[0]->inputs;
            if (!holds(&x, values, sizeof(int16_t)) || !holds(&out, values, sizeof(int16_t)))
                bad = BAD_BUFFER;
        }
        if (!bad) {
            Py_BEGIN_ALLOW_THREADS
            bad = count == 5 ? block_rows(&b, &g, x.buf, out.buf) : depthwise_rows(l[0], &g, x.buf, out.buf);
            Py_END_ALLOW_THREADS
        }
    }
    PyBuffer_Release(&x);
    PyBuffer_Release(&out);
    return PyErr_Occurred() ? NULL : none_or_error(bad);
}

static PyObject *py_gain(PyObject *module, PyObject *args)
{
    const char *name;
    Py_buffer x, out, multiplier, shift;
    int is_wide, limit;
    long long begin, end;
    (void)module;
    if (!PyArg_ParseTuple(args, "spy*w*y*y*i(LL):gain", &name, &is_wide, &x, &out, &multiplier, &shift, &limit, &begin, &end))
        return NULL;
    int path = path_by_name(name);
    int64_t channels = shift.len, values = out.len / (int64_t)sizeof(int16_t);
    size_t size = is_wide ? sizeof(int32_t) : sizeof(int16_t);
    status bad = TRANSFORM_OK;
    if (path < 0 || !path_runs_here(path))
        bad = BAD_PATH;
    else if (channels < 1 || channels > MAX_CHANNELS)
        bad = BAD_FORM;
    else if (limit < 1 || limit > INT16_MAX)
        bad = BAD_LIMIT;
    else if (!holds(&multiplier, channels, sizeof(uint16_t)) || !holds(&out, values, sizeof(int16_t)) ||
             !holds(&x, values, size) || values % channels)
        bad = BAD_BUFFER;
    else if (begin < 0 || end < begin || end > values / channels)
        bad = BAD_GRID;
    for (int64_t c = 0; c < channels && !bad; c++)
        if (((const uint8_t *)shift.buf)[c] > MAX_GAIN_SHIFT || ((const uint16_t *)multiplier.buf)[c] > MAX_GAIN)
            bad = BAD_SHIFT;
    if (!bad) {
        Py_BEGIN_ALLOW_THREADS
        all_kernels[path].gain((const char *)x.buf + (size_t)(begin * channels) * size, is_wide, end - begin, (int)channels,
                               multiplier.buf, shift.buf, limit, (int16_t *)out.buf + begin * channels);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&x);
    PyBuffer_Release(&out);
    PyBuffer_Release(&multiplier);
    PyBuffer_Release(&shift);
    return none_or_error(bad);
}

static PyMethodDef methods[] = {
    {"paths", py_paths, METH_NOARGS, "Names of the kernel paths that this processor runs, slowest first."},
    {"self_test", py_self_test, METH_VARARGS, "Whether a path gives the portable path's results on extreme layers."},
    {"pack", py_pack, METH_VARARGS, "Check a layer and lay its weights out for one path."},
    {"dense", py_dense, METH_VARARGS, "Rows of a dense layer; releases the GIL."},
    {"spatial", py_spatial, METH_VARARGS, "Rows of a depthwise layer or of a residual block; releases the GIL."},
    {"gain", py_gain, METH_VARARGS, "Positions scaled by a multiplier and shift per channel; releases the GIL."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_inttransform",
    .m_doc = "Integer transforms (see the head of _inttransform.c).",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__inttransform(void)
{
    return PyModuleDef_Init(&definition);
}
#endif
