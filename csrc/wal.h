#ifndef TRIMARAN_WAL_H
#define TRIMARAN_WAL_H
#include <stddef.h>
#include <stdint.h>

/* Sealing the writes of a segment of the log, and reading them as far as they are sound: fast, and without an opinion
 * about the rest.
 *
 * A write is a row of records and a trailer; the next one begins where it ends. All numbers are little endian.
 *
 *      frame body | frame body | ... | trailer frame, trailer body
 *
 *   frame, 56 bytes
 *      0 u32 tag of the segment      4 u8 kind (255: trailer)   5 u8 flags   6 u16 zero
 *      8 u32 bytes of the body      12 u32 group               16 u64 sequence of the write
 *     24 u64 incarnation            32 u64 index               40 u64 term
 *            (of a trailer: the newest segment, the sequence known to be synced, the oldest segment needed)
 *     48 u32 checksum of the body: CRC32C, or the one in a batch's header
 *     52 u32 CRC32C of the 52 bytes before, continued from the segment's seed
 *
 *   trailer body
 *      0 u32 bytes of the whole write
 *      4 u32 chain before this write
 *      8 u32 chain behind it: CRC32C of the checksums of its frames, continued from the chain before
 *     12 u32 number of records
 *     16     the frames of the records once more, and zeros up to a sector's end
 *     -8 u32 bytes of the trailer with its frame
 *     -4 u32 tag
 *
 * No function here allocates, keeps a pointer, or believes a length before it has bounded it.
 */

enum {
    TRI_SECTOR = 512,
    TRI_FRAME_SIZE = 56,
    TRI_WAL_BATCH = 1,    /* the kind whose body is a batch */
    TRI_WAL_LOST = 2,     /* flag of a batch: it has no body */
    TRI_WAL_TRAILER = 255 /* the kind that ends a write */
};

enum {
    TRI_TRAILER_HEAD = 16,
    TRI_TRAILER_TAIL = 8
};

/* What sealing a write needs to know beyond its records. */
typedef struct {
    uint64_t sequence;
    uint64_t newest; /* the newest segment */
    uint64_t known_synced;
    uint64_t oldest; /* the oldest segment needed */
    uint32_t tag;
    uint32_t seed;
    uint32_t chain;  /* its value before this write; afterwards, behind it */
    uint32_t bodies; /* bytes of all bodies together */
} tri_wal_seal;

/* Bytes of the trailer, frame included, of a write of `count` records with these bytes of bodies. */
uint64_t tri_wal_trailer_size(uint32_t count, uint64_t bodies);

/* Seals a write: `frames` are those of its `count` records, one behind the other, complete but for tag, sequence and
 * their own checksums, which they get; `trailer`, of exactly tri_wal_trailer_size bytes, gets the trailer with its
 * frame. The bodies are not looked at. 0, or -1 with nothing changed: `size` is wrong, or the write would not fit 32
 * bits, or the lengths in the frames don't add up to `bodies`. */
int tri_wal_seal_write(uint8_t *frames, uint32_t count, tri_wal_seal *seal, uint8_t *trailer, size_t size);

/* A record, as its frame and its body say it. */
typedef struct {
    uint64_t incarnation;
    uint64_t index;
    uint64_t term;
    uint32_t group;
    uint32_t offset; /* of the body, in the segment */
    uint32_t length; /* of the body */
    uint32_t crc;    /* of the body, of a batch the one in its header */
    uint32_t zero;
    uint8_t kind;
    uint8_t flags;
    uint8_t batch_kind; /* 0 for what is no batch */
    uint8_t zeros[5];
} tri_wal_record;

/* Where reading begins and, afterwards, where it has come to. */
typedef struct {
    uint64_t sequence; /* of the next write; 0 takes the one that is there */
    uint64_t limit;    /* no write with a higher sequence is read */
    uint32_t base;     /* place of data[0] in the segment; all other places are in the segment as well */
    uint32_t position; /* where the next write begins; not before base */
    uint32_t chain;    /* its value before the next write */
    uint32_t tag;
    uint32_t seed;
    uint32_t records;      /* read by this call */
    uint32_t writes;       /* by this call; the fields below are about the last of them */
    uint32_t last_start;   /* where it begins */
    uint32_t last_records; /* its records */
    uint32_t zero;
    uint64_t known_synced;
    uint64_t oldest;
    uint64_t newest;
} tri_wal_cursor;

/* Reads writes from cursor->position on, out of a part of the segment. It ends in front of the first write that is not
 * sound in every bit: out of place or of order, with a checksum that does not match, or a record that is not the one
 * its frame names.
 * Returns 1 if it ended for want of room, in front of a write with more records than are left of `capacity`. */
int tri_wal_read(const uint8_t *data, size_t size, tri_wal_cursor *cursor, tri_wal_record *records,
                 uint32_t capacity);

/* Whether the tag is where a write has it, at the begin or at the end of a sector, in `size` bytes that begin with a
 * sector. */
int tri_wal_has_tag(const uint8_t *data, size_t size, uint32_t tag);

/* Successive batches of one group without a gap between their indexes, or one record of another kind or with flags. */
typedef struct {
    uint64_t incarnation;
    uint64_t index; /* of the first */
    uint32_t group;
    uint32_t start; /* number of the first in the columns */
    uint32_t count;
    uint8_t kind;
    uint8_t flags;
    uint16_t zero;
} tri_wal_run;

/* Sorts records by group, each group's in their order, into columns, and finds the runs, whose number it returns.
 * Columns, runs, slots and order have room for count; table has table_size words, a power of two, at least
 * 2 * count, and starts has count + 1. What the last four hold before and after does not matter. Nothing but the room
 * is relied on: the records may say anything. */
uint32_t tri_wal_runs(const tri_wal_record *records, uint32_t count, tri_wal_run *runs, uint32_t *offsets,
                      uint32_t *lengths, uint32_t *crcs, uint64_t *terms, uint8_t *kinds, uint32_t *table,
                      uint32_t table_size, uint32_t *slots, uint32_t *starts, uint32_t *order);

#endif
