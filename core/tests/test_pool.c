/* Pools between threads and between processes: batches are taken once, nobody sleeps while there are some, orders and
 * the end are heard, and deaths lose nothing. */
#include "helper.h"

#include <sys/mman.h>

#include "pz/pool.h"

static pz_ref ref;
static pz_pool *pool;

static void make(uint32_t desks)
{
    CHECK(pz_pool_new(&P, &ref) == 0);
    pool = pz_at(&P, ref.offset);
    CHECK(pz_pool_grow(&P, pool, desks) == 0 && pz_peek(&pool->desks) == desks);
}

static void put(uint64_t job)
{
    pz_put open;
    pz_wait wait = forever();
    uint8_t *at;
    int rc;
    STEADY(rc, pz_put_open(&P, &pool->tasks, &open, &wait));
    CHECK(rc == 0 && pz_put_record(&P, &pool->tasks, &open, 1, sizeof(pz_batch), &at) == 0);
    memcpy(at, &(pz_batch){.job = job, .from = 2, .to = 3}, sizeof(pz_batch));
    pz_put_close(&P, &pool->tasks, &open);
    pz_pool_notify(&P, pool);
}

static void takes(void)
{
    pz_memory before = memory();
    make(2);
    pz_desk *desk = pz_desk_at(&P, pool, 0);
    pz_wait wait = forever();
    CHECK(pz_pool_grow(&P, pool, PZ_DESKS_MAX + 1) == -EINVAL && pz_pool_grow(&P, pool, 1) == 0);
    CHECK(pz_pool_take(&P, pool, desk, &wait) == -EAGAIN);
    pz_desk_become(desk, PZ_DESK_IDLE);
    put(7);
    put(8);
    CHECK(pz_pool_take(&P, pool, desk, &wait) == 0 && pz_desk_state(desk) == PZ_DESK_TAKEN);
    CHECK(((pz_batch *)(void *)desk->task)->job == 7 && pz_load(&desk->at) == 2);
    CHECK(desk->length == sizeof(pz_batch) && pz_load(&desk->turn) >> 8 == 1);
    pz_pool_shut(&P, pool);
    CHECK(pz_pool_await(&P, pool, desk, 0, &wait) == 0 && pz_pool_take(&P, pool, desk, &wait) == 0);
    CHECK(pz_pool_take(&P, pool, desk, &wait) == -EPIPE);
    put(9); /* put back after the end; and closed with it in the ring */
    pz_object_close(&P, &ref);
    CHECK(memory().blocks <= before.blocks + 2); /* the ledger */
}

static void cancels(void)
{
    make(1);
    CHECK(!pz_pool_is_cancelled(pool, 1, 0));
    CHECK(pz_pool_cancel(pool, 1, PZ_ALL_CALLS) == 0 && pz_pool_cancel(pool, 1, 5) == 0);
    pz_pool_uncancel(pool, 1, 5); /* the one behind it stays */
    CHECK(pz_pool_is_cancelled(pool, 1, 5));
    pz_pool_uncancel(pool, 1, PZ_ALL_CALLS);
    CHECK(!pz_pool_is_cancelled(pool, 1, 5));
    for (uint32_t i = 0; i < PZ_CANCELS; i++)
        CHECK(pz_pool_cancel(pool, 2, i) == 0 && pz_pool_cancel(pool, 2, i) == 0);
    CHECK(pz_pool_cancel(pool, 3, 0) == -ENOSPC);
    for (uint32_t i = 0; i < PZ_CANCELS; i++)
        pz_pool_uncancel(pool, 2, i);
    CHECK(pz_pool_cancel(pool, 3, 0) == 0 && !pz_pool_is_cancelled(pool, 2, 0));
    pz_object_close(&P, &ref);
}

#define JOBS 4000u
static pz_u32 taken[JOBS + 1];

