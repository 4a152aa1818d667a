#include "batch.h"

#include <string.h>

#include "bytes.h"
#include "crc32c.h"

/* Where each field of the header begins. */
enum {
    AT_MAGIC = 0,
    AT_VERSION = 2,
    AT_KIND = 3,
    AT_LENGTH = 4,
    AT_GROUP = 8,
    AT_COUNT = 12,
    AT_FLAGS = 14,
    AT_INCARNATION = 16,
    AT_INDEX = 24,
    AT_TERM = 32,
    AT_PREVIOUS_TERM = 40,
    AT_TIME = 48,
    AT_ENTRIES_SIZE = 56,
    AT_PAYLOAD_CRC = 60,
    AT_RESERVED = 64,
    AT_HEADER_CRC = 68
};
_Static_assert(AT_HEADER_CRC + 4 == TRI_BATCH_HEADER_SIZE, "the checksum ends the header");

static const uint64_t max_batch_size = UINT32_MAX - 7; /* 32 bits and a multiple of 8 */

static int may_be_empty(uint8_t kind)
{
    return kind == TRI_NOOP || kind == TRI_TICK;
}

uint64_t tri_payload_size(uint32_t count, uint64_t entries_size)
{
    return tri_pad8(entries_size) + tri_pad8((uint64_t)5 * count);
}

static int all_zero(const uint8_t *bytes, size_t size)
{
    uint8_t seen = 0;
    for (size_t at = 0; at < size; at++)
        seen |= bytes[at];
    return seen == 0;
}

/* Where a payload's parts begin, from its begin. */
typedef struct {
    size_t table, types, end;
} layout;

static layout payload_layout(uint32_t count, uint32_t entries_size)
{
    size_t table = tri_pad8(entries_size), types = table + (size_t)4 * count;
    return (layout){table, types, types + count};
}

static int check_padding(const uint8_t *payload, size_t size, layout at, uint32_t entries_size)
{
    int fine = all_zero(payload + entries_size, at.table - entries_size) && all_zero(payload + at.end, size - at.end);
    return fine ? TRI_OK : TRI_BAD_PADDING;
}

static int check_types(const uint8_t *payload, layout at)
{
    size_t count = at.end - at.types;
    return count && memchr(payload + at.types, 0, count) ? TRI_BAD_TYPE : TRI_OK;
}

/* The checks of tri_check_payload but for the size, which is known to be right. */
static int check_table(const uint8_t *payload, size_t size, uint32_t count, uint32_t entries_size)
{
    layout at = payload_layout(count, entries_size);
    int error = check_padding(payload, size, at, entries_size);
    if (error)
        return error;
    uint64_t sum = 0; /* 65,535 times 32 bits fit */
    for (const uint8_t *length = payload + at.table; length < payload + at.types; length += 4)
        sum += tri_load32(length);
    return sum == entries_size ? check_types(payload, at) : TRI_BAD_SUM;
}

/* check_table, and where the entries lie, in one pass over the table. `spans` has room for two words per entry.
 * The sum is checked in 64 bits, so in a table that is sound no offset leaves the entries area. */
static int walk_table(const uint8_t *payload, size_t size, uint32_t count, uint32_t entries_size, uint32_t *spans)
{
    uint32_t *offsets = spans, *lengths = spans + count;
    layout at = payload_layout(count, entries_size);
    int error = check_padding(payload, size, at, entries_size);
    if (error)
        return error;
    const uint8_t *length = payload + at.table;
    uint64_t sum = TRI_BATCH_HEADER_SIZE;
    uint32_t number = 0;
    for (; count - number >= 2; number += 2, length += 8) { /* by twos: each sum waits for the one before */
        uint32_t first = tri_load32(length), second = tri_load32(length + 4);
        offsets[number] = (uint32_t)sum;
        offsets[number + 1] = (uint32_t)(sum + first);
        lengths[number] = first;
        lengths[number + 1] = second;
        sum += (uint64_t)first + second;
    }
    if (number < count) {
        offsets[number] = (uint32_t)sum;
        lengths[number] = tri_load32(length);
        sum += lengths[number];
    }
    sum -= TRI_BATCH_HEADER_SIZE;
    return sum == entries_size ? check_types(payload, at) : TRI_BAD_SUM;
}

