/* What is proved of pools: wherever a worker dies, each call is in the ring, on its desk, or its result is reported. */
#include "proof.h"

#include "pz/pool.h"

#define CALLS 4u /* of a batch */
#define BATCHES 2u

static pz_ref ref;
static pz_pool *pool;

static void put(pz_ring *ring, const void *data, uint32_t length)
{
    pz_put open;
    pz_wait wait = forever();
    uint8_t *at;
    int rc;
    while ((rc = pz_put_open(&P, ring, &open, &wait)) == -EINTR)
        ;
    must(rc == 0 && pz_put_record(&P, ring, &open, 1, length, &at) == 0);
    memcpy(at, data, length);
    pz_put_close(&P, ring, &open);
}

static void make(uint32_t desks)
{
    must(pz_pool_new(&P, &ref) == 0);
    pool = pz_at(&P, ref.offset);
    must(pz_pool_grow(&P, pool, desks) == 0);
}

static void setup(void)
{
    make(3);
    for (uint32_t i = 0; i < BATCHES; i++)
        put(&pool->tasks, &(pz_batch){.job = 1, .first = i * CALLS, .to = CALLS}, sizeof(pz_batch));
}

static void unmake(void)
{
    pz_object_close(&P, &ref);
}

static void sit_at(uint32_t rank)
{
    pz_desk *desk = pz_desk_at(&P, pool, rank);
    pz_store(&desk->owner, P.self);
    pz_desk_become(desk, PZ_DESK_IDLE);
}

static void sit(void)
{
    sit_at(0);
}

static void sit_behind(void)
{
    sit_at(1);
}

static int take(uint32_t rank)
{
    pz_wait wait = forever();
    for (;;) {
        int rc = pz_pool_take(&P, pool, pz_desk_at(&P, pool, rank), &wait);
        if (rc != -EBUSY)
            return rc;
        rc = pz_pool_await(&P, pool, pz_desk_at(&P, pool, rank), rank, &wait);
        must(rc == 0 || rc == -EINTR);
    }
}

static void flush(pz_desk *desk)
{
    uint64_t results = pz_load(&desk->results);
    if (results >> 32)
        put(&pool->results, desk->result, (uint32_t)results);
    PZ_ORDER();
    pz_store(&desk->results, 0);
}

static void run_take(void)
{
    must(take(0) == 0);
}

static void run_take_behind(void)
{
    must(take(1) == 0);
}

/* The last batch: from then on the ring is empty, whoever holds its lock. */
static void before_take_last(void)
{
    sit();
    pz_desk *desk = pz_desk_at(&P, pool, 0);
    must(take(0) == 0);
    memcpy(desk->result, (uint32_t[]){0, 1, 2, 3}, 16);
    pz_store(&desk->results, UINT64_C(4) << 32 | 16);
    pz_store(&desk->at, CALLS);
    pz_desk_become(desk, PZ_DESK_IDLE); /* with results on it: nobody waits for the end of a batch to pass them on */
}

static void run_batch(void)
{
    pz_desk *desk = pz_desk_at(&P, pool, 0);
    must(take(0) == 0);
    pz_batch *batch = (pz_batch *)(void *)desk->task;
    for (uint32_t i = batch->from; i < batch->to; i++) {
        uint32_t call = batch->first + i;
        pz_store(&desk->at, i | PZ_RUNNING);
        uint64_t results = pz_load(&desk->results);
        memcpy(desk->result + (uint32_t)results, &call, sizeof call);
        pz_store(&desk->results, results + sizeof call + (UINT64_C(1) << 32));
        pz_store(&desk->at, i + 1);
        if (i % 2 == 1)
            flush(desk);
    }
    pz_desk_become(desk, PZ_DESK_IDLE);
}

/* ---- what the others find: desks 0 and 1 belong to the dead, desk 2 is ours ---- */

#define MINE 2u

static uint32_t queued[CALLS * BATCHES], reported[CALLS * BATCHES], lost[CALLS * BATCHES];

static void begin_count(void)
{
    memset(queued, 0, sizeof queued);
    memset(reported, 0, sizeof reported);
    memset(lost, 0, sizeof lost);
}

