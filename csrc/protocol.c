#include "protocol.h"

#include <string.h>

#include "bytes.h"

_Static_assert(sizeof(tri_op) == 32, "the operation table is read by offsets");

enum { LINE_SLACK = 64, SIZE_DIGITS = 9, MAX_WORDS = 5 };

enum { INCOMPLETE = -1 }; /* not an error: the rest of this message has not arrived */

/* ---- Scanning ---- */

typedef struct {
    const char *verb;
    uint8_t size;
    uint8_t kind;
    uint8_t blank; /* must a blank follow the verb? */
    uint8_t fewest, most; /* words; 0, 0: the line is taken as it is */
} verb_rule;

static const verb_rule server_verbs[] = {
    {"PUB", 3, TRI_OP_PUB, 1, 2, 3},   {"HPUB", 4, TRI_OP_HPUB, 1, 3, 4},       {"SUB", 3, TRI_OP_SUB, 1, 2, 3},
    {"UNSUB", 5, TRI_OP_UNSUB, 1, 1, 2}, {"PING", 4, TRI_OP_PING, 0, 0, 0},     {"PONG", 4, TRI_OP_PONG, 0, 0, 0},
    {"CONNECT", 7, TRI_OP_CONNECT, 0, 0, 0}, {"INFO", 4, TRI_OP_INFO, 0, 0, 0}, {"+OK", 3, TRI_OP_PLUS_OK, 0, 0, 0},
    {"-ERR", 4, TRI_OP_ERR, 0, 0, 0},  {NULL, 0, 0, 0, 0, 0},
};

static const verb_rule client_verbs[] = {
    {"MSG", 3, TRI_OP_MSG, 1, 3, 4},    {"HMSG", 4, TRI_OP_HMSG, 1, 4, 5},   {"PING", 4, TRI_OP_PING, 0, 0, 0},
    {"PONG", 4, TRI_OP_PONG, 0, 0, 0},  {"INFO", 4, TRI_OP_INFO, 0, 0, 0},   {"+OK", 3, TRI_OP_PLUS_OK, 0, 0, 0},
    {"-ERR", 4, TRI_OP_ERR, 0, 0, 0},   {NULL, 0, 0, 0, 0, 0},
};

static int is_blank(uint8_t byte)
{
    return byte == ' ' || byte == '\t';
}

static uint8_t upper(uint8_t byte)
{
    return byte >= 'a' && byte <= 'z' ? (uint8_t)(byte - 32) : byte;
}

static uint8_t lower(uint8_t byte)
{
    return byte >= 'A' && byte <= 'Z' ? (uint8_t)(byte + 32) : byte;
}

/* The rule whose verb the message begins with. An error as soon as no verb can become of it. */
static int find_verb(const uint8_t *at, uint32_t left, const verb_rule *rules, const verb_rule **found)
{
    for (const verb_rule *rule = rules; rule->verb; rule++) {
        uint32_t same = 0;
        while (same < left && same < rule->size && upper(at[same]) == (uint8_t)rule->verb[same])
            same++;
        if (same == rule->size) {
            *found = rule;
            if (!rule->blank)
                return TRI_SCAN_OK;
            if (left == same)
                return INCOMPLETE;
            return is_blank(at[same]) ? TRI_SCAN_OK : TRI_SCAN_UNKNOWN_OPERATION;
        }
        if (same == left)
            return INCOMPLETE;
    }
    return TRI_SCAN_UNKNOWN_OPERATION;
}

typedef struct {
    uint32_t first, last; /* the arguments, without blanks before and the line end behind */
    uint32_t body;        /* where the next line begins */
} line_span;

