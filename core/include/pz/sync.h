/* The synchronisation objects that users hold: lock, recursive lock, semaphores, condition, event, barrier.
 *
 * Each blocking call is made in steps: it returns 0 when done, -ETIMEDOUT at the deadline, -EINTR when the caller should
 * look at its signals and call again with the same pz_wait, and, where an owner can die, -EOWNERDEAD.
 *
 * Who may be killed where:
 *   lock        word holds the owner; the next one to come finds it dead, frees the lock, and is told (-EOWNERDEAD)
 *   semaphore   value is one word; a permit dies with its holder, as it may have been a signal to somebody else
 *   bounded     one cell a permit names its holder; a dead holder's cell is free again
 *   condition   one cell a waiter; a notification that a dead waiter did not consume is passed on
 *   event       one word with a generation, so that a set that is cleared at once still releases who waited
 *   barrier     one cell an arrival; a dead arrival breaks the barrier
 */
#ifndef PZ_SYNC_H
#define PZ_SYNC_H

#include "refs.h"

#define PZ_NAME 64u
/* An owner that cannot die: stands in for a process that ended in an orderly way. */
#define PZ_NOBODY PZ_OWNER(0, 1)

typedef struct pz_lock { /* PZ_LOCK */
    pz_block block;
    pz_u32 word; /* see mutex.h */
    pz_u32 spin;
    uint64_t acquired; /* written by the holder */
    pz_u32 contended, deaths;
    uint64_t spare;
    char name[PZ_NAME];
} pz_lock; /* 128 bytes */
_Static_assert(sizeof(pz_lock) == 128, "100,000 locks stay under 20 MB");

typedef struct pz_rlock { /* PZ_RLOCK */
    pz_lock lock;
    pz_u64 thread; /* of the holder, mixed with its process: what a dead holder has left matches nobody */
    uint32_t depth, spare;
} pz_rlock;

typedef struct pz_semaphore { /* PZ_SEMAPHORE */
    pz_block block;
    pz_u32 value, sleepers, spin, contended;
    uint64_t acquired;
    uint64_t spare;
    char name[PZ_NAME];
} pz_semaphore;

typedef struct pz_bounded { /* PZ_BOUNDED */
    pz_block block;
    pz_u32 turn; /* changes with every release */
    pz_u32 sleepers, spin, contended;
    uint32_t permits;
    pz_u32 deaths;
    pz_u64 acquired;
    char name[PZ_NAME];
    pz_u32 holder[]; /* PZ_OWNER of who holds the permit, 0: free */
} pz_bounded;

enum { PZ_CELL_FREE, PZ_CELL_CLAIMED, PZ_CELL_WAITING, PZ_CELL_NOTIFIED };

typedef struct pz_cell {
    pz_u32 state; /* PZ_OWNER | one of the above */
    pz_u32 asleep;
    pz_u64 ticket; /* order of arrival */
} pz_cell;

#define PZ_CELLS_FIRST 21u
#define PZ_CELLS_MORE 253u

typedef struct pz_cell_block { /* PZ_SEGMENT: more cells */
    pz_block block;
    pz_u64 more;
    uint64_t spare;
    pz_cell cells[PZ_CELLS_MORE];
} pz_cell_block;

typedef struct pz_cond { /* PZ_COND */
    pz_block block;
    pz_u64 tickets;
    pz_u64 more; /* offset of a pz_cell_block */
    pz_u32 high; /* cells [0, high) have been used */
    pz_u32 spin, notified, passed_on;
    char name[PZ_NAME];
    pz_cell cells[PZ_CELLS_FIRST];
} pz_cond;

typedef struct pz_event { /* PZ_EVENT */
    pz_block block;
    pz_u32 word; /* generation << 2 | asleep << 1 | set */
    pz_u32 spin, sets, waits;
    uint64_t spare[2];
    char name[PZ_NAME];
} pz_event;

typedef struct pz_barrier { /* PZ_BARRIER */
    pz_block block;
    pz_u32 state; /* phase << 2 | running << 1 | broken */
    uint32_t parties;
    pz_u64 resets; /* last phase that was reset << 32 | bit k: phase last - k was reset */
    pz_u32 passed, spare0;
    uint64_t spare;
    char name[PZ_NAME];
    pz_u64 arrived[]; /* owner << 32 | phase */
} pz_barrier;

