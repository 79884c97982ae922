/* What is proved of the message ring. */
#include "proof.h"

static pz_ref queue, thing; /* a ring, and an object that messages carry */
static pz_ring *ring;
static uint64_t tail0, puts0;
static uint64_t own; /* a parcel of the child */

static pz_lock *the_thing(void)
{
    return pz_at(&P, thing.offset);
}

static void fill(uint8_t *at, uint32_t length)
{
    for (uint32_t i = 0; i < length; i += 8)
        memcpy(at + i, &length, 4);
}

static void put_bytes(uint32_t length)
{
    pz_put put;
    pz_wait wait = forever();
    int rc;
    uint8_t *at;
    while ((rc = pz_put_open(&P, ring, &put, &wait)) == -EINTR)
        ;
    must(rc == 0);
    must(pz_put_record(&P, ring, &put, 1, length, &at) == 0);
    fill(at, length);
    pz_put_close(&P, ring, &put);
}

static void put_own(void)
{
    pz_put put;
    pz_wait wait = forever();
    int rc;
    while ((rc = pz_put_open(&P, ring, &put, &wait)) == -EINTR)
        ;
    must(rc == 0);
    must(pz_put_parcel(&P, ring, &put, 2, own) == 0);
    pz_put_close(&P, ring, &put);
}

static void make_own(void)
{
    must(pz_parcel_new(&P, 1000, 1, &own) == 0);
    must(pz_parcel_carry(&P, own, thing.offset, thing.gen) == 0);
    memset(pz_parcel_data(pz_at(&P, own)), 7, 1000);
}

/* One message if there is one; its parcel stays with the caller. */
static int get_one(uint64_t *parcel)
{
    pz_get get;
    pz_wait wait = forever();
    const pz_record *record;
    const uint8_t *payload;
    int rc;
    while ((rc = pz_get_open(&P, ring, &get, &wait)) == -EINTR)
        ;
    must(rc == 0);
    rc = pz_get_record(&P, ring, &get, &record, &payload);
    if (rc == 0) {
        if (record->type == 1) {
            must(record->flags == 0);
            for (uint32_t i = 0; i < record->length; i += 8)
                must(memcmp(payload + i, &record->length, 4) == 0);
        } else {
            must(record->type == 2 && get.parcel != 0);
        }
    }
    pz_get_close(&P, ring, &get, false);
    if (parcel)
        *parcel = get.parcel;
    return rc;
}

static void free_parcel(uint64_t parcel)
{
    pz_parcel *p = pz_at(&P, parcel);
    must(p->block.kind == PZ_PARCEL && p->count == 1 && p->length == 1000 && pz_parcel_data(p)[999] == 7);
    must(the_thing()->block.gen == thing.gen && the_thing()->block.refs >= 2);
    pz_parcel_free(&P, parcel);
}

static int drain(void)
{
    uint64_t parcel;
    int count = 0;
    while (get_one(&parcel) == 0) {
        count++;
        if (parcel)
            free_parcel(parcel);
    }
    return count;
}

static void make(uint32_t flags)
{
    must(pz_object_new(&P, sizeof(pz_lock), PZ_LOCK, &thing) == 0);
    must(pz_ring_new(&P, 0, flags, &queue) == 0);
    ring = pz_at(&P, queue.offset);
    tail0 = ring->tail;
    puts0 = 0;
}

static void unmake(void)
{
    must(ring->put_lock == 0 && ring->get_lock == 0);
    must(the_thing()->block.refs == 1);
    pz_object_close(&P, &queue);
    pz_object_close(&P, &thing);
}

static void setup_plain(void)
{
    make(0);
}

/* ---- puts: what lies behind the published tail is there, nothing else is ---- */

static void check_put(void)
{
    bool committed = ring->tail != tail0;
    must(committed || !done);
    put_bytes(40);
    must(pz_ring_items(ring) == (committed ? 2 : 1));
    must(drain() == (committed ? 2 : 1));
    must(pz_ring_items(ring) == 0 && ring->put_bytes == ring->got_bytes);
    put_bytes(40);
    must(drain() == 1);
}

static void check_put_unused(void)
{
    /* Nobody comes any more: the ring goes with what is in it. */
}

static void run_put(void)
{
    put_bytes(64);
}

static void setup_jump(void)
{
    make(0);
    put_bytes(3900);
    must(drain() == 1);
    tail0 = ring->tail;
}

static void cycle(void)
{
    for (int i = 0; i < 10; i++) {
        put_bytes(16000);
        must(drain() == 1);
    }
    must(ring->spare != 0);
}

static void setup_jump_spare(void)
{
    make(0);
    cycle();
    while ((ring->tail & 0xfffff) << 3 < 64000) {
        put_bytes(400);
        must(drain() == 1);
    }
    must(ring->spare != 0);
    tail0 = ring->tail;
}

