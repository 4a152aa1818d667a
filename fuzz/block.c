/* Fuzz target: block files as they are read, publishes that become records, and the index of a block. */
#include "stream.h"
#include "bytes.h"
#include "crc32c.h"
#include "fuzz.h"

unsigned long sound_inputs;

enum { ENTRIES = 12, SUBJECTS = 4, POSITIONS = 40 };

/* The records of a buffer, found by a scan with just the room that it asks for. */
static tri_scan_result scan(const uint8_t *data, size_t size)
{
    uint32_t capacity = tri_count_records(data, size) + 1, table_size = 2;
    while (table_size < 2 * capacity)
        table_size *= 2;
    uint32_t *table = block(table_size * sizeof *table), *group_of = block(capacity * sizeof *group_of);
    uint32_t *offsets = block(capacity * sizeof *offsets), *sizes = block(capacity * sizeof *sizes);
    uint32_t *starts = block(capacity * sizeof *starts);
    uint64_t *sequences = block(capacity * sizeof *sequences);
    int64_t *times = block(capacity * sizeof *times);
    tri_subject_group *groups = block(capacity * sizeof *groups);
    tri_scan_result found;
    tri_scan_block(data, size, capacity, table, table_size, groups, group_of, offsets, sizes, sequences, starts, times,
                   &found);
    expect(found.records < capacity && found.groups <= found.records && found.time_runs <= found.records);
    expect((found.error == TRI_RECORD_OK) == (found.offset == size));
    for (uint32_t i = 0; i < found.records; i++) {
        uint32_t end = i + 1 < found.records ? offsets[i + 1] : found.offset;
        uint8_t *record = copy(data + offsets[i], end - offsets[i]);
        expect(tri_check_record(record, end - offsets[i]) == TRI_RECORD_OK);
        expect(tri_load64(record + 8) == sequences[i] && (i == 0 || sequences[i] > sequences[i - 1]));
        const tri_subject_group *group = &groups[group_of[i]];
        expect(group_of[i] < found.groups && group->subject_len == tri_load16(record + 28));
        expect(memcmp(data + group->subject, record + TRI_RECORD_HEADER, group->subject_len) == 0);
        free(record);
    }
    free(table), free(group_of), free(offsets), free(sizes), free(starts), free(sequences), free(times), free(groups);
    return found;
}

/* Hostile bytes, of which every believable record gets a right checksum, so that the fields behind it are read. */
static void hostile_block(input *from, int repaired)
{
    size_t size;
    uint8_t *data = take_rest(from, &size);
    for (size_t at = 0; repaired && size - at >= TRI_RECORD_HEADER;) {
        uint32_t length = tri_load32(data + at);
        if (length < TRI_RECORD_HEADER || size - at < length)
            break;
        tri_store32(data + at + 4, tri_crc32c(0, data + at + 8, length - 8));
        at += length;
    }
    sound_inputs += scan(data, size).records > 0;
    free(data);
}

/* Entries, most of them publishes that are sound, some lying about their lengths, some outside of the buffer. */
static void hostile_publishes(input *from)
{
    uint32_t offsets[ENTRIES], lengths[ENTRIES], group_of[ENTRIES], table[2 * 16], ids[ENTRIES];
    uint32_t record_offsets[ENTRIES], record_sizes[ENTRIES], record_ids[ENTRIES], count = take_below(from, ENTRIES + 1);
    uint64_t counts[ENTRIES] = {0}, firsts[ENTRIES] = {0}, lasts[ENTRIES] = {0}, results[ENTRIES];
    tri_subject_group groups[ENTRIES];
    for (uint32_t i = 0; i < count; i++) {
        offsets[i] = take_doubtful(from, 200);
        lengths[i] = take_doubtful(from, 80);
    }
    for (uint32_t i = 0; i < ENTRIES; i++)
        ids[i] = take(from, 1) % 8 ? i : TRI_NO_SUBJECT;
    tri_store_job job = {.sequence = 1 + take(from, 1),
                         .time = (int64_t)take(from, 4),
                         .max_message_size = take_doubtful(from, 100),
                         .refused_subject = 1ull << 56,
                         .refused_size = 2ull << 56,
                         .refused_entry = 3ull << 56,
                         .room = take_below(from, 700)};
    size_t size;
    uint8_t *buffer = take_rest(from, &size), *out = block(job.room);
    uint32_t found = tri_group_publishes(buffer, size, offsets, lengths, count, table, 32, groups, group_of);
    expect(found <= count);
    tri_store_publishes(buffer, offsets, lengths, group_of, count, ids, counts, firsts, lasts, out, record_offsets,
                        record_sizes, record_ids, results, &job);
    expect(job.used <= job.room && job.entries <= count && job.records <= job.entries);
    uint32_t stored = 0;
    for (uint32_t i = 0; i < job.entries; i++)
        stored += results[i] >> 56 == 0;
    expect(stored == job.records);
    uint8_t *exact = copy(out, job.used);
    tri_scan_result read = scan(exact, job.used);
    expect(read.error == TRI_RECORD_OK && read.records == job.records);
    sound_inputs += job.records > 0;
    free(exact), free(out), free(buffer);
}

