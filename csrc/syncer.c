#ifdef __linux__
#define _GNU_SOURCE
#endif
#include "syncer.h"

#ifdef __linux__

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

enum { VECTORS = 256 }; /* buffers of one pwritev; more take several calls */

enum { IDLE, WANTED, DONE, STOPPED };

struct tri_syncer {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int state; /* under lock: IDLE -> WANTED (submit) -> DONE (thread) -> IDLE (result); STOPPED ends the thread */
    int event_fd;
    int fd;
    const uint8_t *const *buffers;
    const size_t *sizes;
    size_t count;
    uint64_t offset;
    int result;
};

/* Writes buffers `first` to `first + vectors - 1` of the job; their size, or -1 with errno. */
static ssize_t write_some(const tri_syncer *job, size_t first, size_t vectors, uint64_t offset) {
    struct iovec parts[VECTORS];
    size_t expected = 0;
    for (size_t i = 0; i < vectors; i++) {
        parts[i].iov_base = (void *)(uintptr_t)job->buffers[first + i];
        parts[i].iov_len = job->sizes[first + i];
        expected += job->sizes[first + i];
    }
    ssize_t written = pwritev(job->fd, parts, (int)vectors, (off_t)offset);
    if (written >= 0 && (size_t)written != expected) {
        errno = EIO; /* the disk is full or worse; which, must not be guessed */
        return -1;
    }
    return written;
}

static int write_and_sync(const tri_syncer *job) {
    uint64_t offset = job->offset;
    for (size_t first = 0; first < job->count;) {
        size_t vectors = job->count - first;
        if (vectors > VECTORS) {
            vectors = VECTORS;
        }
        ssize_t written = write_some(job, first, vectors, offset);
        if (written < 0) {
            return errno;
        }
        offset += (uint64_t)written;
        first += vectors;
    }
    return fdatasync(job->fd) == 0 ? 0 : errno;
}

static void *work(void *argument) {
    tri_syncer *syncer = argument;
    const uint64_t one = 1;
    pthread_mutex_lock(&syncer->lock);
    for (;;) {
        while (syncer->state != WANTED && syncer->state != STOPPED) {
            pthread_cond_wait(&syncer->changed, &syncer->lock);
        }
        if (syncer->state == STOPPED) {
            break;
        }
        pthread_mutex_unlock(&syncer->lock);
        int result = write_and_sync(syncer);
        pthread_mutex_lock(&syncer->lock);
        syncer->result = result;
        syncer->state = DONE;
        /* An eventfd far from its limit takes this always; the reader would wait in vain otherwise. */
        if (write(syncer->event_fd, &one, sizeof one) != sizeof one) {
            syncer->result = errno ? errno : EIO;
        }
    }
    pthread_mutex_unlock(&syncer->lock);
    return NULL;
}

tri_syncer *tri_syncer_start(int event_fd) {
    tri_syncer *syncer = calloc(1, sizeof *syncer);
    if (syncer == NULL) {
        return NULL;
    }
    syncer->event_fd = event_fd;
    syncer->state = IDLE;
    pthread_mutex_init(&syncer->lock, NULL);
    pthread_cond_init(&syncer->changed, NULL);
    /* Signals are the interpreter's: none may be delivered here. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&syncer->thread, NULL, work, syncer);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) {
        pthread_cond_destroy(&syncer->changed);
        pthread_mutex_destroy(&syncer->lock);
        free(syncer);
        return NULL;
    }
    return syncer;
}

int tri_syncer_submit(
    tri_syncer *syncer, int fd, const uint8_t *const *buffers, const size_t *sizes, size_t count, uint64_t offset) {
    pthread_mutex_lock(&syncer->lock);
    int taken = syncer->state == IDLE;
    if (taken) {
        syncer->fd = fd;
        syncer->buffers = buffers;
        syncer->sizes = sizes;
        syncer->count = count;
        syncer->offset = offset;
        syncer->state = WANTED;
    }
    pthread_mutex_unlock(&syncer->lock);
    if (taken) { /* not before: the thread would wake up only to wait for the lock */
        pthread_cond_signal(&syncer->changed);
    }
    return taken ? 0 : -1;
}

int tri_syncer_result(tri_syncer *syncer) {
    int result = -1;
    pthread_mutex_lock(&syncer->lock);
    if (syncer->state == DONE) {
        result = syncer->result;
        syncer->state = IDLE;
    }
    pthread_mutex_unlock(&syncer->lock);
    return result;
}

int tri_syncer_stop(tri_syncer *syncer) {
    pthread_mutex_lock(&syncer->lock);
    int idle = syncer->state == IDLE || syncer->state == DONE;
    if (idle) {
        syncer->state = STOPPED;
        pthread_cond_signal(&syncer->changed);
    }
    pthread_mutex_unlock(&syncer->lock);
    if (!idle) {
        return -1;
    }
    pthread_join(syncer->thread, NULL);
    pthread_cond_destroy(&syncer->changed);
    pthread_mutex_destroy(&syncer->lock);
    free(syncer);
    return 0;
}

#else

tri_syncer *tri_syncer_start(int event_fd) {
    (void)event_fd;
    return NULL;
}

int tri_syncer_submit(
    tri_syncer *syncer, int fd, const uint8_t *const *buffers, const size_t *sizes, size_t count, uint64_t offset) {
    (void)syncer, (void)fd, (void)buffers, (void)sizes, (void)count, (void)offset;
    return -1;
}

int tri_syncer_result(tri_syncer *syncer) {
    (void)syncer;
    return -1;
}

int tri_syncer_stop(tri_syncer *syncer) {
    (void)syncer;
    return -1;
}

#endif
