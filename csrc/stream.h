/* Block records of a stream, and the per-message half of applying a batch to it.
 *
 * A block file is a row of records and nothing else. All numbers are little endian.
 *
 *   offset size field
 *        0    4 length of the whole record, a multiple of 8
 *        4    4 CRC32C of everything after this field, padding included
 *        8    8 sequence
 *       16    8 time of the batch, ns since 1970
 *       24    4 headers length
 *       28    2 subject length, at least 1
 *       30    2 flags, 0
 *       32    4 payload length
 *       36    4 zero
 *       40      subject | headers | payload | zero padding to 8
 *
 * No function here allocates or keeps a pointer. Every length is checked against what is left before
 * it is used. The caller says how much room it gives.
 */
#ifndef TRIMARAN_STREAM_H
#define TRIMARAN_STREAM_H
#include <stddef.h>
#include <stdint.h>

enum {
    TRI_RECORD_HEADER = 40,
    TRI_PUBLISH_HEADER = 8,
};

/* A subject id that no subject has: in a block's ids, the message is gone; in a group's id, refused. */
#define TRI_NO_SUBJECT UINT32_MAX

/* The subjects of a stream have small numbers, ids, which are reused. Three arrays are indexed by them:
 * counts (messages with the subject), firsts (no message of it is older) and lasts (its newest message). */

enum tri_record_error {
    TRI_RECORD_OK = 0,
    TRI_RECORD_SHORT = 1,    /* the buffer ends inside the record */
    TRI_RECORD_LENGTH = 2,   /* the lengths contradict each other */
    TRI_RECORD_CHECKSUM = 3, /* the bytes are not those that were written */
    TRI_RECORD_FIELDS = 4,   /* a field that must be zero is not, or the subject is empty */
    TRI_RECORD_ORDER = 5,    /* the sequence does not follow that of the record before */
};

/* One distinct subject of a run of entries or of a block. */
typedef struct {
    uint32_t subject; /* offset in the buffer */
    uint32_t subject_len;
    uint32_t count;
    uint32_t first; /* number of the first entry with it, within the run */
    uint32_t last;
    uint32_t hash;
} tri_subject_group;

/* Sets what subjects are hashed with: two random numbers, once, before anything is sorted. Clients choose the
 * subjects; if they knew the hash they could send a batch of subjects that all collide, and sorting it would hold
 * up every replica for seconds. The order of the result doesn't depend on it. */
void tri_set_hash_secret(uint64_t start, uint64_t factor);

/* Sorts a run of PUBLISH entries by subject. Entry i lies at offsets[i] of the buffer, lengths[i] long;
 * group_of[i] becomes the number of its group, or TRI_NO_SUBJECT for an entry that contradicts itself.
 * table: table_size words, a power of two, at least 2 * count; its contents before do not matter.
 * groups: room for count. Returns the number of groups. */
uint32_t tri_group_publishes(const uint8_t *buffer, size_t size, const uint32_t *offsets, const uint32_t *lengths,
                             uint32_t count, uint32_t *table, uint32_t table_size, tri_subject_group *groups,
                             uint32_t *group_of);

/* What appending needs and what it says. The caller fills the first part. */
typedef struct {
    uint64_t sequence;         /* of the first message stored */
    int64_t time;              /* ns */
    uint64_t max_message_size; /* headers and payload together */
    uint64_t refused_subject;  /* result of an entry whose subject the stream does not take */
    uint64_t refused_size;     /* result of an entry that is too large */
    uint64_t refused_entry;    /* result of an entry that contradicts itself */
    uint32_t block_offset;     /* where out[0] will lie in the block */
    uint32_t room;             /* bytes of out */

    uint32_t entries; /* taken from the run */
    uint32_t records; /* stored, not refused */
    uint64_t used;    /* bytes of out */
    uint64_t bytes;   /* accounted bytes, as JetStream counts them */
} tri_store_job;

/* Turns a run of PUBLISH entries, grouped by tri_group_publishes, into block records, until the run or
 * the room ends. ids[group] is the subject's id, or TRI_NO_SUBJECT; counts, firsts and lasts are kept up to
 * date. Per record one block offset, accounted size and subject id; per entry one result: the sequence, or a
 * refusal. */
