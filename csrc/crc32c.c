#include "crc32c.h"

#include "bytes.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define HAVE_SSE42 1
#if (defined(__clang__) && __clang_major__ >= 9) || (!defined(__clang__) && __GNUC__ >= 9)
#define HAVE_AVX512 1 /* older compilers don't know all of its instructions */
#endif
#elif defined(__aarch64__) && (defined(__ARM_FEATURE_CRC32) || !defined(__clang__))
#include <arm_acle.h>
#if defined(__linux__)
#include <sys/auxv.h>
#endif
#define HAVE_ARMV8 1
#endif

static const uint32_t polynomial = 0x82F63B78; /* its bits reversed, as the register is */

static uint32_t table[8][256]; /* table[n][byte]: the register after that byte and n zero bytes */

static void fill_table(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ (crc & 1 ? polynomial : 0);
        table[0][byte] = crc;
    }
    for (int zeros = 1; zeros < 8; zeros++)
        for (uint32_t byte = 0; byte < 256; byte++) {
            uint32_t crc = table[zeros - 1][byte];
            table[zeros][byte] = (crc >> 8) ^ table[0][crc & 0xFF];
        }
}

uint32_t tri_crc32c_table(uint32_t value, const uint8_t *data, size_t size)
{
    uint32_t crc = ~value;
    for (; size >= 8; data += 8, size -= 8) {
        uint64_t word = tri_load64(data) ^ crc;
        crc = table[7][word & 0xFF] ^ table[6][word >> 8 & 0xFF] ^ table[5][word >> 16 & 0xFF] ^
              table[4][word >> 24 & 0xFF] ^ table[3][word >> 32 & 0xFF] ^ table[2][word >> 40 & 0xFF] ^
              table[1][word >> 48 & 0xFF] ^ table[0][word >> 56];
    }
    for (; size; data++, size--)
        crc = (crc >> 8) ^ table[0][(crc ^ *data) & 0xFF];
    return ~crc;
}

/* One crc32 instruction waits three cycles for the one before it, but one can begin in each cycle. So three
 * adjacent blocks are summed side by side; since a CRC is linear, the sum of all three is the first one's
 * moved by two blocks of zeros, plus the second one's moved by one block, plus the third one's. */
enum { LONG_BLOCK = 2048, SHORT_BLOCK = 128 };

#if HAVE_SSE42

/* Moving by n bytes is multiplying with x^(8n) modulo the polynomial. The carry-less product of two
 * reflected 32-bit values has a factor x too many, and the crc32 instruction that reduces it to 32 bits
 * another x^32, so these are x^(8n - 33): for one block and for two. */
static const uint32_t short_one = 0x0D3B6092, short_two = 0xB9E02B86;
static const uint32_t long_one = 0xA51B6135, long_two = 0x82F89C77;

#define SSE42 __attribute__((target("sse4.2,pclmul")))

SSE42 static uint64_t product(uint32_t crc, uint32_t factor)
{
    __m128i wide = _mm_clmulepi64_si128(_mm_cvtsi32_si128((int)crc), _mm_cvtsi32_si128((int)factor), 0);
    return (uint64_t)_mm_cvtsi128_si64(wide);
}

SSE42 static inline uint32_t three_blocks(uint32_t crc, const uint8_t *data, size_t block, uint32_t one,
                                          uint32_t two)
{
    uint64_t first = crc, second = 0, third = 0;
    for (const uint8_t *end = data + block; data < end; data += 8) {
        first = _mm_crc32_u64(first, tri_load64(data));
        second = _mm_crc32_u64(second, tri_load64(data + block));
        third = _mm_crc32_u64(third, tri_load64(data + 2 * block));
    }
    uint64_t moved = product((uint32_t)first, two) ^ product((uint32_t)second, one);
    return (uint32_t)(_mm_crc32_u64(0, moved) ^ third);
}

SSE42 static uint32_t crc32c_sse42(uint32_t value, const uint8_t *data, size_t size)
{
    uint32_t crc = ~value;
    for (; size >= 3 * LONG_BLOCK; data += 3 * LONG_BLOCK, size -= 3 * LONG_BLOCK)
        crc = three_blocks(crc, data, LONG_BLOCK, long_one, long_two);
    for (; size >= 3 * SHORT_BLOCK; data += 3 * SHORT_BLOCK, size -= 3 * SHORT_BLOCK)
        crc = three_blocks(crc, data, SHORT_BLOCK, short_one, short_two);
    for (; size >= 8; data += 8, size -= 8)
        crc = (uint32_t)_mm_crc32_u64(crc, tri_load64(data));
    for (; size >= 4; data += 4, size -= 4)
        crc = _mm_crc32_u32(crc, tri_load32(data));
    for (; size; data++, size--)
        crc = _mm_crc32_u8(crc, *data);
    return ~crc;
}

