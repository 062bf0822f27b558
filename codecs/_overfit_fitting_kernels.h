/* Rate and distortion of the overfitted codec in floating point, with their gradients: the body of the files that
 * compile it for one kind of processor each. They define KERNELS (name of the set), NAME, SUPPORTED (whether this
 * processor runs it), BYTES (length of a vector) and perhaps HALF: then what networks read, weigh and hand on is in half
 * precision, and twice as much fits a vector. Their sums are too, but for those of the gradient of the weights, which are
 * carried over into floats every few rows. Latents, upsampling, likelihoods and errors stay in floats.
 *
 * The model is that of Cool-chic (Ladune et al., ICCV 2023; Leguay et al., MMSP 2023) in its main lines;
 * FORMAT.md has the integer form that decodes. Everything is written as matrix products over runs of 128
 * neighbouring pixels: a run of one channel is some vectors, a layer's inputs are pointers to runs, so
 * a convolution is a dense layer whose inputs are shifted pointers, and there is one kernel forward (`dense`, also
 * used for the gradient of the inputs) and one for the gradient of the weights (`outer`). The hidden values of the
 * 1x1 layers are recomputed in the backward pass instead of stored: they stay in the first-level cache.
 *
 * The synthesis goes through the picture row by row. Each of its stages, there and back, follows the one before at
 * a distance of one row, and of full-sized planes only the few rows are kept that lie between the first stage and
 * the last: they stay in the second-level cache. From level 1 on the upsampled latents are whole planes. Bands of rows
 * do this by themselves, so threads can share a picture; their number depends on its height alone, and so does the
 * result.
 */

#include "_overfit_fitting.h"

/* The same numbers are in FORMAT.md and _overfit_coding.c: row and column of each neighbour. */
static const int NEIGHBOURS[SPATIAL][2] = {
    {0, -1}, {0, -2}, {0, -3}, {-1, -2}, {-1, -1}, {-1, 0}, {-1, 1},
    {-1, 2}, {-2, -2}, {-2, -1}, {-2, 0}, {-2, 1}, {-2, 2}, {-3, 0},
};

enum { LANES = BYTES / 4 };

typedef float vec __attribute__((vector_size(BYTES)));
typedef int32_t ivec __attribute__((vector_size(BYTES)));
typedef float loose_vec __attribute__((vector_size(BYTES), aligned(4), may_alias));

/* What networks work on, and vectors of that. */
#ifdef HALF
typedef _Float16 real;
#else
typedef float real;
#endif
enum { REALS = BYTES / sizeof(real) };
typedef real rvec __attribute__((vector_size(BYTES)));
typedef real loose_rvec __attribute__((vector_size(BYTES), aligned(sizeof(real)), may_alias));

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")

INLINE vec load(const float *p) { return *(const loose_vec *)p; }
INLINE void store(float *p, vec v) { *(loose_vec *)p = v; }
INLINE vec all(float a) { return (vec){0} + a; }
INLINE vec choose(ivec mask, vec a, vec b) { return (vec)((mask & (ivec)a) | (~mask & (ivec)b)); }
INLINE vec least(vec a, vec b) { return choose(a < b, a, b); }
INLINE vec most(vec a, vec b) { return choose(a > b, a, b); }
INLINE rvec rload(const real *p) { return *(const loose_rvec *)p; }
INLINE void rstore(real *p, rvec v) { *(loose_rvec *)p = v; }
#ifdef HALF /* GCC 12 makes too much of these if they are written as below */
INLINE rvec relu(rvec a) { return (rvec)_mm512_max_ph((__m512h)a, _mm512_setzero_ph()); }
INLINE rvec where_above_0(rvec x, rvec a)
{
    return (rvec)_mm512_maskz_mov_epi16(_mm512_cmp_ph_mask((__m512h)x, _mm512_setzero_ph(), _CMP_GT_OQ), (__m512i)a);
}
#else
INLINE rvec relu(rvec a) { return (rvec)((ivec)a & ~((ivec)a >> 31)); } /* needs no register for a zero */
INLINE rvec where_above_0(rvec x, rvec a) { return choose(x > all(0.0f), a, all(0.0f)); }
#endif
INLINE vec magnitude(vec a) { return (vec)((ivec)a & 0x7fffffff); }
INLINE float total(vec a)
{
    float sum = 0;
    UNROLL for (int n = 0; n < LANES; n++)
        sum += a[n];
    return sum;
}

/* LANES reals as floats, and back. */
#ifdef HALF
/* GCC 12 converts vectors of halves one by one, but for its intrinsics. */
INLINE vec load_reals(const real *p) { return (vec)_mm512_cvtxph_ps((__m256h)_mm256_loadu_si256((const __m256i *)p)); }
INLINE void store_reals(real *p, vec v) { _mm256_storeu_si256((__m256i *)p, (__m256i)_mm512_cvtxps_ph((__m512)v)); }
#else
INLINE vec load_reals(const real *p) { return load(p); }
INLINE void store_reals(real *p, vec v) { store(p, v); }
#endif

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

/* ---- kernels ------------------------------------------------------------------------------------ */

/* What becomes of the sums of `dense`: MASKED keeps those where the old output is above 0 and clears the others,
 * which is the way back through a relu. */
enum { PLAIN, RELU, ADD, MASKED };

/* Vectors that `dense_block` takes at a time, for one output and for more: as many sums as fit in 16 registers (32 of
 * 64 bytes) with what they need, and no fewer than 8, as a sum takes four cycles and two start in each. */
#if BYTES == 64
enum { WIDE = 4, USUAL = 4, NARROW = 4 };
#else
enum { WIDE = 8, USUAL = 4, NARROW = 2 };
#endif

/* out[o][RUN] (+)= bias[o] + sum_i weights[i * stride + o] in[i][RUN], `block` outputs and `width` vectors at a time. */
INLINE void dense_block(int inputs, const real *const *in, const real *weights, int stride, const real *bias,
                        real *const *out, const int block, const int width, const int how)
{
    for (int p = 0; p < RUN; p += width * REALS) {
        rvec sum[6][8];
        UNROLL for (int o = 0; o < block; o++)
            UNROLL for (int v = 0; v < width; v++)
                sum[o][v] = (rvec){0};
        for (int i = 0; i < inputs; i++) {
            rvec x[8];
            UNROLL for (int v = 0; v < width; v++)
                x[v] = rload(in[i] + p + v * REALS);
            UNROLL for (int o = 0; o < block; o++) {
                const real w = weights[(size_t)i * (size_t)stride + (size_t)o];
                UNROLL for (int v = 0; v < width; v++)
                    sum[o][v] += x[v] * w;
            }
        }
        UNROLL for (int o = 0; o < block; o++)
            UNROLL for (int v = 0; v < width; v++) {
                real *at = out[o] + p + v * REALS;
                rvec y = sum[o][v];
                if (bias)
                    y += bias[o];
                if (how == RELU)
                    y = relu(y);
                if (how == ADD)
                    y += rload(at);
                if (how == MASKED)
                    y = where_above_0(rload(at), y);
                rstore(at, y);
            }
    }
}

INLINE void dense(int inputs, const real *const *in, const real *weights, const real *bias, int outputs,
                  real *const *out, const int how)
{
    int o = 0;
    if (outputs % 4 == 2 && outputs >= 6) {
        dense_block(inputs, in, weights, outputs, bias, out, 6, NARROW, how);
        o = 6;
    }
    for (; o + 4 <= outputs; o += 4)
        dense_block(inputs, in, weights + o, outputs, bias ? bias + o : NULL, out + o, 4, NARROW, how);
    const real *rest = bias ? bias + o : NULL;
    if (outputs - o == 3)
        dense_block(inputs, in, weights + o, outputs, rest, out + o, 3, USUAL, how);
    else if (outputs - o == 2)
        dense_block(inputs, in, weights + o, outputs, rest, out + o, 2, USUAL, how);
    else if (outputs - o == 1)
        dense_block(inputs, in, weights + o, outputs, rest, out + o, 1, WIDE, how);
}

/* sums[(i * outputs + o) * REALS] += products of in[i] and gradient[o]; lanes are added up at the end. */
INLINE void outer_block(const real *const *in, const real *const *gradient, real *sums, int outputs,
                        const int rows, const int columns)
{
    rvec acc[8][5];
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int o = 0; o < columns; o++)
            acc[i][o] = rload(sums + ((size_t)i * (size_t)outputs + (size_t)o) * REALS);
    for (int p = 0; p < RUN; p += REALS) {
        rvec g[5];
        UNROLL for (int o = 0; o < columns; o++)
            g[o] = rload(gradient[o] + p);
        UNROLL for (int i = 0; i < rows; i++) {
            const rvec x = rload(in[i] + p);
            UNROLL for (int o = 0; o < columns; o++)
                acc[i][o] += x * g[o];
        }
    }
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int o = 0; o < columns; o++)
            rstore(sums + ((size_t)i * (size_t)outputs + (size_t)o) * REALS, acc[i][o]);
}

