/* Rate and distortion of the overfitted codec in floating point, with their gradients: the Python binding.
 *
 * The encoder of codecs/overfit.py descends on  J = bits + weight * squared error  over the latents of one
 * picture and over the weights of its networks. An iteration is
 *
 *     rate  latents -> context network -> Laplace code length, and back
 *     band  latents -> upsampling -> synthesis -> squared error, and back (between begin and end)
 *
 * each for several parts of the rows, which threads share.
 *
 * Latents stand in padded planes (`geometry`), so that no context needs a test for the border: zeros
 * around each plane stand for what is outside the picture. What is computed is in _overfit_fitting_kernels.h, here is
 * which kernels this processor gets.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "_overfit_fitting.h"

/* Slowest first. */
static const fitting_kernels *const all_kernels[] = {
    &portable_kernels,
#ifdef HAS_X86_KERNELS
    &avx2_kernels,
    &avx512_kernels,
#endif
#ifdef HAS_FP16_KERNELS
    &fp16_kernels,
#endif
};
enum { SETS = sizeof all_kernels / sizeof all_kernels[0] };

static const fitting_kernels *kernels = &portable_kernels; /* those in use, and where half precision will do */
static const fitting_kernels *rough_kernels = &portable_kernels;

static const fitting_kernels *which(int rough) { return rough ? rough_kernels : kernels; }

static void use_fastest(void)
{
    for (int i = 0; i < SETS; i++)
        if (all_kernels[i]->are_supported()) {
            rough_kernels = all_kernels[i];
            if (!all_kernels[i]->is_rough)
                kernels = all_kernels[i];
        }
}

static const char CAPSULE[] = "rhodec.codecs._overfit_fitting.Workshop";