static int find_line(const uint8_t *buffer, uint32_t size, uint32_t at, uint32_t after_verb, uint32_t max_control_line,
                     line_span *line)
{
    uint32_t left = size - at;
    uint32_t limit = max_control_line + LINE_SLACK;
    uint32_t end = at + (left < limit ? left : limit);
    const uint8_t *newline = end > after_verb ? memchr(buffer + after_verb, '\n', end - after_verb) : NULL;
    if (!newline && left >= limit)
        return TRI_SCAN_CONTROL_LINE;
    uint32_t last = newline ? (uint32_t)(newline - buffer) : end;
    line->body = last + 1;
    if (last > after_verb && buffer[last - 1] == '\r')
        last--;
    uint32_t first = after_verb;
    while (first < last && is_blank(buffer[first]))
        first++;
    if (last - first > max_control_line)
        return TRI_SCAN_CONTROL_LINE;
    line->first = first;
    line->last = last;
    return newline ? TRI_SCAN_OK : INCOMPLETE;
}

typedef struct {
    uint32_t at, size;
} span;

/* Split the arguments; -1 if there are more than MAX_WORDS, or a stray carriage return in one, which would let a
 * subject smuggle a line into what other clients read. */
static int split_words(const uint8_t *buffer, uint32_t first, uint32_t last, span *words)
{
    int count = 0;
    uint32_t at = first;
    while (at < last) {
        if (is_blank(buffer[at])) {
            at++;
            continue;
        }
        if (count == MAX_WORDS)
            return -1;
        uint32_t begin = at;
        while (at < last && !is_blank(buffer[at])) {
            if (buffer[at] == '\r')
                return -1;
            at++;
        }
        words[count].at = begin;
        words[count].size = at - begin;
        count++;
    }
    return count;
}

static int parse_size(const uint8_t *buffer, span digits, uint32_t *value)
{
    if (digits.size > SIZE_DIGITS)
        return TRI_SCAN_BAD_ARGUMENTS;
    uint32_t sum = 0; /* nine digits fit */
    for (uint32_t i = 0; i < digits.size; i++) {
        uint8_t digit = (uint8_t)(buffer[digits.at + i] - '0');
        if (digit > 9)
            return TRI_SCAN_BAD_ARGUMENTS;
        sum = 10 * sum + digit;
    }
    *value = sum;
    return TRI_SCAN_OK;
}

static int begins_nats(const uint8_t *at, uint32_t left)
{
    return left >= 5 && lower(at[0]) == 'n' && lower(at[1]) == 'a' && lower(at[2]) == 't' && lower(at[3]) == 's' &&
           at[4] == '-';
}

static int names_nats(const uint8_t *headers, uint32_t size)
{
    uint32_t at = 0;
    for (;;) {
        if (begins_nats(headers + at, size - at))
            return 1;
        const uint8_t *newline = memchr(headers + at, '\n', size - at);
        if (!newline)
            return 0;
        at = (uint32_t)(newline - headers) + 1;
    }
}

static int is_message(uint8_t kind)
{
    return kind == TRI_OP_MSG || kind == TRI_OP_HMSG;
}

static int has_headers(uint8_t kind)
{
    return kind == TRI_OP_HPUB || kind == TRI_OP_HMSG;
}

static void set_subject(tri_op *op, span word)
{
    op->subject = word.at;
    op->subject_size = (uint16_t)word.size;
}

static void set_reply(tri_op *op, span word)
{
    op->reply = word.at;
    op->reply_size = (uint16_t)word.size;
}

static void set_args(tri_op *op, span word)
{
    op->args = word.at;
    op->args_size = (uint16_t)word.size;
}

/* PUB, HPUB, MSG, HMSG: words, sizes, payload and its end. */
static int scan_sized(const uint8_t *buffer, uint32_t size, const line_span *line, uint32_t max_payload,
                      const span *words, int count, tri_op *op)
{
    int at = 0;
    int sizes = has_headers(op->kind) ? 2 : 1;
    set_subject(op, words[at++]);
    if (is_message(op->kind))
        set_args(op, words[at++]);
    if (count - at > sizes)
        set_reply(op, words[at++]);
    int error = parse_size(buffer, words[count - 1], &op->body_size);
    if (error)
        return error;
    if (sizes == 2) {
        error = parse_size(buffer, words[at], &op->header_size);
        if (error)
            return error;
        if (op->header_size > op->body_size)
            return TRI_SCAN_BAD_ARGUMENTS;
    }
    if (op->body_size > max_payload)
        return TRI_SCAN_MAX_PAYLOAD;
    op->body = line->body;
    uint32_t left = size - line->body;
    if (left > op->body_size && buffer[line->body + op->body_size] != '\r')
        return TRI_SCAN_UNKNOWN_OPERATION;
    if (left > op->body_size && left - op->body_size > 1 && buffer[line->body + op->body_size + 1] != '\n')
        return TRI_SCAN_UNKNOWN_OPERATION;
    if (left < op->body_size || left - op->body_size < 2)
        return INCOMPLETE;
    if (op->header_size && names_nats(buffer + op->body, op->header_size))
        op->flags |= TRI_OP_NATS_HEADER;
    return TRI_SCAN_OK;
}

