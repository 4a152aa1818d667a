/* Hostile entries and blocks against the C code of block records, for the sanitizers: every buffer is a heap
 * block of exactly its size, so that one byte read or written too far is an error. Prints how many damaged
 * blocks were found damaged, of how many; the test checks both.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "stream.h"

enum { ENTRIES = 12, ROOM = 1024 };

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

/* Entries of which most are sound, some lie about their lengths, and some lie outside of the buffer. */
static uint8_t *random_entries(size_t *size, uint32_t *offsets, uint32_t *lengths, uint32_t count)
{
    *size = 0;
    for (uint32_t i = 0; i < count; i++) {
        offsets[i] = (uint32_t)*size;
        lengths[i] = draw(8) ? 8 + draw(60) : draw(8);
        *size += lengths[i];
    }
    uint8_t *buffer = block(*size);
    for (size_t i = 0; i < *size; i++)
        buffer[i] = (uint8_t)draw(3);
    for (uint32_t i = 0; i < count; i++) {
        if (lengths[i] < 8 || draw(8) == 0)
            continue;
        uint32_t left = lengths[i] - 8, subject = left ? 1 + draw(left) : 0;
        tri_store16(buffer + offsets[i], (uint16_t)subject);
        tri_store16(buffer + offsets[i] + 2, 0);
        tri_store32(buffer + offsets[i] + 4, draw(left - subject + 1));
    }
    if (draw(4) == 0)
        offsets[draw(count)] = draw(2) ? UINT32_MAX - draw(9) : (uint32_t)*size - draw(3);
    if (draw(8) == 0)
        lengths[draw(count)] = UINT32_MAX - draw(9);
    return buffer;
}

/* Stores a run in a block of so much room; gives what was used of it. */
static uint32_t store(uint8_t *out, uint32_t room)
{
    uint32_t offsets[ENTRIES], lengths[ENTRIES], group_of[ENTRIES], table[32], ids[ENTRIES];
    uint32_t record_offsets[ENTRIES], record_sizes[ENTRIES], record_ids[ENTRIES], count = 1 + draw(ENTRIES);
    uint64_t counts[ENTRIES] = {0}, firsts[ENTRIES] = {0}, lasts[ENTRIES] = {0}, results[ENTRIES];
    tri_subject_group groups[ENTRIES];
    size_t size;
    uint8_t *buffer = random_entries(&size, offsets, lengths, count);
    uint32_t found = tri_group_publishes(buffer, size, offsets, lengths, count, table, 32, groups, group_of);
    expect(found <= count, "no more groups than entries");
    for (uint32_t i = 0; i < found; i++)
        ids[i] = draw(6) ? i : TRI_NO_SUBJECT;
    tri_store_job job = {.sequence = 1 + draw(9), .max_message_size = draw(2) ? UINT64_MAX : draw(40), .room = room};
    tri_store_publishes(buffer, offsets, lengths, group_of, count, ids, counts, firsts, lasts, out, record_offsets,
                        record_sizes, record_ids, results, &job);
    expect(job.used <= room && job.entries <= count && job.records <= job.entries, "within what was given");
    free(buffer);
    return (uint32_t)job.used;
}

static uint32_t scan(const uint8_t *data, size_t size, tri_scan_result *result)
{
    uint32_t capacity = tri_count_records(data, size) + 1, table_size = 2;
    while (table_size < 2 * capacity)
        table_size *= 2;
    uint32_t *table = block(table_size * sizeof *table), *group_of = block(capacity * sizeof *group_of);
    uint32_t *offsets = block(capacity * sizeof *offsets), *sizes = block(capacity * sizeof *sizes);
    uint32_t *starts = block(capacity * sizeof *starts);
    uint64_t *sequences = block(capacity * sizeof *sequences);
    int64_t *values = block(capacity * sizeof *values);
    tri_subject_group *groups = block(capacity * sizeof *groups);
    tri_scan_block(data, size, capacity, table, table_size, groups, group_of, offsets, sizes, sequences, starts,
                   values, result);
    for (uint32_t i = 0; i < result->records; i++)
        expect(group_of[i] < result->groups, "every record has a group");
    free(table), free(group_of), free(offsets), free(sizes), free(starts), free(sequences), free(values), free(groups);
    return result->error;
}

int main(int argc, char **argv)
{
    uint32_t rounds = argc > 1 ? (uint32_t)atoi(argv[1]) : 1000, damaged = 0, detected = 0;
    for (uint32_t round = 0; round < rounds; round++) {
        uint32_t room = draw(ROOM);
        uint8_t *out = block(room);
        uint32_t used = store(out, room);
        tri_scan_result result;
        uint8_t *exact = block(used);
        memcpy(exact, out, used);
        expect(scan(exact, used, &result) == TRI_RECORD_OK && result.offset == used, "what was stored is sound");
        if (used) {
            exact[draw(used)] ^= (uint8_t)(1 + draw(255));
            damaged++;
            detected += scan(exact, used, &result) != TRI_RECORD_OK;
            expect(tri_check_record(exact, used) != TRI_RECORD_OK, "a damaged row is no record");
        }
        for (uint32_t i = 0; i < 4 && used >= 4; i++)
            tri_store32(exact + 8 * draw(used / 8), draw(2) ? UINT32_MAX - draw(64) : draw(200));
        scan(exact, used, &result);
        free(exact);
        free(out);
    }
    printf("%u %u\n", detected, damaged);
    return 0;
}
