/* CRC-32C (Castagnoli) of a buffer.

   The polynomial is 0x1EDC6F41, bit-reflected 0x82F63B78, initial value and final exclusive-or all
   ones: the CRC of iSCSI (RFC 3720, appendix B.4), SCTP and ext4. Check value: "123456789" gives
   0xE3069283. It finds every burst of up to 32 bits, and every odd number of wrong bits.

   Invariants
   - `state` below is the register without the final inversion; both kernels map (state, bytes) to
     the same new state, for every split of the bytes into calls.
   - table[k][b] is the state reached from b by one byte step and k further zero bytes. Eight bytes
     at once are therefore the exclusive-or of eight independent look-ups ("slicing by 8":
     Kounavis and Berry, A Systematic Approach to Building High Performance Software-based CRC
     Generators, ISCC 2005), because a CRC is linear over GF(2).
   - The tables live in the module's state and are filled when the module is made, before any
     function of it can be called, and never written again: there is nothing to lock.
   - x86-64 with SSE 4.2 has this CRC as an instruction; it is chosen at run time. */

#include <stddef.h>
#include <stdint.h>

#define REFLECTED_POLYNOMIAL 0x82F63B78u

typedef uint32_t crc_tables[8][256];

static void fill_tables(crc_tables table)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t state = byte;
        for (int bit = 0; bit < 8; bit++)
            state = (state >> 1) ^ ((state & 1u) ? REFLECTED_POLYNOMIAL : 0u);
        table[0][byte] = state;
    }
    for (int k = 1; k < 8; k++)
        for (int byte = 0; byte < 256; byte++) {
            uint32_t state = table[k - 1][byte];
            table[k][byte] = (state >> 8) ^ table[0][state & 0xFF];
        }
}

/* Little-endian load that any compiler turns into one instruction where that is allowed. */
static uint32_t load_le32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint32_t update_by_tables(const crc_tables t, uint32_t state, const uint8_t *p,
                                 const uint8_t *end)
{
    for (; end - p >= 8; p += 8) {
        uint32_t low = load_le32(p) ^ state;
        uint32_t high = load_le32(p + 4);
        state = t[7][low & 0xFF] ^ t[6][low >> 8 & 0xFF] ^ t[5][low >> 16 & 0xFF] ^ t[4][low >> 24]
              ^ t[3][high & 0xFF] ^ t[2][high >> 8 & 0xFF] ^ t[1][high >> 16 & 0xFF]
              ^ t[0][high >> 24];
    }
    for (; p < end; p++)
        state = (state >> 8) ^ t[0][(state ^ *p) & 0xFF];
    return state;
}

#if defined(__x86_64__) && defined(__GNUC__)
#define HAVE_SSE42_KERNEL 1
#include <nmmintrin.h>
#include <string.h>

__attribute__((target("sse4.2")))
static uint32_t update_by_instruction(uint32_t state, const uint8_t *p, const uint8_t *end)
{
    uint64_t wide = state;
    for (; end - p >= 8; p += 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        wide = _mm_crc32_u64(wide, word);
    }
    state = (uint32_t)wide;
    for (; p < end; p++)
        state = _mm_crc32_u8(state, *p);
    return state;
}

static int has_instruction(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("sse4.2") != 0;
}
#else
#define HAVE_SSE42_KERNEL 0
#endif

/* ---------------------------------------------------------------- Python binding ------------ */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* Below this size the sum takes a few microseconds and handing the lock over is not worth it. */
#define RELEASE_GIL_FROM_BYTES 32768

typedef struct {
    crc_tables tables;
    int use_instruction;
} module_state;

static PyObject *crc_of_arguments(PyObject *module, PyObject *const *args, Py_ssize_t count,
                                  int allow_instruction)
{
    if (count < 1 || count > 2) {
        PyErr_Format(PyExc_TypeError, "expected data and an optional value, got %zd arguments",
                     count);
        return NULL;
    }
    unsigned long start = 0;
    if (count == 2) {
        start = PyLong_AsUnsignedLong(args[1]);
        if (start == (unsigned long)-1 && PyErr_Occurred())
            return NULL;
        if (start > 0xFFFFFFFFul) {
            PyErr_SetString(PyExc_OverflowError, "value must be between 0 and 2**32 - 1");
            return NULL;
        }
    }
    Py_buffer view;
    if (PyObject_GetBuffer(args[0], &view, PyBUF_SIMPLE) < 0)
        return NULL;

    const module_state *state = PyModule_GetState(module);
    const uint8_t *begin = view.buf;
    const uint8_t *end = view.len > 0 ? begin + view.len : begin;
    uint32_t crc = ~(uint32_t)start;
    PyThreadState *released = view.len >= RELEASE_GIL_FROM_BYTES ? PyEval_SaveThread() : NULL;
#if HAVE_SSE42_KERNEL
    if (allow_instruction && state->use_instruction)
        crc = update_by_instruction(crc, begin, end);
    else
#else
    (void)allow_instruction;
#endif
        crc = update_by_tables(state->tables, crc, begin, end);
    if (released)
        PyEval_RestoreThread(released);
    PyBuffer_Release(&view);
    return PyLong_FromUnsignedLong(~crc & 0xFFFFFFFFul);
}

static PyObject *py_crc32c(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    return crc_of_arguments(module, args, count, 1);
}

static PyObject *py_crc32c_by_tables(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    return crc_of_arguments(module, args, count, 0);
}

static int exec_module(PyObject *module)
{
    module_state *state = PyModule_GetState(module);
    fill_tables(state->tables);
#if HAVE_SSE42_KERNEL
    state->use_instruction = has_instruction();
#endif
    return 0;
}

static PyMethodDef methods[] = {
    {"crc32c", (PyCFunction)(void (*)(void))py_crc32c, METH_FASTCALL,
     "crc32c(data, value=0, /)\n--\n\n"
     "CRC-32C of the bytes of data; value is the CRC of the bytes before them."},
    {"crc32c_by_tables", (PyCFunction)(void (*)(void))py_crc32c_by_tables, METH_FASTCALL,
     "crc32c_by_tables(data, value=0, /)\n--\n\n"
     "The same sum by the portable kernel, whatever the processor offers; for tests."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)exec_module},
    {0, NULL},
};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_crc32c",
    .m_doc = "CRC-32C (Castagnoli) of anything with the buffer protocol.",
    .m_size = sizeof(module_state),
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__crc32c(void)
{
    return PyModuleDef_Init(&definition);
}
