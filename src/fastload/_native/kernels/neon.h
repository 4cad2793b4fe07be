/* For 64-bit ARM, all of which have NEON: compilers make vectors of the plain loops too, and float16 has instructions
   of its own. */

#define TARGET

static void neon_from_half(const char *RESTRICT source, char *RESTRICT target, size_t count) {
    size_t i = 0;
    for (; count - i >= 4; i += 4) {
        uint16x4_t x;
        float32x4_t y;
        memcpy(&x, source + 2 * i, sizeof x);
        y = vcvt_f32_f16(vreinterpret_f16_u16(x));
        memcpy(target + 4 * i, &y, sizeof y);
    }
    portable_from_half(source + 2 * i, target + 4 * i, count - i);
}

static void neon_to_half(const char *RESTRICT source, char *RESTRICT target, size_t count) {
    size_t i = 0;
    for (; count - i >= 4; i += 4) {
        float32x4_t x;
        uint16x4_t y;
        memcpy(&x, source + 4 * i, sizeof x);
        y = vreinterpret_u16_f16(vcvt_f16_f32(x));
        memcpy(target + 2 * i, &y, sizeof y);
    }
    portable_to_half(source + 4 * i, target + 2 * i, count - i);
}

#define VARIANT neon
#define HAS_HALF
#define LOOK_UP look_up
#define LOOK_UP_WIDTH 8
#define IS_PLANAR 0
#define STREAM NULL
#include "loops.h"
