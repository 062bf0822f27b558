/* Which latents may move at the same time, and what each of their moves costs. */

#include <stdlib.h>
#include <string.h>

#include "_overfit_fitting.h"

bool choose_apart(int h, int w, int apart, const int32_t (*places)[2], size_t count, uint8_t *chosen)
{
    uint8_t *taken = calloc((size_t)h * (size_t)w, 1);
    if (!taken)
        return false;
    for (size_t n = 0; n < count; n++) {
        const int y = places[n][0], x = places[n][1];
        chosen[n] = !taken[(size_t)y * (size_t)w + (size_t)x];
        if (!chosen[n])
            continue;
        const int top = y > apart ? y - apart : 0, bottom = y + apart < h ? y + apart : h - 1;
        const int left = x > apart ? x - apart : 0, right = x + apart < w ? x + apart : w - 1;
        for (int row = top; row <= bottom; row++)
            memset(taken + (size_t)row * (size_t)w + (size_t)left, 1, (size_t)(right - left + 1));
    }
    free(taken);
    return true;
}

/* Rows or columns, of which there are `size`. */
typedef struct {
    int begin, end;
} span;

/* Those of a grid `times` as dense that belong to what is up to `around` latents from `at`. */
static span span_around(int at, int around, int times, int size)
{
    const int begin = (at - around) * times, end = (at + around + 1) * times;
    return (span){begin < 0 ? 0 : begin, end > size ? size : end};
}

static double difference(const float *before, const float *after, size_t stride, span rows, span columns)
{
    double sum = 0;
    for (int y = rows.begin; y < rows.end; y++)
        for (int x = columns.begin; x < columns.end; x++)
            sum += after[(size_t)y * stride + (size_t)x] - before[(size_t)y * stride + (size_t)x];
    return sum;
}

static void take_over(float *before, const float *after, size_t stride, span rows, span columns)
{
    for (int y = rows.begin; y < rows.end; y++) {
        const size_t at = (size_t)y * stride + (size_t)columns.begin;
        memcpy(before + at, after + at, sizeof(float) * (size_t)(columns.end - columns.begin));
    }
}

/* Contexts reach three grids up. */
enum { UP = 3 };

void judge_moves(const geometry *g, int level, int around, const int32_t (*places)[2], size_t count, double weight,
                 costs before, costs after, double *changes)
{
    const int deepest = level - UP > g->finest ? level - UP : g->finest;
    for (size_t n = 0; n < count; n++) {
        span rows[LEVELS], columns[LEVELS]; /* of every grid */
        for (int l = 0; l <= level; l++) {
            rows[l] = span_around(places[n][0], around, 1 << (level - l), g->h[l]);
            columns[l] = span_around(places[n][1], around, 1 << (level - l), g->w[l]);
        }
        const size_t width = (size_t)g->w[0];
        double change = weight * difference(before.errors, after.errors, width, rows[0], columns[0]);
        for (int l = deepest; l <= level; l++)
            change += difference(before.lengths + g->origin[l], after.lengths + g->origin[l], g->stride[l], rows[l],
                                 columns[l]);
        changes[n] = change;
        if (change >= 0)
            continue;
        take_over(before.errors, after.errors, width, rows[0], columns[0]);
        for (int l = deepest; l <= level; l++)
            take_over(before.lengths + g->origin[l], after.lengths + g->origin[l], g->stride[l], rows[l], columns[l]);
    }
}
