#ifndef TRIMARAN_BYTES_H
#define TRIMARAN_BYTES_H
#include <stdint.h>
#include <string.h>

/* Little-endian loads and stores at any address, on any machine; a compiler makes one instruction of each, and can
 * make one of several in a loop, which it can't if they are put together of bytes. */

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define tri_little16(value) __builtin_bswap16(value)
#define tri_little32(value) __builtin_bswap32(value)
#define tri_little64(value) __builtin_bswap64(value)
#else
#define tri_little16(value) (value)
#define tri_little32(value) (value)
#define tri_little64(value) (value)
#endif

static inline uint16_t tri_load16(const uint8_t *at)
{
    uint16_t value;
    memcpy(&value, at, sizeof value);
    return tri_little16(value);
}

static inline uint32_t tri_load32(const uint8_t *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return tri_little32(value);
}

static inline uint64_t tri_load64(const uint8_t *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return tri_little64(value);
}

static inline void tri_store16(uint8_t *at, uint16_t value)
{
    value = tri_little16(value);
    memcpy(at, &value, sizeof value);
}

static inline void tri_store32(uint8_t *at, uint32_t value)
{
    value = tri_little32(value);
    memcpy(at, &value, sizeof value);
}

static inline void tri_store64(uint8_t *at, uint64_t value)
{
    value = tri_little64(value);
    memcpy(at, &value, sizeof value);
}

/* `size` rounded up to a multiple of 8; no 32-bit size overflows it. */
static inline uint64_t tri_pad8(uint64_t size)
{
    return (size + 7) & ~(uint64_t)7;
}

#endif
