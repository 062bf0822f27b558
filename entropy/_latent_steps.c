/* One step of a coding schedule, element by element: between a head's outputs, the symbols and the latents.
 *
 * A member of a step is a group of G channels at one position of every 2x2 cell. Its head gives int16 outputs
 * [rows][columns][2 G]: the means, in 1/64 of a quantisation step, then the table levels. Elements whose level is at or
 * below `skip` are not coded: they are their mean. The others have a symbol k, in the order of the outputs, and
 *
 *     y_hat = 64 k + mean        at (2 row + y, 2 column + x, first + channel) of the latents [H][W][C].
 *
 * Invariants
 *  1. The binding checks every size; rows and columns are those of the cell's positions in H x W.
 *  2. No input can harm: the sums of a latent wrap, and symbols are read within their array.
 *  3. >> of a negative number is arithmetic and conversion to a narrower signed type wraps: implementation-defined
 *     in C11, and so on every compiler that Python supports.
 *  4. Floating point is in choose() only, which decides what an encoder writes and not what a decoder reads.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

enum { MAX_GROUP = 1 << 12, MAX_SIDE = 1 << 22, MAX_SHIFT = 16, FRACTION_BITS = 6 };

typedef struct {
    long long height, width, channels; /* of the latents */
    long long y, x, first, group;      /* of the member */
    int skip, has_means;
} member;

static int64_t rows_of(const member *m) { return (m->height - m->y + 1) / 2; }
static int64_t columns_of(const member *m) { return (m->width - m->x + 1) / 2; }
static int64_t elements_of(const member *m) { return rows_of(m) * columns_of(m) * m->group; }

static int64_t place_of(const member *m, int64_t row, int64_t column)
{
    return ((2 * row + m->y) * m->width + 2 * column + m->x) * m->channels + m->first;
}

static int member_is_good(const member *m)
{
    return m->height >= 0 && m->width >= 0 && m->height <= MAX_SIDE && m->width <= MAX_SIDE && m->channels >= 1 &&
           m->channels <= MAX_GROUP && (m->y == 0 || m->y == 1) && (m->x == 0 || m->x == 1) && m->first >= 0 && m->group >= 1 &&
           m->first + m->group <= m->channels;
}

/* indexes[count] := the levels of the coded elements; room for all. */
static int64_t coded_levels(const member *m, const int16_t *outputs, uint16_t *indexes)
{
    int64_t count = 0, positions = rows_of(m) * columns_of(m);
    for (int64_t i = 0; i < positions; i++, outputs += 2 * m->group)
        for (int64_t c = 0; c < m->group; c++) { /* stored in any case: a store costs less than a branch */
            int level = outputs[m->group + c];
            indexes[count] = (uint16_t)level;
            count += level > m->skip;
        }
    return count;
}

/* The encoder's symbols of the coded elements and their levels, both with room for all. From |r| the nearest integer k,
 * or its neighbour towards zero if |r| < (k - 1/2) price[level]. Latents y [H][W][C] are below 2^21. */
static int64_t choose(const member *m, const int16_t *outputs, const float *y, const float *price, int levels, int32_t *symbols,
                      uint16_t *indexes)
{
    const float to_integer = 1 << 23; /* floats from 2^23 on are integers, so adding it rounds to nearest, ties to even */
    int64_t count = 0, rows = rows_of(m), columns = columns_of(m);
    for (int64_t row = 0; row < rows; row++)
        for (int64_t column = 0; column < columns; column++, outputs += 2 * m->group) {
            const float *target = y + place_of(m, row, column);
            for (int64_t c = 0; c < m->group; c++) {
                int level = outputs[m->group + c];
                float mean = m->has_means ? outputs[c] * (1.0f / (1 << FRACTION_BITS)) : 0.0f;
                float residual = target[c] - mean, magnitude = residual < 0 ? -residual : residual;
                float k = (magnitude + to_integer) - to_integer;
                float threshold = (k - 0.5f) * price[level < 0 ? 0 : level < levels ? level : levels - 1];
                int32_t symbol = (int32_t)k - (magnitude < threshold);
                symbols[count] = residual < 0 ? -symbol : symbol;
                indexes[count] = (uint16_t)level;
                count += level > m->skip;
            }
        }
    return count;
}

/* Puts the latents of a member in their place, and into known[rows][columns][G] what a context network sees of them:
 * clamp((y_hat + 2^shift / 2) >> shift, -limit, limit). Returns how many of the `count` symbols there should be. */
static int64_t place(const member *m, const int16_t *outputs, const int32_t *symbols, int64_t count, const int32_t *shift,
                     int limit, int32_t *y_hat, int16_t *known)
{
    static const int32_t none[1] = {0};
    int64_t used = 0, rows = rows_of(m), columns = columns_of(m), last = count - 1;
    if (count == 0)
        symbols = none, last = 0;
    for (int64_t row = 0; row < rows; row++)
        for (int64_t column = 0; column < columns; column++, outputs += 2 * m->group, known += m->group) {
            int32_t k[MAX_GROUP], *to = y_hat + place_of(m, row, column);
            for (int64_t c = 0; c < m->group; c++) { /* without a branch, which nothing could predict */
                int is_coded = outputs[m->group + c] > m->skip;
                k[c] = symbols[used < last ? used : last] & -is_coded;
                used += is_coded;
            }
            for (int64_t c = 0; c < m->group; c++) {
                uint32_t v = ((uint32_t)k[c] << FRACTION_BITS) + (uint32_t)(m->has_means ? outputs[c] : 0);
                to[c] = (int32_t)v;
                int32_t t = (int32_t)(v + ((1u << shift[c]) >> 1)) >> shift[c];
                known[c] = (int16_t)(t < -limit ? -limit : t > limit ? limit : t);
            }
        }
    return used;
}

