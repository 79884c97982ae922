/* Barrier: one cell an arrival, and a state word that names the phase.
 *
 *   state             -> next                             who
 *   (p, filling)      -> (p, running)   CAS, cells full   the last arrival; runs the action
 *   (p, running)      -> (p+1, filling) cells cleared     the same
 *   (p, any)          -> (p, broken)    abort, timeout, a dead arrival, a failing action
 *   (p, any)          -> (p+1, filling) reset             anybody; who waited in p finds broken_upto >= p
 *
 * An arrival knows that it was released by its cell: it no longer holds its token. Tokens are never used twice.
 */
#include "pz/sync.h"

#define BROKEN 1u
#define RUNNING 2u
#define PHASE(state) ((state) >> 2)

static void wake(pz_proc *proc, pz_barrier *barrier)
{
    proc->ops->futex_wake(&barrier->state, INT32_MAX);
}

void pz_barrier_break(pz_proc *proc, pz_barrier *barrier)
{
    atomic_fetch_or_explicit(&barrier->state, BROKEN, memory_order_seq_cst);
    wake(proc, barrier);
}

static bool broken_for(pz_barrier *barrier, uint32_t phase)
{
    uint32_t state = pz_load(&barrier->state);
    return (PHASE(state) == phase && (state & BROKEN)) || (int32_t)(pz_load(&barrier->broken_upto) - (phase + 1)) >= 0;
}

static bool full(pz_barrier *barrier)
{
    for (uint32_t i = 0; i < barrier->parties; i++)
        if (pz_load(&barrier->arrived[i]) == 0)
            return false;
    return true;
}

static bool some_died(pz_proc *proc, pz_barrier *barrier)
{
    for (uint32_t i = 0; i < barrier->parties; i++) {
        uint64_t token = pz_load(&barrier->arrived[i]);
        if (token && pz_owner_life(proc, (uint32_t)(token >> 32)) == PZ_DEAD)
            return true;
    }
    return (pz_load(&barrier->state) & RUNNING) && pz_owner_life(proc, pz_load(&barrier->runner)) == PZ_DEAD;
}

static void arrive(pz_proc *proc, pz_barrier *barrier, pz_arrival *arrival)
{
    arrival->token = ((uint64_t)proc->self << 32) | pz_add(&barrier->tickets, 1);
    for (uint32_t i = 0; i < barrier->parties; i++) {
        uint64_t old = 0;
        if (pz_peek(&barrier->arrived[i]) == 0 && pz_cas(&barrier->arrived[i], &old, arrival->token)) {
            arrival->index = i;
            arrival->arrived = true;
            return;
        }
    }
}

int pz_barrier_wait(pz_proc *proc, pz_barrier *barrier, pz_arrival *arrival, pz_wait *wait)
{
    for (;;) {
        uint32_t state = pz_load(&barrier->state);
        if (!arrival->arrived) {
            if (state & BROKEN)
                return -EPIPE;
            arrival->phase = PHASE(state);
            if (!(state & RUNNING))
                arrive(proc, barrier, arrival);
            if (arrival->arrived)
                continue;
        } else {
            if (broken_for(barrier, arrival->phase) || (state & BROKEN)) {
                uint64_t token = arrival->token;
                bool still = pz_cas(&barrier->arrived[arrival->index], &token, 0);
                if (still || broken_for(barrier, arrival->phase))
                    return -EPIPE;
                return 0;
            }
            if (pz_load(&barrier->arrived[arrival->index]) != arrival->token)
                return 0;
            if (!(state & RUNNING) && full(barrier)) {
                if (pz_cas(&barrier->state, &state, state | RUNNING)) {
                    pz_store(&barrier->runner, proc->self);
                    return 1;
                }
                continue;
            }
        }
        if (pz_spin(proc, &barrier->state, state, NULL, wait))
            continue;
        int rc = pz_sleep(proc, &barrier->state, state, wait);
        if (rc == -EINTR && some_died(proc, barrier))
            pz_barrier_break(proc, barrier);
        else if (rc < 0 && pz_load(&barrier->state) == state)
            return rc;
    }
}

static void clear_cells(pz_barrier *barrier)
{
    for (uint32_t i = 0; i < barrier->parties; i++)
        pz_store(&barrier->arrived[i], 0);
}

void pz_barrier_release(pz_proc *proc, pz_barrier *barrier)
{
    uint32_t state = pz_load(&barrier->state);
    clear_cells(barrier);
    pz_add(&barrier->passed, 1);
    do
        if ((state & BROKEN) || !(state & RUNNING))
            return;
    while (!pz_cas(&barrier->state, &state, (PHASE(state) + 1) << 2));
    wake(proc, barrier);
}

void pz_barrier_reset(pz_proc *proc, pz_barrier *barrier)
{
    uint32_t phase = PHASE(pz_load(&barrier->state));
    bool waiting = pz_barrier_waiting(barrier) > 0;
    if (waiting)
        pz_store(&barrier->broken_upto, phase + 1);
    clear_cells(barrier);
    pz_store(&barrier->state, (phase + 1) << 2);
    wake(proc, barrier);
}

uint32_t pz_barrier_waiting(pz_barrier *barrier)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < barrier->parties; i++)
        count += pz_load(&barrier->arrived[i]) != 0;
    return count;
}
