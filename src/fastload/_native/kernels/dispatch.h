/* Which variants there are, and a run of elements from one dtype to another by one of them. */

#ifndef FASTLOAD_DISPATCH_H
#define FASTLOAD_DISPATCH_H

#include "scalar.h"

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#else
#include <fenv.h>
#endif

enum Float { DOUBLE, SINGLE, HALF, BFLOAT, E4M3FN, E5M2, E4M3FNUZ, E5M2FNUZ, E8M0FNU, FLOATS };
static const size_t widths[FLOATS] = {8, 4, 2, 2, 1, 1, 1, 1, 1};

typedef void (*Loop)(const char *, char *, size_t);
typedef void (*LookUp)(const char *source, char *target, size_t count, const char *table, size_t width);
typedef struct {
    const char *name;
    Loop widen[FLOATS], narrow[FLOATS];         /* to the bits of a float32 and from them; NULL for SINGLE itself */
    Loop float_of_double, bfloat_of_float;      /* rounded once; with the NaN that torch makes of a larger float */
    Loop half_of_double, bfloat_of_double;      /* the same in one pass; NULL where two are as good */
    LookUp look_up;                             /* bytes in a table of 256 results; the rest is said in loops.h */
    size_t look_up_width;
    int is_planar;
    Loop stream;                                /* 64-byte lines to aligned memory, past the caches; NULL: none */
} Kernels;

static void look_up(const char *RESTRICT source, char *RESTRICT target, size_t count, const char *table, size_t width) {
    for (size_t i = 0; i < count; i++) {
        size_t at = (unsigned char)source[i];
        switch (width) {
            case 1: target[i] = table[at]; break;
            case 2: memcpy(target + 2 * i, table + 2 * at, 2); break;
            case 4: memcpy(target + 4 * i, table + 4 * at, 4); break;
            default: memcpy(target + 8 * i, table + 8 * at, 8);
        }
    }
}

#define VARIANT portable
#define TARGET
#define LOOK_UP look_up
#define LOOK_UP_WIDTH 8
#define IS_PLANAR 0
#define STREAM NULL
#include "loops.h"

/* What is left of doubles behind the last whole vector: fewer than sixteen. */
static void few_doubles(const char *source, char *target, size_t count, Loop second) {
    uint32_t block[16];
    portable_from_double(source, (char *)block, count);
    second((const char *)block, target, count);
}

#if defined(__GNUC__) && defined(__x86_64__)
#include "avx2.h"
#include "avx512.h"
#elif defined(__aarch64__)
#include <arm_neon.h>
#include "neon.h"
#endif

enum { VARIANTS = 3 };
enum { LOOK_UP_FROM = 4096 };                   /* elements: what it takes to make a table pays */
enum { STREAM_FROM = 32 << 20 };                /* bytes of the result: less may still be in a cache when it is read */

/* The variants that this processor has, the best first; how many. */
static int find_kernels(const Kernels **found) {
    int count = 0;
    #if defined(__GNUC__) && defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512vbmi")) found[count++] = &avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c")) found[count++] = &avx2;
    #elif defined(__aarch64__)
    found[count++] = &neon;
    #endif
    found[count++] = &portable;
    return count;
}

/* Elements. Few, so that the processor reads the next ones from memory while it still stores these: with 2048 it does the
   one and then the other, and a float64 on its way to a float16 takes a quarter longer. */
enum { BLOCK = 256 };


static void convert_block(const Kernels *kernels, const char *from, char *to, size_t count, int source, int target) {
    Loop first = kernels->widen[source], second = kernels->narrow[target], only = NULL;
    uint32_t block[BLOCK];
    if (source == DOUBLE && target == SINGLE) first = kernels->float_of_double;
    if (target == BFLOAT && (source == SINGLE || source == DOUBLE)) second = kernels->bfloat_of_float;
    if (source == DOUBLE && target == HALF) only = kernels->half_of_double;
    if (source == DOUBLE && target == BFLOAT) only = kernels->bfloat_of_double;
    if (only) { only(from, to, count); return; }
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

typedef struct {
    const Kernels *kernels;
    int source, target, is_looked_up;
    char table[256 * 8];
} Work;

/* A byte has 256 values: in a long run each is converted once. */
static void prepare(Work *work, const Kernels *kernels, int source, int target, size_t count) {
    size_t width = widths[target];
    char bytes[256], results[256 * 8];
    work->kernels = kernels;
    work->source = source;
    work->target = target;
    work->is_looked_up = widths[source] == 1 && width <= kernels->look_up_width && count >= LOOK_UP_FROM;
    if (!work->is_looked_up) return;
    for (int i = 0; i < 256; i++) bytes[i] = (char)i;
    convert_block(kernels, bytes, kernels->is_planar ? results : work->table, 256, source, target);
    if (kernels->is_planar)
        for (size_t k = 0; k < width; k++)
            for (size_t i = 0; i < 256; i++) work->table[256 * k + i] = results[width * i + k];
}

static void convert_run(const Work *work, const char *from, char *to, size_t count) {
    if (work->is_looked_up) work->kernels->look_up(from, to, count, work->table, widths[work->target]);
    else convert_block(work->kernels, from, to, count, work->source, work->target);
}

/* Past the caches: a store would else read each line of the target before it is written. Converted in the nearest
   cache, and sent from there in whole lines; what comes before the first line and after the last goes the plain way. */
static void convert_streaming(const Work *work, const char *from, char *to, size_t count) {
    size_t narrow = widths[work->source], wide = widths[work->target], head = (0 - (uintptr_t)to) % 64 / wide;
    uint64_t block[BLOCK];
    if (head > count) head = count;
    convert_run(work, from, to, head);
    from += head * narrow;
    to += head * wide;
    count -= head;
    while (count >= 64) {
        size_t run = count < BLOCK ? count & ~(size_t)63 : BLOCK;
        convert_run(work, from, (char *)block, run);
        work->kernels->stream((const char *)block, to, run * wide / 64);
        from += run * narrow;
        to += run * wide;
        count -= run;
    }
    convert_run(work, from, to, count);
    #if defined(__GNUC__) && defined(__x86_64__)
    _mm_sfence();                               /* before anyone is told that the elements are there */
    #endif
}

/* In the environment that the rules of IEEE 754 ask for: a library may have told the processor to flush subnormal
   numbers, or to round elsewhere. What overflows raises no flag that NumPy would find. On x86-64 one register has all
   that matters to vectors, and the standard library takes 200 ns where that takes 10. */
static void convert_floats(
    const Kernels *kernels, const char *from, char *to, size_t count, int source, int target, int streams
) {
    Work work;
    #if defined(__x86_64__) || defined(_M_X64)
    unsigned held = _mm_getcsr();
    _mm_setcsr(0x1F80);                         /* as a process starts: all exceptions masked, to nearest */
    #else
    fenv_t held;
    fegetenv(&held);
    fesetenv(FE_DFL_ENV);
    #endif
    prepare(&work, kernels, source, target, count);
    if (streams && kernels->stream && (uintptr_t)to % widths[target] == 0)
        convert_streaming(&work, from, to, count);
    else convert_run(&work, from, to, count);
    #if defined(__x86_64__) || defined(_M_X64)
    _mm_setcsr(held);
    #else
    fesetenv(&held);
    #endif
}

#endif
