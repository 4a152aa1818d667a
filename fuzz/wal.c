/* Fuzz target: writes that are sealed, segments of the log as they are read, and their records sorted into runs. What the input decides is a
 * row of writes and how each field of them is spoiled, before the checksums are made: so the reader gets far. */
#include "wal.h"
#include "batch.h"
#include "bytes.h"
#include "crc32c.h"
#include "fuzz.h"

unsigned long sound_inputs;

enum { TAG = 0x11223345, SEED = 77, CAPACITY = 8, WRITES = 6, RECORDS = 5, LIMIT = 1 << 15 };

/* Now and then a number is not what it should be. */
static uint32_t spoil(input *from, uint32_t value)
{
    uint32_t choice = take(from, 1);
    if (choice < 250)
        return value;
    return choice & 1 ? take_below(from, 1000) : UINT32_MAX - take(from, 1);
}

static void put_frame(input *from, uint8_t *at, uint8_t kind, uint32_t length, uint64_t sequence, uint64_t index,
                      uint32_t crc)
{
    memset(at, 0, TRI_FRAME_SIZE);
    tri_store32(at, spoil(from, TAG));
    at[4] = (uint8_t)spoil(from, kind);
    at[5] = take(from, 1) % 20 == 19;
    tri_store32(at + 8, spoil(from, length));
    tri_store32(at + 12, kind == TRI_WAL_TRAILER ? 0 : 1 + take_below(from, 3));
    tri_store64(at + 16, spoil(from, (uint32_t)sequence));
    tri_store64(at + 24, 7);
    tri_store64(at + 32, index);
    tri_store64(at + 40, 3);
    tri_store32(at + 48, crc);
    tri_store32(at + 52, tri_crc32c(SEED, at, 52));
}

/* A record at `at`; returns its bytes. */
static uint32_t put_record(input *from, uint8_t *at, uint64_t sequence, uint64_t index)
{
    uint8_t *body = at + TRI_FRAME_SIZE;
    uint32_t length = 8 * take_below(from, 12);
    if (take(from, 1) & 1) {
        memset(body, 0xAB, length);
        put_frame(from, at, (uint8_t)(2 + take_below(from, 5)), length, sequence, index, tri_crc32c(0, body, length));
        return TRI_FRAME_SIZE + length;
    }
    tri_batch_header header = {.index = index, .incarnation = 7, .term = 3, .kind = TRI_NOOP};
    length = TRI_BATCH_HEADER_SIZE;
    put_frame(from, at, TRI_WAL_BATCH, length, sequence, index, 0);
    header.group = tri_load32(at + 12);
    expect(tri_seal_batch(NULL, 0, &header, body, length) == TRI_OK);
    tri_store32(at + 48, spoil(from, tri_load32(body + 68)));
    tri_store32(at + 52, tri_crc32c(SEED, at, 52));
    return TRI_FRAME_SIZE + length;
}

/* A write at `at`; returns its bytes and moves the chain. */
static uint32_t put_write(input *from, uint8_t *at, uint64_t sequence, uint64_t *index, uint32_t *chain)
{
    uint32_t count = take_below(from, RECORDS), size = 0, starts[RECORDS];
    for (uint32_t number = 0; number < count; number++) {
        starts[number] = size;
        *index += 1 + (take(from, 1) % 16 == 15);
        size += put_record(from, at + size, sequence, *index);
    }
    uint8_t *frame = at + size, *body = frame + TRI_FRAME_SIZE;
    uint32_t whole = size + TRI_FRAME_SIZE + 16 + count * TRI_FRAME_SIZE + 8;
    whole += (TRI_SECTOR - whole % TRI_SECTOR) % TRI_SECTOR;
    uint32_t length = whole - size - TRI_FRAME_SIZE;
    memset(body, 0, length);
    tri_store32(body, spoil(from, whole));
    tri_store32(body + 4, spoil(from, *chain));
    for (uint32_t number = 0; number < count; number++)
        memcpy(body + 16 + number * TRI_FRAME_SIZE, at + starts[number], TRI_FRAME_SIZE);
    for (uint32_t number = 0; number < count; number++)
        *chain = tri_crc32c(*chain, at + starts[number] + 52, 4);
    tri_store32(body + 8, spoil(from, *chain));
    tri_store32(body + 12, spoil(from, count));
    tri_store32(body + length - 8, length + TRI_FRAME_SIZE);
    tri_store32(body + length - 4, TAG);
    put_frame(from, frame, TRI_WAL_TRAILER, length, sequence, 0, tri_crc32c(0, body, length));
    return whole;
}

