/* What is proved of events and barriers. */
#include "proof.h"

static pz_ref ref;
static void *object;

static void make(uint64_t size, enum pz_kind kind)
{
    must(pz_object_new(&P, size, kind, &ref) == 0);
    object = pz_at(&P, ref.offset);
}

static void unmake(void)
{
    pz_object_close(&P, &ref);
}

/* ---- event ------------------------------------------------------------------------------------------------------- */

static pz_event *event(void)
{
    return object;
}

static void setup_event(void)
{
    make(sizeof(pz_event), PZ_EVENT);
    event()->word = 2; /* somebody sleeps */
}

static void run_set_clear(void)
{
    pz_event_set(&P, event());
    pz_event_clear(event());
}

static void check_event(void)
{
    uint32_t word = event()->word;
    must(word >> 2 == 1 || !done);
    pz_wait wait = forever();
    wait.deadline = P.ops->now();
    must(pz_event_wait(&P, event(), 0, &wait) == (word >> 2 == 1 ? 0 : -ETIMEDOUT));
    uint32_t seen = event()->word;
    pz_event_set(&P, event());
    pz_event_clear(event());
    wait = forever();
    must((seen & 1) || pz_event_wait(&P, event(), seen, &wait) == 0);
    pz_event_set(&P, event());
    must(pz_event_is_set(event()));
}

static void run_event_wait(void)
{
    pz_wait wait = forever();
    int rc;
    while ((rc = pz_event_wait(&P, event(), 0, &wait)) == -EINTR)
        ;
    must(rc == 0);
}

static bool poke_event(void)
{
    pz_event_set(&P, event());
    return true;
}

static void check_event_waited(void)
{
    pz_event_set(&P, event());
    must(pz_event_is_set(event()));
}

/* ---- barrier ----------------------------------------------------------------------------------------------------- */

static pz_arrival mine;

static const uint32_t next_phase = 1 << 3; /* the second, with nobody there */

static pz_barrier *barrier(void)
{
    return object;
}

static void setup_barrier(void)
{
    make(sizeof(pz_barrier) + 2 * sizeof(pz_u64), PZ_BARRIER);
    barrier()->parties = 2;
    memset(&mine, 0, sizeof mine);
}

static int arrive(pz_arrival *arrival)
{
    pz_wait wait = forever();
    int rc;
    while ((rc = pz_barrier_wait(&P, barrier(), arrival, &wait)) == -EINTR)
        ;
    if (rc == 1)
        pz_barrier_release(&P, barrier());
    return rc;
}

/* One step of our own arrival, which does not wait long. */
static bool poke_arrive(void)
{
    pz_wait wait = forever();
    int rc = pz_barrier_wait(&P, barrier(), &mine, &wait);
    if (rc == 1)
        pz_barrier_release(&P, barrier());
    return rc != -EINTR;
}

static void run_arrive(void)
{
    pz_arrival arrival = {0};
    must(arrive(&arrival) >= 0);
}

/* Released, all of them, or broken: but nobody waits for the dead. */
static void check_barrier(void)
{
    if (mine.arrived) {
        pz_arrival instead = {0};
        if (barrier()->state == 0 && pz_barrier_waiting(barrier()) == 1) /* it never came: another one comes */
            must(arrive(&instead) >= 0);
        int rc = arrive(&mine);
        must(rc >= 0 ? barrier()->state == next_phase : rc == -EPIPE && !done);
    } else {
        must(!done);
    }
    pz_barrier_reset(&P, barrier());
    must((barrier()->state & 7) == 0);
    barrier()->parties = 1;
    pz_arrival again = {0};
    must(arrive(&again) == 1);
    must(pz_barrier_waiting(barrier()) == 0);
}

static void run_reset(void)
{
    pz_barrier_reset(&P, barrier());
}

static void setup_arrived(void)
{
    setup_barrier();
    must(!poke_arrive());
}

static void check_reset(void)
{
    must(barrier()->state == next_phase || !done);
    /* Who was there is told, and finds the barrier empty at once when it comes back. */
    if (barrier()->state == 0)
        pz_barrier_reset(&P, barrier());
    must(arrive(&mine) == -EPIPE);
    must(pz_barrier_waiting(barrier()) == 0 && barrier()->state == next_phase);
    barrier()->parties = 1;
    pz_arrival again = {0};
    must(arrive(&again) == 1);
}

const op meet_ops[] = {
    {"event set and clear", setup_event, NULL, run_set_clear, NULL, check_event, unmake, NULL, false},
    {"event wait", setup_event, NULL, run_event_wait, poke_event, check_event_waited, unmake, NULL, false},
    {"barrier arrive", setup_barrier, NULL, run_arrive, poke_arrive, check_barrier, unmake, NULL, false},
    {"barrier arrive, last", setup_arrived, NULL, run_arrive, NULL, check_barrier, unmake, NULL, false},
    {"barrier reset", setup_arrived, NULL, run_reset, NULL, check_reset, unmake, NULL, false},
    {NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false},
};