INLINE void outer_columns(int inputs, const real *const *in, const real *const *gradient, real *sums, int outputs,
                          const int rows, const int columns)
{
    const size_t row = (size_t)outputs * REALS;
    int i = 0;
    for (; i + rows <= inputs; i += rows)
        outer_block(in + i, gradient, sums + (size_t)i * row, outputs, rows, columns);
    for (; i + 4 <= inputs; i += 4)
        outer_block(in + i, gradient, sums + (size_t)i * row, outputs, 4, columns);
    if (inputs - i == 3)
        outer_block(in + i, gradient, sums + (size_t)i * row, outputs, 3, columns);
    else if (inputs - i == 2)
        outer_block(in + i, gradient, sums + (size_t)i * row, outputs, 2, columns);
    else if (inputs - i == 1)
        outer_block(in + i, gradient, sums + (size_t)i * row, outputs, 1, columns);
}

/* Blocks have as many sums as fit in 16 registers (32 of 64 bytes) with what they need. */
INLINE void outer(int inputs, const real *const *in, int outputs, const real *const *gradient, real *sums)
{
    int o = 0;
#if BYTES == 64
    if (outputs % 5 == 0)
        for (; o < outputs; o += 5)
            outer_columns(inputs, in, gradient + o, sums + o * REALS, outputs, 5, 5);
    for (; o + 4 <= outputs; o += 4)
        outer_columns(inputs, in, gradient + o, sums + o * REALS, outputs, 6, 4);
    for (; o + 3 <= outputs; o += 3)
        outer_columns(inputs, in, gradient + o, sums + o * REALS, outputs, 8, 3);
#else
    for (; o + 3 <= outputs && o + 4 != outputs; o += 3) /* 4 are 2 + 2, which is faster than 3 + 1 */
        outer_columns(inputs, in, gradient + o, sums + o * REALS, outputs, 4, 3);
#endif
    for (; o + 2 <= outputs; o += 2)
        outer_columns(inputs, in, gradient + o, sums + o * REALS, outputs, 4, 2);
    if (o < outputs)
        outer_columns(inputs, in, gradient + o, sums + o * REALS, outputs, 4, 1);
}

INLINE void outer_bias(int outputs, const real *const *gradient, real *sums)
{
    for (int o = 0; o < outputs; o++) {
        rvec acc = rload(sums + o * REALS);
        UNROLL for (int p = 0; p < RUN; p += REALS)
            acc += rload(gradient[o] + p);
        rstore(sums + o * REALS, acc);
    }
}

/* Floats for the sums of so many products and for their totals, which without HALF are the same: but a workshop is for
 * kernels of both kinds. */
static size_t sums_of(size_t count) { return 2 * LANES * count; }

INLINE real *sums_beside(float *totals, size_t count)
{
    return (real *)(sizeof(real) == sizeof(float) ? totals : totals + LANES * count);
}

/* Rows after which sums in half precision are carried over into their totals. */
enum { CARRY = 4 };
static void carry(real *sums, size_t count, float *totals)
{
    if (sizeof(real) == sizeof(float))
        return; /* they are the same */
    for (size_t k = 0; k < count; k++) {
        vec sum = load(totals + k * LANES);
        for (int n = 0; n < REALS; n += LANES)
            sum += load_reals(sums + k * REALS + n);
        store(totals + k * LANES, sum);
        rstore(sums + k * REALS, (rvec){0});
    }
}

static void add_lanes(const float *totals, size_t count, float unscale, float *gradient)
{
    for (size_t k = 0; k < count; k++)
        gradient[k] += unscale * total(load(totals + k * LANES));
}

/* The same for a part of what is summed up: sets the gradient and clears the totals for the next part. */
static void move_lanes(float *totals, size_t count, float unscale, float *gradient)
{
    memset(gradient, 0, sizeof(float) * count);
    add_lanes(totals, count, unscale, gradient);
    memset(totals, 0, sizeof(float) * count * LANES);
}

static void transpose(const float *a, int rows, int columns, real *out)
{
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++)
            out[j * rows + i] = (real)a[i * columns + j];
}

static void as_reals(const float *a, size_t count, real *out)
{
    size_t k = 0;
    for (; k + LANES <= count; k += LANES)
        store_reals(out + k, load(a + k));
    for (; k < count; k++)
        out[k] = (real)a[k];
}

/* A run of floats as the networks read it: the floats themselves, or `room` with them in half precision. */
INLINE const real *read_run(const float *from, real *room)
{
#ifdef HALF
    UNROLL for (int p = 0; p < RUN; p += LANES)
        store_reals(room + p, load(from + p));
    return room;
#else
    (void)room;
    return from;
#endif
}

/* A gradient of latents; where half precision has overflowed it is only known to be large. */
INLINE vec gradient_of(const real *run, float unscale)
{
    vec d = load_reals(run);
#ifdef HALF
    d = most(least(d, all(65504.0f)), all(-65504.0f)); /* of what is not a number, too */
#endif
    return d * all(unscale);
}

/* Where networks write a run that belongs to `to`, and what brings it there. */
INLINE real *run_for(float *to, real *room)
{
#ifdef HALF
    (void)to;
    return room;
#else
    (void)room;
    return to;
#endif
}

INLINE void bring_run(const real *run, float unscale, float *to)
{
#ifdef HALF
    UNROLL for (int p = 0; p < RUN; p += LANES)
        store(to + p, gradient_of(run + p, unscale));
#else
    (void)run, (void)unscale, (void)to;
#endif
}

/* Vectors that do not lie across two cache lines are faster. */
enum { ALIGNMENT = 64 };

