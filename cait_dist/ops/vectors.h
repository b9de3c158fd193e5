/* Vectors as wide as the processor has them, and what is computed in them.
 *
 * BITS of a number in memory are given by the compiler's command line: 16 is bfloat16, 32 float, 64 double. A vector
 * holds floats, or doubles where numbers are.
 */

#ifndef VECTORS_H
#define VECTORS_H

#include <stdint.h>
#include <string.h>
#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif

#if BITS == 64
typedef double real;
typedef int64_t word;
#define MANTISSA 52
#define BIAS 1023
#define DEGREE 13
#else
typedef float real;
typedef int32_t word;
#define MANTISSA 23
#define BIAS 127
#define DEGREE (BITS == 16 ? 5 : 7) /* of a polynomial as precise as its results are kept */
#endif

typedef real vector __attribute__((vector_size(VECTOR_BYTES)));
typedef word bits __attribute__((vector_size(VECTOR_BYTES)));
enum { LANES = VECTOR_BYTES / sizeof(real) };

#if BITS == 16
typedef uint16_t number;
typedef uint32_t wide_bits __attribute__((vector_size(VECTOR_BYTES)));
typedef uint16_t narrow_bits __attribute__((vector_size(VECTOR_BYTES / 2)));
#else
typedef real number;
#endif

static inline vector get(const real *from) {
    vector v;
    memcpy(&v, from, sizeof v);
    return v;
}

static inline void put(real *to, vector v) { memcpy(to, &v, sizeof v); }

static inline vector filled(real with) { return (vector){0} + with; }

static inline vector chosen(bits where, vector a, vector b) { return (vector)(((bits)a & where) | ((bits)b & ~where)); }

/* b where they can't be compared. */
static inline vector larger(vector a, vector b) { return chosen(a > b, a, b); }

static inline real total(vector v) {
    real sum = 0;
    for (int i = 0; i < LANES; i++) sum += v[i];
    return sum;
}

static inline real largest(vector v) {
    real top = v[0];
    for (int i = 1; i < LANES; i++) top = v[i] > top ? v[i] : top;
    return top;
}

#if BITS == 16
static inline vector widen(const number *from) {
    narrow_bits half;
    memcpy(&half, from, sizeof half);
    return (vector)(__builtin_convertvector(half, wide_bits) << 16);
}

/* To the nearest, to even if there are two; what is not a number stays none. A processor that does it by itself makes a
 * denormal number zero. */
static inline void narrow(number *to, vector v) {
#if defined(__AVX512BF16__)
    __m256bh half = _mm512_cvtneps_pbh((__m512)v);
    memcpy(to, &half, sizeof half);
#else
    wide_bits all = (wide_bits)v, nan = (wide_bits)(v != v);
    wide_bits rounded = (all + 0x7fff + ((all >> 16) & 1)) >> 16;
    narrow_bits half = __builtin_convertvector((rounded & ~nan) | (0x7fc0 & nan), narrow_bits);
    memcpy(to, &half, sizeof half);
#endif
}
#else
static inline vector widen(const number *from) { return get(from); }
static inline void narrow(number *to, vector v) { put(to, v); }
#endif

static const real EXP2_TAYLOR[] = {
    1.0, 0.6931471805599453, 0.2402265069591007, 0.055504108664821576, 0.009618129107628477, 0.0013333558146428441,
    0.00015403530393381606, 1.5252733804059838e-05, 1.3215486790144305e-06, 1.0178086009239696e-07,
    7.054911620801121e-09, 4.44553827187081e-10, 2.5678435993488196e-11, 1.3691488853904124e-12,
};

/* 2 to the x, for x <= 0. What is below 2^-95 (double: 2^-767) is zero: in a softmax it has no share that counts, and
 * times a probability it would become a denormal number, with which arithmetic is a hundred times slower. So x ends there,
 * and that power, which no other number feels, is taken away from all. */
static inline vector exp2_of(vector x) {
    const real to_integer = (real)3 * ((word)1 << (MANTISSA - 1));
    const word last = -BIAS * 3 / 4;
    x = larger(filled(last), x);
    vector rounded = x + to_integer;
    vector rest = x - (rounded - to_integer);
    vector power = (vector)(((bits)rounded + BIAS) << MANTISSA), least = (vector)((bits){0} + ((last + BIAS) << MANTISSA));
    vector y = filled(EXP2_TAYLOR[DEGREE]);
    for (int k = DEGREE - 1; k >= 0; k--) y = y * rest + EXP2_TAYLOR[k];
    return y * power - least;
}

#endif