/* Decode the operation at `at`; `next` gets where the one behind it begins. */
static int scan_one(const uint8_t *buffer, uint32_t size, uint32_t at, const verb_rule *rules, uint32_t max_payload,
                    uint32_t max_control_line, tri_op *op, uint32_t *next)
{
    const verb_rule *rule = NULL;
    int error = find_verb(buffer + at, size - at, rules, &rule);
    if (error)
        return error;
    line_span line;
    error = find_line(buffer, size, at, at + rule->size, max_control_line, &line);
    if (error)
        return error;
    memset(op, 0, sizeof *op);
    op->kind = rule->kind;
    *next = line.body;
    if (!rule->most) {
        set_args(op, (span){line.first, line.last - line.first});
        return TRI_SCAN_OK;
    }
    span words[MAX_WORDS];
    int count = split_words(buffer, line.first, line.last, words);
    if (count < rule->fewest || count > rule->most)
        return TRI_SCAN_BAD_ARGUMENTS;
    switch (rule->kind) {
    case TRI_OP_SUB:
        set_subject(op, words[0]);
        if (count == 3)
            set_reply(op, words[1]);
        set_args(op, words[count - 1]);
        return TRI_SCAN_OK;
    case TRI_OP_UNSUB:
        set_args(op, words[0]);
        if (count == 2)
            set_reply(op, words[1]);
        return TRI_SCAN_OK;
    default:
        error = scan_sized(buffer, size, &line, max_payload, words, count, op);
        *next = line.body + op->body_size + 2; /* used only if the payload and its end are there */
        return error;
    }
}

int tri_scan(const uint8_t *buffer, uint32_t size, int direction, uint32_t max_payload, uint32_t max_control_line,
             tri_op *ops, int capacity, uint32_t *consumed, int *error)
{
    const verb_rule *rules = direction == TRI_SERVER_SIDE ? server_verbs : client_verbs;
    uint32_t at = 0;
    int count = 0;
    int result = TRI_SCAN_OK;
    while (count < capacity && at < size) {
        uint32_t next = at;
        tri_op op;
        result = scan_one(buffer, size, at, rules, max_payload, max_control_line, &op, &next);
        if (result)
            break;
        ops[count++] = op;
        at = next;
    }
    *consumed = at;
    *error = result == INCOMPLETE ? TRI_SCAN_OK : result;
    return count;
}

/* ---- Subjects ---- */

static uint32_t token_size(const uint8_t *at, uint32_t left)
{
    const uint8_t *dot = memchr(at, '.', left);
    return dot ? (uint32_t)(dot - at) : left;
}

static int is_wildcard(const uint8_t *token, uint32_t size)
{
    return size == 1 && (*token == '*' || *token == '>');
}

/* Every token is there. */
static int is_whole(const uint8_t *subject, uint32_t size)
{
    uint32_t at = 0;
    for (;;) {
        uint32_t token = token_size(subject + at, size - at);
        if (token == 0)
            return 0;
        if (token == size - at)
            return 1;
        at += token + 1;
    }
}