static void *aligned(void *block) /* of ALIGNMENT bytes more than are needed */
{
    return (void *)(((uintptr_t)block + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
}
/* ---- rate --------------------------------------------------------------------------------------- */
/* Values of coarser grids around a run: the four nearest of the parent, one of each of two ancestors.
 * `far` lies on the other side of the position than the centre of its parent, row and column alike. */
INLINE void read_coarse(const geometry *g, const float *latents, int level, int y, int x0, float coarse[COARSE][RUN])
{
    memset(coarse, 0, sizeof(float) * COARSE * RUN);
    if (level + 1 < LEVELS) {
        const int l = level + 1;
        const float *near = latents + g->origin[l] + (size_t)(y >> 1) * g->stride[l] + (x0 >> 1);
        const float *far = y & 1 ? near + g->stride[l] : near - g->stride[l];
        for (int i = 0; i < RUN / 2; i++) {
            coarse[0][2 * i] = coarse[0][2 * i + 1] = near[i];
            coarse[1][2 * i] = near[i - 1], coarse[1][2 * i + 1] = near[i + 1];
            coarse[2][2 * i] = coarse[2][2 * i + 1] = far[i];
            coarse[3][2 * i] = far[i - 1], coarse[3][2 * i + 1] = far[i + 1];
        }
    }
    for (int up = 2; up <= 3 && level + up < LEVELS; up++) {
        const int l = level + up;
        const float *near = latents + g->origin[l] + (size_t)(y >> up) * g->stride[l] + (x0 >> up);
        for (int p = 0; p < RUN; p += 4)
            UNROLL for (int n = 0; n < 4; n++)
                coarse[2 + up][p + n] = near[p >> up];
    }
}

/* A run between zeros, so that a run that begins up to APRON values earlier or later can be read: a whole number of
 * vectors in all, and no wider than the padding of a row. */
enum { APRON = REALS / 2 < 8 ? 8 : REALS / 2 };
typedef real apron_run[APRON + RUN + APRON];

#ifdef HALF
#define RATE_SCALE 0.0625f /* of the gradient of the bits, so that sums of its products stay in range */
#else
#define RATE_SCALE 1.0f
#endif

/* coarse: gradients of what read_coarse gives, with aprons. */
INLINE void add_coarse_gradient(const geometry *g, float *gradient, int level, int y, int x0, real *const *from_runs)
{
#ifdef HALF
    float room[COARSE][APRON + RUN + APRON], *coarse[COARSE];
    for (int i = 0; i < COARSE; i++) {
        coarse[i] = room[i] + APRON;
        UNROLL for (int p = -APRON; p < RUN + APRON; p += LANES)
            store(coarse[i] + p, gradient_of(from_runs[i] + p, 1 / RATE_SCALE));
    }
#else
    float *const *coarse = from_runs;
#endif
    if (level + 1 < LEVELS) {
        const int l = level + 1;
        float *near = gradient + (g->origin[l] + (size_t)(y >> 1) * g->stride[l]) + (x0 >> 1);
        float *far = y & 1 ? near + g->stride[l] : near - g->stride[l];
        for (int i = -1; i <= RUN / 2; i++) {
            near[i] += (coarse[0][2 * i] + coarse[0][2 * i + 1]) + (coarse[1][2 * i + 2] + coarse[1][2 * i - 1]);
            far[i] += (coarse[2][2 * i] + coarse[2][2 * i + 1]) + (coarse[3][2 * i + 2] + coarse[3][2 * i - 1]);
        }
    }
    for (int up = 2; up <= 3 && level + up < LEVELS; up++) {
        const int l = level + up;
        const float *from = coarse[2 + up];
        float *near = gradient + (g->origin[l] + (size_t)(y >> up) * g->stride[l]) + (x0 >> up);
        for (int p = 0; p < RUN; p += 4)
            near[p >> up] += (from[p] + from[p + 1]) + (from[p + 2] + from[p + 3]);
    }
}

/* The gradient of what a run reads on its own grid: its values (d_y) and their neighbours (d_in), summed up in
 * registers, one row of latents after the other. */
INLINE void add_spatial_gradient(float *gradient, ptrdiff_t stride, const real *d_y, real *const *d_in)
{
    static const int first[] = {0, 3, 8, 13, SPATIAL};
    UNROLL for (int row = 0; row < 4; row++)
        for (int p = -APRON; p < RUN + (row ? APRON : 0); p += REALS) {
            rvec sum = row == 0 ? rload(d_y + p) : (rvec){0};
            UNROLL for (int i = first[row]; i < first[row + 1]; i++)
                sum += rload(d_in[i] + p - NEIGHBOURS[i][1]);
            real part[REALS];
            rstore(part, sum);
            UNROLL for (int n = 0; n < REALS; n += LANES) {
                float *to = gradient - row * stride + p + n;
                store(to, load(to) + gradient_of(part + n, 1 / RATE_SCALE));
            }
        }
}

/* Code length of a run under Laplace distributions of mean out[0] and log scale out[1], and its gradient with
 * respect to them (d_out) and to the values (d_y). Positions from `valid` on do not count. Unless it is NULL, `lengths`
 * gets what each position has. */
INLINE double laplace_bits(const float *y, real *const *out, int valid, real *const *d_out, real *d_y, float *lengths)
{
    vec sum = all(0.0f);
    for (int p = 0; p < RUN; p += LANES) {
        ivec within;
        UNROLL for (int n = 0; n < LANES; n++)
            within[n] = p + n < valid ? -1 : 0;
        const vec raw = load_reals(out[1] + p), s = most(least(raw, all(5.0f)), all(-5.0f));
        const vec d = load(y + p) - load_reals(out[0] + p), u = magnitude(d);
        const vec inverse = exp2_of(s * all(-LOG2_E));
        const vec t1 = u - all(0.5f), t2 = u + all(0.5f);
        const vec e1 = exp2_of(magnitude(t1) * inverse * all(-LOG2_E)) * all(0.5f);
        const vec e2 = exp2_of(t2 * inverse * all(-LOG2_E)) * all(0.5f);
        const vec mass = choose(t1 > all(0.0f), e1, all(1.0f) - e1) - e2 + all(6e-8f);
        const vec length = choose(within, -log2_of(mass), all(0.0f));
        sum += length;
        if (lengths)
            store(lengths + p, length);
        const vec density1 = e1 * inverse, density2 = e2 * inverse;
        const vec g = choose(within, all(-LOG2_E * RATE_SCALE) / mass, all(0.0f));
        const vec du = g * (density2 - density1);
        const vec dd = (vec)((ivec)du ^ ((ivec)d & (int32_t)0x80000000));
        store_reals(d_y + p, dd);
        store_reals(d_out[0] + p, -dd);
        const vec ds = g * (t1 * density1 - t2 * density2);
        /* Outside its range the scale may only be pushed back. */
        const ivec stuck = ((raw > all(5.0f)) & (ds < all(0.0f))) | ((raw < all(-5.0f)) & (ds > all(0.0f)));
        store_reals(d_out[1] + p, choose(stuck, all(0.0f), ds));
    }
    return total(sum);
}

/* Memory of rate_of, all zeros at first. */
typedef struct {
    real a[MAX_WIDTH][RUN], b[MAX_WIDTH][RUN]; /* the hidden layers, overwritten by their gradients */
    float coarse[COARSE][RUN];
    real coarse_reals[COARSE][RUN], out[2][RUN], d_out[2][RUN];
    apron_run d_in[INPUTS], d_y;
    real weights[(INPUTS + MAX_WIDTH + 2) * MAX_WIDTH + 2 * INPUTS + (LEVELS + 1) * MAX_WIDTH + 2 * LEVELS];
    real to_hidden[2 * MAX_WIDTH], to_inputs[(MAX_WIDTH + 2) * INPUTS]; /* transposed weights of the last layer, and */
    real to_first[MAX_WIDTH * MAX_WIDTH];                               /* of all that reads the inputs */
} context_space;

static void transpose_context(const context_layout *k, int hidden, const float *weights, context_space *s)
{
    const float *last = weights + k->last, *last_of_inputs = last + hidden * 2;
    transpose(last, hidden, 2, s->to_hidden);
    transpose(weights + k->second, hidden, hidden, s->to_first);
    transpose(weights + k->first, INPUTS, hidden, s->to_inputs);
    transpose(last_of_inputs, INPUTS, 2, s->to_inputs + hidden * INPUTS);
    as_reals(weights, k->count, s->weights);
}

/* Rows of a grid that are read for one of them, which is the last. */
enum { LINES = 4 };

/* Rows y, y - 1, y - 2, y - 3 of a grid as networks read them. They come in order from the one that `begins`, as `room`
 * (of LINES rows) keeps those of before. */
INLINE void read_lines(const geometry *g, const float *latents, int level, int y, bool begins, real *room,
                       const real **lines)
{
    for (int i = 0; i < LINES; i++) {
        const float *row = latents + (ptrdiff_t)g->origin[level] + (y - i) * (ptrdiff_t)g->stride[level];
#ifdef HALF
        real *copy = room + (size_t)((y - i) & (LINES - 1)) * g->stride[0];
        if (i == 0 || begins)
            as_reals(row - PAD_LEFT, g->stride[level], copy);
        lines[i] = copy + PAD_LEFT;
#else
        (void)begins, (void)room;
        lines[i] = row;
#endif
    }
}

/* `rate` of fitting_kernels with memory for it; `sums`, `totals`: gradients lane by lane, all zeros at first. */
static double rate_of(const geometry *g, part rows, const float *latents, int hidden, float *d_latents, real *sums,
                      float *totals, real *room, context_space *s, const float *signs, float *by_row, float *lengths)
{
    const context_layout k = make_context_layout(hidden);
    const real *weights = s->weights, *lines[LINES], *in[INPUTS], *last_in[MAX_WIDTH + INPUTS], *d_of_inputs[MAX_WIDTH + 2];
    real *a[MAX_WIDTH], *b[MAX_WIDTH], *d_in[INPUTS];
    real *out[2] = {s->out[0], s->out[1]}, *d_out[2] = {s->d_out[0], s->d_out[1]}, *d_y = s->d_y + APRON;
    const real *const *ca = (const real *const *)a, *const *cb = (const real *const *)b;
    const real *const *dc_out = (const real *const *)d_out;
    for (int i = 0; i < hidden; i++) {
        a[i] = s->a[i], last_in[i] = b[i] = s->b[i];
        d_of_inputs[i] = a[i];
    }
    for (int i = 0; i < 2; i++)
        d_of_inputs[hidden + i] = d_out[i];
    for (int i = 0; i < INPUTS; i++)
        d_in[i] = s->d_in[i] + APRON;

    const geometry d = reached(g, rows); /* of d_latents */
    if (d_latents)
        memset(d_latents, 0, sizeof(float) * d.size);

    double bits = 0;
    int waiting = 0; /* rows that are not in the totals */
    for (int level = g->finest; level < LEVELS; level++)
        for (int y = first_row(rows, g->h[level]); y < end_row(rows, g->h[level]); y++) {
            read_lines(g, latents, level, y, y == first_row(rows, g->h[level]), room, lines);
            for (int x = 0; x < g->w[level]; x += RUN) {
                const size_t at = g->origin[level] + (size_t)y * g->stride[level] + (size_t)x;
                const int valid = g->w[level] - x < RUN ? g->w[level] - x : RUN;
                read_coarse(g, latents, level, y, x, s->coarse);
                for (int i = 0; i < INPUTS; i++) {
                    in[i] = i < SPATIAL ? lines[-NEIGHBOURS[i][0]] + x + NEIGHBOURS[i][1]
                                        : read_run(s->coarse[i - SPATIAL], s->coarse_reals[i - SPATIAL]);
                    last_in[hidden + i] = in[i];
                }
                dense(INPUTS, in, weights + k.first, weights + k.first_bias + level * hidden, hidden, a, RELU);
                dense(hidden, ca, weights + k.second, weights + k.second_bias, hidden, b, RELU);
                dense(hidden + INPUTS, last_in, weights + k.last, weights + k.last_bias + level * 2, 2, out, PLAIN);
                bits += laplace_bits(latents + at, out, valid, d_out, d_y, lengths ? lengths + at : NULL);
                if (!d_latents)
                    continue;
                if (signs)
                    for (int i = 0; i < 2; i++)
                        for (int p = 0; p < RUN; p += LANES)
                            store_reals(d_out[i] + p, load_reals(d_out[i] + p) * load(signs + at + p));

                outer(hidden + INPUTS, last_in, 2, dc_out, sums + k.last * REALS);
                outer_bias(2, dc_out, sums + (k.last_bias + (size_t)level * 2) * REALS);
                dense(2, dc_out, s->to_hidden, NULL, hidden, b, MASKED);
                outer(hidden, ca, hidden, cb, sums + k.second * REALS);
                outer_bias(hidden, cb, sums + k.second_bias * REALS);
                dense(hidden, cb, s->to_first, NULL, hidden, a, MASKED);
                outer(INPUTS, in, hidden, ca, sums + k.first * REALS);
                outer_bias(hidden, ca, sums + (k.first_bias + (size_t)(level * hidden)) * REALS);
                dense(hidden + 2, d_of_inputs, s->to_inputs, NULL, INPUTS, d_in, PLAIN);
                float *to = d_latents + (d.origin[level] + (size_t)y * d.stride[level] + (size_t)x);
                add_spatial_gradient(to, (ptrdiff_t)d.stride[level], d_y, d_in);
                add_coarse_gradient(&d, d_latents, level, y, x, d_in + SPATIAL);
            }
            if (d_latents && (by_row || ++waiting == CARRY)) {
                carry(sums, k.count, totals);
                waiting = 0;
            }
            if (by_row) {
                move_lanes(totals, k.count, 1 / RATE_SCALE, by_row);
                by_row += k.count;
            }
        }
    carry(sums, k.count, totals);
    return bits;
}
static bool rate(const geometry *g, part rows, const float *latents, int hidden, const float *weights, float *d_latents,
                 float *d_weights, const float *signs, float *by_row, float *lengths, double *bits)
{
    const context_layout k = make_context_layout(hidden);
    const size_t lines = LINES * g->stride[0];
    void *block = calloc(1, sizeof(context_space) + sizeof(float) * (sums_of(k.count) + lines) + ALIGNMENT);
    if (!block)
        return false;
    context_space *space = aligned(block);
    float *totals = (float *)(space + 1);
    real *sums = sums_beside(totals, k.count), *room = (real *)(totals + sums_of(k.count));
    transpose_context(&k, hidden, weights, space);
    *bits = rate_of(g, rows, latents, hidden, d_latents, sums, totals, room, space, signs, by_row, lengths);
    if (d_latents && !by_row)
        add_lanes(totals, k.count, 1 / RATE_SCALE, d_weights);
    free(block);
    return true;
}

/* ---- distortion --------------------------------------------------------------------------------- */
INLINE float *row_of(const planes *p, int channel, int y)
{
    return p->at + ((size_t)channel * (size_t)p->rows + (size_t)(y % p->rows)) * p->stride;
}

/* The same of planes of reals, which take the first part of memory for floats. */
INLINE real *reals_of(const planes *p, int channel, int y)
{
    return (real *)p->at + ((size_t)channel * (size_t)p->rows + (size_t)(y % p->rows)) * p->stride;
}

INLINE int clamped(int i, int size) { return i < 0 ? 0 : i >= size ? size - 1 : i; }

/* A row, or outside the planes `outside`. */
INLINE const float *row_or(const planes *p, int channel, int y, const float *outside)
{
    return y < p->first || y >= p->h ? outside : row_of(p, channel, y);
}
/* Take memory for planes from `base`, or only count it where that is NULL; the end of what was taken. */
static size_t place(planes *p, float *base, size_t at, int channels, int h, int w, int rows)
{
    *p = (planes){.h = h, .w = w, .rows = rows, .stride = padded_width(w)};
    if (base)
        p->at = base + at + PAD_LEFT;
    return at + (size_t)channels * (size_t)rows * p->stride;
}

/* The bands of a picture: their borders are even, for the rows of level 1. */
static void divide(workshop *s)
{
    const int height = s->g.h[0];
    s->bands = parts_of(height);
    for (int i = 0; i < s->bands; i++) {
        const part rows = {i, s->bands};
        s->band[i].begin = first_row(rows, height) / 2 * 2;
        s->band[i].end = i + 1 < s->bands ? end_row(rows, height) / 2 * 2 : height;
    }
}

static size_t place_band(const workshop *s, band *b, float *base, size_t at)
{
    const int height = s->g.h[0], width = s->g.w[0];
    const size_t row = padded_width(width), weights = make_synthesis_layout(s->features, s->residual).count;
    /* Of level 0, the rows between those that go forward and those 4 behind that go back; of its gradient, what a row
     * of level 1 meets. Each 3x3 convolution needs 3 rows of its input, and `hidden` and `colour` 2 more, as they are
     * read again on the way back. */
    at = place(&b->stack, base, at, LEVELS, height, width, 5);
    at = place(&b->d_stack, base, at, LEVELS, b->end, width, 8);
    b->d_stack.first = b->begin;
    at = place(&b->wide, base, at, LEVELS - 1, s->g.h[1], width, 4);
    at = place(&b->colour, base, at, COLOURS, height, width, 5);
    at = place(&b->d_colour, base, at, COLOURS, height, width, 1);
    at = place(&b->error, base, at, COLOURS, height, width, 3);
    at = place(&b->hidden, base, at, s->residual, height, width, 5);
    at = place(&b->beyond, base, at, LEVELS - 1, 2 * BEYOND, s->g.w[1], 2 * BEYOND);
    float **const rows[] = {&b->row, &b->d_row, &b->wide_row, &b->d_wide, &b->even, &b->odd};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++, at += row)
        *rows[i] = base ? base + at + PAD_LEFT : NULL;
    b->run = base ? (void *)(base + at) : NULL, at += (size_t)s->features * RUN;
    b->totals = base ? base + at : NULL, at += sums_of(weights);
    return at;
}

static bool workshop_make(workshop *s, int height, int width, int features, int residual)
{
    memset(s, 0, sizeof *s);
    s->g = make_geometry(height, width, 0);
    s->features = features;
    s->residual = residual;
    divide(s);
    for (int pass = 0; pass < 2; pass++) {
        float *base = pass ? aligned(s->block) : NULL;
        size_t at = 0;
        for (int l = 1; l < LEVELS; l++) {
            at = place(&s->stack[l], base, at, LEVELS - l, s->g.h[l], s->g.w[l], s->g.h[l]);
            at = place(&s->d_stack[l], base, at, LEVELS - l, s->g.h[l], s->g.w[l], s->g.h[l]);
        }
        for (int i = 0; i < s->bands; i++)
            at = place_band(s, &s->band[i], base, at);
        s->zeros = base ? base + at + PAD_LEFT : NULL, at += padded_width(width);
        s->weights = base ? base + at : NULL, at += make_synthesis_layout(features, residual).count;
        s->transposed = base ? base + at : NULL, at += make_synthesis_layout(features, residual).count;
        if (pass == 0) {
            s->bytes = at * sizeof(float) + ALIGNMENT;
            s->block = calloc(s->bytes, 1);
            if (!s->block)
                return false;
        }
    }
    return true;
}

/* A row twice as dense: out[2i] and out[2i + 1] lie a quarter before and behind in[i]. `in` has two values of
 * padding on both sides; even and odd are room for a row each. */
INLINE void widen_row(const float *in, int w, const float *f, float *even, float *odd, float *restrict out)
{
    const float f0 = f[0], f1 = f[1], f2 = f[2], f3 = f[3];
    for (int x = 0; x < w; x += LANES) {
        const vec a = load(in + x - 2), b = load(in + x - 1), c = load(in + x), d = load(in + x + 1);
        const vec e = load(in + x + 2);
        store(even + x, (a * f0 + b * f1) + (c * f2 + d * f3));
        store(odd + x, (b * f3 + c * f2) + (d * f1 + e * f0));
    }
    for (int x = 0; x < w; x++) {
        out[2 * x] = even[x];
        out[2 * x + 1] = odd[x];
    }
}

static void pad_row(const float *in, int w, float *out) /* out[-2 .. w + 1] */
{
    memcpy(out, in, sizeof(float) * (size_t)w);
    out[-2] = out[-1] = in[0];
    out[w] = out[w + 1] = in[w - 1];
}

/* Row y of the finer planes of level l out of the stack of level l + 1. Rows come in order, from an even one on that
 * `begins`, as those that are widened are kept for the next. */
INLINE void upsample_row(workshop *s, band *b, int l, const float *f, int y, bool begins)
{
    const planes *in = &s->stack[l + 1], *out = l ? &s->stack[l] : &b->stack, *wide = &b->wide;
    const int middle = y >> 1, channels = LEVELS - 1 - l;
    const int begin = begins ? clamped(middle - 2, in->h) : y & 1 ? middle + 2 : in->h;
    const int end = begins ? middle + 2 : middle + 3;
    for (int c = 0; c < channels; c++) {
        for (int i = begin; i < end && i < in->h; i++) {
            pad_row(row_of(in, c, i), in->w, b->row);
            widen_row(b->row, in->w, f, b->even, b->odd, row_of(wide, c, i));
        }
        const float *from[TAPS];
        float t[TAPS];
        for (int k = 0; k < TAPS; k++) {
            from[k] = row_of(wide, c, clamped(middle + (y & 1 ? k - 1 : k - 2), in->h));
            t[k] = f[y & 1 ? TAPS - 1 - k : k];
        }
        float *to = row_of(out, c, y);
        for (int x = 0; x < out->w; x += LANES)
            store(to + x, (load(from[0] + x) * all(t[0]) + load(from[1] + x) * all(t[1]))
                              + (load(from[2] + x) * all(t[2]) + load(from[3] + x) * all(t[3])));
    }
}

/* The gradient of row j of level l + 1's stack, when that of the rows up to 2j + 4 of level l is there, written to row
 * `to` of d_in. The filter is symmetric, so each of its taps meets the sum of two values, in rows as in columns.
 * d_f += gradient of the taps. */
INLINE void upsample_row_backward(workshop *s, band *b, int l, const float *f, int j, const planes *d_in, int to,
                                  double *d_f)
{
    const planes *in = &s->stack[l + 1], *d_out = l ? &s->d_stack[l] : &b->d_stack;
    const int w = in->w;
    const vec f0 = all(f[0]), f1 = all(f[1]), f2 = all(f[2]), f3 = all(f[3]);
    vec sum0 = all(0.0f), sum1 = sum0, sum2 = sum0, sum3 = sum0;
    for (int c = 0; c < LEVELS - 1 - l; c++) {
        pad_row(row_of(in, c, j), w, b->row);
        widen_row(b->row, w, f, b->even, b->odd, b->wide_row);
        memset(b->d_wide, 0, sizeof(float) * (size_t)(2 * w + LANES));
        /* Rows beyond the edge are those at the edge. */
        for (int i = j == 0 ? -2 : j; i <= (j == in->h - 1 ? j + 2 : j); i++) {
            const float *d[8];
            for (int k = 0; k < 8; k++)
                d[k] = row_or(d_out, c, 2 * i - 3 + k, s->zeros);
            for (int x = 0; x < 2 * w; x += LANES) {
                const vec p0 = load(d[0] + x) + load(d[7] + x), p1 = load(d[2] + x) + load(d[5] + x);
                const vec p2 = load(d[3] + x) + load(d[4] + x), p3 = load(d[1] + x) + load(d[6] + x);
                const vec value = load(b->wide_row + x);
                store(b->d_wide + x, load(b->d_wide + x) + ((f0 * p0 + f1 * p1) + (f2 * p2 + f3 * p3)));
                sum0 += value * p0, sum1 += value * p1, sum2 += value * p2, sum3 += value * p3;
            }
        }
        for (int x = 0; x < w; x++) {
            b->even[x] = b->d_wide[2 * x];
            b->odd[x] = b->d_wide[2 * x + 1];
        }
        memset(b->even + w, 0, sizeof(float) * 2 * LANES);
        memset(b->odd + w, 0, sizeof(float) * 2 * LANES);
        for (int x = -2; x < w + 2; x += LANES) {
            const float *even = b->even + x, *odd = b->odd + x;
            const vec p0 = load(even + 2) + load(odd - 2), p1 = load(even + 1) + load(odd - 1);
            const vec p2 = load(even) + load(odd), p3 = load(even - 1) + load(odd + 1);
            const vec value = load(b->row + x);
            store(b->d_row + x, (f0 * p0 + f1 * p1) + (f2 * p2 + f3 * p3));
            sum0 += value * p0, sum1 += value * p1, sum2 += value * p2, sum3 += value * p3;
        }
        b->d_row[0] += b->d_row[-1] + b->d_row[-2];
        b->d_row[w - 1] += b->d_row[w] + b->d_row[w + 1];
        memcpy(row_of(d_in, c, to), b->d_row, sizeof(float) * (size_t)w);
    }
    d_f[0] += total(sum0), d_f[1] += total(sum1), d_f[2] += total(sum2), d_f[3] += total(sum3);
}

/* Three rows of some channels around row y; outside the planes `outside`, or the outermost row if that is NULL. */
typedef const real *rows_of_three[MAX_INPUTS / 9][3];

INLINE void rows_around(const planes *p, int channels, int y, const void *outside, rows_of_three rows)
{
    for (int c = 0; c < channels; c++)
        for (int k = 0; k < 3; k++) {
            const int row = y + k - 1;
            const bool is_outside = outside && (row < 0 || row >= p->h);
            rows[c][k] = is_outside ? outside : reals_of(p, c, clamped(row, p->h));
        }
}

/* Shifted inputs of a 3x3 convolution, and of its transpose. */
INLINE void window(rows_of_three rows, int channels, int x, const real **in)
{
    for (int c = 0; c < channels; c++)
        UNROLL for (int t = 0; t < 9; t++)
            in[c * 9 + t] = rows[c][t / 3] + x + (t % 3 - 1);
}

INLINE void window_backward(rows_of_three rows, int channels, int x, const real **in)
{
    for (int c = 0; c < channels; c++)
        UNROLL for (int t = 0; t < 9; t++)
            in[c * 9 + t] = rows[c][2 - t / 3] + x - (t % 3 - 1);
}

/* [9 * inputs][outputs] -> [9 * outputs][inputs], for the gradient of a convolution's input. */
static void transpose_convolution(const float *w, int inputs, int outputs, real *out)
{
    for (int i = 0; i < inputs; i++)
        for (int t = 0; t < 9; t++)
            for (int o = 0; o < outputs; o++)
                out[(o * 9 + t) * inputs + i] = (real)w[(i * 9 + t) * outputs + o];
}

/* What runs wrote right of the picture becomes zero. */
INLINE void clear_beyond(const planes *p, int channels, int y)
{
    for (int c = 0; c < channels; c++)
        memset(reals_of(p, c, y) + p->w, 0, sizeof(real) * (p->stride - PAD_LEFT - (size_t)p->w));
}

/* The weights as networks read them, and transposed. */
INLINE const real *weights_of(const workshop *s) { return (const real *)s->weights; }
INLINE real *transposed_of(const workshop *s) { return (real *)s->transposed; }
INLINE real *sums_at(const band *b, const synthesis_layout *k, size_t weight)
{
    return sums_beside(b->totals, k->count) + weight * REALS;
}
INLINE void set_runs(const band *b, int count, real **run)
{
    for (int i = 0; i < count; i++)
        run[i] = (real *)b->run + (size_t)i * RUN;
}

/* The stages of the synthesis and their ways back, each for one row of the picture. */

INLINE void stack_row(workshop *s, band *b, const synthesis_layout *k, const float *weights, const float *latents,
                      int l, int y, bool begins)
{
    if (l + 1 < LEVELS)
        upsample_row(s, b, l, weights + k->filters + l * TAPS, y, begins);
    const float *own = latents + s->g.origin[l] + (size_t)y * s->g.stride[l];
    memcpy(row_of(l ? &s->stack[l] : &b->stack, LEVELS - 1 - l, y), own, sizeof(float) * (size_t)s->g.w[l]);
}

INLINE void colour_row(workshop *s, band *b, const synthesis_layout *k, int y)
{
    const real *in[LEVELS], *weights = weights_of(s);
    real *out[COLOURS], *run[MAX_WIDTH], room[LEVELS][RUN];
    const real *const *hidden = (const real *const *)run;
    const int W = b->colour.w;
    set_runs(b, s->features, run);
    for (int x = 0; x < W; x += RUN) {
        for (int c = 0; c < LEVELS; c++)
            in[c] = read_run(row_of(&b->stack, c, y) + x, room[c]);
        for (int c = 0; c < COLOURS; c++)
            out[c] = reals_of(&b->colour, c, y) + x;
        dense(LEVELS, in, weights + k->mix, weights + k->mix_bias, s->features, run, RELU);
        dense(s->features, hidden, weights + k->colour, weights + k->colour_bias, COLOURS, out, PLAIN);
    }
    for (int c = 0; c < COLOURS; c++) { /* the border repeats the outermost values */
        real *row = reals_of(&b->colour, c, y);
        row[-1] = row[0];
        row[W] = row[W - 1];
    }
}

INLINE void hidden_row(workshop *s, band *b, const synthesis_layout *k, int y)
{
    const real *in[MAX_INPUTS], *weights = weights_of(s);
    real *out[MAX_INPUTS / 9];
    rows_of_three rows;
    rows_around(&b->colour, COLOURS, y, NULL, rows);
    for (int x = 0; x < b->hidden.w; x += RUN) {
        window(rows, COLOURS, x, in);
        for (int c = 0; c < s->residual; c++)
            out[c] = reals_of(&b->hidden, c, y) + x;
        dense(9 * COLOURS, in, weights + k->spread, weights + k->spread_bias, s->residual, out, RELU);
    }
    clear_beyond(&b->hidden, s->residual, y);
}

/* The squared error of a row, with the gradient of gather's weights unless `learn` is false. */
INLINE double error_row(workshop *s, band *b, const synthesis_layout *k, const float *target, float weight, bool learn,
                        float *shown, float *errors, int y)
{
    const int W = b->error.w;
    const size_t pixels = (size_t)b->error.h * (size_t)W;
    const real *in[MAX_INPUTS], *weights = weights_of(s);
    real line[COLOURS][RUN], *out[COLOURS] = {line[0], line[1], line[2]}, *d[COLOURS];
    float found[RUN], wanted[RUN], squared[RUN];
    rows_of_three rows;
    rows_around(&b->hidden, s->residual, y, s->zeros, rows);
    double squares = 0;
    for (int x = 0; x < W; x += RUN) {
        const size_t valid = (size_t)(W - x < RUN ? W - x : RUN);
        window(rows, s->residual, x, in);
        for (int c = 0; c < COLOURS; c++)
            memcpy(line[c], reals_of(&b->colour, c, y) + x, sizeof line[c]);
        dense(9 * s->residual, in, weights + k->gather, weights + k->gather_bias, COLOURS, out, ADD);
        memset(squared, 0, sizeof squared);
        for (int c = 0; c < COLOURS; c++) {
            const size_t at = (size_t)c * pixels + (size_t)y * (size_t)W + (size_t)x;
            memset(line[c] + valid, 0, sizeof(real) * (RUN - valid));
            memset(wanted + valid, 0, sizeof(float) * (RUN - valid));
            memcpy(wanted, target + at, sizeof(float) * valid);
            d[c] = reals_of(&b->error, c, y) + x;
            for (int p = 0; p < RUN; p += LANES) { /* the gradient goes through the clipping, or black stays black */
                const vec sample = load_reals(line[c] + p);
                const vec e = most(least(sample, all(BRIGHTEST)), all(DARKEST)) - load(wanted + p);
                store(found + p, sample);
                store(squared + p, load(squared + p) + e * e);
                store_reals(d[c] + p, all(2 * weight) * e);
            }
            if (shown)
                memcpy(shown + at, found, sizeof(float) * valid);
        }
        vec sum = all(0.0f);
        for (int p = 0; p < RUN; p += LANES)
            sum += load(squared + p);
        squares += total(sum);
        if (errors)
            memcpy(errors + (size_t)y * (size_t)W + (size_t)x, squared, sizeof(float) * valid);
        if (learn) {
            const real *const *dc = (const real *const *)d;
            outer(9 * s->residual, in, COLOURS, dc, sums_at(b, k, k->gather));
            outer_bias(COLOURS, dc, sums_at(b, k, k->gather_bias));
        }
    }
    return squares;
}

INLINE void hidden_row_backward(workshop *s, band *b, const synthesis_layout *k, bool learn, int y)
{
    const real *in[MAX_INPUTS];
    real *out[MAX_INPUTS / 9];
    rows_of_three errors, colours;
    rows_around(&b->error, COLOURS, y, s->zeros, errors);
    rows_around(&b->colour, COLOURS, y, NULL, colours);
    for (int x = 0; x < b->hidden.w; x += RUN) {
        window_backward(errors, COLOURS, x, in);
        for (int c = 0; c < s->residual; c++)
            out[c] = reals_of(&b->hidden, c, y) + x;
        /* Right of the picture hidden values are 0: no gradient there. */
        dense(9 * COLOURS, in, transposed_of(s) + k->gather, NULL, s->residual, out, MASKED);
        if (!learn)
            continue;
        window(colours, COLOURS, x, in);
        outer(9 * COLOURS, in, s->residual, (const real *const *)out, sums_at(b, k, k->spread));
        outer_bias(s->residual, (const real *const *)out, sums_at(b, k, k->spread_bias));
    }
}

/* The gradient that comes to row y of the colours through the 3x3 convolutions, columns of the border included;
 * row -1 and the row after the last stand for the border above and below. */
INLINE void residual_row_backward(workshop *s, band *b, const synthesis_layout *k, int y, const int how)
{
    const int R = s->residual, W = b->colour.w;
    const real *in[MAX_INPUTS];
    real *out[COLOURS];
    rows_of_three rows;
    rows_around(&b->hidden, R, y, s->zeros, rows);
    for (int x = 0; x < W; x += RUN) {
        window_backward(rows, R, x, in);
        for (int c = 0; c < COLOURS; c++)
            out[c] = reals_of(&b->d_colour, c, 0) + x;
        dense(9 * R, in, transposed_of(s) + k->spread, NULL, COLOURS, out, how);
    }
    for (int c = 0; c < COLOURS; c++) {
        real *d = reals_of(&b->d_colour, c, 0);
        for (int t = 0; t < 3; t++) {
            const real *left = weights_of(s) + k->spread + (size_t)((c * 9 + t * 3) * R), *right = left + 2 * R;
            for (int o = 0; o < R; o++) {
                d[0] += left[o] * rows[o][2 - t][0];
                d[W - 1] += right[o] * rows[o][2 - t][W - 1];
            }
        }
    }
}

INLINE void colour_row_backward(workshop *s, band *b, const synthesis_layout *k, float *d_own, int y)
{
    const int F = s->features;
    const real *in[LEVELS], *weights = weights_of(s);
    real *d[COLOURS], *out[LEVELS], *run[MAX_WIDTH], room[LEVELS][RUN], d_room[LEVELS][RUN];
    const real *const *dc = (const real *const *)d, *const *hidden = (const real *const *)run;
    set_runs(b, F, run);
    residual_row_backward(s, b, k, y, PLAIN);
    if (y == 0)
        residual_row_backward(s, b, k, -1, ADD);
    if (y == b->colour.h - 1)
        residual_row_backward(s, b, k, y + 1, ADD);
    clear_beyond(&b->d_colour, COLOURS, 0);
    for (int x = 0; x < b->colour.w; x += RUN) {
        for (int c = 0; c < COLOURS; c++) { /* the picture is colour + residual */
            d[c] = reals_of(&b->d_colour, c, 0) + x;
            const real *e = reals_of(&b->error, c, y) + x;
            UNROLL for (int p = 0; p < RUN; p += REALS)
                rstore(d[c] + p, rload(d[c] + p) + rload(e + p));
        }
        for (int c = 0; c < LEVELS; c++) {
            in[c] = read_run(row_of(&b->stack, c, y) + x, room[c]);
            out[c] = run_for(row_of(&b->d_stack, c, y) + x, d_room[c]);
        }
        dense(LEVELS, in, weights + k->mix, weights + k->mix_bias, F, run, RELU);
        outer(F, hidden, COLOURS, dc, sums_at(b, k, k->colour));
        outer_bias(COLOURS, dc, sums_at(b, k, k->colour_bias));
        dense(COLOURS, dc, transposed_of(s) + k->colour, NULL, F, run, MASKED);
        outer(LEVELS, in, F, hidden, sums_at(b, k, k->mix));
        outer_bias(F, hidden, sums_at(b, k, k->mix_bias));
        dense(F, hidden, transposed_of(s) + k->mix, NULL, LEVELS, out, PLAIN);
        for (int c = 0; c < LEVELS; c++)
            bring_run(out[c], b->unscale, row_of(&b->d_stack, c, y) + x);
    }
    const float *own = row_of(&b->d_stack, LEVELS - 1, y);
    for (int x = 0; x < b->colour.w; x++)
        d_own[x] += own[x];
}

/* Gradient rows of level 1 that a band finds, [from, to): its own are [own, own_end). */
typedef struct {
    int from, own, own_end, to;
} level1_rows;

static level1_rows level1_rows_of(const workshop *s, const band *b)
{
    const int h = s->g.h[1], own = b->begin / 2, own_end = b->end == s->g.h[0] ? h : b->end / 2;
    return (level1_rows){own < BEYOND ? 0 : own - BEYOND, own, own_end, own_end + BEYOND < h ? own_end + BEYOND : h};
}

/* Where in band.beyond a row of level 1 is that is not the band's own. */
static int place_beyond(level1_rows rows, int j) { return BEYOND + j - (j < rows.own ? rows.own : rows.own_end); }

static void begin(workshop *s, const float *latents, const float *weights)
{
    const synthesis_layout k = make_synthesis_layout(s->features, s->residual);
    if (s->real != sizeof(real)) {
        memset(s->block, 0, s->bytes); /* what is around the rows must be 0, and rows are at other places now */
        s->real = sizeof(real);
    }
    as_reals(weights, k.count, (real *)s->weights);
    transpose_convolution(weights + k.gather, s->residual, COLOURS, transposed_of(s) + k.gather);
    transpose_convolution(weights + k.spread, COLOURS, s->residual, transposed_of(s) + k.spread);
    transpose(weights + k.mix, LEVELS, s->features, transposed_of(s) + k.mix);
    transpose(weights + k.colour, s->features, COLOURS, transposed_of(s) + k.colour);
    for (int l = LEVELS - 1; l > 0; l--)
        for (int y = 0; y < s->g.h[l]; y++)
            stack_row(s, &s->band[0], &k, weights, latents, l, y, y == 0);
}

static bool is_within(int y, int from, int to) { return y >= from && y < to; }

/* What the gradients are multiplied by for sums of their products to stay in range, a power of two. */
INLINE float scale_of(float weight)
{
#ifdef HALF
    int exponent;
    frexpf(weight, &exponent);
    return exponent > 2 ? ldexpf(1, 2 - exponent) : 1;
#else
    (void)weight;
    return 1;
#endif
}

/* Row y of by_row gets what the weights [from, to) have summed up, which then starts anew. */
static void end_row_of(band *b, const synthesis_layout *k, size_t from, size_t to, float *by_row, int y)
{
    float *totals = b->totals + from * LANES;
    carry(sums_at(b, k, from), to - from, totals);
    move_lanes(totals, to - from, b->unscale, by_row + (size_t)y * k->count + from);
}

/* Row y passes a stage when its neighbours have passed the one before: each stage is a row behind. Beyond its own rows
 * a band computes those that the next stage reads. */
static double take_band(workshop *s, int number, const float *latents, const float *weights, const float *target,
                        float weight, float *d_latents, float *shown, float *by_row, float *errors)
{
    const synthesis_layout k = make_synthesis_layout(s->features, s->residual);
    const geometry *g = &s->g;
    band *b = &s->band[number];
    const int begin = b->begin, end = b->end, around = d_latents ? 2 : 0; /* rows of the error beyond the own ones */
    const int height = g->h[0], first = begin - around - 2 > 0 ? begin - around - 2 : 0;
    const level1_rows rows = level1_rows_of(s, b);
    memset(b->totals, 0, sizeof(float) * sums_of(k.count));
    const float scale = scale_of(weight); /* of the gradients in the networks */
    b->unscale = 1 / scale;
    memset(b->d_filter, 0, sizeof b->d_filter);
    double squares = 0;
    int next = rows.from; /* row of level 1's stack that gets its gradient next */
    for (int y = first; y < end + around + 2; y++) {
        if (y < height) {
            stack_row(s, b, &k, weights, latents, 0, y, y == first);
            colour_row(s, b, &k, y);
        }
        if (is_within(y - 1, begin - around - 1, end + around + 1) && is_within(y - 1, 0, height))
            hidden_row(s, b, &k, y - 1);
        if (is_within(y - 2, begin - around, end + around) && is_within(y - 2, 0, height)) {
            const bool own = is_within(y - 2, begin, end);
            const double found = error_row(s, b, &k, target, scale * weight, d_latents && own, own ? shown : NULL,
                                           own ? errors : NULL, y - 2);
            squares += own ? found : 0;
            if (by_row && own)
                end_row_of(b, &k, k.gather, k.count, by_row, y - 2);
        }
        if (!d_latents)
            continue;
        if (is_within(y - 3, begin - 1, end + 1) && is_within(y - 3, 0, height)) {
            const bool own = is_within(y - 3, begin, end);
            hidden_row_backward(s, b, &k, own, y - 3);
            if (by_row && own)
                end_row_of(b, &k, k.spread, k.gather, by_row, y - 3);
        }
        if (!is_within(y - 4, begin, end))
            continue;
        colour_row_backward(s, b, &k, d_latents + g->origin[0] + (size_t)(y - 4) * g->stride[0], y - 4);
        if (by_row)
            end_row_of(b, &k, k.mix, k.spread, by_row, y - 4);
        for (; next < rows.to && (2 * next + 4 <= y - 4 || y - 4 == end - 1); next++) {
            const bool own = is_within(next, rows.own, rows.own_end);
            upsample_row_backward(s, b, 0, weights + k.filters, next, own ? &s->d_stack[1] : &b->beyond,
                                  own ? next : place_beyond(rows, next), b->d_filter);
        }
        if ((y - 3) % CARRY == 0 || y - 3 == end)
            carry(sums_at(b, &k, k.mix), k.count - k.mix, b->totals + k.mix * LANES);
    }
    return squares;
}

static void end(workshop *s, const float *weights, float *d_latents, float *d_weights)
{
    const synthesis_layout k = make_synthesis_layout(s->features, s->residual);
    const geometry *g = &s->g;
    double d_f[LEVELS - 1][TAPS] = {{0}};
    for (int i = 0; i < s->bands; i++) {
        const band *b = &s->band[i];
        const level1_rows rows = level1_rows_of(s, b);
        for (int t = 0; t < TAPS; t++)
            d_f[0][t] += b->d_filter[t];
        for (int c = 0; c < LEVELS - 1; c++)
            for (int j = rows.from; j < rows.to; j++) {
                if (is_within(j, rows.own, rows.own_end))
                    continue;
                const float *from = row_of(&b->beyond, c, place_beyond(rows, j));
                float *to = row_of(&s->d_stack[1], c, j);
                for (int x = 0; x < g->w[1]; x++)
                    to[x] += from[x];
            }
        add_lanes(b->totals + k.mix * LANES, k.count - k.mix, b->unscale, d_weights + k.mix);
    }
    for (int l = 1; l < LEVELS; l++) {
        for (int j = 0; l + 1 < LEVELS && j < g->h[l + 1]; j++)
            upsample_row_backward(s, &s->band[0], l, weights + k.filters + l * TAPS, j, &s->d_stack[l + 1], j, d_f[l]);
        for (int y = 0; y < g->h[l]; y++) {
            float *to = d_latents + g->origin[l] + (size_t)y * g->stride[l];
            const float *from = row_of(&s->d_stack[l], LEVELS - 1 - l, y);
            for (int x = 0; x < g->w[l]; x++)
                to[x] += from[x];
        }
    }
    for (int l = 0; l + 1 < LEVELS; l++)
        for (int t = 0; t < TAPS; t++)
            d_weights[k.filters + (size_t)(l * TAPS + t)] += (float)d_f[l][t];
}

/* ---- filters of the grids' own latents ------------------------------------------------------------ */

enum { OWN_REACH = TAPS - 1, PIECE = 1024 /* columns at a time */ };
typedef float own_room[PAD_LEFT + PIECE + PAD_RIGHT];

/* Row y of a grid and the OWN_REACH before and after it, from column x on. */
INLINE void own_rows(const geometry *g, const float *latents, int level, int y, int x, const float **rows)
{
    for (int k = -OWN_REACH; k <= OWN_REACH; k++)
        rows[OWN_REACH + k] = latents + (ptrdiff_t)g->origin[level] + (y + k) * (ptrdiff_t)g->stride[level] + x;
}

/* n columns and the padding's width around them, filtered along columns. */
INLINE float *along_columns(const float *const *rows, const float *t, int n, own_room room)
{
    for (int x = -PAD_LEFT; x < n + PAD_RIGHT; x += LANES) {
        vec sum = load(rows[OWN_REACH] + x) * t[0];
        UNROLL for (int k = 1; k <= OWN_REACH; k++)
            sum += (load(rows[OWN_REACH - k] + x) + load(rows[OWN_REACH + k] + x)) * t[k];
        store(room + PAD_LEFT + x, sum);
    }
    return room + PAD_LEFT;
}

/* A vector filtered along its row. */
INLINE vec along_row(const float *at, const float *t)
{
    vec sum = load(at) * t[0];
    UNROLL for (int k = 1; k <= OWN_REACH; k++)
        sum += (load(at - k) + load(at + k)) * t[k];
    return sum;
}

/* For pieces of the rows of a part: level, row y, columns x .. x + n, a multiple of LANES and some of them padding. */
#define FOR_PIECES(g, part) \
    for (int level = (g)->finest; level < LEVELS; level++) \
        for (int y = first_row(part, (g)->h[level]); y < end_row(part, (g)->h[level]); y++) \
            for (int x = 0, n; n = piece_of((g)->w[level] - x), x < (g)->w[level]; x += PIECE)

static int piece_of(int left) { return left > PIECE ? PIECE : (left + LANES - 1) / LANES * LANES; }

static void clear_right(const geometry *g, int level, int y, float *out)
{
    memset(out + g->origin[level] + (size_t)y * g->stride[level] + (size_t)g->w[level], 0, sizeof(float) * PAD_RIGHT);
}

static void own(const geometry *g, part rows, const float *filters, const float *in, float *out)
{
    own_room room;
    const float *from[2 * OWN_REACH + 1];
    FOR_PIECES(g, rows) {
        const float *t = filters + level * TAPS;
        own_rows(g, in, level, y, x, from);
        const float *line = along_columns(from, t, n, room);
        float *to = out + g->origin[level] + (size_t)y * g->stride[level] + (size_t)x;
        for (int i = 0; i < n; i += LANES)
            store(to + i, along_row(line + i, t));
        clear_right(g, level, y, out);
    }
}

static void own_backward(const geometry *g, part rows, const float *filters, const float *in, const float *d_out,
                         float *d_in, float *d_filters)
{
    own_room rooms[2];
    const float *from[2 * OWN_REACH + 1], *d[2 * OWN_REACH + 1];
    FOR_PIECES(g, rows) {
        const float *t = filters + level * TAPS;
        own_rows(g, in, level, y, x, from);
        own_rows(g, d_out, level, y, x, d);
        const float *line = along_columns(from, t, n, rooms[0]), *d_line = along_columns(d, t, n, rooms[1]);
        float *to = d_in + g->origin[level] + (size_t)y * g->stride[level] + (size_t)x;
        vec sum[TAPS] = {all(0.0f), all(0.0f), all(0.0f), all(0.0f)};
        for (int i = 0; i < n; i += LANES) {
            store(to + i, along_row(d_line + i, t));
            /* Each tap meets values along the row, once they are filtered along columns, and the other way round. */
            const vec a = load(d[OWN_REACH] + i), b = along_row(d[OWN_REACH] + i, t);
            sum[0] += a * load(line + i) + b * load(from[OWN_REACH] + i);
            UNROLL for (int k = 1; k <= OWN_REACH; k++)
                sum[k] += a * (load(line + i - k) + load(line + i + k))
                          + b * (load(from[OWN_REACH - k] + i) + load(from[OWN_REACH + k] + i));
        }
        for (int k = 0; k < TAPS; k++)
            d_filters[level * TAPS + k] += total(sum[k]);
        clear_right(g, level, y, d_in);
    }
}

/* ---- latents: rounding in the forward pass, Adam in the backward pass ---------------------------- */

INLINE vec floor_of(vec x)
{
    const vec t = __builtin_convertvector(__builtin_convertvector(x, ivec), vec);
    return t - choose(t > x, all(1.0f), all(0.0f));
}

/* Agustsson and Theis's soft rounding (NeurIPS 2020) and its slope. */
INLINE vec soft_round(vec y, float temperature, float half, vec *slope) /* half: 1 / (2 tanh(1 / (2 temperature))) */
{
    const vec middle = floor_of(y) + all(0.5f), d = y - middle;
    const vec e = exp2_of(d * all(-2.0f * LOG2_E / temperature));
    const vec t = (all(1.0f) - e) / (all(1.0f) + e);
    *slope = (all(1.0f) - t * t) * all(half / temperature);
    return middle + t * all(half);
}

typedef uint32_t uvec __attribute__((vector_size(BYTES)));

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

static void soften(const geometry *g, part rows, const float *y, float temperature, float shape, uint32_t seed,
                            float *latents, float *slope)
{
    const float a = shape, b = (powf(2.0f, a) * (a - 1) + 1) / a, half = 0.5f / tanhf(0.5f / temperature);
    for (int l = g->finest; l < LEVELS; l++)
        for (int row = first_row(rows, g->h[l]); row < end_row(rows, g->h[l]); row++) {
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
                const vec once = soft_round(load(y + at + x), temperature, half, &slope1);
                const vec twice = soft_round(once + noise, temperature, half, &slope2);
                if (x + LANES <= g->w[l]) {
                    store(latents + at + x, twice);
                    store(slope + at + x, slope1 * slope2);
                } else { /* what is right of the plane remains 0 */
                    for (int n = 0; n < g->w[l] - x; n++) {
                        latents[at + (size_t)(x + n)] = twice[n];
                        slope[at + (size_t)(x + n)] = (slope1 * slope2)[n];
                    }
                }
            }
        }
}

