/* The loops of one variant: included once for each, with
     VARIANT            its name
     TARGET             the attribute by which the compiler may use its instructions
     HAS_DOUBLE         defined if it brings its own VARIANT_from_double, VARIANT_half_of_double, VARIANT_bfloat_of_double
     HAS_HALF           defined if it brings its own VARIANT_from_half and VARIANT_to_half
     HAS_BYTES          defined if it brings its own VARIANT_from_e4m3fn and VARIANT_from_e5m2
     LOOK_UP            its function that looks bytes up in a table
     LOOK_UP_WIDTH      up to this many bytes of the result that is faster than reckoning
     IS_PLANAR          whether its tables hold the first bytes of all results, then the second bytes, and so on
     STREAM             its function that stores past the caches, or NULL
   Elements are loaded and stored by memcpy, so neither side need be aligned. */

#define JOIN_NAMES(variant, name) variant##_##name
#define JOIN(variant, name) JOIN_NAMES(variant, name)
#define TEXT_OF(name) #name
#define TEXT(name) TEXT_OF(name)
#define LOOP(name, from, to, result) \
    TARGET static void JOIN(VARIANT, name)(const char *RESTRICT source, char *RESTRICT target, size_t count) { \
        for (size_t i = 0; i < count; i++) { \
            from x; \
            to y; \
            memcpy(&x, source + i * sizeof x, sizeof x); \
            y = (to)(result); \
            memcpy(target + i * sizeof y, &y, sizeof y); \
        } \
    }

LOOP(from_bfloat, uint16_t, uint32_t, (uint32_t)x << 16)
LOOP(from_e4m3fnuz, uint8_t, uint32_t, widen_fnuz(x, 3, 8))
LOOP(from_e5m2fnuz, uint8_t, uint32_t, widen_fnuz(x, 2, 16))
LOOP(from_e8m0fnu, uint8_t, uint32_t, widen_e8m0fnu(x))

LOOP(to_double, float, double, x)
LOOP(to_bfloat, uint32_t, uint16_t, narrow_bfloat(x, 0x7FC0))
LOOP(to_e4m3fn, uint32_t, uint8_t, narrow_e4m3fn(x))
LOOP(to_e5m2, uint32_t, uint8_t, narrow_e5m2(x))
LOOP(to_e4m3fnuz, uint32_t, uint8_t, narrow_fnuz(x, 3, 8, 0x43800000))     /* 256 */
LOOP(to_e5m2fnuz, uint32_t, uint8_t, narrow_fnuz(x, 2, 16, 0x47800000))    /* 65536 */
LOOP(to_e8m0fnu, uint32_t, uint8_t, narrow_e8m0fnu(x))

LOOP(float_of_double, double, float, x)
LOOP(bfloat_of_float, uint32_t, uint16_t, narrow_bfloat(x, 0xFFFF))
#if !defined(HAS_DOUBLE)
LOOP(from_double, double, uint32_t, round_to_odd(x))
#endif
#if !defined(HAS_HALF)
LOOP(from_half, uint16_t, uint32_t, widen_half(x))
LOOP(to_half, uint32_t, uint16_t, narrow_half(x))
#endif

#if !defined(HAS_BYTES)
LOOP(from_e4m3fn, uint8_t, uint32_t, widen_e4m3fn(x))
LOOP(from_e5m2, uint8_t, uint32_t, widen_half((uint32_t)x << 8))
#endif

static const Kernels VARIANT = {
    TEXT(VARIANT),
    {JOIN(VARIANT, from_double), NULL, JOIN(VARIANT, from_half), JOIN(VARIANT, from_bfloat),
     JOIN(VARIANT, from_e4m3fn), JOIN(VARIANT, from_e5m2), JOIN(VARIANT, from_e4m3fnuz), JOIN(VARIANT, from_e5m2fnuz),
     JOIN(VARIANT, from_e8m0fnu)},
    {JOIN(VARIANT, to_double), NULL, JOIN(VARIANT, to_half), JOIN(VARIANT, to_bfloat),
     JOIN(VARIANT, to_e4m3fn), JOIN(VARIANT, to_e5m2), JOIN(VARIANT, to_e4m3fnuz), JOIN(VARIANT, to_e5m2fnuz),
     JOIN(VARIANT, to_e8m0fnu)},
    JOIN(VARIANT, float_of_double),
    JOIN(VARIANT, bfloat_of_float),
#if defined(HAS_DOUBLE)
    JOIN(VARIANT, half_of_double),
    JOIN(VARIANT, bfloat_of_double),
#else
    NULL,
    NULL,
#endif
    LOOK_UP,
    LOOK_UP_WIDTH,
    IS_PLANAR,
    STREAM,
};

#undef LOOP
#undef TEXT
#undef TEXT_OF
#undef JOIN
#undef JOIN_NAMES
#undef VARIANT
#undef TARGET
#undef HAS_DOUBLE
#undef HAS_HALF
#undef HAS_BYTES
#undef LOOK_UP
#undef LOOK_UP_WIDTH
#undef IS_PLANAR
#undef STREAM
