/* Interleaved range asymmetric numeral systems (rANS) with per-symbol table choice.
 *
 * Papers: J. Duda, "Asymmetric numeral systems", 2013 (arXiv:1311.2540): the coder;
 *         F. Giesen, "Interleaved entropy coders", 2014 (arXiv:1402.3392): several states, one stream.
 * RANS_FORMAT_DRAFT.md describes the bytes; tests/rans_twin.py is written from that text alone.
 *
 * Why rANS and not a carry-propagating range coder.  Both lose a few thousandths of a per cent.  A
 * range decoder divides or multiplies on both ends of an interval and every step waits for the last;
 * an rANS decoder needs one multiplication, and because a state is one integer, four of them run side
 * by side in one thread and share one stream with no side information.  The price is that the
 * encoder works backwards, so it needs all symbols of a stream first: a picture codec has them.
 *
 * The state.  A lane is an integer x with L <= x < 2^32 L, L = 2^31.  Coding a bin with frequency f
 * (of 2^16) that starts at c maps x to  2^16 floor(x / f) + c + x mod f,  which is about x 2^16 / f: the
 * state grows by the cost of the bin.  Invariants, and why they hold:
 *
 *  1. L <= x < 2^32 L between steps.  The encoder first moves the low 32 bits out if x >= f 2^47.
 *     Afterwards x < f 2^47, thus the step ends below 2^63; and x >= f 2^15 in both cases (if it
 *     moved, x was at least f 2^47; if not, x >= L >= f 2^15), thus the step ends at L or above.
 *  2. The decoder needs no flag to know when to read: the inverse step gives f floor(x / 2^16) + slot
 *     - c, which is below L exactly if the encoder moved a word out (then x < 2^31 = L, as x was below
 *     2^63; else x was at least L).  One word always suffices.
 *  3. floor(x / f) is exact as a product: with 2^(s-1) < f <= 2^s and m = ceil(2^(63+s) / f) the
 *     error m f - 2^(63+s) is below f <= 2^s, so x m / 2^(63+s) exceeds x / f by less than 1 / f for
 *     every x < 2^63, and cannot reach the next integer.  f = 1 has no such m below 2^64;
 *     m = 2^64 - 1 gives x - 1 there, and the bias adds the difference back.
 *  4. Raw bits (after an escape) are the step for a uniform alphabet of 2^w, 1 <= w <= 16: x 2^w + v.
 *  5. Words come out of the encoder in the reverse of the order in which the decoder asks for
 *     them, over all lanes, because both visit the symbols in opposite order and move at most one
 *     word per step.  Hence one shared stream.
 *  6. A symbol moves at most 4 words: its bin and at most 65 raw bits add at most 81 bits, a lane
 *     has room for 32, and each word takes 32.  This bounds every buffer and every loop below.
 *  7. A decoder that ends with all words read and x = L in all lanes has undone every step from
 *     the start; anything else is an error.  As every step is a bijection and first states have one
 *     form, an accepted stream is the one that the encoder makes of these symbols.  Most damage ends
 *     elsewhere, but not all (a raw bit can change alone): finding that is the container's part.
 *
 * Tables.  The encoder keeps 16 bytes per bin (reciprocal, bias, complement, shift).  The decoder
 * keeps the 4-byte lower edge of every bin and about four 2-byte buckets per bin that map the top bits
 * of a slot to the first bin that the bucket touches; at most two steps from there, taken without a
 * branch, settle almost every symbol.  One entry for each of 65536 slots would need no steps, but
 * 64 such tables do not fit in the second-level cache, and a miss costs more than the steps.
 * While a stream takes less than a bit a symbol, the decoder asks first for the most frequent bin:
 * that branch is mostly predicted, and a predicted symbol is not waited for.
 *
 * Memory safety.  Tables are checked when made.  Every read of the stream is checked, or stands in a
 * block that has checked for the most that the block can read (6).  Input is never trusted to an assert.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__GNUC__)
#define ALWAYS_INLINE inline __attribute__((always_inline))
#define NEVER_INLINE __attribute__((noinline))
#define UNLIKELY(condition) __builtin_expect(!!(condition), 0)
#else
#define ALWAYS_INLINE inline
#define NEVER_INLINE
#define UNLIKELY(condition) (condition)
#endif
#if defined(__clang__)
#define UNROLL_LANES _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define UNROLL_LANES _Pragma("GCC unroll 4")
#else
#define UNROLL_LANES
#endif

enum {
    FREQUENCY_BITS = 16,
    FREQUENCY_SUM = 1 << FREQUENCY_BITS,
    TABLES_MAX = 4096,
    LANES_MAX = 4,
    STATE_BYTES_MIN = 4,
    STATE_BYTES_MAX = 8,
    HEADER_BYTES_MAX = 2,
    SYMBOL_BYTES_MAX = 16,   /* invariant 6 */
    GOLOMB_BITS_MAX = 32,    /* escape distances are below 2^33 - 1 */
    RAW_PIECE_BITS = 16,
    CHUNK = 1024,            /* symbols between two looks at the room left; a multiple of the lanes */
};
#define STATE_LOW ((uint64_t)1 << 31)
#define STATE_HIGH ((uint64_t)1 << 63)

typedef enum {
    RANS_OK,
    RANS_NO_MEMORY,
    RANS_TABLE_COUNT,
    RANS_TABLE_EMPTY,
    RANS_TABLE_FREQUENCY,
    RANS_TABLE_SUM,
    RANS_TABLE_OFFSET,
    RANS_BAD_INDEX,
    RANS_BAD_DIFFERENCE,
    RANS_BAD_LANES,
    RANS_BAD_HEADER,
    RANS_BAD_STATE,
    RANS_BAD_LENGTH,
    RANS_TRUNCATED,
    RANS_BAD_ESCAPE,
    RANS_BAD_SYMBOL,
    RANS_WORDS_LEFT,
    RANS_WRONG_END,
    RANS_STATUS_COUNT
} rans_status;

