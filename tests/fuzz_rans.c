/* Round trips and damaged streams for the core of _rans.c; sanitize_rans.py builds it under
 * AddressSanitizer and UndefinedBehaviorSanitizer, which turn every wrong access into a failure.
 *
 *     fuzz_rans <seed> <rounds>
 *
 * Each round makes random tables and symbols, codes and decodes them, and decodes truncations,
 * flipped bits and random bytes. All data lie in blocks of exactly their size.
 */
#define RHODEC_CORE_ONLY
#include "../bitstream/_rans.c"

#include <stdio.h>

static uint64_t random_state;

static uint32_t random_u32(void) /* splitmix64 */
{
    uint64_t z = random_state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return (uint32_t)((z ^ z >> 31) >> 16);
}

static uint32_t below(uint32_t limit)
{
    return (uint32_t)((uint64_t)random_u32() * limit >> 32);
}

static void require(bool condition, const char *what)
{
    if (!condition) {
        fprintf(stderr, "fuzz_rans: %s\n", what);
        exit(1);
    }
}

static void *exactly(size_t bytes)
{
    void *block = malloc(bytes ? bytes : 1);
    require(block != NULL, "out of memory");
    return block;
}

/* Random numbers of at least 1 with sum 65536: the gaps between random cuts, some of them crowded. */
static void random_frequencies(uint32_t *frequencies, uint32_t bins)
{
    uint32_t left = FREQUENCY_SUM - bins;
    for (uint32_t j = 0; j < bins; j++) {
        const uint32_t share = below(3) ? below(left / 2 + 1) : below(4);
        const uint32_t extra = j + 1 == bins ? left : share < left ? share : left;
        frequencies[j] = 1 + extra;
        left -= extra;
    }
    const uint32_t other = below(bins), last = frequencies[bins - 1];
    frequencies[bins - 1] = frequencies[other];
    frequencies[other] = last;
}

typedef struct {
    rans_tables tables;
    size_t count;
    uint16_t *indexes;
    int32_t *symbols, *offsets, *decoded;
} job;

/* Decode in calls of random sizes. */
static rans_status decode(const job *j, const uint8_t *data, size_t size, bool with_offsets)
{
    rans_decoder d;
    rans_status status = rans_decoder_start(&d, data, size);
    for (size_t i = 0; i < j->count && status == RANS_OK;) {
        const size_t most = j->count - i, asked = below(4) ? 1 + below(3000) : below(8);
        const size_t n = asked < most ? asked : most;
        const rans_output out = {.tables = j->tables, .indexes = j->indexes + i,
            .offsets = with_offsets ? j->offsets + i : NULL, .symbols = j->decoded + i};
        status = rans_decode(&d, &out, n);
        i += n;
    }
    return status == RANS_OK ? rans_decoder_finish(&d) : status;
}

static void decode_copy(const job *j, const uint8_t *data, size_t size, bool with_offsets, bool must_fail)
{
    uint8_t *copy = exactly(size);
    memcpy(copy, data, size);
    const rans_status status = decode(j, copy, size, with_offsets);
    require(status == RANS_OK || RANS_STATUS[status].blame == BLAME_STREAM, "a wrong kind of error");
    require(!must_fail || status != RANS_OK, "a truncated stream was read");
    free(copy);
}

static void round_trip_and_damage(const job *j, unsigned lanes, bool with_offsets)
{
    rans_writer w;
    const rans_input in = {j->tables, j->symbols, j->indexes, with_offsets ? j->offsets : NULL, j->count};
    require(rans_encode(&w, &in, lanes) == RANS_OK, "not encoded");
    const size_t size = j->count ? (size_t)(w.end - w.at) : 0;
    uint8_t *stream = exactly(size);
    if (size)
        memcpy(stream, w.at, size);
    free(w.base);

    require(decode(j, stream, size, with_offsets) == RANS_OK, "not decoded");
    require(!j->count || !memcmp(j->decoded, j->symbols, j->count * sizeof *j->symbols), "decoded wrongly");

    for (int i = 0; i < 12 && size; i++)
        decode_copy(j, stream, i ? below((uint32_t)size) : size - 1, with_offsets, true);
    for (int i = 0; i < 24 && size; i++) {
        const uint32_t at = below(3) ? below((uint32_t)size) : below(size < 20 ? (uint32_t)size : 20);
        const uint8_t old = stream[at];
        stream[at] = below(2) ? old ^ (uint8_t)(1 << below(8)) : (uint8_t)random_u32();
        decode_copy(j, stream, size, with_offsets, false);
        if (below(2))
            stream[at] = old;
    }
    free(stream);
}

