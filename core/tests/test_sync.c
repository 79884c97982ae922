/* Locks, semaphores, conditions, events and barriers between threads of one process. */
#include "helper.h"

static pz_ref ref;
static uint64_t counter; /* guarded by what is tested */

/* ---- lock ---- */

static pz_lock *lock;

static void acquire(void)
{
    uint32_t dead;
    int rc;
    pz_wait wait = forever();
    if (pz_lock_try(&P, lock) != 0) {
        STEADY(rc, pz_lock_wait(&P, lock, &wait, &dead));
        CHECK(rc == 0);
    }
}

static void *add(void *argument)
{
    (void)argument;
    for (int i = 0; i < 5000; i++) {
        acquire();
        counter++;
        CHECK(pz_lock_release(&P, lock) == 0);
    }
    return NULL;
}

static void lock_excludes(void)
{
    lock = object(sizeof(pz_lock), PZ_LOCK, &ref);
    counter = 0;
    in_threads(add);
    CHECK(counter == 5000 * THREADS && lock->word == 0 && lock->acquired == 5000 * THREADS);
    CHECK(pz_lock_release(&P, lock) == -EPERM);
    pz_object_close(&P, &ref);
}

static void lock_timeout(void)
{
    lock = object(sizeof(pz_lock), PZ_LOCK, &ref);
    acquire();
    uint32_t dead;
    int rc;
    uint64_t before = P.ops->now();
    pz_wait wait = within(70 * PZ_MS);
    STEADY(rc, pz_lock_wait(&P, lock, &wait, &dead));
    CHECK(rc == -ETIMEDOUT && P.ops->now() - before >= 70 * PZ_MS);
    wait = within(0);
    CHECK(pz_lock_wait(&P, lock, &wait, &dead) == -ETIMEDOUT);
    CHECK(pz_lock_check(&P, lock, &dead) == -EBUSY);
    pz_lock_disown(&P, lock);
    CHECK(PZ_OWNER_OF(lock->word) == PZ_NOBODY);
    CHECK(pz_lock_check(&P, lock, &dead) == -EBUSY);
    CHECK(pz_lock_release(&P, lock) == 0 && lock->word == 0);
    pz_object_close(&P, &ref);
}

static pz_rlock *rlock;

static void *add_twice(void *argument)
{
    uint64_t me = (uint64_t)(long)argument + 1;
    for (int i = 0; i < 2000; i++) {
        uint32_t dead;
        int rc;
        pz_wait wait = forever();
        if (pz_rlock_try(&P, rlock, me) != 0) {
            STEADY(rc, pz_rlock_wait(&P, rlock, me, &wait, &dead));
            CHECK(rc == 0);
        }
        CHECK(pz_rlock_is_mine(&P, rlock, me) && !pz_rlock_is_mine(&P, rlock, me + 1));
        CHECK(pz_rlock_try(&P, rlock, me) == 0);
        counter++;
        CHECK(pz_rlock_release(&P, rlock, me + 1) == -EPERM);
        CHECK(pz_rlock_release(&P, rlock, me) == 0);
        counter++;
        CHECK(pz_rlock_release(&P, rlock, me) == 0);
        CHECK(!pz_rlock_is_mine(&P, rlock, me));
    }
    return NULL;
}

static void rlock_is_recursive(void)
{
    rlock = object(sizeof(pz_rlock), PZ_RLOCK, &ref);
    counter = 0;
    in_threads(add_twice);
    CHECK(counter == 4000 * THREADS && rlock->lock.word == 0);
    uint32_t depth;
    CHECK(pz_rlock_release_all(&P, rlock, 9, &depth) == -EPERM);
    for (int i = 0; i < 3; i++)
        CHECK(pz_rlock_try(&P, rlock, 9) == 0);
    CHECK(pz_rlock_release_all(&P, rlock, 9, &depth) == 0 && depth == 3 && rlock->lock.word == 0);
    CHECK(pz_rlock_try(&P, rlock, 9) == 0);
    pz_rlock_set_depth(rlock, depth);
    for (int i = 0; i < 3; i++)
        CHECK(pz_rlock_release(&P, rlock, 9) == 0);
    CHECK(rlock->lock.word == 0);
    pz_object_close(&P, &ref);
}