int tri_check_payload(const uint8_t *payload, size_t size, uint32_t count, uint64_t entries_size)
{
    if (count > TRI_MAX_ENTRIES)
        return TRI_BATCH_FULL;
    if (count == 0)
        return TRI_NO_ENTRIES;
    if (entries_size > UINT32_MAX || tri_payload_size(count, entries_size) != size)
        return TRI_BAD_LENGTH;
    return check_table(payload, size, count, (uint32_t)entries_size);
}

/* A payload being written: its bytes are summed soon after they were copied, while the cache has them. */
typedef struct {
    uint8_t *at;
    const uint8_t *summed_to;
    uint32_t crc;
} writer;

enum { SUM_EVERY = 16384 }; /* half of a level-1 cache */

static void sum_written(writer *out)
{
    out->crc = tri_crc32c(out->crc, out->summed_to, (size_t)(out->at - out->summed_to));
    out->summed_to = out->at;
}

static void put(writer *out, const uint8_t *bytes, size_t size)
{
    while (size) {
        size_t part = size < SUM_EVERY ? size : SUM_EVERY;
        memcpy(out->at, bytes, part);
        out->at += part;
        bytes += part;
        size -= part;
        if (out->at - out->summed_to >= SUM_EVERY)
            sum_written(out);
    }
}

static void put_padding(writer *out, uint64_t size_before)
{
    size_t size = (size_t)(tri_pad8(size_before) - size_before);
    memset(out->at, 0, size);
    out->at += size;
}

static uint32_t write_payload(const tri_chunk *chunks, size_t chunk_count, uint64_t count, uint64_t entries_size,
                              uint8_t *payload)
{
    writer out = {payload, payload, 0};
    for (size_t number = 0; number < chunk_count; number++)
        put(&out, chunks[number].payload, chunks[number].entries_size);
    put_padding(&out, entries_size);
    for (size_t number = 0; number < chunk_count; number++)
        put(&out, chunks[number].payload + tri_pad8(chunks[number].entries_size), (size_t)4 * chunks[number].count);
    for (size_t number = 0; number < chunk_count; number++) {
        const tri_chunk *chunk = &chunks[number];
        put(&out, chunk->payload + tri_pad8(chunk->entries_size) + (size_t)4 * chunk->count, chunk->count);
    }
    put_padding(&out, 5 * count);
    sum_written(&out);
    return out.crc;
}

static int check_identity(const tri_batch_header *header, uint64_t count)
{
    if (header->kind < TRI_NORMAL || header->kind > TRI_TICK || header->flags)
        return TRI_BAD_FIELD;
    return count == 0 && !may_be_empty(header->kind) ? TRI_NO_ENTRIES : TRI_OK;
}

static void write_header(const tri_batch_header *header, uint8_t *out, uint32_t length, uint16_t count,
                         uint32_t entries_size, uint32_t payload_crc)
{
    tri_store16(out + AT_MAGIC, TRI_BATCH_MAGIC);
    out[AT_VERSION] = TRI_BATCH_VERSION;
    out[AT_KIND] = header->kind;
    tri_store32(out + AT_LENGTH, length);
    tri_store32(out + AT_GROUP, header->group);
    tri_store16(out + AT_COUNT, count);
    tri_store16(out + AT_FLAGS, header->flags);
    tri_store64(out + AT_INCARNATION, header->incarnation);
    tri_store64(out + AT_INDEX, header->index);
    tri_store64(out + AT_TERM, header->term);
    tri_store64(out + AT_PREVIOUS_TERM, header->previous_term);
    tri_store64(out + AT_TIME, (uint64_t)header->time);
    tri_store32(out + AT_ENTRIES_SIZE, entries_size);
    tri_store32(out + AT_PAYLOAD_CRC, payload_crc);
    tri_store32(out + AT_RESERVED, 0);
    tri_store32(out + AT_HEADER_CRC, tri_crc32c(0, out, AT_HEADER_CRC));
}

