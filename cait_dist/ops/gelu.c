/* The exact GELU, and its gradient in the same pass. x is read once, in numbers of BITS bits: 16 is bfloat16, 32 float.
 *
 * A bfloat16 is one of 65,536, so its GELU and the slope there are looked up: `table` has them for every one, GELU as
 * bfloat16 in the lower half of an entry, the slope in the upper half as a float of 16 bits, which is eight times as
 * precise. For floats they are computed from one exponential, with Q the tail of the normal distribution:
 *
 *     E = exp(-x^2 / 2)      Q(|x|) = E f(|x|)      GELU = x (1 - Q)      slope = 1 - Q + x E / sqrt(2 pi)
 *
 * where f, the scaled tail, falls slowly from 1/2 and is a polynomial in 1 / (1 + K |x|) but for a relative 5e-7.
 *
 * Threads are those of the OpenMP library that the process has loaded already, torch's.
 */

#include "vectors.h"

enum { PIECE = 1024 };

static long least(long a, long b) { return a < b ? a : b; }

#if BITS == 16

static inline float as_float(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* To the nearest, to even if there are two; what is not a number stays none. */
static inline number rounded(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return f != f ? 0x7fc0 : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

/* Exponents of 16-bit floats begin 112 later; infinity, which no slope is, and what is no number have the last one. */
static inline float slope(uint32_t entry) {
    uint32_t magnitude = (entry & 0x7fff0000) >> 3;
    return magnitude < 0x0f800000 ? as_float((entry & 0x80000000) | magnitude) * 0x1p112f : as_float(0x7fc00000);
}

void gelu(const number *x, const uint32_t *table, number *y, long count, int threads) {
    #pragma omp parallel for num_threads(threads) schedule(static)
    for (long begin = 0; begin < count; begin += PIECE) {
        long end = least(begin + PIECE, count);
        for (long i = begin; i < end; i++) y[i] = (number)table[x[i]];
    }
}

/* grad: by GELU -> by x; y: GELU. */
void gelu_and_gradient(const number *x, const uint32_t *table, number *grad, number *y, long count, int threads) {
    #pragma omp parallel for num_threads(threads) schedule(static)
    for (long begin = 0; begin < count; begin += PIECE) {
        long length = least(PIECE, count - begin);
        uint32_t found[PIECE];
        for (long i = 0; i < length; i++) found[i] = table[x[begin + i]];
        for (long i = 0; i < length; i++) {
            y[begin + i] = (number)found[i];
            grad[begin + i] = rounded(as_float((uint32_t)grad[begin + i] << 16) * slope(found[i]));
        }
    }
}

#else

#define K 0.3f
static const float TAIL[] = {
    1.109853306e-01f, 1.932755017e-01f, 1.255643415e-01f, 5.714784700e-02f, 1.478423988e-02f,
    -2.751149898e-04f, -1.472207269e-03f, -1.852932522e-04f, 1.384157485e-04f, 3.718004058e-05f,
};

/* A vector of the next numbers, or of as many as there are, and zeros. */
static inline vector get_some(const float *from, long count) {
    vector v = {0};
    if (count >= LANES) memcpy(&v, from, sizeof v);
    else memcpy(&v, from, count * sizeof *from);
    return v;
}

static inline void put_some(float *to, vector v, long count) {
    if (count >= LANES) memcpy(to, &v, sizeof v);
    else memcpy(to, &v, count * sizeof *to);
}

static inline vector polynomial(const float *coefficients, int degree, vector x) {
    vector y = filled(coefficients[degree]);
    for (int k = degree - 1; k >= 0; k--) y = y * x + coefficients[k];
    return y;
}

/* The share of the normal distribution below x, and E. */
static inline void distribution(vector x, vector *below, vector *e) {
    vector size = (vector)((bits)x & 0x7fffffff);
    *e = exp2_of(x * x * -0.7213475204444817f);
    vector tail = *e * polynomial(TAIL, 9, 2.0f / (1.0f + K * size) - 1.0f);
    *below = chosen(x < 0.0f, tail, 1.0f - tail);
}

static inline void gelu_of(const float *x, float *y, long count) {
    vector v = get_some(x, count), below, e;
    distribution(v, &below, &e);
    put_some(y, v * below, count);
}

static inline void gelu_and_gradient_of(const float *x, float *grad, float *y, long count) {
    vector v = get_some(x, count), below, e;
    distribution(v, &below, &e);
    put_some(y, v * below, count);
    put_some(grad, get_some(grad, count) * (below + v * e * 0.3989422804014327f), count);
}

void gelu(const number *x, const void *table, number *y, long count, int threads) {
    (void)table;
    #pragma omp parallel for num_threads(threads) schedule(static)
    for (long begin = 0; begin < count; begin += PIECE) {
        long i = begin, end = least(begin + PIECE, count);
        for (; i + LANES <= end; i += LANES) gelu_of(x + i, y + i, LANES);
        if (i < end) gelu_of(x + i, y + i, end - i);
    }
}

/* grad: by GELU -> by x; y: GELU. */
void gelu_and_gradient(const number *x, const void *table, number *grad, number *y, long count, int threads) {
    (void)table;
    #pragma omp parallel for num_threads(threads) schedule(static)
    for (long begin = 0; begin < count; begin += PIECE) {
        long i = begin, end = least(begin + PIECE, count);
        for (; i + LANES <= end; i += LANES) gelu_and_gradient_of(x + i, grad + i, y + i, LANES);
        if (i < end) gelu_and_gradient_of(x + i, grad + i, y + i, end - i);
    }
}

#endif
