/* Rate and distortion of the overfitted codec in floating point, with their gradients.
 *
 * The encoder of codecs/overfit.py descends on  J = bits + weight * squared error  over the latents of one
 * picture and over the weights of its networks. Two calls do the work of an iteration, and as neither
 * needs the other they run in two threads:
 *
 *     rate        latents -> context network -> Laplace code length, and back
 *     distortion  latents -> upsampling -> synthesis -> squared error, and back
 *
 * The model is that of Cool-chic (Ladune et al., ICCV 2023; Leguay et al., MMSP 2023) in its main lines;
 * FORMAT.md has the integer form that decodes. Everything is written as matrix products over runs of 64
 * neighbouring pixels: a run of one channel is 8 vectors, a layer's inputs are pointers to runs, so
 * a convolution is a dense layer whose inputs are shifted pointers, and there is one kernel forward (`dense`, also
 * used for the gradient of the inputs) and one for the gradient of the weights (`outer`). Hidden
 * values are recomputed in the backward pass instead of stored: they stay in the first-level cache.
 *
 * Latents stand in padded planes (`geometry`), so that no context needs a test for the border: zeros
 * around each plane stand for what is outside the picture.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum {
    LEVELS = 7,
    LANES = 8,
    RUN = 64,     /* pixels of a run */
    SPATIAL = 14, /* context values from the same grid */
    COARSE = 6,   /* and from coarser ones */
    INPUTS = SPATIAL + COARSE,
    TAPS = 4,     /* free taps of an upsampling filter: 8, symmetric */
    COLOURS = 3,
    PAD_LEFT = 8,
    PAD_RIGHT = 8,
    PAD_TOP = 3,
    PAD_BOTTOM = 1,
    MAX_WIDTH = 64, /* of a hidden layer */
    MAX_INPUTS = 9 * 16,
};

/* The same numbers are in FORMAT.md and _overfit_coding.c: row and column of each neighbour. */
static const int NEIGHBOURS[SPATIAL][2] = {
    {0, -1}, {0, -2}, {0, -3}, {-1, -2}, {-1, -1}, {-1, 0}, {-1, 1},
    {-1, 2}, {-2, -2}, {-2, -1}, {-2, 0}, {-2, 1}, {-2, 2}, {-3, 0},
};

typedef float vec __attribute__((vector_size(32)));
typedef int32_t ivec __attribute__((vector_size(32)));
typedef float loose_vec __attribute__((vector_size(32), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__linux__)
#define VERSIONS __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define VERSIONS
#endif

INLINE vec load(const float *p) { return *(const loose_vec *)p; }
INLINE void store(float *p, vec v) { *(loose_vec *)p = v; }
INLINE vec all(float a) { return (vec){a, a, a, a, a, a, a, a}; }
INLINE vec choose(ivec mask, vec a, vec b) { return (vec)((mask & (ivec)a) | (~mask & (ivec)b)); }
INLINE vec least(vec a, vec b) { return choose(a < b, a, b); }
INLINE vec most(vec a, vec b) { return choose(a > b, a, b); }
INLINE vec magnitude(vec a) { return (vec)((ivec)a & 0x7fffffff); }
INLINE float total(vec a) { return ((a[0] + a[4]) + (a[1] + a[5])) + ((a[2] + a[6]) + (a[3] + a[7])); }

/* 2^x for |x| <= 126, relative error about 2e-7. */
INLINE vec exp2_of(vec x)
{
    x = most(least(x, all(126.0f)), all(-126.0f));
    const vec whole = (x + all(12582912.0f)) - all(12582912.0f), f = x - whole;
    vec p = all(1.5403530e-4f);
    p = p * f + all(1.3333558e-3f);
    p = p * f + all(9.6181291e-3f);
    p = p * f + all(5.5504109e-2f);
    p = p * f + all(0.24022651f);
    p = p * f + all(0.69314718f);
    p = p * f + all(1.0f);
    return (vec)((ivec)p + (__builtin_convertvector(whole, ivec) << 23));
}

/* log2(x) for normal x > 0, absolute error about 2e-7. */
INLINE vec log2_of(vec x)
{
    const ivec bits = (ivec)x - 0x3f3504f3; /* of sqrt(1/2) */
    const ivec exponent = bits >> 23;
    const vec m = (vec)((ivec)x - (exponent << 23));
    const vec z = (m - all(1.0f)) / (m + all(1.0f)), z2 = z * z;
    vec p = all(0.32059889f);
    p = p * z2 + all(0.41219858f);
    p = p * z2 + all(0.57707802f);
    p = p * z2 + all(0.96179669f);
    p = p * z2 + all(2.8853901f);
    return __builtin_convertvector(exponent, vec) + p * z;
}

#define DARKEST -4.0f       /* of a sample: (0 - 128) / 32 */
#define BRIGHTEST 3.96875f  /* (255 - 128) / 32 */
#define LOG2_E 1.44269504f
#define LN_2 0.69314718f

/* ---- kernels ------------------------------------------------------------------------------------ */

/* out[o][RUN] (+)= bias[o] + sum_i weights[i * stride + o] in[i][RUN], `block` outputs and `width` vectors at a time. */
INLINE void dense_block(int inputs, const float *const *in, const float *weights, int stride, const float *bias,
                        float *const *out, const int block, const int width, const bool relu, const bool add)
{
    for (int p = 0; p < RUN; p += width * LANES) {
        vec sum[4][4];
        UNROLL for (int o = 0; o < block; o++)
            UNROLL for (int v = 0; v < width; v++)
                sum[o][v] = bias ? all(bias[o]) : all(0.0f);
        for (int i = 0; i < inputs; i++) {
            vec x[4];
            UNROLL for (int v = 0; v < width; v++)
                x[v] = load(in[i] + p + v * LANES);
            UNROLL for (int o = 0; o < block; o++) {
                const vec w = all(weights[(size_t)i * (size_t)stride + (size_t)o]);
                UNROLL for (int v = 0; v < width; v++)
                    sum[o][v] += w * x[v];
            }
        }
        UNROLL for (int o = 0; o < block; o++)
            UNROLL for (int v = 0; v < width; v++) {
                float *at = out[o] + p + v * LANES;
                vec y = sum[o][v];
                if (relu)
                    y = most(y, all(0.0f));
                if (add)
                    y += load(at);
                store(at, y);
            }
    }
}

INLINE void dense(int inputs, const float *const *in, const float *weights, const float *bias, int outputs,
                  float *const *out, const bool relu, const bool add)
{
    int o = 0;
    for (; o + 4 <= outputs; o += 4)
        dense_block(inputs, in, weights + o, outputs, bias ? bias + o : NULL, out + o, 4, 2, relu, add);
    const float *rest = bias ? bias + o : NULL;
    if (outputs - o == 3)
        dense_block(inputs, in, weights + o, outputs, rest, out + o, 3, 4, relu, add);
    else if (outputs - o == 2)
        dense_block(inputs, in, weights + o, outputs, rest, out + o, 2, 4, relu, add);
    else if (outputs - o == 1)
        dense_block(inputs, in, weights + o, outputs, rest, out + o, 1, 4, relu, add);
}

/* sums[(i * outputs + o) * LANES] += products of in[i] and gradient[o]; lanes are added up at the end. */
INLINE void outer_block(const float *const *in, const float *const *gradient, float *sums, int outputs,
                        const int rows, const int columns)
{
    vec acc[4][4];
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int o = 0; o < columns; o++)
            acc[i][o] = load(sums + ((size_t)i * (size_t)outputs + (size_t)o) * LANES);
    for (int p = 0; p < RUN; p += LANES) {
        vec g[4];
        UNROLL for (int o = 0; o < columns; o++)
            g[o] = load(gradient[o] + p);
        UNROLL for (int i = 0; i < rows; i++) {
            const vec x = load(in[i] + p);
            UNROLL for (int o = 0; o < columns; o++)
                acc[i][o] += x * g[o];
        }
    }
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int o = 0; o < columns; o++)
            store(sums + ((size_t)i * (size_t)outputs + (size_t)o) * LANES, acc[i][o]);
}