/* `subject` is taken as it is; both have at least one token, of at least one byte. */
static int match_one(const uint8_t *subject, uint32_t subject_size, const uint8_t *pattern, uint32_t pattern_size)
{
    if (*subject == '$' && is_wildcard(pattern, token_size(pattern, pattern_size)))
        return 0;
    for (;;) {
        uint32_t wanted = token_size(pattern, pattern_size);
        uint32_t token = token_size(subject, subject_size);
        if (wanted == 1 && *pattern == '>')
            return 1;
        int any = wanted == 1 && *pattern == '*';
        if (!any && (token != wanted || memcmp(subject, pattern, token) != 0))
            return 0;
        int subject_ends = token == subject_size;
        int pattern_ends = wanted == pattern_size;
        if (subject_ends || pattern_ends)
            return subject_ends && pattern_ends;
        subject += token + 1;
        subject_size -= token + 1;
        pattern += wanted + 1;
        pattern_size -= wanted + 1;
    }
}

uint64_t tri_body_bytes(const tri_op *ops, uint32_t first, uint32_t last)
{
    uint64_t bytes = 0;
    for (uint32_t i = first; i < last; i++)
        bytes += ops[i].body_size;
    return bytes;
}

int tri_match(const uint8_t *subject, uint32_t subject_size, const uint8_t *filter, uint32_t filter_size)
{
    if (!is_whole(subject, subject_size))
        return 0;
    while (filter_size >= 2) {
        uint32_t size = tri_load16(filter);
        if (size == 0 || filter_size - 2 < size)
            return 0;
        if (match_one(subject, subject_size, filter + 2, size))
            return 1;
        filter += 2 + size;
        filter_size -= 2 + size;
    }
    return 0;
}

/* ---- Publishes into a chunk ---- */

enum { ENTRY_HEAD = 8, TYPE_PUBLISH = 16, TYPE_PUBLISH_CHECKED = 17 };

static int lies_inside(uint32_t offset, uint32_t length, uint32_t size)
{
    return offset <= size && length <= size - offset;
}

static int is_publish(const tri_op *op, uint32_t size)
{
    return (op->kind == TRI_OP_PUB || op->kind == TRI_OP_HPUB) && lies_inside(op->subject, op->subject_size, size) &&
           lies_inside(op->reply, op->reply_size, size) && lies_inside(op->body, op->body_size, size) &&
           op->header_size <= op->body_size;
}

static int room_for(const tri_publishes *to, const tri_op *op, uint64_t entry_size)
{
    uint64_t entries = to->entries_size + entry_size;
    uint64_t replies = (uint64_t)to->replies_size + op->reply_size;
    uint64_t payload = tri_pad8(entries) + tri_pad8((uint64_t)5 * (to->count + 1));
    if (to->count >= to->max_count || payload > to->max_bytes || replies > to->max_bytes)
        return TRI_APPEND_FULL;
    if (to->count >= to->count_capacity || entries > to->entries_capacity || replies > to->replies_capacity)
        return TRI_APPEND_GROW;
    return TRI_APPEND_ALL;
}

static void append_one(tri_publishes *to, const uint8_t *buffer, const tri_op *op, uint32_t entry_size)
{
    uint8_t *entry = to->entries + to->entries_size;
    tri_store16(entry, op->subject_size);
    tri_store16(entry + 2, 0);
    tri_store32(entry + 4, op->header_size);
    memcpy(entry + ENTRY_HEAD, buffer + op->subject, op->subject_size);
    memcpy(entry + ENTRY_HEAD + op->subject_size, buffer + op->body, op->body_size);
    to->entries_size += entry_size;
    tri_store32(to->lengths + (size_t)4 * to->count, entry_size);
    to->types[to->count] = op->flags & TRI_OP_NATS_HEADER ? TYPE_PUBLISH_CHECKED : TYPE_PUBLISH;
    memcpy(to->replies + to->replies_size, buffer + op->reply, op->reply_size);
    to->replies_size += op->reply_size;
    tri_store32(to->reply_ends + (size_t)4 * to->count, to->replies_size);
    to->count++;
}

