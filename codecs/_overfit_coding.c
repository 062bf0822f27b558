/* The decoder of the overfitted codec, and the coder of its latents: integers only.
 *
 *     encode, decode    latents <-> bytes: context network and range coder, one symbol after the other
 *     render            latents -> picture: upsampling, synthesis
 *
 * bitstream/FORMAT.md (section "overfit") defines every number here; the float twin that the encoder
 * descends on is _overfit_fitting.c.
 *
 * Order. The context of a latent reaches two columns to the right in the row above. So row r can be
 * LAG = 3 columns behind row r - 1, and at step t the positions (r, t - 3 r) of all rows are independent:
 * their contexts are known, their networks run side by side, 16 rows to a vector, and only the range decoder
 * then takes them one by one (a wavefront, as in video decoders).
 *
 * Invariants
 *  1. Every path gives the same integers. Activations are int16; for every output of a layer
 *     sum|w| * 32767 + |bias| + rounding < 2^31, checked when the weights arrive, so that no partial sum
 *     overflows and the order of additions is free.
 *  2. Two int16 are one 32-bit lane (the first one low), so that a layer is a sum of products of pairs:
 *     one instruction on x86 (pmaddwd), two multiplications elsewhere.
 *  3. The coder is rANS (Duda 2013) with one state x, 2^31 <= x < 2^63, 32-bit words and probabilities in 2^-24:
 *     a symbol of frequency f <= 2^24 moves at most one word (see bitstream/_rans.c for the proof).
 *  4. Cumulative frequencies rise by at least 1 from each latent to the next: c() falls nowhere and
 *     k + LIMIT is added. So every latent can be coded and the search in pop() ends.
 *  5. Nothing is read beyond the data; every size comes from the caller's checked arguments.
 *  6. >> of a negative number is arithmetic and conversion to a narrower signed type wraps, as everywhere
 *     in this project.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if (defined(__x86_64__) || defined(__i386__)) && defined(__GNUC__)
#define WITH_AVX2 1
#include <immintrin.h>
#define AVX2_TARGET __attribute__((target("avx2")))
#endif

enum {
    LEVELS = 7,
    SPATIAL = 14,
    COARSE = 6,
    INPUTS = SPATIAL + COARSE,
    TAPS = 4,
    REACH = TAPS - 1,       /* of the filter on a grid's own latents, to both sides */
    COLOURS = 3,
    LIMIT = 127,            /* of a latent */
    LAG = 3,
    GROUP = 16,             /* positions that a layer computes at once */
    WEIGHT_BITS = 10,       /* fraction bits of weights and biases */
    CONTEXT_BITS = 8,       /* of values in the context network, and of means */
    LATENT_BITS = 7,        /* of upsampled latents */
    VALUE_BITS = 10,        /* of values in the synthesis, in units of 32 levels */
    SPAN_BITS = 5,
    SCALES = 161,
    SCALE_STEP_BITS = 4,    /* levels per unit of log scale: 2^4 */
    SCALE_ORIGIN = 80,
    OCTAVE = 4096,          /* entries of the table of 2^-x, one octave */
    PROBABILITY_BITS = 24,
    MAX_WIDTH = 64,
    PAD = 8,
    PAD_TOP = 3,
    PAD_BOTTOM = 1,
};
#define PROBABILITY_SUM (1u << PROBABILITY_BITS)
#define SHARED (PROBABILITY_SUM - 256) /* what the density divides; the rest is 1 for each latent */
#define STATE_LOW ((uint64_t)1 << 31)

static const int NEIGHBOURS[SPATIAL][2] = {
    {0, -1}, {0, -2}, {0, -3}, {-1, -2}, {-1, -1}, {-1, 0}, {-1, 1},
    {-1, 2}, {-2, -2}, {-2, -1}, {-2, 0}, {-2, 1}, {-2, 2}, {-3, 0},
};

typedef enum { FINE, NO_MEMORY, BAD_WEIGHTS, BAD_LATENT, BAD_TABLES, TRUNCATED, BAD_START, DATA_LEFT, WRONG_END } status;

static const char *const MESSAGES[] = {
    [FINE] = "no error",
    [NO_MEMORY] = "out of memory",
    [BAD_WEIGHTS] = "overfit: the weights of a layer are too large",
    [BAD_LATENT] = "overfit: a latent is outside -127 .. 127",
    [BAD_TABLES] = "overfit: the coding tables are not those of the format",
    [TRUNCATED] = "overfit: the data end before the latents",
    [BAD_START] = "overfit: the first state of the range coder is out of range",
    [DATA_LEFT] = "overfit: data left after the last latent",
    [WRONG_END] = "overfit: the last state of the range coder is wrong",
};

static int halved(int size, int level) { return (int)(((int64_t)size + (1 << level) - 1) >> level); }

static uint32_t pair_of(int first, int second) { return (uint16_t)first | (uint32_t)(uint16_t)second << 16; }

/* ---- layers ------------------------------------------------------------------------------------- */

/* A layer on pairs of inputs: weights[output][pair], bias[output]. */
typedef struct {
    int pairs, outputs;
    const uint32_t *weights;
    const int32_t *bias;
} layer;

static void apply_portable(const layer *l, const uint32_t *const *in, int32_t (*acc)[GROUP])
{
    for (int o = 0; o < l->outputs; o++) {
        const uint32_t *w = l->weights + o * l->pairs;
        int32_t sum[GROUP];
        for (int n = 0; n < GROUP; n++)
            sum[n] = l->bias[o];
        for (int i = 0; i < l->pairs; i++) {
            const int32_t w0 = (int16_t)w[i], w1 = (int16_t)(w[i] >> 16);
            for (int n = 0; n < GROUP; n++)
                sum[n] += w0 * (int16_t)in[i][n] + w1 * (int16_t)(in[i][n] >> 16);
        }
        memcpy(acc[o], sum, sizeof sum);
    }
}

#ifdef WITH_AVX2
#define LOAD(P) _mm256_loadu_si256((const __m256i *)(const void *)(P))
#define STORE(P, V) _mm256_storeu_si256((__m256i *)(void *)(P), V)

AVX2_TARGET static inline __attribute__((always_inline)) void apply_block(const layer *l, const uint32_t *const *in,
                                                                          int o, const int block, int32_t (*acc)[GROUP])
{
    __m256i sum[4][2];
    _Pragma("GCC unroll 4") for (int k = 0; k < block; k++)
        sum[k][0] = sum[k][1] = _mm256_set1_epi32(l->bias[o + k]);
    const uint32_t *w = l->weights + o * l->pairs;
    for (int i = 0; i < l->pairs; i++) {
        const __m256i a = LOAD(in[i]), b = LOAD(in[i] + 8);
        _Pragma("GCC unroll 4") for (int k = 0; k < block; k++) {
            const __m256i both = _mm256_set1_epi32((int32_t)w[k * l->pairs + i]);
            sum[k][0] = _mm256_add_epi32(sum[k][0], _mm256_madd_epi16(a, both));
            sum[k][1] = _mm256_add_epi32(sum[k][1], _mm256_madd_epi16(b, both));
        }
    }
    _Pragma("GCC unroll 4") for (int k = 0; k < block; k++) {
        STORE(acc[o + k], sum[k][0]);
        STORE(acc[o + k] + 8, sum[k][1]);
    }
}

