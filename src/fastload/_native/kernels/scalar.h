/* One element of a float's dtype to another, in plain C: what every variant does, and the oracle of their tests.

   All goes by the bits of a float32, which holds every value of the smaller dtypes. What a float64 loses on the way is
   kept as one sticky bit (rounding to odd), so that the second rounding, to nearest and to even, is the only one that
   counts. Written for compilers to make vectors of: no branch, no table, integers and exact sums. */

#ifndef FASTLOAD_SCALAR_H
#define FASTLOAD_SCALAR_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif
#if defined(_MSC_VER)
#define RESTRICT __restrict
#else
#define RESTRICT restrict
#endif

INLINE float float_of(uint32_t bits) { float value; memcpy(&value, &bits, 4); return value; }
INLINE uint32_t bits_of(float value) { uint32_t bits; memcpy(&bits, &value, 4); return bits; }
/* Not ?:, of which compilers make a branch where a side of it is worth skipping, and then no vectors. */
INLINE uint32_t pick(int condition, uint32_t yes, uint32_t no) {
    uint32_t mask = 0u - (uint32_t)(condition != 0);
    return (yes & mask) | (no & ~mask);
}

/* Widening: to the bits of a float32, all exact. A signalling NaN becomes a quiet one, as processors do it. */

INLINE uint32_t widen_half(uint32_t half) {
    uint32_t sign = (half & 0x8000) << 16, rest = half & 0x7FFF, shifted = rest << 13;
    uint32_t small = bits_of(float_of((113u << 23) | shifted) - float_of(113u << 23));
    uint32_t special = shifted | (255u << 23) | (rest > 0x7C00 ? 1u << 22 : 0);
    return sign | pick(rest < 0x0400, small, pick(rest < 0x7C00, shifted + (112u << 23), special));
}

/* One byte of a float8 with so many bits of mantissa; NaN, infinities and zero are for the caller to know. */
INLINE uint32_t widen_byte(uint32_t byte, int mantissa, int bias) {
    uint32_t sign = (byte & 0x80) << 24, rest = byte & 0x7F;
    float unit = float_of((uint32_t)(128 - bias - mantissa) << 23);        /* of the subnormal numbers */
    uint32_t small = bits_of((float)rest * unit);
    uint32_t normal = (rest << (23 - mantissa)) + ((uint32_t)(127 - bias) << 23);
    return sign | (rest >> mantissa == 0 ? small : normal);
}
INLINE uint32_t widen_e4m3fn(uint32_t byte) {
    return (byte & 0x7F) == 0x7F ? (byte & 0x80) << 24 | 0x7FF00000 : widen_byte(byte, 3, 7);
}
INLINE uint32_t widen_fnuz(uint32_t byte, int mantissa, int bias) {
    return byte == 0x80 ? 0x7F800001 : widen_byte(byte, mantissa, bias);
}
INLINE uint32_t widen_e8m0fnu(uint32_t byte) {
    return byte == 0xFF ? 0x7F800001 : byte == 0 ? 0x00400000 : byte << 23;
}

/* Narrowing: from the bits of a float32, to nearest and to even. */

/* A magnitude that is neither NaN nor much too large. The sum rounds what will be subnormal: its last bit is worth
   the smallest number of the target. */
INLINE uint32_t round_magnitude(uint32_t magnitude, int mantissa, int bias) {
    int dropped = 23 - mantissa;
    uint32_t rebias = (uint32_t)(127 - bias) << 23;
    uint32_t unit = (uint32_t)(151 - bias - mantissa) << 23;
    uint32_t small = bits_of(float_of(magnitude) + float_of(unit)) - unit;
    uint32_t even = magnitude >> dropped & 1;
    uint32_t normal = (magnitude - rebias + ((1u << (dropped - 1)) - 1) + even) >> dropped;
    return pick(magnitude < rebias + (1u << 23), small, normal);
}
INLINE uint32_t narrow_half(uint32_t bits) {
    uint32_t magnitude = bits & 0x7FFFFFFF, rounded = round_magnitude(magnitude, 10, 15);
    uint32_t nan = 0x7E00 | (magnitude >> 13 & 0x3FF);
    rounded = pick(magnitude >= 0x47800000, 0x7C00, rounded);                         /* 65536 */
    return (bits >> 16 & 0x8000) | pick(magnitude > 0x7F800000, nan, rounded);
}
INLINE uint32_t narrow_bfloat(uint32_t bits, uint32_t nan) {
    return pick((bits & 0x7FFFFFFF) > 0x7F800000, nan, (bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}
INLINE uint32_t narrow_e4m3fn(uint32_t bits) {
    uint32_t magnitude = bits & 0x7FFFFFFF, rounded = round_magnitude(magnitude, 3, 7);
    rounded = pick(magnitude >= 0x43E00000, 0x7E, rounded);                           /* 448, the largest */
    return (bits >> 24 & 0x80) | pick(magnitude > 0x7F800000, 0x7F, rounded);
}
INLINE uint32_t narrow_e5m2(uint32_t bits) {
    uint32_t magnitude = bits & 0x7FFFFFFF, rounded = round_magnitude(magnitude, 2, 15);
    rounded = pick(magnitude >= 0x47800000, 0x7C, rounded);                           /* 65536 */
    return (bits >> 24 & 0x80) | pick(magnitude > 0x7F800000, 0x7F, rounded);
}
/* Their only NaN is where -0 would be; past the largest number the sum arrives there by itself. */
INLINE uint32_t narrow_fnuz(uint32_t bits, int mantissa, int bias, uint32_t limit) {
    uint32_t magnitude = bits & 0x7FFFFFFF, rounded = round_magnitude(magnitude, mantissa, bias);
    uint32_t sign = pick(rounded == 0, 0, bits >> 24 & 0x80);
    return pick(magnitude >= limit, 0x80, sign | rounded);
}
/* A power of two alone: no sign, no zero. What lies halfway goes up, as in torch. */
INLINE uint32_t narrow_e8m0fnu(uint32_t bits) {
    uint32_t exponent = bits >> 23 & 0xFF, rest = bits & 0x7FFFFF;
    uint32_t up = rest + (exponent != 0) > 0x400000;
    return pick(exponent == 0xFF, 0xFF, exponent + up);
}

/* The same magnitude in 24 bits; where bits are lost, the last one kept says so. */
INLINE uint32_t round_to_odd(double value) {
    float nearest = (float)value;
    double back = (double)nearest;
    uint32_t away = fabs(back) > fabs(value), lost = back != value;
    return (bits_of(nearest) - away) | lost;
}

#endif
