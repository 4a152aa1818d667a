#ifndef TRIMARAN_BATCH_H
#define TRIMARAN_BATCH_H
#include <stddef.h>
#include <stdint.h>

/* The batch, version 1: 1 to 65,535 entries under one log index, one term and one checksum.
 *
 * Little endian. It begins 8-byte aligned on disk, but nothing here relies on the alignment of memory.
 *
 *      0        2         3      4               8              12        14        16
 *      +--------+---------+------+---------------+---------------+---------+---------+
 *    0 | magic  | version | kind | length        | group         | count   | flags 0 |
 *      +--------+---------+------+---------------+---------------+---------+---------+
 *   16 | incarnation                             | index                             |
 *      +-----------------------------------------+-----------------------------------+
 *   32 | term                                    | previous term                     |
 *      +-----------------------------------------+---------------+-------------------+
 *   48 | time, signed, ns since 1970             | entries size  | CRC32C of payload |
 *      +--------------------+--------------------+---------------+-------------------+
 *   64 | reserved 0         | CRC32C of 0..67    |   payload ...
 *      +--------------------+--------------------+
 *
 *   payload (begins at 72; every part begins at a multiple of 8, its padding is zeros)
 *      +--------------------+---------+------------------+------------------+---------+
 *      | entries, no gaps   | padding | u32 length[count]   u8 type[count]  | padding |
 *      +--------------------+---------+------------------+------------------+---------+
 *
 * length: the whole batch, header and payload, and so a multiple of 8.
 * entries size: the entries' bytes before the padding, which is the sum of the lengths.
 * count: 0 only in kinds 2 (no-op) and 5 (tick). Types are 1 to 255.
 * The header's checksum is read before the version: a version byte that is damaged is not a newer version.
 *
 * No function here allocates, keeps a pointer, or believes a length before it has bounded it. Each returns
 * TRI_OK or an error; in what order the checks are made is part of the contract, since the Python codec
 * makes the same ones.
 */

enum {
    TRI_BATCH_MAGIC = 0x5442, /* the bytes "BT" */
    TRI_BATCH_VERSION = 1,
    TRI_BATCH_HEADER_SIZE = 72,
    TRI_MAX_ENTRIES = 65535
};

enum tri_kind { TRI_NORMAL = 1, TRI_NOOP = 2, TRI_MEMBERSHIP = 3, TRI_SNAPSHOT = 4, TRI_TICK = 5 };

enum tri_error {
    TRI_OK = 0,
    TRI_SHORT_BUFFER = -1,    /* the buffer ends before the bytes that its fields announce */
    TRI_BAD_MAGIC = -2,       /* not the begin of a batch */
    TRI_NEWER_VERSION = -3,   /* a sound header with a version, kind or flag from the future */
    TRI_HEADER_DAMAGED = -4,  /* the header's checksum does not match */
    TRI_PAYLOAD_DAMAGED = -5, /* the payload's checksum does not match */
    TRI_BAD_LENGTH = -6,      /* length fields that contradict each other or the buffer */
    TRI_NO_ENTRIES = -7,      /* no entries where there must be some */
    TRI_BAD_PADDING = -8,     /* padding that is not 0 */
    TRI_BAD_SUM = -9,         /* lengths that do not sum up to the entries size */
    TRI_BAD_TYPE = -10,       /* an entry of type 0 */
    TRI_BAD_FIELD = -11,      /* a value that no version allows */
    TRI_BATCH_FULL = -12,     /* more entries or bytes than one batch can have, or than its cap allows */
    TRI_NO_ROOM = -13         /* an area of the caller is too small; nothing was written to it */
};

/* The fields of a header that carry meaning, as the machine holds numbers. */
typedef struct {
    uint64_t incarnation;
    uint64_t index;
    uint64_t term;
    uint64_t previous_term;
    int64_t time;
    uint32_t length;
    uint32_t group;
    uint32_t entries_size;
    uint32_t payload_crc;
    uint32_t header_crc;
    uint16_t count;
    uint16_t flags;
    uint8_t kind;
} tri_batch_header;

/* One chunk: the payload of a batch of just these entries. */
typedef struct {
    const uint8_t *payload;
    uint64_t payload_size;
    uint32_t entries_size;
    uint16_t count;
} tri_chunk;

/* Bytes of a payload of `count` entries with `entries_size` bytes together. */
uint64_t tri_payload_size(uint32_t count, uint64_t entries_size);