typedef enum { BLAME_NOBODY, BLAME_MEMORY, BLAME_CALLER, BLAME_STREAM } rans_blame;

static const struct {
    rans_blame blame;
    const char *message;
} RANS_STATUS[RANS_STATUS_COUNT] = {
    [RANS_OK] = {BLAME_NOBODY, "no error"},
    [RANS_NO_MEMORY] = {BLAME_MEMORY, "out of memory"},
    [RANS_TABLE_COUNT] = {BLAME_CALLER, "there must be 1 to 4096 coding tables"},
    [RANS_TABLE_EMPTY] = {BLAME_CALLER, "a coding table needs at least its escape bin"},
    [RANS_TABLE_FREQUENCY] = {BLAME_CALLER, "every frequency must be at least 1"},
    [RANS_TABLE_SUM] = {BLAME_CALLER, "the frequencies of a coding table must sum to 65536"},
    [RANS_TABLE_OFFSET] = {BLAME_CALLER, "the values of a coding table must fit in 32 bits"},
    [RANS_BAD_INDEX] = {BLAME_CALLER, "a table index is not below the number of tables"},
    [RANS_BAD_DIFFERENCE] = {BLAME_CALLER, "a symbol less its offset does not fit in 32 bits"},
    [RANS_BAD_LANES] = {BLAME_CALLER, "the number of lanes must be 1, 2 or 4, or 0 to choose"},
    [RANS_BAD_HEADER] = {BLAME_STREAM, "range coder: bad header"},
    [RANS_BAD_STATE] = {BLAME_STREAM, "range coder: a first state is out of range or not shortest"},
    [RANS_BAD_LENGTH] = {BLAME_STREAM, "range coder: the length is not a whole number of words"},
    [RANS_TRUNCATED] = {BLAME_STREAM, "range coder: the stream ends before its symbols"},
    [RANS_BAD_ESCAPE] = {BLAME_STREAM, "range coder: an escape code is too long"},
    [RANS_BAD_SYMBOL] = {BLAME_STREAM, "range coder: a symbol does not fit in 32 bits"},
    [RANS_WORDS_LEFT] = {BLAME_STREAM, "range coder: data left after the last symbol"},
    [RANS_WRONG_END] = {BLAME_STREAM, "range coder: the last state is wrong"},
};

/* Keep the first error: what follows it is noise. */
static ALWAYS_INLINE void fail(rans_status *status, rans_status error)
{
    if (*status == RANS_OK)
        *status = error;
}

/* ---- Small arithmetic ---------------------------------------------------------------------- */

static ALWAYS_INLINE uint32_t load_u32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static ALWAYS_INLINE void store_u32(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
    p[2] = (uint8_t)(v >> 16);
    p[3] = (uint8_t)(v >> 24);
}

/* The upper 64 bits of a 128-bit product. */
static ALWAYS_INLINE uint64_t multiply_high(uint64_t a, uint64_t b)
{
#if defined(__SIZEOF_INT128__) && !defined(RHODEC_NO_INT128)
    __extension__ typedef unsigned __int128 uint128;
    return (uint64_t)((uint128)a * b >> 64);
#else
    const uint64_t a0 = (uint32_t)a, a1 = a >> 32, b0 = (uint32_t)b, b1 = b >> 32;
    const uint64_t low = a0 * b0, mid = a1 * b0 + (low >> 32), rest = a0 * b1 + (uint32_t)mid;
    return a1 * b1 + (mid >> 32) + (rest >> 32);
#endif
}

/* floor(log2(v)) for v > 0. */
static ALWAYS_INLINE unsigned floor_log2(uint64_t v)
{
#if defined(__GNUC__)
    return 63u - (unsigned)__builtin_clzll(v);
#else
    unsigned bits = 0;
    while (v >>= 1)
        bits++;
    return bits;
#endif
}

/* ---- Tables -------------------------------------------------------------------------------- */

/* What the encoder needs of one bin (invariant 3). */
typedef struct {
    uint64_t reciprocal;
    uint32_t bias;
    uint16_t complement; /* 65536 - frequency */
    uint8_t shift;
} rans_bin;

typedef struct {
    uint32_t first_bin;    /* of this table in rans_tables.bins */
    uint32_t first_edge;   /* likewise in .edges */
    uint32_t first_bucket; /* likewise in .buckets */
    uint32_t escape;       /* number of the escape bin, the last one */
    int32_t offset;        /* value of bin 0 */
    uint32_t bucket_shift;
    uint32_t mode_frequency; /* of the most frequent bin; 0 if that is the escape */
    uint16_t mode_start;
    uint16_t mode_bin;
} rans_table;

typedef struct {
    uint32_t count;
    rans_table *table;
    rans_bin *bins;
    uint32_t *edges;   /* lower edges, then 65536 twice: the end, and one to look ahead */
    uint16_t *buckets;
} rans_tables;

enum { EDGES_BEYOND = 2, BUCKETS_PER_BIN = 4, BUCKET_BITS_MIN = 4, BUCKET_BITS_MAX = 12 };

static unsigned bucket_bits(uint32_t bins)
{
    unsigned bits = BUCKET_BITS_MIN;
    while (bits < BUCKET_BITS_MAX && ((uint32_t)1 << bits) < BUCKETS_PER_BIN * bins)
        bits++;
    return bits;
}

static rans_bin make_bin(uint32_t start, uint32_t frequency)
{
    rans_bin bin = {0};
    bin.complement = (uint16_t)(FREQUENCY_SUM - frequency);
    bin.bias = start;
    if (frequency == 1) {
        bin.reciprocal = ~(uint64_t)0;
        bin.bias += FREQUENCY_SUM - 1;
    } else {
        const unsigned s = floor_log2(frequency - 1) + 1;
        const uint64_t upper = STATE_LOW << s; /* 2^(63+s) without its low 32 zeros */
        const uint64_t rest = (upper % frequency << 32) + frequency - 1;
        bin.reciprocal = (upper / frequency << 32) + rest / frequency;
        bin.shift = (uint8_t)(s - 1);
    }
    return bin;
}