/* ---- semaphores ---- */

static pz_semaphore *sem;
static pz_bounded *bounded;
static pz_u32 inside, most;

static void enter_leave(void)
{
    uint32_t now = pz_add(&inside, 1) + 1, seen = pz_load(&most);
    while (now > seen && !pz_cas(&most, &seen, now))
        ;
    pz_sub(&inside, 1);
}

static void *use_semaphore(void *argument)
{
    (void)argument;
    for (int i = 0; i < 3000; i++) {
        int rc;
        pz_wait wait = forever();
        STEADY(rc, pz_semaphore_wait(&P, sem, &wait));
        CHECK(rc == 0);
        enter_leave();
        CHECK(pz_semaphore_release(&P, sem, 1) == 0);
    }
    return NULL;
}

static void semaphore_counts(void)
{
    sem = object(sizeof(pz_semaphore), PZ_SEMAPHORE, &ref);
    sem->value = 2;
    inside = most = 0;
    in_threads(use_semaphore);
    CHECK(most <= 2 && sem->value == 2);
    CHECK(pz_semaphore_release(&P, sem, PZ_SEMAPHORE_MAX) == -EOVERFLOW);
    CHECK(pz_semaphore_try(&P, sem) == 0 && pz_semaphore_try(&P, sem) == 0 && pz_semaphore_try(&P, sem) == -EBUSY);
    pz_wait wait = within(20 * PZ_MS);
    int rc;
    STEADY(rc, pz_semaphore_wait(&P, sem, &wait));
    CHECK(rc == -ETIMEDOUT);
    pz_object_close(&P, &ref);
}

static void *use_bounded(void *argument)
{
    (void)argument;
    for (int i = 0; i < 3000; i++) {
        int rc;
        pz_wait wait = forever();
        STEADY(rc, pz_bounded_wait(&P, bounded, &wait));
        CHECK(rc == 0);
        enter_leave();
        CHECK(pz_bounded_release(&P, bounded, 1) == 0);
    }
    return NULL;
}

static void bounded_counts(void)
{
    bounded = object(sizeof(pz_bounded) + 2 * sizeof(pz_u32), PZ_BOUNDED, &ref);
    bounded->permits = 2;
    inside = most = 0;
    in_threads(use_bounded);
    CHECK(most <= 2 && pz_bounded_value(bounded) == 2);
    CHECK(pz_bounded_release(&P, bounded, 1) == -EOVERFLOW);
    CHECK(pz_bounded_try(&P, bounded) == 0 && pz_bounded_try(&P, bounded) == 0);
    CHECK(pz_bounded_try(&P, bounded) == -EBUSY && pz_bounded_sweep(&P, bounded) == 0);
    CHECK(pz_bounded_release(&P, bounded, 3) == -EOVERFLOW && pz_bounded_value(bounded) == 0);
    pz_bounded_disown(&P, bounded);
    CHECK(pz_bounded_release(&P, bounded, 2) == 0 && pz_bounded_value(bounded) == 2);
    pz_object_close(&P, &ref);
}

/* ---- condition ---- */

static pz_cond *cond;

