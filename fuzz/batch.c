/* Fuzz target: batches that come in, chunks that come in, and batches that are made of a caller's spans. */
#include "batch.h"
#include "bytes.h"
#include "crc32c.h"
#include "fuzz.h"

unsigned long sound_inputs;

enum { AT_LENGTH = 4, AT_COUNT = 12, AT_ENTRIES_SIZE = 56, AT_PAYLOAD_CRC = 60, AT_HEADER_CRC = 68 };

/* Makes a writer with a fault, or with malice, of random bytes: its checksums are right, and perhaps its lengths. */
static void repair(uint8_t *batch, size_t size, int lengths)
{
    if (size < TRI_BATCH_HEADER_SIZE)
        return;
    tri_store16(batch, TRI_BATCH_MAGIC);
    if (lengths) {
        uint32_t count = tri_load16(batch + AT_COUNT), table = (uint32_t)tri_pad8((uint64_t)5 * count);
        uint64_t entries = size - TRI_BATCH_HEADER_SIZE;
        tri_store32(batch + AT_LENGTH, (uint32_t)size);
        if (entries >= table && entries - table < tri_load32(batch + AT_ENTRIES_SIZE))
            tri_store32(batch + AT_ENTRIES_SIZE, (uint32_t)(entries - table));
    }
    tri_store32(batch + AT_PAYLOAD_CRC,
                tri_crc32c(0, batch + TRI_BATCH_HEADER_SIZE, size - TRI_BATCH_HEADER_SIZE));
    tri_store32(batch + AT_HEADER_CRC, tri_crc32c(0, batch, AT_HEADER_CRC));
}

/* A sound batch is the only encoding of what is in it: made again of its entries, it is the same. */
static void make_again(const uint8_t *batch, size_t size, const tri_batch_header *header, const uint32_t *spans)
{
    const uint8_t *types = batch + TRI_BATCH_HEADER_SIZE + tri_pad8(header->entries_size) + (size_t)4 * header->count;
    tri_open_batch open = {.area = block(size),
                           .lengths = block((size_t)4 * header->count),
                           .types = block(header->count),
                           .area_capacity = size,
                           .count_capacity = header->count,
                           .max_size = (uint32_t)(size - TRI_BATCH_HEADER_SIZE),
                           .max_count = header->count};
    uint32_t taken;
    uint64_t sealed;
    expect(tri_append_spans(&open, batch, size, spans, spans + header->count, types, header->count, &taken) == TRI_OK);
    expect(taken == header->count && open.entries_size == header->entries_size);
    expect(tri_seal_open(&open, header, &sealed) == TRI_OK && sealed == size);
    expect(memcmp(open.area, batch, size) == 0);

    size_t payload_size = size - TRI_BATCH_HEADER_SIZE;
    uint8_t *payload = copy(batch + TRI_BATCH_HEADER_SIZE, payload_size), *again = block(size);
    tri_chunk chunk = {payload, payload_size, header->entries_size, header->count};
    expect(header->count == 0 ||
           tri_check_payload(payload, payload_size, header->count, header->entries_size) == TRI_OK);
    expect(tri_seal_batch(&chunk, header->count ? 1 : 0, header, again, size) == TRI_OK);
    expect(memcmp(again, batch, size) == 0);
    free(open.area), free(open.lengths), free(open.types), free(payload), free(again);
}

/* Reads a buffer in every way; the ways must agree. */
static void read_all(const uint8_t *batch, size_t size)
{
    tri_batch_header header = {0}, verified = {0};
    int read = tri_read_header(batch, size, &header);
    int verify = tri_verify_batch(batch, size, &verified);
    expect(tri_read_header(batch, size, NULL) == read && tri_verify_batch(batch, size, NULL) == verify);
    expect(read == TRI_OK ? header.length <= size : verify == read);
    size_t words = (size_t)2 * (read == TRI_OK ? header.count : 0);
    uint32_t *spans = block(words * sizeof *spans), *decoded = block(words * sizeof *decoded);
    int walk = tri_walk_batch(batch, size, spans, words), decode = tri_decode_batch(batch, size, decoded, words);
    expect(decode == verify);
    expect(verify == TRI_PAYLOAD_DAMAGED || walk == verify);
    if (walk == TRI_OK) {
        uint64_t sum = 0;
        for (uint32_t number = 0; number < header.count; number++) {
            expect(spans[number] == TRI_BATCH_HEADER_SIZE + sum);
            sum += spans[header.count + number];
        }
        expect(sum == header.entries_size && header.length == size);
        if (words)
            expect(tri_walk_batch(batch, size, spans, words - 1) == TRI_NO_ROOM);
    }
    if (decode == TRI_OK) {
        expect(memcmp(spans, decoded, words * sizeof *spans) == 0);
        expect(verified.header_crc == header.header_crc && verified.length == size);
        make_again(batch, size, &verified, decoded);
        sound_inputs++;
    }
    free(spans), free(decoded);
}