AVX2_TARGET static void apply_avx2(const layer *l, const uint32_t *const *in, int32_t (*acc)[GROUP])
{
    int o = 0;
    for (; o + 4 <= l->outputs; o += 4)
        apply_block(l, in, o, 4, acc);
    if (l->outputs - o == 3)
        apply_block(l, in, o, 3, acc);
    else if (l->outputs - o == 2)
        apply_block(l, in, o, 2, acc);
    else if (l->outputs - o == 1)
        apply_block(l, in, o, 1, acc);
}
#endif

typedef void apply_kernel(const layer *l, const uint32_t *const *in, int32_t (*acc)[GROUP]);

static apply_kernel *kernel_named(const char *path)
{
    if (strcmp(path, "portable") == 0)
        return apply_portable;
#ifdef WITH_AVX2
    if (strcmp(path, "avx2") == 0 && __builtin_cpu_supports("avx2"))
        return apply_avx2;
#endif
    return NULL;
}

static apply_kernel *fastest_kernel(void)
{
    apply_kernel *found = kernel_named("avx2");
    return found ? found : apply_portable;
}

/* Two rows of sums as pairs of values in low .. 32767, `shift` fraction bits less; halves are rounded up. */
static inline void requantise(const int32_t *even, const int32_t *odd, int shift, int32_t low, uint32_t *out)
{
    const int32_t half = 1 << (shift - 1);
    for (int n = 0; n < GROUP; n++) {
        int32_t a = (even[n] + half) >> shift, b = odd ? (odd[n] + half) >> shift : 0;
        a = a < low ? low : a > INT16_MAX ? INT16_MAX : a;
        b = b < low ? low : b > INT16_MAX ? INT16_MAX : b;
        out[n] = (uint16_t)a | (uint32_t)b << 16;
    }
}

/* Pack weights (input i, output o at weights[i * outputs + o], biases apart) and check invariant 1. `order`
 * says which inputs make pairs: two numbers each, -1 for none. */
static bool pack_layer(layer *l, const int32_t *weights, const int32_t *bias, int outputs, const int *order, int pairs,
                       int input_bits, uint32_t *packed, int32_t *packed_bias)
{
    *l = (layer){pairs, outputs, packed, packed_bias};
    for (int o = 0; o < outputs; o++) {
        int64_t sum = 1 << 15;
        for (int i = 0; i < pairs; i++) {
            int w[2];
            for (int h = 0; h < 2; h++) {
                const int input = order[2 * i + h];
                w[h] = input < 0 ? 0 : weights[input * outputs + o];
                if (w[h] < -INT16_MAX || w[h] > INT16_MAX)
                    return false;
                sum += (int64_t)(w[h] < 0 ? -w[h] : w[h]) * (INT16_MAX + 1);
            }
            packed[o * pairs + i] = pair_of(w[0], w[1]);
        }
        const int64_t b = (int64_t)bias[o] * (1 << input_bits);
        sum += b < 0 ? -b : b;
        if (sum > INT32_MAX)
            return false;
        packed_bias[o] = (int32_t)b;
    }
    return true;
}

/* ---- probabilities ------------------------------------------------------------------------------ */

typedef struct {
    const uint32_t *octave;  /* [OCTAVE] 2^30 2^(-i / OCTAVE) */
    const uint32_t *inverse; /* [SCALES] octave steps per 2^-24 of distance, for each scale */
} coding_tables;

static bool tables_are_sane(const coding_tables *t)
{
    if (t->octave[0] != 1u << 30 || t->octave[OCTAVE - 1] < 1u << 29)
        return false;
    for (int i = 1; i < OCTAVE; i++)
        if (t->octave[i] > t->octave[i - 1])
            return false;
    return true;
}

/* Half the density's share beyond a distance from the mean: falls from SHARED / 2 to 0. */
static inline uint32_t tail(const coding_tables *t, uint32_t inverse, uint32_t distance)
{
    const uint64_t steps = (uint64_t)distance * inverse >> 16;
    const uint64_t octaves = steps / OCTAVE;
    if (octaves > 30)
        return 0;
    const uint64_t value = t->octave[steps % OCTAVE] >> octaves;
    return (uint32_t)(value * (SHARED / 2) >> 30);
}

/* Cumulative frequency of the latents below k, -LIMIT <= k <= LIMIT + 1, under mean (1/256) and scale. */
static inline uint32_t below(const coding_tables *t, int32_t mean, uint32_t inverse, int k)
{
    if (k <= -LIMIT)
        return 0;
    if (k > LIMIT)
        return PROBABILITY_SUM;
    const int32_t distance = k * (1 << CONTEXT_BITS) - (1 << (CONTEXT_BITS - 1)) - mean;
    const uint32_t share = distance < 0 ? tail(t, inverse, (uint32_t)-distance)
                                        : SHARED - tail(t, inverse, (uint32_t)distance);
    return share + (uint32_t)(k + LIMIT);
}

/* ---- context network ---------------------------------------------------------------------------- */

typedef struct {
    layer first[LEVELS], second, last[LEVELS];
    uint32_t *packed;
    int32_t *bias;
    int hidden;
} context_network;

static void context_network_free(context_network *c)
{
    free(c->packed);
    free(c->bias);
}

static size_t context_count(int hidden)
{
    const size_t n = (size_t)hidden;
    return INPUTS * n + n * n + (n + INPUTS) * 2 + LEVELS * n + n + LEVELS * 2;
}

