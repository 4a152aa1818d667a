#include "stream.h"

#include <string.h>

#include "bytes.h"
#include "crc32c.h"

/* JetStream's accounting of one message: what `state.bytes` of the stream shows. */
static inline uint32_t accounted(uint32_t subject_len, uint32_t headers_len, uint32_t payload_len)
{
    return 22 + subject_len + (headers_len ? 4 + headers_len : 0) + payload_len + 8;
}

/* MARK: subjects */

static uint64_t secret_start = 0x9E3779B97F4A7C15, secret_factor = 0xD6E8FEB86659FD93;

void tri_set_hash_secret(uint64_t start, uint64_t factor)
{
    secret_start = start;
    secret_factor = factor | 1;
}

/* Both halves of a product: what a bit changes in one of them depends on the whole secret factor. */
static inline uint64_t fold(uint64_t word)
{
#if defined(__SIZEOF_INT128__)
    __extension__ typedef unsigned __int128 wide;
    wide product = (wide)word * secret_factor;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
#else /* machines of 32 bits: the two products across, of which each half gets some */
    uint64_t low_high = (word & UINT32_MAX) * (secret_factor >> 32);
    uint64_t high_low = (word >> 32) * (secret_factor & UINT32_MAX);
    return low_high ^ (high_low << 32 | high_low >> 32);
#endif
}

static inline uint32_t hash_subject(const uint8_t *subject, uint32_t length)
{
    uint64_t hash = secret_start ^ length;
    while (length >= 8) {
        hash = fold(hash ^ tri_load64(subject));
        subject += 8;
        length -= 8;
    }
    uint64_t tail = 0;
    for (uint32_t i = 0; i < length; i++)
        tail |= (uint64_t)subject[i] << (8 * i);
    hash = fold(hash ^ tail);
    return (uint32_t)(hash ^ hash >> 32);
}

typedef struct {
    const uint8_t *buffer;
    uint32_t *table; /* group number + 1, or 0 */
    uint32_t mask;
    tri_subject_group *groups;
    uint32_t count;
} grouping;

static uint32_t group_subject(grouping *self, uint32_t number, uint32_t subject, uint32_t length)
{
    uint32_t hash = hash_subject(self->buffer + subject, length);
    uint32_t slot = hash & self->mask;
    while (self->table[slot]) {
        tri_subject_group *group = &self->groups[self->table[slot] - 1];
        if (group->hash == hash && group->subject_len == length &&
            memcmp(self->buffer + group->subject, self->buffer + subject, length) == 0) {
            group->count++;
            group->last = number;
            return self->table[slot] - 1;
        }
        slot = (slot + 1) & self->mask;
    }
    self->groups[self->count] = (tri_subject_group){subject, length, 1, number, number, hash};
    self->table[slot] = ++self->count;
    return self->count - 1;
}

static int publish_is_sound(const uint8_t *entry, uint32_t length)
{
    if (length < TRI_PUBLISH_HEADER)
        return 0;
    uint32_t subject_len = tri_load16(entry), headers_len = tri_load32(entry + 4), left = length - TRI_PUBLISH_HEADER;
    if (subject_len == 0 || tri_load16(entry + 2) != 0 || left < subject_len)
        return 0;
    return left - subject_len >= headers_len;
}

uint32_t tri_group_publishes(const uint8_t *buffer, size_t size, const uint32_t *offsets, const uint32_t *lengths,
                             uint32_t count, uint32_t *table, uint32_t table_size, tri_subject_group *groups,
                             uint32_t *group_of)
{
    grouping subjects = {buffer, table, table_size - 1, groups, 0};
    memset(table, 0, (size_t)table_size * sizeof *table);
    for (uint32_t i = 0; i < count; i++) {
        int inside = offsets[i] <= size && size - offsets[i] >= lengths[i];
        if (!inside || !publish_is_sound(buffer + offsets[i], lengths[i])) {
            group_of[i] = TRI_NO_SUBJECT;
            continue;
        }
        const uint8_t *entry = buffer + offsets[i];
        /* Publishers repeat themselves: the same subject as before needs no look into the table. */
        if (i > 0 && group_of[i - 1] != TRI_NO_SUBJECT) {
            tri_subject_group *before = &groups[group_of[i - 1]];
            if (before->subject_len == tri_load16(entry) &&
                memcmp(buffer + before->subject, entry + TRI_PUBLISH_HEADER, before->subject_len) == 0) {
                before->count++;
                before->last = i;
                group_of[i] = group_of[i - 1];
                continue;
            }
        }
        group_of[i] = group_subject(&subjects, i, offsets[i] + TRI_PUBLISH_HEADER, tri_load16(entry));
    }
    return subjects.count;
}

/* MARK: writing */

static inline void count_message(uint32_t id, uint64_t sequence, uint64_t *counts, uint64_t *firsts,
                                 uint64_t *lasts)
{
    if (counts[id]++ == 0)
        firsts[id] = sequence;
    lasts[id] = sequence;
}

