#ifndef TRIMARAN_SYNCER_H
#define TRIMARAN_SYNCER_H

#include <stddef.h>
#include <stdint.h>

/*
 * A thread that writes and syncs, with no interpreter in it.
 *
 * What an acknowledgement waits for is one gathered write and one fdatasync. A Python thread that does them has to
 * take the interpreter's lock back after each call, from an event loop that is busy just then. This thread needs
 * no lock: it takes a job, calls pwritev until all is written, then fdatasync, and counts an eventfd up.
 *
 * One job at a time, from one thread. The buffers belong to the caller and must stay as they are until the eventfd
 * has counted. Nothing is retried: the first failure is the job's result. Linux only; elsewhere tri_syncer_start
 * returns NULL.
 */

typedef struct tri_syncer tri_syncer;

/* A new thread that counts `event_fd` up after each job; NULL if there can't be one. */
tri_syncer *tri_syncer_start(int event_fd);

/*
 * Hands over a job: write `count` buffers at `offset` of `fd` and sync it. 0, or -1 if a job is under way.
 * The arrays are copied by nobody: they, too, must stay until the job is done.
 */
int tri_syncer_submit(
    tri_syncer *syncer, int fd, const uint8_t *const *buffers, const size_t *sizes, size_t count, uint64_t offset);

/* The finished job's result: 0, or the errno of what failed (EIO for a write that came short); -1 while it runs. */
int tri_syncer_result(tri_syncer *syncer);

/* Ends the thread and frees it; only when no job is under way, which is the caller's to know. 0, or -1 if one is. */
int tri_syncer_stop(tri_syncer *syncer);

#endif