static void adam_latents(const geometry *g, part rows, float *y, const float *slope, float *d_rate,
                         const float *d_error, float *first, float *second, float beta1, float beta2,
                                  float rate1, float scale2, const float *floors, float limit)
{
    geometry parts[MAX_BANDS];
    float *d_parts[MAX_BANDS];
    for (int n = 0; n < rows.count; n++) {
        d_parts[n] = d_rate;
        parts[n] = reached(g, (part){n, rows.count});
        d_rate += parts[n].size;
    }
    for (int l = g->finest; l < LEVELS; l++)
        for (int row = first_row(rows, g->h[l]); row < end_row(rows, g->h[l]); row++) {
            const size_t start = (size_t)row * g->stride[l], at = g->origin[l] + start, w = (size_t)g->w[l];
            float *own = d_parts[rows.number] + (parts[rows.number].origin[l] + start);
            for (int n = 0; n < rows.count; n++) {
                const part other = {n, rows.count};
                if (n == rows.number || !is_within(row, first_reached(other, g->h[l]), end_reached(other, g->h[l])))
                    continue;
                const float *theirs = d_parts[n] + (parts[n].origin[l] + start);
                for (size_t x = 0; x < w; x++)
                    own[x] += theirs[x];
            }
            for (size_t i = at; i < at + w; i++) {
                const float d = (own[i - at] + d_error[i]) * (slope ? slope[i] : 1.0f);
                first[i] = beta1 * first[i] + (1 - beta1) * d;
                second[i] = beta2 * second[i] + (1 - beta2) * d * d;
                const float moved = y[i] - rate1 * first[i] / (sqrtf(second[i] * scale2 + floors[l]) + 1e-8f);
                y[i] = moved > limit ? limit : moved < -limit ? -limit : moved;
            }
        }
}

static bool are_supported(void) { return SUPPORTED; }

const fitting_kernels KERNELS = {NAME, sizeof(real) < sizeof(float), are_supported, rate,   workshop_make, begin,
                                 take_band, end, own, own_backward, soften, adam_latents};