static void condition_is_fair(void)
{
    cond = object(sizeof(pz_cond), PZ_COND, &ref);
    pz_memory before = memory();
    pz_cell *cell[100];
    pz_wait wait;
    CHECK(pz_cond_notify(&P, cond, 1) == 0);
    for (int i = 0; i < 100; i++)
        CHECK(pz_cond_enter(&P, cond, &cell[i]) == 0);
    CHECK(pz_cond_waiting(&P, cond) == 100);
    for (int i = 0; i < 100; i++) {
        CHECK(pz_cond_notify(&P, cond, 1) == 1);
        wait = within(0);
        CHECK(pz_cond_wait(&P, cond, cell[i], &wait) == 0);
        if (i < 99)
            CHECK(pz_cond_wait(&P, cond, cell[i + 1], &wait) == -ETIMEDOUT);
        if (i < 99) /* it left by the timeout; back in, at the end of the line */
            CHECK(pz_cond_enter(&P, cond, &cell[i + 1]) == 0);
        if (i < 98) { /* all others too, so that the order stays */
            for (int k = i + 2; k < 100; k++) {
                CHECK(!pz_cond_leave(&P, cond, cell[k]));
                CHECK(pz_cond_enter(&P, cond, &cell[k]) == 0);
            }
        }
    }
    CHECK(pz_cond_waiting(&P, cond) == 0 && pz_cond_notify(&P, cond, 5) == 0);
    CHECK(pz_cond_enter(&P, cond, &cell[0]) == 0 && pz_cond_notify(&P, cond, 5) == 1);
    CHECK(pz_cond_leave(&P, cond, cell[0]));
    CHECK(memory().blocks == before.blocks + 1);
    pz_object_close(&P, &ref);
    CHECK(memory().blocks == before.blocks - 1);
}

static uint32_t tokens;

/* A token goes round: who finds none waits, who has used it notifies. */
static void *consume(void *argument)
{
    (void)argument;
    for (int i = 0; i < 500; i++) {
        acquire();
        while (tokens == 0) {
            pz_cell *cell;
            int rc;
            pz_wait wait = forever();
            CHECK(pz_cond_enter(&P, cond, &cell) == 0);
            CHECK(pz_lock_release(&P, lock) == 0);
            STEADY(rc, pz_cond_wait(&P, cond, cell, &wait));
            CHECK(rc == 0);
            acquire();
        }
        tokens--;
        CHECK(pz_lock_release(&P, lock) == 0);
        acquire();
        tokens++;
        pz_cond_notify(&P, cond, 1);
        CHECK(pz_lock_release(&P, lock) == 0);
    }
    return NULL;
}

static void condition_loses_nothing(void)
{
    pz_ref second;
    lock = object(sizeof(pz_lock), PZ_LOCK, &second);
    cond = object(sizeof(pz_cond), PZ_COND, &ref);
    tokens = 1;
    in_threads(consume);
    CHECK(tokens == 1 && pz_cond_waiting(&P, cond) == 0);
    pz_object_close(&P, &ref);
    pz_object_close(&P, &second);
}

/* ---- event ---- */

static pz_event *event;
static pz_u32 ready;

static void *wait_event(void *argument)
{
    (void)argument;
    uint32_t seen = pz_load(&event->word);
    pz_add(&ready, 1);
    pz_wait wait = forever();
    int rc;
    STEADY(rc, pz_event_wait(&P, event, seen, &wait));
    CHECK(rc == 0);
    return NULL;
}

static void event_pulse_releases(void)
{
    event = object(sizeof(pz_event), PZ_EVENT, &ref);
    ready = 0;
    pthread_t thread[THREADS];
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_create(&thread[i], NULL, wait_event, NULL) == 0);
    until(&ready, THREADS);
    pz_event_set(&P, event);
    pz_event_clear(event);
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_join(thread[i], NULL) == 0);
    CHECK(!pz_event_is_set(event));
    pz_wait wait = within(20 * PZ_MS);
    int rc;
    uint32_t seen = event->word;
    STEADY(rc, pz_event_wait(&P, event, seen, &wait));
    CHECK(rc == -ETIMEDOUT);
    pz_event_set(&P, event);
    pz_event_set(&P, event);
    CHECK(pz_event_is_set(event) && event->sets == 2 && pz_event_wait(&P, event, 0, &wait) == 0);
    pz_object_close(&P, &ref);
}

