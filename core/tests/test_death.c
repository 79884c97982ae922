/* Processes that are killed while they hold something: the real proofs of death, the real clock. */
#include <fcntl.h>

#include "helper.h"

static pz_ref ref;
static pz_lock *lock;
static pz_u32 *stage; /* in shared memory: how far a child is */
static pz_ref stage_ref;

static void reach(uint32_t value)
{
    pz_store(stage, value);
}

static void stay(void)
{
    for (;;)
        pause();
}

static void prepare(void)
{
    stage = (pz_u32 *)((pz_block *)object(64, PZ_EVENT, &stage_ref) + 1);
}

static void tidy(void)
{
    pz_object_close(&P, &ref);
    pz_object_close(&P, &stage_ref);
    pz_sweep_all(&P);
    check_valid();
}

/* ---- lock ---- */

static void hold_lock(void)
{
    CHECK(pz_lock_try(&P, lock) == 0);
    reach(1);
    stay();
}

static void the_next_is_told(void)
{
    prepare();
    lock = object(sizeof(pz_lock), PZ_LOCK, &ref);
    child c = start(hold_lock);
    until(stage, 1);
    uint32_t dead = 0;
    pz_wait wait = within(60 * PZ_MS);
    int rc;
    STEADY(rc, pz_lock_wait(&P, lock, &wait, &dead));
    CHECK(rc == -ETIMEDOUT && pz_lock_check(&P, lock, &dead) == -EBUSY);
    CHECK(kill(c.pid, SIGKILL) == 0);
    wait = within(5 * PZ_SECOND);
    STEADY(rc, pz_lock_wait(&P, lock, &wait, &dead)); /* a zombie is dead */
    CHECK(rc == -EOWNERDEAD && dead == c.token && pz_owner_pid(&P, dead) == c.pid && lock->deaths == 1);
    CHECK(pz_lock_try(&P, lock) == 0 && pz_lock_release(&P, lock) == 0);
    waitpid(c.pid, NULL, 0);
    tidy();
}

static void hold_and_leave(void)
{
    CHECK(pz_lock_try(&P, lock) == 0);
    pz_lock_disown(&P, lock);
}

static void an_orderly_end_is_no_death(void)
{
    prepare();
    lock = object(sizeof(pz_lock), PZ_LOCK, &ref);
    finish(start(hold_and_leave));
    uint32_t dead;
    CHECK(pz_lock_try(&P, lock) == -EBUSY && pz_lock_check(&P, lock, &dead) == -EBUSY);
    CHECK(pz_lock_release(&P, lock) == 0 && lock->word == 0);
    tidy();
}

/* Waiters in several processes; the holder and some of them are killed; the others all get it. */
static void take_in_turn(void)
{
    for (;;) {
        uint32_t dead;
        pz_wait wait = forever();
        int rc;
        STEADY(rc, pz_lock_wait(&P, lock, &wait, &dead));
        if (rc == -EOWNERDEAD)
            continue;
        CHECK(rc == 0);
        pz_add(stage, 1);
        CHECK(pz_lock_release(&P, lock) == 0);
        return;
    }
}

static void waiters_survive(void)
{
    prepare();
    lock = object(sizeof(pz_lock), PZ_LOCK, &ref);
    child holder = start(hold_lock), waiter[6];
    until(stage, 1);
    for (int i = 0; i < 6; i++)
        waiter[i] = start(take_in_turn);
    while (!(pz_load(&lock->word) & PZ_WAITERS))
        usleep(1000);
    kill_child(waiter[0]);
    kill_child(waiter[3]);
    kill_child(holder);
    for (int i = 0; i < 6; i++)
        if (i != 0 && i != 3)
            finish(waiter[i]);
    CHECK(pz_load(stage) == 5 && lock->word == 0);
    tidy();
}

/* ---- what else can be held ---- */

static pz_bounded *bounded;

static void hold_permit(void)
{
    CHECK(pz_bounded_try(&P, bounded) == 0);
    reach(1);
    stay();
}

