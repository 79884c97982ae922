/* How calls and their results lie in the messages of a pool (core/include/pz/pool.h); what is multiples of 8 stays so.
 *
 *   a batch    pz_batch, the function as a pz_item, then `to` items: what each call gets
 *   results    pz_flush, then pz_result + payload for each call that has ended
 *   large      a pz_result in one record, the payload as the parcel behind it, put together
 *   event      a pickled tuple, as pool.py takes it
 */
#ifndef PROCESSING_CALLS_H
#define PROCESSING_CALLS_H

#include "_encode.h"
#include "pz/pool.h"

#include <signal.h>
#include <sys/prctl.h>
#include <time.h>

enum { /* pz_batch.kind */
    PZ_CALL_ONE = 1,  /* func(item) */
    PZ_CALL_STAR,     /* func(*item) */
    PZ_CALL_KEYWORDS, /* func(*item[0], **item[1]) */
};
enum { PZ_BATCH_PRIVATE = 1 }; /* pz_batch.flags: arguments are copied out, as the call may be run again */
enum { /* pz_item.flags */
    PZ_ITEM_OBJECT = 1, /* the payload is a pz_item_object: what it names has the type */
    PZ_ITEM_TUPLE = 2,  /* the payload is items again, exact builtins all */
    PZ_ITEM_CACHE = 4,  /* means the same whenever it comes */
};
enum { PZ_MESSAGE_RESULTS = 1, PZ_MESSAGE_LARGE, PZ_MESSAGE_EVENT }; /* type of the record in the ring */
enum { PZ_RESULT_VALUE, PZ_RESULT_ERROR, PZ_RESULT_CANCELLED };

typedef struct pz_item {
    uint32_t length; /* of the payload, without what fills it up to a multiple of 8 */
    uint8_t type, flags;
    uint16_t spare;
} pz_item;

typedef struct pz_item_object {
    uint64_t offset;
    uint32_t gen, spare;
} pz_item_object;

typedef struct pz_flush {
    uint64_t ns; /* how long the calls took */
    uint32_t rank, count;
} pz_flush;

typedef struct pz_result {
    uint64_t job;
    uint32_t index, length;
    uint8_t type, status;
    uint16_t spare;
    uint32_t spare2;
} pz_result;

#define PZ_ROUND8(n) (((n) + 7u) & ~(size_t)7u)

/* Precise to a few milliseconds, and cheap. */
static inline uint64_t pz_coarse_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* What was read before this is not younger than what is read after it. */
static inline void pz_read_before(void)
{
    atomic_thread_fence(memory_order_acquire);
}

/* Whatever ends the parent ends this process, also if it stands still just then and cannot hear of it by other means. */
static inline void pz_end_with_parent(void)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
}

#endif