/* `weights`: context_count(hidden) numbers in 2^-10, in the order of FORMAT.md. */
static status context_network_make(context_network *c, const int32_t *weights, int hidden)
{
    memset(c, 0, sizeof *c);
    c->hidden = hidden;
    const int width = hidden + INPUTS, n = hidden;
    c->packed = calloc((size_t)(n * INPUTS / 2 + n * n / 2 + width + 8), sizeof *c->packed);
    c->bias = calloc((size_t)(LEVELS * (n + 2) + n), sizeof *c->bias);
    if (!c->packed || !c->bias)
        return NO_MEMORY;
    int order[2 * MAX_WIDTH + 2 * INPUTS];
    for (int i = 0; i < width; i++)
        order[i] = i;
    const int32_t *first = weights, *second = first + INPUTS * n, *last = second + n * n;
    const int32_t *first_bias = last + width * 2, *second_bias = first_bias + LEVELS * n;
    const int32_t *last_bias = second_bias + n;
    uint32_t *packed = c->packed;
    int32_t *bias = c->bias;
    bool fine = pack_layer(&c->second, second, second_bias, n, order, n / 2, CONTEXT_BITS, packed, bias);
    packed += n * n / 2;
    bias += n;
    for (int level = 0; level < LEVELS && fine; level++, bias += n + 2)
        fine = pack_layer(&c->first[level], first, first_bias + level * n, n, order, INPUTS / 2, CONTEXT_BITS, packed,
                          bias)
               && pack_layer(&c->last[level], last, last_bias + level * 2, 2, order, width / 2, CONTEXT_BITS,
                             packed + n * INPUTS / 2, bias + n);
    return fine ? FINE : BAD_WEIGHTS;
}

/* ---- coding of latents -------------------------------------------------------------------------- */

/* Padded planes of values y 2^CONTEXT_BITS; zeros around. */
typedef struct {
    int h[LEVELS], w[LEVELS];
    ptrdiff_t stride[LEVELS];
    int16_t *at[LEVELS]; /* row 0, column 0 */
    int16_t *block;
} planes;

static bool planes_make(planes *p, int height, int width)
{
    size_t size = 0, origin[LEVELS];
    for (int l = 0; l < LEVELS; l++) {
        p->h[l] = halved(height, l);
        p->w[l] = halved(width, l);
        p->stride[l] = p->w[l] + 2 * PAD;
        origin[l] = size + PAD_TOP * (size_t)p->stride[l] + PAD;
        size += (size_t)(PAD_TOP + p->h[l] + PAD_BOTTOM) * (size_t)p->stride[l];
    }
    p->block = calloc(size, sizeof *p->block);
    for (int l = 0; l < LEVELS && p->block; l++)
        p->at[l] = p->block + origin[l];
    return p->block != NULL;
}

typedef struct {
    uint32_t in[INPUTS / 2][GROUP];
    uint32_t a[MAX_WIDTH / 2][GROUP], b[MAX_WIDTH / 2][GROUP];
    int32_t sums[MAX_WIDTH][GROUP];
    const uint32_t *in_at[INPUTS / 2], *a_at[MAX_WIDTH / 2], *last_at[(MAX_WIDTH + INPUTS) / 2];
    int32_t mean[GROUP];
    uint32_t inverse[GROUP];
    ptrdiff_t offsets[SPATIAL];
} context_space;

static void context_space_start(context_space *s, const planes *p, int level, int hidden)
{
    for (int i = 0; i < SPATIAL; i++)
        s->offsets[i] = NEIGHBOURS[i][0] * p->stride[level] + NEIGHBOURS[i][1];
    for (int i = 0; i < INPUTS / 2; i++)
        s->in_at[i] = s->last_at[hidden / 2 + i] = s->in[i];
    for (int i = 0; i < hidden / 2; i++) {
        s->a_at[i] = s->a[i];
        s->last_at[i] = s->b[i];
    }
}

/* Context of one position as lane n: neighbours, the four nearest of the parent, two further ancestors. */
static inline void read_context(context_space *s, const planes *p, int level, int y, int x, int n)
{
    const int16_t *here = p->at[level] + y * p->stride[level] + x;
    for (int i = 0; i < SPATIAL; i += 2)
        s->in[i / 2][n] = pair_of(here[s->offsets[i]], here[s->offsets[i + 1]]);
    uint32_t *out = &s->in[SPATIAL / 2][n];
    out[0] = out[GROUP] = out[2 * GROUP] = 0;
    if (level + 1 < LEVELS) {
        const int l = level + 1;
        const int16_t *near = p->at[l] + (y >> 1) * p->stride[l] + (x >> 1);
        const int16_t *far = y & 1 ? near + p->stride[l] : near - p->stride[l];
        const int side = x & 1 ? 1 : -1;
        out[0] = pair_of(near[0], near[side]);
        out[GROUP] = pair_of(far[0], far[side]);
    }
    const int second = level + 2 < LEVELS ? p->at[level + 2][(y >> 2) * p->stride[level + 2] + (x >> 2)] : 0;
    const int third = level + 3 < LEVELS ? p->at[level + 3][(y >> 3) * p->stride[level + 3] + (x >> 3)] : 0;
    out[2 * GROUP] = pair_of(second, third);
}

static void run_context(context_space *s, const context_network *c, const coding_tables *t, int level,
                        apply_kernel *apply)
{
    apply(&c->first[level], s->in_at, s->sums);
    for (int o = 0; o < c->hidden; o += 2)
        requantise(s->sums[o], s->sums[o + 1], WEIGHT_BITS, 0, s->a[o / 2]);
    apply(&c->second, s->a_at, s->sums);
    for (int o = 0; o < c->hidden; o += 2)
        requantise(s->sums[o], s->sums[o + 1], WEIGHT_BITS, 0, s->b[o / 2]);
    apply(&c->last[level], s->last_at, s->sums);
    for (int n = 0; n < GROUP; n++) {
        const int32_t mean = (s->sums[0][n] + (1 << (WEIGHT_BITS - 1))) >> WEIGHT_BITS;
        const int shift = WEIGHT_BITS + CONTEXT_BITS - SCALE_STEP_BITS;
        const int32_t scale = ((s->sums[1][n] + (1 << (shift - 1))) >> shift) + SCALE_ORIGIN;
        const int32_t most = LIMIT * (1 << CONTEXT_BITS);
        s->mean[n] = mean < -most ? -most : mean > most ? most : mean;
        s->inverse[n] = t->inverse[scale < 0 ? 0 : scale >= SCALES ? SCALES - 1 : scale];
    }
}

typedef struct {
    uint64_t state;
    const uint8_t *at, *end;
} source;

typedef struct {
    uint32_t start, frequency;
} interval;

/* The next latent; k = LIMIT + 1 says that the data are at an end. */
static inline int pop(source *s, const coding_tables *t, int32_t mean, uint32_t inverse)
{
    const uint32_t slot = s->state & (PROBABILITY_SUM - 1);
    int k = (mean + (1 << (CONTEXT_BITS - 1))) >> CONTEXT_BITS;
    uint32_t low = below(t, mean, inverse, k), high;
    if (slot < low) {
        do {
            high = low;
            low = below(t, mean, inverse, --k);
        } while (slot < low);
    } else {
        while (slot >= (high = below(t, mean, inverse, k + 1))) {
            low = high;
            k++;
        }
    }
    uint64_t x = (uint64_t)(high - low) * (s->state >> PROBABILITY_BITS) + (slot - low);
    if (x < STATE_LOW) {
        if (s->end - s->at < 4)
            return LIMIT + 1;
        x = x << 32 | (uint32_t)s->at[0] | (uint32_t)s->at[1] << 8 | (uint32_t)s->at[2] << 16 | (uint32_t)s->at[3] << 24;
        s->at += 4;
    }
    s->state = x;
    return k;
}