/* ---- lock ---- */
static inline int pz_lock_try(pz_proc *proc, pz_lock *lock)
{
    uint32_t old = 0;
    if (PZ_UNLIKELY(!pz_cas(&lock->word, &old, proc->self | PZ_LOCKED)))
        return -EBUSY;
    lock->acquired++;
    return 0;
}
/* -EPERM: it is not locked. */
static inline int pz_lock_release(pz_proc *proc, pz_lock *lock)
{
    uint32_t old = pz_swap(&lock->word, 0);
    if (PZ_UNLIKELY(old != (proc->self | PZ_LOCKED))) {
        if (!(old & PZ_LOCKED))
            return -EPERM;
        if (old & PZ_WAITERS)
            pz_mutex_wake(proc, &lock->word);
    }
    return 0;
}
/* `dead`: PZ_OWNER of the owner that died; the lock is free by then. */
int pz_lock_wait(pz_proc *proc, pz_lock *lock, pz_wait *wait, uint32_t *dead);
/* After a failed try without waiting: frees the lock of a dead owner (-EOWNERDEAD), else -EBUSY. */
int pz_lock_check(pz_proc *proc, pz_lock *lock, uint32_t *dead);
/* The holder ends in an orderly way or loses its handle: what it holds stays held, by nobody. */
void pz_lock_disown(pz_proc *proc, pz_lock *lock);

/* ---- recursive lock: `thread` is any non-zero identity of the calling thread within its process ---- */
int pz_rlock_try(pz_proc *proc, pz_rlock *lock, uint64_t thread);
int pz_rlock_wait(pz_proc *proc, pz_rlock *lock, uint64_t thread, pz_wait *wait, uint32_t *dead);
int pz_rlock_release(pz_proc *proc, pz_rlock *lock, uint64_t thread); /* -EPERM: not owned by this thread */
bool pz_rlock_is_mine(pz_proc *proc, pz_rlock *lock, uint64_t thread);
/* For a condition: releases all levels, and takes them back. */
int pz_rlock_release_all(pz_proc *proc, pz_rlock *lock, uint64_t thread, uint32_t *depth);
void pz_rlock_set_depth(pz_rlock *lock, uint32_t depth);

/* ---- semaphores ---- */
#define PZ_SEMAPHORE_MAX 0x7fffffffu
int pz_semaphore_try(pz_proc *proc, pz_semaphore *sem);
int pz_semaphore_wait(pz_proc *proc, pz_semaphore *sem, pz_wait *wait);
int pz_semaphore_release(pz_proc *proc, pz_semaphore *sem, uint32_t count); /* -EOVERFLOW */

#define PZ_BOUNDED_MAX 1000000u
int pz_bounded_try(pz_proc *proc, pz_bounded *sem);
int pz_bounded_wait(pz_proc *proc, pz_bounded *sem, pz_wait *wait);
int pz_bounded_release(pz_proc *proc, pz_bounded *sem, uint32_t count); /* -EOVERFLOW: more than were taken */
uint32_t pz_bounded_value(pz_bounded *sem);
int pz_bounded_sweep(pz_proc *proc, pz_bounded *sem); /* frees the permits of the dead; how many */
void pz_bounded_disown(pz_proc *proc, pz_bounded *sem);

/* ---- condition: enter while the lock is held, wait after it was released, leave in any case ---- */
int pz_cond_enter(pz_proc *proc, pz_cond *cond, pz_cell **cell);
/* Until notified. The cell stays NOTIFIED until pz_cond_leave, to be called when the lock is taken again: if the waiter is
 * killed before, the notification is passed on. */
int pz_cond_await(pz_proc *proc, pz_cond *cond, pz_cell *cell, pz_wait *wait);
/* pz_cond_await, and pz_cond_leave unless it is to be called again. */
int pz_cond_wait(pz_proc *proc, pz_cond *cond, pz_cell *cell, pz_wait *wait);
/* True if the waiter had been notified (and not yet been told). */
bool pz_cond_leave(pz_proc *proc, pz_cond *cond, pz_cell *cell);
uint32_t pz_cond_notify(pz_proc *proc, pz_cond *cond, uint32_t count);
uint32_t pz_cond_waiting(pz_proc *proc, pz_cond *cond);

/* ---- event ---- */
bool pz_event_is_set(pz_event *event);
void pz_event_set(pz_proc *proc, pz_event *event);
void pz_event_clear(pz_event *event);
/* `seen`: the word when the wait began (pz_load(&event->word)). */
int pz_event_wait(pz_proc *proc, pz_event *event, uint32_t seen, pz_wait *wait);

/* ---- barrier ---- */
typedef struct pz_arrival {
    uint64_t token;
    uint32_t index, phase;
    bool arrived;
} pz_arrival; /* zeroed before the first call */
/* 0: released; 1: the caller is the last and has to call pz_barrier_release after its action; -EPIPE: broken, as it is for
 * everybody after -ETIMEDOUT. */
int pz_barrier_wait(pz_proc *proc, pz_barrier *barrier, pz_arrival *arrival, pz_wait *wait);
void pz_barrier_release(pz_proc *proc, pz_barrier *barrier);
/* For who gives up between two calls of pz_barrier_wait: breaks the barrier, unless it was released meanwhile (true). */
bool pz_barrier_leave(pz_proc *proc, pz_barrier *barrier, pz_arrival *arrival);
void pz_barrier_break(pz_proc *proc, pz_barrier *barrier);
void pz_barrier_reset(pz_proc *proc, pz_barrier *barrier);
uint32_t pz_barrier_waiting(pz_barrier *barrier); /* arrived in the phase that is filling */

#endif