static void rans_tables_free(rans_tables *tables)
{
    free(tables->table);
    free(tables->bins);
    free(tables->edges);
    free(tables->buckets);
    memset(tables, 0, sizeof *tables);
}

/* `frequencies` holds `total` numbers, bin_counts[0] of them for table 0, and so on. */
static rans_status rans_tables_make(rans_tables *tables, const uint32_t *frequencies, size_t total,
                                    const uint32_t *bin_counts, const int32_t *offsets, size_t count)
{
    memset(tables, 0, sizeof *tables);
    if (count < 1 || count > TABLES_MAX)
        return RANS_TABLE_COUNT;
    size_t bin_total = 0, bucket_total = 0;
    for (size_t t = 0; t < count; t++) {
        if (bin_counts[t] == 0)
            return RANS_TABLE_EMPTY;
        if (bin_counts[t] > FREQUENCY_SUM || bin_counts[t] > total - bin_total)
            return RANS_TABLE_SUM;
        if ((int64_t)offsets[t] + bin_counts[t] - 2 > INT32_MAX)
            return RANS_TABLE_OFFSET;
        bin_total += bin_counts[t];
        bucket_total += (size_t)1 << bucket_bits(bin_counts[t]);
    }
    if (bin_total != total)
        return RANS_TABLE_SUM;

    /* At most 2^28 bins: every size below fits in 32 bits of elements. */
    tables->count = (uint32_t)count;
    tables->table = calloc(count, sizeof *tables->table);
    tables->bins = calloc(bin_total, sizeof *tables->bins);
    tables->edges = calloc(bin_total + count * EDGES_BEYOND, sizeof *tables->edges);
    tables->buckets = calloc(bucket_total, sizeof *tables->buckets);
    rans_status status = RANS_OK;
    if (!tables->table || !tables->bins || !tables->edges || !tables->buckets)
        status = RANS_NO_MEMORY;

    uint32_t bin_at = 0, edge_at = 0, bucket_at = 0;
    for (size_t t = 0; t < count && status == RANS_OK; t++) {
        const uint32_t bins = bin_counts[t];
        const unsigned bits = bucket_bits(bins);
        tables->table[t] = (rans_table){.first_bin = bin_at, .first_edge = edge_at,
            .first_bucket = bucket_at, .escape = bins - 1,
            .bucket_shift = FREQUENCY_BITS - bits, .offset = offsets[t]};
        uint32_t start = 0;
        for (uint32_t j = 0; j < bins && status == RANS_OK; j++) {
            const uint32_t frequency = frequencies[bin_at + j];
            if (frequency < 1)
                status = RANS_TABLE_FREQUENCY;
            else if (frequency > FREQUENCY_SUM - start)
                status = RANS_TABLE_SUM;
            else {
                tables->bins[bin_at + j] = make_bin(start, frequency);
                tables->edges[edge_at + j] = start;
                start += frequency;
            }
        }
        if (status == RANS_OK && start != FREQUENCY_SUM)
            status = RANS_TABLE_SUM;
        if (status != RANS_OK)
            break;
        rans_table *table = tables->table + t;
        uint32_t *edges = tables->edges + edge_at;
        for (uint32_t j = 0; j < table->escape; j++)
            if (frequencies[bin_at + j] > table->mode_frequency) {
                table->mode_frequency = frequencies[bin_at + j];
                table->mode_start = (uint16_t)edges[j];
                table->mode_bin = (uint16_t)j;
            }
        for (uint32_t j = 0; j < EDGES_BEYOND; j++)
            edges[bins + j] = FREQUENCY_SUM;
        for (uint32_t bucket = 0, j = 0; bucket < (uint32_t)1 << bits; bucket++) {
            while (edges[j + 1] <= bucket << (FREQUENCY_BITS - bits))
                j++;
            tables->buckets[bucket_at + bucket] = (uint16_t)j;
        }
        bin_at += bins;
        edge_at += bins + EDGES_BEYOND;
        bucket_at += (uint32_t)1 << bits;
    }
    if (status != RANS_OK)
        rans_tables_free(tables);
    return status;
}

/* ---- Encoder ------------------------------------------------------------------------------- */

/* The stream grows from the end of its buffer towards the front. */
typedef struct {
    uint8_t *base, *at, *end;
} rans_writer;

static rans_status reserve(rans_writer *w, size_t bytes)
{
    const size_t old = w->base ? (size_t)(w->end - w->base) : 0;
    const size_t used = w->base ? (size_t)(w->end - w->at) : 0;
    if (old - used >= bytes)
        return RANS_OK;
    if (old > SIZE_MAX / 4 || bytes > SIZE_MAX / 4)
        return RANS_NO_MEMORY;
    const size_t size = 2 * old + bytes;
    uint8_t *base = malloc(size);
    if (!base)
        return RANS_NO_MEMORY;
    if (used)
        memcpy(base + size - used, w->at, used);
    free(w->base);
    *w = (rans_writer){base, base + size - used, base + size};
    return RANS_OK;
}

/* Move the low word out if x >= limit.  It is stored in any case: a store costs less than a branch. */
static ALWAYS_INLINE uint64_t make_room(uint64_t x, uint64_t limit, uint8_t **at)
{
    const bool full = x >= limit;
    store_u32(*at - 4, (uint32_t)x);
    *at -= full ? 4 : 0;
    return full ? x >> 32 : x;
}

static ALWAYS_INLINE uint64_t push_bin(uint64_t x, const rans_bin *bin, uint8_t **at)
{
    x = make_room(x, (uint64_t)(FREQUENCY_SUM - bin->complement) << 47, at);
    const uint64_t quotient = multiply_high(x, bin->reciprocal) >> bin->shift;
    return x + bin->bias + quotient * bin->complement;
}

