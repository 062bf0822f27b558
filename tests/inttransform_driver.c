/* Runs the core of transforms/_inttransform.c without Python: every kernel path of this processor against a naive int64
 * reference on random layers, pictures, bands and odd sizes, then hostile inputs, then damaged layers. Prints a hash of
 * the reference results, equal on every machine; exit code 1 at the first difference. Built by sanitize_intnet.py
 * (address and undefined-behaviour sanitizers) and determinism_qemu.py (other processors).
 */
#include <stdio.h>
#define INTTRANSFORM_CORE_ONLY
#include "../transforms/_inttransform.c"

static uint32_t seed = 20260129u;
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

enum { RANDOM, HOSTILE };

/* A layer and the arrays that it is made from; with RANDOM its sums stay below 2^31. */
typedef struct {
    layer_source source;
    int16_t *weight;
    int32_t *bias;
    uint8_t *shift;
} material;

static material random_material(int mode, int inputs, int outputs, int is_dense)
{
    material m = {{inputs, outputs, is_dense, 1 + (int)below(INT16_MAX), NULL, NULL, NULL}, NULL, NULL, NULL};
    size_t weights = weight_count(&m.source), fan = is_dense ? (size_t)inputs : TAPS;
    int32_t largest = mode == HOSTILE ? INT16_MAX : (int32_t)(65000 / fan);
    m.weight = claim((int64_t)weights, 2);
    m.bias = claim(outputs, 4);
    m.shift = claim(outputs, 1);
    for (size_t i = 0; i < weights; i++)
        m.weight[i] = (int16_t)(below(8) ? (int32_t)below((uint32_t)(2 * largest + 1)) - largest : -largest);
    for (int o = 0; o < outputs; o++) {
        m.bias[o] = mode == HOSTILE ? (int32_t)xorshift(&seed) : (int32_t)below(1 << 20) - (1 << 19);
        m.shift[o] = (uint8_t)(below(3) ? 10 + below(10) : below(32));
    }
    m.source.weight = m.weight, m.source.bias = m.bias, m.source.shift = m.shift;
    return m;
}

static void release(material *m)
{
    free(m->weight);
    free(m->bias);
    free(m->shift);
}

static int64_t limited(int64_t v, int64_t limit) { return v < -limit ? -limit : v > limit ? limit : v; }

/* The definition of one output, `a` being what the weights of channel o meet. */
static int16_t reference(const layer_source *f, ending end, int o, const int16_t *a, int16_t from)
{
    int64_t acc = f->bias[o];
    int fan = f->is_dense ? f->inputs : TAPS;
    for (int i = 0; i < fan; i++)
        acc += (int64_t)f->weight[o * fan + i] * a[i];
    int64_t t = acc >> f->shift[o];
    if (end == RESIDUAL)
        t = from + (t < INT16_MIN ? INT16_MIN : t > INT16_MAX ? INT16_MAX : t);
    t = limited(t, f->limit);
    return (int16_t)(end == LEAKY && t < 0 ? (t * SLOPE + (1 << 14)) >> 15 : t);
}

static int16_t random_value(int mode)
{
    return (int16_t)(mode == HOSTILE && !below(3) ? -32768 : (int32_t)below(65535) - 32767);
}