/* All latents of the grids from `finest` on in coding order. With `from` they are decoded into the planes; else the
 * planes hold them and their intervals go to `to`. */
static status walk(const planes *p, int finest, const context_network *c, const coding_tables *t, apply_kernel *apply,
                   source *from, interval *to)
{
    context_space *s = calloc(1, sizeof *s);
    if (!s)
        return NO_MEMORY;
    status result = FINE;
    for (int level = LEVELS - 1; level >= finest; level--) {
        const int h = p->h[level], w = p->w[level];
        context_space_start(s, p, level, c->hidden);
        for (int64_t step = 0; step < w + (int64_t)LAG * (h - 1) && result == FINE; step++) {
            const int top = step < w ? 0 : (int)((step - w) / LAG + 1);
            const int bottom = step / LAG < h ? (int)(step / LAG) : h - 1;
            for (int row = top; row <= bottom; row += GROUP) {
                const int count = bottom - row + 1 < GROUP ? bottom - row + 1 : GROUP;
                for (int n = 0; n < count; n++)
                    read_context(s, p, level, row + n, (int)(step - (int64_t)LAG * (row + n)), n);
                run_context(s, c, t, level, apply);
                for (int n = 0; n < count; n++) {
                    const int y = row + n, x = (int)(step - (int64_t)LAG * y);
                    int16_t *at = p->at[level] + y * p->stride[level] + x;
                    if (from) {
                        const int k = pop(from, t, s->mean[n], s->inverse[n]);
                        if (k > LIMIT) {
                            result = TRUNCATED;
                            goto done;
                        }
                        *at = (int16_t)(k * (1 << CONTEXT_BITS));
                    } else {
                        const int k = *at >> CONTEXT_BITS;
                        to->start = below(t, s->mean[n], s->inverse[n], k);
                        to->frequency = below(t, s->mean[n], s->inverse[n], k + 1) - to->start;
                        to++;
                    }
                }
            }
        }
    }
done:
    free(s);
    return result;
}

/* The bytes of intervals, written backwards from `end`: first state (8 bytes), words. Returns their begin. */
static uint8_t *push_all(const interval *intervals, size_t count, uint8_t *end)
{
    uint64_t x = STATE_LOW;
    uint8_t *at = end;
    for (size_t i = count; i-- > 0;) {
        const uint64_t f = intervals[i].frequency;
        if (x >= f << (63 - PROBABILITY_BITS)) {
            at -= 4;
            for (int b = 0; b < 4; b++)
                at[b] = (uint8_t)(x >> 8 * b);
            x >>= 32;
        }
        x = (x / f << PROBABILITY_BITS) + x % f + intervals[i].start;
    }
    at -= 8;
    for (int b = 0; b < 8; b++)
        at[b] = (uint8_t)(x >> 8 * b);
    return at;
}

/* ---- picture ------------------------------------------------------------------------------------ */

typedef struct {
    layer mix, colour, spread, gather;
    int32_t filters[LEVELS - 1][TAPS], own[LEVELS][TAPS];
    bool has_own;
    int features, residual;
    uint32_t *packed;
    int32_t *bias;
} synthesis_network;

static void synthesis_network_free(synthesis_network *n)
{
    free(n->packed);
    free(n->bias);
}

static size_t synthesis_count(int features, int residual)
{
    const size_t f = (size_t)features, r = (size_t)residual;
    return (LEVELS - 1) * TAPS + LEVELS * f + f + f * COLOURS + COLOURS + 9 * COLOURS * r + r + 9 * r * COLOURS + COLOURS;
}

/* Inputs of a 3x3 layer as pairs of channels at one tap: [pair of channels][tap]. */
static int convolution_order(int channels, int *order)
{
    int pairs = 0;
    for (int c = 0; c < channels; c += 2)
        for (int t = 0; t < 9; t++, pairs++) {
            order[2 * pairs] = c * 9 + t;
            order[2 * pairs + 1] = c + 1 < channels ? (c + 1) * 9 + t : -1;
        }
    return pairs;
}

/* Copy the taps of a filter, whose sums then stay below 2^31. */
static bool filter_make(const int32_t *taps, int32_t *filter)
{
    int32_t sum = 0;
    for (int k = 0; k < TAPS; k++) {
        if (taps[k] < -INT16_MAX || taps[k] > INT16_MAX)
            return false;
        filter[k] = taps[k];
        sum += taps[k] < 0 ? -taps[k] : taps[k];
    }
    return sum < 1 << 15;
}

/* own: LEVELS x TAPS, or NULL. */
static status synthesis_network_make(synthesis_network *n, const int32_t *weights, const int32_t *own, int features,
                                     int residual)
{
    memset(n, 0, sizeof *n);
    n->features = features;
    n->residual = residual;
    n->has_own = own;
    const int F = features, R = residual;
    for (int l = 0; l < LEVELS - 1; l++)
        if (!filter_make(weights + l * TAPS, n->filters[l]))
            return BAD_WEIGHTS;
    for (int l = 0; own && l < LEVELS; l++)
        if (!filter_make(own + l * TAPS, n->own[l]))
            return BAD_WEIGHTS;
    const int32_t *mix = weights + (LEVELS - 1) * TAPS, *mix_bias = mix + LEVELS * F, *colour = mix_bias + F;
    const int32_t *colour_bias = colour + F * COLOURS, *spread = colour_bias + COLOURS;
    const int32_t *spread_bias = spread + 9 * COLOURS * R, *gather = spread_bias + R;
    const int32_t *gather_bias = gather + 9 * R * COLOURS;
    int order[2 * 9 * MAX_WIDTH];
    const size_t sizes[4] = {(size_t)(F * (LEVELS + 1) / 2), (size_t)(COLOURS * F / 2), (size_t)(R * 18),
                             (size_t)(COLOURS * 9 * ((R + 1) / 2))};
    n->packed = calloc(sizes[0] + sizes[1] + sizes[2] + sizes[3], sizeof *n->packed);
    n->bias = calloc((size_t)(F + R + 2 * COLOURS), sizeof *n->bias);
    if (!n->packed || !n->bias)
        return NO_MEMORY;
    uint32_t *packed = n->packed;
    int32_t *bias = n->bias;
    for (int i = 0; i < F || i <= LEVELS; i++)
        order[i] = i;
    order[LEVELS] = -1;
    bool fine = pack_layer(&n->mix, mix, mix_bias, F, order, (LEVELS + 1) / 2, LATENT_BITS, packed, bias);
    order[LEVELS] = LEVELS;
    fine = fine && pack_layer(&n->colour, colour, colour_bias, COLOURS, order, F / 2, VALUE_BITS, packed += sizes[0], bias += F);
    int pairs = convolution_order(COLOURS, order);
    fine = fine && pack_layer(&n->spread, spread, spread_bias, R, order, pairs, VALUE_BITS, packed += sizes[1], bias += COLOURS);
    pairs = convolution_order(R, order);
    fine = fine && pack_layer(&n->gather, gather, gather_bias, COLOURS, order, pairs, VALUE_BITS, packed += sizes[2], bias += R);
    for (int c = 0; c < COLOURS && fine; c++) { /* room for the colour that is added to the last sums */
        int64_t sum = (int64_t)1 << 26;
        for (int i = 0; i < 9 * R; i++)
            sum += (int64_t)(gather[i * COLOURS + c] < 0 ? -gather[i * COLOURS + c] : gather[i * COLOURS + c]) << 15;
        fine = sum + ((int64_t)(gather_bias[c] < 0 ? -gather_bias[c] : gather_bias[c]) << VALUE_BITS) <= INT32_MAX;
    }
    return fine ? FINE : BAD_WEIGHTS;
}