static void a_permit_comes_back(void)
{
    prepare();
    bounded = object(sizeof(pz_bounded) + sizeof(pz_u32), PZ_BOUNDED, &ref);
    bounded->permits = 1;
    child c = start(hold_permit);
    until(stage, 1);
    CHECK(pz_bounded_try(&P, bounded) == -EBUSY);
    kill_child(c);
    pz_wait wait = within(5 * PZ_SECOND);
    int rc;
    STEADY(rc, pz_bounded_wait(&P, bounded, &wait));
    CHECK(rc == 0 && bounded->deaths == 1);
    CHECK(pz_bounded_release(&P, bounded, 1) == 0);
    tidy();
}

static pz_cond *cond;

static void wait_notified(void)
{
    pz_cell *cell;
    CHECK(pz_cond_enter(&P, cond, &cell) == 0);
    reach(1);
    stay();
}

static void a_notification_is_passed_on(void)
{
    prepare();
    cond = object(sizeof(pz_cond), PZ_COND, &ref);
    child c = start(wait_notified);
    until(stage, 1);
    pz_cell *cell;
    CHECK(pz_cond_enter(&P, cond, &cell) == 0);
    CHECK(pz_cond_notify(&P, cond, 1) == 1); /* the child's, who was first */
    kill_child(c);
    pz_wait wait = within(5 * PZ_SECOND);
    int rc;
    STEADY(rc, pz_cond_wait(&P, cond, cell, &wait));
    CHECK(rc == 0 && cond->passed_on == 1);
    tidy();
}

static pz_barrier *barrier;

static void arrive(void)
{
    pz_arrival arrival = {0};
    pz_wait wait = forever();
    reach(1);
    int rc;
    STEADY(rc, pz_barrier_wait(&P, barrier, &arrival, &wait));
    stay();
}

static void death_breaks_a_barrier(void)
{
    prepare();
    barrier = object(sizeof(pz_barrier) + 3 * sizeof(pz_u64), PZ_BARRIER, &ref);
    barrier->parties = 3;
    child c = start(arrive);
    while (pz_barrier_waiting(barrier) != 1)
        usleep(100);
    kill_child(c);
    pz_arrival arrival = {0};
    pz_wait wait = within(5 * PZ_SECOND);
    int rc;
    STEADY(rc, pz_barrier_wait(&P, barrier, &arrival, &wait));
    CHECK(rc == -EPIPE);
    pz_barrier_reset(&P, barrier);
    CHECK(pz_barrier_waiting(barrier) == 0);
    tidy();
}

/* ---- slots ---- */

static void hold_much(void)
{
    pz_ref mine[700];
    uint64_t parcel;
    for (int i = 0; i < 700; i++)
        object(200, PZ_EVENT, &mine[i]);
    CHECK(pz_parcel_new(&P, 1 << 20, 1, &parcel) == 0);
    CHECK(pz_parcel_carry(&P, parcel, ref.offset, ref.gen) == 0);
    reach(1);
    stay();
}

static void all_it_held_is_swept(void)
{
    prepare();
    lock = object(sizeof(pz_lock), PZ_LOCK, &ref);
    pz_memory before = memory();
    child c = start(hold_much);
    until(stage, 1);
    CHECK(memory().blocks > before.blocks + 700 && lock->block.refs == 3 && pz_sweep_all(&P) == 0);
    kill_child(c);
    CHECK(pz_sweep_all(&P) == 1);
    CHECK(memory().blocks == before.blocks && memory().used == before.used && lock->block.refs == 1);
    tidy();
}

static void exec_sleep(void)
{
    CHECK(pz_lock_try(&P, lock) == 0);
    reach(1);
    execl("/bin/sleep", "sleep", "30", (char *)NULL);
    _exit(9);
}