static uint64_t push_raw(uint64_t x, uint32_t value, unsigned bits, uint8_t **at)
{
    return make_room(x, STATE_HIGH >> bits, at) << bits | value;
}

/* The distance of a value outside a table: 0, 2, 4.. above and 1, 3, 5.. below. */
static uint64_t escape_distance(const rans_table *table, int64_t value)
{
    const int64_t above = value - ((int64_t)table->offset + table->escape);
    const int64_t below = (int64_t)table->offset - 1 - value;
    return above >= 0 ? 2 * (uint64_t)above : 2 * (uint64_t)below + 1;
}

/* Exp-Golomb code of order 0: k zeros, a one, the k bits below the leading one of distance + 1.
 * Pushed backwards, since the decoder pops the last thing first. */
static NEVER_INLINE uint64_t push_golomb(uint64_t x, uint64_t distance, uint8_t **at)
{
    const uint64_t number = distance + 1;
    const unsigned k = floor_log2(number);
    const uint64_t suffix = number - ((uint64_t)1 << k);
    if (k > RAW_PIECE_BITS)
        x = push_raw(x, (uint32_t)(suffix >> RAW_PIECE_BITS), k - RAW_PIECE_BITS, at);
    if (k > 0)
        x = push_raw(x, suffix & ((1u << RAW_PIECE_BITS) - 1), k < RAW_PIECE_BITS ? k : RAW_PIECE_BITS, at);
    x = push_raw(x, 1, 1, at);
    for (unsigned zero = 0; zero < k; zero++)
        x = push_raw(x, 0, 1, at);
    return x;
}

typedef struct {
    rans_tables tables;
    const int32_t *symbols;
    const uint16_t *indexes;
    const int32_t *offsets; /* or NULL */
    size_t count;
} rans_input;

static ALWAYS_INLINE uint64_t push_symbol(uint64_t x, const rans_input *in, size_t i, bool with_offsets,
                                          uint8_t **at, rans_status *status)
{
    const rans_tables *tables = &in->tables;
    const uint32_t index = in->indexes[i];
    if (UNLIKELY(index >= tables->count)) {
        fail(status, RANS_BAD_INDEX);
        return x;
    }
    const rans_table *table = tables->table + index;
    const int64_t value = (int64_t)in->symbols[i] - (with_offsets ? in->offsets[i] : 0);
    const uint64_t bin = (uint64_t)(value - table->offset);
    if (UNLIKELY(bin >= table->escape)) {
        if (value < INT32_MIN || value > INT32_MAX) {
            fail(status, RANS_BAD_DIFFERENCE);
            return x;
        }
        uint8_t *cold_at = *at; /* a copy, so that *at itself can live in a register */
        x = push_golomb(x, escape_distance(table, value), &cold_at);
        *at = cold_at;
        return push_bin(x, tables->bins + table->first_bin + table->escape, at);
    }
    return push_bin(x, tables->bins + table->first_bin + bin, at);
}

static ALWAYS_INLINE rans_status push_all(rans_writer *w, const rans_input *input, uint64_t *state,
                                          const unsigned lanes, const bool with_offsets)
{
    const rans_input copy = *input, *const in = &copy; /* no store below can change it: registers */
    rans_status status = RANS_OK;
    size_t i = in->count;
    while (i > 0) {
        /* One store of make_room may be in vain: 4 bytes more. */
        status = reserve(w, (size_t)CHUNK * SYMBOL_BYTES_MAX + 4);
        if (status != RANS_OK)
            return status;
        const size_t stop = (i - 1) / CHUNK * CHUNK;
        uint8_t *at = w->at;
        while (i % lanes) {
            i--;
            state[i % lanes] = push_symbol(state[i % lanes], in, i, with_offsets, &at, &status);
        }
        uint64_t x[LANES_MAX]; /* a copy that is never indexed by a variable stays in registers */
        memcpy(x, state, sizeof x);
        while (i > stop) {
            i -= lanes;
            UNROLL_LANES
            for (unsigned back = 1; back <= lanes; back++) {
                const unsigned lane = lanes - back;
                x[lane] = push_symbol(x[lane], in, i + lane, with_offsets, &at, &status);
            }
        }
        memcpy(state, x, sizeof x);
        w->at = at;
        if (status != RANS_OK)
            return status;
    }
    return RANS_OK;
}

/* More lanes decode faster and cost about 4.5 bytes each, so they must disappear in the whole: the
 * cost stays within 8 bytes + 0.02 % at every size.  The size is guessed from an even sample, with
 * -log2 f linear between powers of two (exact at both ends, where sparse tables live). */
static unsigned choose_lanes(const rans_input *in)
{
    enum { SAMPLES = 1 << 14, ONE_BIT = 1 << FREQUENCY_BITS };
    enum { TWO_LANES_BYTES = 16 << 10, FOUR_LANES_BYTES = 96 << 10 };
    const size_t stride = in->count / SAMPLES + 1;
    uint64_t cost = 0;
    for (size_t i = 0; i < in->count; i += stride) {
        if (in->indexes[i] >= in->tables.count)
            continue; /* reported when coded */
        const rans_table *table = in->tables.table + in->indexes[i];
        const int64_t value = (int64_t)in->symbols[i] - (in->offsets ? in->offsets[i] : 0);
        const uint64_t j = (uint64_t)(value - table->offset);
        const bool escapes = j >= table->escape;
        const rans_bin *bin = in->tables.bins + table->first_bin + (escapes ? table->escape : j);
        const uint32_t frequency = FREQUENCY_SUM - bin->complement;
        const unsigned whole = floor_log2(frequency);
        const uint64_t mantissa = (uint64_t)frequency << (FREQUENCY_BITS - whole); /* 1 to 2 bits */
        cost += (uint64_t)(FREQUENCY_BITS + 1 - whole) * ONE_BIT - mantissa;
        if (escapes)
            cost += (uint64_t)(2 * floor_log2(escape_distance(table, value) + 1) + 1) * ONE_BIT;
    }
    const uint64_t bytes = cost / ONE_BIT / 8 * stride;
    return bytes < TWO_LANES_BYTES ? 1 : bytes < FOUR_LANES_BYTES ? 2 : 4;
}

