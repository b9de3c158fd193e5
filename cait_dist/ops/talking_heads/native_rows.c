/* What lies between the matrix products of talking-heads attention, a row of one sample at a time, for all its heads.
 *
 * HEADS and BITS (of a number in a map: 16 is bfloat16, 32 float, 64 double) are given by the compiler's command line.
 * Maps are (samples, HEADS, rows, tokens), dense. What of a row is needed more than once is kept in `scratch`, in lines of
 * `width` numbers, one per head, which stay in the caches nearest to the core; everything is computed in float at least,
 * in vectors of the machine's width. Lines are padded with zeros to a multiple of a vector.
 *
 * Probabilities P are never written: E is, their numerators, and what divides a line of them goes into the weights that
 * mix them. For one row, with the gradient dA of the mixed map A = W_w P + b_w:
 *
 *     dW_w = dA P^T        dL = P (W_w^T dA - share)        share_h = sum over g of W_w[g][h] dW_w[g][h]
 *
 * Threads are those of the OpenMP library that the process has loaded already, torch's; each has lines of its own.
 */

#include "vectors.h"

#include <math.h>

typedef real matrix[HEADS][HEADS];
typedef vector sums[HEADS][HEADS];

#if defined(_OPENMP)
extern int omp_get_thread_num(void);
#else
static int omp_get_thread_num(void) { return 0; }
#endif

/* The next numbers of a line, or as many as there are, and zeros. */
static inline vector widen_some(const number *from, long count) {
    if (count >= LANES) return widen(from);
    number rest[LANES] = {0};
    memcpy(rest, from, count * sizeof *rest);
    return widen(rest);
}

static inline void narrow_some(number *to, vector v, long count) {
    if (count >= LANES) {
        narrow(to, v);
        return;
    }
    number rest[LANES];
    narrow(rest, v);
    memcpy(to, rest, count * sizeof *rest);
}

/* Sum over h of w[h] x[h]. */
static inline vector mixed(const real *w, const vector *x) {
    vector y = w[0] * x[0];
    for (int h = 1; h < HEADS; h++) y += w[h] * x[h];
    return y;
}

/* A vector of each line. */
static inline void read_logits_at(
    const number *from, long stride, const matrix w, real *x, real *logits, long width, long count)
{
    vector in[HEADS];
    for (int h = 0; h < HEADS; h++) in[h] = widen_some(from + h * stride, count);
    for (int h = 0; x && h < HEADS; h++) put(x + h * width, in[h]);
    for (int g = 0; g < HEADS; g++) put(logits + g * width, mixed(w[g], in));
}

/* x: lines of q k^T, widened, if they are wanted; logits_g = sum over h of w[g][h] x_h. */
static inline void read_logits(
    const number *from, long stride, const matrix w, real *x, real *logits, long tokens, long width)
{
    long j = 0;
    for (; j + LANES <= tokens; j += LANES) {
        read_logits_at(from + j, stride, w, x ? x + j : NULL, logits + j, width, LANES);
    }
    if (j < tokens) read_logits_at(from + j, stride, w, x ? x + j : NULL, logits + j, width, tokens - j);
}

/* x: lines of gradients, widened, whose totals are added to those of rows before. */
static void read_gradients(const number *from, long stride, real *x, vector *totals, long tokens, long width) {
    for (int h = 0; h < HEADS; h++, from += stride, x += width) {
        vector all = filled(0);
        for (long j = 0; j < width; j += LANES) {
            vector in = widen_some(from + j, tokens - j);
            put(x + j, in);
            all += in;
        }
        totals[h] += all;
    }
}

/* A vector of each line. */
static inline void write_mixed_at(
    const real *x, const matrix w, const real *offset, number *to, long stride, long width, long count)
{
    vector in[HEADS];
    for (int h = 0; h < HEADS; h++) in[h] = get(x + h * width);
    for (int g = 0; g < HEADS; g++) {
        vector y = mixed(w[g], in);
        narrow_some(to + g * stride, offset ? y + offset[g] : y, count);
    }
}