INLINE void outer_rows(const float *const *in, const float *const *gradient, float *sums, int outputs, const int rows)
{
    int o = 0;
    for (; o + 3 <= outputs; o += 3)
        outer_block(in, gradient + o, sums + o * LANES, outputs, rows, 3);
    if (outputs - o == 2)
        outer_block(in, gradient + o, sums + o * LANES, outputs, rows, 2);
    else if (outputs - o == 1)
        outer_block(in, gradient + o, sums + o * LANES, outputs, rows, 1);
}

INLINE void outer(int inputs, const float *const *in, int outputs, const float *const *gradient, float *sums)
{
    int i = 0;
    for (; i + 4 <= inputs; i += 4)
        outer_rows(in + i, gradient, sums + (size_t)i * (size_t)outputs * LANES, outputs, 4);
    for (; i < inputs; i++)
        outer_rows(in + i, gradient, sums + (size_t)i * (size_t)outputs * LANES, outputs, 1);
}

INLINE void outer_bias(int outputs, const float *const *gradient, float *sums)
{
    for (int o = 0; o < outputs; o++) {
        vec acc = load(sums + o * LANES);
        UNROLL for (int p = 0; p < RUN; p += LANES)
            acc += load(gradient[o] + p);
        store(sums + o * LANES, acc);
    }
}

INLINE void relu_backward(int channels, const float *const *value, float *const *gradient)
{
    for (int c = 0; c < channels; c++)
        UNROLL for (int p = 0; p < RUN; p += LANES)
            store(gradient[c] + p, choose(load(value[c] + p) > all(0.0f), load(gradient[c] + p), all(0.0f)));
}

static void add_lanes(const float *sums, size_t count, float *gradient)
{
    for (size_t k = 0; k < count; k++)
        gradient[k] += total(load(sums + k * LANES));
}

static void transpose(const float *a, int rows, int columns, float *out)
{
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++)
            out[j * rows + i] = a[i * columns + j];
}

/* ---- geometry ----------------------------------------------------------------------------------- */

typedef struct {
    int h[LEVELS], w[LEVELS];
    size_t stride[LEVELS];
    size_t origin[LEVELS]; /* of row 0, column 0 in the buffer of all levels */
    size_t size;           /* floats of that buffer */
} geometry;

static int halved(int size, int level) { return (size + (1 << level) - 1) >> level; }

static geometry make_geometry(int height, int width)
{
    geometry g = {.size = 0};
    for (int l = 0; l < LEVELS; l++) {
        g.h[l] = halved(height, l);
        g.w[l] = halved(width, l);
        g.stride[l] = PAD_LEFT + ((size_t)g.w[l] + RUN - 1) / RUN * RUN + PAD_RIGHT;
        g.origin[l] = g.size + PAD_TOP * g.stride[l] + PAD_LEFT;
        g.size += (size_t)(PAD_TOP + g.h[l] + PAD_BOTTOM) * g.stride[l];
    }
    return g;
}

/* ---- rate --------------------------------------------------------------------------------------- */

/* Offsets of the context network's parts in its weights: input x output matrices, then biases. */
typedef struct {
    size_t first, second, last, first_bias, second_bias, last_bias, count;
} context_layout;

static context_layout make_context_layout(int hidden)
{
    const size_t n = (size_t)hidden;
    context_layout k;
    k.first = 0;
    k.second = k.first + INPUTS * n;
    k.last = k.second + n * n;
    k.first_bias = k.last + (n + INPUTS) * 2;
    k.second_bias = k.first_bias + LEVELS * n;
    k.last_bias = k.second_bias + n;
    k.count = k.last_bias + LEVELS * 2;
    return k;
}

/* Values of coarser grids around a run: the four nearest of the parent, one of each of two ancestors.
 * `far` lies on the other side of the position than the centre of its parent, row and column alike. */
static void read_coarse(const geometry *g, const float *latents, int level, int y, int x0, float coarse[COARSE][RUN])
{
    memset(coarse, 0, sizeof(float) * COARSE * RUN);
    for (int up = 1; up <= 3 && level + up < LEVELS; up++) {
        const int l = level + up;
        const float *plane = latents + g->origin[l];
        const float *near = plane + (size_t)(y >> up) * g->stride[l] + (x0 >> up);
        if (up > 1) {
            for (int p = 0; p < RUN; p++)
                coarse[2 + up][p] = near[p >> up];
            continue;
        }
        const float *far = y & 1 ? near + g->stride[l] : near - g->stride[l];
        for (int i = 0; i < RUN / 2; i++) {
            coarse[0][2 * i] = coarse[0][2 * i + 1] = near[i];
            coarse[1][2 * i] = near[i - 1], coarse[1][2 * i + 1] = near[i + 1];
            coarse[2][2 * i] = coarse[2][2 * i + 1] = far[i];
            coarse[3][2 * i] = far[i - 1], coarse[3][2 * i + 1] = far[i + 1];
        }
    }
}

static void add_coarse_gradient(const geometry *g, float *gradient, int level, int y, int x0, float coarse[COARSE][RUN])
{
    for (int up = 1; up <= 3 && level + up < LEVELS; up++) {
        const int l = level + up;
        float *plane = gradient + g->origin[l];
        float *near = plane + (size_t)(y >> up) * g->stride[l] + (x0 >> up);
        if (up > 1) {
            for (int p = 0; p < RUN; p++)
                near[p >> up] += coarse[2 + up][p];
            continue;
        }
        float *far = y & 1 ? near + g->stride[l] : near - g->stride[l];
        for (int i = 0; i < RUN / 2; i++) {
            near[i] += coarse[0][2 * i] + coarse[0][2 * i + 1];
            far[i] += coarse[2][2 * i] + coarse[2][2 * i + 1];
        }
        for (int i = 0; i < RUN / 2; i++) {
            near[i - 1] += coarse[1][2 * i];
            far[i - 1] += coarse[3][2 * i];
            near[i + 1] += coarse[1][2 * i + 1];
            far[i + 1] += coarse[3][2 * i + 1];
        }
    }
}

/* Code length of a run under Laplace distributions of mean out[0] and log scale out[1], and its gradient with
 * respect to them (d_out) and to the values (d_y). Positions from `valid` on do not count. */