static void *work(void *argument)
{
    uint32_t rank = (uint32_t)(long)argument;
    pz_desk *desk = pz_desk_at(&P, pool, rank);
    pz_wait wait = forever();
    for (;;) {
        if (pz_load(&desk->orders) & PZ_ORDER_RETIRE)
            return NULL;
        int rc = pz_pool_take(&P, pool, desk, &wait);
        if (rc == -EPIPE)
            return NULL;
        if (rc == 0) {
            pz_add(&taken[((pz_batch *)(void *)desk->task)->job], 1);
            pz_desk_become(desk, PZ_DESK_IDLE);
            pz_wait_init(&wait, PZ_FOREVER);
            continue;
        }
        rc = pz_pool_await(&P, pool, desk, rank * 64, &wait); /* they share a bit */
        CHECK(rc == 0 || rc == -EINTR);
    }
}

static void nothing_is_lost(void)
{
    make(THREADS);
    pthread_t thread[THREADS];
    for (long i = 0; i < THREADS; i++)
        CHECK(pthread_create(&thread[i], NULL, work, (void *)i) == 0);
    for (uint32_t i = 1; i <= JOBS; i++) {
        put(i);
        if (i % 100 == 0)
            while (!pz_ring_is_empty(&pool->tasks))
                usleep(20);
    }
    pz_store(&pz_desk_at(&P, pool, 0)->orders, PZ_ORDER_RETIRE);
    pz_pool_stir(&P, pool);
    CHECK(pthread_join(thread[0], NULL) == 0);
    pz_pool_shut(&P, pool);
    for (int i = 1; i < THREADS; i++)
        CHECK(pthread_join(thread[i], NULL) == 0);
    for (uint32_t i = 1; i <= JOBS; i++)
        CHECK(taken[i] == 1);
    CHECK(pz_peek(&pool->spinning) == 0);
    pz_object_close(&P, &ref);
}

static pz_u32 settled;

static void *settle_first(void *argument)
{
    pz_pool_settle(&P, pool, 0);
    pz_add(&settled, 1);
    return argument;
}

/* Somebody who lives is about to put back what the dead worker's desk was: settle waits for that. */
static void settle_waits_for_a_repair(void)
{
    make(1);
    pz_desk *desk = pz_desk_at(&P, pool, 0);
    pz_ring *tasks = &pool->tasks;
    pz_get repair;
    pz_wait wait = forever();
    pthread_t thread;
    pz_desk_become(desk, PZ_DESK_TAKEN);
    CHECK(pz_get_open(&P, tasks, &repair, &wait) == 0);
    __atomic_store_n(&tasks->j_holder, pz_offset(&P, &desk->turn), __ATOMIC_RELEASE);
    CHECK(pthread_create(&thread, NULL, settle_first, NULL) == 0);
    usleep(70000); /* more than a slice */
    CHECK(pz_load(&settled) == 0);
    pz_desk_become(desk, PZ_DESK_IDLE);
    __atomic_store_n(&tasks->j_holder, 0, __ATOMIC_RELEASE);
    pz_get_close(&P, tasks, &repair, true);
    CHECK(pthread_join(thread, NULL) == 0 && pz_load(&settled) == 1 && pz_peek(&tasks->get_lock) == 0);
    pz_object_close(&P, &ref);
}

/* ---- processes (TSan does not follow them) ---- */

#ifndef __SANITIZE_THREAD__

#define HANDS 6
#define CALLS 5u /* of a batch */
#define KILLS 40u

static struct shared {
    pz_u32 patient; /* sleep until woken: a wake-up that is missing is a test that hangs */
    pz_u32 heard;   /* broadcasts */
    pz_u32 asleep;  /* workers in the futex, nearly */
    pz_u32 met, target; /* a batch does not end before so many have begun */
    pz_u32 begun[JOBS + 1]; /* how often a batch was */
} *shared;

static uint32_t my_rank;

static int shared_wait(pz_u32 *word, uint32_t expected, uint64_t deadline)
{
    bool patient = pz_load(&shared->patient) && word == &pool->turn;
    if (patient)
        pz_add(&shared->asleep, 1);
    int rc = pz_system_ops.futex_wait(word, expected, patient ? PZ_FOREVER : deadline);
    if (patient)
        pz_sub(&shared->asleep, 1);
    return rc;
}

