/* Spinning, sleeping and the internal lock. See mutex.h for the state table. */
#include "pz/mutex.h"

#define SPIN_UNIT 256u /* ns */
#define SPIN_MAX 100u  /* units: about half of what a sleep and its wake-up cost */
#define SPIN_MIN 48u /* a quarter of a sleep and its wake-up: below, every hand-over that takes some microseconds sleeps */
#define SPIN_TRY 32u
#define CROWDED 3u      /* times as long if others get the CPU meanwhile */
#define ALONE_MAX 6000u /* ns without letting others have the CPU */

/* The first slices are short, so that a lost wake-up costs little; who sleeps long looks less often. */
static uint64_t slice(uint32_t sleeps)
{
    if (sleeps < 40)
        return sleeps < 2 ? 50 * PZ_MS : 250 * PZ_MS;
    return sleeps < PZ_PATIENT ? PZ_SECOND : 5 * PZ_SECOND;
}

int pz_sleep(pz_proc *proc, pz_u32 *word, uint32_t expected, pz_wait *wait)
{
    uint64_t now = proc->ops->now();
    if (wait->deadline <= now)
        return -ETIMEDOUT;
    uint64_t until = now + slice(wait->sleeps);
    if (wait->deadline < until)
        until = wait->deadline;
    int rc = proc->ops->futex_wait(word, expected, until);
    if (rc == -EAGAIN || rc == 0)
        return 0;
    wait->sleeps++;
    if (rc == -ETIMEDOUT && until == wait->deadline)
        return pz_peek(word) != expected ? 0 : -ETIMEDOUT;
    return -EINTR;
}

bool pz_spin(pz_proc *proc, pz_u32 *word, uint32_t expected, pz_u32 *hint, pz_wait *wait)
{
    if (pz_peek(word) != expected)
        return true;
    if (wait->spun)
        return false;
    /* A CPU is to be left for who is waited for. Where there is none to spare, a few still spin, and let others have
     * theirs all the time: that is cheaper than sleeping and being woken if what is waited for comes soon. */
    uint32_t others = pz_peek(&proc->header->spinners), cpus = pz_cpus(proc);
    if (others > cpus)
        return false;
    bool crowded = others + 1 >= cpus;
    wait->spun = 1;
    /* The hint: the budget, and above it how many spins in a row were in vain. A budget that is too small would stay so,
     * as no spin succeeds: every so often one is tried at its full length. */
    uint32_t seen = hint ? pz_peek(hint) : 0, budget = seen & 0xff, vain = seen >> 8;
    if (budget == 0 || vain % SPIN_TRY == SPIN_TRY - 1)
        budget = SPIN_MAX;
    pz_slot *slot = pz_slot_at(proc, proc->slot);
    bool counted = pz_swap(&slot->spinning, 1) == 0; /* one spinner a process is enough to count */
    if (counted)
        pz_add(&proc->header->spinners, 1);
    bool changed = false;
    uint64_t start = 0, took = 0;
    for (uint32_t i = 0; !changed; i++) {
        pz_relax();
        changed = pz_peek(word) != expected;
        if ((i & 15) == 15) {
            uint64_t now = proc->ops->now();
            if (start == 0)
                start = now;
            else if ((took = now - start) >= budget * SPIN_UNIT * (crowded ? CROWDED : 1))
                break;
            if (crowded || took >= ALONE_MAX)
                proc->ops->yield();
        }
    }
    if (counted) {
        pz_sub(&proc->header->spinners, 1);
        pz_poke(&slot->spinning, 0);
    }
    if (hint) {
        uint32_t usual = seen & 0xff ? seen & 0xff : SPIN_MAX;
        uint32_t enough = 2 * (uint32_t)(took / SPIN_UNIT);
        uint32_t next = !changed ? usual - usual / 8 : usual + 8 > enough ? usual + 8 : enough;
        next = next > SPIN_MAX ? SPIN_MAX : next < SPIN_MIN ? SPIN_MIN : next;
        pz_poke(hint, next | (changed ? 0 : (vain + 1) << 8));
    }
    return changed;
}