INLINE double laplace_bits(const float *y, float *const *out, int valid, float *const *d_out, float *d_y)
{
    vec sum = all(0.0f);
    for (int p = 0; p < RUN; p += LANES) {
        ivec within;
        UNROLL for (int n = 0; n < LANES; n++)
            within[n] = p + n < valid ? -1 : 0;
        const vec raw = load(out[1] + p), s = most(least(raw, all(5.0f)), all(-5.0f));
        const vec d = load(y + p) - load(out[0] + p), u = magnitude(d);
        const vec inverse = exp2_of(s * all(-LOG2_E));
        const vec t1 = u - all(0.5f), t2 = u + all(0.5f);
        const vec e1 = exp2_of(magnitude(t1) * inverse * all(-LOG2_E)) * all(0.5f);
        const vec e2 = exp2_of(t2 * inverse * all(-LOG2_E)) * all(0.5f);
        const vec mass = choose(t1 > all(0.0f), e1, all(1.0f) - e1) - e2 + all(6e-8f);
        sum += choose(within, -log2_of(mass), all(0.0f));
        const vec density1 = e1 * inverse, density2 = e2 * inverse;
        const vec g = choose(within, all(-LOG2_E) / mass, all(0.0f));
        const vec du = g * (density2 - density1);
        const vec dd = (vec)((ivec)du ^ ((ivec)d & (int32_t)0x80000000));
        store(d_y + p, dd);
        store(d_out[0] + p, -dd);
        const vec ds = g * (t1 * density1 - t2 * density2);
        /* Outside its range the scale may only be pushed back. */
        const ivec stuck = ((raw > all(5.0f)) & (ds < all(0.0f))) | ((raw < all(-5.0f)) & (ds > all(0.0f)));
        store(d_out[1] + p, choose(stuck, all(0.0f), ds));
    }
    return total(sum);
}

typedef struct {
    float a[MAX_WIDTH][RUN], b[MAX_WIDTH][RUN], da[MAX_WIDTH][RUN], db[MAX_WIDTH][RUN];
    float coarse[COARSE][RUN], d_in[INPUTS][RUN], out[2][RUN], d_out[2][RUN], d_y[RUN];
} context_space;

/* Bits of all latents of some levels; adds the gradient of the bits to d_latents and d_weights unless these are NULL. */
VERSIONS static double rate_of(const geometry *g, const float *latents, int hidden, const float *weights,
                               const float *transposed, float *d_latents, float *sums, context_space *s)
{
    const context_layout k = make_context_layout(hidden);
    const float *in[INPUTS], *last_in[MAX_WIDTH + INPUTS];
    float *a[MAX_WIDTH], *b[MAX_WIDTH], *da[MAX_WIDTH], *db[MAX_WIDTH], *d_in[INPUTS], *d_last[MAX_WIDTH + INPUTS];
    float *out[2] = {s->out[0], s->out[1]}, *d_out[2] = {s->d_out[0], s->d_out[1]};
    for (int i = 0; i < hidden; i++) {
        a[i] = s->a[i], b[i] = s->b[i], da[i] = s->da[i], db[i] = s->db[i];
        last_in[i] = b[i], d_last[i] = db[i];
    }
    for (int i = 0; i < INPUTS; i++)
        d_in[i] = d_last[hidden + i] = s->d_in[i];

    double bits = 0;
    for (int level = 0; level < LEVELS; level++)
        for (int y = 0; y < g->h[level]; y++)
            for (int x = 0; x < g->w[level]; x += RUN) {
                const size_t at = g->origin[level] + (size_t)y * g->stride[level] + (size_t)x;
                const int valid = g->w[level] - x < RUN ? g->w[level] - x : RUN;
                read_coarse(g, latents, level, y, x, s->coarse);
                for (int i = 0; i < INPUTS; i++) {
                    in[i] = i < SPATIAL ? latents + (ptrdiff_t)at + NEIGHBOURS[i][0] * (ptrdiff_t)g->stride[level]
                                              + NEIGHBOURS[i][1]
                                        : s->coarse[i - SPATIAL];
                    last_in[hidden + i] = in[i];
                }
                dense(INPUTS, in, weights + k.first, weights + k.first_bias + level * hidden, hidden, a, true, false);
                dense(hidden, (const float *const *)a, weights + k.second, weights + k.second_bias, hidden, b, true,
                      false);
                dense(hidden + INPUTS, last_in, weights + k.last, weights + k.last_bias + level * 2, 2, out, false,
                      false);
                bits += laplace_bits(latents + at, out, valid, d_out, s->d_y);
                if (!d_latents)
                    continue;

                const float *const *dc_out = (const float *const *)d_out;
                outer(hidden + INPUTS, last_in, 2, dc_out, sums + k.last * LANES);
                outer_bias(2, dc_out, sums + (k.last_bias + (size_t)level * 2) * LANES);
                dense(2, dc_out, transposed + k.last, NULL, hidden + INPUTS, d_last, false, false);
                relu_backward(hidden, (const float *const *)b, db);
                outer(hidden, (const float *const *)a, hidden, (const float *const *)db, sums + k.second * LANES);
                outer_bias(hidden, (const float *const *)db, sums + k.second_bias * LANES);
                dense(hidden, (const float *const *)db, transposed + k.second, NULL, hidden, da, false, false);
                relu_backward(hidden, (const float *const *)a, da);
                outer(INPUTS, in, hidden, (const float *const *)da, sums + k.first * LANES);
                outer_bias(hidden, (const float *const *)da, sums + (k.first_bias + (size_t)(level * hidden)) * LANES);
                dense(hidden, (const float *const *)da, transposed + k.first, NULL, INPUTS, d_in, false, true);

                UNROLL for (int p = 0; p < RUN; p += LANES)
                    store(d_latents + at + p, load(d_latents + at + p) + load(s->d_y + p));
                for (int i = 0; i < SPATIAL; i++) {
                    float *to = d_latents + (in[i] - latents);
                    UNROLL for (int p = 0; p < RUN; p += LANES)
                        store(to + p, load(to + p) + load(d_in[i] + p));
                }
                add_coarse_gradient(g, d_latents, level, y, x, s->d_in + SPATIAL);
            }
    return bits;
}

/* ---- distortion --------------------------------------------------------------------------------- */

/* Offsets of the parts of upsampling and synthesis in their weights. */
typedef struct {
    size_t filters, mix, mix_bias, colour, colour_bias, spread, spread_bias, gather, gather_bias, count;
} synthesis_layout;

static synthesis_layout make_synthesis_layout(int features, int residual)
{
    const size_t f = (size_t)features, r = (size_t)residual;
    synthesis_layout k;
    k.filters = 0;                             /* [level to which it leads][TAPS] */
    k.mix = k.filters + (LEVELS - 1) * TAPS;   /* 1x1 [level][feature] */
    k.mix_bias = k.mix + LEVELS * f;
    k.colour = k.mix_bias + f;                 /* 1x1 [feature][colour] */
    k.colour_bias = k.colour + f * COLOURS;
    k.spread = k.colour_bias + COLOURS;        /* 3x3 [colour, row, column][residual] */
    k.spread_bias = k.spread + 9 * COLOURS * r;
    k.gather = k.spread_bias + r;              /* 3x3 [residual, row, column][colour] */
    k.gather_bias = k.gather + 9 * r * COLOURS;
    k.count = k.gather_bias + COLOURS;
    return k;
}

