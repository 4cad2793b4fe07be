/* Eight at a time, for the x86-64 processors of the last ten years. */

#define TARGET __attribute__((target("avx2,f16c")))

TARGET static void avx2_from_half(const char *RESTRICT source, char *RESTRICT target, size_t count) {
    size_t i = 0;
    for (; count - i >= 8; i += 8) {
        __m128i x = _mm_loadu_si128((const __m128i *)(const void *)(source + 2 * i));
        _mm256_storeu_ps((float *)(void *)(target + 4 * i), _mm256_cvtph_ps(x));
    }
    portable_from_half(source + 2 * i, target + 4 * i, count - i);
}

TARGET static void avx2_to_half(const char *RESTRICT source, char *RESTRICT target, size_t count) {
    size_t i = 0;
    for (; count - i >= 8; i += 8) {
        __m256 x = _mm256_loadu_ps((const float *)(const void *)(source + 4 * i));
        _mm_storeu_si128((__m128i *)(void *)(target + 2 * i), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
    }
    portable_to_half(source + 4 * i, target + 2 * i, count - i);
}

/* Rounding to odd, as scalar.h has it, is to cut off and to set the last bit where that has lost something. What is
   between BEGIN_CUTTING and END_CUTTING rounds towards zero; no load or store is moved out of there. */
#define BEGIN_CUTTING \
    unsigned held = _mm_getcsr(); \
    _mm_setcsr(held | _MM_ROUND_TOWARD_ZERO); \
    __asm__ volatile("" ::: "memory")
#define END_CUTTING \
    __asm__ volatile("" ::: "memory"); \
    _mm_setcsr(held)

/* Both halves of a double's mask are alike, and one of each is kept. Eight in the order 0 1 4 5 2 3 6 7. */
TARGET INLINE __m256i avx2_eight_doubles(const char *source) {
    __m256d x = _mm256_loadu_pd((const double *)(const void *)source);
    __m256d y = _mm256_loadu_pd((const double *)(const void *)(source + 32));
    __m128 low = _mm256_cvtpd_ps(x), high = _mm256_cvtpd_ps(y);
    __m256 lost_low = _mm256_castpd_ps(_mm256_cmp_pd(_mm256_cvtps_pd(low), x, _CMP_NEQ_UQ));
    __m256 lost_high = _mm256_castpd_ps(_mm256_cmp_pd(_mm256_cvtps_pd(high), y, _CMP_NEQ_UQ));
    __m256i lost = _mm256_castps_si256(_mm256_shuffle_ps(lost_low, lost_high, _MM_SHUFFLE(2, 0, 2, 0)));
    __m256i cut = _mm256_castps_si256(_mm256_set_m128(high, low));
    return _mm256_or_si256(_mm256_permute4x64_epi64(cut, _MM_SHUFFLE(3, 1, 2, 0)), _mm256_srli_epi32(lost, 31));
}

TARGET static void avx2_from_double(const char *RESTRICT source, char *RESTRICT target, size_t count) {
    size_t i = 0;
    BEGIN_CUTTING;
    for (; count - i >= 8; i += 8) {
        __m256i x = _mm256_permute4x64_epi64(avx2_eight_doubles(source + 8 * i), _MM_SHUFFLE(3, 1, 2, 0));
        _mm256_storeu_si256((__m256i *)(void *)(target + 4 * i), x);
    }
    END_CUTTING;
    portable_from_double(source + 8 * i, target + 4 * i, count - i);
}

TARGET static void avx2_half_of_double(const char *RESTRICT source, char *RESTRICT target, size_t count) {
    size_t i = 0;
    BEGIN_CUTTING;
    for (; count - i >= 8; i += 8) {
        __m256 x = _mm256_castsi256_ps(avx2_eight_doubles(source + 8 * i));
        __m128i y = _mm_shuffle_epi32(_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT), _MM_SHUFFLE(3, 1, 2, 0));
        _mm_storeu_si128((__m128i *)(void *)(target + 2 * i), y);
    }
    END_CUTTING;
    few_doubles(source + 8 * i, target + 2 * i, count - i, portable_to_half);
}