/* ================================ Python binding ============================================================== */

/* (height, width, channels), (y, x, first channel, channels of the group), skip, has_means */
#define MEMBER_FORMAT "(LLL)(LLLL)ip"
#define MEMBER_PLACES(M) \
    &(M).height, &(M).width, &(M).channels, &(M).y, &(M).x, &(M).first, &(M).group, &(M).skip, &(M).has_means

/* The buffer holds at least `count` values of `size` bytes, or exactly so many, aligned for them. */
static int holds(const Py_buffer *view, int64_t count, size_t size, int exactly)
{
    int64_t bytes = count * (int64_t)size;
    return (exactly ? view->len == bytes : view->len >= bytes) && (uintptr_t)view->buf % size == 0;
}

static PyObject *finished(Py_buffer *views, int count, int64_t result)
{
    for (int i = 0; i < count; i++)
        PyBuffer_Release(&views[i]);
    if (result < 0) {
        PyErr_SetString(PyExc_ValueError, "a member, a buffer's length or a constant is out of range");
        return NULL;
    }
    return PyLong_FromLongLong(result);
}

static PyObject *py_coded_levels(PyObject *module, PyObject *args)
{
    member m;
    Py_buffer v[2];
    int64_t count = -1;
    (void)module;
    if (!PyArg_ParseTuple(args, MEMBER_FORMAT "y*w*:coded_levels", MEMBER_PLACES(m), &v[0], &v[1]))
        return NULL;
    if (member_is_good(&m) && holds(&v[0], 2 * elements_of(&m), sizeof(int16_t), 1) &&
        holds(&v[1], elements_of(&m), sizeof(uint16_t), 0)) {
        Py_BEGIN_ALLOW_THREADS
        count = coded_levels(&m, v[0].buf, v[1].buf);
        Py_END_ALLOW_THREADS
    }
    return finished(v, 2, count);
}

static PyObject *py_choose(PyObject *module, PyObject *args)
{
    member m;
    Py_buffer v[5];
    int64_t count = -1;
    (void)module;
    if (!PyArg_ParseTuple(args, MEMBER_FORMAT "y*y*y*w*w*:choose", MEMBER_PLACES(m), &v[0], &v[1], &v[2], &v[3], &v[4]))
        return NULL;
    int64_t levels = v[2].len / (int64_t)sizeof(float);
    if (member_is_good(&m) && holds(&v[0], 2 * elements_of(&m), sizeof(int16_t), 1) &&
        holds(&v[1], m.height * m.width * m.channels, sizeof(float), 1) && levels >= 1 && levels <= MAX_GROUP &&
        holds(&v[2], levels, sizeof(float), 1) && holds(&v[3], elements_of(&m), sizeof(int32_t), 0) &&
        holds(&v[4], elements_of(&m), sizeof(uint16_t), 0)) {
        Py_BEGIN_ALLOW_THREADS
        count = choose(&m, v[0].buf, v[1].buf, v[2].buf, (int)levels, v[3].buf, v[4].buf);
        Py_END_ALLOW_THREADS
    }
    return finished(v, 5, count);
}

static PyObject *py_place(PyObject *module, PyObject *args)
{
    member m;
    Py_buffer v[5];
    int64_t used = -1;
    int limit;
    (void)module;
    if (!PyArg_ParseTuple(args, MEMBER_FORMAT "y*y*y*iw*w*:place", MEMBER_PLACES(m), &v[0], &v[1], &v[2], &limit, &v[3], &v[4]))
        return NULL;
    int64_t count = v[1].len / (int64_t)sizeof(int32_t);
    int is_good = member_is_good(&m) && holds(&v[0], 2 * elements_of(&m), sizeof(int16_t), 1) &&
                  holds(&v[1], count, sizeof(int32_t), 1) && holds(&v[2], m.group, sizeof(int32_t), 1) && limit >= 0 &&
                  limit <= INT16_MAX && holds(&v[3], m.height * m.width * m.channels, sizeof(int32_t), 1) &&
                  holds(&v[4], elements_of(&m), sizeof(int16_t), 1);
    for (int64_t c = 0; is_good && c < m.group; c++) {
        int32_t shift = ((const int32_t *)v[2].buf)[c];
        is_good = shift >= 0 && shift <= MAX_SHIFT;
    }
    if (is_good) {
        Py_BEGIN_ALLOW_THREADS
        used = place(&m, v[0].buf, v[1].buf, count, v[2].buf, limit, v[3].buf, v[4].buf);
        Py_END_ALLOW_THREADS
        if (used > count)
            used = -1; /* there are too few symbols */
    }
    return finished(v, 5, used);
}

static PyMethodDef methods[] = {
    {"coded_levels", py_coded_levels, METH_VARARGS, "Write the levels of a member's coded elements; how many there are."},
    {"choose", py_choose, METH_VARARGS, "Write an encoder's symbols of a member and their levels; how many there are."},
    {"place", py_place, METH_VARARGS, "Put a member's latents in their place; how many symbols it took."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_latent_steps",
    .m_doc = "Steps of a coding schedule (see the head of _latent_steps.c).",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__latent_steps(void)
{
    return PyModuleDef_Init(&definition);
}
