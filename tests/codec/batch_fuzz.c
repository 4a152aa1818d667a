/* Hostile batches against the C codec, for the sanitizers: every buffer is a heap block of exactly its size, so
 * that one byte read too far is an error. Prints how many batches were read as sound; the test checks it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "batch.h"
#include "bytes.h"
#include "crc32c.h"

static uint64_t state = 0x9E3779B97F4A7C15;

static uint32_t draw(uint32_t below)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 33) % below;
}

static void *block(size_t size)
{
    void *memory = malloc(size ? size : 1);
    if (!memory)
        exit(2);
    return memory;
}

static void expect(int condition, const char *what)
{
    if (!condition) {
        printf("failed: %s\n", what);
        exit(1);
    }
}

/* A payload of random entries, as a chunk; the caller frees it. */
static tri_chunk random_chunk(void)
{
    tri_chunk chunk = {.count = (uint16_t)(1 + draw(5))};
    uint32_t lengths[5];
    for (int number = 0; number < chunk.count; number++)
        chunk.entries_size += lengths[number] = draw(40);
    chunk.payload_size = tri_payload_size(chunk.count, chunk.entries_size);
    uint8_t *payload = block(chunk.payload_size);
    memset(payload, 0, chunk.payload_size);
    memset(payload, 0xEE, chunk.entries_size);
    uint8_t *table = payload + tri_pad8(chunk.entries_size);
    for (int number = 0; number < chunk.count; number++) {
        tri_store32(table + 4 * number, lengths[number]);
        table[4 * chunk.count + number] = (uint8_t)(1 + draw(255));
    }
    chunk.payload = payload;
    expect(tri_check_payload(payload, chunk.payload_size, chunk.count, chunk.entries_size) == TRI_OK, "check");
    return chunk;
}

static uint8_t *random_batch(size_t *size)
{
    tri_chunk chunks[3];
    size_t chunk_count = 1 + draw(3);
    uint64_t count = 0, entries_size = 0;
    for (size_t number = 0; number < chunk_count; number++) {
        chunks[number] = random_chunk();
        count += chunks[number].count;
        entries_size += chunks[number].entries_size;
    }
    *size = TRI_BATCH_HEADER_SIZE + tri_payload_size((uint32_t)count, entries_size);
    tri_batch_header header = {.index = draw(1000), .term = draw(1000), .kind = TRI_NORMAL};
    uint8_t *batch = block(*size);
    expect(tri_seal_batch(chunks, chunk_count, &header, batch, *size) == TRI_OK, "seal");
    for (size_t number = 0; number < chunk_count; number++)
        free((void *)chunks[number].payload);
    return batch;
}

/* Reads a batch in every way; whether it was sound. */
static int read_all(const uint8_t *batch, size_t size)
{
    tri_batch_header header;
    int read = tri_read_header(batch, size, &header);
    if (read == TRI_OK) {
        size_t words = (size_t)2 * header.count;
        uint32_t *spans = block(sizeof *spans * words);
        if (tri_walk_batch(batch, size, spans, words) == TRI_OK)
            for (int number = 0; number < header.count; number++) {
                uint32_t offset = spans[number], length = spans[header.count + number];
                expect(offset <= size && length <= size - offset, "entry inside");
            }
        if (header.count)
            expect(tri_walk_batch(batch, size, spans, words - 1) != TRI_OK, "capacity");
        free(spans);
    }
    int verified = tri_verify_batch(batch, size, &header);
    expect(verified != TRI_OK || read == TRI_OK, "verified means readable");
    return verified == TRI_OK;
}

int main(int argc, char **argv)
{
    long rounds = argc > 1 ? strtol(argv[1], NULL, 10) : 1000, sound = 0;
    for (long round = 0; round < rounds; round++) {
        size_t size;
        uint8_t *batch = random_batch(&size);
        expect(read_all(batch, size), "sealed batch is sound");
        /* A hostile writer: some changed fields, right checksums, and often a cut. */
        for (uint32_t changes = draw(3); changes; changes--)
            batch[draw((uint32_t)size)] = (uint8_t)(draw(2) ? draw(256) : 0xFF);
        size_t cut = draw(2) ? size : draw((uint32_t)size + 1);
        uint8_t *hostile = block(cut);
        memcpy(hostile, batch, cut);
        if (cut >= TRI_BATCH_HEADER_SIZE) {
            tri_store32(hostile + 60, tri_crc32c(0, hostile + 72, cut - 72));
            tri_store32(hostile + 68, tri_crc32c(0, hostile, 68));
        }
        sound += read_all(hostile, cut);
        tri_check_payload(hostile, cut, draw(8), draw(300));
        free(hostile);
        free(batch);
    }
    printf("%ld\n", sound);
    return 0;
}