static void hostile_batch(input *from, int repaired, int lengths)
{
    size_t size;
    uint8_t *batch = take_rest(from, &size);
    if (repaired)
        repair(batch, size, lengths);
    read_all(batch, size);
    free(batch);
}

static void hostile_payload(input *from)
{
    uint32_t count = take_doubtful(from, 40), entries_size = take_doubtful(from, 400);
    size_t size;
    uint8_t *payload = take_rest(from, &size);
    int checked = tri_check_payload(payload, size, count, entries_size);
    tri_chunk chunk = {payload, size, entries_size, (uint16_t)count};
    tri_batch_header header = {.kind = (uint8_t)(1 + count % 6), .index = 7};
    size_t length = TRI_BATCH_HEADER_SIZE + size;
    uint8_t *batch = block(length);
    int sealed = tri_seal_batch(&chunk, 1, &header, batch, length);
    if (checked == TRI_OK) {
        expect(sealed == (header.kind <= TRI_TICK ? TRI_OK : TRI_BAD_FIELD));
        if (sealed == TRI_OK)
            expect(tri_verify_batch(batch, length, NULL) == TRI_OK);
        sound_inputs++;
    }
    free(batch), free(payload);
}

enum { MAX_SPANS = 16 };

/* What is left of the input is the buffer, and spans of it go to an open batch in one call or two. */
static void hostile_spans(input *from)
{
    uint32_t count = take_below(from, MAX_SPANS), calls = 1 + take_below(from, 2);
    uint32_t offsets[MAX_SPANS], lengths[MAX_SPANS];
    uint8_t types[MAX_SPANS];
    for (uint32_t number = 0; number < count; number++) {
        offsets[number] = take_doubtful(from, 64);
        lengths[number] = take_doubtful(from, 64);
        types[number] = (uint8_t)(take(from, 1) % 255 + (take(from, 1) != 7));
    }
    tri_open_batch open = {.area_capacity = TRI_BATCH_HEADER_SIZE + take_below(from, 600),
                           .count_capacity = take_below(from, 24),
                           .max_size = take_doubtful(from, 600),
                           .max_count = take_doubtful(from, 24)};
    open.area = block(open.area_capacity);
    open.lengths = block((size_t)4 * open.count_capacity);
    open.types = block(open.count_capacity);
    size_t size;
    uint8_t *buffer = take_rest(from, &size);

    uint32_t entries = 0, bytes = 0, first = 0;
    for (uint32_t call = 0; call < calls; call++) {
        uint32_t taken;
        int stop = tri_append_spans(&open, buffer, size, offsets, lengths, types, count, &taken);
        expect(taken <= count && (taken == count) == (stop == TRI_OK));
        expect(stop == TRI_OK || stop == TRI_BATCH_FULL || taken == 0);
        entries += taken;
        first = call ? first : taken;
        for (uint32_t number = 0; number < taken; number++)
            bytes += lengths[number];
        expect(open.count == entries && open.entries_size == bytes && entries <= open.max_count);
        expect(!taken || tri_payload_size(entries, bytes) <= open.max_size);
    }
    tri_batch_header header = {.kind = TRI_NORMAL, .index = 1};
    uint64_t sealed = 0;
    int error = tri_seal_open(&open, &header, &sealed);
    expect(error == (entries ? TRI_OK : TRI_NO_ENTRIES));
    if (error == TRI_OK) {
        uint8_t *batch = copy(open.area, sealed);
        uint32_t spans[2 * 2 * MAX_SPANS];
        expect(tri_decode_batch(batch, sealed, spans, (size_t)2 * entries) == TRI_OK);
        for (uint32_t number = 0; number < first; number++) {
            expect(spans[entries + number] == lengths[number]);
            expect(memcmp(batch + spans[number], buffer + offsets[number], lengths[number]) == 0);
        }
        expect(open.count == 0 && open.entries_size == 0);
        sound_inputs++;
        free(batch);
    }
    free(open.area), free(open.lengths), free(open.types), free(buffer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    input from = {data, size};
    switch (take(&from, 1) % 5) {
    case 0:
        hostile_batch(&from, 0, 0);
        break;
    case 1:
        hostile_batch(&from, 1, 0);
        break;
    case 2:
        hostile_batch(&from, 1, 1);
        break;
    case 3:
        hostile_payload(&from);
        break;
    default:
        hostile_spans(&from);
    }
    return 0;
}
