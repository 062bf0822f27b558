/* What the parts of _overfit_fitting have in common: sizes, where things lie, and what the kernels do. */

#ifndef RHODEC_OVERFIT_FITTING_H
#define RHODEC_OVERFIT_FITTING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    LEVELS = 7,
    RUN = 128,    /* pixels of a run */
    SPATIAL = 14, /* context values from the same grid */
    COARSE = 6,   /* and from coarser ones */
    INPUTS = SPATIAL + COARSE,
    TAPS = 4,     /* free taps of an upsampling filter: 8, symmetric */
    COLOURS = 3,
    PAD_LEFT = 16,
    PAD_RIGHT = 16,
    PAD_TOP = 3,
    PAD_BOTTOM = 3,
    MAX_WIDTH = 64, /* of a hidden layer */
    MAX_INPUTS = 9 * 16,
    BAND = 128,     /* rows of a band, at least, where there are several */
    MAX_BANDS = 16,
    MAX_APART = 64, /* latents */
    BEYOND = 2,     /* rows of level 1 before and after a band to which its gradient comes */
};

typedef struct {
    int finest; /* grid that has latents; those before are zero and stay so */
    int h[LEVELS], w[LEVELS];
    size_t stride[LEVELS];
    size_t origin[LEVELS]; /* of row 0, column 0 in the buffer of all levels */
    size_t size;           /* floats of that buffer */
} geometry;

/* Of a row with room for whole runs, in floats. */
static inline size_t padded_width(int w) { return PAD_LEFT + ((size_t)w + RUN - 1) / RUN * RUN + PAD_RIGHT; }

static inline int halved(int size, int level) { return (size + (1 << level) - 1) >> level; }

static inline geometry make_geometry(int height, int width, int finest)
{
    geometry g = {.finest = finest};
    for (int l = 0; l < LEVELS; l++) {
        g.h[l] = halved(height, l);
        g.w[l] = halved(width, l);
        g.stride[l] = padded_width(g.w[l]);
        g.origin[l] = g.size + PAD_TOP * g.stride[l] + PAD_LEFT;
        g.size += (size_t)(PAD_TOP + g.h[l] + PAD_BOTTOM) * g.stride[l];
    }
    return g;
}

/* Offsets of the context network's parts in its weights: input x output matrices, then biases. */
typedef struct {
    size_t first, second, last, first_bias, second_bias, last_bias, count;
} context_layout;

static inline context_layout make_context_layout(int hidden)
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

/* Offsets of the parts of upsampling and synthesis in their weights. */
typedef struct {
    size_t filters, mix, mix_bias, colour, colour_bias, spread, spread_bias, gather, gather_bias, count;
} synthesis_layout;

static inline synthesis_layout make_synthesis_layout(int features, int residual)
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

/* One of several equal parts of the rows of every grid, which threads may work on at the same time. */
typedef struct {
    int number, count;
} part;

static inline int parts_of(int height)
{
    const int wanted = height / BAND;
    return wanted < 1 ? 1 : wanted > MAX_BANDS ? MAX_BANDS : wanted;
}

static inline int first_row(part p, int h) { return (int)((int64_t)h * p.number / p.count); }
static inline int end_row(part p, int h) { return (int)((int64_t)h * (p.number + 1) / p.count); }

/* Rows of a grid, padding included, that the gradient of a part's bits may reach: neighbours are up to three rows
 * above, and the rows of coarser grids are those of the part and one more, but for rounding. */
enum { REACH = 4 };
static inline int first_reached(part p, int h)
{
    const int row = first_row(p, h) - REACH;
    return row < -PAD_TOP ? -PAD_TOP : row;
}
static inline int end_reached(part p, int h)
{
    const int row = end_row(p, h) + REACH;
    return row > h + PAD_BOTTOM ? h + PAD_BOTTOM : row;
}

/* Where things lie in a buffer of only these rows. An origin may be before the buffer, as a number modulo 2^64, so it
 * is added up with the row before it meets a pointer. */
static inline geometry reached(const geometry *g, part p)
{
    geometry found = *g;
    found.size = 0;
    for (int l = 0; l < LEVELS; l++) {
        const int first = first_reached(p, g->h[l]);
        found.origin[l] = found.size + PAD_LEFT - (size_t)first * g->stride[l];
        found.size += (size_t)(end_reached(p, g->h[l]) - first) * g->stride[l];
    }
    return found;
}

/* Planes of one size of which the `rows` last rows are kept, all of them or as many as later stages read. There is
 * nothing before row `first` and from row h on. A row is followed and preceded by padding. */
typedef struct {
    float *at;
    int first, h, w, rows;
    size_t stride;
} planes;

/* Memory for a band of rows of the picture, which one thread takes from the latents to the error and back. */
typedef struct {
    int begin, end;
    planes stack, d_stack;          /* of level 0, LEVELS planes */
    planes wide;                    /* a stack, only its rows twice as dense: LEVELS - 1 planes */
    planes colour, d_colour, error; /* COLOURS planes */
    planes hidden;                  /* residual planes, overwritten by their gradient */
    planes beyond;                  /* gradient of level 1's stack, the BEYOND rows before and after the band's own */
    float *row, *d_row, *wide_row, *d_wide, *even, *odd;
    float (*run)[RUN]; /* of features, overwritten by their gradient */
    float *totals; /* of the gradient of the weights, lane by lane, and room for as many sums beside them */
    float unscale; /* what they are multiplied by */
    double d_filter[TAPS]; /* of the filter that leads to level 0 */
} band;