/* A dense layer in every form of input and output, rows in two calls as two threads would make them. */
static void try_dense(int mode)
{
    static const int counts[] = {16, 32, 48, 64, 112};
    source_form source = (source_form)below(SOURCES);
    target_form target = (target_form)below(3);
    int inputs = source == FROM_PIXELS ? SAMPLES : counts[below(5)], outputs = target == TO_PIXELS ? SAMPLES : counts[below(5)];
    int leaky = (int)below(2);
    grid g = {1 + below(5), 1 + below(60), 0, 0, 0, 0};
    g.picture_height = STEM * g.height - below(8), g.picture_width = STEM * g.width - below(8);
    material m = random_material(mode, inputs, outputs, 1);
    int64_t positions = g.height * g.width, values = positions * inputs, pixels = 3 * g.picture_height * g.picture_width;
    int16_t *x = claim(values, 2), *gathered = claim(values, 2), *expected = claim(positions * outputs, 2);
    uint8_t *picture = claim(pixels, 1);
    for (int64_t i = 0; i < values; i++)
        x[i] = random_value(mode);
    for (int64_t i = 0; i < pixels; i++)
        picture[i] = (uint8_t)below(256);
    for (int64_t y = 0; y < g.height; y++)
        for (int64_t column = 0; column < g.width; column++)
            for (int i = 0; i < inputs; i++) {
                int part = inputs / 4, block = i / part;
                int64_t at = (y * g.width + column) * inputs + i;
                if (source == FROM_PIXELS) {
                    int64_t line = smaller(STEM * y + i / 24, g.picture_height - 1);
                    int64_t place = smaller(STEM * column + i / 3 % STEM, g.picture_width - 1);
                    gathered[at] = (int16_t)(picture[(line * g.picture_width + place) * 3 + i % 3] - 128);
                } else if (source == FOLD_2)
                    gathered[at] = x[((2 * y + block / 2) * 2 * g.width + 2 * column + block % 2) * part + i % part];
                else
                    gathered[at] = x[at];
            }
    for (int64_t i = 0; i < positions; i++)
        for (int o = 0; o < outputs; o++)
            expected[i * outputs + o] = reference(&m.source, leaky ? LEAKY : PLAIN, o, gathered + i * inputs, 0);
    if (mode == RANDOM)
        add_to_hash(expected, positions * outputs);
    int64_t half = below((uint32_t)g.height + 1), size = target == TO_PIXELS ? pixels : positions * outputs;
    void *first = NULL;
    for (int path = 0; path < PATHS; path++) {
        layer *l;
        if (!path_runs_here(path))
            continue;
        if (layer_new(&m.source, path, &l))
            fail("a good layer is refused", all_kernels[path].name);
        void *out = claim(size, target == TO_PIXELS ? 1 : 2);
        for (int call = 0; call < 2; call++) {
            g.row_begin = call ? half : 0, g.row_end = call ? g.height : half;
            if (!grid_is_good(&g) || !picture_is_good(&g))
                fail("a good grid is refused", all_kernels[path].name);
            dense_rows(l, leaky ? LEAKY : PLAIN, source, target, &g, source == FROM_PIXELS ? (void *)picture : x, out, NULL);
        }
        for (int64_t i = 0; i < size && mode == RANDOM; i++) {
            int64_t found, wanted;
            if (target == TO_PIXELS) {
                int64_t y = i / 3 / g.picture_width, place = i / 3 % g.picture_width;
                int64_t at = (y / STEM * g.width + place / STEM) * SAMPLES + y % STEM * 24 + place % STEM * 3 + i % 3;
                wanted = expected[at] + 128 < 0 ? 0 : expected[at] + 128 > 255 ? 255 : expected[at] + 128;
                found = ((uint8_t *)out)[i];
            } else if (target == UNFOLD_2) {
                int64_t part = outputs / 4, place = i / part;
                int64_t y = place / (2 * g.width), column = place % (2 * g.width);
                wanted = expected[(y / 2 * g.width + column / 2) * outputs + (y % 2 * 2 + column % 2) * part + i % part];
                found = ((int16_t *)out)[i];
            } else {
                wanted = expected[i];
                found = ((int16_t *)out)[i];
            }
            if (found != wanted)
                fail("a dense layer differs from the reference", all_kernels[path].name);
        }
        if (first && memcmp(first, out, (size_t)size * (target == TO_PIXELS ? 1 : 2)))
            fail("a dense layer differs from the portable path", all_kernels[path].name);
        if (first)
            free(out);
        else
            first = out;
        layer_free(l);
    }
    free(first);
    free(x);
    free(gathered);
    free(expected);
    free(picture);
    release(&m);
}