/* On success w->at .. w->end is the stream; the caller frees w->base in any case. */
static rans_status rans_encode(rans_writer *w, const rans_input *in, unsigned lanes)
{
    memset(w, 0, sizeof *w);
    if (lanes == 0)
        lanes = choose_lanes(in);
    if (lanes != 1 && lanes != 2 && lanes != 4)
        return RANS_BAD_LANES;
    if (in->count == 0)
        return RANS_OK;
    uint64_t state[LANES_MAX] = {STATE_LOW, STATE_LOW, STATE_LOW, STATE_LOW};
    rans_status status;
    if (in->offsets)
        status = lanes == 1 ? push_all(w, in, state, 1, true)
               : lanes == 2 ? push_all(w, in, state, 2, true) : push_all(w, in, state, 4, true);
    else
        status = lanes == 1 ? push_all(w, in, state, 1, false)
               : lanes == 2 ? push_all(w, in, state, 2, false) : push_all(w, in, state, 4, false);
    if (status == RANS_OK)
        status = reserve(w, HEADER_BYTES_MAX + LANES_MAX * STATE_BYTES_MAX);
    if (status != RANS_OK)
        return status;

    unsigned header = lanes == 1 ? 0 : lanes == 2 ? 1 : 2;
    for (unsigned back = 1; back <= lanes; back++) {
        const unsigned lane = lanes - back;
        const unsigned bytes = floor_log2(state[lane]) / 8 + 1;
        w->at -= bytes;
        for (unsigned b = 0; b < bytes; b++)
            w->at[b] = (uint8_t)(state[lane] >> 8 * b);
        header |= (bytes - STATE_BYTES_MIN) << (2 + 3 * lane);
    }
    if (lanes == 4)
        *--w->at = (uint8_t)(header >> 8);
    *--w->at = (uint8_t)header;
    return RANS_OK;
}

/* ---- Decoder ------------------------------------------------------------------------------- */

typedef struct {
    const uint8_t *at, *end;
    uint64_t state[LANES_MAX];
    unsigned lanes;
    unsigned lane;       /* of the next symbol */
    bool peaked;         /* the last chunk took less than a bit a symbol; changes only the speed */
    rans_status failed;  /* once an error, always that error */
} rans_decoder;

static rans_status rans_decoder_start(rans_decoder *d, const uint8_t *data, size_t size)
{
    *d = (rans_decoder){.at = data, .end = data + size, .lanes = 1,
        .state = {STATE_LOW, STATE_LOW, STATE_LOW, STATE_LOW}};
    if (size == 0) /* no symbols at all */
        return RANS_OK;
    unsigned header = *d->at++;
    if ((header & 3) == 3)
        return d->failed = RANS_BAD_HEADER;
    d->lanes = 1u << (header & 3);
    if (d->lanes == 4) {
        if (d->at == d->end)
            return d->failed = RANS_TRUNCATED;
        header |= (unsigned)*d->at++ << 8;
    }
    if (header >> (2 + 3 * d->lanes))
        return d->failed = RANS_BAD_HEADER;
    for (unsigned lane = 0; lane < d->lanes; lane++) {
        const unsigned bytes = STATE_BYTES_MIN + (header >> (2 + 3 * lane) & 7);
        if (bytes > STATE_BYTES_MAX)
            return d->failed = RANS_BAD_HEADER;
        if ((size_t)(d->end - d->at) < bytes)
            return d->failed = RANS_TRUNCATED;
        uint64_t x = 0;
        for (unsigned b = 0; b < bytes; b++)
            x |= (uint64_t)*d->at++ << 8 * b;
        if (x < STATE_LOW || x >= STATE_HIGH || floor_log2(x) / 8 + 1 != bytes)
            return d->failed = RANS_BAD_STATE;
        d->state[lane] = x;
    }
    if ((d->end - d->at) % 4)
        return d->failed = RANS_BAD_LENGTH;
    return RANS_OK;
}

/* How a piece of the stream is decoded; all three give the same symbols. */
typedef enum {
    CAREFUL, /* every read is checked */
    FLAT,    /* no branch depends on the data: for many bits a symbol, which no predictor follows */
    PEAKED,  /* branches on the most frequent bin first: mostly predicted right below one bit a symbol,
              * and then the processor goes on with the next symbol before this one is known */
} rans_way;

/* Read a word if x < L.  Only CAREFUL looks where the data end; the others know 4 bytes there. */
static ALWAYS_INLINE uint64_t refill(uint64_t x, const uint8_t **at, const uint8_t *end, const rans_way way,
                                     rans_status *status)
{
    const bool low = x < STATE_LOW;
    if (way == FLAT) {
        const uint64_t mask = 0 - (uint64_t)low;
        const uint64_t word = load_u32(*at) & mask;
        *at += mask & 4;
        return x << (mask & 32) | word;
    }
    if (!low)
        return x;
    if (way == CAREFUL && end - *at < 4) {
        fail(status, RANS_TRUNCATED);
        return STATE_LOW;
    }
    x = x << 32 | load_u32(*at);
    *at += 4;
    return x;
}