void tri_store_publishes(const uint8_t *buffer, const uint32_t *offsets, const uint32_t *lengths,
                          const uint32_t *group_of, uint32_t count, const uint32_t *ids, uint64_t *counts,
                          uint64_t *firsts, uint64_t *lasts, uint8_t *out, uint32_t *record_offsets,
                          uint32_t *record_sizes, uint32_t *record_ids, uint64_t *results, tri_store_job *job)
{
    uint32_t used = 0, records = 0, i;
    uint64_t bytes = 0, sequence = job->sequence;
    for (i = 0; i < count; i++) {
        if (group_of[i] == TRI_NO_SUBJECT) {
            results[i] = job->refused_entry;
            continue;
        }
        uint32_t id = ids[group_of[i]];
        if (id == TRI_NO_SUBJECT) {
            results[i] = job->refused_subject;
            continue;
        }
        const uint8_t *entry = buffer + offsets[i];
        uint32_t subject_len = tri_load16(entry), headers_len = tri_load32(entry + 4);
        uint32_t body = lengths[i] - TRI_PUBLISH_HEADER;
        uint32_t payload_len = body - subject_len - headers_len;
        if (body - subject_len > job->max_message_size) {
            results[i] = job->refused_size;
            continue;
        }
        if (job->room - used < TRI_RECORD_HEADER || job->room - used - TRI_RECORD_HEADER < body)
            break;
        uint32_t padding = -body & 7u;
        if (job->room - used - TRI_RECORD_HEADER - body < padding)
            break;
        uint32_t length = TRI_RECORD_HEADER + body + padding;
        uint8_t *record = out + used;
        tri_store32(record, length);
        tri_store64(record + 8, sequence);
        tri_store64(record + 16, (uint64_t)job->time);
        tri_store32(record + 24, headers_len);
        tri_store16(record + 28, (uint16_t)subject_len);
        tri_store16(record + 30, 0);
        tri_store32(record + 32, payload_len);
        tri_store32(record + 36, 0);
        memcpy(record + TRI_RECORD_HEADER, entry + TRI_PUBLISH_HEADER, body);
        memset(record + TRI_RECORD_HEADER + body, 0, padding);
        tri_store32(record + 4, tri_crc32c(0, record + 8, length - 8));

        record_offsets[records] = job->block_offset + used;
        record_sizes[records] = accounted(subject_len, headers_len, payload_len);
        record_ids[records] = id;
        count_message(id, sequence, counts, firsts, lasts);
        bytes += record_sizes[records];
        results[i] = sequence++;
        records++;
        used += length;
    }
    job->entries = i;
    job->records = records;
    job->used = used;
    job->bytes = bytes;
}

/* MARK: reading */

/* Checks the record at the start of a buffer; its length is in *length if the answer is TRI_RECORD_OK. */
static int check_record(const uint8_t *record, size_t left, uint32_t *length)
{
    if (left < TRI_RECORD_HEADER)
        return TRI_RECORD_SHORT;
    *length = tri_load32(record);
    if (*length < TRI_RECORD_HEADER || *length & 7)
        return TRI_RECORD_LENGTH;
    if (left < *length)
        return TRI_RECORD_SHORT;
    uint64_t body = (uint64_t)tri_load16(record + 28) + tri_load32(record + 24) + tri_load32(record + 32);
    uint32_t space = *length - TRI_RECORD_HEADER;
    if (body > space || space - body > 7)
        return TRI_RECORD_LENGTH;
    if (tri_crc32c(0, record + 8, *length - 8) != tri_load32(record + 4))
        return TRI_RECORD_CHECKSUM;
    if (tri_load16(record + 28) == 0 || tri_load16(record + 30) != 0 || tri_load32(record + 36) != 0)
        return TRI_RECORD_FIELDS;
    for (uint64_t i = body; i < space; i++)
        if (record[TRI_RECORD_HEADER + i])
            return TRI_RECORD_FIELDS;
    return TRI_RECORD_OK;
}

int tri_check_record(const uint8_t *buffer, size_t size)
{
    uint32_t length;
    int error = check_record(buffer, size, &length);
    return error == TRI_RECORD_OK && length != size ? TRI_RECORD_LENGTH : error;
}

uint32_t tri_count_records(const uint8_t *buffer, size_t size)
{
    uint32_t count = 0;
    for (size_t at = 0; size - at >= TRI_RECORD_HEADER; count++) {
        uint32_t length = tri_load32(buffer + at);
        if (length < TRI_RECORD_HEADER || size - at < length)
            break;
        at += length;
    }
    return count;
}

