/* What is proved of locks, semaphores and conditions. */
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

/* ---- lock -------------------------------------------------------------------------------------------------------- */

static void setup_lock(void)
{
    make(sizeof(pz_rlock), PZ_RLOCK);
}

static pz_lock *lock(void)
{
    return object;
}

static void take(void)
{
    pz_wait wait = forever();
    uint32_t dead;
    int rc;
    while ((rc = pz_lock_wait(&P, lock(), &wait, &dead)) == -EINTR)
        ;
    must(rc == 0);
}

/* Who took it and died is reported, once; a lock that nobody took is free. */
static void check_lock(void)
{
    uint32_t word = lock()->word, dead = 0;
    bool held = (word & PZ_LOCKED) && is_dead(PZ_OWNER_OF(word));
    must(!(word & PZ_LOCKED) || held);
    if (held) {
        pz_wait wait = forever();
        int rc;
        while ((rc = pz_lock_wait(&P, lock(), &wait, &dead)) == -EINTR)
            ;
        must(rc == -EOWNERDEAD && dead == PZ_OWNER_OF(word));
    }
    take();
    must(pz_lock_release(&P, lock()) == 0);
    must(lock()->word == 0);
    must(pz_lock_try(&P, lock()) == 0 && pz_lock_release(&P, lock()) == 0);
}

static void check_taken(void)
{
    must(!done || PZ_OWNER_OF(lock()->word) == victim);
    check_lock();
}

static void check_released(void)
{
    must(!done || lock()->word == 0);
    check_lock();
}

static void run_try(void)
{
    must(pz_lock_try(&P, lock()) == 0);
}

static void run_release(void)
{
    must(pz_lock_release(&P, lock()) == 0);
}

static void run_release_waiters(void)
{
    lock()->word |= PZ_WAITERS;
    must(pz_lock_release(&P, lock()) == 0);
}

static void setup_held(void)
{
    setup_lock();
    must(pz_lock_try(&P, lock()) == 0);
}

static bool poke_release(void)
{
    must(pz_lock_release(&P, lock()) == 0);
    return true;
}

static void check_contended(void)
{
    if (PZ_OWNER_OF(lock()->word) == P.self)
        must(pz_lock_release(&P, lock()) == 0);
    check_lock();
}

static void run_take_over(void)
{
    pz_wait wait = forever();
    uint32_t dead;
    int rc;
    while ((rc = pz_lock_wait(&P, lock(), &wait, &dead)) == -EINTR)
        ;
    must(rc == 0 || rc == -EOWNERDEAD);
    if (rc == 0)
        must(pz_lock_release(&P, lock()) == 0);
}

/* ---- rlock ------------------------------------------------------------------------------------------------------- */

static void run_rlock(void)
{
    must(pz_rlock_try(&P, object, 5) == 0);
    must(pz_rlock_try(&P, object, 5) == 0);
    must(pz_rlock_release(&P, object, 5) == 0);
    must(pz_rlock_release(&P, object, 5) == 0);
}

static void check_rlock(void)
{
    must(!pz_rlock_is_mine(&P, object, 5));
    must(pz_rlock_release(&P, object, 5) == -EPERM);
    check_lock();
    must(pz_rlock_try(&P, object, 5) == 0 && ((pz_rlock *)object)->depth == 1);
    must(pz_rlock_release(&P, object, 5) == 0);
}

/* ---- semaphores -------------------------------------------------------------------------------------------------- */

static pz_semaphore *sem(void)
{
    return object;
}

static void setup_sem(void)
{
    make(sizeof(pz_semaphore), PZ_SEMAPHORE);
    sem()->value = 2;
}

static void run_sem(void)
{
    must(pz_semaphore_try(&P, sem()) == 0);
}

static void wait_sem(void)
{
    pz_wait wait = forever();
    int rc;
    while ((rc = pz_semaphore_wait(&P, sem(), &wait)) == -EINTR)
        ;
    must(rc == 0);
}

static void check_sem(void)
{
    uint32_t value = sem()->value;
    must(value == 1 || (value == 2 && !done));
    for (uint32_t i = 0; i < value; i++)
        wait_sem();
    must(pz_semaphore_try(&P, sem()) == -EBUSY);
    must(pz_semaphore_release(&P, sem(), 1) == 0);
    wait_sem();
}

static void setup_sem_empty(void)
{
    make(sizeof(pz_semaphore), PZ_SEMAPHORE);
}

static bool poke_sem(void)
{
    must(pz_semaphore_release(&P, sem(), 1) == 0);
    return true;
}

static void check_sem_waited(void)
{
    must(sem()->value <= 1 && (sem()->value == 0 || !done));
    must(pz_semaphore_release(&P, sem(), 1) == 0);
    wait_sem();
}

static void run_sem_release(void)
{
    sem()->sleepers = 1;
    must(pz_semaphore_release(&P, sem(), 1) == 0);
}