static inline int16_t clamp16(int32_t v) { return (int16_t)(v < INT16_MIN ? INT16_MIN : v > INT16_MAX ? INT16_MAX : v); }
static inline int clamped(int i, int size) { return i < 0 ? 0 : i >= size ? size - 1 : i; }

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__linux__)
#define VERSIONS __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define VERSIONS
#endif

/* A row twice as dense; `row` has room for two values on both sides of a copy of the input. */
VERSIONS static void widen(const int16_t *in, int w, const int32_t *f, int16_t *row, int16_t *out)
{
    memcpy(row, in, sizeof *row * (size_t)w);
    row[-2] = row[-1] = in[0];
    row[w] = row[w + 1] = in[w - 1];
    const int32_t half = 1 << (WEIGHT_BITS - 1), f0 = f[0], f1 = f[1], f2 = f[2], f3 = f[3];
    for (int i = 0; i < w; i++) {
        const int32_t even = f0 * row[i - 2] + f1 * row[i - 1] + f2 * row[i] + f3 * row[i + 1];
        const int32_t odd = f3 * row[i - 1] + f2 * row[i] + f1 * row[i + 1] + f0 * row[i + 2];
        out[2 * i] = clamp16((even + half) >> WEIGHT_BITS);
        out[2 * i + 1] = clamp16((odd + half) >> WEIGHT_BITS);
    }
}

/* Row y between the rows of a widened plane. */
VERSIONS static void between(const int16_t *wide, int h, size_t stride, int y, const int32_t *f, int w, int16_t *out)
{
    const int16_t *from[TAPS];
    int32_t t[TAPS];
    for (int k = 0; k < TAPS; k++) {
        from[k] = wide + (size_t)clamped((y >> 1) + (y & 1 ? k - 1 : k - 2), h) * stride;
        t[k] = f[y & 1 ? TAPS - 1 - k : k];
    }
    const int32_t half = 1 << (WEIGHT_BITS - 1);
    for (int x = 0; x < w; x++)
        out[x] = clamp16((t[0] * from[0][x] + t[1] * from[1][x] + t[2] * from[2][x] + t[3] * from[3][x] + half)
                         >> WEIGHT_BITS);
}

/* Row y of a grid's own latents as the stack has them. `line` has room for REACH zeros on both sides of a row. */
VERSIONS static void own_row(const synthesis_network *n, const int8_t *grid, int level, int h, int w, int y,
                             int16_t *line, int16_t *out)
{
    const int8_t *row = grid + (size_t)y * (size_t)w;
    if (!n->has_own) {
        for (int x = 0; x < w; x++)
            out[x] = (int16_t)(row[x] * (1 << LATENT_BITS));
        return;
    }
    const int32_t *t = n->own[level], half = 1 << (WEIGHT_BITS - 1);
    for (int x = 0; x < w; x++) {
        int32_t sum = t[0] * row[x];
        for (int k = 1; k <= REACH; k++) {
            const ptrdiff_t away = (ptrdiff_t)k * w;
            sum += t[k] * ((y >= k ? row[x - away] : 0) + (y + k < h ? row[x + away] : 0));
        }
        line[x] = clamp16((sum * (1 << LATENT_BITS) + half) >> WEIGHT_BITS);
    }
    memset(line - REACH, 0, sizeof *line * REACH);
    memset(line + w, 0, sizeof *line * REACH);
    for (int x = 0; x < w; x++) {
        int32_t sum = t[0] * line[x] + half;
        for (int k = 1; k <= REACH; k++)
            sum += t[k] * (line[x - k] + line[x + k]);
        out[x] = clamp16(sum >> WEIGHT_BITS);
    }
}

/* Rows first .. last - 1 of the picture, interleaved RGB, to `out`. */
typedef struct {
    const synthesis_network *net;
    apply_kernel *apply;
    int height, width, h1; /* rows of the widened planes */
    size_t wide_stride;
    const int16_t *wide;   /* LEVELS - 1 planes: the grids 6 .. 1 at full width and half height */
    size_t wide_size;
    const int8_t *own;     /* the finest latents */
} scene;

static size_t row_room(int width) { return (size_t)(width + GROUP - 1) / GROUP * GROUP + 2 * GROUP; }

/* One row of colours before the residual: two planes of pairs (red, green), (blue, 0), edges repeated. */
static void colour_row(const scene *s, int y, int16_t *lines, uint32_t *values, uint32_t *out)
{
    const size_t room = row_room(s->width);
    const uint32_t *in[MAX_WIDTH / 2];
    uint32_t pairs[(LEVELS + 1) / 2][GROUP];
    int32_t sums[MAX_WIDTH][GROUP];
    for (int c = 0; c < LEVELS - 1; c++)
        between(s->wide + (size_t)c * s->wide_size, s->h1, s->wide_stride, y, s->net->filters[0], s->width,
                lines + (size_t)c * room);
    own_row(s->net, s->own, 0, s->height, s->width, y, lines + (LEVELS + 1) * room + GROUP, lines + (LEVELS - 1) * room);
    for (int x = 0; x < s->width; x += GROUP) {
        for (int i = 0; i < (LEVELS + 1) / 2; i++) {
            const int16_t *a = lines + (size_t)(2 * i) * room + x, *b = a + room; /* the eighth line stays 0 */
            for (int n = 0; n < GROUP; n++)
                pairs[i][n] = (uint16_t)a[n] | (uint32_t)b[n] << 16;
            in[i] = pairs[i];
        }
        s->apply(&s->net->mix, in, sums);
        for (int o = 0; o < s->net->features; o += 2) {
            requantise(sums[o], sums[o + 1], WEIGHT_BITS + LATENT_BITS - VALUE_BITS, 0, values + (size_t)(o / 2) * GROUP);
            in[o / 2] = values + (size_t)(o / 2) * GROUP;
        }
        s->apply(&s->net->colour, in, sums);
        requantise(sums[0], sums[1], WEIGHT_BITS, INT16_MIN, out + GROUP + x);
        requantise(sums[2], NULL, WEIGHT_BITS, INT16_MIN, out + room + GROUP + x);
    }
    for (int c = 0; c < 2; c++, out += room) {
        out[GROUP - 1] = out[GROUP];
        out[GROUP + s->width] = out[GROUP + s->width - 1];
    }
}

