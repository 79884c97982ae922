/* Barrier: one cell an arrival, and a state word that names the phase.
 *
 *   state             -> next                             who
 *   (p, filling)      -> (p, running)   CAS, cells full   an arrival that sees it; runs the action
 *   (p, running)      -> (p+1, filling) CAS               the same; this one store releases everybody
 *   (p, any)          -> (p, broken)    CAS               abort, timeout, a failing action; who finds a dead arrival
 *   (p, any)          -> (p, resetting) CAS               reset
 *   (p, resetting)    -> (p+1, filling) CAS               whoever sees it, once `resets` says that p did not complete
 *
 * An arrival in phase p holds a cell with p in it. A cell of an earlier phase is free: nothing is cleared, so there is no
 * moment between two stores in which a death leaves some released and some not. When the state has moved on, p was
 * completed or reset; `resets` remembers which of the last 32 before the last reset were.
 */
#include "pz/sync.h"

#define BROKEN 1u
#define RUNNING 2u
#define RESETTING 4u
#define PHASE_BITS 29
#define FILLING(phase) ((phase) << 3)
#define PHASE(state) ((state) >> 3)
#define PHASE_OF(token) ((uint32_t)(token))
#define TOKEN(owner, phase) ((uint64_t)(owner) << 32 | (phase))

/* a - b for phases, which wrap around. */
static int32_t distance(uint32_t a, uint32_t b)
{
    return (int32_t)((a - b) << (32 - PHASE_BITS)) >> (32 - PHASE_BITS);
}

static void wake(pz_proc *proc, pz_barrier *barrier)
{
    proc->ops->futex_wake(&barrier->state, INT32_MAX);
}

/* Breaks a phase; false if it is over, or is about to be. */
static bool break_phase(pz_proc *proc, pz_barrier *barrier, uint32_t phase)
{
    uint32_t state = pz_load(&barrier->state);
    do
        if (PHASE(state) != phase || state & RESETTING)
            return false;
    while (!(state & BROKEN) && !pz_cas(&barrier->state, &state, state | BROKEN));
    wake(proc, barrier);
    return true;
}

static bool was_reset(pz_barrier *barrier, uint32_t phase)
{
    uint64_t resets = pz_load(&barrier->resets);
    int32_t back = distance((uint32_t)(resets >> 32), phase);
    return back >= 0 && back < 32 && ((uint32_t)resets >> back & 1);
}

static void note_reset(pz_barrier *barrier, uint32_t phase)
{
    uint64_t old = pz_load(&barrier->resets), next;
    do {
        int32_t ahead = distance(phase, (uint32_t)(old >> 32));
        if (ahead < 0) /* slower than another reset, which has noted this phase before it went on */
            return;
        next = (uint64_t)phase << 32 | (ahead < 32 ? (uint32_t)old << ahead : 0) | 1;
    } while (!pz_cas(&barrier->resets, &old, next));
}

/* Goes on to the next phase, if that is what the barrier is about to do. */
static void finish_reset(pz_proc *proc, pz_barrier *barrier, uint32_t state)
{
    if (!(state & RESETTING))
        return;
    note_reset(barrier, PHASE(state));
    pz_cas(&barrier->state, &state, FILLING(PHASE(state) + 1));
    wake(proc, barrier);
}

void pz_barrier_break(pz_proc *proc, pz_barrier *barrier)
{
    uint32_t state = pz_load(&barrier->state);
    while (!break_phase(proc, barrier, PHASE(state))) {
        finish_reset(proc, barrier, state);
        state = pz_load(&barrier->state);
    }
}

static bool is_free(uint64_t token, uint32_t phase)
{
    return token == 0 || distance(PHASE_OF(token), phase) < 0;
}

static uint32_t arrivals(pz_barrier *barrier, uint32_t phase)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < barrier->parties; i++) {
        uint64_t token = pz_load(&barrier->arrived[i]);
        count += token != 0 && PHASE_OF(token) == phase;
    }
    return count;
}

