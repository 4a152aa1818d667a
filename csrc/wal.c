#include "wal.h"

#include <string.h>

#include "batch.h"
#include "bytes.h"
#include "crc32c.h"

/* Where each field of a frame begins. */
enum {
    AT_TAG = 0,
    AT_KIND = 4,
    AT_FLAGS = 5,
    AT_LENGTH = 8,
    AT_GROUP = 12,
    AT_SEQUENCE = 16,
    AT_INCARNATION = 24,
    AT_INDEX = 32,
    AT_TERM = 40,
    AT_BODY_CRC = 48,
    AT_FRAME_CRC = 52
};
_Static_assert(AT_FRAME_CRC + 4 == TRI_FRAME_SIZE, "the checksum ends the frame");

/* And of a trailer's body. */
enum {
    AT_TOTAL = 0,
    AT_CHAIN_BEFORE = 4,
    AT_CHAIN_BEHIND = 8,
    AT_COUNT = 12,
    HEAD_SIZE = TRI_TRAILER_HEAD,
    TAIL_SIZE = TRI_TRAILER_TAIL
};

uint64_t tri_wal_trailer_size(uint32_t count, uint64_t bodies)
{
    uint64_t before = (uint64_t)count * TRI_FRAME_SIZE + bodies;
    uint64_t least = TRI_FRAME_SIZE + HEAD_SIZE + (uint64_t)count * TRI_FRAME_SIZE + TAIL_SIZE;
    uint64_t past = (before + least) % TRI_SECTOR;
    return least + (past ? TRI_SECTOR - past : 0);
}

static void seal_frame(uint8_t *frame, const tri_wal_seal *seal)
{
    tri_store32(frame + AT_TAG, seal->tag);
    tri_store64(frame + AT_SEQUENCE, seal->sequence);
    tri_store32(frame + AT_FRAME_CRC, tri_crc32c(seal->seed, frame, AT_FRAME_CRC));
}

static int adds_up(const uint8_t *frames, uint32_t count, uint32_t bodies)
{
    uint64_t sum = 0;
    for (uint32_t number = 0; number < count; number++)
        sum += tri_load32(frames + (size_t)number * TRI_FRAME_SIZE + AT_LENGTH);
    return sum == bodies;
}

int tri_wal_seal_write(uint8_t *frames, uint32_t count, tri_wal_seal *seal, uint8_t *trailer, size_t size)
{
    size_t copies = (size_t)count * TRI_FRAME_SIZE;
    uint64_t total = copies + (uint64_t)seal->bodies + size;
    if (size != tri_wal_trailer_size(count, seal->bodies) || total > UINT32_MAX)
        return -1;
    if (!adds_up(frames, count, seal->bodies))
        return -1;

    uint32_t chain = seal->chain;
    for (uint32_t number = 0; number < count; number++) {
        uint8_t *frame = frames + (size_t)number * TRI_FRAME_SIZE;
        seal_frame(frame, seal);
        chain = tri_crc32c(chain, frame + AT_FRAME_CRC, 4); /* a CRC over its own CRC would say nothing: only that */
    }
    uint8_t *body = trailer + TRI_FRAME_SIZE;
    size_t length = size - TRI_FRAME_SIZE;
    memset(trailer, 0, size);
    tri_store32(body + AT_TOTAL, (uint32_t)total);
    tri_store32(body + AT_CHAIN_BEFORE, seal->chain);
    tri_store32(body + AT_CHAIN_BEHIND, chain);
    tri_store32(body + AT_COUNT, count);
    if (count)
        memcpy(body + HEAD_SIZE, frames, copies);
    tri_store32(body + length - TAIL_SIZE, (uint32_t)size);
    tri_store32(body + length - TAIL_SIZE + 4, seal->tag);

    trailer[AT_KIND] = TRI_WAL_TRAILER;
    tri_store32(trailer + AT_LENGTH, (uint32_t)length);
    tri_store64(trailer + AT_INCARNATION, seal->newest);
    tri_store64(trailer + AT_INDEX, seal->known_synced);
    tri_store64(trailer + AT_TERM, seal->oldest);
    tri_store32(trailer + AT_BODY_CRC, tri_crc32c(0, body, length));
    seal_frame(trailer, seal);
    seal->chain = chain;
    return 0;
}