int tri_append_publishes(tri_publishes *to, const uint8_t *buffer, uint32_t size, const tri_op *ops, uint32_t first,
                         uint32_t last, const uint8_t *filter, uint32_t filter_size, uint32_t *taken)
{
    const tri_op *known = NULL; /* the last one whose subject matched: the next one is likely to have the same */
    *taken = 0;
    for (uint32_t number = first; number < last; number++) {
        const tri_op *op = &ops[number];
        if (!is_publish(op, size))
            return TRI_APPEND_OTHER;
        int same = known && known->subject_size == op->subject_size &&
                   memcmp(buffer + known->subject, buffer + op->subject, op->subject_size) == 0;
        if (!same && !tri_match(buffer + op->subject, op->subject_size, filter, filter_size))
            return TRI_APPEND_OTHER;
        known = op;
        uint64_t entry_size = (uint64_t)ENTRY_HEAD + op->subject_size + op->body_size;
        int stop = room_for(to, op, entry_size);
        if (stop)
            return stop;
        append_one(to, buffer, op, (uint32_t)entry_size); /* at most max_bytes, so 32 bits */
        ++*taken;
    }
    return TRI_APPEND_ALL;
}

/* ---- Acknowledgements ---- */

enum { STATUS_STORED = 0, STATUS_DUPLICATE = 1 };

static const char duplicate_tail[] = ",\"duplicate\": true}";

/* "MSG ", two blanks, size, CRLF, sequence, tail, CRLF: what one acknowledgement has beside reply, sid and head. */
enum { ACK_EXTRA = 4 + 2 + 10 + 2 + 20 + sizeof duplicate_tail - 1 + 2 };

/* Decimal digits without leading zeros; returns how many. */
static uint32_t put_number(uint8_t *out, uint64_t value)
{
    uint8_t digits[20];
    uint32_t count = 0;
    do {
        digits[count++] = (uint8_t)('0' + value % 10);
        value /= 10;
    } while (value);
    for (uint32_t i = 0; i < count; i++)
        out[i] = digits[count - 1 - i];
    return count;
}

static uint8_t *put(uint8_t *out, const void *bytes, size_t size)
{
    memcpy(out, bytes, size);
    return out + size;
}

uint64_t tri_acks_bound(uint32_t count, uint64_t replies_size, uint32_t head_size, uint32_t sid_size)
{
    return (uint64_t)count * (ACK_EXTRA + head_size + sid_size) + replies_size;
}

/* Is the reply `prefix` and one token more? */
static int is_inbox_reply(const uint8_t *reply, uint32_t size, const uint8_t *prefix, uint32_t prefix_size)
{
    return size > prefix_size && memcmp(reply, prefix, prefix_size) == 0 &&
           !memchr(reply + prefix_size, '.', size - prefix_size);
}

uint32_t tri_format_acks(const uint8_t *replies, uint32_t replies_size, const uint8_t *reply_ends, uint32_t start,
                         uint32_t count, const uint8_t *results, const uint8_t *head, uint32_t head_size,
                         const uint8_t *prefix, uint32_t prefix_size, const uint8_t *sid, uint32_t sid_size,
                         uint8_t *out, uint64_t capacity, uint64_t *written)
{
    uint8_t *at = out;
    uint32_t begin = start ? tri_load32(reply_ends + (size_t)4 * (start - 1)) : 0;
    uint32_t done = 0;
    for (; done < count; done++) {
        size_t number = (size_t)start + done;
        uint32_t end = tri_load32(reply_ends + 4 * number);
        if (end < begin || end > replies_size)
            break;
        uint32_t reply_size = end - begin;
        const uint8_t *reply = replies + begin;
        begin = end;
        if (reply_size == 0)
            continue;
        uint64_t result = tri_load64(results + 8 * number);
        uint64_t status = result >> 56;
        if (status > STATUS_DUPLICATE || !is_inbox_reply(reply, reply_size, prefix, prefix_size))
            break;
        if (capacity - (uint64_t)(at - out) < tri_acks_bound(1, reply_size, head_size, sid_size))
            break;
        uint8_t sequence[20];
        uint32_t digits = put_number(sequence, result & (((uint64_t)1 << 56) - 1));
        uint32_t tail_size = status == STATUS_DUPLICATE ? sizeof duplicate_tail - 1 : 1;
        at = put(at, "MSG ", 4);
        at = put(at, reply, reply_size);
        *at++ = ' ';
        at = put(at, sid, sid_size);
        *at++ = ' ';
        at += put_number(at, (uint64_t)head_size + digits + tail_size);
        at = put(at, "\r\n", 2);
        at = put(at, head, head_size);
        at = put(at, sequence, digits);
        at = put(at, status == STATUS_DUPLICATE ? duplicate_tail : "}", tail_size);
        at = put(at, "\r\n", 2);
    }
    *written = (uint64_t)(at - out);
    return done;
}

