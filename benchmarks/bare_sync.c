/* The bare loop that the log is compared with: write, sync, again, and nothing else in the program's way. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + (double)at.tv_nsec * 1e-9;
}

/* Writes sizes[i] bytes at offsets[i] and syncs them, one after the other; seconds[i] is how long that took. They come
 * from the same place of `data`, which is as large as the file: what a log writes is in no cache either. Returns how many were done: fewer than `count` after an error. */
uint32_t bare_sync(int fd, const uint8_t *data, const uint32_t *sizes, const uint64_t *offsets, uint32_t count,
                   double *seconds)
{
    for (uint32_t i = 0; i < count; i++) {
        double began = now();
        if (pwrite(fd, data + offsets[i], sizes[i], (off_t)offsets[i]) != (ssize_t)sizes[i] || fdatasync(fd) != 0)
            return i;
        seconds[i] = now() - began;
    }
    return count;
}
