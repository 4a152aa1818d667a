/* Hostile protocol traffic against the C scanner, for the sanitizers: every buffer is a heap block of exactly its
 * size, so that one byte read too far is an error. Checks that each operation lies inside of its buffer, that a
 * buffer scanned in two pieces gives the same operations, and that what is appended and formatted fits.
 * Prints how many operations were found; the test checks it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "protocol.h"

enum { CAPACITY = 64, MAX_PAYLOAD = 100, MAX_LINE = 80 };

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

static const char *const parts[] = {
    "PUB a.b 5\r\nhello\r\n", "PUB a _IN.1 0\r\n\r\n", "HPUB a.c _IN.2 23 25\r\nNATS/1.0\r\nNats-x: 1\r\n\r\nhi\r\n",
    "SUB a.* q 1\r\n", "UNSUB 1 5\r\n", "CONNECT {}\r\n", "PING\r\n", "-ERR 'x'\r\n", "+OK\r\n",
    "MSG _IN.0000000003 1 22\r\n{\"stream\":\"S\",\"seq\":5}\r\n", "HMSG a 1 12 12\r\nNATS/1.0\r\n\r\n\r\n",
    "PUB a 99\r\n", "PUB a 999999999\r\n", "HPUB a 9 8\r\n", "PUB \xff. 1\r\nx\r\n", "\r\n", " ", "a", "9",
};

static const char changes[] = " \t\r\n0159.*>$PUBaMx";

/* Some messages, perhaps cut off and with some bytes changed; the caller frees them. */
static uint8_t *random_traffic(uint32_t *size)
{
    uint8_t wire[1024];
    uint32_t used = 0;
    for (uint32_t count = draw(8); count; count--) {
        const char *part = parts[draw(sizeof parts / sizeof *parts)];
        memcpy(wire + used, part, strlen(part));
        used += (uint32_t)strlen(part);
    }
    for (uint32_t count = draw(3); count && used; count--)
        wire[draw(used)] = draw(4) ? (uint8_t)changes[draw(sizeof changes - 1)] : (uint8_t)draw(256);
    if (draw(2))
        used = draw(used + 1);
    uint8_t *buffer = block(used);
    memcpy(buffer, wire, used);
    *size = used;
    return buffer;
}

static int inside(uint64_t offset, uint64_t length, uint32_t size)
{
    return offset + length <= size;
}

static int scan(const uint8_t *buffer, uint32_t size, int direction, tri_op *ops, uint32_t *consumed, int *error)
{
    int count = tri_scan(buffer, size, direction, MAX_PAYLOAD, MAX_LINE, ops, CAPACITY, consumed, error);
    expect(*consumed <= size, "consumed what is there");
    for (int i = 0; i < count; i++) {
        const tri_op *op = &ops[i];
        expect(op->kind >= TRI_OP_PUB && op->kind <= TRI_OP_ERR, "a kind");
        expect(inside(op->subject, op->subject_size, size), "subject inside");
        expect(inside(op->reply, op->reply_size, size), "reply inside");
        expect(inside(op->args, op->args_size, size), "arguments inside");
        expect(inside(op->body, op->body_size, size) && op->header_size <= op->body_size, "body inside");
        expect(op->body_size <= MAX_PAYLOAD && op->args_size <= MAX_LINE, "limits kept");
    }
    return count;
}

static void check_split(const uint8_t *buffer, uint32_t size, int direction, int count, uint32_t consumed, int error)
{
    tri_op ops[CAPACITY];
    uint32_t cut = draw(size + 1), used = 0, more = 0;
    int failed = 0;
    uint8_t *piece = block(cut);
    memcpy(piece, buffer, cut);
    int found = scan(piece, cut, direction, ops, &used, &failed);
    free(piece);
    if (!failed) {
        piece = block(size - used);
        memcpy(piece, buffer + used, size - used);
        found += scan(piece, size - used, direction, ops, &more, &failed);
        free(piece);
    }
    expect(found == count && used + more == consumed && failed == error, "a split changes nothing");
}

static void check_append(const uint8_t *buffer, uint32_t size, const tri_op *ops, uint32_t count)
{
    static const uint8_t filter[] = "\x03\0a.>\x01\0a";
    uint32_t room = draw(200), entries = draw(5);
    tri_publishes to = {.entries = block(room), .replies = block(room), .lengths = block(4 * entries)};
    to.types = block(entries);
    to.reply_ends = block(4 * entries);
    to.entries_capacity = to.replies_capacity = room;
    to.count_capacity = entries;
    to.max_bytes = draw(300);
    to.max_count = draw(6);
    uint32_t taken = 0;
    tri_append_publishes(&to, buffer, size, ops, 0, count, filter, sizeof filter - 1, &taken);
    expect(taken == to.count && to.count <= entries && to.count <= to.max_count, "as many as fit");

    uint64_t bound = tri_acks_bound(to.count, to.replies_size, 5, 1), written = 0;
    uint64_t given = draw(2) ? bound : draw((uint32_t)bound + 1);
    uint8_t *out = block(given), *results = block(8 * to.count);
    for (uint32_t i = 0; i < to.count; i++)
        tri_store64(results + 8 * i, (uint64_t)draw(3) << 56 | draw(1000));
    const uint8_t *head = (const uint8_t *)"{\"a\":", *prefix = (const uint8_t *)"_IN.", *sid = (const uint8_t *)"1";
    uint32_t done = tri_format_acks(to.replies, to.replies_size, to.reply_ends, 0, to.count, results, head, 5, prefix,
                                    4, sid, 1, out, given, &written);
    expect(done <= to.count && written <= given, "acknowledgements fit");
    free(out);
    free(results);
    free(to.entries);
    free(to.replies);
    free(to.lengths);
    free(to.types);
    free(to.reply_ends);
}

static void check_counts(const uint8_t *buffer, uint32_t size, const tri_op *ops, uint32_t count)
{
    uint64_t sent[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    tri_ack_counts counts;
    memset(&counts, 0, sizeof counts);
    uint32_t answered = tri_count_acks(buffer, size, ops, count, 4, sent, 7, 8, UINT64_MAX - draw(2), &counts);
    expect(answered == counts.stored + counts.errors, "an answer is one thing");
    expect(answered <= 8, "answered what was sent");
}

int main(int argc, char **argv)
{
    long rounds = argc > 1 ? atol(argv[1]) : 1000;
    long total = 0;
    for (long round = 0; round < rounds; round++) {
        tri_op ops[CAPACITY];
        uint32_t size, consumed;
        int error, direction = (int)draw(2);
        uint8_t *buffer = random_traffic(&size);
        int count = scan(buffer, size, direction, ops, &consumed, &error);
        check_split(buffer, size, direction, count, consumed, error);
        check_append(buffer, size, ops, (uint32_t)count);
        check_counts(buffer, size, ops, (uint32_t)count);
        total += count;
        free(buffer);
    }
    printf("%ld\n", total);
    return 0;
}