/* Check the table and padding of a payload from the network, of exactly `size` bytes: BAD_LENGTH (size),
 * then BAD_PADDING, BAD_SUM, BAD_TYPE. */
int tri_check_payload(const uint8_t *payload, size_t size, uint32_t count, uint64_t entries_size);

/* Write the batch of `chunk_count` chunks into `out`, which has exactly the batch's size; of `header` kind, group,
 * incarnation, index, term, previous_term, time and flags are read. The tables inside of the chunks are
 * trusted, their sizes are not. BATCH_FULL, NO_ENTRIES, BAD_FIELD (kind, flags), BAD_LENGTH (a chunk's size,
 * or out_size). After an error `out` holds nothing of use. */
int tri_seal_batch(const tri_chunk *chunks, size_t chunk_count, const tri_batch_header *header, uint8_t *out,
                   size_t out_size);

/* An open batch: what was appended to a batch that is not sealed yet, in areas that the caller owns and may
 * enlarge between two calls. The entries are copied once, to where the batch will have them:
 *
 *   area      | room for the header, 72 | entries, no gaps | (sealing writes padding and table here) |
 *   lengths   | u32 little endian, each |       types      | u8 each |
 */
typedef struct {
    uint8_t *area;
    uint8_t *lengths;
    uint8_t *types;
    uint64_t area_capacity; /* bytes: of the whole batch as it would be sealed */
    uint32_t count_capacity;
    uint32_t max_size; /* cap of the payload in bytes, at most what a batch can have */
    uint32_t max_count; /* cap of the entries, at most TRI_MAX_ENTRIES */
    uint32_t count;
    uint32_t entries_size;
} tri_open_batch;

/* Append spans of `buffer` as entries: number i has `lengths[i]` bytes from `offsets[i]` on and type `types[i]`;
 * spans may overlap and come in any order. TRI_OK: all were taken. BATCH_FULL: the first `*taken` were, the
 * next one exceeds a cap. BAD_LENGTH (a span outside of the buffer), BAD_TYPE, NO_ROOM (of `area`, `lengths`
 * or `types`): nothing was, and `*taken` is 0. */
int tri_append_spans(tri_open_batch *to, const uint8_t *buffer, size_t size, const uint32_t *offsets,
                     const uint32_t *lengths, const uint8_t *types, uint32_t count, uint32_t *taken);

/* Finish the payload in the area, behind the header's room: the payload of a chunk of these entries; `*size` gets
 * its bytes. The open batch is empty afterwards and the payload stays until the next append. NO_ENTRIES, NO_ROOM. */
int tri_close_payload(tri_open_batch *from, uint64_t *size);

/* Seal the open batch where it lies, at the begin of its area, as tri_seal_batch does with chunks; `*size` gets its
 * bytes. It is empty afterwards and the sealed one stays until the next append. NO_ENTRIES, BAD_FIELD, NO_ROOM. */
int tri_seal_open(tri_open_batch *from, const tri_batch_header *header, uint64_t *size);

/* Check and decode the header at the begin of `buffer`, which must hold the whole batch and may hold more:
 * SHORT_BUFFER (no header), BAD_MAGIC, HEADER_DAMAGED, NEWER_VERSION, BAD_FIELD, NO_ENTRIES, BAD_LENGTH,
 * SHORT_BUFFER (length). The payload is not looked at. `header` is written on success only, and may be NULL. */
int tri_read_header(const uint8_t *buffer, size_t size, tri_batch_header *header);

/* Check a buffer that must be exactly one batch: as tri_read_header, BAD_LENGTH (bytes behind), PAYLOAD_DAMAGED,
 * as tri_check_payload. `header` is written as soon as the header is sound, also if an error follows, and may be
 * NULL. */
int tri_verify_batch(const uint8_t *buffer, size_t size, tri_batch_header *header);

/* Where the entries of a verified batch lie: `spans`, with room for `capacity` words, gets the offsets of all, from
 * the begin of the batch, and then the lengths of all. As tri_verify_batch without PAYLOAD_DAMAGED, so that no
 * entry can lie outside even if the batch had not been verified; before the table is looked at, NO_ROOM if
 * `capacity` is less than twice the count. */
int tri_walk_batch(const uint8_t *buffer, size_t size, uint32_t *spans, size_t capacity);

/* tri_verify_batch and tri_walk_batch in one pass: all there is to do with a batch that comes in. */
int tri_decode_batch(const uint8_t *buffer, size_t size, uint32_t *spans, size_t capacity);

#endif
