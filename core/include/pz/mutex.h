/* The word that every lock is made of, and the internal lock that repairs itself.
 *
 *   bits 16..31  generation of the owner's slot      bits 2..15  slot of the owner (0: nobody that can die)
 *   bit 1        WAITERS: set by a waiter before it sleeps; the releaser then wakes one
 *   bit 0        LOCKED
 *
 *   state            acquire                        release                  owner dies
 *   0                -> owner|LOCKED                (error)                  -
 *   owner|LOCKED     spin, -> |WAITERS, sleep       -> 0                     next waiter takes it and is told
 *   ..|WAITERS       sleep                          -> 0, wake one           next waiter (in a slice) takes it
 *
 * WAITERS may be lost when a woken waiter is killed; sleepers therefore look again at the end of each slice. Who has
 * slept acquires with WAITERS set, as others may still sleep.
 */
#ifndef PZ_MUTEX_H
#define PZ_MUTEX_H

#include "slot.h"

#define PZ_LOCKED 1u
#define PZ_WAITERS 2u
#define PZ_OWNER(slot, gen) (((uint32_t)(gen) << 16) | ((uint32_t)(slot) << 2))
#define PZ_OWNER_OF(word) ((word) & ~3u)
#define PZ_OWNER_SLOT(owner) (((owner) >> 2) & 0x3fffu)
#define PZ_OWNER_GEN(owner) ((owner) >> 16)

/* What a blocking call carries from one attempt to the next. */
#define PZ_PATIENT 1000u
typedef struct pz_wait {
    uint64_t deadline;
    uint32_t sleeps; /* slices slept so far; PZ_PATIENT: others see to it that no wake-up is lost, so slices are long */
    uint32_t spun;   /* the spin of this wait is used up */
    uint32_t slept;  /* others may sleep on the same lock: it is taken with WAITERS set */
    uint32_t suspect; /* the owner of the lock was found dead */
} pz_wait;

static inline void pz_wait_init(pz_wait *wait, uint64_t deadline)
{
    wait->deadline = deadline;
    wait->sleeps = 0;
    wait->spun = 0;
    wait->slept = 0;
    wait->suspect = 0;
}

/* Sleeps one slice while *word == expected. 0: look again; -EINTR: a signal or the end of a slice, let the caller see to
 * its signals and come back; -ETIMEDOUT: the deadline has passed. */
int pz_sleep(pz_proc *proc, pz_u32 *word, uint32_t expected, pz_wait *wait);

/* Spins while *word == expected, if this process may; true when the word changed. `hint` adapts: the spin budget of this
 * object in units of 256 ns, kept in shared memory. */
bool pz_spin(pz_proc *proc, pz_u32 *word, uint32_t expected, pz_u32 *hint, pz_wait *wait);

/* Internal locks: never fail. 1 when the owner before died and what the lock guards wants repair. */
int pz_mutex_lock(pz_proc *proc, pz_u32 *word);
/* As above, but -EBUSY instead of sleeping. */
int pz_mutex_try(pz_proc *proc, pz_u32 *word);
/* As pz_mutex_lock, in steps: -EINTR, -ETIMEDOUT as pz_sleep. */
int pz_mutex_wait(pz_proc *proc, pz_u32 *word, pz_wait *wait);
/* In two steps, for a caller that must not hold the lock while it waits for something else (the GIL): pz_mutex_await
 * sleeps until the lock looks free, or its owner dead (0; -EINTR, -ETIMEDOUT), and pz_mutex_retry tries to take it (0, 1,
 * -EBUSY). */
int pz_mutex_await(pz_proc *proc, pz_u32 *word, pz_wait *wait);
int pz_mutex_retry(pz_proc *proc, pz_u32 *word, const pz_wait *wait);
PZ_COLD void pz_mutex_wake(pz_proc *proc, pz_u32 *word);

static inline void pz_mutex_unlock(pz_proc *proc, pz_u32 *word)
{
    if (PZ_UNLIKELY(pz_swap(word, 0) & PZ_WAITERS))
        pz_mutex_wake(proc, word);
}

#endif
