/* Sixteen at a time, and bytes by tables that lie in registers (VBMI). No processor that has VBMI slows down for wide
   vectors, as older ones do. GCC would take half of each register unless it is told. */

#if defined(__clang__)
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")))
#else
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,prefer-vector-width=512")))
#endif

TARGET static void avx512_from_half(const char *RESTRICT source, char *RESTRICT target, size_t count) {
    size_t i = 0;
    for (; count - i >= 16; i += 16) {
        __m256i x = _mm256_loadu_si256((const __m256i *)(const void *)(source + 2 * i));
        _mm512_storeu_ps(target + 4 * i, _mm512_cvtph_ps(x));
    }
    portable_from_half(source + 2 * i, target + 4 * i, count - i);
}

TARGET static void avx512_to_half(const char *RESTRICT source, char *RESTRICT target, size_t count) {
    size_t i = 0;
    for (; count - i >= 16; i += 16) {
        __m512 x = _mm512_loadu_ps(source + 4 * i);
        _mm256_storeu_si256((__m256i *)(void *)(target + 2 * i), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
    }
    portable_to_half(source + 4 * i, target + 2 * i, count - i);
}

/* Rounding to odd, as scalar.h has it, is to cut off and to set the last bit where that has lost something. */
TARGET INLINE __m256i avx512_round_to_odd(const char *source) {
    __m512d x = _mm512_loadu_pd(source);
    __m256 cut = _mm512_cvt_roundpd_ps(x, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
    __mmask8 lost = _mm512_cmp_pd_mask(_mm512_cvtps_pd(cut), x, _CMP_NEQ_UQ);
    __m256i bits = _mm256_castps_si256(cut);
    return _mm256_mask_or_epi32(bits, lost, bits, _mm256_set1_epi32(1));
}

TARGET INLINE __m512i avx512_sixteen_doubles(const char *source) {
    __m512i low = _mm512_castsi256_si512(avx512_round_to_odd(source));
    return _mm512_inserti64x4(low, avx512_round_to_odd(source + 64), 1);
}

TARGET static void avx512_from_double(const char *RESTRICT source, char *RESTRICT target, size_t count) {
    size_t i = 0;
    for (; count - i >= 8; i += 8)
        _mm256_storeu_si256((__m256i *)(void *)(target + 4 * i), avx512_round_to_odd(source + 8 * i));
    portable_from_double(source + 8 * i, target + 4 * i, count - i);
}

TARGET static void avx512_half_of_double(const char *RESTRICT source, char *RESTRICT target, size_t count) {
    size_t i = 0;
    for (; count - i >= 16; i += 16) {
        __m512 x = _mm512_castsi512_ps(avx512_sixteen_doubles(source + 8 * i));
        _mm256_storeu_si256((__m256i *)(void *)(target + 2 * i), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
    }
    few_doubles(source + 8 * i, target + 2 * i, count - i, portable_to_half);
}

/* To nearest and to even by a sum, as scalar.h has it. */
TARGET static void avx512_bfloat_of_double(const char *RESTRICT source, char *RESTRICT target, size_t count) {
    const __m512i below_half = _mm512_set1_epi32(0x7FFF), one = _mm512_set1_epi32(1);
    size_t i = 0;
    for (; count - i >= 16; i += 16) {
        __m512i x = avx512_sixteen_doubles(source + 8 * i);
        __m512i even = _mm512_and_si512(_mm512_srli_epi32(x, 16), one);
        __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(x, below_half), even), 16);
        __mmask16 is_nan = _mm512_fpclass_ps_mask(_mm512_castsi512_ps(x), 0x81);
        rounded = _mm512_mask_mov_epi32(rounded, is_nan, _mm512_set1_epi32(0xFFFF));
        _mm256_storeu_si256((__m256i *)(void *)(target + 2 * i), _mm512_cvtepi32_epi16(rounded));
    }
    few_doubles(source + 8 * i, target + 2 * i, count - i, portable_bfloat_of_float);
}

/* One byte of each result: two permutations know 128 entries each, and the highest bit chooses. */
TARGET INLINE __m512i avx512_look_up_byte(__m512i at, const __m512i *table) {
    __m512i low = _mm512_permutex2var_epi8(table[0], at, table[1]);
    __m512i high = _mm512_permutex2var_epi8(table[2], at, table[3]);
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(at), low, high);
}

/* The bytes of the results are woven together within each quarter of a register, so the source's are first put where
   each quarter will give neighbours. */
TARGET static void avx512_look_up(
    const char *RESTRICT source, char *RESTRICT target, size_t count, const char *table, size_t width
) {
    const __m512i pairs = _mm512_setr_epi32(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15);
    const __m512i fours = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m512i planes[16];
    size_t i = 0;
    for (size_t k = 0; k < 4 * width; k++) planes[k] = _mm512_loadu_si512(table + 64 * k);
    for (; width == 1 && count - i >= 64; i += 64)
        _mm512_storeu_si512(target + i, avx512_look_up_byte(_mm512_loadu_si512(source + i), planes));
    for (; width == 2 && count - i >= 64; i += 64) {
        __m512i at = _mm512_permutexvar_epi32(pairs, _mm512_loadu_si512(source + i));
        __m512i first = avx512_look_up_byte(at, planes), second = avx512_look_up_byte(at, planes + 4);
        _mm512_storeu_si512(target + 2 * i, _mm512_unpacklo_epi8(first, second));
        _mm512_storeu_si512(target + 2 * i + 64, _mm512_unpackhi_epi8(first, second));
    }
    for (; width == 4 && count - i >= 64; i += 64) {
        __m512i at = _mm512_permutexvar_epi32(fours, _mm512_loadu_si512(source + i));
        __m512i first = avx512_look_up_byte(at, planes), second = avx512_look_up_byte(at, planes + 4);
        __m512i third = avx512_look_up_byte(at, planes + 8), fourth = avx512_look_up_byte(at, planes + 12);
        __m512i low = _mm512_unpacklo_epi8(first, second), high = _mm512_unpacklo_epi8(third, fourth);
        _mm512_storeu_si512(target + 4 * i, _mm512_unpacklo_epi16(low, high));
        _mm512_storeu_si512(target + 4 * i + 64, _mm512_unpackhi_epi16(low, high));
        low = _mm512_unpackhi_epi8(first, second);
        high = _mm512_unpackhi_epi8(third, fourth);
        _mm512_storeu_si512(target + 4 * i + 128, _mm512_unpacklo_epi16(low, high));
        _mm512_storeu_si512(target + 4 * i + 192, _mm512_unpackhi_epi16(low, high));
    }
    for (; i < count; i++)
        for (size_t k = 0; k < width; k++) target[width * i + k] = table[256 * k + (unsigned char)source[i]];
}

TARGET static void avx512_stream(const char *RESTRICT source, char *RESTRICT target, size_t lines) {
    for (; lines; lines--, source += 64, target += 64)
        _mm512_stream_si512((__m512i *)(void *)target, _mm512_loadu_si512(source));
}

#define avx512_from_e4m3fn avx2_from_e4m3fn
#define avx512_from_e5m2 avx2_from_e5m2
#define VARIANT avx512
#define HAS_DOUBLE
#define HAS_HALF
#define HAS_BYTES
#define LOOK_UP avx512_look_up
#define LOOK_UP_WIDTH 4
#define IS_PLANAR 1
#define STREAM avx512_stream
#include "loops.h"
