#ifndef TRIMARAN_URING_H
#define TRIMARAN_URING_H

#include <stddef.h>
#include <stdint.h>

/*
 * Writing and syncing by io_uring: what csrc/syncer.h does with a thread of ours, done by the kernel's.
 *
 * A job is a gathered write and, linked to it, an fdatasync, which the kernel begins if and when all was written. An
 * eventfd counts up once, when the job is done or has failed.
 *
 * One job at a time, from one thread. Buffers and arrays belong to the caller and must stay as they are until the
 * job's result was taken. Nothing is retried: the first failure is the job's result.
 */

enum { TRI_URING_BUFFERS = 1024 }; /* of one job */

typedef struct tri_uring tri_uring;

/*
 * A new ring that counts `event_fd` up after each job. NULL where there is none: not Linux, a kernel before 5.17, or one
 * that forbids it.
 */
tri_uring *tri_uring_open(int event_fd);

/*
 * Hands over a job: write `count` buffers at `offset` of `fd` and sync them. 0; -1 if a job is under way or there are
 * more than TRI_URING_BUFFERS; or an errno if the kernel did not take all of it: then there is no job, but the write may
 * be under way all the same.
 */
int tri_uring_submit(
    tri_uring *ring, int fd, const uint8_t *const *buffers, const size_t *sizes, size_t count, uint64_t offset);

/* The finished job's result: 0, or the errno of what failed (EIO for a write that came short); -1 while it runs. */
int tri_uring_result(tri_uring *ring);

/* Closes the ring and frees it. 0, or -1 if a job is under way: then nothing was done. */
int tri_uring_close(tri_uring *ring);

#endif