/* A row of the hidden values of the residual from the colours of three rows; zeros beside the picture. */
static void spread_row(const scene *s, const uint32_t *const rows[3], uint32_t *out)
{
    const size_t room = row_room(s->width);
    const uint32_t *in[18];
    int32_t sums[MAX_WIDTH][GROUP];
    const int R = s->net->residual;
    for (int x = 0; x < s->width; x += GROUP) {
        for (int i = 0; i < 18; i++)
            in[i] = rows[i % 9 / 3] + (size_t)(i / 9) * room + (GROUP - 1 + x + i % 3);
        s->apply(&s->net->spread, in, sums);
        for (int o = 0; o < R; o += 2)
            requantise(sums[o], o + 1 < R ? sums[o + 1] : NULL, WEIGHT_BITS, 0, out + (size_t)(o / 2) * room + GROUP + x);
    }
    for (int o = 0; o < (R + 1) / 2; o++)
        memset(out + (size_t)o * room + GROUP + s->width, 0, sizeof *out * (room - GROUP - (size_t)s->width));
}

static void gather_row(const scene *s, const uint32_t *const rows[3], const uint32_t *colour, uint8_t *out)
{
    const size_t room = row_room(s->width);
    const uint32_t *in[9 * MAX_WIDTH / 2];
    int32_t sums[COLOURS][GROUP];
    const int pairs = s->net->gather.pairs;
    for (int x = 0; x < s->width; x += GROUP) {
        for (int i = 0; i < pairs; i++)
            in[i] = rows[i % 9 / 3] + (size_t)(i / 9) * room + (GROUP - 1 + x + i % 3);
        s->apply(&s->net->gather, in, sums);
        const uint32_t *first = colour + GROUP + x, *last = first + room;
        uint8_t group[COLOURS * GROUP];
        for (int n = 0; n < GROUP; n++) {
            const int16_t base[COLOURS] = {(int16_t)first[n], (int16_t)(first[n] >> 16), (int16_t)last[n]};
            for (int c = 0; c < COLOURS; c++) {
                const int shift = WEIGHT_BITS + VALUE_BITS - SPAN_BITS;
                const int32_t sum = sums[c][n] + base[c] * (1 << WEIGHT_BITS);
                const int32_t level = ((sum + (1 << (shift - 1))) >> shift) + 128;
                group[COLOURS * n + c] = (uint8_t)(level < 0 ? 0 : level > 255 ? 255 : level);
            }
        }
        const int count = s->width - x < GROUP ? s->width - x : GROUP;
        memcpy(out + COLOURS * (size_t)x, group, (size_t)(COLOURS * count));
    }
}

/* Rows first .. last - 1 to out. Colours and hidden values live in rings of three rows. */
static status render_rows(const scene *s, int first, int last, uint8_t *out)
{
    const size_t room = row_room(s->width);
    const size_t deep = (size_t)(s->net->residual + 1) / 2 * room;
    int16_t *lines = calloc((LEVELS + 2) * room, sizeof *lines);
    uint32_t *block = calloc(6 * room + 4 * deep + MAX_WIDTH / 2 * GROUP, sizeof *block);
    if (!lines || !block) {
        free(lines);
        free(block);
        return NO_MEMORY;
    }
    uint32_t *colour = block, *hidden = colour + 6 * room, *nothing = hidden + 3 * deep, *values = nothing + deep;
    const int H = s->height, begin = first > 1 ? first - 2 : 0, end = last + 2 < H ? last + 2 : H;
    for (int y = begin; y < end + 2; y++) {
        if (y < end)
            colour_row(s, y, lines, values, colour + (size_t)(y % 3) * 2 * room);
        const int middle = y - 1;
        if (middle >= (begin ? begin + 1 : 0) && middle < H && middle < (end < H ? end - 1 : H)) {
            const uint32_t *rows[3];
            for (int k = 0; k < 3; k++)
                rows[k] = colour + (size_t)(clamped(middle + k - 1, H) % 3) * 2 * room;
            spread_row(s, rows, hidden + (size_t)(middle % 3) * deep);
        }
        const int shown = y - 2;
        if (shown >= first && shown < last) {
            const uint32_t *rows[3];
            for (int k = 0; k < 3; k++) {
                const int from = shown + k - 1;
                rows[k] = from < 0 || from >= H ? nothing : hidden + (size_t)(from % 3) * deep;
            }
            gather_row(s, rows, colour + (size_t)(shown % 3) * 2 * room,
                       out + (size_t)(shown - first) * (size_t)s->width * COLOURS);
        }
    }
    free(lines);
    free(block);
    return FINE;
}

/* Latents: grids 0 (the finest) to 6, row by row, one after the other. */
static status render(const synthesis_network *net, apply_kernel *apply, const int8_t *latents, int height, int width,
                     int first, int last, uint8_t *out)
{
    scene s = {.net = net, .apply = apply, .height = height, .width = width, .own = latents, .h1 = halved(height, 1)};
    const int8_t *from[LEVELS];
    for (int l = 0; l < LEVELS; l++) {
        from[l] = latents;
        latents += (size_t)halved(height, l) * (size_t)halved(width, l);
    }
    /* The stack of each level in turn: planes of int16, then the same planes widened. */
    s.wide_stride = 2 * (size_t)halved(width, 1);
    s.wide_size = s.wide_stride * (size_t)s.h1;
    const size_t plane = (size_t)halved(width, 1) * (size_t)s.h1;
    int16_t *stack = malloc(sizeof *stack * plane * (LEVELS - 1));
    int16_t *wide = malloc(sizeof *wide * s.wide_size * (LEVELS - 1));
    int16_t *row = malloc(sizeof *row * ((size_t)width + 8));
    status result = NO_MEMORY;
    if (stack && wide && row) {
        for (int l = LEVELS - 1; l >= 1; l--) {
            const int h = halved(height, l), w = halved(width, l), parents = LEVELS - 1 - l;
            for (int c = 0; c < parents; c++) {
                const int below_h = halved(height, l + 1), below_w = halved(width, l + 1);
                for (int y = 0; y < h; y++)
                    between(wide + (size_t)c * s.wide_size, below_h, 2 * (size_t)below_w, y, net->filters[l], w,
                            stack + (size_t)c * plane + (size_t)y * (size_t)w);
            }
            int16_t *own = stack + (size_t)parents * plane;
            for (int y = 0; y < h; y++)
                own_row(net, from[l], l, h, w, y, row + 4, own + (size_t)y * (size_t)w);
            for (int c = 0; c <= parents; c++)
                for (int y = 0; y < h; y++)
                    widen(stack + (size_t)c * plane + (size_t)y * (size_t)w, w, net->filters[l - 1], row + 4,
                          wide + (size_t)c * s.wide_size + (size_t)y * 2 * (size_t)w);
        }
        s.wide = wide;
        result = render_rows(&s, first, last, out);
    }
    free(stack);
    free(wide);
    free(row);
    return result;
}