/* ---- barrier ---- */

static pz_barrier *barrier;
static pz_u32 rounds[300], actions;

static int pass(pz_arrival *arrival, uint64_t deadline)
{
    pz_wait wait;
    pz_wait_init(&wait, deadline);
    int rc;
    STEADY(rc, pz_barrier_wait(&P, barrier, arrival, &wait));
    if (rc == 1) {
        pz_add(&actions, 1);
        pz_barrier_release(&P, barrier);
    }
    return rc;
}

static void *go_round(void *argument)
{
    (void)argument;
    for (int i = 0; i < 300; i++) {
        pz_add(&rounds[i], 1);
        pz_arrival arrival = {0};
        CHECK(pass(&arrival, PZ_FOREVER) >= 0 && arrival.index < THREADS);
        CHECK(pz_load(&rounds[i]) == THREADS);
    }
    return NULL;
}

static void new_barrier(uint32_t parties)
{
    barrier = object(sizeof(pz_barrier) + parties * sizeof(pz_u64), PZ_BARRIER, &ref);
    barrier->parties = parties;
}

static void barrier_goes_round(void)
{
    new_barrier(THREADS);
    in_threads(go_round);
    CHECK(actions == 300 && barrier->passed == 300 && pz_barrier_waiting(barrier) == 0);
    pz_object_close(&P, &ref);
}

static void barrier_breaks_and_resets(void)
{
    new_barrier(2);
    pz_arrival first = {0}, second = {0}, third = {0};
    CHECK(pass(&first, P.ops->now() + 20 * PZ_MS) == -ETIMEDOUT);
    CHECK(pass(&second, PZ_FOREVER) == -EPIPE);
    pz_barrier_reset(&P, barrier);
    memset(&first, 0, sizeof first);
    memset(&second, 0, sizeof second);
    pz_wait wait = forever();
    CHECK(pz_barrier_wait(&P, barrier, &first, &wait) == -EINTR && pz_barrier_waiting(barrier) == 1);
    CHECK(pass(&second, PZ_FOREVER) == 1);
    /* It was released, whatever happens before it looks. */
    CHECK(!(barrier->state & 1));
    pz_barrier_break(&P, barrier);
    CHECK(pass(&third, PZ_FOREVER) == -EPIPE);
    for (int i = 0; i < 5; i++)
        pz_barrier_reset(&P, barrier);
    CHECK(pass(&first, PZ_FOREVER) == 0);
    /* One that waits is sent away by a reset; one that leaves breaks only its own round. */
    memset(&first, 0, sizeof first);
    wait = forever();
    CHECK(pz_barrier_wait(&P, barrier, &first, &wait) == -EINTR);
    pz_barrier_reset(&P, barrier);
    CHECK(pass(&first, PZ_FOREVER) == -EPIPE);
    memset(&first, 0, sizeof first);
    memset(&second, 0, sizeof second);
    wait = forever();
    CHECK(pz_barrier_wait(&P, barrier, &first, &wait) == -EINTR);
    CHECK(pass(&second, PZ_FOREVER) == 1);
    CHECK(pz_barrier_leave(&P, barrier, &first) && !(barrier->state & 1));
    memset(&first, 0, sizeof first);
    CHECK(!pz_barrier_leave(&P, barrier, &first) && (barrier->state & 1));
    pz_object_close(&P, &ref);
}

int main(void)
{
    begin(UINT64_C(64) << 20, NULL);
    RUN(lock_excludes);
    RUN(lock_timeout);
    RUN(rlock_is_recursive);
    RUN(semaphore_counts);
    RUN(bounded_counts);
    RUN(condition_is_fair);
    RUN(condition_loses_nothing);
    RUN(event_pulse_releases);
    RUN(barrier_goes_round);
    RUN(barrier_breaks_and_resets);
    end();
    return 0;
}