static void run_put_big(void)
{
    put_bytes(2048);
}

static void run_put_batch(void)
{
    pz_put put;
    pz_wait wait = forever();
    uint8_t *at;
    must(pz_put_open(&P, ring, &put, &wait) == 0);
    for (uint32_t i = 0; i < 3; i++) {
        must(pz_put_record(&P, ring, &put, 1, 1600 + i, &at) == 0);
        fill(at, 1600 + i);
    }
    pz_put_close(&P, ring, &put);
}

/* Of a ring with room for three: who waited for room gets in whatever the dead has counted. */
static void setup_bounded(void)
{
    make(0);
    ring->max_items = 3;
}

static void run_put_three(void)
{
    pz_put put;
    pz_wait wait = forever();
    uint8_t *at;
    must(pz_put_open(&P, ring, &put, &wait) == 0);
    for (uint32_t i = 0; i < 3; i++) {
        must(pz_put_record(&P, ring, &put, 1, 16, &at) == 0);
        fill(at, 16);
    }
    pz_put_close(&P, ring, &put);
}

static void check_room(void)
{
    pz_wait wait = forever();
    int rc;
    bool committed = ring->tail != tail0;
    if (committed) {
        must(get_one(NULL) == 0);
    }
    while ((rc = pz_ring_wait_room(&P, ring, &wait)) == -EINTR)
        ;
    must(rc == 0);
    put_bytes(24);
    must(drain() == (committed ? 3 : 1));
}

static void check_put_batch(void)
{
    int expected = ring->tail != tail0 ? 3 : 0;
    must(expected || !done);
    must(drain() == expected);
    must(pz_ring_items(ring) == 0);
    put_bytes(40);
    must(drain() == 1);
}

/* ---- gets: the message is there until the head is published ---- */

static void setup_get(void)
{
    make(0);
    put_bytes(64);
}

static void run_get(void)
{
    must(get_one(NULL) == 0);
}

static void check_get(void)
{
    bool taken = ring->head == ring->tail;
    must(taken || !done);
    must(drain() == (taken ? 0 : 1));
    must(pz_ring_items(ring) == 0 && ring->put_bytes == ring->got_bytes);
    put_bytes(50);
    must(drain() == 1);
}

static void setup_get_jump(void)
{
    setup_jump();
    put_bytes(256);
}

static void setup_get_jump_spare(void)
{
    setup_jump_spare();
    put_bytes(3000);
}

static void setup_get_parcel(void)
{
    make(0);
    make_own();
    put_own();
}

static void run_get_and_free(void)
{
    uint64_t parcel;
    must(get_one(&parcel) == 0);
    pz_parcel_free(&P, parcel);
}

static void run_get_and_keep(void)
{
    uint64_t parcel;
    pz_ref ref;
    must(get_one(&parcel) == 0);
    must(pz_parcel_keep(&P, parcel, PZ_BUFFER, &ref) == 0);
    pz_object_close(&P, &ref);
}

/* ---- repairs, and the repairer is killed ---- */

static void check_drain(void)
{
    put_bytes(24);
    must(drain() >= 1);
    must(pz_ring_items(ring) == 0 && ring->put_bytes == ring->got_bytes);
    put_bytes(24);
    must(drain() == 1);
}

static void run_put_and_get(void)
{
    put_bytes(16);
    uint64_t parcel;
    must(get_one(&parcel) == 0);
    if (parcel)
        pz_parcel_free(&P, parcel);
}

static void run_close_ring(void)
{
    pz_object_close(&P, &queue);
}

/* A ring that only the child holds. */
static void before_last(void)
{
    must(pz_ring_new(&P, 0, 0, &queue) == 0);
    ring = pz_at(&P, queue.offset);
    make_own();
    put_own();
    put_bytes(3900);
    make_own();
    put_own();
}

static void after_last(void)
{
    pz_object_close(&P, &queue);
    must(the_thing()->block.refs == 1);
    pz_object_close(&P, &thing);
}

/* ---- tasks ---- */

static void setup_tasks(void)
{
    make(PZ_RING_JOINABLE);
    put_bytes(64);
}

static int join(void)
{
    pz_wait wait = forever();
    uint32_t lost = 0;
    int rc;
    while ((rc = pz_tasks_join(&P, ring, &wait, &lost)) == -EINTR)
        ;
    must(rc == 0);
    must(pz_tasks_unfinished(ring) == 0);
    return (int)lost;
}

static void task_done(void)
{
    pz_wait wait = forever();
    int rc;
    while ((rc = pz_task_done(&P, ring, &wait)) == -EINTR)
        ;
    must(rc == 0);
}