/* To nearest and to even by a sum, as scalar.h has it. */
TARGET static void avx2_bfloat_of_double(const char *RESTRICT source, char *RESTRICT target, size_t count) {
    const __m256i below_half = _mm256_set1_epi32(0x7FFF), one = _mm256_set1_epi32(1), nan = _mm256_set1_epi32(0xFFFF);
    size_t i = 0;
    BEGIN_CUTTING;
    for (; count - i >= 8; i += 8) {
        __m256i x = avx2_eight_doubles(source + 8 * i), even = _mm256_and_si256(_mm256_srli_epi32(x, 16), one);
        __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(x, below_half), even), 16);
        __m256 is_nan = _mm256_cmp_ps(_mm256_castsi256_ps(x), _mm256_castsi256_ps(x), _CMP_UNORD_Q);
        rounded = _mm256_or_si256(rounded, _mm256_and_si256(_mm256_castps_si256(is_nan), nan));
        rounded = _mm256_packus_epi32(rounded, rounded);
        __m128i pairs = _mm_unpacklo_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
        _mm_storeu_si128((__m128i *)(void *)(target + 2 * i), pairs);
    }
    END_CUTTING;
    few_doubles(source + 8 * i, target + 2 * i, count - i, portable_bfloat_of_float);
}

/* A float8_e5m2 is the first half of a float16. A float8_e4m3fn has one bit of exponent less and one of mantissa more:
   a bit further down it is a float16 too, 256 times too small. */

TARGET static void avx2_from_e5m2(const char *RESTRICT source, char *RESTRICT target, size_t count) {
    size_t i = 0;
    for (; count - i >= 8; i += 8) {
        __m128i x = _mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)(const void *)(source + i)));
        _mm256_storeu_ps((float *)(void *)(target + 4 * i), _mm256_cvtph_ps(_mm_slli_epi16(x, 8)));
    }
    portable_from_e5m2(source + i, target + 4 * i, count - i);
}

TARGET static void avx2_from_e4m3fn(const char *RESTRICT source, char *RESTRICT target, size_t count) {
    size_t i = 0;
    for (; count - i >= 8; i += 8) {
        __m128i x = _mm_cvtepi8_epi16(_mm_loadl_epi64((const __m128i *)(const void *)(source + i)));
        __m128i half = _mm_and_si128(_mm_slli_epi16(x, 7), _mm_set1_epi16((short)0xBF80));
        __m256 y = _mm256_mul_ps(_mm256_cvtph_ps(half), _mm256_set1_ps(256));
        __m256 magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), y);
        __m256 is_nan = _mm256_cmp_ps(magnitude, _mm256_set1_ps(480), _CMP_EQ_OQ);
        __m256 nan = _mm256_castsi256_ps(_mm256_set1_epi32(0x7FF00000));
        _mm256_storeu_ps((float *)(void *)(target + 4 * i), _mm256_or_ps(y, _mm256_and_ps(is_nan, nan)));
    }
    portable_from_e4m3fn(source + i, target + 4 * i, count - i);
}

TARGET static void avx2_stream(const char *RESTRICT source, char *RESTRICT target, size_t lines) {
    for (; lines; lines--, source += 64, target += 64) {
        __m256i low = _mm256_loadu_si256((const __m256i *)(const void *)source);
        __m256i high = _mm256_loadu_si256((const __m256i *)(const void *)(source + 32));
        _mm256_stream_si256((__m256i *)(void *)target, low);
        _mm256_stream_si256((__m256i *)(void *)(target + 32), high);
    }
}

#define VARIANT avx2
#define HAS_DOUBLE
#define HAS_HALF
#define HAS_BYTES
#define LOOK_UP look_up
#define LOOK_UP_WIDTH 1
#define IS_PLANAR 0
#define STREAM avx2_stream
#include "loops.h"
