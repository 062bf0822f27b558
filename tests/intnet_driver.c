/* Runs the core of entropy/_intnet.c without Python: every kernel path of this processor against a naive int64
 * reference on random layers, cells and channel ranges, then hostile inputs, then damaged layers. Prints a hash of
 * the reference results, equal on every machine; exit code 1 at the first difference. Built by sanitize_intnet.py
 * (address and undefined-behaviour sanitizers) and determinism_qemu.py (other processors).
 *
 * -DEMULATE_VNNI replaces the few AVX-512 intrinsics of the VNNI kernel by loops over sixteen int32 lanes, so that
 * its indexing and block sizes are tested on machines without AVX-512.
 */
#include <stdio.h>
#ifdef EMULATE_VNNI
#include <immintrin.h>
typedef struct {
    int lane[16];
} emulated;
static inline emulated emulated_zero(void)
{
    return (emulated){{0}};
}
static inline emulated emulated_splat(int value)
{
    emulated v;
    for (int i = 0; i < 16; i++)
        v.lane[i] = value;
    return v;
}
static inline emulated emulated_load(const void *p)
{
    emulated v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}
static inline void emulated_store(void *p, emulated v) { __builtin_memcpy(p, &v, sizeof v); }
static inline emulated emulated_dot(emulated acc, emulated a, emulated w)
{
    for (int i = 0; i < 16; i++) {
        int a0 = (short)(a.lane[i] & 0xffff), a1 = a.lane[i] >> 16;
        int w0 = (short)(w.lane[i] & 0xffff), w1 = w.lane[i] >> 16;
        acc.lane[i] = (int)((unsigned)acc.lane[i] + (unsigned)(a0 * w0) + (unsigned)(a1 * w1));
    }
    return acc;
}
#define __m512i emulated
#define _mm512_setzero_si512 emulated_zero
#define _mm512_set1_epi32 emulated_splat
#define _mm512_loadu_si512 emulated_load
#define _mm512_storeu_si512 emulated_store
#define _mm512_dpwssd_epi32 emulated_dot
#define VNNI_TARGET __attribute__((target("avx2")))
#define INTNET_EMULATED_AVX512
#endif
#define INTNET_CORE_ONLY
#include "../entropy/_intnet.c"

static uint32_t seed = 20240229u;
static uint32_t below(uint32_t n) { return xorshift(&seed) % n; }

static void *claim(int64_t count, size_t size) /* exact, so that a sanitizer sees the first byte past the end */
{
    void *p = malloc((size_t)count * size);
    if (!p)
        exit(2);
    return p;
}

static void fail(const char *what, const char *path)
{
    fprintf(stderr, "FAILED: %s (%s)\n", what, path);
    exit(1);
}

static uint64_t hash = 1469598103934665603u; /* FNV-1a over values, independent of the byte order */
static void add_to_hash(const int16_t *v, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        hash = (hash ^ (uint16_t)v[i]) * 1099511628211u;
}

/* The definition: layer_source `f` on x, positions of a grid, channels begin..end. */
static void reference(const layer_source *f, const grid *g, const int16_t *x, int16_t *out)
{
    int radius = f->kernel / 2, fan = f->depthwise ? 1 : f->inputs;
    int64_t channels = g->channel_end - g->channel_begin;
    for (int64_t row = 0; row < g->rows; row++)
        for (int64_t column = 0; column < g->columns; column++)
            for (int64_t o = g->channel_begin; o < g->channel_end; o++) {
                int64_t acc = f->bias[o];
                for (int dy = -radius; dy <= radius; dy++)
                    for (int dx = -radius; dx <= radius; dx++) {
                        int64_t y = g->offset_y + g->step * row + dy, xx = g->offset_x + g->step * column + dx;
                        if (y < 0 || xx < 0 || y >= g->height || xx >= g->width)
                            continue;
                        for (int i = 0; i < fan; i++)
                            acc += (int64_t)x[(y * g->width + xx) * f->inputs + (f->depthwise ? o : i)] *
                                   f->weight[((o * fan + i) * f->kernel + dy + radius) * f->kernel + dx + radius];
                    }
                int64_t t = (acc * f->multiplier[o] + ((int64_t)1 << (f->shift[o] - 1))) >> f->shift[o];
                int64_t at = (row * g->columns + column) * channels + o - g->channel_begin;
                if (f->shuffle)
                    at = ((2 * row + (o & 2) / 2) * 2 * g->columns + 2 * column + (o & 1)) * (channels / 4) + o / 4;
                out[at] = clamp16(t, f->low[o], f->high[o]);
            }
}

