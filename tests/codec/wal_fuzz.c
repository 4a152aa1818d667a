/* Hostile segments against the C reader of the log, for the sanitizers: every buffer is a heap block of exactly its
 * size, so that one byte read too far is an error. Fields are changed before the checksums are made, so that the
 * reader gets far. Checks that every record lies inside of what was read, and that the runs are all of the records.
 * Prints how many writes were read as sound; the test checks it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "batch.h"
#include "bytes.h"
#include "crc32c.h"
#include "wal.h"

enum { TAG = 0x11223345, SEED = 77, CAPACITY = 8, LIMIT = 1 << 16 };

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

/* One in some hundred numbers is not what it should be. */
static uint32_t spoil(uint32_t value)
{
    if (draw(300))
        return value;
    return draw(2) ? draw(1000) : UINT32_MAX - draw(100);
}

static void put_frame(uint8_t *at, uint8_t kind, uint32_t length, uint64_t sequence, uint64_t index, uint32_t crc)
{
    memset(at, 0, TRI_FRAME_SIZE);
    tri_store32(at, spoil(TAG));
    at[4] = (uint8_t)spoil(kind);
    at[5] = draw(20) == 0;
    tri_store32(at + 8, spoil(length));
    tri_store32(at + 12, kind == TRI_WAL_TRAILER ? 0 : 1 + draw(3));
    tri_store64(at + 16, spoil((uint32_t)sequence));
    tri_store64(at + 24, 7);
    tri_store64(at + 32, index);
    tri_store64(at + 40, 3);
    tri_store32(at + 48, crc);
    tri_store32(at + 52, tri_crc32c(SEED, at, 52));
}

/* A record at `at`; returns its bytes. */
static uint32_t put_record(uint8_t *at, uint64_t sequence, uint64_t index)
{
    uint8_t *body = at + TRI_FRAME_SIZE;
    uint32_t length = 8 * draw(12);
    if (draw(2)) {
        memset(body, 0xAB, length);
        put_frame(at, (uint8_t)(2 + draw(5)), length, sequence, index, tri_crc32c(0, body, length));
        return TRI_FRAME_SIZE + length;
    }
    tri_batch_header header = {.index = index, .incarnation = 7, .term = 3, .kind = TRI_NOOP};
    length = TRI_BATCH_HEADER_SIZE;
    put_frame(at, TRI_WAL_BATCH, length, sequence, index, 0);
    header.group = tri_load32(at + 12);
    expect(tri_seal_batch(NULL, 0, &header, body, length) == TRI_OK, "seal");
    tri_store32(at + 48, spoil(tri_load32(body + 68)));
    return TRI_FRAME_SIZE + length;
}

/* A write at `at`; returns its bytes and moves the chain. */
static uint32_t put_write(uint8_t *at, uint64_t sequence, uint64_t *index, uint32_t *chain)
{
    uint32_t count = draw(5), size = 0, starts[5];
    for (uint32_t number = 0; number < count; number++) {
        starts[number] = size;
        size += put_record(at + size, sequence, ++*index);
    }
    uint8_t *frame = at + size, *body = frame + TRI_FRAME_SIZE;
    uint32_t whole = size + TRI_FRAME_SIZE + 16 + count * TRI_FRAME_SIZE + 8;
    whole += (TRI_SECTOR - whole % TRI_SECTOR) % TRI_SECTOR;
    uint32_t length = whole - size - TRI_FRAME_SIZE;
    memset(body, 0, length);
    tri_store32(body, spoil(whole));
    tri_store32(body + 4, spoil(*chain));
    for (uint32_t number = 0; number < count; number++)
        memcpy(body + 16 + number * TRI_FRAME_SIZE, at + starts[number], TRI_FRAME_SIZE);
    for (uint32_t number = 0; number < count; number++)
        *chain = tri_crc32c(*chain, at + starts[number] + 52, 4);
    tri_store32(body + 8, spoil(*chain));
    tri_store32(body + 12, spoil(count));
    tri_store32(body + length - 8, length + TRI_FRAME_SIZE);
    tri_store32(body + length - 4, TAG);
    put_frame(frame, TRI_WAL_TRAILER, length, sequence, 0, tri_crc32c(0, body, length));
    return whole;
}

static void check(const tri_wal_record *records, const tri_wal_cursor *cursor, size_t size)
{
    tri_wal_run runs[CAPACITY];
    uint32_t offsets[CAPACITY], lengths[CAPACITY], table[2 * CAPACITY], slots[CAPACITY], starts[CAPACITY + 1];
    uint32_t order[CAPACITY];
    uint64_t terms[CAPACITY];
    uint8_t kinds[CAPACITY];
    for (uint32_t number = 0; number < cursor->records; number++) {
        uint32_t at = records[number].offset - cursor->base;
        expect(at <= size && records[number].length <= size - at, "record inside");
    }
    expect(cursor->position - cursor->base <= size && cursor->last_start <= cursor->position, "cursor inside");
    uint32_t count = cursor->records, sum = 0;
    uint32_t found = tri_wal_runs(records, count, runs, offsets, lengths, terms, kinds, table, 2 * CAPACITY, slots,
                                  starts, order);
    for (uint32_t number = 0; number < found; number++) {
        expect(runs[number].start == sum, "runs in order");
        sum += runs[number].count;
    }
    expect(sum == count, "every record in a run");
}

int main(int argc, char **argv)
{
    long rounds = argc > 1 ? strtol(argv[1], NULL, 10) : 1000, sound = 0;
    for (long round = 0; round < rounds; round++) {
        uint8_t written[LIMIT];
        uint32_t size = 0, chain = SEED, base = draw(2) ? 4096 : 0;
        uint64_t index = 0, first = 1 + draw(9);
        for (uint32_t number = 0, count = draw(6); number < count; number++)
            size += put_write(written + size, first + number, &index, &chain);
        for (uint32_t changes = draw(2); changes && size; changes--)
            written[draw(size)] ^= (uint8_t)(1 << draw(8));
        size_t cut = draw(2) ? size : draw(size + 1);
        uint8_t *data = block(cut);
        memcpy(data, written, cut);

        tri_wal_record *records = block(CAPACITY * sizeof *records);
        tri_wal_cursor cursor = {.position = base, .base = base, .chain = SEED, .tag = TAG, .seed = SEED};
        cursor.limit = draw(3) ? UINT64_MAX : first + 1;
        for (int more = 1; more;) {
            more = tri_wal_read(data, cut, &cursor, records, CAPACITY) && cursor.writes;
            check(records, &cursor, cut);
            sound += cursor.writes;
        }
        tri_wal_has_tag(data, cut, TAG);
        free(records);
        free(data);
    }
    printf("%ld\n", sound);
    return 0;
}