static void check_sem_released(void)
{
    must(sem()->value == 3 || (sem()->value == 2 && !done));
    wait_sem();
    wait_sem();
}

static pz_bounded *bounded(void)
{
    return object;
}

static void setup_bounded(void)
{
    make(sizeof(pz_bounded) + 3 * sizeof(pz_u32), PZ_BOUNDED);
    bounded()->permits = 3;
    must(pz_bounded_try(&P, bounded()) == 0);
}

static void run_bounded(void)
{
    must(pz_bounded_try(&P, bounded()) == 0);
    must(pz_bounded_try(&P, bounded()) == 0);
    must(pz_bounded_release(&P, bounded(), 1) == 0);
}

/* All permits but ours are free again. */
static void check_bounded(void)
{
    for (int i = 0; i < 2; i++) {
        pz_wait wait = forever();
        int rc;
        while ((rc = pz_bounded_wait(&P, bounded(), &wait)) == -EINTR)
            ;
        must(rc == 0);
    }
    must(pz_bounded_try(&P, bounded()) == -EBUSY);
    must(pz_bounded_release(&P, bounded(), 3) == 0);
    must(pz_bounded_release(&P, bounded(), 1) == -EOVERFLOW);
    must(pz_bounded_value(bounded()) == 3);
}

static void run_bounded_taken(void)
{
    must(pz_bounded_try(&P, bounded()) == 0);
    must(pz_bounded_try(&P, bounded()) == 0);
}

static void run_bounded_sweep(void)
{
    pz_wait wait = forever();
    int rc;
    while ((rc = pz_bounded_wait(&P, bounded(), &wait)) == -EINTR)
        ;
    must(rc == 0);
}

/* ---- condition --------------------------------------------------------------------------------------------------- */

static pz_cell *ours[2], *theirs;

static pz_cond *cond(void)
{
    return object;
}

static void setup_cond(void)
{
    make(sizeof(pz_cond), PZ_COND);
}

static void wait_cell(pz_cell *cell)
{
    pz_wait wait = forever();
    int rc;
    while ((rc = pz_cond_wait(&P, cond(), cell, &wait)) == -EINTR)
        ;
    must(rc == 0);
}

/* Two of ours wait, and get their notifications whatever the dead has left. */
static void check_cond(void)
{
    must(pz_cond_enter(&P, cond(), &ours[0]) == 0);
    must(pz_cond_enter(&P, cond(), &ours[1]) == 0);
    must(pz_cond_notify(&P, cond(), 1000) >= 2);
    wait_cell(ours[0]);
    wait_cell(ours[1]);
    must(!done || pz_cond_waiting(&P, cond()) == 0);
}

static void run_enter(void)
{
    must(pz_cond_enter(&P, cond(), &theirs) == 0);
    must(!pz_cond_leave(&P, cond(), theirs));
}

static void run_enter_wait(void)
{
    must(pz_cond_enter(&P, cond(), &theirs) == 0);
    wait_cell(theirs);
}

static bool poke_notify(void)
{
    return pz_cond_notify(&P, cond(), 1) == 1;
}

/* The child is before us in the line; if it is notified and dies, it is our turn. */
static void setup_passing_on(void)
{
    setup_cond();
}

static void before_passing_on(void)
{
    must(pz_cond_enter(&P, cond(), &theirs) == 0);
}

static void run_wait(void)
{
    wait_cell(theirs);
}

static bool poke_enter_notify(void)
{
    must(pz_cond_enter(&P, cond(), &ours[0]) == 0);
    must(pz_cond_notify(&P, cond(), 1) == 1);
    return true;
}

static uint32_t notified_dead(void)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < cond()->high; i++)
        count += (cond()->cells[i].state & 3) == PZ_CELL_NOTIFIED && is_dead(PZ_OWNER_OF(cond()->cells[i].state));
    return count;
}

static void check_passing_on(void)
{
    if (cond()->notified == 0) { /* killed before the poke */
        check_cond();
        return;
    }
    if (notified_dead() == 0) { /* it was consumed */
        must(pz_cond_notify(&P, cond(), 1) == 1);
    } else {
        must(!done);
    }
    wait_cell(ours[0]);
    check_cond();
}

static void after_cond(void)
{
    for (uint32_t i = 0; i < PZ_CELLS_FIRST; i++) {
        uint32_t state = cond()->cells[i].state;
        must((state & 3) == PZ_CELL_FREE || is_dead(PZ_OWNER_OF(state)));
    }
    unmake();
}

static void setup_two_wait(void)
{
    setup_cond();
    must(pz_cond_enter(&P, cond(), &ours[0]) == 0);
    must(pz_cond_enter(&P, cond(), &ours[1]) == 0);
}

static void run_notify(void)
{
    ours[0]->asleep = 1;
    pz_cond_notify(&P, cond(), 1);
}