typedef struct {
    geometry g;
    int features, residual;
    planes stack[LEVELS], d_stack[LEVELS]; /* from level 1 on, LEVELS - l planes: the coarsest first, its own last */
    int bands;
    band band[MAX_BANDS];
    float *zeros, *weights, *transposed;
    void *block;
    size_t bytes;
    size_t real; /* bytes of what networks worked on last */
} workshop;

/* The work of an iteration, compiled for one kind of processor. */
typedef struct {
    const char *name;
    bool is_rough; /* networks in half precision: good enough to descend by */

    /* Whether this processor runs them. */
    bool (*are_supported)(void);

    /* Bits of the latents in a part of the rows. Unless d_latents is NULL, sets their gradient there, a buffer of the
     * rows that the part reaches, and adds that of the weights to d_weights. With `signs`, the gradient is that of the bits
     * multiplied by one sign each (a buffer like latents), and `by_row` gets it for every row of latents by itself (all
     * grids' rows by the count of the weights; only for one part of one) instead of d_weights. Unless it is NULL,
     * `lengths` (like latents) gets the bits of each latent. False if there is not enough memory. */
    bool (*rate)(const geometry *g, part rows, const float *latents, int hidden, const float *weights, float *d_latents,
                 float *d_weights, const float *signs, float *by_row, float *lengths, double *bits);

    /* Memory for what follows: false if there is not enough. */
    bool (*workshop_make)(workshop *s, int height, int width, int features, int residual);

    /* The squared error of the picture (target: COLOURS planes h x w) is found in three steps: what all bands need, the
     * bands in any order or at the same time, what needs all bands. d_latents and d_weights get `weight` times the
     * gradient added, unless d_latents is NULL; `shown` gets the picture (like target) and `errors` (h x w) the squared
     * error of each pixel, unless they are NULL. With `by_row` a band writes the gradient of every row of the picture
     * by itself, filters left alone, which is then lacking in d_weights. The last step is only for gradients, and then
     * for those of all bands. */
    void (*begin)(workshop *s, const float *latents, const float *weights);
    double (*band)(workshop *s, int number, const float *latents, const float *weights, const float *target,
                   float weight, float *d_latents, float *shown, float *by_row, float *errors);
    void (*end)(workshop *s, const float *weights, float *d_latents, float *d_weights);

    /* What the stack gets of a part of the grids: latents filtered along columns and rows. filters: [level][TAPS], the middle
     * tap and those of one side. The way back sets d_in from d_out and adds the gradient of the filters to d_filters. Both
     * read the rows around the part. */
    void (*own)(const geometry *g, part rows, const float *filters, const float *in, float *out);
    void (*own_backward)(const geometry *g, part rows, const float *filters, const float *in, const float *d_out,
                         float *d_in, float *d_filters);

    /* latents = s(s(y) + noise), slope = d latents / d y; the noise follows Kumaraswamy's distribution on
     * (-1/2, 1/2) with peak `shape` >= 1 (1: uniform), as in C3 (Kim et al., CVPR 2024). */
    void (*soften)(const geometry *g, part rows, const float *y, float temperature, float shape, uint32_t seed,
                   float *latents, float *slope);

    /* One step of Adam (Kingma and Ba 2015) on the latents of a part with the sum of two gradients, each times slope
     * (or 1). That of the rate is in the buffers of all rows.count parts, one after the other; what others have for
     * this part is added to its own. Second moments of grid l count as larger by floors[l]. */
    void (*adam)(const geometry *g, part rows, float *y, const float *slope, float *d_rate, const float *d_error,
                 float *first, float *second, float beta1, float beta2, float rate1, float scale2,
                 const float *floors, float limit);
} fitting_kernels;

/* Moves of single latents, in _overfit_fitting_moves.c. A place is a row and a column of a grid. */

/* Sets `chosen` for those of the places, the best first, that lie more than `apart` rows or columns from all chosen
 * before. False if there is not enough memory. */
bool choose_apart(int h, int w, int apart, const int32_t (*places)[2], size_t count, uint8_t *chosen);

/* The bits of every latent and the squared error of every pixel. */
typedef struct {
    float *lengths, *errors;
} costs;

/* What each move of a latent of grid `level` changes in  bits + weight * squared error:  the difference between the new
 * costs and those of before, summed up over what is up to `around` latents from it. Where that is below 0, those of
 * before become the new ones. */
void judge_moves(const geometry *g, int level, int around, const int32_t (*places)[2], size_t count, double weight,
                 costs before, costs after, double *changes);

extern const fitting_kernels portable_kernels;
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define HAS_X86_KERNELS
extern const fitting_kernels avx2_kernels, avx512_kernels;
#if __GNUC__ >= 12
#define HAS_FP16_KERNELS
extern const fitting_kernels fp16_kernels;
#endif
#endif

#endif