enum { RANDOM, HOSTILE };

static void try_layer(int mode)
{
    static const int counts[] = {1, 2, 3, 15, 16, 17, 31, 32, 33, 48, 65, 70};
    int inputs = counts[below(12)], outputs = counts[below(12)], kernel = below(2) ? 3 : 1, depthwise = !below(3);
    int shuffle = !depthwise && !below(3);
    if (depthwise)
        outputs = inputs;
    if (shuffle)
        outputs *= 4;
    int64_t height = 1 + below(7), width = 1 + below(19), fan = depthwise ? 1 : inputs;
    int64_t weights = outputs * fan * kernel * kernel;
    int16_t *weight = claim(weights, sizeof *weight);
    int32_t *bias = claim(outputs, 4), *low = claim(outputs, 4), *high = claim(outputs, 4);
    uint16_t *multiplier = claim(outputs, 2);
    uint8_t *shift = claim(outputs, 1);
    int small = !below(3);
    for (int64_t i = 0; i < weights; i++)
        weight[i] = (int16_t)(below(4) ? (int)below(255) - 127 : 127);
    for (int o = 0; o < outputs; o++) {
        bias[o] = mode == HOSTILE ? (int32_t)xorshift(&seed) : (int32_t)below(200001) - 100000;
        low[o] = below(2) ? 0 : -(int32_t)below(32769);
        high[o] = (int32_t)below(32768);
        multiplier[o] = (uint16_t)(below(20) ? (1 << 14) + (int)below(1 << 14) : 0);
        shift[o] = (uint8_t)(mode == HOSTILE ? 1 + below(45) : small && !below(4) ? 8 + below(8) : 16 + below(16));
    }
    int64_t values = height * width * inputs;
    int16_t *x = claim(values, 2);
    for (int64_t i = 0; i < values; i++)
        x[i] = (int16_t)(mode == HOSTILE ? (below(3) ? (int)below(65536) - 32768 : -32768) : (int)below(511) - 255);
    layer_source f = {inputs, outputs, kernel, depthwise, shuffle, weight, bias, multiplier, shift, low, high};
    int cell = shuffle ? 0 : (int)below(5); /* 0: everything, else one of the four cells */
    grid g = {height, width, cell ? 2 : 1, cell ? (cell - 1) / 2 : 0, cell ? (cell - 1) % 2 : 0, 0, 0, 0, outputs, 0, 0};
    if (!shuffle && below(2)) {
        g.channel_begin = below((uint32_t)outputs);
        g.channel_end = g.channel_begin + 1 + below((uint32_t)(outputs - g.channel_begin));
    }
    uint32_t cut = below(8); /* drawn here, for the number of paths must not change what follows */
    int16_t *first = NULL;
    for (int path = 0; path < PATHS; path++) {
        layer *l;
        if (!path_runs_here(path))
            continue;
        if (layer_new(&f, path, &l) || check_grid(l, &g) || input_size(l, &g) != values)
            fail("a good layer is refused", all_kernels[path].name);
        int64_t rows = g.rows, size = output_size(&g);
        if (!first) {
            first = claim(size + 1, 2);
            if (mode == RANDOM) {
                reference(&f, &g, x, first);
                add_to_hash(first, size);
            } else {
                g.row_end = rows;
                convolve(l, &g, x, first);
            }
        }
        int16_t *y = claim(size, 2);
        int64_t half = rows * cut / 7; /* two calls, as two threads would make them */
        g.row_begin = 0, g.row_end = half;
        convolve(l, &g, x, y);
        g.row_begin = half, g.row_end = rows;
        convolve(l, &g, x, y);
        if (memcmp(first, y, (size_t)size * 2))
            fail(mode == RANDOM ? "differs from the reference" : "differs from the portable path on hostile input",
                 all_kernels[path].name);
        g.row_begin = g.row_end = 0;
        free(y);
        layer_free(l);
    }
    free(first);
    free(x);
    free(weight);
    free(bias);
    free(low);
    free(high);
    free(multiplier);
    free(shift);
}