/* Planes with a border: of `rows` x `stride` floats, the picture beginning at row 2 and column 8. */
enum { EDGE = 2 };
typedef struct {
    int h, w;
    size_t stride, size, origin;
} plane;

static plane make_plane(int h, int w)
{
    plane p = {.h = h, .w = w};
    p.stride = PAD_LEFT + ((size_t)w + RUN - 1) / RUN * RUN + RUN; /* runs may begin one column early */
    p.origin = EDGE * p.stride + PAD_LEFT;
    p.size = (size_t)(h + 2 * EDGE) * p.stride;
    return p;
}

INLINE int clamped(int i, int size) { return i < 0 ? 0 : i >= size ? size - 1 : i; }

/* A row twice as dense: out[2i] and out[2i + 1] lie a quarter before and behind in[i]. `in` has two values of
 * padding on both sides. */
INLINE void widen_row(const float *in, int w, const float *f, float *out)
{
    for (int i = 0; i < w; i++) {
        const float even = f[0] * in[i - 2] + f[1] * in[i - 1] + f[2] * in[i] + f[3] * in[i + 1];
        const float odd = f[3] * in[i - 1] + f[2] * in[i] + f[1] * in[i + 1] + f[0] * in[i + 2];
        out[2 * i] = even;
        out[2 * i + 1] = odd;
    }
}

/* Row of the coarser plane that tap k of row y reads. */
INLINE int source_row(int y, int k) { return (y >> 1) + (y & 1 ? k - 1 : k - 2); }
INLINE int tap_of(int y, int k) { return y & 1 ? TAPS - 1 - k : k; }

static void pad_row(const float *in, int w, float *out) /* out[-2 .. w + 1] */
{
    memcpy(out, in, sizeof(float) * (size_t)w);
    out[-2] = out[-1] = in[0];
    out[w] = out[w + 1] = in[w - 1];
}

/* wide: the rows of `in`, widened, [h][wide_stride]; needs room for a padded row in `row`. */
VERSIONS static void upsample(const float *in, int h, int w, size_t stride, const float *f, float *wide,
                              size_t wide_stride, float *row, float *out, int out_h, int out_w, size_t out_stride)
{
    for (int y = 0; y < h; y++) {
        pad_row(in + (size_t)y * stride, w, row);
        widen_row(row, w, f, wide + (size_t)y * wide_stride);
    }
    for (int y = 0; y < out_h; y++) {
        const float *from[TAPS];
        float t[TAPS];
        for (int k = 0; k < TAPS; k++) {
            from[k] = wide + (size_t)clamped(source_row(y, k), h) * wide_stride;
            t[k] = f[tap_of(y, k)];
        }
        float *to = out + (size_t)y * out_stride;
        for (int x = 0; x < out_w; x++)
            to[x] = t[0] * from[0][x] + t[1] * from[1][x] + t[2] * from[2][x] + t[3] * from[3][x];
    }
}

/* d_in[h][w] = gradient of the coarser plane; d_f += gradient of the taps. `in` is the forward input. */
VERSIONS static void upsample_backward(const float *in, int h, int w, size_t stride, const float *f, float *wide,
                                       float *d_wide, size_t wide_stride, float *row, float *d_row, const float *d_out,
                                       int out_h, int out_w, size_t out_stride, float *d_in, size_t d_in_stride,
                                       double *d_f)
{
    for (int y = 0; y < h; y++) {
        pad_row(in + (size_t)y * stride, w, row);
        widen_row(row, w, f, wide + (size_t)y * wide_stride);
    }
    memset(d_wide, 0, sizeof(float) * (size_t)h * wide_stride);
    for (int y = 0; y < out_h; y++) {
        const float *d = d_out + (size_t)y * out_stride;
        for (int k = 0; k < TAPS; k++) {
            const size_t source = (size_t)clamped(source_row(y, k), h) * wide_stride;
            const float t = f[tap_of(y, k)];
            const float *value = wide + source;
            float *to = d_wide + source;
            vec sum = all(0.0f);
            int x = 0;
            for (; x + LANES <= out_w; x += LANES) {
                const vec dx = load(d + x);
                store(to + x, load(to + x) + dx * all(t));
                sum += dx * load(value + x);
            }
            float rest = total(sum);
            for (; x < out_w; x++) {
                to[x] += t * d[x];
                rest += d[x] * value[x];
            }
            d_f[tap_of(y, k)] += rest;
        }
    }
    for (int y = 0; y < h; y++) {
        pad_row(in + (size_t)y * stride, w, row);
        const float *d = d_wide + (size_t)y * wide_stride;
        float sum0 = 0, sum1 = 0, sum2 = 0, sum3 = 0;
        memset(d_row - 2, 0, sizeof(float) * (size_t)(w + 4));
        for (int i = 0; i < w; i++) {
            const float even = d[2 * i], odd = d[2 * i + 1];
            sum0 += even * row[i - 2] + odd * row[i + 2];
            sum1 += even * row[i - 1] + odd * row[i + 1];
            sum2 += even * row[i] + odd * row[i];
            sum3 += even * row[i + 1] + odd * row[i - 1];
            d_row[i - 2] += f[0] * even;
            d_row[i - 1] += f[1] * even + f[3] * odd;
            d_row[i] += f[2] * even + f[2] * odd;
            d_row[i + 1] += f[3] * even + f[1] * odd;
            d_row[i + 2] += f[0] * odd;
        }
        d_f[0] += sum0, d_f[1] += sum1, d_f[2] += sum2, d_f[3] += sum3;
        d_row[0] += d_row[-1] + d_row[-2];
        d_row[w - 1] += d_row[w] + d_row[w + 1];
        memcpy(d_in + (size_t)y * d_in_stride, d_row, sizeof(float) * (size_t)w);
    }
}

/* Repeat the outermost values of a plane in a border of one. */
static void repeat_edges(const plane *p, float *at)
{
    for (int y = 0; y < p->h; y++) {
        float *row = at + p->origin + (size_t)y * p->stride;
        row[-1] = row[0];
        row[p->w] = row[p->w - 1];
    }
    float *first = at + p->origin - 1, *last = first + (size_t)(p->h - 1) * p->stride;
    memcpy(first - p->stride, first, sizeof(float) * (size_t)(p->w + 2));
    memcpy(last + p->stride, last, sizeof(float) * (size_t)(p->w + 2));
}

/* Its transpose: the border's gradient is added to the outermost values. */
static void fold_edges(const plane *p, float *at)
{
    float *first = at + p->origin - 1, *last = first + (size_t)(p->h - 1) * p->stride;
    for (int x = 0; x < p->w + 2; x++) {
        first[x] += (first - p->stride)[x];
        last[x] += (last + p->stride)[x];
    }
    for (int y = 0; y < p->h; y++) {
        float *row = at + p->origin + (size_t)y * p->stride;
        row[0] += row[-1];
        row[p->w - 1] += row[p->w];
    }
}