/* Takes what is in the ring; says how that ended. */
static int drain(void)
{
    pz_desk *mine = pz_desk_at(&P, pool, MINE);
    pz_batch batch;
    int rc;
    pz_desk_become(mine, PZ_DESK_IDLE);
    while ((rc = take(MINE)) == 0) {
        memcpy(&batch, mine->task, sizeof batch);
        must(mine->length == sizeof batch && pz_desk_state(mine) == PZ_DESK_TAKEN);
        must(batch.job == 1 && batch.from < batch.to && batch.to == CALLS && pz_load(&mine->at) == batch.from);
        for (uint32_t i = batch.from; i < batch.to; i++)
            queued[batch.first + i]++;
        pz_desk_become(mine, PZ_DESK_IDLE);
    }
    return rc;
}

/* What the supervisor does after a worker's death. */
static void supervise(uint32_t rank)
{
    pz_desk *desk = pz_desk_at(&P, pool, rank);
    pz_pool_settle(&P, pool, rank);
    flush(desk);
    pz_batch batch;
    memcpy(&batch, desk->task, sizeof batch);
    if (pz_desk_state(desk) == PZ_DESK_TAKEN) {
        uint64_t at = pz_load(&desk->at);
        must((uint32_t)at <= batch.to);
        if (at & PZ_RUNNING)
            lost[batch.first + (uint32_t)at]++;
        batch.from = (uint32_t)at + (at & PZ_RUNNING ? 1 : 0);
        if (batch.from < batch.to)
            put(&pool->tasks, &batch, sizeof batch);
    }
    pz_desk_become(desk, PZ_DESK_EMPTY);
}

static void read_reports(void)
{
    pz_get get;
    pz_wait wait = forever();
    const pz_record *record;
    const uint8_t *payload;
    int rc;
    while ((rc = pz_get_open(&P, &pool->results, &get, &wait)) == -EINTR)
        ;
    must(rc == 0);
    while (pz_get_record(&P, &pool->results, &get, &record, &payload) == 0) {
        must(record->length > 0 && record->length % sizeof(uint32_t) == 0);
        for (uint32_t i = 0; i < record->length; i += 4) {
            uint32_t call;
            memcpy(&call, payload + i, sizeof call);
            must(call < CALLS * BATCHES);
            reported[call]++;
        }
    }
    pz_get_close(&P, &pool->results, &get, false);
}

/* Each call is queued, reported (twice at most), or the one that ran; its result counts if it was there. */
static void count(void)
{
    read_reports();
    for (uint32_t i = 0; i < CALLS * BATCHES; i++) {
        must(queued[i] <= 1 && reported[i] <= 2 && lost[i] <= 1);
        must((queued[i] > 0) + (reported[i] > 0 || lost[i]) == 1);
    }
    must(pz_peek(&pool->spinning) == 0 && pz_ring_is_empty(&pool->tasks) && pz_ring_items(&pool->tasks) == 0);
    must(pool->tasks.put_bytes == pool->tasks.got_bytes && pool->results.put_bytes == pool->results.got_bytes);
    must(pool->tasks.get_lock == 0 && pool->tasks.put_lock == 0 && pool->results.put_lock == 0);
    for (uint32_t rank = 0; rank < MINE; rank++) /* nobody puts an old state back later */
        must(pz_desk_state(pz_desk_at(&P, pool, rank)) == PZ_DESK_EMPTY);
}

static void check(void)
{
    begin_count();
    for (uint32_t rank = 0; rank < MINE; rank++)
        supervise(rank);
    must(pz_ring_items(&pool->tasks) <= BATCHES);
    must(drain() == -EAGAIN);
    count();
}

/* The same, but another worker is there before the supervisor; the pool was shut, so it must come to the end. */
static void check_rival(void)
{
    begin_count();
    pz_pool_shut(&P, pool);
    must(drain() == -EPIPE);
    for (uint32_t rank = 0; rank < MINE; rank++)
        supervise(rank);
    must(drain() == -EPIPE);
    count();
}

static void run_settle(void)
{
    pz_pool_settle(&P, pool, 0);
}

static void run_grow(void)
{
    must(pz_pool_grow(&P, pool, 6) == 0);
}

static void check_grow(void)
{
    pz_heap_settle(&P);
    must(pz_peek(&pool->desks) >= 3 && pz_pool_grow(&P, pool, 6) == 0 && pz_peek(&pool->desks) == 6);
    for (uint32_t rank = 0; rank < 6; rank++)
        must(pz_desk_state(pz_desk_at(&P, pool, rank)) == PZ_DESK_EMPTY);
    check();
}

/* A death between its steps leaves both results, which are the same, on the desk and in the ring. */
static void before_flush(void)
{
    sit();
    pz_desk *desk = pz_desk_at(&P, pool, 0);
    must(take(0) == 0);
    memcpy(desk->result, (uint32_t[]){0, 1}, 8);
    pz_store(&desk->at, 2);
    pz_store(&desk->results, UINT64_C(2) << 32 | 8);
}

