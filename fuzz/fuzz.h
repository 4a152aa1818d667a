#ifndef TRIMARAN_FUZZ_H
#define TRIMARAN_FUZZ_H
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What the fuzz targets share. A target is one function, LLVMFuzzerTestOneInput, called by libFuzzer or by
 * standalone.c: it reads its input as a row of small decisions and then as hostile bytes.
 *
 * Every buffer that the codec gets is a heap block of exactly its size, so that the address sanitizer sees one
 * byte read or written too far. */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* How many inputs had something sound in them: a target that only ever sees refusals tests little. */
extern unsigned long sound_inputs;

#define expect(condition)                                                                  \
    do {                                                                                   \
        if (!(condition)) {                                                                \
            fprintf(stderr, "%s:%d: expected %s\n", __FILE__, __LINE__, #condition);      \
            abort();                                                                       \
        }                                                                                  \
    } while (0)

typedef struct {
    const uint8_t *at;
    size_t left;
} input;

/* The next bytes of the input as a number; zeros behind its end. */
static inline uint32_t take(input *from, unsigned bytes)
{
    uint32_t value = 0;
    for (unsigned n = 0; n < bytes && from->left; n++, from->left--)
        value |= (uint32_t)*from->at++ << (8 * n);
    return value;
}

static inline uint32_t take_below(input *from, uint32_t below)
{
    return take(from, below > 256 ? 2 : 1) % below;
}

/* A number that fits where it is used, most of the time; else a hostile one of 32 bits. */
static inline uint32_t take_doubtful(input *from, uint32_t below)
{
    uint32_t choice = take(from, 1);
    return choice >= 250 ? (choice & 1 ? take(from, 4) : UINT32_MAX - take(from, 1)) : take_below(from, below);
}

static inline void *block(size_t size)
{
    void *memory = calloc(size ? size : 1, 1);
    if (!memory)
        abort();
    return memory;
}

static inline uint8_t *copy(const uint8_t *bytes, size_t size)
{
    uint8_t *memory = block(size);
    if (size)
        memcpy(memory, bytes, size);
    return memory;
}

/* All that is left of the input. */
static inline uint8_t *take_rest(input *from, size_t *size)
{
    *size = from->left;
    return copy(from->at, from->left);
}

#endif
