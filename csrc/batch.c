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

/* The checks of tri_check_payload but for the size, which is known to be right. */
static int check_table(const uint8_t *payload, size_t size, uint32_t count, uint32_t entries_size)
{
    size_t table = tri_pad8(entries_size);
    size_t types = table + (size_t)4 * count;
    size_t end = types + count;
    if (!all_zero(payload + entries_size, table - entries_size) || !all_zero(payload + end, size - end))
        return TRI_BAD_PADDING;
    uint64_t sum = 0; /* 65,535 times 32 bits fit */
    for (uint32_t number = 0; number < count; number++)
        sum += tri_load32(payload + table + (size_t)4 * number);
    if (sum != entries_size)
        return TRI_BAD_SUM;
    if (count && memchr(payload + types, 0, count))
        return TRI_BAD_TYPE;
    return TRI_OK;
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
    for (const tri_chunk *chunk = chunks; chunk < chunks + chunk_count; chunk++)
        put(&out, chunk->payload, chunk->entries_size);
    put_padding(&out, entries_size);
    for (const tri_chunk *chunk = chunks; chunk < chunks + chunk_count; chunk++)
        put(&out, chunk->payload + tri_pad8(chunk->entries_size), (size_t)4 * chunk->count);
    for (const tri_chunk *chunk = chunks; chunk < chunks + chunk_count; chunk++)
        put(&out, chunk->payload + tri_pad8(chunk->entries_size) + (size_t)4 * chunk->count, chunk->count);
    put_padding(&out, 5 * count);
    sum_written(&out);
    return out.crc;
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
    if (header->kind < TRI_NORMAL || header->kind > TRI_TICK || header->flags)
        return TRI_BAD_FIELD;
    if (count == 0 && !may_be_empty(header->kind))
        return TRI_NO_ENTRIES;
    if (length != out_size)
        return TRI_BAD_LENGTH;

    uint32_t payload_crc =
        write_payload(chunks, chunk_count, count, entries_size, out + TRI_BATCH_HEADER_SIZE);
    tri_store16(out + AT_MAGIC, TRI_BATCH_MAGIC);
    out[AT_VERSION] = TRI_BATCH_VERSION;
    out[AT_KIND] = header->kind;
    tri_store32(out + AT_LENGTH, (uint32_t)length);
    tri_store32(out + AT_GROUP, header->group);
    tri_store16(out + AT_COUNT, (uint16_t)count);
    tri_store16(out + AT_FLAGS, header->flags);
    tri_store64(out + AT_INCARNATION, header->incarnation);
    tri_store64(out + AT_INDEX, header->index);
    tri_store64(out + AT_TERM, header->term);
    tri_store64(out + AT_PREVIOUS_TERM, header->previous_term);
    tri_store64(out + AT_TIME, (uint64_t)header->time);
    tri_store32(out + AT_ENTRIES_SIZE, (uint32_t)entries_size);
    tri_store32(out + AT_PAYLOAD_CRC, payload_crc);
    tri_store32(out + AT_RESERVED, 0);
    tri_store32(out + AT_HEADER_CRC, tri_crc32c(0, out, AT_HEADER_CRC));
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

int tri_verify_batch(const uint8_t *buffer, size_t size, tri_batch_header *header)
{
    int error = tri_read_header(buffer, size, header);
    if (error)
        return error;
    if (size != header->length)
        return TRI_BAD_LENGTH;
    const uint8_t *payload = buffer + TRI_BATCH_HEADER_SIZE;
    size_t payload_size = size - TRI_BATCH_HEADER_SIZE;
    if (tri_crc32c(0, payload, payload_size) != header->payload_crc)
        return TRI_PAYLOAD_DAMAGED;
    return check_table(payload, payload_size, header->count, header->entries_size);
}

int tri_walk_batch(const uint8_t *buffer, size_t size, uint32_t *offsets, uint32_t *lengths, size_t capacity)
{
    tri_batch_header header;
    int error = tri_read_header(buffer, size, &header);
    if (error)
        return error;
    if (size != header.length)
        return TRI_BAD_LENGTH;
    const uint8_t *payload = buffer + TRI_BATCH_HEADER_SIZE;
    error = check_table(payload, size - TRI_BATCH_HEADER_SIZE, header.count, header.entries_size);
    if (error)
        return error;
    if (capacity < header.count)
        return TRI_BATCH_FULL;
    /* The sum was checked in 64 bits, so no offset leaves the entries area. */
    const uint8_t *table = payload + tri_pad8(header.entries_size);
    uint32_t offset = TRI_BATCH_HEADER_SIZE;
    for (uint32_t number = 0; number < header.count; number++) {
        uint32_t length = tri_load32(table + (size_t)4 * number);
        offsets[number] = offset;
        lengths[number] = length;
        offset += length;
    }
    return TRI_OK;
}