static NEVER_INLINE uint64_t pop_golomb(uint64_t x, uint64_t *distance, const uint8_t **at,
                                        const uint8_t *end, rans_status *status)
{
    unsigned k = 0;
    for (;;) {
        const bool one = x & 1;
        x = refill(x >> 1, at, end, CAREFUL, status);
        if (one)
            break;
        if (++k > GOLOMB_BITS_MAX) {
            fail(status, RANS_BAD_ESCAPE);
            k = 0;
            break;
        }
    }
    uint64_t suffix = 0;
    for (unsigned have = 0; have < k;) {
        const unsigned bits = have || k < RAW_PIECE_BITS ? k - have : RAW_PIECE_BITS;
        suffix |= (x & (((uint64_t)1 << bits) - 1)) << have;
        x = refill(x >> bits, at, end, CAREFUL, status);
        have += bits;
    }
    *distance = ((uint64_t)1 << k) + suffix - 1;
    return x;
}

typedef struct {
    rans_tables tables;
    const uint16_t *indexes;
    const int32_t *offsets; /* or NULL */
    int32_t *symbols;
} rans_output;

static ALWAYS_INLINE uint64_t pop_symbol(uint64_t x, const rans_output *out, size_t i,
                                         const bool with_offsets, const uint8_t **at, const uint8_t *end,
                                         const rans_way way, rans_status *status)
{
    const rans_tables *tables = &out->tables;
    const uint32_t index = out->indexes[i];
    if (UNLIKELY(index >= tables->count)) {
        fail(status, RANS_BAD_INDEX);
        return x;
    }
    const rans_table *table = tables->table + index;
    const uint32_t slot = x & (FREQUENCY_SUM - 1);
    uint32_t bin = table->mode_bin, low = table->mode_start, frequency = table->mode_frequency;
    if (way != PEAKED || slot - low >= frequency) {
        bin = tables->buckets[table->first_bucket + (slot >> table->bucket_shift)];
        const uint32_t *edge = tables->edges + table->first_edge + bin;
        const uint32_t step = (uint32_t)(edge[1] <= slot) + (uint32_t)(edge[2] <= slot);
        edge += step;
        bin += step;
        while (UNLIKELY(edge[1] <= slot)) { /* ends: the edge after the last bin is 65536 */
            edge++;
            bin++;
        }
        low = edge[0];
        frequency = edge[1] - low;
    }
    x = refill(frequency * (x >> FREQUENCY_BITS) + (slot - low), at, end, way, status);
    int64_t value = (int64_t)table->offset + bin;
    if (UNLIKELY(bin == table->escape)) {
        /* Copies, so that the originals, whose addresses stay here, can live in registers. */
        uint64_t distance;
        const uint8_t *cold_at = *at;
        rans_status cold_status = *status;
        x = pop_golomb(x, &distance, &cold_at, end, &cold_status);
        *at = cold_at;
        *status = cold_status;
        const int64_t half = (int64_t)(distance >> 1);
        value = distance & 1 ? (int64_t)table->offset - 1 - half : value + half;
        if (value < INT32_MIN || value > INT32_MAX) { /* even if an offset would bring it back */
            fail(status, RANS_BAD_SYMBOL);
            value = 0;
        }
    }
    if (with_offsets) {
        value += out->offsets[i];
        if (UNLIKELY(value < INT32_MIN || value > INT32_MAX)) {
            fail(status, RANS_BAD_SYMBOL);
            value = 0;
        }
    }
    out->symbols[i] = (int32_t)value;
    return x;
}

/* Whole rounds over the lanes while symbols are asked for and the data are far from their end.
 * Return the number of symbols. */
static ALWAYS_INLINE size_t pop_rounds(rans_decoder *d, const rans_output *output, size_t first, size_t count,
                                       const unsigned lanes, const bool with_offsets, const rans_way way,
                                       rans_status *status)
{
    const rans_output copy = *output, *const out = &copy; /* no store below can change it: registers */
    const uint8_t *at = d->at, *const end = d->end;
    rans_status so_far = RANS_OK;
    uint64_t x[LANES_MAX];
    memcpy(x, d->state, sizeof x);
    size_t i = 0;
    while (count - i >= lanes && end - at >= (ptrdiff_t)(lanes * SYMBOL_BYTES_MAX) && so_far == RANS_OK) {
        UNROLL_LANES
        for (unsigned lane = 0; lane < lanes; lane++)
            x[lane] = pop_symbol(x[lane], out, first + i + lane, with_offsets, &at, end, way, &so_far);
        i += lanes;
    }
    memcpy(d->state, x, sizeof x);
    d->at = at;
    *status = so_far;
    return i;
}

static ALWAYS_INLINE rans_status pop_all(rans_decoder *d, const rans_output *out, size_t count,
                                         const unsigned lanes, const bool with_offsets)
{
    rans_status status = RANS_OK;
    size_t i = 0;
    while (i < count && status == RANS_OK) {
        if (d->lane == 0) {
            /* A chunk at a time, in the way that suits the bits that the last one took. */
            const size_t most = count - i < CHUNK ? count - i : CHUNK;
            const uint8_t *const before = d->at;
            const size_t done = d->peaked ? pop_rounds(d, out, i, most, lanes, with_offsets, PEAKED, &status)
                                          : pop_rounds(d, out, i, most, lanes, with_offsets, FLAT, &status);
            i += done;
            if (done == CHUNK) {
                d->peaked = d->at - before < CHUNK / 8;
                continue;
            }
        }
        /* The start and the end of a call, and the end of the stream: one by one, with every check. */
        if (i < count && status == RANS_OK) {
            uint64_t *x = &d->state[d->lane];
            *x = pop_symbol(*x, out, i, with_offsets, &d->at, d->end, CAREFUL, &status);
            d->lane = (d->lane + 1) % lanes;
            i++;
        }
    }
    return d->failed = status;
}

static rans_status rans_decode(rans_decoder *d, const rans_output *out, size_t count)
{
    if (d->failed != RANS_OK)
        return d->failed;
    if (out->offsets)
        return d->lanes == 1 ? pop_all(d, out, count, 1, true)
             : d->lanes == 2 ? pop_all(d, out, count, 2, true) : pop_all(d, out, count, 4, true);
    return d->lanes == 1 ? pop_all(d, out, count, 1, false)
         : d->lanes == 2 ? pop_all(d, out, count, 2, false) : pop_all(d, out, count, 4, false);
}

