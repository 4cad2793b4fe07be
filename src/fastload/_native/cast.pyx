"""Floats of one dtype to floats of another: runs of bytes in, runs of bytes out, the GIL released.

Everything goes through float32, a block at a time, within the nearest cache: it holds every value of the smaller
dtypes. What float64 loses on the way is kept as one sticky bit (rounding to odd), so that the second rounding, to
nearest and to even, is the only one that counts.

The loops are written for the compiler to make vectors of: no branch, no table, integers and exact sums. Elements are
loaded by `memcpy`, so neither side need be aligned.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer

cdef extern from *:
    """
    #include <fenv.h>
    #include <math.h>
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

    #define LOOP(decoration, name, from, to, result) \
        decoration static void name(const char *RESTRICT source, char *RESTRICT target, size_t count) { \
            for (size_t i = 0; i < count; i++) { \
                from x; \
                to y; \
                memcpy(&x, source + i * sizeof x, sizeof x); \
                y = (to)(result); \
                memcpy(target + i * sizeof y, &y, sizeof y); \
            } \
        }

    /* Once for any processor, once for those of the last ten years, which the loader of a module asks for. */
    #if defined(__GNUC__) && defined(__x86_64__)
    #include <immintrin.h>
    #define WIDE __attribute__((target("avx2,f16c")))
    #define KERNEL(name, from, to, result) \
        LOOP(, any_##name, from, to, result) LOOP(WIDE, wide_##name, from, to, result)
    #define CHOOSE(name) (is_wide ? wide_##name : any_##name)
    static int has_wide(void) {
        __builtin_cpu_init();
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c");
    }
    #else
    #define KERNEL(name, from, to, result) LOOP(, any_##name, from, to, result)
    #define CHOOSE(name) (is_wide ? any_##name : any_##name)
    static int has_wide(void) { return 0; }
    #endif

    KERNEL(from_double, double, float, x)
    KERNEL(from_double_to_odd, double, uint32_t, round_to_odd(x))
    KERNEL(from_bfloat, uint16_t, uint32_t, (uint32_t)x << 16)
    KERNEL(from_e4m3fn, uint8_t, uint32_t, widen_e4m3fn(x))
    KERNEL(from_e5m2, uint8_t, uint32_t, widen_half((uint32_t)x << 8))
    KERNEL(from_e4m3fnuz, uint8_t, uint32_t, widen_fnuz(x, 3, 8))
    KERNEL(from_e5m2fnuz, uint8_t, uint32_t, widen_fnuz(x, 2, 16))
    KERNEL(from_e8m0fnu, uint8_t, uint32_t, widen_e8m0fnu(x))

    KERNEL(to_double, float, double, x)
    KERNEL(to_bfloat, uint32_t, uint16_t, narrow_bfloat(x, 0x7FC0))
    KERNEL(to_bfloat_of_float, uint32_t, uint16_t, narrow_bfloat(x, 0xFFFF))
    KERNEL(to_e4m3fn, uint32_t, uint8_t, narrow_e4m3fn(x))
    KERNEL(to_e5m2, uint32_t, uint8_t, narrow_e5m2(x))
    KERNEL(to_e4m3fnuz, uint32_t, uint8_t, narrow_fnuz(x, 3, 8, 0x43800000))     /* 256 */
    KERNEL(to_e5m2fnuz, uint32_t, uint8_t, narrow_fnuz(x, 2, 16, 0x47800000))    /* 65536 */
    KERNEL(to_e8m0fnu, uint32_t, uint8_t, narrow_e8m0fnu(x))

    /* Both ways the processor has its own instruction for eight at a time, which agrees with the loops to the bit. */
    LOOP(, any_from_half, uint16_t, uint32_t, widen_half(x))
    LOOP(, any_to_half, uint32_t, uint16_t, narrow_half(x))
    #if defined(WIDE)
    WIDE static void wide_from_half(const char *RESTRICT source, char *RESTRICT target, size_t count) {
        size_t i = 0;
        for (; count - i >= 8; i += 8) {
            __m128i x = _mm_loadu_si128((const __m128i *)(source + 2 * i));
            _mm256_storeu_ps((float *)(void *)(target + 4 * i), _mm256_cvtph_ps(x));
        }
        any_from_half(source + 2 * i, target + 4 * i, count - i);
    }
    WIDE static void wide_to_half(const char *RESTRICT source, char *RESTRICT target, size_t count) {
        size_t i = 0;
        for (; count - i >= 8; i += 8) {
            __m256 x = _mm256_loadu_ps((const float *)(const void *)(source + 4 * i));
            _mm_storeu_si128((__m128i *)(target + 2 * i), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
        }
        any_to_half(source + 4 * i, target + 2 * i, count - i);
    }
    #endif

    typedef void (*Kernel)(const char *, char *, size_t);
    enum Float { DOUBLE, SINGLE, HALF, BFLOAT, E4M3FN, E5M2, E4M3FNUZ, E5M2FNUZ, E8M0FNU, FLOATS };
    static Kernel widen[2][FLOATS], narrow[2][FLOATS];     /* any processor, wide vectors; NULL for SINGLE itself */

    static void fill(int is_wide) {
        widen[is_wide][DOUBLE] = CHOOSE(from_double_to_odd);
        widen[is_wide][HALF] = CHOOSE(from_half);
        widen[is_wide][BFLOAT] = CHOOSE(from_bfloat);
        widen[is_wide][E4M3FN] = CHOOSE(from_e4m3fn);
        widen[is_wide][E5M2] = CHOOSE(from_e5m2);
        widen[is_wide][E4M3FNUZ] = CHOOSE(from_e4m3fnuz);
        widen[is_wide][E5M2FNUZ] = CHOOSE(from_e5m2fnuz);
        widen[is_wide][E8M0FNU] = CHOOSE(from_e8m0fnu);
        narrow[is_wide][DOUBLE] = CHOOSE(to_double);
        narrow[is_wide][HALF] = CHOOSE(to_half);
        narrow[is_wide][BFLOAT] = CHOOSE(to_bfloat);
        narrow[is_wide][E4M3FN] = CHOOSE(to_e4m3fn);
        narrow[is_wide][E5M2] = CHOOSE(to_e5m2);
        narrow[is_wide][E4M3FNUZ] = CHOOSE(to_e4m3fnuz);
        narrow[is_wide][E5M2FNUZ] = CHOOSE(to_e5m2fnuz);
        narrow[is_wide][E8M0FNU] = CHOOSE(to_e8m0fnu);
    }

    static const size_t widths[FLOATS] = {8, 4, 2, 2, 1, 1, 1, 1, 1};
    enum { BLOCK = 2048 };                                 /* elements: 8 KiB of the nearest cache */

    static void convert_run(const char *from, char *to, size_t count, int source, int target, int is_wide) {
        Kernel first = widen[is_wide][source], second = narrow[is_wide][target];
        uint32_t block[BLOCK];
        if (source == DOUBLE && target == SINGLE) first = CHOOSE(from_double);
        if (target == BFLOAT && (source == SINGLE || source == DOUBLE))
            second = CHOOSE(to_bfloat_of_float);
        if (target == SINGLE) { first(from, to, count); return; }
        if (source == SINGLE) { second(from, to, count); return; }
        while (count) {
            size_t run = count < BLOCK ? count : BLOCK;
            first(from, (char *)block, run);
            second((const char *)block, to, run);
            from += run * widths[source];
            to += run * widths[target];
            count -= run;
        }
    }

    /* A byte has 256 values: each is converted once. */
    static void look_up(const char *from, char *to, size_t count, int source, int target, int is_wide) {
        char bytes[256], table[256 * 8];
        for (int i = 0; i < 256; i++) bytes[i] = (char)i;
        convert_run(bytes, table, 256, source, target, is_wide);
        for (size_t i = 0; i < count; i++) {
            size_t at = (unsigned char)from[i];
            switch (widths[target]) {
                case 1: to[i] = table[at]; break;
                case 2: memcpy(to + 2 * i, table + 2 * at, 2); break;
                case 4: memcpy(to + 4 * i, table + 4 * at, 4); break;
                default: memcpy(to + 8 * i, table + 8 * at, 8);
            }
        }
    }

    /* In the environment that the rules of IEEE 754 ask for: a library may have told the processor to flush subnormal
       numbers, or to round elsewhere. What overflows raises no flag that NumPy would find. */
    static void convert_floats(const char *from, char *to, size_t count, int source, int target, int is_wide) {
        fenv_t held;
        fegetenv(&held);
        fesetenv(FE_DFL_ENV);
        if (widths[source] == 1 && count > 256) look_up(from, to, count, source, target, is_wide);
        else convert_run(from, to, count, source, target, is_wide);
        fesetenv(&held);
    }
    """
    cdef enum:
        FLOAT_COUNT "FLOATS"
    const size_t *widths
    bint has_wide() noexcept nogil
    void fill(int is_wide) noexcept nogil
    void convert_floats(
        const char *source, char *target, size_t count, int from_float, int to_float, int is_wide
    ) noexcept nogil

# In the order of the C enumeration.
FLOATS = (
    "float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz",
    "float8_e8m0fnu",
)
HAS_WIDE_KERNELS = has_wide()
cdef bint IS_WIDE = HAS_WIDE_KERNELS
fill(0)
if IS_WIDE:
    fill(1)


cdef void convert_elements(
    const char *source, char *target, size_t count, int from_float, int to_float
) noexcept nogil:
    """Convert *count* elements between two different positions in `FLOATS`, for callers that checked everything."""
    convert_floats(source, target, count, from_float, to_float, IS_WIDE)


def convert(data, int source, result, int target, bint portable=False):
    """Convert a run of floats, each correctly rounded once; the GIL is released.

    Parameters
    ----------
    data : buffer
        The elements, side by side, aligned or not.
    source, target : int
        Two different positions in `FLOATS`.
    result : buffer
        Where the converted elements go, as many; it does not overlap with *data*.
    portable : bool
        Whether to use the loops for any processor where there are better ones, so that both can be tested.
    """
    cdef Py_buffer read, written
    cdef bint is_wide = IS_WIDE and not portable
    cdef size_t count
    cdef char *start
    cdef char *place
    if not (0 <= source < FLOAT_COUNT and 0 <= target < FLOAT_COUNT and source != target):
        raise ValueError(f"{source} and {target} are not two floats")
    PyObject_GetBuffer(data, &read, PyBUF_SIMPLE)
    try:
        PyObject_GetBuffer(result, &written, PyBUF_SIMPLE | PyBUF_WRITABLE)
        try:
            count = <size_t>read.len // widths[source]
            if <size_t>read.len % widths[source] or <size_t>written.len % widths[target] or (
                <size_t>written.len // widths[target] != count
            ):
                raise ValueError(
                    f"{read.len:,} bytes of {FLOATS[source]} do not become {written.len:,} of {FLOATS[target]}"
                )
            start = <char *>read.buf
            place = <char *>written.buf
            if start < place + written.len and place < start + read.len:
                raise ValueError("the result overlaps with the data")
            with nogil:
                convert_floats(start, place, count, source, target, is_wide)
        finally:
            PyBuffer_Release(&written)
    finally:
        PyBuffer_Release(&read)
