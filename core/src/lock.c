/* The user's Lock and RLock: the word of mutex.h, but a dead owner is reported instead of repaired. */
#include "pz/sync.h"

static int free_if_dead(pz_proc *proc, pz_lock *lock, uint32_t seen, uint32_t *dead)
{
    uint32_t owner = PZ_OWNER_OF(seen);
    if (!(seen & PZ_LOCKED) || pz_owner_life(proc, owner) == PZ_ALIVE)
        return -EBUSY;
    if (!pz_cas(&lock->word, &seen, 0))
        return -EBUSY;
    pz_add(&lock->deaths, 1);
    *dead = owner;
    /* The others may go on at once, whether or not WAITERS survived. */
    pz_mutex_wake(proc, &lock->word);
    return -EOWNERDEAD;
}

int pz_lock_check(pz_proc *proc, pz_lock *lock, uint32_t *dead)
{
    return free_if_dead(proc, lock, pz_peek(&lock->word), dead);
}

static int wait_for_word(pz_proc *proc, pz_lock *lock, pz_wait *wait, uint32_t *dead)
{
    uint32_t extra = wait->sleeps ? PZ_WAITERS : 0;
    for (;;) {
        uint32_t seen = pz_peek(&lock->word);
        if (!(seen & PZ_LOCKED)) {
            uint32_t old = seen;
            if (pz_cas(&lock->word, &old, proc->self | PZ_LOCKED | extra))
                return 0;
            continue;
        }
        if (pz_spin(proc, &lock->word, seen, &lock->spin, wait))
            continue;
        if (!(seen & PZ_WAITERS) && !pz_cas(&lock->word, &seen, seen | PZ_WAITERS))
            continue;
        extra = PZ_WAITERS;
        int rc = pz_sleep(proc, &lock->word, seen | PZ_WAITERS, wait);
        if (rc < 0) {
            seen = pz_peek(&lock->word);
            if (!(seen & PZ_LOCKED))
                continue;
            if (free_if_dead(proc, lock, seen, dead) == -EOWNERDEAD)
                return -EOWNERDEAD;
            return rc;
        }
    }
}

int pz_lock_wait(pz_proc *proc, pz_lock *lock, pz_wait *wait, uint32_t *dead)
{
    int rc = wait_for_word(proc, lock, wait, dead);
    if (rc == 0) {
        lock->acquired++;
        pz_add(&lock->contended, 1);
    }
    return rc;
}

void pz_lock_disown(pz_proc *proc, pz_lock *lock)
{
    uint32_t seen = pz_peek(&lock->word);
    while ((seen & PZ_LOCKED) && PZ_OWNER_OF(seen) == proc->self)
        if (pz_cas(&lock->word, &seen, PZ_NOBODY | (seen & 3u)))
            break;
}

/* ---- RLock ------------------------------------------------------------------------------------------------------- */

/* Threads of forked processes have the same addresses, and a dead holder leaves its own in the lock. */
static uint64_t identity(pz_proc *proc, uint64_t thread)
{
    return thread ^ proc->self * UINT64_C(0x9e3779b97f4a7c15);
}

bool pz_rlock_is_mine(pz_proc *proc, pz_rlock *lock, uint64_t thread)
{
    uint32_t word = pz_peek(&lock->lock.word);
    return (word & PZ_LOCKED) && PZ_OWNER_OF(word) == proc->self && pz_peek(&lock->thread) == identity(proc, thread);
}

static void taken(pz_proc *proc, pz_rlock *lock, uint64_t thread)
{
    lock->depth = 1;
    pz_poke(&lock->thread, identity(proc, thread));
}

int pz_rlock_try(pz_proc *proc, pz_rlock *lock, uint64_t thread)
{
    if (PZ_LIKELY(pz_lock_try(proc, &lock->lock) == 0)) {
        taken(proc, lock, thread);
        return 0;
    }
    if (!pz_rlock_is_mine(proc, lock, thread))
        return -EBUSY;
    if (lock->depth == UINT32_MAX)
        return -EOVERFLOW;
    lock->depth++;
    return 0;
}

int pz_rlock_wait(pz_proc *proc, pz_rlock *lock, uint64_t thread, pz_wait *wait, uint32_t *dead)
{
    int rc = pz_lock_wait(proc, &lock->lock, wait, dead);
    if (rc == 0)
        taken(proc, lock, thread);
    return rc;
}

int pz_rlock_release(pz_proc *proc, pz_rlock *lock, uint64_t thread)
{
    if (PZ_UNLIKELY(!pz_rlock_is_mine(proc, lock, thread)))
        return -EPERM;
    if (--lock->depth > 0)
        return 0;
    pz_poke(&lock->thread, 0);
    return pz_lock_release(proc, &lock->lock);
}

int pz_rlock_release_all(pz_proc *proc, pz_rlock *lock, uint64_t thread, uint32_t *depth)
{
    if (!pz_rlock_is_mine(proc, lock, thread))
        return -EPERM;
    *depth = lock->depth;
    lock->depth = 0;
    pz_poke(&lock->thread, 0);
    return pz_lock_release(proc, &lock->lock);
}

void pz_rlock_set_depth(pz_rlock *lock, uint32_t depth)
{
    lock->depth = depth;
}