void tri_store_publishes(const uint8_t *buffer, const uint32_t *offsets, const uint32_t *lengths,
                          const uint32_t *group_of, uint32_t count, const uint32_t *ids, uint64_t *counts,
                          uint64_t *firsts, uint64_t *lasts, uint8_t *out, uint32_t *record_offsets,
                          uint32_t *record_sizes, uint32_t *record_ids, uint64_t *results, tri_store_job *job);

/* The number of records in a buffer as far as their length fields are believable: room for a scan is one more. */
uint32_t tri_count_records(const uint8_t *buffer, size_t size);

typedef struct {
    uint32_t records; /* intact ones, before the damage if there is any */
    uint32_t groups;
    uint32_t time_runs; /* runs of records with the same time */
    uint32_t error;     /* enum tri_record_error */
    uint32_t offset;    /* of the damage */
} tri_scan_result;

/* Verifies the records of a buffer, up to capacity of them, and lists them; stops at the first damage.
 * time_starts[i] is the number of the first record of run i, whose time is time_values[i]. */
void tri_scan_block(const uint8_t *buffer, size_t size, uint32_t capacity, uint32_t *table, uint32_t table_size,
                    tri_subject_group *groups, uint32_t *group_of, uint32_t *record_offsets, uint32_t *record_sizes,
                    uint64_t *sequences, uint32_t *time_starts, int64_t *time_values, tri_scan_result *result);

/* Verifies the one record that a buffer must be. Returns an enum tri_record_error. */
int tri_check_record(const uint8_t *buffer, size_t size);

/* What was done to a block's index: how many messages came or went, and where it stopped. */
typedef struct {
    uint64_t bytes;
    uint32_t messages;
    uint32_t position; /* the first one not looked at */
    uint32_t emptied;  /* subjects that have no message left */
} tri_index_change;

/* Makes the index of a scanned block: record_ids[i] = ids[group_of[i]] for the live ones (bit i of live, or
 * live is NULL and all are, but none before start), TRI_NO_SUBJECT for the others; counts, firsts and lasts
 * take the live ones, whose sequences begin at first_sequence. */
void tri_index_records(const uint32_t *group_of, const uint32_t *record_sizes, uint32_t count, uint32_t start,
                       const uint8_t *live, uint64_t first_sequence, const uint32_t *ids, uint64_t *counts,
                       uint64_t *firsts, uint64_t *lasts, uint32_t *record_ids, tri_index_change *change);

/* Lets messages of a block go, oldest first, from position start on and before end, until enough messages and
 * enough bytes are gone: only those of subjects whose byte in wanted is not 0, or (wanted is NULL) all. Their
 * record_ids become TRI_NO_SUBJECT, counts falls, emptied lists the ids whose count became 0 (room: end - start). */
void tri_drop_messages(uint32_t *record_ids, const uint32_t *record_sizes, uint32_t start, uint32_t end,
                       const uint8_t *wanted, uint64_t need_messages, uint64_t need_bytes, uint64_t *counts,
                       uint32_t *emptied, tri_index_change *change);

/* Lets the oldest excess[i] messages of subjects[i] go, each, as far as they lie between the positions start and
 * end of a block whose position 0 has first_sequence; excess falls by what went, firsts follows. Subjects left
 * without a message are the caller's to find by counts: emptied is 0. */
void tri_trim_subjects(uint32_t *record_ids, const uint32_t *record_sizes, uint32_t start, uint32_t end,
                       uint64_t first_sequence, const uint32_t *subjects, uint64_t *excess, uint32_t count,
                       uint64_t *counts, uint64_t *firsts, const uint64_t *lasts, tri_index_change *change);

/* The position of the first message from start on and before end: of one subject, or (id is TRI_NO_SUBJECT) of
 * subjects whose byte in wanted is not 0, or (wanted is NULL too) of any. end if there is none. */
uint32_t tri_find_message(const uint32_t *record_ids, uint32_t start, uint32_t end, uint32_t id,
                          const uint8_t *wanted);

/* The position of the last message of a subject at or after start and before end, or end. */
uint32_t tri_find_last_message(const uint32_t *record_ids, uint32_t start, uint32_t end, uint32_t id);

/* Sets bit i of live, (count + 7) / 8 bytes, for every message that is there. */
void tri_live_bits(const uint32_t *record_ids, uint32_t count, uint8_t *live);

#endif