void tri_scan_block(const uint8_t *buffer, size_t size, uint32_t capacity, uint32_t *table, uint32_t table_size,
                    tri_subject_group *groups, uint32_t *group_of, uint32_t *record_offsets, uint32_t *record_sizes,
                    uint64_t *sequences, uint32_t *time_starts, int64_t *time_values, tri_scan_result *result)
{
    grouping subjects = {buffer, table, table_size - 1, groups, 0};
    uint32_t length = 0, i = 0, runs = 0;
    size_t at = 0;
    int error = TRI_RECORD_OK;
    memset(table, 0, (size_t)table_size * sizeof *table);
    while (at < size && error == TRI_RECORD_OK) {
        const uint8_t *record = buffer + at;
        error = i < capacity ? check_record(record, size - at, &length) : TRI_RECORD_SHORT;
        if (error != TRI_RECORD_OK)
            break;
        uint32_t subject_len = tri_load16(record + 28), headers_len = tri_load32(record + 24);
        sequences[i] = tri_load64(record + 8);
        if (i > 0 && sequences[i] <= sequences[i - 1]) {
            error = TRI_RECORD_ORDER;
            break;
        }
        int64_t time = (int64_t)tri_load64(record + 16);
        if (runs == 0 || time_values[runs - 1] != time) {
            time_starts[runs] = i;
            time_values[runs++] = time;
        }
        record_offsets[i] = (uint32_t)at;
        record_sizes[i] = accounted(subject_len, headers_len, tri_load32(record + 32));
        group_of[i] = group_subject(&subjects, i, (uint32_t)at + TRI_RECORD_HEADER, subject_len);
        at += length;
        i++;
    }
    *result = (tri_scan_result){i, subjects.count, runs, (uint32_t)error, (uint32_t)at};
}

/* MARK: the index of a block */

void tri_index_records(const uint32_t *group_of, const uint32_t *record_sizes, uint32_t count, uint32_t start,
                       const uint8_t *live, uint64_t first_sequence, const uint32_t *ids, uint64_t *counts,
                       uint64_t *firsts, uint64_t *lasts, uint32_t *record_ids, tri_index_change *change)
{
    uint32_t messages = 0;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (i < start || (live && !(live[i / 8] >> (i % 8) & 1))) {
            record_ids[i] = TRI_NO_SUBJECT;
            continue;
        }
        record_ids[i] = ids[group_of[i]];
        count_message(record_ids[i], first_sequence + i, counts, firsts, lasts);
        messages++;
        bytes += record_sizes[i];
    }
    *change = (tri_index_change){bytes, messages, count, 0};
}

static inline int is_meant(uint32_t found, uint32_t id, const uint8_t *wanted)
{
    if (id != TRI_NO_SUBJECT)
        return found == id;
    return found != TRI_NO_SUBJECT && (!wanted || wanted[found]);
}

void tri_drop_messages(uint32_t *record_ids, const uint32_t *record_sizes, uint32_t start, uint32_t end,
                       const uint8_t *wanted, uint64_t need_messages, uint64_t need_bytes, uint64_t *counts,
                       uint32_t *emptied, tri_index_change *change)
{
    uint32_t at = start, messages = 0, empty = 0;
    uint64_t bytes = 0;
    for (; at < end && (messages < need_messages || bytes < need_bytes); at++) {
        uint32_t found = record_ids[at];
        if (!is_meant(found, TRI_NO_SUBJECT, wanted))
            continue;
        messages++;
        bytes += record_sizes[at];
        record_ids[at] = TRI_NO_SUBJECT;
        if (--counts[found] == 0)
            emptied[empty++] = found;
    }
    *change = (tri_index_change){bytes, messages, at, empty};
}

void tri_trim_subjects(uint32_t *record_ids, const uint32_t *record_sizes, uint32_t start, uint32_t end,
                       uint64_t first_sequence, const uint32_t *subjects, uint64_t *excess, uint32_t count,
                       uint64_t *counts, uint64_t *firsts, const uint64_t *lasts, tri_index_change *change)
{
    uint32_t messages = 0;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t id = subjects[i];
        uint64_t at = firsts[id] > first_sequence + start ? firsts[id] - first_sequence : start;
        for (; excess[i] > 0 && at < end; at++) {
            if (record_ids[at] != id)
                continue;
            record_ids[at] = TRI_NO_SUBJECT;
            bytes += record_sizes[at];
            messages++;
            counts[id]--;
            excess[i]--;
        }
        firsts[id] = counts[id] == 1 ? lasts[id] : first_sequence + at;
    }
    *change = (tri_index_change){bytes, messages, end, 0};
}

uint32_t tri_find_message(const uint32_t *record_ids, uint32_t start, uint32_t end, uint32_t id,
                          const uint8_t *wanted)
{
    while (start < end && !is_meant(record_ids[start], id, wanted))
        start++;
    return start;
}

uint32_t tri_find_last_message(const uint32_t *record_ids, uint32_t start, uint32_t end, uint32_t id)
{
    for (uint32_t at = end; at > start; at--)
        if (record_ids[at - 1] == id)
            return at - 1;
    return end;
}

void tri_live_bits(const uint32_t *record_ids, uint32_t count, uint8_t *live)
{
    memset(live, 0, (count + 7) / 8);
    for (uint32_t i = 0; i < count; i++)
        live[i / 8] |= (uint8_t)((record_ids[i] != TRI_NO_SUBJECT) << (i % 8));
}