static tri_wal_record record_of(const uint8_t *frame, uint32_t position)
{
    return (tri_wal_record){
        .incarnation = tri_load64(frame + AT_INCARNATION),
        .index = tri_load64(frame + AT_INDEX),
        .term = tri_load64(frame + AT_TERM),
        .group = tri_load32(frame + AT_GROUP),
        .offset = position + TRI_FRAME_SIZE,
        .length = tri_load32(frame + AT_LENGTH),
        .crc = tri_load32(frame + AT_BODY_CRC),
        .kind = frame[AT_KIND],
        .flags = frame[AT_FLAGS],
    };
}

/* Whether the body is sound and the very one that the frame in front of it names. */
static int is_named(const uint8_t *body, tri_wal_record *record)
{
    if (record->kind != TRI_WAL_BATCH)
        return tri_crc32c(0, body, record->length) == record->crc;
    if (record->flags & TRI_WAL_LOST)
        return record->length == 0;
    tri_batch_header header;
    if (tri_verify_batch(body, record->length, &header) != TRI_OK)
        return 0;
    record->batch_kind = header.kind;
    return header.group == record->group && header.incarnation == record->incarnation &&
           header.index == record->index && header.term == record->term && header.header_crc == record->crc;
}

/* The size of the trailer whose frame begins at `frame`, `left` bytes before the end, if it ends the cursor's write:
 * one that has `before` bytes in front of the trailer and `count` records. Else 0. */
static uint32_t trailer_size(const uint8_t *frame, size_t left, uint32_t before, uint32_t count,
                             const tri_wal_cursor *cursor)
{
    const uint8_t *body = frame + TRI_FRAME_SIZE;
    uint32_t length = tri_load32(frame + AT_LENGTH);
    if (length > left - TRI_FRAME_SIZE || length < HEAD_SIZE + TAIL_SIZE)
        return 0;
    if (count > (length - HEAD_SIZE - TAIL_SIZE) / TRI_FRAME_SIZE)
        return 0;
    if (tri_crc32c(cursor->seed, frame, AT_FRAME_CRC) != tri_load32(frame + AT_FRAME_CRC))
        return 0;
    if (tri_crc32c(0, body, length) != tri_load32(frame + AT_BODY_CRC))
        return 0;
    if (tri_load32(body + AT_TOTAL) != before + TRI_FRAME_SIZE + length)
        return 0;
    if (tri_load32(body + AT_COUNT) != count || tri_load32(body + AT_CHAIN_BEFORE) != cursor->chain)
        return 0;
    return TRI_FRAME_SIZE + length;
}

/* Whether the trailer repeats every frame as it lies in front of its record. */
static int repeats(const uint8_t *data, uint32_t base, const uint8_t *copies, const tri_wal_record *records,
                   uint32_t count)
{
    for (uint32_t number = 0; number < count; number++) {
        const uint8_t *frame = data + (records[number].offset - base) - TRI_FRAME_SIZE;
        if (memcmp(frame, copies + (size_t)number * TRI_FRAME_SIZE, TRI_FRAME_SIZE))
            return 0;
    }
    return 1;
}

enum outcome { SOUND, NOT_SOUND, NO_ROOM };

/* Reads the write at the cursor and moves behind it, if it is sound. */
static enum outcome read_write(const uint8_t *data, size_t size, tri_wal_cursor *cursor, tri_wal_record *records,
                               uint32_t room)
{
    uint32_t base = cursor->base, start = cursor->position - base, at = start, count = 0;
    uint64_t sequence = cursor->sequence;
    for (;;) {
        if (size < at || size - at < TRI_FRAME_SIZE)
            return NOT_SOUND;
        const uint8_t *frame = data + at;
        if (tri_load32(frame + AT_TAG) != cursor->tag)
            return NOT_SOUND;
        uint64_t found = tri_load64(frame + AT_SEQUENCE);
        if (found == 0 || found > cursor->limit || (sequence && found != sequence))
            return NOT_SOUND;
        sequence = found;
        if (frame[AT_KIND] == TRI_WAL_TRAILER)
            break;
        tri_wal_record record = record_of(frame, base + at);
        if (record.kind == 0 || record.length > size - at - TRI_FRAME_SIZE)
            return NOT_SOUND;
        if (count == room)
            return NO_ROOM;
        records[count++] = record;
        at += TRI_FRAME_SIZE + record.length;
    }

    const uint8_t *frame = data + at, *body = frame + TRI_FRAME_SIZE;
    uint32_t trailer = trailer_size(frame, size - at, at - start, count, cursor);
    if (!trailer || !repeats(data, base, body + HEAD_SIZE, records, count))
        return NOT_SOUND;
    uint32_t chain = cursor->chain;
    for (uint32_t number = 0; number < count; number++) /* a CRC over its own CRC would say nothing: only those */
        chain = tri_crc32c(chain, data + (records[number].offset - base) - 4, 4);
    if (chain != tri_load32(body + AT_CHAIN_BEHIND))
        return NOT_SOUND;
    for (uint32_t number = 0; number < count; number++)
        if (!is_named(data + (records[number].offset - base), &records[number]))
            return NOT_SOUND;

    cursor->newest = tri_load64(frame + AT_INCARNATION);
    cursor->known_synced = tri_load64(frame + AT_INDEX);
    cursor->oldest = tri_load64(frame + AT_TERM);
    cursor->last_start = cursor->position;
    cursor->last_records = count;
    cursor->position = base + at + trailer;
    cursor->sequence = sequence + 1;
    cursor->chain = chain;
    cursor->writes++;
    cursor->records += count;
    return SOUND;
}

