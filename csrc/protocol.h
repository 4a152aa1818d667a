#ifndef TRIMARAN_PROTOCOL_H
#define TRIMARAN_PROTOCOL_H
#include <stddef.h>
#include <stdint.h>

/* The NATS client protocol: scan a receive buffer, move publishes into a chunk, format acknowledgements.
 *
 *   PUB subject [reply] size CRLF payload CRLF          HPUB subject [reply] header-size size CRLF headers payload CRLF
 *   SUB subject [queue] sid CRLF                        UNSUB sid [max] CRLF
 *   CONNECT json CRLF, INFO json CRLF                   PING CRLF, PONG CRLF, +OK CRLF, -ERR text CRLF
 *   MSG subject sid [reply] size CRLF payload CRLF      HMSG subject sid [reply] header-size size CRLF headers payload CRLF
 *
 * Verbs in any case; blanks (spaces, tabs) between words; a line may end in LF alone, a payload may not.
 * No function allocates, and none believes a number before it has bounded it: a size has at most nine digits
 * and is compared with a limit, an offset is compared with the buffer.
 */

enum tri_direction { TRI_SERVER_SIDE = 0, TRI_CLIENT_SIDE = 1 }; /* who reads: what clients send, what servers send */

enum tri_op_kind {
    TRI_OP_PUB = 1,
    TRI_OP_HPUB = 2,
    TRI_OP_SUB = 3,
    TRI_OP_UNSUB = 4,
    TRI_OP_PING = 5,
    TRI_OP_PONG = 6,
    TRI_OP_CONNECT = 7,
    TRI_OP_INFO = 8,
    TRI_OP_MSG = 9,
    TRI_OP_HMSG = 10,
    TRI_OP_PLUS_OK = 11,
    TRI_OP_ERR = 12
};

enum tri_op_flag { TRI_OP_NATS_HEADER = 1 }; /* a header's key begins with "Nats-", in any case */

enum tri_scan_error {
    TRI_SCAN_OK = 0,                /* nothing wrong; the rest of the buffer, if any, is not complete yet */
    TRI_SCAN_UNKNOWN_OPERATION = 1, /* no verb of this direction, or a payload that does not end in CRLF */
    TRI_SCAN_CONTROL_LINE = 2,      /* the arguments are longer than max_control_line */
    TRI_SCAN_MAX_PAYLOAD = 3,       /* the size is larger than max_payload */
    TRI_SCAN_BAD_ARGUMENTS = 4      /* too few or too many words, or a size that is no number */
};

/* One operation; offsets count from the begin of the scanned buffer.
 *
 *   kind        subject   reply     args                    body
 *   PUB HPUB    subject   reply     -                       headers and payload
 *   MSG HMSG    subject   reply     sid                     headers and payload
 *   SUB         subject   queue     sid                     -
 *   UNSUB       -         maximum   sid                     -
 *   others      -         -         what follows the verb   -
 */
typedef struct {
    uint8_t kind;
    uint8_t flags;
    uint16_t subject_size;
    uint32_t subject;
    uint16_t reply_size;
    uint16_t args_size;
    uint32_t reply;
    uint32_t args;
    uint32_t header_size; /* the part of the body that is headers */
    uint32_t body;
    uint32_t body_size;
} tri_op;

/* Find up to `capacity` complete operations. Returns how many; `consumed` gets the bytes they take, `error`
 * what is wrong with the bytes behind them. How the bytes were split over calls makes no difference.
 * max_control_line is at most 65,000. */
int tri_scan(const uint8_t *buffer, uint32_t size, int direction, uint32_t max_payload, uint32_t max_control_line,
             tri_op *ops, int capacity, uint32_t *consumed, int *error);

/* Bytes of the bodies of operations first..last-1 together. */
uint64_t tri_body_bytes(const tri_op *ops, uint32_t first, uint32_t last);

/* Does a stream take this subject? `filter` is a sequence of u16 length, subject with wildcards. In the subject itself
 * `*` and `>` are tokens like any others, as in the reference. Never one with an empty token; one that begins with '$'
 * only if the filter names its first token. */
int tri_match(const uint8_t *subject, uint32_t subject_size, const uint8_t *filter, uint32_t filter_size);

