/* What a pool of workers shares: a ring of tasks, a ring of results, and a desk for each worker.
 *
 *      caller                          worker of rank r                    supervisor, after that worker's death
 *        put batch --> tasks --take--> desk r: the batch, how far it is      settle: locks, journals
 *        get     <-- results <-flush-- desk r: results, not passed on yet    flush, blame, requeue, report
 *
 * A batch is a message of at most PZ_TASK_MAX bytes: pz_batch, then what the binding makes of it. It refers to nothing that
 * it would have to own, so the copy on the desk is as good as the one in the ring was, and any part [from, to) of it can be
 * put back.
 *
 * Steps, and what a death in them leaves:
 *   take     copy to the desk                              the batch is in the ring
 *            turn := TAKEN (journal of the ring's get)     the same, once the get lock is taken over
 *            head := new                                   the desk has it, nothing of it has begun
 *   call     at := i | RUNNING                             call i was running
 *            result bytes, then `results`                  call i was running; its result counts if it is there
 *            at := i + 1                                   call i has ended
 *   flush    put, publish                                  the results are in both places: whoever reads them again
 *                                                          has to recognise them
 *            results := 0
 *   end      turn := IDLE                                  before: a batch of which all calls have ended
 *
 * Who sleeps for tasks waits for `turn` of the pool, not for the ring: putting a task wakes nobody as long as as many
 * workers spin as tasks are there. A worker enters itself in `spinning` before it spins; what it missed by dying there is
 * made good by pz_pool_settle, and by the slices in which all sleep.
 */
#ifndef PZ_POOL_H
#define PZ_POOL_H

#include "ring.h"

#define PZ_DESKS_MAX 1024u
#define PZ_TASK_MAX 15360u
#define PZ_CANCELS 64u
#define PZ_ALL_CALLS UINT32_MAX
#define PZ_CLAIMED UINT64_MAX

typedef struct pz_batch { /* calls [from, to) of a batch; call i of it is call first + i of the job */
    uint64_t job;
    uint32_t first, from, to;
    uint32_t timeout; /* ms that a call may run, 0: any */
    uint8_t kind, flags, attempt, retries;
    uint32_t spare;
} pz_batch;
_Static_assert(sizeof(pz_batch) == 32, "what follows is aligned");

enum pz_desk_state {
    PZ_DESK_EMPTY,
    PZ_DESK_STARTING, /* somebody sits there, and is not ready yet */
    PZ_DESK_IDLE,
    PZ_DESK_TAKEN,
    PZ_DESK_LEFT,   /* the worker went in an orderly way */
    PZ_DESK_FAILED, /* the same, as it could not begin: results hold the reason */
};
enum { PZ_ORDER_RETIRE = 1, PZ_ORDER_BROADCAST = 2 }; /* desk->orders */
#define PZ_RUNNING (UINT64_C(1) << 32)  /* in desk->at */

typedef struct pz_desk {
    pz_block block;
    pz_u64 turn; /* enum pz_desk_state in the lowest byte, batches taken above */
    pz_u64 at;   /* calls that have ended, as an index of the batch; PZ_RUNNING: the next one has begun */
    pz_u64 results; /* bytes of finished results, and their number above (<< 32) */
    pz_u32 owner;   /* PZ_OWNER of who sits there */
    pz_u32 orders;
    uint32_t length; /* of the batch */
    pz_u32 pid;
    pz_u64 started, deadline; /* of the call that runs, monotonic ns; deadline 0: none */
    pz_u64 calls, busy, waited; /* calls that ended; ns */
    pz_u64 since;               /* when it went idle or took its batch */
    pz_u64 broadcast;           /* the last one that was begun here, by this worker or one before it */
    pz_u64 broadcasting;        /* the job of the broadcast that runs; 0: none does */
    pz_u64 memory;              /* bytes that the worker had for itself when it was ready */
    uint64_t spare[14];
    _Alignas(PZ_LINE) uint8_t task[PZ_TASK_MAX];
    uint8_t result[PZ_INLINE_MAX];
} pz_desk;
_Static_assert(sizeof(pz_desk) <= PZ_SMALL_MAX, "a desk is no span of pages");