static int16_t *dense_reference(const layer_source *f, ending end, const int16_t *x, int64_t positions, const int16_t *from)
{
    int16_t *y = claim(positions * f->outputs, 2);
    for (int64_t i = 0; i < positions; i++)
        for (int o = 0; o < f->outputs; o++)
            y[i * f->outputs + o] = reference(f, end, o, x + i * f->inputs, from ? from[i * f->outputs + o] : 0);
    return y;
}

static int16_t *depthwise_reference(const layer_source *f, const int16_t *x, int64_t height, int64_t width)
{
    int16_t *out = claim(height * width * f->outputs, 2);
    for (int64_t y = 0; y < height; y++)
        for (int64_t column = 0; column < width; column++)
            for (int o = 0; o < f->outputs; o++) {
                int16_t a[TAPS];
                for (int tap = 0; tap < TAPS; tap++) {
                    int64_t yy = y + tap / 3 - 1, xx = column + tap % 3 - 1;
                    int inside = yy >= 0 && yy < height && xx >= 0 && xx < width;
                    a[tap] = inside ? x[(yy * width + xx) * f->outputs + o] : 0;
                }
                out[(y * width + column) * f->outputs + o] = reference(f, PLAIN, o, a, 0);
            }
    return out;
}

/* A residual block and its depthwise layer alone. */
static void try_block(int turn, int mode)
{
    int channels = 16 << below(2), inner = 16 << below(2), wide = 32 << below(2);
    int64_t height = 1 + below(6), width = 1 + below(turn % 8 ? 70 : 220), positions = height * width;
    material m[5] = {random_material(mode, channels, inner, 1), random_material(mode, inner, inner, 0),
                     random_material(mode, inner, channels, 1), random_material(mode, channels, wide, 1),
                     random_material(mode, wide, channels, 1)};
    int16_t *x = claim(positions * channels, 2);
    for (int64_t i = 0; i < positions * channels; i++)
        x[i] = random_value(mode);
    int16_t *t = dense_reference(&m[0].source, LEAKY, x, positions, NULL);
    int16_t *filtered = depthwise_reference(&m[1].source, t, height, width);
    int16_t *middle = dense_reference(&m[2].source, RESIDUAL, filtered, positions, x);
    int16_t *expanded = dense_reference(&m[3].source, LEAKY, middle, positions, NULL);
    int16_t *expected = dense_reference(&m[4].source, RESIDUAL, expanded, positions, middle), *first = NULL;
    if (mode == RANDOM)
        add_to_hash(expected, positions * channels);
    int64_t half = below((uint32_t)height + 1);
    for (int path = 0; path < PATHS; path++) {
        layer *l[5];
        if (!path_runs_here(path))
            continue;
        for (int i = 0; i < 5; i++)
            if (layer_new(&m[i].source, path, &l[i]))
                fail("a good layer is refused", all_kernels[path].name);
        block b = {l[0], l[1], l[2], l[3], l[4]};
        if (!block_is_good(&b))
            fail("a good block is refused", all_kernels[path].name);
        int16_t *out = claim(positions * channels, 2), *alone = claim(positions * inner, 2);
        for (int call = 0; call < 2; call++) {
            grid g = {height, width, call ? half : 0, call ? height : half, 0, 0};
            block_rows(&b, &g, x, out);
            depthwise_rows(l[1], &g, t, alone);
        }
        if (mode == RANDOM && memcmp(alone, filtered, (size_t)(positions * inner) * 2))
            fail("a depthwise layer differs from the reference", all_kernels[path].name);
        if (memcmp(out, mode == RANDOM ? expected : first ? first : out, (size_t)(positions * channels) * 2))
            fail("a block differs", all_kernels[path].name);
        if (first)
            free(out);
        else
            first = out;
        free(alone);
        for (int i = 0; i < 5; i++)
            layer_free(l[i]);
    }
    free(first);
    free(x);
    free(t);
    free(filtered);
    free(middle);
    free(expanded);
    free(expected);
    for (int i = 0; i < 5; i++)
        release(&m[i]);
}

