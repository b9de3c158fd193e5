/* What lies between the matrix products of talking-heads attention, a row of one sample at a time, for all its heads.
 *
 * HEADS and BITS (of a number in a map: 16 is bfloat16, 32 float, 64 double) are given by the compiler's command line.
 * A map is (HEADS, rows, tokens), dense. A row is widened into `scratch`, HEADS lines of `width` numbers, which stay in
 * the caches nearest to the core; everything is computed there, in float at least, in vectors of the machine's width.
 * Lines are padded with zeros to a multiple of a vector.
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

static void load(const number *from, long stride, long tokens, long width, real *to) {
    long whole = tokens - tokens % LANES;
    for (int h = 0; h < HEADS; h++, from += stride, to += width) {
        for (long j = 0; j < whole; j += LANES) put(to + j, widen(from + j));
        if (whole < tokens) {
            number rest[LANES] = {0};
            memcpy(rest, from + whole, (tokens - whole) * sizeof *rest);
            put(to + whole, widen(rest));
        }
    }
}

static void store(const real *from, long width, long tokens, long stride, number *to) {
    long whole = tokens - tokens % LANES;
    for (int h = 0; h < HEADS; h++, from += width, to += stride) {
        for (long j = 0; j < whole; j += LANES) narrow(to + j, get(from + j));
        if (whole < tokens) {
            number rest[LANES];
            narrow(rest, get(from + whole));
            memcpy(to + whole, rest, (tokens - whole) * sizeof *rest);
        }
    }
}

/* out_g = sum over h of w[g][h] in_h, plus offset[g] if there is one; `in` and `out` may be the same lines. */
static inline void mix(const matrix w, const real *offset, const real *in, real *out, long width) {
    for (long j = 0; j < width; j += LANES) {
        vector x[HEADS];
        for (int h = 0; h < HEADS; h++) x[h] = get(in + h * width + j);
        for (int g = 0; g < HEADS; g++) {
            vector y = w[g][0] * x[0];
            for (int h = 1; h < HEADS; h++) y += w[g][h] * x[h];
            put(out + g * width + j, offset ? y + offset[g] : y);
        }
    }
}

/* Of logits to the base 2, in place; padding gets probability zero. */
static void softmax(real *x, long tokens, long width) {
    for (int h = 0; h < HEADS; h++, x += width) {
        for (long j = tokens; j < width; j++) x[j] = -INFINITY;
        vector tops = get(x), all = filled(0);
        for (long j = LANES; j < width; j += LANES) tops = chosen(get(x + j) > tops, get(x + j), tops);
        real top = tops[0];
        for (int i = 1; i < LANES; i++) top = tops[i] > top ? tops[i] : top;
        for (long j = 0; j < width; j += LANES) {
            vector y = exp2_of(get(x + j) - top);
            put(x + j, y);
            all += y;
        }
        real factor = 1 / total(all);
        for (long j = 0; j < width; j += LANES) put(x + j, get(x + j) * factor);
    }
}

/* dL = P (dP - rowsum(P dP)), in place of dP. */
static void softmax_backward(const real *p, real *d, long width) {
    for (int h = 0; h < HEADS; h++, p += width, d += width) {
        vector products = filled(0);
        for (long j = 0; j < width; j += LANES) products += get(p + j) * get(d + j);
        real share = total(products);
        for (long j = 0; j < width; j += LANES) put(d + j, get(p + j) * (get(d + j) - share));
    }
}

enum { TILE = HEADS % 4 == 0 ? 4 : HEADS % 3 == 0 ? 3 : HEADS % 2 == 0 ? 2 : 1 };