static void clear_beyond(const plane *p, float *at, int planes) /* what runs wrote right of the picture */
{
    for (int c = 0; c < planes; c++)
        for (int y = 0; y < p->h; y++)
            memset(at + (size_t)c * p->size + p->origin + (size_t)y * p->stride + p->w, 0,
                   sizeof(float) * (p->stride - PAD_LEFT - (size_t)p->w));
}

typedef struct {
    geometry g;
    plane full;
    int features, residual;
    plane grid[LEVELS];
    float *stack[LEVELS], *d_stack[LEVELS]; /* LEVELS - l planes each: the coarsest first, level l's own last */
    float *colour, *d_colour;               /* COLOURS planes */
    float *hidden, *d_hidden;               /* residual planes */
    float *d_error;                         /* COLOURS planes */
    float *wide, *d_wide, *row, *d_row;
    float (*run)[RUN], (*d_run)[RUN];
    float *sums, *transposed;
    void *block;
} workshop;

static void workshop_free(workshop *s) { free(s->block); }

static bool workshop_make(workshop *s, int height, int width, int features, int residual)
{
    memset(s, 0, sizeof *s);
    s->g = make_geometry(height, width);
    s->features = features;
    s->residual = residual;
    s->full = make_plane(height, width);
    const synthesis_layout k = make_synthesis_layout(features, residual);
    size_t at = 0;
    for (int pass = 0; pass < 2; pass++) {
        float *base = s->block;
        at = 0;
#define TAKE(WHERE, COUNT)                  \
    do {                                    \
        if (base)                           \
            WHERE = (void *)(base + at);    \
        at += (size_t)(COUNT) + 16;         \
    } while (0)
        for (int l = 0; l < LEVELS; l++) {
            s->grid[l] = make_plane(s->g.h[l], s->g.w[l]);
            TAKE(s->stack[l], s->grid[l].size * (size_t)(LEVELS - l));
            TAKE(s->d_stack[l], s->grid[l].size * (size_t)(LEVELS - l));
        }
        TAKE(s->colour, s->full.size * COLOURS);
        TAKE(s->d_colour, s->full.size * COLOURS);
        TAKE(s->d_error, s->full.size * COLOURS);
        TAKE(s->hidden, s->full.size * (size_t)residual);
        TAKE(s->d_hidden, s->full.size * (size_t)residual);
        const size_t wide = (size_t)(s->g.h[1] + 1) * ((size_t)s->g.w[1] * 2 + 16);
        TAKE(s->wide, wide);
        TAKE(s->d_wide, wide);
        TAKE(s->row, s->g.w[0] + 16);
        TAKE(s->d_row, s->g.w[0] + 16);
        TAKE(s->run, MAX_WIDTH * RUN);
        TAKE(s->d_run, MAX_WIDTH * RUN);
        TAKE(s->sums, k.count * LANES);
        TAKE(s->transposed, k.count);
#undef TAKE
        if (pass == 0) {
            s->block = calloc(at, sizeof(float));
            if (!s->block)
                return false;
        }
    }
    s->row += 4;
    s->d_row += 4;
    return true;
}

/* Shifted inputs of a 3x3 convolution at one position; `direction` -1 gives those of its transpose. */
INLINE void window(const float *planes, const plane *p, int channels, size_t at, int direction, const float **in)
{
    for (int c = 0; c < channels; c++)
        for (int t = 0; t < 9; t++)
            in[c * 9 + t] = planes + (ptrdiff_t)((size_t)c * p->size + at)
                            + direction * ((t / 3 - 1) * (ptrdiff_t)p->stride + (t % 3 - 1));
}

/* [9 * inputs][outputs] -> [9 * outputs][inputs], for the gradient of a convolution's input. */
static void transpose_convolution(const float *w, int inputs, int outputs, float *out)
{
    for (int i = 0; i < inputs; i++)
        for (int t = 0; t < 9; t++)
            for (int o = 0; o < outputs; o++)
                out[(o * 9 + t) * inputs + i] = w[(i * 9 + t) * outputs + o];
}

/* Squared error of the picture (target: COLOURS planes h x w); adds `weight` times its gradient to d_latents
 * and d_weights unless d_latents is NULL; writes the picture to `shown` (like target) unless that is NULL. */
