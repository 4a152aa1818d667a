/* Fuzz target: what clients and servers send, publishes on their way into a chunk, acknowledgements. */
#include "protocol.h"
#include "bytes.h"
#include "fuzz.h"

unsigned long sound_inputs;

enum { CAPACITY = 64 };

typedef struct {
    int direction, capacity;
    uint32_t max_payload, max_control_line;
} limits;

static int inside(uint64_t offset, uint64_t length, uint32_t size)
{
    return offset + length <= size;
}

static int scan(const uint8_t *buffer, uint32_t size, const limits *by, tri_op *ops, uint32_t *consumed, int *error)
{
    int count = tri_scan(buffer, size, by->direction, by->max_payload, by->max_control_line, ops, by->capacity,
                         consumed, error);
    expect(*consumed <= size && count <= by->capacity);
    for (int i = 0; i < count; i++) {
        const tri_op *op = &ops[i];
        expect(op->kind >= TRI_OP_PUB && op->kind <= TRI_OP_ERR);
        expect(inside(op->subject, op->subject_size, size) && inside(op->reply, op->reply_size, size));
        expect(inside(op->args, op->args_size, size) && inside(op->body, op->body_size, size));
        expect(op->header_size <= op->body_size && op->body_size <= by->max_payload);
        expect(op->args_size <= by->max_control_line && op->subject_size <= by->max_control_line);
    }
    return count;
}

/* How the bytes were split over calls makes no difference. */
static void check_split(const uint8_t *buffer, uint32_t size, uint32_t cut, limits by, const tri_op *whole, int count,
                        uint32_t consumed, int error)
{
    tri_op ops[CAPACITY];
    uint32_t used = 0, more = 0;
    int failed = 0;
    uint8_t *piece = copy(buffer, cut);
    int found = scan(piece, cut, &by, ops, &used, &failed);
    free(piece);
    expect(found <= count);
    if (!failed && found < by.capacity) {
        piece = copy(buffer + used, size - used);
        by.capacity -= found;
        int behind = scan(piece, size - used, &by, ops + found, &more, &failed);
        for (int i = found; i < found + behind && i < count; i++)
            expect(ops[i].kind == whole[i].kind && ops[i].body_size == whole[i].body_size &&
                   ops[i].subject_size == whole[i].subject_size && ops[i].flags == whole[i].flags);
        found += behind;
        free(piece);
    }
    expect(found == count && used + more == consumed && failed == error);
}

/* The subjects of a stream: some of them hostile. */
static uint8_t *take_filter(input *from, uint32_t *size)
{
    static const uint8_t usual[] = "\x03\0a.>\x01\0a\x04\0$J.*";
    if (take(from, 1) & 1) {
        *size = sizeof usual - 1;
        return copy(usual, *size);
    }
    size_t length = take_below(from, 24);
    uint8_t *filter = block(length);
    for (size_t at = 0; at < length; at++)
        filter[at] = (uint8_t)take(from, 1);
    *size = (uint32_t)length;
    return filter;
}

static void check_acks(input *from, const tri_publishes *owed)
{
    static const uint8_t head[] = "{\"a\":", prefix[] = "_IN.", sid[] = "1";
    uint64_t bound = tri_acks_bound(owed->count, owed->replies_size, 5, 1), written = 0;
    uint64_t room = take(from, 1) & 1 ? bound : take_below(from, (uint32_t)bound + 1);
    uint8_t *out = block(room), *results = block((size_t)8 * owed->count);
    for (uint32_t i = 0; i < owed->count; i++)
        tri_store64(results + 8 * i, (uint64_t)(take(from, 1) % 3) << 56 | take(from, 3));
    uint32_t done = tri_format_acks(owed->replies, owed->replies_size, owed->reply_ends, 0, owed->count, results,
                                    head, 5, prefix, 4, sid, 1, out, room, &written);
    expect(done <= owed->count && written <= room);
    if (written) { /* what was formatted is what a client reads */
        tri_op ops[CAPACITY];
        limits by = {TRI_CLIENT_SIDE, CAPACITY, 1 << 20, 65000};
        uint32_t consumed;
        int error;
        uint8_t *wire = copy(out, written);
        int count = scan(wire, (uint32_t)written, &by, ops, &consumed, &error);
        expect(error == TRI_SCAN_OK && consumed == written && count > 0 && (uint32_t)count <= done);
        free(wire);
    }
    free(out), free(results);
}

static void check_append(input *from, const uint8_t *buffer, uint32_t size, const tri_op *ops, uint32_t count)
{
    uint32_t filter_size, room = take_below(from, 300), entries = take_below(from, 8), taken = 0;
    uint8_t *filter = take_filter(from, &filter_size);
    tri_publishes to = {.entries_capacity = room, .replies_capacity = room / 2, .count_capacity = entries};
    to.entries = block(room);
    to.replies = block(room / 2);
    to.lengths = block((size_t)4 * entries);
    to.types = block(entries);
    to.reply_ends = block((size_t)4 * entries);
    to.max_bytes = take_doubtful(from, 400);
    to.max_count = take_below(from, 10);
    int stop = tri_append_publishes(&to, buffer, size, ops, 0, count, filter, filter_size, &taken);
    expect(taken == to.count && taken <= count && to.count <= entries && to.count <= to.max_count);
    expect((taken == count) == (stop == TRI_APPEND_ALL));
    uint32_t sum = 0;
    for (uint32_t i = 0; i < to.count; i++)
        sum += tri_load32(to.lengths + 4 * i);
    expect(sum == to.entries_size && to.entries_size <= room && to.replies_size <= room / 2);
    check_acks(from, &to);
    free(to.entries), free(to.replies), free(to.lengths), free(to.types), free(to.reply_ends), free(filter);
}

static void check_counts(const uint8_t *buffer, uint32_t size, const tri_op *ops, uint32_t count)
{
    uint64_t sent[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    tri_ack_counts counts;
    memset(&counts, 0, sizeof counts);
    uint32_t answered = tri_count_acks(buffer, size, ops, count, 4, sent, 7, 8, UINT64_MAX, &counts);
    expect(answered == counts.stored + counts.errors && answered <= 8);
    expect(counts.duplicates <= counts.stored);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    input from = {data, size};
    limits by = {.direction = (int)take_below(&from, 2)};
    by.capacity = (int)(1 + take_below(&from, CAPACITY));
    by.max_payload = take_doubtful(&from, 200);
    by.max_control_line = 10 + take_below(&from, 100);
    uint32_t cut = take(&from, 2);
    input decisions = {from.at, from.left < 32 ? from.left : 32};
    from.at += decisions.left;
    from.left -= decisions.left;
    size_t left;
    uint8_t *buffer = take_rest(&from, &left);
    uint32_t length = (uint32_t)left, consumed;
    tri_op ops[CAPACITY];
    int error, count = scan(buffer, length, &by, ops, &consumed, &error);
    check_split(buffer, length, cut % (length + 1), by, ops, count, consumed, error);
    check_append(&decisions, buffer, length, ops, (uint32_t)count);
    check_counts(buffer, length, ops, (uint32_t)count);
    sound_inputs += count > 0;
    free(buffer);
    return 0;
}
