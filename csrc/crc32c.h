#ifndef TRIMARAN_CRC32C_H
#define TRIMARAN_CRC32C_H
#include <stddef.h>
#include <stdint.h>

/* CRC32C (Castagnoli, RFC 3720): polynomial 0x1EDC6F41, reflected, register begins and ends inverted.
 *
 * A value is what the function returned for the bytes before, 0 for none, so that
 * tri_crc32c(tri_crc32c(0, a), b) is the checksum of a followed by b.
 *
 * The processor's instructions are used if it has them (AVX-512 with VPCLMULQDQ, else SSE4.2 with PCLMULQDQ; or the
 * ARMv8 CRC extension), chosen once when the library is loaded and only after they agreed with the table about a test pattern.
 */

enum tri_crc32c_implementation {
    TRI_CRC32C_TABLE = 0, /* slicing by 8, everywhere */
    TRI_CRC32C_SSE42 = 1, /* x86-64: three interleaved streams */
    TRI_CRC32C_ARMV8 = 2, /* AArch64: three interleaved streams */
    TRI_CRC32C_AVX512 = 3 /* x86-64: what is long is folded by 256 bytes at once, the rest as with SSE4.2 */
};

/* Which implementation tri_crc32c uses: one of enum tri_crc32c_implementation. */
int tri_crc32c_chosen(void);

/* The checksum of `size` bytes at `data`, continuing from `value`. Any alignment; size may be 0. */
uint32_t tri_crc32c(uint32_t value, const uint8_t *data, size_t size);

/* The same by the table, whatever the processor has: what the others are compared with. */
uint32_t tri_crc32c_table(uint32_t value, const uint8_t *data, size_t size);

/* The same by one implementation. 0, or -1 if this machine has not got it, or it did not agree with the table. */
int tri_crc32c_by(int implementation, uint32_t value, const uint8_t *data, size_t size, uint32_t *result);

#endif