typedef struct pz_cancel {
    pz_u64 job; /* 0: free, PZ_CLAIMED: being entered */
    pz_u32 index;
    uint32_t spare;
} pz_cancel;

typedef struct pz_pool { /* PZ_POOL */
    pz_block block;
    pz_u32 desks; /* desks [0, desks) exist */
    uint32_t spare; /* nothing that others change may share the 8 bytes of a word in the heap's journal */
    pz_u32 watching; /* the supervisor looks after timeouts */
    pz_u32 cancels;  /* entries [0, cancels) of `cancelled` have been used */
    pz_u32 spin;
    char name[PZ_NAME];
    _Alignas(PZ_LINE) pz_u32 turn;
    pz_u32 asleep;
    pz_u64 spinning; /* bit rank % 64 */
    /* Broadcasts are the binding's business: the newest, its job (0: over), for which ranks (below `audience`), and what
     * is to be run: an object that the caller holds. */
    pz_u64 broadcast, broadcast_job;
    uint64_t message;
    uint32_t message_gen, message_type;
    pz_u32 audience;
    pz_u32 tracing; /* workers report when each call began and ended */
    _Alignas(PZ_LINE) pz_cancel cancelled[PZ_CANCELS];
    uint64_t desk_at[PZ_DESKS_MAX];
    pz_ring tasks, results;
} pz_pool;

int pz_pool_new(pz_proc *proc, pz_ref *ref);
/* Sees to it that there are `count` desks. */
int pz_pool_grow(pz_proc *proc, pz_pool *pool, uint32_t count);
static inline pz_desk *pz_desk_at(pz_proc *proc, pz_pool *pool, uint32_t rank)
{
    return pz_at(proc, pool->desk_at[rank]);
}
static inline enum pz_desk_state pz_desk_state(pz_desk *desk)
{
    return (enum pz_desk_state)(pz_load(&desk->turn) & 0xff);
}
void pz_desk_become(pz_desk *desk, enum pz_desk_state state);

/* After a batch was put: wakes who is to take it. */
PZ_COLD void pz_pool_wake(pz_proc *proc, pz_pool *pool);
static inline void pz_pool_notify(pz_proc *proc, pz_pool *pool)
{
    if (PZ_UNLIKELY(pz_peek(&pool->asleep)))
        pz_pool_wake(proc, pool);
}
/* Takes a batch: 0; -EAGAIN: there is none, -EBUSY: pz_pool_await first; -EPIPE: none will come. */
int pz_pool_take(pz_proc *proc, pz_pool *pool, pz_desk *desk, const pz_wait *wait);
/* Until there may be something to take or to obey; holds no lock afterwards. -EINTR, -ETIMEDOUT as pz_sleep. Who gives an
 * order calls pz_pool_stir after it: a worker that obeys instead of taking passes on only what it knows of in here. */
int pz_pool_await(pz_proc *proc, pz_pool *pool, pz_desk *desk, uint32_t rank, pz_wait *wait);
/* Has all who wait look at their orders. */
void pz_pool_stir(pz_proc *proc, pz_pool *pool);
/* No more batches: workers leave when the ring is empty. */
void pz_pool_shut(pz_proc *proc, pz_pool *pool);
/* After the death of the worker of that rank: repairs what it was at; then its desk can be trusted. Waits for a
 * worker that is about to repair the same. */
void pz_pool_settle(pz_proc *proc, pz_pool *pool, uint32_t rank);

/* ---- calls that are not to begin any more ----
 * The caller and the supervisor enter them, the supervisor deletes them. Who dies while it enters one takes its place
 * with it. */
int pz_pool_cancel(pz_pool *pool, uint64_t job, uint32_t index); /* -ENOSPC */
void pz_pool_uncancel(pz_pool *pool, uint64_t job, uint32_t index);
bool pz_pool_is_cancelled(pz_pool *pool, uint64_t job, uint32_t index);

#endif