VERSIONS static double distortion_of(workshop *s, const float *latents, const float *weights, const float *target,
                                     float weight, float *d_latents, float *d_weights, float *shown)
{
    const synthesis_layout k = make_synthesis_layout(s->features, s->residual);
    const geometry *g = &s->g;
    const plane *full = &s->full;
    const int F = s->features, R = s->residual, H = full->h, W = full->w;
    const size_t pixels = (size_t)H * (size_t)W;

    for (int l = LEVELS - 1; l >= 0; l--) {
        const plane *p = &s->grid[l];
        for (int c = 0; c < LEVELS - 1 - l; c++) {
            const plane *below = &s->grid[l + 1];
            upsample(s->stack[l + 1] + (size_t)c * below->size + below->origin, below->h, below->w, below->stride,
                     weights + k.filters + l * TAPS, s->wide, (size_t)below->w * 2, s->row,
                     s->stack[l] + (size_t)c * p->size + p->origin, p->h, p->w, p->stride);
        }
        float *own = s->stack[l] + (size_t)(LEVELS - 1 - l) * p->size + p->origin;
        for (int y = 0; y < p->h; y++)
            memcpy(own + (size_t)y * p->stride, latents + g->origin[l] + (size_t)y * g->stride[l],
                   sizeof(float) * (size_t)p->w);
    }

    const float *in[MAX_INPUTS], *in_run[MAX_WIDTH];
    float *out[MAX_INPUTS], *hidden[MAX_WIDTH], *d_hidden[MAX_WIDTH];
    for (int i = 0; i < F; i++)
        in_run[i] = hidden[i] = s->run[i], d_hidden[i] = s->d_run[i];
    for (int y = 0; y < H; y++)
        for (int x = 0; x < W; x += RUN) {
            const size_t at = full->origin + (size_t)y * full->stride + (size_t)x;
            for (int c = 0; c < LEVELS; c++)
                in[c] = s->stack[0] + (size_t)c * full->size + at;
            for (int c = 0; c < COLOURS; c++)
                out[c] = s->colour + (size_t)c * full->size + at;
            dense(LEVELS, in, weights + k.mix, weights + k.mix_bias, F, hidden, true, false);
            dense(F, in_run, weights + k.colour, weights + k.colour_bias, COLOURS, out, false, false);
        }
    for (int c = 0; c < COLOURS; c++)
        repeat_edges(full, s->colour + (size_t)c * full->size);
    for (int y = 0; y < H; y++)
        for (int x = 0; x < W; x += RUN) {
            const size_t at = full->origin + (size_t)y * full->stride + (size_t)x;
            window(s->colour, full, COLOURS, at, 1, in);
            for (int c = 0; c < R; c++)
                out[c] = s->hidden + (size_t)c * full->size + at;
            dense(9 * COLOURS, in, weights + k.spread, weights + k.spread_bias, R, out, true, false);
        }
    clear_beyond(full, s->hidden, R);

    double squares = 0;
    for (int y = 0; y < H; y++)
        for (int x = 0; x < W; x += RUN) {
            const size_t at = full->origin + (size_t)y * full->stride + (size_t)x;
            const int valid = W - x < RUN ? W - x : RUN;
            window(s->hidden, full, R, at, 1, in);
            float line[COLOURS][RUN];
            for (int c = 0; c < COLOURS; c++) {
                out[c] = line[c];
                memcpy(line[c], s->colour + (size_t)c * full->size + at, sizeof line[c]);
            }
            dense(9 * R, in, weights + k.gather, weights + k.gather_bias, COLOURS, out, false, true);
            float sum = 0;
            for (int c = 0; c < COLOURS; c++) {
                const float *wanted = target + (size_t)c * pixels + (size_t)y * (size_t)W + (size_t)x;
                float *d = s->d_error + (size_t)c * full->size + at;
                for (int p = 0; p < valid; p++) { /* samples are clipped, and then have no gradient */
                    const float x = line[c][p], shows = x < DARKEST ? DARKEST : x > BRIGHTEST ? BRIGHTEST : x;
                    const float e = shows - wanted[p];
                    sum += e * e;
                    d[p] = shows == x ? 2 * weight * e : 0;
                }
                if (shown)
                    memcpy(shown + (size_t)c * pixels + (size_t)y * (size_t)W + (size_t)x, line[c],
                           sizeof(float) * (size_t)valid);
            }
            squares += sum;
        }
    if (!d_latents)
        return squares;

    memset(s->sums, 0, sizeof(float) * k.count * LANES);
    transpose_convolution(weights + k.gather, R, COLOURS, s->transposed + k.gather);
    transpose_convolution(weights + k.spread, COLOURS, R, s->transposed + k.spread);
    transpose(weights + k.mix, LEVELS, F, s->transposed + k.mix);
    transpose(weights + k.colour, F, COLOURS, s->transposed + k.colour);

    for (int y = 0; y < H; y++)
        for (int x = 0; x < W; x += RUN) {
            const size_t at = full->origin + (size_t)y * full->stride + (size_t)x;
            const float *d[MAX_WIDTH], *value[MAX_WIDTH];
            for (int c = 0; c < COLOURS; c++)
                d[c] = s->d_error + (size_t)c * full->size + at;
            window(s->hidden, full, R, at, 1, in);
            outer(9 * R, in, COLOURS, d, s->sums + k.gather * LANES);
            outer_bias(COLOURS, d, s->sums + k.gather_bias * LANES);
            window(s->d_error, full, COLOURS, at, -1, in);
            for (int c = 0; c < R; c++) {
                out[c] = s->d_hidden + (size_t)c * full->size + at;
                value[c] = s->hidden + (size_t)c * full->size + at;
            }
            dense(9 * COLOURS, in, s->transposed + k.gather, NULL, R, out, false, false);
            relu_backward(R, value, out); /* right of the picture hidden values are 0: no gradient there */
            window(s->colour, full, COLOURS, at, 1, in);
            outer(9 * COLOURS, in, R, (const float *const *)out, s->sums + k.spread * LANES);
            outer_bias(R, (const float *const *)out, s->sums + k.spread_bias * LANES);
        }
    for (int y = -1; y <= H; y++)
        for (int x = -1; x <= W; x += RUN) {
            const size_t at = full->origin + (size_t)((ptrdiff_t)y * (ptrdiff_t)full->stride + x);
            window(s->d_hidden, full, R, at, -1, in);
            for (int c = 0; c < COLOURS; c++)
                out[c] = s->d_colour + (size_t)c * full->size + at;
            dense(9 * R, in, s->transposed + k.spread, NULL, COLOURS, out, false, false);
        }
    for (int c = 0; c < COLOURS; c++)
        fold_edges(full, s->d_colour + (size_t)c * full->size);
    clear_beyond(full, s->d_colour, COLOURS);

    for (int y = 0; y < H; y++)
        for (int x = 0; x < W; x += RUN) {
            const size_t at = full->origin + (size_t)y * full->stride + (size_t)x;
            float *d[COLOURS];
            for (int c = 0; c < COLOURS; c++) { /* the picture is colour + residual */
                d[c] = s->d_colour + (size_t)c * full->size + at;
                const float *e = s->d_error + (size_t)c * full->size + at;
                UNROLL for (int p = 0; p < RUN; p += LANES)
                    store(d[c] + p, load(d[c] + p) + load(e + p));
            }
            for (int c = 0; c < LEVELS; c++) {
                in[c] = s->stack[0] + (size_t)c * full->size + at;
                out[c] = s->d_stack[0] + (size_t)c * full->size + at;
            }
            dense(LEVELS, in, weights + k.mix, weights + k.mix_bias, F, hidden, true, false);
            outer(F, in_run, COLOURS, (const float *const *)d, s->sums + k.colour * LANES);
            outer_bias(COLOURS, (const float *const *)d, s->sums + k.colour_bias * LANES);
            dense(COLOURS, (const float *const *)d, s->transposed + k.colour, NULL, F, d_hidden, false, false);
            relu_backward(F, in_run, d_hidden);
            outer(LEVELS, in, F, (const float *const *)d_hidden, s->sums + k.mix * LANES);
            outer_bias(F, (const float *const *)d_hidden, s->sums + k.mix_bias * LANES);
            dense(F, (const float *const *)d_hidden, s->transposed + k.mix, NULL, LEVELS, out, false, false);
        }
    add_lanes(s->sums + k.mix * LANES, k.count - k.mix, d_weights + k.mix);

    for (int l = 0; l < LEVELS; l++) {
        const plane *p = &s->grid[l];
        double d_f[TAPS] = {0};
        for (int c = 0; c < LEVELS - 1 - l; c++) {
            const plane *below = &s->grid[l + 1];
            const size_t source = (size_t)c * below->size + below->origin;
            upsample_backward(s->stack[l + 1] + source, below->h, below->w, below->stride,
                              weights + k.filters + l * TAPS, s->wide, s->d_wide, (size_t)below->w * 2, s->row,
                              s->d_row, s->d_stack[l] + (size_t)c * p->size + p->origin, p->h, p->w, p->stride,
                              s->d_stack[l + 1] + source, below->stride, d_f);
        }
        if (l + 1 < LEVELS)
            for (int t = 0; t < TAPS; t++)
                d_weights[k.filters + (size_t)(l * TAPS + t)] += (float)d_f[t];
        const float *own = s->d_stack[l] + (size_t)(LEVELS - 1 - l) * p->size + p->origin;
        for (int y = 0; y < p->h; y++) {
            float *to = d_latents + g->origin[l] + (size_t)y * g->stride[l];
            const float *from = own + (size_t)y * p->stride;
            for (int x = 0; x < p->w; x++)
                to[x] += from[x];
        }
    }
    return squares;
}

/* ---- latents: rounding in the forward pass, Adam in the backward pass ---------------------------- */

INLINE vec floor_of(vec x)
{
    const vec t = __builtin_convertvector(__builtin_convertvector(x, ivec), vec);
    return t - choose(t > x, all(1.0f), all(0.0f));
}