static rans_status rans_decoder_finish(const rans_decoder *d)
{
    if (d->failed != RANS_OK)
        return d->failed;
    if (d->at != d->end)
        return RANS_WORDS_LEFT;
    for (unsigned lane = 0; lane < d->lanes; lane++)
        if (d->state[lane] != STATE_LOW)
            return RANS_WRONG_END;
    return RANS_OK;
}

/* ================================================================================================
 * The Python binding: module rhodec.bitstream._rans.  Everything above is plain C11.
 * ============================================================================================== */
#ifndef RHODEC_CORE_ONLY

#define PY_SSIZE_T_CLEAN
#include <Python.h>

typedef struct {
    PyObject *stream_error;
    PyTypeObject *tables_type, *decoder_type;
} module_state;

typedef struct {
    PyObject_HEAD
    rans_tables core;
} tables_object;

typedef struct {
    PyObject_HEAD
    rans_decoder core;
    uint8_t *data;         /* our own copy: nobody can change it or take it away */
    PyObject *tables;
    bool busy;             /* another thread is decoding; read and written under the GIL */
} decoder_object;

static PyObject *raise_status(module_state *state, rans_status status)
{
    switch (RANS_STATUS[status].blame) {
    case BLAME_MEMORY:
        return PyErr_NoMemory();
    case BLAME_STREAM:
        PyErr_SetString(state->stream_error, RANS_STATUS[status].message);
        return NULL;
    default:
        PyErr_SetString(PyExc_ValueError, RANS_STATUS[status].message);
        return NULL;
    }
}

/* A contiguous one-dimensional array of integers of the given size; `letters` are its struct codes. */
static bool get_array(PyObject *object, Py_buffer *view, const char *name, const char *letters,
                      Py_ssize_t size, bool writable)
{
    const int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0);
    if (PyObject_GetBuffer(object, view, flags) < 0)
        return false;
    const char *format = view->format ? view->format : "B";
    if (view->ndim != 1 || view->itemsize != size || !format[0] || format[1] || !strchr(letters, format[0])) {
        PyErr_Format(PyExc_TypeError, "%s must be a one-dimensional array of native %s", name,
                     size == 2 ? "uint16" : strchr(letters, 'I') ? "uint32" : "int32");
        PyBuffer_Release(view);
        return false;
    }
    return true;
}

#define INT32_LETTERS "il"
#define UINT32_LETTERS "IL"
#define UINT16_LETTERS "H"

/* Views that were never filled have obj == NULL, for which a release does nothing. */
static void release(Py_buffer *views, int count)
{
    for (int i = 0; i < count; i++)
        PyBuffer_Release(&views[i]);
}

static PyObject *tables_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"frequencies", "bin_counts", "offsets", NULL};
    PyObject *objects[3];
    Py_buffer views[3] = {{0}};
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "OOO:Tables", names, &objects[0], &objects[1],
                                     &objects[2]))
        return NULL;
    tables_object *self = NULL;
    if (!get_array(objects[0], &views[0], "frequencies", UINT32_LETTERS, 4, false)
        || !get_array(objects[1], &views[1], "bin_counts", UINT32_LETTERS, 4, false)
        || !get_array(objects[2], &views[2], "offsets", INT32_LETTERS, 4, false))
        goto done;
    if (views[1].len != views[2].len) {
        PyErr_SetString(PyExc_ValueError, "bin_counts and offsets must have the same length");
        goto done;
    }
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    self = (tables_object *)allocate(type, 0);
    if (!self)
        goto done;
    rans_status status;
    Py_BEGIN_ALLOW_THREADS
    status = rans_tables_make(&self->core, views[0].buf, (size_t)views[0].len / 4, views[1].buf, views[2].buf,
                              (size_t)views[2].len / 4);
    Py_END_ALLOW_THREADS
    if (status != RANS_OK) {
        raise_status(PyType_GetModuleState(type), status);
        Py_CLEAR(self);
    }
done:
    release(views, 3);
    return (PyObject *)self;
}

static void tables_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    rans_tables_free(&((tables_object *)self)->core);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyType_Slot tables_slots[] = {
    {Py_tp_doc, "Tables(frequencies, bin_counts, offsets)\n--\n\nChecked and prepared coding tables."},
    {Py_tp_new, tables_new},
    {Py_tp_dealloc, tables_dealloc},
    {0, NULL},
};
static PyType_Spec tables_spec = {
    .name = "rhodec.bitstream._rans.Tables", .basicsize = sizeof(tables_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, .slots = tables_slots};

static PyObject *encode(PyObject *module, PyObject *args)
{
    module_state *state = PyModule_GetState(module);
    PyObject *symbols, *indexes, *tables, *offsets, *stream = NULL;
    unsigned char lanes = 0;
    Py_buffer views[3] = {{0}};
    if (!PyArg_ParseTuple(args, "OOO!O|b:encode", &symbols, &indexes, state->tables_type, &tables,
                          &offsets, &lanes))
        return NULL;
    if (!get_array(symbols, &views[0], "symbols", INT32_LETTERS, 4, false)
        || !get_array(indexes, &views[1], "indexes", UINT16_LETTERS, 2, false)
        || (offsets != Py_None && !get_array(offsets, &views[2], "offsets", INT32_LETTERS, 4, false)))
        goto done;
    const size_t count = (size_t)views[0].len / 4;
    if ((size_t)views[1].len / 2 != count || (offsets != Py_None && (size_t)views[2].len / 4 != count)) {
        PyErr_SetString(PyExc_ValueError, "symbols, indexes and offsets must have the same length");
        goto done;
    }
    rans_writer writer;
    rans_status status;
    const rans_input input = {.tables = ((tables_object *)tables)->core, .symbols = views[0].buf,
        .indexes = views[1].buf, .offsets = views[2].buf, .count = count};
    Py_BEGIN_ALLOW_THREADS
    status = rans_encode(&writer, &input, lanes);
    Py_END_ALLOW_THREADS
    if (status == RANS_OK)
        stream = PyBytes_FromStringAndSize((const char *)writer.at, writer.end - writer.at);
    else
        raise_status(state, status);
    free(writer.base);
done:
    release(views, 3);
    return stream;
}

static PyObject *decoder_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"data", "tables", NULL};
    module_state *state = PyType_GetModuleState(type);
    PyObject *tables;
    Py_buffer data;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "y*O!:Decoder", names, &data, state->tables_type,
                                     &tables))
        return NULL;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    decoder_object *self = (decoder_object *)allocate(type, 0);
    if (self) {
        self->data = malloc((size_t)data.len + 1);
        rans_status status = RANS_NO_MEMORY;
        if (self->data) {
            memcpy(self->data, data.buf, (size_t)data.len);
            Py_INCREF(tables);
            self->tables = tables;
            status = rans_decoder_start(&self->core, self->data, (size_t)data.len);
        }
        if (status != RANS_OK) {
            raise_status(state, status);
            Py_CLEAR(self);
        }
    }
    PyBuffer_Release(&data);
    return (PyObject *)self;
}