#endif

#if HAVE_AVX512

/* Folding: 128 bits of what was read so far, as a polynomial, may be replaced by their product with x^D modulo the
 * polynomial, added D bits further on (Gopal et al., Fast CRC Computation Using PCLMULQDQ, 2009). Each half is
 * multiplied for itself; the factors are x^(D + 32) and x^(D - 32), reflected, and one bit to the left, which makes up
 * for the bit that a reflected product lacks. */
#define AVX512 __attribute__((target("avx512f,avx512vl,avx512dq,vpclmulqdq,sse4.2,pclmul")))

typedef struct {
    uint64_t low, high;
} fold_factors;

static const fold_factors by_256_bytes = {0x0DCB17AA4, 0x0B9E02B86}, by_64_bytes = {0x0740EEF02, 0x09E4ADDF8},
                          by_48_bytes = {0x01C291D04, 0x1D82C63DA}, by_32_bytes = {0x1384AA63A, 0x0BA4FC28E},
                          by_16_bytes = {0x0F20C0DFE, 0x14CD00BD6};

AVX512 static inline __m512i everywhere(fold_factors by)
{
    return _mm512_broadcast_i64x2(_mm_set_epi64x((long long)by.high, (long long)by.low));
}

/* Each 128 bits folded, and `onto` added. */
AVX512 static inline __m512i fold(__m512i bits, __m512i factors, __m512i onto)
{
    __m512i low = _mm512_clmulepi64_epi128(bits, factors, 0x00), high = _mm512_clmulepi64_epi128(bits, factors, 0x11);
    return _mm512_ternarylogic_epi64(low, high, onto, 0x96); /* exclusive or of all three */
}

AVX512 static inline __m512i load_512(const uint8_t *at)
{
    return _mm512_loadu_si512(at);
}

/* The four 128-bit parts as one: each folded to the place of the last. */
AVX512 static inline __m128i fold_parts(__m512i bits)
{
    __m512i factors = _mm512_set_epi64(0, 0, (long long)by_16_bytes.high, (long long)by_16_bytes.low,
                                       (long long)by_32_bytes.high, (long long)by_32_bytes.low,
                                       (long long)by_48_bytes.high, (long long)by_48_bytes.low);
    __m512i folded = fold(bits, factors, _mm512_maskz_mov_epi64(0xC0, bits));
    __m128i first = _mm_xor_si128(_mm512_extracti64x2_epi64(folded, 0), _mm512_extracti64x2_epi64(folded, 1));
    __m128i second = _mm_xor_si128(_mm512_extracti64x2_epi64(folded, 2), _mm512_extracti64x2_epi64(folded, 3));
    return _mm_xor_si128(first, second);
}

/* The register after what is folded to 512 bits and `size` bytes behind it, a multiple of 64. */
AVX512 static inline uint32_t fold_rest(__m512i folded, const uint8_t *data, size_t size)
{
    __m512i by_64 = everywhere(by_64_bytes);
    for (; size; data += 64, size -= 64)
        folded = fold(folded, by_64, load_512(data));
    __m128i last = fold_parts(folded);
    uint64_t first = _mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(last));
    return (uint32_t)_mm_crc32_u64(first, (uint64_t)_mm_extract_epi64(last, 1));
}

/* The first 64 bytes, with the register that it continues from. */
AVX512 static inline __m512i begin(uint32_t crc, const uint8_t *data)
{
    return _mm512_xor_si512(load_512(data), _mm512_zextsi128_si512(_mm_cvtsi32_si128((int)crc)));
}

enum { FOLDED_BLOCK = 256 };

/* The register after `size` bytes, a multiple of 64 and at least FOLDED_BLOCK: four folds side by side. */
AVX512 static uint32_t fold_long(uint32_t crc, const uint8_t *data, size_t size)
{
    __m512i by_256 = everywhere(by_256_bytes), by_64 = everywhere(by_64_bytes);
    __m512i a = begin(crc, data), b = load_512(data + 64), c = load_512(data + 128), d = load_512(data + 192);
    for (data += FOLDED_BLOCK, size -= FOLDED_BLOCK; size >= FOLDED_BLOCK; data += FOLDED_BLOCK, size -= FOLDED_BLOCK) {
        a = fold(a, by_256, load_512(data));
        b = fold(b, by_256, load_512(data + 64));
        c = fold(c, by_256, load_512(data + 128));
        d = fold(d, by_256, load_512(data + 192));
    }
    return fold_rest(fold(fold(fold(a, by_64, b), by_64, c), by_64, d), data, size);
}

