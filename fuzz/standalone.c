/* Runs a fuzz target without libFuzzer, with any compiler: every file named, then so many mutations of them.
 *
 *     standalone ROUNDS FILE...
 *
 * Prints how many inputs were run and how many had something sound in them. */
#include "fuzz.h"

enum { MAX_INPUT = 4096, MAX_FILES = 1024 };

static uint64_t state = 0x9E3779B97F4A7C15; /* always the same: a failure comes again */

static uint32_t draw(uint32_t below)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 33) % below;
}

typedef struct {
    uint8_t bytes[MAX_INPUT];
    size_t size;
} sample;

static void load(const char *path, sample *into)
{
    FILE *file = fopen(path, "rb");
    if (!file) {
        perror(path);
        exit(2);
    }
    into->size = fread(into->bytes, 1, MAX_INPUT, file);
    fclose(file);
}

/* Changes, inserts, removes or repeats a few bytes. */
static void mutate(sample *input)
{
    static const uint8_t telling[] = {0x00, 0x01, 0x07, 0x08, 0x7F, 0x80, 0xF8, 0xFE, 0xFF};
    for (uint32_t changes = 1 + draw(4); changes; changes--) {
        size_t at = draw((uint32_t)input->size + 1);
        uint32_t way = draw(8);
        if (way == 0 && input->size < MAX_INPUT) {
            memmove(input->bytes + at + 1, input->bytes + at, input->size - at);
            input->bytes[at] = (uint8_t)draw(256);
            input->size++;
        } else if (way == 1 && at < input->size) {
            memmove(input->bytes + at, input->bytes + at + 1, input->size - at - 1);
            input->size--;
        } else if (way == 2) {
            input->size = at;
        } else if (at < input->size) {
            input->bytes[at] = draw(2) ? (uint8_t)draw(256) : telling[draw(sizeof telling)];
        }
    }
}

static void run(const sample *input)
{
    uint8_t *exact = copy(input->bytes, input->size);
    LLVMFuzzerTestOneInput(exact, input->size);
    free(exact);
}

int main(int argc, char **argv)
{
    static sample files[MAX_FILES];
    int count = argc - 2 < MAX_FILES ? argc - 2 : MAX_FILES;
    if (count < 1) {
        fprintf(stderr, "usage: %s ROUNDS FILE...\n", argv[0]);
        return 2;
    }
    for (int number = 0; number < count; number++) {
        load(argv[2 + number], &files[number]);
        run(&files[number]);
    }
    long rounds = strtol(argv[1], NULL, 10);
    for (long round = 0; round < rounds; round++) {
        sample changed = files[draw((uint32_t)count)];
        mutate(&changed);
        run(&changed);
    }
    printf("%ld %lu\n", count + rounds, sound_inputs);
    return 0;
}