int tri_wal_read(const uint8_t *data, size_t size, tri_wal_cursor *cursor, tri_wal_record *records,
                 uint32_t capacity)
{
    cursor->records = cursor->writes = cursor->last_records = 0;
    if (cursor->position < cursor->base)
        return 0;
    if (size > UINT32_MAX - cursor->base)
        size = UINT32_MAX - cursor->base; /* places have 32 bits */
    enum outcome outcome;
    do
        outcome = read_write(data, size, cursor, records + cursor->records, capacity - cursor->records);
    while (outcome == SOUND);
    return outcome == NO_ROOM;
}

int tri_wal_has_tag(const uint8_t *data, size_t size, uint32_t tag)
{
    for (size_t at = 0; at < size; at += TRI_SECTOR) {
        if (size - at >= 4 && tri_load32(data + at) == tag)
            return 1;
        if (size - at >= TRI_SECTOR && tri_load32(data + at + TRI_SECTOR - 4) == tag)
            return 1;
    }
    return 0;
}

/* The number of a group: groups are numbered as they are met. */
static uint32_t slot_of(uint32_t group, uint32_t *table, uint32_t mask, const tri_wal_record *records,
                        uint32_t *firsts, uint32_t *slots, uint32_t number)
{
    uint32_t at = group * 0x9E3779B1u;
    for (at ^= at >> 15;; at++) {
        uint32_t slot = table[at & mask];
        if (!slot) {
            table[at & mask] = ++*slots;
            firsts[*slots - 1] = number;
            return *slots - 1;
        }
        if (records[firsts[slot - 1]].group == group)
            return slot - 1;
    }
}

static int continues(const tri_wal_run *run, const tri_wal_record *record)
{
    return run->kind == TRI_WAL_BATCH && record->kind == TRI_WAL_BATCH && !run->flags && !record->flags &&
           run->group == record->group && run->incarnation == record->incarnation &&
           run->index + run->count == record->index;
}

uint32_t tri_wal_runs(const tri_wal_record *records, uint32_t count, tri_wal_run *runs, uint32_t *offsets,
                      uint32_t *lengths, uint32_t *crcs, uint64_t *terms, uint8_t *kinds, uint32_t *table,
                      uint32_t table_size, uint32_t *slots, uint32_t *starts, uint32_t *order)
{
    uint32_t groups = 0, found = 0;
    memset(table, 0, (size_t)table_size * sizeof *table);
    for (uint32_t number = 0; number < count; number++) /* `order` has each group's first record meanwhile */
        slots[number] = slot_of(records[number].group, table, table_size - 1, records, order, &groups, number);

    memset(starts, 0, ((size_t)groups + 1) * sizeof *starts);
    for (uint32_t number = 0; number < count; number++)
        starts[slots[number] + 1]++;
    for (uint32_t group = 0; group < groups; group++)
        starts[group + 1] += starts[group];
    for (uint32_t number = 0; number < count; number++)
        order[starts[slots[number]]++] = number;

    for (uint32_t place = 0; place < count; place++) {
        const tri_wal_record *record = &records[order[place]];
        offsets[place] = record->offset;
        lengths[place] = record->length;
        crcs[place] = record->crc;
        terms[place] = record->term;
        kinds[place] = record->batch_kind;
        if (found && continues(&runs[found - 1], record)) {
            runs[found - 1].count++;
            continue;
        }
        runs[found++] = (tri_wal_run){
            .incarnation = record->incarnation,
            .index = record->index,
            .group = record->group,
            .start = place,
            .count = 1,
            .kind = record->kind,
            .flags = record->flags,
        };
    }
    return found;
}
