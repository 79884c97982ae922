/* Semaphore (one word) and BoundedSemaphore (one cell a permit). See sync.h. */
#include "pz/sync.h"

/* After a sleeper was woken it cannot know whether others sleep on; it says so for them, which costs at most one wake-up
 * too many. A sleeper that is killed after it was chosen is made good by the slices of the others. */
static void wake_some(pz_proc *proc, pz_u32 *word, pz_u32 *sleepers, uint32_t count)
{
    if (pz_load(sleepers) && pz_swap(sleepers, 0))
        proc->ops->futex_wake(word, count > 1 ? INT32_MAX : 1);
}

int pz_semaphore_try(pz_proc *proc, pz_semaphore *sem)
{
    (void)proc;
    uint32_t value = pz_peek(&sem->value);
    while (PZ_LIKELY(value > 0))
        if (PZ_LIKELY(pz_cas(&sem->value, &value, value - 1)))
            return 0;
    return -EBUSY;
}

int pz_semaphore_wait(pz_proc *proc, pz_semaphore *sem, pz_wait *wait)
{
    bool slept = wait->sleeps > 0;
    for (;;) {
        if (pz_semaphore_try(proc, sem) == 0) {
            pz_add(&sem->contended, 1);
            if (slept && pz_peek(&sem->value) > 0)
                wake_some(proc, &sem->value, &sem->sleepers, 1);
            return 0;
        }
        if (pz_spin(proc, &sem->value, 0, &sem->spin, wait))
            continue;
        pz_swap(&sem->sleepers, 1);
        slept = true;
        int rc = pz_sleep(proc, &sem->value, 0, wait);
        pz_swap(&sem->sleepers, 1);
        if (rc < 0 && pz_peek(&sem->value) == 0)
            return rc;
    }
}

int pz_semaphore_release(pz_proc *proc, pz_semaphore *sem, uint32_t count)
{
    uint32_t value = pz_peek(&sem->value);
    do
        if (count > PZ_SEMAPHORE_MAX - value)
            return -EOVERFLOW;
    while (!pz_cas(&sem->value, &value, value + count));
    wake_some(proc, &sem->value, &sem->sleepers, count);
    return 0;
}

/* ---- bounded ----------------------------------------------------------------------------------------------------- */

int pz_bounded_try(pz_proc *proc, pz_bounded *sem)
{
    uint32_t permits = sem->permits;
    for (uint32_t i = 0; i < permits; i++) {
        uint32_t old = 0;
        if (pz_peek(&sem->holder[i]) == 0 && pz_cas(&sem->holder[i], &old, proc->self))
            return 0;
    }
    return -EBUSY;
}

uint32_t pz_bounded_value(pz_bounded *sem)
{
    uint32_t value = 0;
    for (uint32_t i = 0; i < sem->permits; i++)
        value += pz_peek(&sem->holder[i]) == 0;
    return value;
}

int pz_bounded_sweep(pz_proc *proc, pz_bounded *sem)
{
    int freed = 0;
    uint32_t known = 0; /* the last one found alive: permits of one holder often lie side by side */
    for (uint32_t i = 0; i < sem->permits; i++) {
        uint32_t holder = pz_peek(&sem->holder[i]);
        if (holder == 0 || holder == known)
            continue;
        if (pz_owner_life(proc, holder) == PZ_ALIVE)
            known = holder;
        else if (pz_cas(&sem->holder[i], &holder, 0))
            freed++;
    }
    if (freed) {
        pz_add(&sem->deaths, (uint32_t)freed);
        pz_add(&sem->turn, 1);
        wake_some(proc, &sem->turn, &sem->sleepers, (uint32_t)freed);
    }
    return freed;
}

int pz_bounded_wait(pz_proc *proc, pz_bounded *sem, pz_wait *wait)
{
    bool slept = wait->sleeps > 0;
    for (;;) {
        uint32_t turn = pz_load(&sem->turn);
        if (pz_bounded_try(proc, sem) == 0) {
            pz_add(&sem->contended, 1);
            if (slept && pz_bounded_value(sem) > 0)
                wake_some(proc, &sem->turn, &sem->sleepers, 1);
            return 0;
        }
        if (pz_spin(proc, &sem->turn, turn, &sem->spin, wait))
            continue;
        pz_swap(&sem->sleepers, 1);
        if (pz_bounded_value(sem) > 0)
            continue;
        slept = true;
        int rc = pz_sleep(proc, &sem->turn, turn, wait);
        pz_swap(&sem->sleepers, 1);
        if (rc < 0 && pz_bounded_sweep(proc, sem) == 0 && pz_bounded_value(sem) == 0)
            return rc;
    }
}

static bool release_one(pz_bounded *sem, uint32_t owner, bool anybody)
{
    for (uint32_t i = 0; i < sem->permits; i++) {
        uint32_t holder = pz_peek(&sem->holder[i]);
        if (holder != 0 && (anybody || holder == owner) && pz_cas(&sem->holder[i], &holder, 0))
            return true;
    }
    return false;
}

int pz_bounded_release(pz_proc *proc, pz_bounded *sem, uint32_t count)
{
    if (count > sem->permits - pz_bounded_value(sem))
        return -EOVERFLOW;
    for (uint32_t i = 0; i < count; i++)
        if (!release_one(sem, proc->self, false) && !release_one(sem, 0, true))
            return -EOVERFLOW;
    pz_add(&sem->turn, 1);
    wake_some(proc, &sem->turn, &sem->sleepers, count);
    return 0;
}

void pz_bounded_disown(pz_proc *proc, pz_bounded *sem)
{
    for (uint32_t i = 0; i < sem->permits; i++) {
        uint32_t holder = pz_peek(&sem->holder[i]);
        if (holder == proc->self)
            pz_cas(&sem->holder[i], &holder, PZ_NOBODY);
    }
}