static void report(uint32_t call, uint32_t count)
{
    pz_put open;
    pz_wait wait = forever();
    uint8_t *at;
    int rc;
    STEADY(rc, pz_put_open(&P, &pool->results, &open, &wait));
    CHECK(rc == 0 && pz_put_record(&P, &pool->results, &open, 1, 8, &at) == 0);
    memcpy(at, (uint32_t[]){call, count}, 8);
    pz_put_close(&P, &pool->results, &open);
}

/* Passes on what the desk says has ended: calls [result, result + number). */
static void flush_desk(pz_desk *desk)
{
    uint32_t count = (uint32_t)(pz_load(&desk->results) >> 32), first;
    memcpy(&first, desk->result, sizeof first);
    if (count)
        report(first, count);
    pz_store(&desk->results, 0);
}

static void run_desk(pz_desk *desk)
{
    pz_batch *batch = (pz_batch *)(void *)desk->task;
    pz_add(&shared->begun[batch->job], 1);
    pz_add(&shared->met, 1);
    while (pz_load(&shared->met) < pz_load(&shared->target))
        usleep(20);
    for (uint32_t i = batch->from; i < batch->to; i++) {
        uint32_t call = batch->first + i, count = (uint32_t)(pz_load(&desk->results) >> 32);
        pz_store(&desk->at, i | PZ_RUNNING);
        if (count == 0)
            memcpy(desk->result, &call, sizeof call);
        pz_store(&desk->results, (uint64_t)(count + 1) << 32 | 8);
        pz_store(&desk->at, i + 1);
        if (i % 2)
            flush_desk(desk);
    }
    flush_desk(desk);
}

static void hand(void)
{
    pz_desk *desk = pz_desk_at(&P, pool, my_rank);
    pz_wait wait = forever();
    pz_store(&desk->owner, P.self);
    pz_desk_become(desk, PZ_DESK_IDLE);
    for (;;) {
        uint32_t orders = pz_load(&desk->orders);
        if (orders & PZ_ORDER_BROADCAST) {
            atomic_fetch_and(&desk->orders, ~(uint32_t)PZ_ORDER_BROADCAST);
            pz_add(&shared->heard, 1);
        }
        if (orders & PZ_ORDER_RETIRE)
            break;
        int rc = pz_pool_take(&P, pool, desk, &wait);
        if (rc == -EPIPE)
            break;
        if (rc == 0) {
            run_desk(desk);
            pz_desk_become(desk, PZ_DESK_IDLE);
            pz_wait_init(&wait, PZ_FOREVER);
            continue;
        }
        CHECK(rc == -EAGAIN || rc == -EBUSY);
        rc = pz_pool_await(&P, pool, desk, my_rank, &wait);
        CHECK(rc == 0 || rc == -EINTR);
    }
    pz_desk_become(desk, PZ_DESK_LEFT);
}

static child hire(uint32_t rank)
{
    my_rank = rank;
    return start(hand);
}

static void put_calls(uint32_t job, uint32_t from, uint32_t to)
{
    pz_put open;
    pz_wait wait = forever();
    uint8_t *at;
    int rc;
    STEADY(rc, pz_put_open(&P, &pool->tasks, &open, &wait));
    CHECK(rc == 0 && pz_put_record(&P, &pool->tasks, &open, 1, sizeof(pz_batch), &at) == 0);
    memcpy(at, &(pz_batch){.job = job, .first = (job - 1) * CALLS, .from = from, .to = to}, sizeof(pz_batch));
    pz_put_close(&P, &pool->tasks, &open);
    pz_pool_notify(&P, pool);
}

static uint8_t reported[JOBS * CALLS], excused[JOBS * CALLS];
static uint32_t ended; /* calls of which something is known */

