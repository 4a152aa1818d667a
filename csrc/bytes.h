#ifndef TRIMARAN_BYTES_H
#define TRIMARAN_BYTES_H
#include <stdint.h>

/* Little-endian loads and stores at any address, on any machine; a compiler makes one instruction of each. */

static inline uint16_t tri_load16(const uint8_t *at)
{
    return (uint16_t)(at[0] | at[1] << 8);
}

static inline uint32_t tri_load32(const uint8_t *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static inline uint64_t tri_load64(const uint8_t *at)
{
    return (uint64_t)tri_load32(at) | (uint64_t)tri_load32(at + 4) << 32;
}

static inline void tri_store16(uint8_t *at, uint16_t value)
{
    at[0] = (uint8_t)value;
    at[1] = (uint8_t)(value >> 8);
}

static inline void tri_store32(uint8_t *at, uint32_t value)
{
    tri_store16(at, (uint16_t)value);
    tri_store16(at + 2, (uint16_t)(value >> 16));
}

static inline void tri_store64(uint8_t *at, uint64_t value)
{
    tri_store32(at, (uint32_t)value);
    tri_store32(at + 4, (uint32_t)(value >> 32));
}

/* `size` rounded up to a multiple of 8; no 32-bit size overflows it. */
static inline uint64_t tri_pad8(uint64_t size)
{
    return (size + 7) & ~(uint64_t)7;
}

#endif