/* ================================================================================================
 * The Python binding: module rhodec.codecs._overfit_coding.
 * ============================================================================================== */

typedef struct {
    PyObject *stream_error;
} module_state;

static PyObject *raise_status(PyObject *module, status s)
{
    if (s == NO_MEMORY)
        return PyErr_NoMemory();
    module_state *state = PyModule_GetState(module);
    PyErr_SetString(s == BAD_LATENT || s == BAD_TABLES ? PyExc_ValueError : state->stream_error, MESSAGES[s]);
    return NULL;
}

/* The data of a contiguous array of a known length and struct code; `count` < 0: any length. */
static bool get_array(PyObject *object, Py_buffer *view, const char *name, const char *letters, Py_ssize_t itemsize,
                      Py_ssize_t count, bool writable)
{
    if (PyObject_GetBuffer(object, view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0)) < 0)
        return false;
    const char *format = view->format ? view->format : "B";
    if (format[0] && !format[1] && strchr(letters, format[0]) && view->itemsize == itemsize
        && (count < 0 || view->len == count * itemsize))
        return true;
    PyErr_Format(PyExc_ValueError, "%s: wrong type or length (%zd elements expected)", name, count);
    PyBuffer_Release(view);
    view->obj = NULL;
    return false;
}

static void release(Py_buffer *views, int count)
{
    for (int i = 0; i < count; i++)
        if (views[i].obj)
            PyBuffer_Release(&views[i]);
}

static bool arguments_are_fine(int height, int width, int a, int b, const char *path, apply_kernel **apply)
{
    if (height < 1 || width < 1 || height > 1 << 24 || width > 1 << 24 || (int64_t)height * width > 1 << 28) {
        PyErr_SetString(PyExc_ValueError, "the size of the picture is out of range");
        return false;
    }
    if (a < 2 || a > MAX_WIDTH || a % 2 || b < 1 || b > MAX_WIDTH) {
        PyErr_SetString(PyExc_ValueError, "the width of a layer is out of range or odd");
        return false;
    }
    *apply = path ? kernel_named(path) : fastest_kernel();
    if (!*apply)
        PyErr_SetString(PyExc_ValueError, "this kernel path is unknown or not supported by this processor");
    return *apply != NULL;
}

static bool is_grid(int level)
{
    if (level < 0 || level >= LEVELS)
        PyErr_SetString(PyExc_ValueError, "there is no such grid");
    return level >= 0 && level < LEVELS;
}

/* Of the grids from `finest` on. */
static Py_ssize_t latent_count(int height, int width, int finest)
{
    Py_ssize_t count = 0;
    for (int l = finest; l < LEVELS; l++)
        count += (Py_ssize_t)halved(height, l) * halved(width, l);
    return count;
}

static status start_coding(planes *p, context_network *c, const coding_tables *t, int height, int width, int hidden,
                           const int32_t *weights)
{
    if (!tables_are_sane(t))
        return BAD_TABLES;
    const status s = context_network_make(c, weights, hidden);
    return s != FINE ? s : planes_make(p, height, width) ? FINE : NO_MEMORY;
}

static status encode_latents(int height, int width, int finest, int hidden, const int32_t *weights,
                             const coding_tables *t, apply_kernel *apply, const int8_t *latents, size_t count,
                             uint8_t **block, uint8_t **begin, uint8_t **end)
{
    planes p = {.block = NULL};
    context_network c = {.packed = NULL};
    interval *intervals = malloc(sizeof *intervals * count);
    status s = start_coding(&p, &c, t, height, width, hidden, weights);
    if (s == FINE && !intervals)
        s = NO_MEMORY;
    for (int l = finest; l < LEVELS && s == FINE; l++)
        for (int y = 0; y < p.h[l]; y++)
            for (int x = 0; x < p.w[l]; x++, latents++) {
                if (*latents < -LIMIT)
                    s = BAD_LATENT;
                p.at[l][y * p.stride[l] + x] = (int16_t)(*latents * (1 << CONTEXT_BITS));
            }
    if (s == FINE)
        s = walk(&p, finest, &c, t, apply, NULL, intervals);
    if (s == FINE) {
        *block = malloc(8 + 4 * count);
        if (*block) {
            *end = *block + 8 + 4 * count;
            *begin = push_all(intervals, count, *end);
        } else {
            s = NO_MEMORY;
        }
    }
    free(intervals);
    free(p.block);
    context_network_free(&c);
    return s;
}

static status decode_latents(int height, int width, int finest, int hidden, const int32_t *weights,
                             const coding_tables *t, apply_kernel *apply, const uint8_t *data, size_t size,
                             int8_t *latents)
{
    planes p = {.block = NULL};
    context_network c = {.packed = NULL};
    source from = {.at = data + 8, .end = data + size};
    status s = size < 8 ? TRUNCATED : start_coding(&p, &c, t, height, width, hidden, weights);
    if (s == FINE) {
        for (int b = 0; b < 8; b++)
            from.state |= (uint64_t)data[b] << 8 * b;
        if (from.state < STATE_LOW || from.state >> 63)
            s = BAD_START;
    }
    if (s == FINE)
        s = walk(&p, finest, &c, t, apply, &from, NULL);
    if (s == FINE && from.at != from.end)
        s = DATA_LEFT;
    if (s == FINE && from.state != STATE_LOW)
        s = WRONG_END;
    for (int l = finest; l < LEVELS && s == FINE; l++)
        for (int y = 0; y < p.h[l]; y++)
            for (int x = 0; x < p.w[l]; x++)
                *latents++ = (int8_t)(p.at[l][y * p.stride[l] + x] >> CONTEXT_BITS);
    free(p.block);
    context_network_free(&c);
    return s;
}