static void check_notify(void)
{
    uint32_t first = ours[0]->state & 3;
    must(first == PZ_CELL_NOTIFIED || !done);
    must((ours[1]->state & 3) == PZ_CELL_WAITING); /* one, and in the order of arrival */
    if (first == PZ_CELL_WAITING)
        must(pz_cond_notify(&P, cond(), 1) == 1);
    wait_cell(ours[0]);
    must(pz_cond_notify(&P, cond(), 1) == 1);
    wait_cell(ours[1]);
}

/* A notified waiter is dead (the corpse), we wait, and who passes its notification on is killed. */
static void run_notified(void)
{
    must(pz_cond_enter(&P, cond(), &theirs) == 0);
    must(pz_cond_notify(&P, cond(), 1) == 1);
}

static const op notified = {"waiter notified", setup_cond, NULL, run_notified, NULL, check_cond, after_cond, NULL, false};

static void run_pass_on(void)
{
    must(pz_cond_enter(&P, cond(), &theirs) == 0);
    pz_wait wait = forever();
    while (notified_dead() > 0)
        must(pz_cond_wait(&P, cond(), theirs, &wait) == -EINTR);
    pz_cond_leave(&P, cond(), theirs);
}

static uint32_t to_pass_on;

static bool poke_enter(void)
{
    to_pass_on = notified_dead();
    must(pz_cond_enter(&P, cond(), &ours[0]) == 0);
    return true;
}

/* Whoever of the two died where: the notification reaches us, who live. */
static void check_pass_on(void)
{
    bool reached = (ours[0]->state & 3) == PZ_CELL_NOTIFIED;
    must(to_pass_on == 0 || reached || notified_dead() > 0);
    if (to_pass_on == 0 && !reached && notified_dead() == 0)
        must(pz_cond_notify(&P, cond(), 1000) >= 1);
    wait_cell(ours[0]);
    check_cond();
}

/* The first cells are full, so entering needs a new block of them. */
static void setup_full_cond(void)
{
    setup_cond();
    for (uint32_t i = 0; i < PZ_CELLS_FIRST; i++) {
        pz_cell *cell;
        must(pz_cond_enter(&P, cond(), &cell) == 0);
    }
}

static void check_full_cond(void)
{
    must(pz_cond_enter(&P, cond(), &ours[0]) == 0);
    must(pz_cond_enter(&P, cond(), &ours[1]) == 0);
    must(pz_cond_notify(&P, cond(), PZ_CELLS_FIRST + 3) >= PZ_CELLS_FIRST + 2);
    wait_cell(ours[0]);
    wait_cell(ours[1]);
}

static const op hold = {"hold", setup_lock, NULL, run_try, NULL, check_lock, unmake, NULL, false};
static const op hold_bounded = {
    "hold permits", setup_bounded, NULL, run_bounded_taken, NULL, check_bounded, unmake, NULL, false};

const op sync_ops[] = {
    {"lock acquire", setup_lock, NULL, run_try, NULL, check_taken, unmake, NULL, false},
    {"lock acquire, contended", setup_held, NULL, take, poke_release, check_contended, unmake, NULL, false},
    {"lock release", setup_lock, run_try, run_release, NULL, check_released, unmake, NULL, false},
    {"lock release, waiters", setup_lock, run_try, run_release_waiters, NULL, check_released, unmake, NULL, false},
    {"lock of a dead owner", setup_lock, NULL, run_take_over, NULL, check_lock, unmake, &hold, false},
    {"rlock", setup_lock, NULL, run_rlock, NULL, check_rlock, unmake, NULL, false},
    {"semaphore acquire", setup_sem, NULL, run_sem, NULL, check_sem, unmake, NULL, false},
    {"semaphore acquire, waiting", setup_sem_empty, NULL, wait_sem, poke_sem, check_sem_waited, unmake, NULL, false},
    {"semaphore release", setup_sem, NULL, run_sem_release, NULL, check_sem_released, unmake, NULL, false},
    {"bounded semaphore", setup_bounded, NULL, run_bounded, NULL, check_bounded, unmake, NULL, false},
    {"bounded, holder is dead", setup_bounded, NULL, run_bounded_sweep, NULL, check_bounded, unmake, &hold_bounded, false},
    {"condition enter and leave", setup_cond, NULL, run_enter, NULL, check_cond, after_cond, NULL, false},
    {"condition enter and wait", setup_cond, NULL, run_enter_wait, poke_notify, check_cond, after_cond, NULL, false},
    {"condition passed on", setup_passing_on, before_passing_on, run_wait, poke_enter_notify, check_passing_on, after_cond,
     NULL, false},
    {"condition notify", setup_two_wait, NULL, run_notify, NULL, check_notify, after_cond, NULL, false},
    {"condition, passing on", setup_cond, NULL, run_pass_on, poke_enter, check_pass_on, unmake, &notified, false},
    {"condition, more cells", setup_full_cond, NULL, run_enter, NULL, check_full_cond, unmake, NULL, false},
    {NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false},
};
