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
#define HAS_HALF
#define HAS_BYTES
#define LOOK_UP look_up
#define LOOK_UP_WIDTH 1
#define IS_PLANAR 0
#define STREAM avx2_stream
#include "loops.h"