static void capsule_free(PyObject *capsule)
{
    workshop *s = PyCapsule_GetPointer(capsule, CAPSULE);
    free(s->block);
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

static bool is_grid(int level)
{
    if (level < 0 || level >= LEVELS)
        PyErr_SetString(PyExc_ValueError, "there is no such grid");
    return level >= 0 && level < LEVELS;
}

static bool is_part(part rows)
{
    if (rows.count >= 1 && rows.count <= MAX_BANDS && rows.number >= 0 && rows.number < rows.count)
        return true;
    PyErr_SetString(PyExc_ValueError, "there is no such part");
    return false;
}

static PyObject *py_geometry(PyObject *module, PyObject *args)
{
    (void)module;
    int height, width;
    if (!PyArg_ParseTuple(args, "ii", &height, &width) || !sizes_are_fine(height, width, 1, 1))
        return NULL;
    const geometry g = make_geometry(height, width, 0);
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
    if (!s || !kernels->workshop_make(s, height, width, features, residual)) {
        free(s);
        return PyErr_NoMemory();
    }
    PyObject *capsule = PyCapsule_New(s, CAPSULE, capsule_free);
    if (!capsule) {
        free(s->block);
        free(s);
    }
    return capsule;
}

static PyObject *py_parts(PyObject *module, PyObject *args)
{
    (void)module;
    int height, width;
    if (!PyArg_ParseTuple(args, "ii", &height, &width) || !sizes_are_fine(height, width, 1, 1))
        return NULL;
    const geometry g = make_geometry(height, width, 0);
    const int count = parts_of(height);
    PyObject *sizes = PyList_New(count);
    for (int i = 0; sizes && i < count; i++)
        PyList_SetItem(sizes, i, PyLong_FromSize_t(reached(&g, (part){i, count}).size));
    return sizes;
}

static PyObject *py_rate(PyObject *module, PyObject *args)
{
    (void)module;
    int height, width, finest, hidden, rough = 0;
    part rows = {0, 1};
    PyObject *o[6];
    o[4] = o[5] = Py_None;
    if (!PyArg_ParseTuple(args, "iiiiOOOO|OiipO", &height, &width, &finest, &hidden, &o[0], &o[1], &o[2], &o[3], &o[4],
                          &rows.number, &rows.count, &rough, &o[5])
        || !sizes_are_fine(height, width, hidden, 1) || !is_grid(finest) || !is_part(rows))
        return NULL;
    const bool by_row = o[4] != Py_None;
    if (by_row && rows.count != 1) {
        PyErr_SetString(PyExc_ValueError, "signs are for all rows");
        return NULL;
    }
    const geometry g = make_geometry(height, width, finest);
    const context_layout k = make_context_layout(hidden);
    size_t by_rows = 0;
    for (int l = finest; l < LEVELS; l++)
        by_rows += (size_t)g.h[l];
    Py_buffer v[6] = {{0}};
    PyObject *result = NULL;
    if (!get_floats(o[0], &v[0], "latents", g.size, false, false)
        || !get_floats(o[1], &v[1], "weights", k.count, false, false)
        || !get_floats(o[2], &v[2], "d_latents", reached(&g, rows).size, true, true)
        || !get_floats(o[3], &v[3], "d_weights", (by_row ? by_rows : 1) * k.count, true, o[2] == Py_None)
        || !get_floats(o[4], &v[4], "signs", g.size, false, true)
        || !get_floats(o[5], &v[5], "lengths", g.size, true, true))
        goto done;
    double bits;
    bool has_room;
    Py_BEGIN_ALLOW_THREADS
    has_room = which(rough)->rate(&g, rows, v[0].buf, hidden, v[1].buf, v[2].buf, v[3].buf, v[4].buf,
                                  by_row ? v[3].buf : NULL, v[5].buf, &bits);
    Py_END_ALLOW_THREADS
    result = has_room ? PyFloat_FromDouble(bits) : PyErr_NoMemory();
done:
    release(v, 6);
    return result;
}

static workshop *get_workshop(PyObject *capsule, size_t *weights, size_t *samples)
{
    workshop *s = PyCapsule_GetPointer(capsule, CAPSULE);
    if (s) {
        *weights = make_synthesis_layout(s->features, s->residual).count;
        *samples = COLOURS * (size_t)s->g.h[0] * (size_t)s->g.w[0];
    }
    return s;
}

static PyObject *py_begin(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *capsule, *o[2];
    size_t weights, samples;
    int rough = 0;
    workshop *s;
    if (!PyArg_ParseTuple(args, "OOO|p", &capsule, &o[0], &o[1], &rough)
        || !(s = get_workshop(capsule, &weights, &samples)))
        return NULL;
    Py_buffer v[2] = {{0}};
    const bool fine = get_floats(o[0], &v[0], "latents", s->g.size, false, false)
                      && get_floats(o[1], &v[1], "weights", weights, false, false);
    if (fine) {
        Py_BEGIN_ALLOW_THREADS
        which(rough)->begin(s, v[0].buf, v[1].buf);
        Py_END_ALLOW_THREADS
    }
    release(v, 2);
    if (!fine)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *py_band(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *capsule, *o[7];
    o[6] = Py_None;
    double weight;
    int number, rough = 0;
    size_t weights, samples;
    workshop *s;
    if (!PyArg_ParseTuple(args, "OiOOOdOOO|pO", &capsule, &number, &o[0], &o[1], &o[2], &weight, &o[3], &o[4], &o[5],
                          &rough, &o[6])
        || !(s = get_workshop(capsule, &weights, &samples)) || !is_part((part){number, s->bands}))
        return NULL;
    const size_t rows = (size_t)s->g.h[0];
    Py_buffer v[7] = {{0}};
    PyObject *result = NULL;
    if (get_floats(o[0], &v[0], "latents", s->g.size, false, false)
        && get_floats(o[1], &v[1], "weights", weights, false, false)
        && get_floats(o[2], &v[2], "target", samples, false, false)
        && get_floats(o[3], &v[3], "d_latents", s->g.size, true, true)
        && get_floats(o[4], &v[4], "shown", samples, true, true)
        && get_floats(o[5], &v[5], "by_row", rows * weights, true, true)
        && get_floats(o[6], &v[6], "errors", samples / COLOURS, true, true)) {
        double squares;
        Py_BEGIN_ALLOW_THREADS
        squares = which(rough)->band(s, number, v[0].buf, v[1].buf, v[2].buf, (float)weight, v[3].buf, v[4].buf,
                                     v[5].buf, v[6].buf);
        Py_END_ALLOW_THREADS
        result = PyFloat_FromDouble(squares);
    }
    release(v, 7);
    return result;
}

static PyObject *py_end(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *capsule, *o[3];
    size_t weights, samples;
    int rough = 0;
    workshop *s;
    if (!PyArg_ParseTuple(args, "OOOO|p", &capsule, &o[0], &o[1], &o[2], &rough)
        || !(s = get_workshop(capsule, &weights, &samples)))
        return NULL;
    Py_buffer v[3] = {{0}};
    const bool fine = get_floats(o[0], &v[0], "weights", weights, false, false)
                      && get_floats(o[1], &v[1], "d_latents", s->g.size, true, false)
                      && get_floats(o[2], &v[2], "d_weights", weights, true, false);
    if (fine) {
        Py_BEGIN_ALLOW_THREADS
        which(rough)->end(s, v[0].buf, v[1].buf, v[2].buf);
        Py_END_ALLOW_THREADS
    }
    release(v, 3);
    if (!fine)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *py_own(PyObject *module, PyObject *args)
{
    (void)module;
    int height, width, finest;
    part rows = {0, 1};
    PyObject *o[3];
    if (!PyArg_ParseTuple(args, "iiiOOO|ii", &height, &width, &finest, &o[0], &o[1], &o[2], &rows.number, &rows.count)
        || !sizes_are_fine(height, width, 1, 1) || !is_grid(finest) || !is_part(rows))
        return NULL;
    const geometry g = make_geometry(height, width, finest);
    Py_buffer v[3] = {{0}};
    const bool fine = get_floats(o[0], &v[0], "filters", LEVELS * TAPS, false, false)
                      && get_floats(o[1], &v[1], "latents", g.size, false, false)
                      && get_floats(o[2], &v[2], "out", g.size, true, false);
    if (fine) {
        Py_BEGIN_ALLOW_THREADS
        kernels->own(&g, rows, v[0].buf, v[1].buf, v[2].buf);
        Py_END_ALLOW_THREADS
    }
    release(v, 3);
    if (!fine)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *py_own_backward(PyObject *module, PyObject *args)
{
    (void)module;
    int height, width, finest;
    part rows = {0, 1};
    PyObject *o[5];
    if (!PyArg_ParseTuple(args, "iiiOOOOO|ii", &height, &width, &finest, &o[0], &o[1], &o[2], &o[3], &o[4], &rows.number,
                          &rows.count)
        || !sizes_are_fine(height, width, 1, 1) || !is_grid(finest) || !is_part(rows))
        return NULL;
    const geometry g = make_geometry(height, width, finest);
    static const char *const names[] = {"filters", "latents", "d_out", "d_latents", "d_filters"};
    Py_buffer v[5] = {{0}};
    bool fine = true;
    for (int i = 0; i < 5 && fine; i++)
        fine = get_floats(o[i], &v[i], names[i], i % 4 ? g.size : LEVELS * TAPS, i > 2, false);
    if (fine) {
        Py_BEGIN_ALLOW_THREADS
        kernels->own_backward(&g, rows, v[0].buf, v[1].buf, v[2].buf, v[3].buf, v[4].buf);
        Py_END_ALLOW_THREADS
    }
    release(v, 5);
    if (!fine)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *py_soften(PyObject *module, PyObject *args)
{
    (void)module;
    int height, width, finest;
    part rows = {0, 1};
    unsigned seed;
    double temperature, shape;
    PyObject *o[3];
    if (!PyArg_ParseTuple(args, "iiiOddIOO|ii", &height, &width, &finest, &o[0], &temperature, &shape, &seed, &o[1],
                          &o[2], &rows.number, &rows.count)
        || !sizes_are_fine(height, width, 1, 1) || !is_grid(finest) || !is_part(rows))
        return NULL;
    const geometry g = make_geometry(height, width, finest);
    Py_buffer v[3] = {{0}};
    const bool fine = get_floats(o[0], &v[0], "y", g.size, false, false)
                      && get_floats(o[1], &v[1], "latents", g.size, true, false)
                      && get_floats(o[2], &v[2], "slope", g.size, true, false);
    if (fine) {
        Py_BEGIN_ALLOW_THREADS
        kernels->soften(&g, rows, v[0].buf, (float)temperature, (float)shape, seed, v[1].buf, v[2].buf);
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
    int height, width, finest, step;
    part rows = {0, 1};
    double rate, beta1, beta2, limit;
    PyObject *o[7];
    if (!PyArg_ParseTuple(args, "iiiOOOOOOidddOd|ii", &height, &width, &finest, &o[0], &o[1], &o[2], &o[3], &o[4],
                          &o[5], &step, &rate, &beta1, &beta2, &o[6], &limit, &rows.number, &rows.count)
        || !sizes_are_fine(height, width, 1, 1) || !is_grid(finest) || !is_part(rows))
        return NULL;
    const geometry g = make_geometry(height, width, finest);
    static const char *const names[] = {"y", "slope", "d_rate", "d_error", "first", "second", "floors"};
    size_t d_rate = 0;
    for (int i = 0; i < rows.count; i++)
        d_rate += reached(&g, (part){i, rows.count}).size;
    const size_t counts[] = {g.size, g.size, d_rate, g.size, g.size, g.size, LEVELS};
    Py_buffer v[7] = {{0}};
    bool fine = true;
    for (int i = 0; i < 7 && fine; i++)
        fine = get_floats(o[i], &v[i], names[i], counts[i], i != 1 && i != 3 && i != 6, i == 1);
    if (fine) {
        Py_BEGIN_ALLOW_THREADS
        kernels->adam(&g, rows, v[0].buf, v[1].buf, v[2].buf, v[3].buf, v[4].buf, v[5].buf, (float)beta1, (float)beta2,
                      (float)(rate / (1 - pow(beta1, step))), (float)(1 / (1 - pow(beta2, step))), v[6].buf,
                      (float)limit);
        Py_END_ALLOW_THREADS
    }
    release(v, 7);
    if (!fine)
        return NULL;
    Py_RETURN_NONE;
}

/* An array of rows and columns, int32 (count, 2), that all lie in a grid. */
static bool get_places(PyObject *object, Py_buffer *view, int h, int w)
{
    if (PyObject_GetBuffer(object, view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) < 0)
        return false;
    const int32_t(*places)[2] = view->buf;
    const size_t count = (size_t)view->len / sizeof *places;
    const bool are_ints = view->format && (strcmp(view->format, "i") == 0 || strcmp(view->format, "l") == 0);
    bool fine = are_ints && view->itemsize == sizeof(int32_t) && (size_t)view->len == count * sizeof *places;
    for (size_t n = 0; fine && n < count; n++)
        fine = places[n][0] >= 0 && places[n][0] < h && places[n][1] >= 0 && places[n][1] < w;
    if (fine)
        return true;
    PyErr_SetString(PyExc_ValueError, "places must be a contiguous array of int32, rows and columns of the grid");
    PyBuffer_Release(view);
    view->obj = NULL;
    return false;
}

static PyObject *py_choose_apart(PyObject *module, PyObject *args)
{
    (void)module;
    int h, w, apart;
    PyObject *object;
    if (!PyArg_ParseTuple(args, "iiiO", &h, &w, &apart, &object) || !sizes_are_fine(h, w, 1, 1))
        return NULL;
    if (apart < 0 || apart > MAX_APART) {
        PyErr_SetString(PyExc_ValueError, "that is too far apart");
        return NULL;
    }
    Py_buffer view = {0};
    if (!get_places(object, &view, h, w))
        return NULL;
    const size_t count = (size_t)view.len / (2 * sizeof(int32_t));
    PyObject *chosen = PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)count);
    bool has_room = true;
    if (chosen) {
        uint8_t *to = (uint8_t *)PyByteArray_AsString(chosen);
        Py_BEGIN_ALLOW_THREADS
        has_room = choose_apart(h, w, apart, view.buf, count, to);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&view);
    if (!has_room) {
        Py_DECREF(chosen);
        return PyErr_NoMemory();
    }
    return chosen;
}

static PyObject *py_judge_moves(PyObject *module, PyObject *args)
{
    (void)module;
    int height, width, finest, level, around;
    double weight;
    PyObject *o[5];
    if (!PyArg_ParseTuple(args, "iiiiiOdOOOO", &height, &width, &finest, &level, &around, &o[0], &weight, &o[1], &o[2],
                          &o[3], &o[4])
        || !sizes_are_fine(height, width, 1, 1) || !is_grid(finest) || !is_grid(level))
        return NULL;
    if (around < 0 || 2 * around > MAX_APART) {
        PyErr_SetString(PyExc_ValueError, "that is too far around");
        return NULL;
    }
    const geometry g = make_geometry(height, width, finest);
    const size_t pixels = (size_t)height * (size_t)width;
    Py_buffer v[5] = {{0}};
    PyObject *result = NULL;
    if (get_places(o[0], &v[0], g.h[level], g.w[level])
        && get_floats(o[1], &v[1], "lengths", g.size, true, false)
        && get_floats(o[2], &v[2], "errors", pixels, true, false)
        && get_floats(o[3], &v[3], "new_lengths", g.size, false, false)
        && get_floats(o[4], &v[4], "new_errors", pixels, false, false)) {
        const size_t count = (size_t)v[0].len / (2 * sizeof(int32_t));
        result = PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)(count * sizeof(double)));
        if (result) {
            double *changes = (double *)PyByteArray_AsString(result);
            Py_BEGIN_ALLOW_THREADS
            judge_moves(&g, level, around, v[0].buf, count, weight, (costs){v[1].buf, v[2].buf},
                        (costs){v[3].buf, v[4].buf}, changes);
            Py_END_ALLOW_THREADS
        }
    }
    release(v, 5);
    return result;
}

static PyObject *py_kernels(PyObject *module, PyObject *args)
{
    (void)module, (void)args;
    PyObject *names = PyList_New(0);
    for (int i = 0; names && i < SETS; i++) {
        PyObject *name = all_kernels[i]->are_supported() ? PyUnicode_FromString(all_kernels[i]->name) : NULL;
        if (name && PyList_Append(names, name) < 0)
            Py_CLEAR(names);
        Py_XDECREF(name);
    }
    return PyErr_Occurred() ? NULL : names;
}

static PyObject *py_use(PyObject *module, PyObject *args)
{
    (void)module;
    const char *name = NULL;
    if (!PyArg_ParseTuple(args, "z", &name))
        return NULL;
    if (!name) {
        use_fastest();
        Py_RETURN_NONE;
    }
    for (int i = 0; i < SETS; i++)
        if (strcmp(all_kernels[i]->name, name) == 0 && all_kernels[i]->are_supported()) {
            kernels = rough_kernels = all_kernels[i];
            Py_RETURN_NONE;
        }
    PyErr_Format(PyExc_ValueError, "no kernels %s here", name);
    return NULL;
}

/* What is `rough` may be computed in half precision; begin, bands and end of an iteration must agree on it. */
static PyMethodDef methods[] = {
    {"kernels", py_kernels, METH_NOARGS, "kernels() -> names of the kernels that this processor runs, slowest first"},
    {"use", py_use, METH_VARARGS,
     "use(name, /): run these from now on, rough or not, or with None the fastest; workshops of before are of no use"},
    {"geometry", py_geometry, METH_VARARGS,
     "geometry(height, width, /) -> (floats of a latent buffer, [(height, width, stride, origin) of each level])"},
    {"weight_counts", py_weight_counts, METH_VARARGS,
     "weight_counts(hidden, features, residual, /) -> (of the context network, of upsampling and synthesis)"},
    {"workshop", py_workshop, METH_VARARGS,
     "workshop(height, width, features, residual, /) -> memory for begin(), band() and end()"},
    {"parts", py_parts, METH_VARARGS,
     "parts(height, width, /) -> floats of d_latents in rate() for each part of a picture (as many as it has bands)"},
    {"rate", py_rate, METH_VARARGS,
     "rate(height, width, finest, hidden, latents, weights, d_latents, d_weights, signs=None, part=0, parts=1,\n"
     "rough=False, lengths=None, /) -> bits of the latents in a part of the rows; sets their gradient, a buffer of only the rows that it reaches (like\n"
     "latents if there is one part), and adds that of the weights; only the grids from `finest` on count, here and below\n"
     "With signs, one for each latent that its bits are multiplied by, sets d_weights of every row by itself.\n"
     "Sets `lengths` (like latents) to the bits of each."},
    {"begin", py_begin, METH_VARARGS, "begin(workshop, latents, weights, rough=False, /): what all bands need"},
    {"band", py_band, METH_VARARGS,
     "band(workshop, number, latents, weights, target, weight, d_latents, shown, by_row, rough=False, errors=None,\n"
     "/) -> squared "
     "error of a band; weight times its gradients stay in the workshop for end(), but for what d_latents gets for grid 0; sets\n"
     "`by_row` to the gradient of the weights of every row by itself, those of the filters left alone, and `errors`\n"
     "(height x width) to the squared error of each pixel"},
    {"end", py_end, METH_VARARGS, "end(workshop, weights, d_latents, d_weights, rough=False, /): adds the gradients of all bands"},
    {"own", py_own, METH_VARARGS,
     "own(height, width, finest, filters, latents, out, part=0, parts=1, /): what the synthesis reads of a part of the\n"
     "latents; filters: 7 x 4, for each grid the middle tap and those of one side, along columns and rows alike"},
    {"own_backward", py_own_backward, METH_VARARGS,
     "own_backward(height, width, finest, filters, latents, d_out, d_latents, d_filters, part=0, parts=1, /): sets the\n"
     "gradient of a part of the latents, adds that of the filters"},
    {"soften", py_soften, METH_VARARGS,
     "soften(height, width, finest, y, temperature, shape, seed, latents, slope, part=0, parts=1, /): soft rounding\n"
     "with noise"},
    {"adam", py_adam, METH_VARARGS,
     "adam(height, width, finest, y, slope, d_rate, d_error, first, second, step, rate, beta1, beta2, floors, limit,\n"
     "part=0, parts=1, /): moves a part of the rows; d_rate: the buffers of all parts, one after the other; floors:\n"
     "what is added to the second moments of each grid"},
    {"choose_apart", py_choose_apart, METH_VARARGS,
     "choose_apart(height, width, apart, places, /) -> a byte for each place of a grid (int32 (count, 2): rows and\n"
     "columns, the best first): whether it is more than `apart` rows or columns from all chosen before"},
    {"judge_moves", py_judge_moves, METH_VARARGS,
     "judge_moves(height, width, finest, level, around, places, weight, lengths, errors, new_lengths, new_errors, /) ->\n"
     "float64 for each move of a latent of a grid: the change of  bits + weight * squared error  up to `around` latents\n"
     "from it. Where it is below 0, `lengths` and `errors` become the new ones there."},
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
    use_fastest();
    return PyModuleDef_Init(&definition);
}