enum tri_append_stop {
    TRI_APPEND_ALL = 0,   /* all were taken */
    TRI_APPEND_OTHER = 1, /* the next one is no publish to this stream */
    TRI_APPEND_FULL = 2,  /* the chunk has reached max_bytes or max_count */
    TRI_APPEND_GROW = 3   /* the next one needs larger areas: entries, replies or tables */
};

/* A chunk under construction, and the replies owed for it, in areas that the caller owns and enlarges. */
typedef struct {
    uint8_t *entries;
    uint8_t *lengths; /* u32 each */
    uint8_t *types;
    uint8_t *replies;
    uint8_t *reply_ends; /* u32 each: where an entry's reply ends in `replies` */
    uint32_t entries_capacity;
    uint32_t replies_capacity;
    uint32_t count_capacity;
    uint32_t max_bytes; /* of the encoded chunk; also of the replies */
    uint32_t max_count;
    uint32_t entries_size;
    uint32_t replies_size;
    uint32_t count;
} tri_publishes;

/* Take operations first..last-1 (of a scan of `buffer`) as entries, as long as they are publishes that `filter`
 * takes. An entry: u16 subject size | u16 0 | u32 headers size | subject | headers | payload; its type 16, or 17 if
 * the operation has a "Nats-" header. Returns a tri_append_stop; `taken` gets how many were taken. */
int tri_append_publishes(tri_publishes *to, const uint8_t *buffer, uint32_t size, const tri_op *ops, uint32_t first,
                         uint32_t last, const uint8_t *filter, uint32_t filter_size, uint32_t *taken);

/* Bytes that tri_format_acks may need for `count` entries whose replies have `replies_size` bytes together. */
uint64_t tri_acks_bound(uint32_t count, uint64_t replies_size, uint32_t head_size, uint32_t sid_size);

/* Write `MSG reply sid size CRLF head sequence } CRLF` for entries start..start+count-1; `head` is
 * {"stream":"S","seq": and `results` has 8 bytes for every entry from the first (status << 56 | value).
 * Entries without a reply are passed over. Stops at one whose reply is not `prefix` and one token, whose status is not
 * 0 (stored) or 1 (duplicate), or that finds less room than tri_acks_bound says. Returns how many entries are done
 * with, `written` gets the bytes. */
uint32_t tri_format_acks(const uint8_t *replies, uint32_t replies_size, const uint8_t *reply_ends, uint32_t start,
                         uint32_t count, const uint8_t *results, const uint8_t *head, uint32_t head_size,
                         const uint8_t *prefix, uint32_t prefix_size, const uint8_t *sid, uint32_t sid_size,
                         uint8_t *out, uint64_t capacity, uint64_t *written);

/* Load generation: numbered publishes out, their acknowledgements in. */

enum { TRI_NUMBER_DIGITS = 10, TRI_LATENCY_BUCKETS = 1920 };

/* Write `count` copies of `message`, each with its number (first, first + 1, ...) as ten digits at `digits_at`, and
 * note `now` for each in `sent`, a ring of mask + 1 times. `out` has room for them. */
void tri_number_publishes(uint8_t *out, const uint8_t *message, uint32_t message_size, uint32_t digits_at,
                          uint64_t first, uint32_t count, uint64_t *sent, uint64_t mask, uint64_t now);

/* What tri_count_acks adds to. Latencies are in ns; bucket b < 32 counts latency b, else with shift = b / 32 - 1
 * those from (b - 32 * shift) << shift on: 3 % wide at most. */
typedef struct {
    uint64_t stored;
    uint64_t duplicates;
    uint64_t errors; /* an error of the stream, or a status such as 503 */
    uint64_t strays; /* not the answer to anything outstanding */
    uint64_t latency_max;
    uint32_t first_error; /* operation + 1 of the first error of this call, 0: none */
    uint32_t reserved;
    uint64_t latencies[1920];
} tri_ack_counts;

/* Count the acknowledgements among `count` operations: subjects are ten digits behind `prefix_size` bytes. An entry
 * of `sent` becomes 0 when it is answered; numbers from `next` on were not sent. Returns how many outstanding
 * publishes were answered. */
uint32_t tri_count_acks(const uint8_t *buffer, uint32_t size, const tri_op *ops, uint32_t count, uint32_t prefix_size,
                        uint64_t *sent, uint64_t mask, uint64_t next, uint64_t now, tri_ack_counts *counts);

#endif