AVX512 static uint32_t crc32c_avx512(uint32_t value, const uint8_t *data, size_t size)
{
    size_t folded = size - size % 64;
    if (size >= 2 * FOLDED_BLOCK)
        value = ~fold_long(~value, data, folded);
    else if (size >= 192) /* below, folding costs more than it saves */
        value = ~fold_rest(begin(~value, data), data + 64, folded - 64);
    else
        folded = 0;
    return crc32c_sse42(value, data + folded, size - folded);
}

#endif

#if HAVE_ARMV8

#if defined(__ARM_FEATURE_CRC32)
#define ARMV8
#else
#define ARMV8 __attribute__((target("+crc")))
#endif

/* x^(8n) for one long block and for two, with which the register is multiplied bit by bit: seldom enough that
 * no carry-less multiplication is needed. */
static const uint32_t long_one = 0x0D65762A, long_two = 0x35D73A62;

static uint32_t multiply(uint32_t a, uint32_t b)
{
    uint32_t product = 0;
    for (int bit = 0; bit < 32; bit++) {
        product ^= a & 0x80000000u ? b : 0;
        a <<= 1;
        b = (b >> 1) ^ (b & 1 ? polynomial : 0);
    }
    return product;
}

ARMV8 static uint32_t crc32c_armv8(uint32_t value, const uint8_t *data, size_t size)
{
    uint32_t crc = ~value;
    for (; size >= 3 * LONG_BLOCK; data += 3 * LONG_BLOCK, size -= 3 * LONG_BLOCK) {
        uint32_t first = crc, second = 0, third = 0;
        for (size_t at = 0; at < LONG_BLOCK; at += 8) {
            first = __crc32cd(first, tri_load64(data + at));
            second = __crc32cd(second, tri_load64(data + LONG_BLOCK + at));
            third = __crc32cd(third, tri_load64(data + 2 * LONG_BLOCK + at));
        }
        crc = multiply(first, long_two) ^ multiply(second, long_one) ^ third;
    }
    for (; size >= 8; data += 8, size -= 8)
        crc = __crc32cd(crc, tri_load64(data));
    for (; size; data++, size--)
        crc = __crc32cb(crc, *data);
    return ~crc;
}

#endif

typedef uint32_t (*crc32c_function)(uint32_t value, const uint8_t *data, size_t size);

enum { IMPLEMENTATIONS = 4 };

static crc32c_function usable[IMPLEMENTATIONS] = {[TRI_CRC32C_TABLE] = tri_crc32c_table};
static crc32c_function chosen_function = tri_crc32c_table;
static int chosen = TRI_CRC32C_TABLE;

/* A checksum that is wrong on one kind of processor would be written into files: so the table decides.
 * The pattern is long enough for every loop and has a tail of each kind. */
static void choose(crc32c_function function, int implementation)
{
    uint8_t pattern[3 * LONG_BLOCK + 3 * SHORT_BLOCK + 8 + 7];
    for (size_t at = 0; at < sizeof pattern; at++)
        pattern[at] = (uint8_t)(at * 167 + (at >> 8));
    if (function(1, pattern, sizeof pattern) != tri_crc32c_table(1, pattern, sizeof pattern))
        return;
    usable[implementation] = function;
    chosen_function = function;
    chosen = implementation;
}

__attribute__((constructor)) static void initialise(void)
{
    fill_table();
#if HAVE_SSE42
    __builtin_cpu_init();
    if (__builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul"))
        choose(crc32c_sse42, TRI_CRC32C_SSE42);
#if HAVE_AVX512
    if (chosen == TRI_CRC32C_SSE42 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("vpclmulqdq"))
        choose(crc32c_avx512, TRI_CRC32C_AVX512);
#endif
#elif HAVE_ARMV8 && defined(__linux__)
    enum { HWCAP_BIT_CRC32 = 1 << 7 };
    if (getauxval(AT_HWCAP) & HWCAP_BIT_CRC32)
        choose(crc32c_armv8, TRI_CRC32C_ARMV8);
#elif HAVE_ARMV8 && defined(__APPLE__)
    choose(crc32c_armv8, TRI_CRC32C_ARMV8); /* every 64-bit Mac has the extension */
#else
    (void)choose;
#endif
}

int tri_crc32c_chosen(void)
{
    return chosen;
}

uint32_t tri_crc32c(uint32_t value, const uint8_t *data, size_t size)
{
    return chosen_function(value, data, size);
}

int tri_crc32c_by(int implementation, uint32_t value, const uint8_t *data, size_t size, uint32_t *result)
{
    if (implementation < 0 || implementation >= IMPLEMENTATIONS || !usable[implementation])
        return -1;
    *result = usable[implementation](value, data, size);
    return 0;
}