/* out_g = sum over h of w[g][h] x_h, plus offset[g] if there is one, narrowed. */
static inline void write_mixed(
    const real *x, const matrix w, const real *offset, number *to, long stride, long tokens, long width)
{
    long j = 0;
    for (; j + LANES <= tokens; j += LANES) write_mixed_at(x + j, w, offset, to + j, stride, width, LANES);
    if (j < tokens) write_mixed_at(x + j, w, offset, to + j, stride, width, tokens - j);
}

enum { TILE = HEADS % 4 == 0 ? 4 : HEADS % 3 == 0 ? 3 : HEADS % 2 == 0 ? 2 : 1 };

/* Of logits to the base 2, in place, but for a factor to each line; padding becomes zero. Some lines at a time, as each
 * has to wait for its largest number, and for its sum. */
static void softmax(real *x, real *factors, long tokens, long width) {
    for (int h = 0; h < HEADS; h += TILE, x += TILE * width) {
        vector tops[TILE], all[TILE] = {0};
        for (int i = 0; i < TILE; i++) {
            for (long j = tokens; j < width; j++) x[i * width + j] = -INFINITY;
            tops[i] = get(x + i * width);
        }
        for (long j = LANES; j < width; j += LANES) {
            for (int i = 0; i < TILE; i++) tops[i] = larger(get(x + i * width + j), tops[i]);
        }
        for (int i = 0; i < TILE; i++) tops[i] = filled(largest(tops[i]));
        for (long j = 0; j < width; j += LANES) {
            for (int i = 0; i < TILE; i++) {
                vector y = exp2_of(get(x + i * width + j) - tops[i]);
                put(x + i * width + j, y);
                all[i] += y;
            }
        }
        for (int i = 0; i < TILE; i++) factors[h + i] = 1 / total(all[i]);
    }
}

/* Gradient of logits: dl_h = e_h (sum over g of w[h][g] da_g - shares[h]). */
static void softmax_backward(
    const real *e, const real *da, const matrix w, const real *shares, real *dl, long width)
{
    for (long j = 0; j < width; j += LANES) {
        vector in[HEADS];
        for (int g = 0; g < HEADS; g++) in[g] = get(da + g * width + j);
        for (int h = 0; h < HEADS; h++) {
            put(dl + h * width + j, get(e + h * width + j) * (mixed(w[h], in) - shares[h]));
        }
    }
}

/* Adds the inner products of all pairs of lines, vector by vector; by tiles, so that sums stay in registers. */
static void add_inner_products(const real *a, const real *b, long width, sums to) {
    for (int g = 0; g < HEADS; g += TILE) {
        for (int h = 0; h < HEADS; h += TILE) {
            vector tile[TILE][TILE] = {0};
            for (long j = 0; j < width; j += LANES) {
                vector x[TILE], y[TILE];
                for (int i = 0; i < TILE; i++) x[i] = get(a + (g + i) * width + j);
                for (int i = 0; i < TILE; i++) y[i] = get(b + (h + i) * width + j);
                for (int i = 0; i < TILE; i++) {
                    for (int k = 0; k < TILE; k++) tile[i][k] += x[i] * y[k];
                }
            }
            for (int i = 0; i < TILE; i++) {
                for (int k = 0; k < TILE; k++) to[g + i][h + k] += tile[i][k];
            }
        }
    }
}

static void scaled(const matrix w, real factor, int transposed, matrix to) {
    for (int g = 0; g < HEADS; g++) {
        for (int h = 0; h < HEADS; h++) to[g][h] = factor * (transposed ? w[h][g] : w[g][h]);
    }
}

static void columns_scaled(const matrix w, const real *factors, matrix to) {
    for (int g = 0; g < HEADS; g++) {
        for (int h = 0; h < HEADS; h++) to[g][h] = w[g][h] * factors[h];
    }
}

/* Adds a row's gradient of W_w, and finds what each head's gradient of logits has too much of, as probabilities add up
 * to one: the sum of gradients, each times its probability. Computed like a gradient itself, so that where one has
 * probability one, nothing is left of it. */