static void who_execs_is_dead(void)
{
    prepare();
    lock = object(sizeof(pz_lock), PZ_LOCK, &ref);
    child c = start(exec_sleep);
    until(stage, 1);
    uint32_t dead;
    pz_wait wait = within(20 * PZ_SECOND);
    int rc;
    STEADY(rc, pz_lock_wait(&P, lock, &wait, &dead));
    CHECK(rc == -EOWNERDEAD && dead == c.token);
    CHECK(kill(c.pid, 0) == 0); /* it sleeps on */
    CHECK(pz_sweep_all(&P) == 1);
    kill_child(c);
    tidy();
}

static void close_a_copy(void)
{
    /* Closing any descriptor of the file drops the record lock; the memory map still tells that it lives. */
    close(dup(P.fd));
    reach(1);
    stay();
}

static void a_lost_record_lock_is_only_a_hint(void)
{
    prepare();
    lock = object(sizeof(pz_lock), PZ_LOCK, &ref);
    child c = start(close_a_copy);
    until(stage, 1);
    CHECK(pz_owner_life(&P, c.token) == PZ_ALIVE && pz_sweep_all(&P) == 0);
    kill_child(c);
    CHECK(pz_owner_life(&P, c.token) == PZ_DEAD);
    tidy();
}

/* ---- a soak: children that use everything and are killed at random ---- */

static pz_ref queue_ref;
static pz_ring *ring;

static void use_everything(void)
{
    uint64_t state = (uint64_t)getpid() * 2654435761u + 1;
    for (;;) {
        uint32_t dead;
        pz_wait wait = forever();
        int rc;
        pz_put put;
        pz_get get;
        const pz_record *record;
        const uint8_t *payload;
        uint8_t *at;
        uint64_t parcel;
        switch (next_random(&state) % 5) {
        case 0:
            STEADY(rc, pz_lock_wait(&P, lock, &wait, &dead));
            if (rc == 0)
                pz_lock_release(&P, lock);
            break;
        case 1: {
            pz_ref one;
            object(64 + next_random(&state) % 5000, PZ_EVENT, &one);
            pz_object_close(&P, &one);
            break;
        }
        case 2:
            CHECK(pz_parcel_new(&P, next_random(&state) % 100000, 1, &parcel) == 0);
            CHECK(pz_parcel_carry(&P, parcel, ref.offset, ref.gen) == 0);
            STEADY(rc, pz_put_open(&P, ring, &put, &wait));
            CHECK(rc == 0);
            CHECK(pz_put_parcel(&P, ring, &put, 2, parcel) == 0);
            pz_put_close(&P, ring, &put);
            break;
        case 3:
            STEADY(rc, pz_put_open(&P, ring, &put, &wait));
            CHECK(rc == 0);
            for (int i = 0; i < 5; i++) {
                CHECK(pz_put_record(&P, ring, &put, 1, 800, &at) == 0);
                memset(at, 0x33, 800);
            }
            pz_put_close(&P, ring, &put);
            break;
        default:
            for (int i = 0; i < 6; i++) {
                STEADY(rc, pz_get_open(&P, ring, &get, &wait));
                CHECK(rc == 0);
                rc = pz_get_record(&P, ring, &get, &record, &payload);
                if (rc == 0 && record->type == 1)
                    CHECK(record->length == 800 && payload[0] == 0x33 && payload[799] == 0x33);
                pz_get_close(&P, ring, &get, false);
                if (get.parcel)
                    pz_parcel_free(&P, get.parcel);
            }
        }
        pz_add(stage, 1);
    }
}