/* Reads the results that are there. */
static void collect(void)
{
    pz_get g;
    pz_wait wait = forever();
    const pz_record *record;
    const uint8_t *payload;
    int rc;
    STEADY(rc, pz_get_open(&P, &pool->results, &g, &wait));
    CHECK(rc == 0);
    while (pz_get_record(&P, &pool->results, &g, &record, &payload) == 0) {
        uint32_t what[2];
        memcpy(what, payload, sizeof what);
        for (uint32_t call = what[0]; call < what[0] + what[1]; call++) {
            CHECK(call < JOBS * CALLS);
            ended += !reported[call] && !excused[call];
            CHECK(++reported[call] <= 2);
        }
    }
    pz_get_close(&P, &pool->results, &g, false);
}

static void collect_until(uint32_t calls)
{
    for (int i = 0; ended < calls; i++) {
        CHECK(i < 200000); /* somebody sleeps while there are tasks, or one is lost */
        collect();
        if (ended < calls)
            usleep(50);
    }
    CHECK(ended == calls);
}

static void begin_hands(bool patient)
{
    make(HANDS);
    memset(shared, 0, sizeof *shared);
    memset(reported, 0, sizeof reported);
    memset(excused, 0, sizeof excused);
    ended = 0;
    pz_store(&shared->patient, patient);
}

/* Nobody wakes by himself here. */
static void everybody_is_woken(void)
{
    begin_hands(true);
    child hands[HANDS];
    uint64_t state = 77;
    uint32_t put_so_far = 0, heard = 0;
    for (uint32_t i = 0; i < HANDS; i++)
        hands[i] = hire(i);
    while (put_so_far < JOBS) {
        uint32_t n = 1 + next_random(&state) % (next_random(&state) % 8 ? 3 : 40);
        for (uint32_t i = 0; i < n && put_so_far < JOBS; i++)
            put_calls(++put_so_far, 0, CALLS);
        uint32_t what = next_random(&state) % 16, rank = next_random(&state) % HANDS;
        if (what == 0) {
            atomic_fetch_or(&pz_desk_at(&P, pool, rank)->orders, PZ_ORDER_BROADCAST);
            pz_pool_stir(&P, pool);
            if (put_so_far < JOBS)
                put_calls(++put_so_far, 0, CALLS);
            heard++;
            until(&shared->heard, heard);
        } else if (what == 1) {
            pz_store(&pz_desk_at(&P, pool, rank)->orders, PZ_ORDER_RETIRE);
            pz_pool_stir(&P, pool);
            finish(hands[rank]);
            CHECK(pz_desk_state(pz_desk_at(&P, pool, rank)) == PZ_DESK_LEFT);
            pz_pool_settle(&P, pool, rank);
            pz_store(&pz_desk_at(&P, pool, rank)->orders, 0);
            hands[rank] = hire(rank);
        }
        if (what >= 8)
            collect_until(put_so_far * CALLS);
        if (what == 15)
            usleep(300); /* they sleep */
    }
    collect_until(JOBS * CALLS);
    pz_pool_shut(&P, pool);
    for (uint32_t i = 0; i < HANDS; i++)
        finish(hands[i]);
    for (uint32_t i = 0; i < JOBS * CALLS; i++)
        CHECK(reported[i] == 1);
    CHECK(pz_peek(&pool->spinning) == 0);
    pz_object_close(&P, &ref);
}

/* As many batches as workers, none of which ends before all have begun: nobody sleeps on while one is there. */
static void everybody_works(void)
{
    begin_hands(true);
    child hands[HANDS];
    uint64_t state = 3;
    for (uint32_t i = 0; i < HANDS; i++)
        hands[i] = hire(i);
    for (uint32_t job = 0, round = 1; round <= 300; round++) {
        pz_store(&shared->target, round * HANDS);
        for (uint32_t i = 0; i < HANDS; i++)
            put_calls(++job, 0, CALLS);
        collect_until(job * CALLS);
        if (round % 2)
            usleep(next_random(&state) % 400);
    }
    pz_pool_shut(&P, pool);
    for (uint32_t i = 0; i < HANDS; i++)
        finish(hands[i]);
    pz_object_close(&P, &ref);
}