typedef struct {
    uint32_t count, ids[POSITIONS], sizes[POSITIONS];
    uint64_t counts[SUBJECTS], firsts[SUBJECTS], lasts[SUBJECTS];
} block_index;

enum { FIRST_SEQUENCE = 100 };

static void check_counts(const block_index *index)
{
    uint64_t counts[SUBJECTS] = {0};
    for (uint32_t i = 0; i < index->count; i++)
        if (index->ids[i] != TRI_NO_SUBJECT) {
            uint32_t id = index->ids[i];
            counts[id]++;
            expect(index->firsts[id] <= FIRST_SEQUENCE + i && index->lasts[id] >= FIRST_SEQUENCE + i);
        }
    expect(memcmp(counts, index->counts, sizeof counts) == 0);
}

/* An index as a scan would make it, and messages that go: the counters follow. */
static void change_index(input *from)
{
    block_index index = {.count = take_below(from, POSITIONS + 1)};
    uint32_t group_of[POSITIONS], ids[SUBJECTS], emptied[POSITIONS];
    uint8_t live[(POSITIONS + 7) / 8], again[(POSITIONS + 7) / 8], wanted[SUBJECTS];
    tri_index_change change;
    for (uint32_t i = 0; i < index.count; i++) {
        group_of[i] = take(from, 1) % SUBJECTS;
        index.sizes[i] = take(from, 1);
    }
    for (uint32_t i = 0; i < SUBJECTS; i++) {
        ids[i] = SUBJECTS - 1 - i;
        wanted[i] = take(from, 1) & 1;
    }
    for (uint32_t i = 0; i < sizeof live; i++)
        live[i] = (uint8_t)take(from, 1);
    tri_index_records(group_of, index.sizes, index.count, take_below(from, 8), live, FIRST_SEQUENCE, ids, index.counts,
                      index.firsts, index.lasts, index.ids, &change);
    check_counts(&index);
    uint32_t end = take_below(from, index.count + 1), start = take_below(from, end + 1);
    const uint8_t *some = take(from, 1) & 1 ? wanted : NULL;
    uint32_t found = tri_find_message(index.ids, start, end, TRI_NO_SUBJECT, some);
    expect(found >= start && found <= end);
    tri_drop_messages(index.ids, index.sizes, start, end, some, take_below(from, 8), take_below(from, 300),
                      index.counts, emptied, &change);
    expect(change.position >= start && change.position <= end && change.messages <= change.position - start);
    expect(change.emptied <= SUBJECTS && (!change.messages || found < change.position));
    check_counts(&index);

    uint32_t subjects[SUBJECTS];
    uint64_t excess[SUBJECTS], asked = 0, kept = 0;
    for (uint32_t i = 0; i < SUBJECTS; i++) {
        subjects[i] = i;
        asked += excess[i] = take(from, 1) % 5;
    }
    tri_trim_subjects(index.ids, index.sizes, start, end, FIRST_SEQUENCE, subjects, excess, SUBJECTS, index.counts,
                      index.firsts, index.lasts, &change);
    for (uint32_t i = 0; i < SUBJECTS; i++)
        kept += excess[i];
    expect(asked - kept == change.messages);
    tri_live_bits(index.ids, index.count, again);
    for (uint32_t i = 0; i < index.count; i++)
        expect((again[i / 8] >> (i % 8) & 1) == (index.ids[i] != TRI_NO_SUBJECT));
    for (uint32_t id = 0; id < SUBJECTS; id++) {
        uint32_t first = tri_find_message(index.ids, 0, index.count, id, NULL);
        uint32_t last = tri_find_last_message(index.ids, 0, index.count, id);
        expect((first < index.count) == (last < index.count) && first <= last);
    }
    sound_inputs += change.messages > 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    input from = {data, size};
    switch (take(&from, 1) % 4) {
    case 0:
        hostile_block(&from, 0);
        break;
    case 1:
        hostile_block(&from, 1);
        break;
    case 2:
        hostile_publishes(&from);
        break;
    default:
        change_index(&from);
    }
    return 0;
}