static void check(const tri_wal_record *records, const tri_wal_cursor *cursor, size_t size)
{
    tri_wal_run runs[CAPACITY];
    uint32_t offsets[CAPACITY], lengths[CAPACITY], crcs[CAPACITY], table[2 * CAPACITY], slots[CAPACITY], starts[CAPACITY + 1];
    uint32_t order[CAPACITY];
    uint64_t terms[CAPACITY];
    uint8_t kinds[CAPACITY];
    for (uint32_t number = 0; number < cursor->records; number++) {
        uint32_t at = records[number].offset - cursor->base;
        expect(at <= size && records[number].length <= size - at);
    }
    expect(cursor->position - cursor->base <= size && cursor->last_start <= cursor->position);
    uint32_t count = cursor->records, sum = 0;
    uint32_t found = tri_wal_runs(records, count, runs, offsets, lengths, crcs, terms, kinds, table,
                                  2 * CAPACITY, slots, starts, order);
    for (uint32_t number = 0; number < found; number++) {
        expect(runs[number].start == sum && runs[number].count > 0);
        sum += runs[number].count;
    }
    expect(sum == count);
}

/* Reads all that is sound, with room for few records at a time. */
static void read_all(const uint8_t *data, size_t size, tri_wal_cursor cursor)
{
    tri_wal_record *records = block(CAPACITY * sizeof *records);
    uint32_t writes = 0;
    for (int more = 1; more;) {
        more = tri_wal_read(data, size, &cursor, records, CAPACITY) && cursor.writes;
        check(records, &cursor, size);
        writes += cursor.writes;
    }
    if (writes)
        expect(tri_wal_has_tag(data, size, TAG));
    sound_inputs += writes > 0;
    free(records);
}

/* Frames whose lengths may lie: sealed if and only if they add up, and nothing is touched if not. */
static void seal(input *from)
{
    uint32_t count = take_below(from, RECORDS);
    uint64_t sum = 0;
    uint8_t *frames = block((size_t)count * TRI_FRAME_SIZE);
    for (uint32_t number = 0; number < count; number++) {
        uint32_t length = spoil(from, take_below(from, 2000));
        tri_store32(frames + (size_t)number * TRI_FRAME_SIZE + 8, length);
        sum += length;
    }
    tri_wal_seal wanted = {.tag = TAG, .seed = SEED, .chain = take(from, 4), .bodies = spoil(from, (uint32_t)sum)};
    uint64_t size = tri_wal_trailer_size(count, wanted.bodies);
    uint8_t *trailer = block((size_t)size), *before = copy(frames, (size_t)count * TRI_FRAME_SIZE);
    uint64_t whole = (uint64_t)count * TRI_FRAME_SIZE + wanted.bodies + size;
    int sealed = tri_wal_seal_write(frames, count, &wanted, trailer, (size_t)size);
    expect(sealed == (sum == wanted.bodies && whole <= UINT32_MAX ? 0 : -1));
    if (sealed == 0)
        expect(whole % TRI_SECTOR == 0 && tri_load32(trailer + size - 4) == TAG);
    else
        expect(memcmp(frames, before, (size_t)count * TRI_FRAME_SIZE) == 0);
    expect(tri_wal_seal_write(frames, count, &wanted, trailer, (size_t)size + 1) == -1);
    free(frames), free(trailer), free(before);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t written[LIMIT];
    input from = {data, size}, behind = {data + size / 2, size - size / 2};
    seal(&behind);
    uint32_t used = 0, chain = SEED, base = take(&from, 1) & 1 ? 4096 : 0, count = take_below(&from, WRITES + 1);
    uint64_t index = 0, first = 1 + take_below(&from, 9), limit = take_below(&from, 4);
    uint32_t cut = take(&from, 2), change = take(&from, 2);
    for (uint32_t number = 0; number < count; number++)
        used += put_write(&from, written + used, first + number, &index, &chain);
    uint32_t length = cut % 3 ? used : cut % (used + 1);
    if (change % 4 == 3 && used)
        written[change % used] ^= (uint8_t)(1 << take_below(&from, 8));
    uint8_t *exact = copy(written, length);
    tri_wal_cursor cursor = {.position = base, .base = base, .chain = SEED, .tag = TAG, .seed = SEED};
    cursor.limit = limit ? UINT64_MAX : first + 1;
    read_all(exact, length, cursor);
    free(exact);

    uint8_t *hostile = take_rest(&from, &size); /* and what is left, as it is */
    tri_wal_has_tag(hostile, size, TAG);
    read_all(hostile, size, cursor);
    free(hostile);
    return 0;
}