static void add_and_share(const sums of_row, const real *factors, const matrix to_dp, sums dw_w, real *shares) {
    for (int h = 0; h < HEADS; h++) {
        vector column[HEADS];
        for (int g = 0; g < HEADS; g++) dw_w[g][h] += factors[h] * (column[g] = of_row[g][h]);
        shares[h] = factors[h] * total(mixed(to_dp[h], column));
    }
}

static long padded(long tokens) { return (tokens + LANES - 1) / LANES * LANES; }

static const double LOG2_E = 1.4426950408889634;

/* maps: q k^T of some rows of some samples -> A. scratch: HEADS lines per thread. */
void forward_rows(
    number *maps, const matrix w_l, const matrix w_w, const real *b_w, real *scratch,
    long samples, long rows, long tokens, double scale, int threads)
{
    long width = padded(tokens), stride = rows * tokens;
    matrix to_logits;
    scaled(w_l, (real)(scale * LOG2_E), 0, to_logits);
    #pragma omp parallel num_threads(threads)
    {
        real *e = scratch + omp_get_thread_num() * HEADS * width;
        real factors[HEADS];
        matrix to_a;
        #pragma omp for schedule(static)
        for (long row = 0; row < samples * rows; row++) {
            number *map = maps + row / rows * HEADS * stride + row % rows * tokens;
            read_logits(map, stride, to_logits, NULL, e, tokens, width);
            softmax(e, factors, tokens, width);
            columns_scaled(w_w, factors, to_a);
            write_mixed(e, to_a, b_w, map, stride, tokens, width);
        }
    }
}

/* maps: q k^T of some rows of some samples -> A. grads: dA -> gradient of q k^T. sums_of_all: (threads, 2 HEADS + 1,
 * HEADS), to which each thread adds its part of dW_l, dW_w and db_w. scratch: 4 HEADS lines per thread. */
void backward_rows(
    number *maps, number *grads, const matrix w_l, const matrix w_w, const real *b_w, real *sums_of_all, real *scratch,
    long samples, long rows, long tokens, double scale, int threads)
{
    long width = padded(tokens), stride = rows * tokens;
    matrix to_logits, to_s;
    scaled(w_l, (real)(scale * LOG2_E), 0, to_logits);
    scaled(w_l, (real)scale, 1, to_s);
    #pragma omp parallel num_threads(threads)
    {
        real *s = scratch + omp_get_thread_num() * 4 * HEADS * width;
        real *e = s + HEADS * width, *da = e + HEADS * width, *dl = da + HEADS * width;
        sums of_row, dw_l = {0}, dw_w = {0};
        vector db_w[HEADS] = {0};
        real factors[HEADS], shares[HEADS];
        matrix to_a, to_dp;
        #pragma omp for schedule(static)
        for (long row = 0; row < samples * rows; row++) {
            long at = row / rows * HEADS * stride + row % rows * tokens;
            read_logits(maps + at, stride, to_logits, s, e, tokens, width);
            softmax(e, factors, tokens, width);
            read_gradients(grads + at, stride, da, db_w, tokens, width);
            memset(of_row, 0, sizeof of_row);
            add_inner_products(da, e, width, of_row);
            columns_scaled(w_w, factors, to_a);
            scaled(to_a, 1, 1, to_dp);
            add_and_share(of_row, factors, to_dp, dw_w, shares);
            softmax_backward(e, da, to_dp, shares, dl, width);
            add_inner_products(dl, s, width, dw_l);
            write_mixed(dl, to_s, NULL, grads + at, stride, tokens, width);
            write_mixed(e, to_a, b_w, maps + at, stride, tokens, width);
        }
        real *mine = sums_of_all + omp_get_thread_num() * (2 * HEADS + 1) * HEADS;
        for (int g = 0; g < HEADS; g++) {
            for (int h = 0; h < HEADS; h++) {
                mine[g * HEADS + h] += (real)scale * total(dw_l[g][h]);
                mine[(HEADS + g) * HEADS + h] += total(dw_w[g][h]);
            }
            mine[2 * HEADS * HEADS + g] += total(db_w[g]);
        }
    }
}