/* A 1x1 layer in two parts of its inputs, the second at one cell's positions, against the reference. */
static void try_parts(void)
{
    int inputs = 2 + (int)below(60), cut = 1 + (int)below((uint32_t)inputs - 1), outputs = 1 + (int)below(70);
    int64_t height = 1 + below(6), width = 1 + below(20), values = height * width * inputs, size = height * width * outputs;
    int cy = (int)below(2) % (int)height, cx = (int)below(2) % (int)width;
    int16_t *x = claim(values, 2), *weight = claim(outputs * inputs, 2), *expected = claim(size, 2), *part_x[2], *part_w[2];
    int32_t *bias = claim(outputs, 4), *low = claim(outputs, 4), *high = claim(outputs, 4);
    uint16_t *multiplier = claim(outputs, 2);
    uint8_t *shift = claim(outputs, 1);
    int fan[2] = {cut, inputs - cut};
    grid whole = {height, width, 1, 0, 0, 0, height, 0, outputs, 0, 0}, cell = {height, width, 2, cy, cx, 0, 0, 0, outputs, 0, 0};
    for (int o = 0; o < outputs; o++) {
        bias[o] = (int32_t)below(200001) - 100000, low[o] = -32768, high[o] = 32767;
        multiplier[o] = (uint16_t)((1 << 14) + below(1 << 14)), shift[o] = (uint8_t)(8 + below(20));
        for (int i = 0; i < inputs; i++)
            weight[o * inputs + i] = (int16_t)((int)below(255) - 127);
    }
    if (check_grid(&(layer){.outputs = outputs, .phases = 1}, &cell))
        fail("a good grid is refused", "cell");
    cell.row_end = cell.rows;
    for (int64_t i = 0; i < values; i++) { /* the second part is 0 outside its cell */
        int64_t place = i / inputs, is_there = place / width % 2 == cy && place % width % 2 == cx;
        x[i] = (int16_t)(i % inputs < cut || is_there ? (int)below(511) - 255 : 0);
    }
    for (int p = 0; p < 2; p++) {
        part_w[p] = claim(outputs * fan[p], 2), part_x[p] = claim(height * width * fan[p], 2);
        for (int64_t i = 0; i < outputs * fan[p]; i++)
            part_w[p][i] = weight[i / fan[p] * inputs + p * cut + i % fan[p]];
        for (int64_t i = 0, at = 0; i < height * width; i++)
            if (!p || (i / width % 2 == cy && i % width % 2 == cx))
                for (int c = 0; c < fan[p]; c++)
                    part_x[p][at++] = x[i * inputs + p * cut + c];
    }
    layer_source f = {inputs, outputs, 1, 0, 0, weight, bias, multiplier, shift, low, high};
    whole.rows = height, whole.columns = width;
    reference(&f, &whole, x, expected);
    for (int path = 0; path < PATHS; path++) {
        if (!path_runs_here(path))
            continue;
        int32_t *acc = calloc((size_t)size, sizeof *acc);
        int16_t *y = claim(size, 2);
        for (int p = 0; p < 2; p++) {
            layer *l;
            layer_source part = f;
            part.inputs = fan[p], part.weight = part_w[p];
            if (!acc || layer_new(&part, path, &l))
                fail("a good layer is refused", all_kernels[path].name);
            accumulate(l, p ? &cell : &whole, part_x[p], acc);
            if (p)
                requantise_sums(l, height * width, acc, y);
            layer_free(l);
        }
        if (memcmp(y, expected, (size_t)size * 2))
            fail("sums of parts differ from the reference", all_kernels[path].name);
        free(acc);
        free(y);
    }
    for (int p = 0; p < 2; p++) {
        free(part_w[p]);
        free(part_x[p]);
    }
    free(x), free(weight), free(expected), free(bias), free(low), free(high), free(multiplier), free(shift);
}