static inline int try_once(pz_proc *proc, pz_u32 *word, uint32_t extra)
{
    uint32_t old = 0;
    return pz_cas(word, &old, proc->self | PZ_LOCKED | extra) ? 0 : -EBUSY;
}

/* Takes a lock whose owner is dead: 1 if it is ours now, -EBUSY if somebody else was faster or the owner lives. */
static int take_over(pz_proc *proc, pz_u32 *word, uint32_t seen)
{
    uint32_t owner = PZ_OWNER_OF(seen);
    if (!(seen & PZ_LOCKED) || owner == proc->self || pz_owner_life(proc, owner) == PZ_ALIVE)
        return -EBUSY;
    return pz_cas(word, &seen, proc->self | PZ_LOCKED | PZ_WAITERS) ? 1 : -EBUSY;
}

int pz_mutex_try(pz_proc *proc, pz_u32 *word)
{
    for (int i = 0; i < 40; i++) {
        if (PZ_LIKELY(try_once(proc, word, 0) == 0))
            return 0;
        pz_relax();
    }
    return -EBUSY;
}

int pz_mutex_wait(pz_proc *proc, pz_u32 *word, pz_wait *wait)
{
    uint32_t extra = 0;
    for (;;) {
        uint32_t seen = pz_peek(word);
        if (!(seen & PZ_LOCKED)) {
            if (try_once(proc, word, extra) == 0)
                return 0;
            continue;
        }
        if (pz_spin(proc, word, seen, NULL, wait))
            continue;
        if (!(seen & PZ_WAITERS) && !pz_cas(word, &seen, seen | PZ_WAITERS))
            continue;
        extra = PZ_WAITERS;
        int rc = pz_sleep(proc, word, seen | PZ_WAITERS, wait);
        if (rc < 0) { /* at the deadline too: who comes with short ones again and again must get on as well */
            seen = pz_peek(word);
            if (take_over(proc, word, seen) == 1)
                return 1;
            if (!(pz_peek(word) & PZ_LOCKED))
                continue;
        }
        if (rc < 0)
            return rc;
    }
}

int pz_mutex_await(pz_proc *proc, pz_u32 *word, pz_wait *wait)
{
    for (;;) {
        uint32_t seen = pz_peek(word);
        if (!(seen & PZ_LOCKED) || pz_spin(proc, word, seen, NULL, wait))
            return 0;
        if (!(seen & PZ_WAITERS) && !pz_cas(word, &seen, seen | PZ_WAITERS))
            continue;
        wait->slept = 1;
        int rc = pz_sleep(proc, word, seen | PZ_WAITERS, wait);
        seen = pz_peek(word);
        if (rc < 0 && (seen & PZ_LOCKED) && PZ_OWNER_OF(seen) != proc->self &&
            pz_owner_life(proc, PZ_OWNER_OF(seen)) == PZ_DEAD) {
            wait->suspect = 1;
            return 0;
        }
        if (rc < 0)
            return !(seen & PZ_LOCKED) ? 0 : rc;
    }
}

int pz_mutex_retry(pz_proc *proc, pz_u32 *word, const pz_wait *wait)
{
    if (wait->suspect && take_over(proc, word, pz_peek(word)) == 1)
        return 1;
    for (int i = 0; i < 40; i++) {
        if (PZ_LIKELY(try_once(proc, word, wait->slept ? PZ_WAITERS : 0) == 0))
            return 0;
        pz_relax();
    }
    return -EBUSY;
}

int pz_mutex_lock(pz_proc *proc, pz_u32 *word)
{
    int rc = pz_mutex_try(proc, word);
    if (PZ_LIKELY(rc == 0))
        return 0;
    pz_wait wait;
    pz_wait_init(&wait, PZ_FOREVER);
    do
        rc = pz_mutex_wait(proc, word, &wait);
    while (rc < 0);
    return rc;
}

void pz_mutex_wake(pz_proc *proc, pz_u32 *word)
{
    proc->ops->futex_wake(word, 1);
}