static bool some_died(pz_proc *proc, pz_barrier *barrier, uint32_t phase)
{
    for (uint32_t i = 0; i < barrier->parties; i++) {
        uint64_t token = pz_load(&barrier->arrived[i]);
        if (token && PHASE_OF(token) == phase && pz_owner_life(proc, (uint32_t)(token >> 32)) == PZ_DEAD)
            return true;
    }
    return false;
}

static void arrive(pz_proc *proc, pz_barrier *barrier, pz_arrival *arrival)
{
    arrival->token = TOKEN(proc->self, arrival->phase);
    for (uint32_t i = 0; i < barrier->parties; i++) {
        uint64_t old = pz_load(&barrier->arrived[i]);
        if (is_free(old, arrival->phase) && pz_cas(&barrier->arrived[i], &old, arrival->token)) {
            arrival->index = i;
            arrival->arrived = true;
            return;
        }
    }
}

/* The phase of this arrival is over. */
static int outcome(pz_barrier *barrier, pz_arrival *arrival)
{
    return was_reset(barrier, arrival->phase) ? -EPIPE : 0;
}

bool pz_barrier_leave(pz_proc *proc, pz_barrier *barrier, pz_arrival *arrival)
{
    if (!arrival->arrived)
        arrival->phase = PHASE(pz_load(&barrier->state));
    bool over = !break_phase(proc, barrier, arrival->phase);
    finish_reset(proc, barrier, pz_load(&barrier->state));
    uint64_t token = arrival->token;
    if (arrival->arrived)
        pz_cas(&barrier->arrived[arrival->index], &token, 0);
    return over && arrival->arrived && outcome(barrier, arrival) == 0;
}

int pz_barrier_wait(pz_proc *proc, pz_barrier *barrier, pz_arrival *arrival, pz_wait *wait)
{
    for (;;) {
        uint32_t state = pz_load(&barrier->state);
        if (arrival->arrived && PHASE(state) != arrival->phase)
            return outcome(barrier, arrival);
        if (state & RESETTING) {
            finish_reset(proc, barrier, state);
            continue;
        }
        if (state & BROKEN) {
            uint64_t token = arrival->token;
            if (arrival->arrived)
                pz_cas(&barrier->arrived[arrival->index], &token, 0);
            return -EPIPE;
        }
        if (!arrival->arrived) {
            arrival->phase = PHASE(state);
            if (!(state & RUNNING))
                arrive(proc, barrier, arrival);
            if (arrival->arrived)
                continue;
            /* All places are taken: until those have gone on. */
        } else if (!(state & RUNNING) && arrivals(barrier, arrival->phase) == barrier->parties) {
            if (pz_cas(&barrier->state, &state, state | RUNNING))
                return 1;
            continue;
        }
        if (pz_spin(proc, &barrier->state, state, NULL, wait))
            continue;
        int rc = pz_sleep(proc, &barrier->state, state, wait);
        if (rc < 0 && some_died(proc, barrier, PHASE(state)))
            break_phase(proc, barrier, PHASE(state));
        else if (rc == -ETIMEDOUT)
            return pz_barrier_leave(proc, barrier, arrival) ? 0 : outcome(barrier, arrival) < 0 ? -EPIPE : rc;
        else if (rc < 0 && pz_load(&barrier->state) == state)
            return rc;
    }
}

void pz_barrier_release(pz_proc *proc, pz_barrier *barrier)
{
    uint32_t state = pz_load(&barrier->state);
    do
        if ((state & (BROKEN | RESETTING)) || !(state & RUNNING))
            return;
    while (!pz_cas(&barrier->state, &state, FILLING(PHASE(state) + 1)));
    pz_add(&barrier->passed, 1);
    wake(proc, barrier);
}

void pz_barrier_reset(pz_proc *proc, pz_barrier *barrier)
{
    /* One step for everybody: who is told that the barrier was reset finds it empty, however soon it comes back. */
    uint32_t state = pz_load(&barrier->state);
    while (!(state & RESETTING) && !pz_cas(&barrier->state, &state, state | RESETTING))
        ;
    finish_reset(proc, barrier, state | RESETTING);
}

uint32_t pz_barrier_waiting(pz_barrier *barrier)
{
    uint32_t state = pz_load(&barrier->state);
    return state & (RUNNING | RESETTING) ? 0 : arrivals(barrier, PHASE(state));
}