static void run_flush(void)
{
    flush(pz_desk_at(&P, pool, 0));
}

static void check_flush(void)
{
    check();
    must(reported[0] == reported[1] && reported[0] >= 1 && (!done || reported[0] == 1));
    must(queued[0] + queued[1] == 0 && queued[2] == 1 && queued[3] == 1);
}

static void run_become(void)
{
    pz_desk *desk = pz_desk_at(&P, pool, 0);
    pz_desk_become(desk, PZ_DESK_IDLE);
    pz_desk_become(desk, PZ_DESK_LEFT);
}

static void before_become(void)
{
    before_flush();
    pz_store(&pz_desk_at(&P, pool, 0)->at, CALLS);
    memcpy(pz_desk_at(&P, pool, 0)->result, (uint32_t[]){0, 1, 2, 3}, 16);
    pz_store(&pz_desk_at(&P, pool, 0)->results, UINT64_C(4) << 32 | 16);
}

static void check_become(void)
{
    pz_desk *desk = pz_desk_at(&P, pool, 0);
    must(pz_load(&desk->turn) >> 8 == 1); /* the number of batches stays */
    must(pz_desk_state(desk) == PZ_DESK_TAKEN || pz_desk_state(desk) == PZ_DESK_IDLE ||
         pz_desk_state(desk) == PZ_DESK_LEFT);
    must(!done || pz_desk_state(desk) == PZ_DESK_LEFT);
    check();
}

static void run_cancel(void)
{
    must(pz_pool_cancel(pool, 1, 3) == 0);
    pz_pool_uncancel(pool, 1, 3);
}

static void before_cancel(void)
{
    must(pz_pool_cancel(pool, 7, PZ_ALL_CALLS) == 0);
}

static void check_cancel(void)
{
    must(pz_pool_is_cancelled(pool, 7, 1)); /* what another has entered stays */
    must(!pz_pool_is_cancelled(pool, 1, 2) && !pz_pool_is_cancelled(pool, 2, 3));
    must(!done || !pz_pool_is_cancelled(pool, 1, 3));
    must(pz_pool_cancel(pool, 1, 3) == 0 && pz_pool_is_cancelled(pool, 1, 3));
    pz_pool_uncancel(pool, 1, 3);
    must(!pz_pool_is_cancelled(pool, 1, 3));
    uint32_t room = 0;
    while (pz_pool_cancel(pool, 9, room) == 0)
        room++;
    must(room >= PZ_CANCELS - 2); /* one place is lost at most */
    check();
}

static void nothing(void)
{
}

static void run_life(void)
{
    make(3);
    pz_object_close(&P, &ref);
}

/* With batches and results in it, by the only one who has it. */
static void run_drop(void)
{
    pz_object_close(&P, &ref);
}

static const op taking = {"pool: take", setup, sit, run_take, NULL, check, unmake, NULL, false};
static const op working = {"pool: run a batch", setup, sit, run_batch, NULL, check, unmake, NULL, false};

const op pool_ops[] = {
    {"pool: take", setup, sit, run_take, NULL, check, unmake, NULL, false},
    {"pool: take beside others", setup, sit, run_take, NULL, check_rival, unmake, NULL, false},
    {"pool: take the last", setup, before_take_last, run_take, NULL, check_rival, unmake, NULL, false},
    {"pool: run a batch", setup, sit, run_batch, NULL, check, unmake, NULL, false},
    {"pool: flush", setup, before_flush, run_flush, NULL, check_flush, unmake, NULL, false},
    {"pool: become", setup, before_become, run_become, NULL, check_become, unmake, NULL, false},
    {"pool: settle", setup, NULL, run_settle, NULL, check, unmake, &taking, false},
    {"pool: settle a batch", setup, NULL, run_settle, NULL, check, unmake, &working, false},
    {"pool: take after a death", setup, sit_behind, run_take_behind, NULL, check_rival, unmake, &taking, false},
    {"pool: grow", setup, NULL, run_grow, NULL, check_grow, unmake, NULL, false},
    {"pool: cancel", setup, before_cancel, run_cancel, NULL, check_cancel, unmake, NULL, false},
    {"pool: make and drop", nothing, NULL, run_life, NULL, nothing, nothing, NULL, true},
    {"pool: drop", nothing, setup, run_drop, NULL, nothing, nothing, NULL, false},
    {NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false},
};