/* Agustsson and Theis's soft rounding (NeurIPS 2020) and its slope. */
INLINE vec soft_round(vec y, float temperature, vec *slope)
{
    const vec middle = floor_of(y) + all(0.5f), d = y - middle;
    const vec e = exp2_of(d * all(-2.0f * LOG2_E / temperature));
    const vec t = (all(1.0f) - e) / (all(1.0f) + e);
    const float half = 0.5f / tanhf(0.5f / temperature);
    *slope = (all(1.0f) - t * t) * all(half / temperature);
    return middle + t * all(half);
}

typedef uint32_t uvec __attribute__((vector_size(32)));

INLINE uvec next_random(uvec *state) /* Marsaglia's xorshift32 in each lane */
{
    uvec x = *state;
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return *state = x;
}

static uint32_t mixed(uint32_t x) /* Prospecting for hash functions, Wellons 2018: lowbias32 */
{
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

/* latents = s(s(y) + noise), slope = d latents / d y; the noise follows Kumaraswamy's distribution on
 * (-1/2, 1/2) with peak `shape` >= 1 (1: uniform), as in C3 (Kim et al., CVPR 2024). */
VERSIONS static void soften(const geometry *g, const float *y, float temperature, float shape, uint32_t seed,
                            float *latents, float *slope)
{
    const float a = shape, b = (powf(2.0f, a) * (a - 1) + 1) / a;
    for (int l = 0; l < LEVELS; l++)
        for (int row = 0; row < g->h[l]; row++) {
            uvec state;
            for (int n = 0; n < LANES; n++)
                state[n] = mixed(mixed(seed) + (uint32_t)((l * 0x100000 + row) * LANES + n)) | 1u;
            const size_t at = g->origin[l] + (size_t)row * g->stride[l];
            for (int x = 0; x < g->w[l]; x += LANES) {
                const vec u = __builtin_convertvector((ivec)(next_random(&state) >> 9), vec) * all(0x1p-23f)
                              + all(0x1p-24f);
                const vec v = exp2_of(log2_of(u) * all(1 / b));
                const vec noise = exp2_of(log2_of(most(all(1.0f) - v, all(1e-7f))) * all(1 / a)) - all(0.5f);
                vec slope1, slope2;
                const vec once = soft_round(load(y + at + x), temperature, &slope1);
                const vec twice = soft_round(once + noise, temperature, &slope2);
                float value[LANES], product[LANES];
                store(value, twice);
                store(product, slope1 * slope2);
                const size_t count = (size_t)(g->w[l] - x < LANES ? g->w[l] - x : LANES);
                memcpy(latents + at + x, value, sizeof(float) * count);
                memcpy(slope + at + x, product, sizeof(float) * count);
            }
        }
}

/* One step of Adam (Kingma and Ba 2015) on the latents with the sum of two gradients, each times slope (or 1). */
VERSIONS static void adam_latents(const geometry *g, float *y, const float *slope, const float *gradient1,
                                  const float *gradient2, float *first, float *second, float beta1, float beta2,
                                  float rate1, float scale2, float limit)
{
    for (int l = 0; l < LEVELS; l++)
        for (int row = 0; row < g->h[l]; row++) {
            const size_t at = g->origin[l] + (size_t)row * g->stride[l];
            for (size_t i = at; i < at + (size_t)g->w[l]; i++) {
                const float d = (gradient1[i] + gradient2[i]) * (slope ? slope[i] : 1.0f);
                first[i] = beta1 * first[i] + (1 - beta1) * d;
                second[i] = beta2 * second[i] + (1 - beta2) * d * d;
                const float moved = y[i] - rate1 * first[i] / (sqrtf(second[i] * scale2) + 1e-8f);
                y[i] = moved > limit ? limit : moved < -limit ? -limit : moved;
            }
        }
}

/* ================================================================================================
 * The Python binding: module rhodec.codecs._overfit_fitting.
 * ============================================================================================== */

static const char CAPSULE[] = "rhodec.codecs._overfit_fitting.Workshop";

static void capsule_free(PyObject *capsule)
{
    workshop *s = PyCapsule_GetPointer(capsule, CAPSULE);
    workshop_free(s);
    free(s);
}

/* The data of a contiguous float32 array of a known length; None gives NULL where that is allowed. */
static bool get_floats(PyObject *object, Py_buffer *view, const char *name, size_t count, bool writable, bool optional)
{
    if (optional && object == Py_None)
        return true;
    if (PyObject_GetBuffer(object, view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0)) < 0)
        return false;
    if (view->format && strcmp(view->format, "f") == 0 && (size_t)view->len == count * sizeof(float))
        return true;
    PyErr_Format(PyExc_ValueError, "%s must be a contiguous array of %zu float32", name, count);
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

static bool sizes_are_fine(int height, int width, int a, int b)
{
    if (height >= 1 && width >= 1 && height <= 1 << 24 && width <= 1 << 24 && (int64_t)height * width <= 1 << 28
        && a >= 1 && a <= MAX_WIDTH && b >= 1 && b <= MAX_WIDTH)
        return true;
    PyErr_SetString(PyExc_ValueError, "the size of the picture or of a layer is out of range");
    return false;
}

static PyObject *py_geometry(PyObject *module, PyObject *args)
{
    (void)module;
    int height, width;
    if (!PyArg_ParseTuple(args, "ii", &height, &width) || !sizes_are_fine(height, width, 1, 1))
        return NULL;
    const geometry g = make_geometry(height, width);
    PyObject *levels = PyList_New(LEVELS);
    for (int l = 0; levels && l < LEVELS; l++)
        PyList_SetItem(levels, l, Py_BuildValue("iinn", g.h[l], g.w[l], (Py_ssize_t)g.stride[l],
                                                (Py_ssize_t)g.origin[l]));
    return levels ? Py_BuildValue("nN", (Py_ssize_t)g.size, levels) : NULL;
}

static PyObject *py_weight_counts(PyObject *module, PyObject *args)
{
    (void)module;
    int hidden, features, residual;
    if (!PyArg_ParseTuple(args, "iii", &hidden, &features, &residual))
        return NULL;
    return Py_BuildValue("nn", (Py_ssize_t)make_context_layout(hidden).count,
                         (Py_ssize_t)make_synthesis_layout(features, residual).count);
}

static PyObject *py_workshop(PyObject *module, PyObject *args)
{
    (void)module;
    int height, width, features, residual;
    if (!PyArg_ParseTuple(args, "iiii", &height, &width, &features, &residual)
        || !sizes_are_fine(height, width, features, residual))
        return NULL;
    if (residual > MAX_INPUTS / 9) {
        PyErr_SetString(PyExc_ValueError, "too many residual channels");
        return NULL;
    }
    workshop *s = malloc(sizeof *s);
    if (!s || !workshop_make(s, height, width, features, residual)) {
        free(s);
        return PyErr_NoMemory();
    }
    PyObject *capsule = PyCapsule_New(s, CAPSULE, capsule_free);
    if (!capsule) {
        workshop_free(s);
        free(s);
    }
    return capsule;
}

static PyObject *py_rate(PyObject *module, PyObject *args)
{
    (void)module;
    int height, width, hidden;
    PyObject *o[4];
    if (!PyArg_ParseTuple(args, "iiiOOOO", &height, &width, &hidden, &o[0], &o[1], &o[2], &o[3])
        || !sizes_are_fine(height, width, hidden, 1))
        return NULL;
    const geometry g = make_geometry(height, width);
    const context_layout k = make_context_layout(hidden);
    Py_buffer v[4] = {{0}};
    PyObject *result = NULL;
    if (!get_floats(o[0], &v[0], "latents", g.size, false, false)
        || !get_floats(o[1], &v[1], "weights", k.count, false, false)
        || !get_floats(o[2], &v[2], "d_latents", g.size, true, true)
        || !get_floats(o[3], &v[3], "d_weights", k.count, true, o[2] == Py_None))
        goto done;
    context_space *space = malloc(sizeof *space);
    float *sums = calloc(k.count * (LANES + 1), sizeof *sums);
    if (!space || !sums) {
        PyErr_NoMemory();
    } else {
        double bits;
        Py_BEGIN_ALLOW_THREADS
        const float *w = v[1].buf;
        float *transposed = sums + k.count * LANES;
        transpose(w + k.first, INPUTS, hidden, transposed + k.first);
        transpose(w + k.second, hidden, hidden, transposed + k.second);
        transpose(w + k.last, hidden + INPUTS, 2, transposed + k.last);
        bits = rate_of(&g, v[0].buf, hidden, w, transposed, v[2].buf, sums, space);
        if (v[2].buf)
            add_lanes(sums, k.count, v[3].buf);
        Py_END_ALLOW_THREADS
        result = PyFloat_FromDouble(bits);
    }
    free(space);
    free(sums);
done:
    release(v, 4);
    return result;
}

static PyObject *py_distortion(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *capsule, *o[6];
    double weight;
    if (!PyArg_ParseTuple(args, "OOOOdOOO", &capsule, &o[0], &o[1], &o[2], &weight, &o[3], &o[4], &o[5]))
        return NULL;
    workshop *s = PyCapsule_GetPointer(capsule, CAPSULE);
    if (!s)
        return NULL;
    const size_t weights = make_synthesis_layout(s->features, s->residual).count;
    const size_t samples = COLOURS * (size_t)s->full.h * (size_t)s->full.w;
    Py_buffer v[6] = {{0}};
    PyObject *result = NULL;
    if (get_floats(o[0], &v[0], "latents", s->g.size, false, false)
        && get_floats(o[1], &v[1], "weights", weights, false, false)
        && get_floats(o[2], &v[2], "target", samples, false, false)
        && get_floats(o[3], &v[3], "d_latents", s->g.size, true, true)
        && get_floats(o[4], &v[4], "d_weights", weights, true, o[3] == Py_None)
        && get_floats(o[5], &v[5], "shown", samples, true, true)) {
        double squares;
        Py_BEGIN_ALLOW_THREADS
        squares = distortion_of(s, v[0].buf, v[1].buf, v[2].buf, (float)weight, v[3].buf, v[4].buf, v[5].buf);
        Py_END_ALLOW_THREADS
        result = PyFloat_FromDouble(squares);
    }
    release(v, 6);
    return result;
}

static PyObject *py_soften(PyObject *module, PyObject *args)
{
    (void)module;
    int height, width;
    unsigned seed;
    double temperature, shape;
    PyObject *o[3];
    if (!PyArg_ParseTuple(args, "iiOddIOO", &height, &width, &o[0], &temperature, &shape, &seed, &o[1], &o[2])
        || !sizes_are_fine(height, width, 1, 1))
        return NULL;
    const geometry g = make_geometry(height, width);
    Py_buffer v[3] = {{0}};
    const bool fine = get_floats(o[0], &v[0], "y", g.size, false, false)
                      && get_floats(o[1], &v[1], "latents", g.size, true, false)
                      && get_floats(o[2], &v[2], "slope", g.size, true, false);
    if (fine) {
        Py_BEGIN_ALLOW_THREADS
        soften(&g, v[0].buf, (float)temperature, (float)shape, seed, v[1].buf, v[2].buf);
        Py_END_ALLOW_THREADS
    }
    release(v, 3);
    if (!fine)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *py_adam(PyObject *module, PyObject *args)
{
    (void)module;
    int height, width, step;
    double rate, beta1, beta2, limit;
    PyObject *o[6];
    if (!PyArg_ParseTuple(args, "iiOOOOOOidddd", &height, &width, &o[0], &o[1], &o[2], &o[3], &o[4], &o[5], &step, &rate,
                          &beta1, &beta2, &limit)
        || !sizes_are_fine(height, width, 1, 1))
        return NULL;
    const geometry g = make_geometry(height, width);
    static const char *const names[] = {"y", "slope", "gradient1", "gradient2", "first", "second"};
    Py_buffer v[6] = {{0}};
    bool fine = true;
    for (int i = 0; i < 6 && fine; i++)
        fine = get_floats(o[i], &v[i], names[i], g.size, i == 0 || i > 3, i == 1);
    if (fine) {
        Py_BEGIN_ALLOW_THREADS
        adam_latents(&g, v[0].buf, v[1].buf, v[2].buf, v[3].buf, v[4].buf, v[5].buf, (float)beta1, (float)beta2,
                     (float)(rate / (1 - pow(beta1, step))), (float)(1 / (1 - pow(beta2, step))), (float)limit);
        Py_END_ALLOW_THREADS
    }
    release(v, 6);
    if (!fine)
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"geometry", py_geometry, METH_VARARGS,
     "geometry(height, width, /) -> (floats of a latent buffer, [(height, width, stride, origin) of each level])"},
    {"weight_counts", py_weight_counts, METH_VARARGS,
     "weight_counts(hidden, features, residual, /) -> (of the context network, of upsampling and synthesis)"},
    {"workshop", py_workshop, METH_VARARGS,
     "workshop(height, width, features, residual, /) -> memory for distortion()"},
    {"rate", py_rate, METH_VARARGS,
     "rate(height, width, hidden, latents, weights, d_latents, d_weights, /) -> bits; adds their gradients"},
    {"distortion", py_distortion, METH_VARARGS,
     "distortion(workshop, latents, weights, target, weight, d_latents, d_weights, shown, /) -> squared error;\n"
     "adds weight times its gradients"},
    {"soften", py_soften, METH_VARARGS,
     "soften(height, width, y, temperature, shape, seed, latents, slope, /): soft rounding with noise"},
    {"adam", py_adam, METH_VARARGS,
     "adam(height, width, y, slope, gradient1, gradient2, first, second, step, rate, beta1, beta2, limit, /)"},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};
static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "rhodec.codecs._overfit_fitting",
    .m_doc = "Rate, distortion and their gradients for the encoder of the overfitted codec.", .m_size = 0,
    .m_methods = methods, .m_slots = slots};

PyMODINIT_FUNC PyInit__overfit_fitting(void);
PyMODINIT_FUNC PyInit__overfit_fitting(void)
{
    return PyModuleDef_Init(&definition);
}