/* Adds the inner products of all pairs of lines, vector by vector; tiles, so that sums stay in registers. */
static void add_inner_products(const real *a, const real *b, long width, sums to) {
    for (int g = 0; g < HEADS; g += TILE) {
        for (int h = 0; h < HEADS; h += TILE) {
            vector tile[TILE][TILE] = {0};
            for (long j = 0; j < width; j += LANES) {
                for (int i = 0; i < TILE; i++) {
                    vector x = get(a + (g + i) * width + j);
                    for (int k = 0; k < TILE; k++) tile[i][k] += x * get(b + (h + k) * width + j);
                }
            }
            for (int i = 0; i < TILE; i++) {
                for (int k = 0; k < TILE; k++) to[g + i][h + k] += tile[i][k];
            }
        }
    }
}

static void add_totals(const real *a, long width, vector *to) {
    for (int h = 0; h < HEADS; h++, a += width) {
        vector line = filled(0);
        for (long j = 0; j < width; j += LANES) line += get(a + j);
        to[h] += line;
    }
}

static void scaled(const matrix w, real factor, int transposed, matrix to) {
    for (int g = 0; g < HEADS; g++) {
        for (int h = 0; h < HEADS; h++) to[g][h] = factor * (transposed ? w[h][g] : w[g][h]);
    }
}

static long padded(long tokens) { return (tokens + LANES - 1) / LANES * LANES; }

static const double LOG2_E = 1.4426950408889634;

/* maps: q k^T of some rows of a sample -> A. scratch: HEADS lines per thread. */
void forward_rows(
    number *maps, const matrix w_l, const matrix w_w, const real *b_w, real *scratch,
    long rows, long tokens, double scale, int threads)
{
    long width = padded(tokens), stride = rows * tokens;
    matrix to_logits;
    scaled(w_l, (real)(scale * LOG2_E), 0, to_logits);
    #pragma omp parallel num_threads(threads)
    {
        real *x = scratch + omp_get_thread_num() * HEADS * width;
        #pragma omp for schedule(static)
        for (long row = 0; row < rows; row++) {
            load(maps + row * tokens, stride, tokens, width, x);
            mix(to_logits, NULL, x, x, width);
            softmax(x, tokens, width);
            mix(w_w, b_w, x, x, width);
            store(x, width, tokens, stride, maps + row * tokens);
        }
    }
}

/* maps: q k^T of some rows of a sample -> A. grads: dA -> gradient of q k^T. sums_of_all: (threads, 2 HEADS + 1, HEADS), to
 * which each thread adds its part of dW_l, dW_w and db_w. scratch: 4 HEADS lines per thread. */
void backward_rows(
    number *maps, number *grads, const matrix w_l, const matrix w_w, const real *b_w, real *sums_of_all, real *scratch,
    long rows, long tokens, double scale, int threads)
{
    long width = padded(tokens), stride = rows * tokens;
    matrix to_logits, w_l_t, w_w_t;
    scaled(w_l, (real)(scale * LOG2_E), 0, to_logits);
    scaled(w_l, (real)scale, 1, w_l_t);
    scaled(w_w, 1, 1, w_w_t);
    #pragma omp parallel num_threads(threads)
    {
        real *s = scratch + omp_get_thread_num() * 4 * HEADS * width;
        real *p = s + HEADS * width, *da = p + HEADS * width, *dl = da + HEADS * width;
        sums dw_l = {0}, dw_w = {0};
        vector db_w[HEADS] = {0};
        #pragma omp for schedule(static)
        for (long row = 0; row < rows; row++) {
            load(maps + row * tokens, stride, tokens, width, s);
            load(grads + row * tokens, stride, tokens, width, da);
            mix(to_logits, NULL, s, p, width);
            softmax(p, tokens, width);
            add_inner_products(da, p, width, dw_w);
            add_totals(da, width, db_w);
            mix(w_w_t, NULL, da, dl, width);
            softmax_backward(p, dl, width);
            add_inner_products(dl, s, width, dw_l);
            mix(w_l_t, NULL, dl, da, width);
            store(da, width, tokens, stride, grads + row * tokens);
            mix(w_w, b_w, p, p, width);
            store(p, width, tokens, stride, maps + row * tokens);
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