static void decoder_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    free(((decoder_object *)self)->data);
    Py_XDECREF(((decoder_object *)self)->tables);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyObject *none_or_raise(PyObject *decoder, rans_status status)
{
    if (status == RANS_OK)
        return Py_NewRef(Py_None);
    return raise_status(PyType_GetModuleState(Py_TYPE(decoder)), status);
}

static PyObject *decoder_decode(PyObject *object, PyObject *args)
{
    decoder_object *self = (decoder_object *)object;
    PyObject *indexes, *offsets, *symbols, *result = NULL;
    Py_buffer views[3] = {{0}};
    if (!PyArg_ParseTuple(args, "OOO:decode", &indexes, &offsets, &symbols))
        return NULL;
    if (self->busy) {
        PyErr_SetString(PyExc_RuntimeError, "another thread is using this decoder");
        return NULL;
    }
    if (!get_array(indexes, &views[0], "indexes", UINT16_LETTERS, 2, false)
        || (offsets != Py_None && !get_array(offsets, &views[1], "offsets", INT32_LETTERS, 4, false))
        || !get_array(symbols, &views[2], "symbols", INT32_LETTERS, 4, true))
        goto done;
    const size_t count = (size_t)views[0].len / 2;
    if ((size_t)views[2].len / 4 != count || (offsets != Py_None && (size_t)views[1].len / 4 != count)) {
        PyErr_SetString(PyExc_ValueError, "indexes, offsets and symbols must have the same length");
        goto done;
    }
    rans_status status;
    const rans_output output = {.tables = ((tables_object *)self->tables)->core,
        .indexes = views[0].buf, .offsets = views[1].buf, .symbols = views[2].buf};
    self->busy = true;
    Py_BEGIN_ALLOW_THREADS
    status = rans_decode(&self->core, &output, count);
    Py_END_ALLOW_THREADS
    self->busy = false;
    result = none_or_raise(object, status);
done:
    release(views, 3);
    return result;
}

static PyObject *decoder_finish(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    decoder_object *self = (decoder_object *)object;
    if (self->busy) {
        PyErr_SetString(PyExc_RuntimeError, "another thread is using this decoder");
        return NULL;
    }
    const rans_status status = rans_decoder_finish(&self->core);
    return none_or_raise(object, status);
}

static PyMethodDef decoder_methods[] = {
    {"decode", decoder_decode, METH_VARARGS,
     "decode(indexes, offsets, symbols)\n--\n\nDecode the next symbols into the array `symbols`."},
    {"finish", decoder_finish, METH_NOARGS,
     "finish()\n--\n\nRaise StreamError unless the stream ended exactly here."},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot decoder_slots[] = {
    {Py_tp_doc, "Decoder(data, tables)\n--\n\nOne pass over one stream."},
    {Py_tp_new, decoder_new},
    {Py_tp_dealloc, decoder_dealloc},
    {Py_tp_methods, decoder_methods},
    {0, NULL},
};
static PyType_Spec decoder_spec = {
    .name = "rhodec.bitstream._rans.Decoder", .basicsize = sizeof(decoder_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, .slots = decoder_slots};

static PyMethodDef module_methods[] = {
    {"encode", encode, METH_VARARGS,
     "encode(symbols, indexes, tables, offsets, lanes=0)\n--\n\nCode symbols - offsets; 0 lanes: choose."},
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
    if (!state->stream_error)
        return -1;
    state->tables_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &tables_spec, NULL);
    if (!state->tables_type || PyModule_AddType(module, state->tables_type) < 0)
        return -1;
    state->decoder_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &decoder_spec, NULL);
    if (!state->decoder_type || PyModule_AddType(module, state->decoder_type) < 0)
        return -1;
    return 0;
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    module_state *state = PyModule_GetState(module);
    Py_VISIT(state->stream_error);
    Py_VISIT(state->tables_type);
    Py_VISIT(state->decoder_type);
    return 0;
}

static int module_clear(PyObject *module)
{
    module_state *state = PyModule_GetState(module);
    Py_CLEAR(state->stream_error);
    Py_CLEAR(state->tables_type);
    Py_CLEAR(state->decoder_type);
    return 0;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, module_exec}, {0, NULL}};
static PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_rans", .m_doc = "Interleaved rANS; see rhodec.bitstream.rans.",
    .m_size = sizeof(module_state), .m_methods = module_methods, .m_slots = module_slots,
    .m_traverse = module_traverse, .m_clear = module_clear};

PyMODINIT_FUNC PyInit__rans(void)
{
    return PyModuleDef_Init(&module_definition);
}

#endif