int tri_seal_batch(const tri_chunk *chunks, size_t chunk_count, const tri_batch_header *header, uint8_t *out,
                   size_t out_size)
{
    uint64_t count = 0, entries_size = 0;
    for (size_t number = 0; number < chunk_count; number++) {
        const tri_chunk *chunk = &chunks[number];
        count += chunk->count;
        entries_size += chunk->entries_size;
        if (count > TRI_MAX_ENTRIES || entries_size > UINT32_MAX)
            return TRI_BATCH_FULL;
        if (chunk->payload_size != tri_payload_size(chunk->count, chunk->entries_size))
            return TRI_BAD_LENGTH;
    }
    uint64_t length = TRI_BATCH_HEADER_SIZE + tri_payload_size((uint32_t)count, entries_size);
    if (length > max_batch_size)
        return TRI_BATCH_FULL;
    int error = check_identity(header, count);
    if (error)
        return error;
    if (length != out_size)
        return TRI_BAD_LENGTH;

    uint32_t payload_crc =
        write_payload(chunks, chunk_count, count, entries_size, out + TRI_BATCH_HEADER_SIZE);
    write_header(header, out, (uint32_t)length, (uint16_t)count, (uint32_t)entries_size, payload_crc);
    return TRI_OK;
}

static uint64_t open_size(uint64_t count, uint64_t entries_size)
{
    return TRI_BATCH_HEADER_SIZE + tri_payload_size((uint32_t)count, entries_size);
}

/* The smaller one of what the caller allows and what a batch can have. */
static uint64_t capped(uint64_t cap, uint64_t limit)
{
    return cap < limit ? cap : limit;
}

int tri_append_spans(tri_open_batch *to, const uint8_t *buffer, size_t size, const uint32_t *offsets,
                     const uint32_t *lengths, const uint8_t *types, uint32_t count, uint32_t *taken)
{
    /* A copy, because the compiler must expect each byte stored to change what `to` points to. */
    const tri_open_batch open = *to;
    uint64_t max_length = capped((uint64_t)TRI_BATCH_HEADER_SIZE + open.max_size, max_batch_size);
    uint64_t max_count = capped(open.max_count, TRI_MAX_ENTRIES);
    uint64_t entries = open.count, entries_size = open.entries_size;
    uint8_t *at = open.area + TRI_BATCH_HEADER_SIZE + entries_size;
    uint32_t number = 0;
    *taken = 0;
    for (; number < count; number++) {
        uint32_t offset = offsets[number], length = lengths[number];
        if (offset > size || length > size - offset)
            return TRI_BAD_LENGTH;
        if (types[number] == 0)
            return TRI_BAD_TYPE;
        uint64_t length_then = open_size(entries + 1, entries_size + length);
        if (entries >= max_count || length_then > max_length)
            break;
        if (entries >= open.count_capacity || length_then > open.area_capacity)
            return TRI_NO_ROOM;
        memcpy(at, buffer + offset, length);
        tri_store32(open.lengths + 4 * entries, length);
        open.types[entries] = types[number];
        at += length;
        entries_size += length;
        entries++;
    }
    /* Only now does what was copied belong to the open batch. */
    to->count = (uint32_t)entries;
    to->entries_size = (uint32_t)entries_size;
    *taken = number;
    return number < count ? TRI_BATCH_FULL : TRI_OK;
}

/* Padding, table and padding behind the entries. */
static int finish_payload(const tri_open_batch *open, uint64_t *length)
{
    *length = open_size(open->count, open->entries_size);
    if (*length > open->area_capacity)
        return TRI_NO_ROOM;
    uint8_t *payload = open->area + TRI_BATCH_HEADER_SIZE;
    uint8_t *table = payload + tri_pad8(open->entries_size);
    uint8_t *types = table + (size_t)4 * open->count, *end = types + open->count;
    memset(payload + open->entries_size, 0, (size_t)(table - payload) - open->entries_size);
    if (open->count) {
        memcpy(table, open->lengths, (size_t)4 * open->count);
        memcpy(types, open->types, open->count);
    }
    memset(end, 0, (size_t)(open->area + *length - end));
    return TRI_OK;
}

int tri_close_payload(tri_open_batch *from, uint64_t *size)
{
    if (from->count == 0)
        return TRI_NO_ENTRIES;
    uint64_t length;
    int error = finish_payload(from, &length);
    if (error)
        return error;
    *size = length - TRI_BATCH_HEADER_SIZE;
    from->count = from->entries_size = 0;
    return TRI_OK;
}

int tri_seal_open(tri_open_batch *from, const tri_batch_header *header, uint64_t *size)
{
    int error = check_identity(header, from->count);
    if (!error)
        error = finish_payload(from, size);
    if (error)
        return error;
    uint32_t payload_crc =
        tri_crc32c(0, from->area + TRI_BATCH_HEADER_SIZE, (size_t)*size - TRI_BATCH_HEADER_SIZE);
    write_header(header, from->area, (uint32_t)*size, (uint16_t)from->count, from->entries_size, payload_crc);
    from->count = from->entries_size = 0;
    return TRI_OK;
}