static void random_bytes(const job *j)
{
    const size_t size = below(600);
    uint8_t *data = exactly(size);
    const unsigned kind = below(3);
    for (size_t i = 0; i < size; i++)
        data[i] = kind == 0 ? 0 : kind == 1 ? 0xFF : (uint8_t)random_u32();
    if (size > 10) { /* a front that is read, whatever follows: all states of 8 bytes */
        const uint8_t code = (uint8_t)below(3);
        data[0] = code | 4 << 2 | (code ? 4 << 5 : 0);
        if (code == 2)
            data[1] = 4 | 4 << 3;
        for (size_t lane = 0, first = code == 2 ? 2 : 1; lane < (size_t)1 << code; lane++)
            if (first + 8 * lane + 7 < size)
                data[first + 8 * lane + 7] = (uint8_t)(1 + below(127));
    }
    decode_copy(j, data, size, below(2), false);
    free(data);
}

static void wrong_tables(void)
{
    rans_tables tables;
    const uint32_t frequencies[] = {65535, 1}, counts[] = {2, 0}, huge[] = {UINT32_MAX}, zero[] = {0, 65536};
    const int32_t offsets[] = {0, 0}, high[] = {INT32_MAX};
    require(rans_tables_make(&tables, frequencies, 2, counts, offsets, 0) == RANS_TABLE_COUNT, "no tables");
    require(rans_tables_make(&tables, frequencies, 2, counts, offsets, 2) == RANS_TABLE_EMPTY, "no bins");
    require(rans_tables_make(&tables, frequencies, 2, huge, offsets, 1) == RANS_TABLE_SUM, "huge count");
    require(rans_tables_make(&tables, frequencies, 1, counts, offsets, 1) == RANS_TABLE_SUM, "short");
    require(rans_tables_make(&tables, zero, 2, counts, offsets, 1) == RANS_TABLE_FREQUENCY, "zero");
    require(rans_tables_make(&tables, frequencies, 2, counts, high, 1) == RANS_OK, "one value at the top");
    rans_tables_free(&tables);
}

int main(int argc, char **argv)
{
    require(argc == 3, "two arguments, the seed and the number of rounds");
    random_state = strtoull(argv[1], NULL, 10);
    const long rounds = strtol(argv[2], NULL, 10);
    wrong_tables();
    for (long round = 0; round < rounds; round++) {
        const uint32_t tables = 1 + below(6);
        uint32_t bin_counts[6];
        int32_t first[6];
        uint32_t *frequencies = exactly(6 * 4096 * sizeof *frequencies), bins = 0;
        for (uint32_t t = 0; t < tables; t++) {
            bin_counts[t] = 1 + below(below(4) ? 30 : 4096);
            first[t] = below(8) ? (int32_t)below(2000) - 1000 : below(2) ? INT32_MIN : INT32_MAX - 4096;
            random_frequencies(frequencies + bins, bin_counts[t]);
            bins += bin_counts[t];
        }
        job j = {.count = below(8) ? below(3000) : below(6)};
        const rans_status made = rans_tables_make(&j.tables, frequencies, bins, bin_counts, first, tables);
        require(made == RANS_OK, "tables refused");
        j.indexes = exactly(j.count * sizeof *j.indexes);
        j.symbols = exactly(j.count * sizeof *j.symbols);
        j.offsets = exactly(j.count * sizeof *j.offsets);
        j.decoded = exactly(j.count * sizeof *j.decoded);
        const bool with_offsets = below(2);
        for (size_t i = 0; i < j.count; i++) {
            const uint32_t t = below(tables);
            int64_t value = (int64_t)first[t] + below(bin_counts[t]);
            if (!below(16))
                value = (int32_t)random_u32() >> below(31);
            j.indexes[i] = (uint16_t)t;
            j.offsets[i] = (int32_t)random_u32() >> (8 + below(24));
            if (with_offsets)
                value += j.offsets[i];
            if (value < INT32_MIN || value > INT32_MAX)
                value = 0, j.offsets[i] = 0;
            j.symbols[i] = (int32_t)value;
        }
        round_trip_and_damage(&j, (unsigned[]){0, 1, 2, 4}[below(4)], with_offsets);
        for (int i = 0; i < 12; i++)
            random_bytes(&j);
        free(frequencies);
        free(j.indexes);
        free(j.symbols);
        free(j.offsets);
        free(j.decoded);
        rans_tables_free(&j.tables);
    }
    printf("%ld rounds\n", rounds);
    return 0;
}