/* Who puts counts on a worker that spins; that one finds an order. The sleeper has to be woken by it. */
static void who_obeys_passes_it_on(void)
{
    begin_hands(true);
    child sleeper = hire(1);
    pz_desk *desk = pz_desk_at(&P, pool, 0);
    for (uint32_t i = 1; i <= 50; i++) {
        until(&shared->asleep, 1);
        while (!pz_peek(&pool->asleep))
            usleep(50);
        pz_store(&pool->spinning, 1); /* as if we did */
        put_calls(i, 0, CALLS);
        CHECK(pz_load(&shared->begun[i]) == 0 && pz_ring_items(&pool->tasks) == 1);
        pz_store(&desk->orders, PZ_ORDER_BROADCAST);
        pz_store(&pool->spinning, 0);
        pz_wait wait = forever();
        CHECK(pz_pool_await(&P, pool, desk, 0, &wait) == 0);
        pz_store(&desk->orders, 0);
        collect_until(i * CALLS);
    }
    pz_pool_shut(&P, pool);
    finish(sleeper);
    pz_object_close(&P, &ref);
}

/* What the supervisor does: 1 if a call was lost with its worker. */
static uint32_t bury(uint32_t rank, child c)
{
    pz_desk *desk = pz_desk_at(&P, pool, rank);
    uint32_t was_lost = 0;
    pz_pool_settle(&P, pool, rank);
    flush_desk(desk);
    if (pz_desk_state(desk) == PZ_DESK_TAKEN) {
        pz_batch batch;
        memcpy(&batch, desk->task, sizeof batch);
        uint64_t at = pz_load(&desk->at);
        uint32_t next = (uint32_t)at;
        if (at & PZ_RUNNING) {
            uint32_t call = batch.first + next++;
            ended += !reported[call] && !excused[call];
            excused[call] = 1;
            was_lost = 1;
        }
        if (next < batch.to)
            put_calls((uint32_t)batch.job, next, batch.to);
    }
    pz_desk_become(desk, PZ_DESK_EMPTY);
    pz_slot_bury(&P, c.token);
    return was_lost;
}

/* Workers are killed beside others that live, and that may be about to repair the same. */
static void deaths_lose_nothing(void)
{
    begin_hands(false);
    child hands[HANDS];
    uint64_t state = 5;
    uint32_t put_so_far = 0, lost = 0;
    for (uint32_t i = 0; i < HANDS; i++)
        hands[i] = hire(i);
    for (uint32_t kills = 0; kills < KILLS; kills++) {
        for (uint32_t i = 0; i < JOBS / KILLS; i++)
            put_calls(++put_so_far, 0, CALLS);
        uint32_t rank = next_random(&state) % HANDS;
        usleep(next_random(&state) % 300);
        kill_child(hands[rank]);
        lost += bury(rank, hands[rank]);
        hands[rank] = hire(rank);
        collect();
    }
    collect_until(put_so_far * CALLS);
    pz_pool_shut(&P, pool);
    for (uint32_t i = 0; i < HANDS; i++)
        finish(hands[i]);
    uint32_t twice = 0;
    for (uint32_t i = 0; i < put_so_far * CALLS; i++) {
        CHECK(reported[i] || excused[i]);
        twice += reported[i] == 2;
    }
    CHECK(lost <= KILLS && twice <= KILLS * 2);
    CHECK(pz_ring_is_empty(&pool->tasks) && pz_peek(&pool->spinning) == 0);
    pz_object_close(&P, &ref);
}

static void between_processes(void)
{
    static pz_ops ops;
    ops = pz_system_ops;
    ops.futex_wait = shared_wait;
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
    P.ops = &ops;
    RUN(everybody_is_woken);
    RUN(everybody_works);
    RUN(who_obeys_passes_it_on);
    RUN(deaths_lose_nothing);
    P.ops = &pz_system_ops;
    munmap(shared, sizeof *shared);
}

#else

static void between_processes(void)
{
}

#endif

int main(void)
{
    begin(UINT64_C(64) << 20, NULL);
    RUN(takes);
    RUN(cancels);
    RUN(nothing_is_lost);
    RUN(settle_waits_for_a_repair);
    between_processes();
    end();
    return 0;
}