int tri_read_header(const uint8_t *buffer, size_t size, tri_batch_header *header)
{
    if (size < TRI_BATCH_HEADER_SIZE)
        return TRI_SHORT_BUFFER;
    if (tri_load16(buffer + AT_MAGIC) != TRI_BATCH_MAGIC)
        return TRI_BAD_MAGIC;
    uint32_t header_crc = tri_load32(buffer + AT_HEADER_CRC);
    if (tri_crc32c(0, buffer, AT_HEADER_CRC) != header_crc)
        return TRI_HEADER_DAMAGED;

    uint8_t version = buffer[AT_VERSION], kind = buffer[AT_KIND];
    uint16_t count = tri_load16(buffer + AT_COUNT), flags = tri_load16(buffer + AT_FLAGS);
    uint32_t length = tri_load32(buffer + AT_LENGTH), entries_size = tri_load32(buffer + AT_ENTRIES_SIZE);
    if (version > TRI_BATCH_VERSION || kind > TRI_TICK || flags)
        return TRI_NEWER_VERSION;
    if (version == 0 || kind == 0 || tri_load32(buffer + AT_RESERVED))
        return TRI_BAD_FIELD;
    if (count == 0 && !may_be_empty(kind))
        return TRI_NO_ENTRIES;
    if (length != TRI_BATCH_HEADER_SIZE + tri_payload_size(count, entries_size))
        return TRI_BAD_LENGTH;
    if (size < length)
        return TRI_SHORT_BUFFER;
    if (!header)
        return TRI_OK;

    *header = (tri_batch_header){
        .incarnation = tri_load64(buffer + AT_INCARNATION),
        .index = tri_load64(buffer + AT_INDEX),
        .term = tri_load64(buffer + AT_TERM),
        .previous_term = tri_load64(buffer + AT_PREVIOUS_TERM),
        .time = (int64_t)tri_load64(buffer + AT_TIME),
        .length = length,
        .group = tri_load32(buffer + AT_GROUP),
        .entries_size = entries_size,
        .payload_crc = tri_load32(buffer + AT_PAYLOAD_CRC),
        .header_crc = header_crc,
        .count = count,
        .flags = flags,
        .kind = kind,
    };
    return TRI_OK;
}

/* Check a buffer that must be exactly one batch, but for its table; with or without the payload's checksum. */
static int check_batch(const uint8_t *buffer, size_t size, int with_checksum, tri_batch_header *header)
{
    int error = tri_read_header(buffer, size, header);
    if (error)
        return error;
    if (size != header->length)
        return TRI_BAD_LENGTH;
    size_t payload_size = size - TRI_BATCH_HEADER_SIZE;
    if (with_checksum && tri_crc32c(0, buffer + TRI_BATCH_HEADER_SIZE, payload_size) != header->payload_crc)
        return TRI_PAYLOAD_DAMAGED;
    return TRI_OK;
}

int tri_verify_batch(const uint8_t *buffer, size_t size, tri_batch_header *header)
{
    tri_batch_header unwanted;
    if (!header)
        header = &unwanted;
    int error = check_batch(buffer, size, 1, header);
    if (error)
        return error;
    return check_table(buffer + TRI_BATCH_HEADER_SIZE, size - TRI_BATCH_HEADER_SIZE, header->count,
                       header->entries_size);
}

static int walk(const uint8_t *buffer, size_t size, int with_checksum, uint32_t *spans, size_t capacity)
{
    tri_batch_header header;
    int error = check_batch(buffer, size, with_checksum, &header);
    if (error)
        return error;
    if (capacity < (size_t)2 * header.count)
        return TRI_NO_ROOM;
    return walk_table(buffer + TRI_BATCH_HEADER_SIZE, size - TRI_BATCH_HEADER_SIZE, header.count,
                      header.entries_size, spans);
}

int tri_walk_batch(const uint8_t *buffer, size_t size, uint32_t *spans, size_t capacity)
{
    return walk(buffer, size, 0, spans, capacity);
}

int tri_decode_batch(const uint8_t *buffer, size_t size, uint32_t *spans, size_t capacity)
{
    return walk(buffer, size, 1, spans, capacity);
}
