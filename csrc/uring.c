#ifdef __linux__
#define _GNU_SOURCE
#endif
#include "uring.h"

#if defined(__linux__) && defined(__has_include)
#if __has_include(<linux/io_uring.h>)
#include <linux/io_uring.h>
#endif
#endif

#if defined(IORING_FEAT_CQE_SKIP) /* the headers are of 5.17 at least */
#define HAVE_URING 1
#endif

#ifdef HAVE_URING

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { ENTRIES = 2, WRITE = 0, SYNC = 1 };

struct tri_uring {
    int fd;
    int busy;
    uint64_t job;    /* the number of the last one; completions carry it, and WRITE or SYNC in the lowest bit */
    size_t expected; /* bytes of the job's write */
    uint8_t *queues; /* both rings; the kernel writes into them as well */
    size_t queues_size;
    struct io_uring_sqe *sqes;
    size_t sqes_size;
    uint32_t *sq_tail, *sq_mask, *sq_array;
    uint32_t *cq_head, *cq_tail, *cq_mask;
    struct io_uring_cqe *cqes;
    struct iovec parts[TRI_URING_BUFFERS];
};

static int setup(unsigned entries, struct io_uring_params *params) {
    return (int)syscall(__NR_io_uring_setup, entries, params);
}

static int enter(int fd, unsigned count) {
    return (int)syscall(__NR_io_uring_enter, fd, count, 0, 0, NULL, 0);
}

static void point_into(tri_uring *ring, const struct io_uring_params *params) {
    const struct io_sqring_offsets *sq = &params->sq_off;
    const struct io_cqring_offsets *cq = &params->cq_off;
    ring->sq_tail = (uint32_t *)(ring->queues + sq->tail);
    ring->sq_mask = (uint32_t *)(ring->queues + sq->ring_mask);
    ring->sq_array = (uint32_t *)(ring->queues + sq->array);
    ring->cq_head = (uint32_t *)(ring->queues + cq->head);
    ring->cq_tail = (uint32_t *)(ring->queues + cq->tail);
    ring->cq_mask = (uint32_t *)(ring->queues + cq->ring_mask);
    ring->cqes = (struct io_uring_cqe *)(ring->queues + cq->cqes);
}

static void *mapped(int fd, size_t size, off_t what) {
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, what);
    return memory == MAP_FAILED ? NULL : memory;
}

static int map(tri_uring *ring, const struct io_uring_params *params) {
    size_t submissions = params->sq_off.array + params->sq_entries * sizeof(uint32_t);
    size_t completions = params->cq_off.cqes + params->cq_entries * sizeof(struct io_uring_cqe);
    ring->queues_size = submissions > completions ? submissions : completions;
    ring->queues = mapped(ring->fd, ring->queues_size, IORING_OFF_SQ_RING);
    ring->sqes_size = params->sq_entries * sizeof(struct io_uring_sqe);
    ring->sqes = mapped(ring->fd, ring->sqes_size, IORING_OFF_SQES);
    if (!ring->queues || !ring->sqes) {
        return -1;
    }
    point_into(ring, params);
    return 0;
}

static void release(tri_uring *ring) {
    if (ring->sqes) {
        munmap(ring->sqes, ring->sqes_size);
    }
    if (ring->queues) {
        munmap(ring->queues, ring->queues_size);
    }
    if (ring->fd >= 0) {
        close(ring->fd);
    }
    free(ring);
}

tri_uring *tri_uring_open(int event_fd) {
    /* The rings in one mapping, arguments that are read when the job is taken, and no word about a write that worked:
     * it would wake up the caller for nothing. */
    const unsigned wanted = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_SUBMIT_STABLE | IORING_FEAT_CQE_SKIP;
    struct io_uring_params params;
    memset(&params, 0, sizeof params);
    tri_uring *ring = calloc(1, sizeof *ring);
    if (ring == NULL) {
        return NULL;
    }
    ring->fd = setup(ENTRIES, &params);
    int usable = ring->fd >= 0 && (params.features & wanted) == wanted && map(ring, &params) == 0;
    if (!usable || syscall(__NR_io_uring_register, ring->fd, IORING_REGISTER_EVENTFD, &event_fd, 1) != 0) {
        release(ring);
        return NULL;
    }
    return ring;
}