static void try_gain(void)
{
    int channels = 16 << below(3), limit = 1 + (int)below(INT16_MAX), is_wide = (int)below(2);
    int64_t count = 1 + below(9), values = count * channels;
    int32_t *wide = claim(values, 4);
    int16_t *narrow = claim(values, 2), *expected = claim(values, 2), *out = claim(values, 2);
    uint16_t *multiplier = claim(channels, 2);
    uint8_t *shift = claim(channels, 1);
    for (int64_t i = 0; i < values; i++) {
        narrow[i] = (int16_t)xorshift(&seed);
        wide[i] = below(2) ? (int32_t)xorshift(&seed) : narrow[i];
    }
    for (int c = 0; c < channels; c++) {
        multiplier[c] = (uint16_t)below(MAX_GAIN + 1);
        shift[c] = (uint8_t)below(MAX_GAIN_SHIFT + 1);
    }
    for (int64_t i = 0; i < values; i++) {
        int c = (int)(i % channels);
        int64_t v = limited(is_wide ? wide[i] : narrow[i], GAIN_INPUT) * multiplier[c];
        expected[i] = (int16_t)limited((v + ((1 << shift[c]) >> 1)) >> shift[c], limit);
    }
    add_to_hash(expected, values);
    for (int path = 0; path < PATHS; path++)
        if (path_runs_here(path)) {
            all_kernels[path].gain(is_wide ? (void *)wide : narrow, is_wide, count, channels, multiplier, shift, limit, out);
            if (memcmp(out, expected, (size_t)values * 2))
                fail("gains differ from the reference", all_kernels[path].name);
        }
    free(wide);
    free(narrow);
    free(expected);
    free(out);
    free(multiplier);
    free(shift);
}

static void refuse(status expected, layer_source f, int path)
{
    layer *l;
    if (layer_new(&f, path, &l) != expected || l)
        fail("a damaged layer is not refused", messages[expected]);
}

static void damaged_layers(void)
{
    material m = random_material(RANDOM, 16, 32, 1);
    layer_source f;
    f = m.source, f.inputs = 8, refuse(BAD_FORM, f, PORTABLE);
    f = m.source, f.outputs = MAX_CHANNELS + 16, refuse(BAD_FORM, f, PORTABLE);
    f = m.source, f.is_dense = 0, refuse(BAD_FORM, f, PORTABLE);
    f = m.source, f.limit = 0, refuse(BAD_LIMIT, f, PORTABLE);
    f = m.source, f.limit = 32768, refuse(BAD_LIMIT, f, PORTABLE);
    refuse(BAD_PATH, m.source, PATHS);
    refuse(BAD_PATH, m.source, -1);
    m.shift[3] = 32, refuse(BAD_SHIFT, m.source, PORTABLE);
    m.shift[3] = 0, m.weight[9] = INT16_MIN, refuse(BAD_WEIGHT, m.source, PORTABLE);
    release(&m);
    grid good = {4, 5, 0, 4, 32, 40}, g;
    /* clang-format off */
    g = good; if (!grid_is_good(&g) || !picture_is_good(&g)) fail("grid", "good");
    g = good, g.row_end = 5; if (grid_is_good(&g)) fail("grid", "rows");
    g = good, g.row_begin = -1; if (grid_is_good(&g)) fail("grid", "negative row");
    g = good, g.height = 0; if (grid_is_good(&g)) fail("grid", "height");
    g = good, g.width = INT64_MAX; if (grid_is_good(&g)) fail("grid", "width");
    g = good, g.picture_height = 33; if (picture_is_good(&g)) fail("grid", "tall picture");
    g = good, g.picture_height = 16; if (picture_is_good(&g)) fail("grid", "flat picture");
    g = good, g.picture_width = 0; if (picture_is_good(&g)) fail("grid", "no picture");
    /* clang-format on */
}

int main(void)
{
    for (int i = 0; i < 150; i++)
        try_dense(RANDOM);
    for (int i = 0; i < 50; i++)
        try_dense(HOSTILE);
    for (int i = 0; i < 40; i++)
        try_block(i, i % 4 ? RANDOM : HOSTILE);
    for (int i = 0; i < 100; i++)
        try_gain();
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