static void check_tasks(void)
{
    bool taken = ring->head == ring->tail;
    must(taken || !done);
    if (!taken) {
        must(drain() == 1);
        task_done();
    }
    must(join() == (taken ? 1 : 0));
    put_bytes(64);
    must(drain() == 1);
    task_done();
    must(join() == 0);
}

static void before_done(void)
{
    run_get();
}

static void check_done(void)
{
    pz_heap_settle(&P);
    bool counted = ring->done_items == 1;
    must(counted || !done);
    must(join() == (counted ? 0 : 1));
    put_bytes(64);
    must(drain() == 1);
    task_done();
    must(join() == 0);
}

static void run_join(void)
{
    while (get_one(NULL) == 0)
        task_done();
    join();
}

static void check_join(void)
{
    while (drain() > 0)
        task_done();
    int lost = join();
    must(lost == 0 || lost == 1);
    put_bytes(64);
    must(drain() == 1);
    task_done();
    must(join() == 0);
}

static const op put_parcel = {"put a parcel", setup_plain, make_own, put_own, NULL, check_put, unmake, NULL, false};
static const op get_parcel = {"get a parcel", setup_get_parcel, NULL, run_get, NULL, check_get, unmake, NULL, false};
static const op get_tasks = {"get of a joinable", setup_tasks, NULL, run_get, NULL, check_tasks, unmake, NULL, false};
static const op get_jump = {"get, next segment", setup_get_jump, NULL, run_get, NULL, check_get, unmake, NULL, false};
static const op put_jump = {"put, next segment", setup_jump, NULL, run_put_big, NULL, check_put, unmake, NULL, false};
static const op task_is_done = {"task_done", setup_tasks, before_done, task_done, NULL, check_done, unmake, NULL, false};

const op ring_ops[] = {
    {"put", setup_plain, NULL, run_put, NULL, check_put, unmake, NULL, false},
    {"put, batch over segments", setup_plain, NULL, run_put_batch, NULL, check_put_batch, unmake, NULL, false},
    {"put, and room", setup_bounded, NULL, run_put_three, NULL, check_room, unmake, NULL, false},
    {"put, next segment", setup_jump, NULL, run_put_big, NULL, check_put, unmake, NULL, false},
    {"put, recycled segment", setup_jump_spare, NULL, run_put_big, NULL, check_put, unmake, NULL, false},
    {"put a parcel", setup_plain, make_own, put_own, NULL, check_put, unmake, NULL, false},
    {"put a parcel, ring unused", setup_plain, make_own, put_own, NULL, check_put_unused, after_last, NULL, false},
    {"get", setup_get, NULL, run_get, NULL, check_get, unmake, NULL, false},
    {"get, next segment", setup_get_jump, NULL, run_get, NULL, check_get, unmake, NULL, false},
    {"get, segment recycled", setup_get_jump_spare, NULL, run_get, NULL, check_get, unmake, NULL, false},
    {"get a parcel", setup_get_parcel, NULL, run_get, NULL, check_get, unmake, NULL, false},
    {"get a parcel, ring unused", setup_get_parcel, NULL, run_get, NULL, check_put_unused, after_last, NULL, false},
    {"get and free a parcel", setup_get_parcel, NULL, run_get_and_free, NULL, check_get, unmake, NULL, false},
    {"get and keep a parcel", setup_get_parcel, NULL, run_get_and_keep, NULL, check_get, unmake, NULL, false},
    {"close a full ring", setup_plain, before_last, run_close_ring, NULL, check_put_unused, after_last, NULL, false},
    {"get of a joinable", setup_tasks, NULL, run_get, NULL, check_tasks, unmake, NULL, false},
    {"task_done", setup_tasks, before_done, task_done, NULL, check_done, unmake, NULL, false},
    {"join after a death", setup_tasks, NULL, run_join, NULL, check_join, unmake, &get_tasks, false},
    {"join after task_done", setup_tasks, NULL, run_join, NULL, check_join, unmake, &task_is_done, false},
    {"repair a put", setup_plain, NULL, run_put_and_get, NULL, check_drain, unmake, &put_parcel, false},
    {"repair a get", setup_get_parcel, NULL, run_put_and_get, NULL, check_drain, unmake, &get_parcel, false},
    {"repair a segment switch", setup_jump, NULL, run_put_and_get, NULL, check_drain, unmake, &put_jump, false},
    {"repair a segment leaving", setup_get_jump, NULL, run_put_and_get, NULL, check_drain, unmake, &get_jump, false},
    {"close a broken ring", setup_plain, NULL, run_close_ring, NULL, check_put_unused, after_last, &put_parcel, false},
    {NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false},
};