static struct io_uring_sqe *next_entry(tri_uring *ring, uint32_t tail, int which, int fd) {
    uint32_t place = tail & *ring->sq_mask;
    struct io_uring_sqe *entry = &ring->sqes[place];
    memset(entry, 0, sizeof *entry);
    entry->fd = fd;
    entry->user_data = ring->job << 1 | (uint64_t)which;
    ring->sq_array[place] = place;
    return entry;
}

/* Describes the job in the queue; nothing is told to the kernel yet. */
static void fill_queue(tri_uring *ring, uint32_t tail, int fd, size_t count, uint64_t offset) {
    struct io_uring_sqe *write = next_entry(ring, tail, WRITE, fd);
    write->opcode = IORING_OP_WRITEV;
    write->flags = IOSQE_IO_LINK | IOSQE_CQE_SKIP_SUCCESS;
    write->addr = (uint64_t)(uintptr_t)ring->parts;
    write->len = (uint32_t)count;
    write->off = offset;
    struct io_uring_sqe *sync = next_entry(ring, tail + 1, SYNC, fd);
    sync->opcode = IORING_OP_FSYNC;
    sync->fsync_flags = IORING_FSYNC_DATASYNC;
}

int tri_uring_submit(
    tri_uring *ring, int fd, const uint8_t *const *buffers, const size_t *sizes, size_t count, uint64_t offset) {
    if (ring->busy || count > TRI_URING_BUFFERS) {
        return -1;
    }
    ring->job++;
    ring->expected = 0;
    for (size_t i = 0; i < count; i++) {
        ring->parts[i].iov_base = (void *)(uintptr_t)buffers[i];
        ring->parts[i].iov_len = sizes[i];
        ring->expected += sizes[i];
    }
    uint32_t tail = *ring->sq_tail; /* only we move it */
    fill_queue(ring, tail, fd, count, offset);
    __atomic_store_n(ring->sq_tail, tail + ENTRIES, __ATOMIC_RELEASE);
    int taken = enter(ring->fd, ENTRIES);
    if (taken != ENTRIES) {
        int failed = taken < 0 ? errno : EAGAIN;
        uint32_t rest = taken < 0 ? tail : tail + (uint32_t)taken;
        __atomic_store_n(ring->sq_tail, rest, __ATOMIC_RELEASE); /* what was not taken must not be later */
        return failed;
    }
    ring->busy = 1;
    return 0;
}

/* What a completion says about the job: -1 nothing, as it is about another one. */
static int outcome_of(const tri_uring *ring, const struct io_uring_cqe *completion) {
    if (completion->user_data >> 1 != ring->job) {
        return -1;
    }
    if (completion->res < 0) {
        return -completion->res;
    }
    int written = (completion->user_data & 1) == WRITE; /* told only if it came short */
    return written && (size_t)completion->res != ring->expected ? EIO : 0; /* the disk is full or worse */
}

int tri_uring_result(tri_uring *ring) {
    uint32_t head = *ring->cq_head;
    int result = -1;
    while (ring->busy && result < 0 && head != __atomic_load_n(ring->cq_tail, __ATOMIC_ACQUIRE)) {
        result = outcome_of(ring, &ring->cqes[head & *ring->cq_mask]);
        __atomic_store_n(ring->cq_head, ++head, __ATOMIC_RELEASE);
    }
    ring->busy = ring->busy && result < 0;
    return result;
}

int tri_uring_close(tri_uring *ring) {
    if (ring->busy && *ring->cq_head == __atomic_load_n(ring->cq_tail, __ATOMIC_ACQUIRE)) {
        return -1;
    }
    release(ring);
    return 0;
}

#else

tri_uring *tri_uring_open(int event_fd) {
    (void)event_fd;
    return NULL;
}

int tri_uring_submit(
    tri_uring *ring, int fd, const uint8_t *const *buffers, const size_t *sizes, size_t count, uint64_t offset) {
    (void)ring, (void)fd, (void)buffers, (void)sizes, (void)count, (void)offset;
    return -1;
}

int tri_uring_result(tri_uring *ring) {
    (void)ring;
    return -1;
}

int tri_uring_close(tri_uring *ring) {
    (void)ring;
    return -1;
}

#endif