static void refuse(status expected, layer_source f)
{
    layer *l;
    if (layer_new(&f, PORTABLE, &l) != expected || l)
        fail("a damaged layer is not refused", messages[expected]);
}

static void damaged_layers(void)
{
    int16_t weight[36] = {0}, bad_weight[36] = {[35] = -2048};
    int32_t zero[4] = {0}, high[4] = {255, 255, 255, 255}, wide[4] = {0, 0, 0, 32768}, empty[4] = {0, 0, -1, 0};
    uint16_t one[4] = {1 << 14, 32767, 1 << 14, 0}, large[4] = {1 << 14, 1 << 15, 0, 0}, small[4] = {0, 0, 16383, 0};
    uint8_t shift[4] = {1, 45, 16, 15}, no_shift[4] = {1, 0, 1, 1}, long_shift[4] = {1, 1, 46, 1};
    const layer_source good = {1, 4, 3, 0, 1, weight, zero, one, shift, zero, high};
    layer_source f;
    layer *l;
    if (layer_new(&good, PORTABLE, &l))
        fail("a good layer is refused", "portable");
    grid whole = {2, 2, 1, 0, 0, 0, 2, 0, 4, 0, 0}, g;
    if (check_grid(l, &whole))
        fail("a good grid is refused", "portable");
    /* clang-format off */
    f = good, f.weight = bad_weight, refuse(BAD_WEIGHT, f);
    f = good, f.multiplier = large, refuse(BAD_MULTIPLIER, f);
    f = good, f.multiplier = small, refuse(BAD_MULTIPLIER, f);
    f = good, f.shift = no_shift, refuse(BAD_SHIFT, f);
    f = good, f.shift = long_shift, refuse(BAD_SHIFT, f);
    f = good, f.high = wide, refuse(BAD_CLAMP, f);
    f = good, f.high = empty, refuse(BAD_CLAMP, f);
    f = good, f.kernel = 5, refuse(BAD_FORM, f);
    f = good, f.inputs = 0, refuse(BAD_FORM, f);
    f = good, f.outputs = MAX_CHANNELS + 4, refuse(BAD_FORM, f);
    f = good, f.outputs = 3, refuse(BAD_FORM, f);
    f = good, f.depthwise = 1, refuse(BAD_FORM, f);
    g = whole, g.row_end = 3; if (!check_grid(l, &g)) fail("grid", "rows");
    g = whole, g.row_begin = -1; if (!check_grid(l, &g)) fail("grid", "negative row");
    g = whole, g.height = 0; if (!check_grid(l, &g)) fail("grid", "height");
    g = whole, g.width = INT64_MAX; if (!check_grid(l, &g)) fail("grid", "width");
    g = whole, g.channel_end = 5; if (!check_grid(l, &g)) fail("grid", "channels");
    g = whole, g.channel_begin = 1; if (!check_grid(l, &g)) fail("grid", "channels of a shuffle");
    g = whole, g.step = 2; if (!check_grid(l, &g)) fail("grid", "cell of a shuffle");
    g = whole, g.offset_x = 1; if (!check_grid(l, &g)) fail("grid", "offset");
    /* clang-format on */
    layer_free(l);
}

int main(void)
{
    for (int i = 0; i < 400; i++)
        try_layer(RANDOM);
    for (int i = 0; i < 200; i++)
        try_layer(HOSTILE);
    for (int i = 0; i < 100; i++)
        try_parts();
    damaged_layers();
    printf("%016llx", (unsigned long long)hash);
    for (int path = 0; path < PATHS; path++) {
        int passed = 0;
        if (!path_runs_here(path))
            continue;
        if (self_test(path, &passed) || !passed)
            fail("self test", all_kernels[path].name);
        printf(" %s", all_kernels[path].name);
    }
    printf("\n");
    return 0;
}