static PyObject *py_paths(PyObject *module, PyObject *args)
{
    (void)module, (void)args;
    return kernel_named("avx2") ? Py_BuildValue("[ss]", "portable", "avx2") : Py_BuildValue("[s]", "portable");
}

static PyObject *py_encode(PyObject *module, PyObject *args)
{
    int height, width, finest, hidden;
    const char *path = NULL;
    PyObject *o[4], *result = NULL;
    apply_kernel *apply;
    if (!PyArg_ParseTuple(args, "iiiiOOOO|z", &height, &width, &finest, &hidden, &o[0], &o[1], &o[2], &o[3], &path)
        || !arguments_are_fine(height, width, hidden, 1, path, &apply) || !is_grid(finest))
        return NULL;
    Py_buffer v[4] = {{0}};
    const Py_ssize_t count = latent_count(height, width, finest);
    if (get_array(o[0], &v[0], "weights", "il", 4, (Py_ssize_t)context_count(hidden), false)
        && get_array(o[1], &v[1], "octave", "IL", 4, OCTAVE, false)
        && get_array(o[2], &v[2], "inverse", "IL", 4, SCALES, false)
        && get_array(o[3], &v[3], "latents", "b", 1, count, false)) {
        const coding_tables t = {v[1].buf, v[2].buf};
        uint8_t *block = NULL, *begin = NULL, *end = NULL;
        status s;
        Py_BEGIN_ALLOW_THREADS
        s = encode_latents(height, width, finest, hidden, v[0].buf, &t, apply, v[3].buf, (size_t)count, &block, &begin,
                           &end);
        Py_END_ALLOW_THREADS
        result = s == FINE ? PyBytes_FromStringAndSize((const char *)begin, end - begin) : raise_status(module, s);
        free(block);
    }
    release(v, 4);
    return result;
}

static PyObject *py_decode(PyObject *module, PyObject *args)
{
    int height, width, finest, hidden;
    const char *path = NULL;
    PyObject *o[5];
    apply_kernel *apply;
    if (!PyArg_ParseTuple(args, "iiiiOOOOO|z", &height, &width, &finest, &hidden, &o[0], &o[1], &o[2], &o[3], &o[4], &path)
        || !arguments_are_fine(height, width, hidden, 1, path, &apply) || !is_grid(finest))
        return NULL;
    Py_buffer v[5] = {{0}};
    bool fine = get_array(o[0], &v[0], "weights", "il", 4, (Py_ssize_t)context_count(hidden), false)
                && get_array(o[1], &v[1], "octave", "IL", 4, OCTAVE, false)
                && get_array(o[2], &v[2], "inverse", "IL", 4, SCALES, false)
                && get_array(o[3], &v[3], "data", "B", 1, -1, false)
                && get_array(o[4], &v[4], "latents", "b", 1, latent_count(height, width, finest), true);
    if (fine) {
        const coding_tables t = {v[1].buf, v[2].buf};
        status s;
        Py_BEGIN_ALLOW_THREADS
        s = decode_latents(height, width, finest, hidden, v[0].buf, &t, apply, v[3].buf, (size_t)v[3].len, v[4].buf);
        Py_END_ALLOW_THREADS
        fine = s == FINE;
        if (!fine)
            raise_status(module, s);
    }
    release(v, 5);
    if (!fine)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *py_render(PyObject *module, PyObject *args)
{
    int height, width, features, residual, first, last;
    const char *path = NULL;
    PyObject *o[4];
    apply_kernel *apply;
    if (!PyArg_ParseTuple(args, "iiiiOOO(ii)O|z", &height, &width, &features, &residual, &o[0], &o[3], &o[1], &first,
                          &last, &o[2], &path)
        || !arguments_are_fine(height, width, features, residual, path, &apply))
        return NULL;
    if (first < 0 || last <= first || last > height) {
        PyErr_SetString(PyExc_ValueError, "these rows are not in the picture");
        return NULL;
    }
    Py_buffer v[4] = {{0}};
    bool fine = get_array(o[0], &v[0], "weights", "il", 4, (Py_ssize_t)synthesis_count(features, residual), false)
                && (o[3] == Py_None || get_array(o[3], &v[3], "own", "il", 4, LEVELS * TAPS, false))
                && get_array(o[1], &v[1], "latents", "b", 1, latent_count(height, width, 0), false)
                && get_array(o[2], &v[2], "out", "B", 1, (Py_ssize_t)(last - first) * width * COLOURS, true);
    if (fine) {
        synthesis_network net;
        status s;
        Py_BEGIN_ALLOW_THREADS
        s = synthesis_network_make(&net, v[0].buf, v[3].buf, features, residual);
        if (s == FINE)
            s = render(&net, apply, v[1].buf, height, width, first, last, v[2].buf);
        synthesis_network_free(&net);
        Py_END_ALLOW_THREADS
        fine = s == FINE;
        if (!fine)
            raise_status(module, s);
    }
    release(v, 4);
    if (!fine)
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"paths", py_paths, METH_NOARGS, "paths() -> names of the kernels that this processor runs"},
    {"encode", py_encode, METH_VARARGS,
     "encode(height, width, finest, hidden, weights, octave, inverse, latents, path=None, /) -> bytes; latents: those of\n"
     "the grids from `finest` on"},
    {"decode", py_decode, METH_VARARGS,
     "decode(height, width, finest, hidden, weights, octave, inverse, data, latents, path=None, /): fills latents"},
    {"render", py_render, METH_VARARGS,
     "render(height, width, features, residual, weights, own, latents, (first, last), out, path=None, /): fills out\n"
     "with rows first .. last - 1 as RGB; own: filters of the grids' own latents, or None"},
    {NULL, NULL, 0, NULL},
};

static int module_exec(PyObject *module)
{
    module_state *state = PyModule_GetState(module);
    PyObject *errors = PyImport_ImportModule("rhodec.bitstream.stream_error");
    if (!errors)
        return -1;
    state->stream_error = PyObject_GetAttrString(errors, "StreamError");
    Py_DECREF(errors);
    return state->stream_error ? 0 : -1;
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    module_state *state = PyModule_GetState(module);
    Py_VISIT(state->stream_error);
    return 0;
}

static int module_clear(PyObject *module)
{
    module_state *state = PyModule_GetState(module);
    Py_CLEAR(state->stream_error);
    return 0;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, module_exec}, {0, NULL}};
static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "rhodec.codecs._overfit_coding",
    .m_doc = "Integer decoder of the overfitted codec and coder of its latents.", .m_size = sizeof(module_state),
    .m_methods = methods, .m_slots = slots, .m_traverse = module_traverse, .m_clear = module_clear};

PyMODINIT_FUNC PyInit__overfit_coding(void);
PyMODINIT_FUNC PyInit__overfit_coding(void)
{
    return PyModuleDef_Init(&definition);
}