static void soak(void)
{
    prepare();
    lock = object(sizeof(pz_lock), PZ_LOCK, &ref);
    CHECK(pz_ring_new(&P, 0, 0, &queue_ref) == 0);
    ring = pz_at(&P, queue_ref.offset);
    pz_memory before = memory();
    uint64_t state = 11;
    child c[4], gone[200];
    for (int i = 0; i < 4; i++)
        c[i] = start(use_everything);
    for (int round = 0; round < 200; round++) {
        usleep(next_random(&state) % 4000);
        int i = (int)(next_random(&state) % 4);
        kill_child(c[i]);
        if (round % 3 == 0)
            pz_slot_bury(&P, c[i].token);
        gone[round] = c[i];
        c[i] = start(use_everything);
        if (round % 20 == 0) { /* nobody hangs: the count goes on */
            uint32_t seen = pz_load(stage);
            while (pz_load(stage) == seen)
                usleep(100);
        }
    }
    for (int i = 0; i < 4; i++)
        kill_child(c[i]);
    pz_sweep_all(&P);
    /* A child that was killed before it claimed its slot counts as alive while its parent lives, until it is buried. */
    for (int i = 0; i < 200; i++)
        pz_slot_bury(&P, gone[i].token);
    for (int i = 0; i < 4; i++)
        pz_slot_bury(&P, c[i].token);
    check_valid();
    pz_put put;
    pz_wait wait = within(20 * PZ_SECOND);
    int rc;
    STEADY(rc, pz_put_open(&P, ring, &put, &wait));
    CHECK(rc == 0);
    pz_put_close(&P, ring, &put);
    pz_object_close(&P, &queue_ref);
    check_valid();
    CHECK(lock->block.refs == 1);
    CHECK(memory().blocks == before.blocks - 2); /* the ring and its first segment */
    tidy();
}

/* ---- before the claim ---- */

static bool record_lock_is_seen(void)
{
    pid_t pid = fork();
    if (pid == 0) {
        struct flock probe = {
            .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)(PZ_SLOT_OFFSET + P.slot), .l_len = 1};
        _exit(fcntl(P.fd, F_GETLK, &probe) == 0 && probe.l_type == F_WRLCK ? 0 : 1);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    return status == 0;
}

/* `claims`: the child takes its slot when it is told to; otherwise it is killed. */
static void unborn(bool claims)
{
    prepare();
    lock = object(sizeof(pz_lock), PZ_LOCK, &ref);
    uint32_t token;
    CHECK(pz_slot_reserve(&P, true, &token) == 0);
    int mark = pz_slot_mark_birth(&P, token);
    CHECK(mark >= 0 && pz_sweep_all(&P) == 0);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        alarm(60);
        until(stage, 1);
        if (!claims)
            stay();
        CHECK(pz_slot_claim(&P, token) == 0);
        pz_slot_end_birth(&P, mark);
        reach(2);
        until(stage, 3);
        _exit(0);
    }
    pz_slot_end_birth(&P, mark);
    CHECK(record_lock_is_seen());
    CHECK(pz_sweep_all(&P) == 0 && pz_owner_life(&P, token) == PZ_ALIVE && lock->block.refs == 2);
    reach(1);
    if (claims) {
        until(stage, 2);
        CHECK(pz_sweep_all(&P) == 0 && pz_owner_life(&P, token) == PZ_ALIVE && pz_owner_pid(&P, token) == pid);
        reach(3);
    } else {
        CHECK(kill(pid, SIGKILL) == 0);
    }
    CHECK(waitpid(pid, NULL, 0) == pid);
    CHECK(pz_owner_life(&P, token) == PZ_DEAD && pz_sweep_all(&P) == 1 && lock->block.refs == 1);
    tidy();
}

static void a_child_may_take_its_time(void)
{
    unborn(true);
}

static void a_child_dies_unborn(void)
{
    unborn(false);
}

int main(void)
{
    begin(UINT64_C(512) << 20, NULL);
    RUN(the_next_is_told);
    RUN(an_orderly_end_is_no_death);
    RUN(waiters_survive);
    RUN(a_permit_comes_back);
    RUN(a_notification_is_passed_on);
    RUN(death_breaks_a_barrier);
    RUN(all_it_held_is_swept);
    RUN(who_execs_is_dead);
    RUN(a_lost_record_lock_is_only_a_hint);
    RUN(a_child_may_take_its_time);
    RUN(a_child_dies_unborn);
    RUN(soak);
    end();
    return 0;
}