/* ---- Load generation ---- */

void tri_number_publishes(uint8_t *out, const uint8_t *message, uint32_t message_size, uint32_t digits_at,
                          uint64_t first, uint32_t count, uint64_t *sent, uint64_t mask, uint64_t now)
{
    for (uint32_t i = 0; i < count; i++) {
        uint64_t number = first + i;
        sent[number & mask] = now;
        memcpy(out, message, message_size);
        for (int digit = TRI_NUMBER_DIGITS - 1; digit >= 0; digit--) {
            out[digits_at + (uint32_t)digit] = (uint8_t)('0' + number % 10);
            number /= 10;
        }
        out += message_size;
    }
}

static uint32_t latency_bucket(uint64_t latency)
{
    if (latency < 32)
        return (uint32_t)latency;
    uint32_t shift = 58 - (uint32_t)__builtin_clzll(latency); /* leaves the six highest bits: 32..63 */
    return 32 * shift + (uint32_t)(latency >> shift);
}

/* The number at the end of an acknowledgement's subject; -1 if there is none. */
static int64_t ack_number(const uint8_t *buffer, const tri_op *op, uint32_t prefix_size)
{
    if (op->subject_size != prefix_size + TRI_NUMBER_DIGITS)
        return -1;
    int64_t number = 0;
    for (uint32_t i = prefix_size; i < op->subject_size; i++) {
        uint8_t digit = (uint8_t)(buffer[op->subject + i] - '0');
        if (digit > 9)
            return -1;
        number = 10 * number + digit;
    }
    return number;
}

static int begins_with(const uint8_t *at, uint32_t size, const char *text)
{
    size_t length = strlen(text);
    return size >= length && memcmp(at, text, length) == 0;
}

static int ends_with(const uint8_t *at, uint32_t size, const char *text)
{
    size_t length = strlen(text);
    return size >= length && memcmp(at + size - length, text, length) == 0;
}

uint32_t tri_count_acks(const uint8_t *buffer, uint32_t size, const tri_op *ops, uint32_t count, uint32_t prefix_size,
                        uint64_t *sent, uint64_t mask, uint64_t next, uint64_t now, tri_ack_counts *counts)
{
    uint32_t answered = 0;
    counts->first_error = 0;
    for (uint32_t i = 0; i < count; i++) {
        const tri_op *op = &ops[i];
        if (!is_message(op->kind) || !lies_inside(op->subject, op->subject_size, size) ||
            !lies_inside(op->body, op->body_size, size))
            continue;
        int64_t number = ack_number(buffer, op, prefix_size);
        if (number < 0 || (uint64_t)number >= next || !sent[(uint64_t)number & mask]) {
            counts->strays++;
            continue;
        }
        uint64_t then = sent[(uint64_t)number & mask];
        sent[(uint64_t)number & mask] = 0;
        answered++;
        const uint8_t *body = buffer + op->body;
        if (op->kind == TRI_OP_HMSG || !begins_with(body, op->body_size, "{\"stream\":")) {
            counts->errors++;
            if (!counts->first_error)
                counts->first_error = i + 1;
            continue;
        }
        uint64_t latency = now > then ? now - then : 0;
        counts->stored++;
        if (ends_with(body, op->body_size, "\"duplicate\": true}"))
            counts->duplicates++;
        if (latency > counts->latency_max)
            counts->latency_max = latency;
        counts->latencies[latency_bucket(latency)]++;
    }
    return answered;
}
