/* The message ring between threads: order, bounds, batches, segments, parcels, tasks, pipes. */
#include "helper.h"

static pz_ref queue;
static pz_ring *ring;

static void new_ring(uint64_t max_items, uint32_t flags)
{
    CHECK(pz_ring_new(&P, max_items, flags, &queue) == 0);
    ring = pz_at(&P, queue.offset);
}

static int put(uint64_t value, uint32_t length, pz_wait *wait)
{
    pz_put p;
    uint8_t *at;
    int rc;
    for (;;) {
        STEADY(rc, pz_put_open(&P, ring, &p, wait));
        if (rc < 0)
            return rc;
        rc = pz_put_record(&P, ring, &p, 1, length, &at);
        if (rc == 0)
            for (uint32_t i = 0; i + 8 <= length; i += 8)
                memcpy(at + i, &value, 8);
        pz_put_close(&P, ring, &p);
        if (rc != -EAGAIN || !wait)
            return rc;
        STEADY(rc, pz_ring_wait_room(&P, ring, wait));
        if (rc < 0)
            return rc;
    }
}

static int get(uint64_t *value, uint64_t *parcel, pz_wait *wait)
{
    pz_get g;
    const pz_record *record;
    const uint8_t *at;
    int rc;
    for (;;) {
        STEADY(rc, pz_get_open(&P, ring, &g, wait));
        if (rc < 0)
            return rc;
        rc = pz_get_record(&P, ring, &g, &record, &at);
        if (rc == 0 && record->length >= 8 && g.parcel == 0) {
            memcpy(value, at, 8);
            for (uint32_t i = 8; i + 8 <= record->length; i += 8)
                CHECK(memcmp(at + i, value, 8) == 0);
        }
        pz_get_close(&P, ring, &g, false);
        if (rc == 0) {
            if (parcel)
                *parcel = g.parcel;
            return 0;
        }
        if (!wait)
            return rc;
        STEADY(rc, pz_ring_wait_items(&P, ring, wait));
        if (rc < 0)
            return rc;
    }
}

static void order_and_segments(void)
{
    pz_memory before = memory();
    new_ring(0, 0);
    uint64_t value, state = 5;
    for (uint64_t round = 0; round < 40; round++) {
        uint64_t n = next_random(&state) % 300;
        for (uint64_t i = 0; i < n; i++)
            CHECK(put(i, 8 + next_random(&state) % (i % 9 ? 600 : 16000), NULL) == 0);
        CHECK(pz_ring_items(ring) == n);
        for (uint64_t i = 0; i < n; i++)
            CHECK(get(&value, NULL, NULL) == 0 && value == i);
        CHECK(get(&value, NULL, NULL) == -EAGAIN && pz_ring_is_empty(ring));
        /* At most the segment in use and the spare one stay. */
        CHECK(memory().used - before.used <= 4 * PZ_PAGE);
    }
    for (uint32_t length = 0; length < 40; length++) {
        CHECK(put(7, length, NULL) == 0);
        CHECK(get(&value, NULL, NULL) == 0);
    }
    CHECK(put(1, PZ_INLINE_MAX, NULL) == 0);
    check_valid();
    pz_object_close(&P, &queue);
    check_valid();
    CHECK(memory().blocks <= before.blocks + 2); /* the ledger */
}

static void bounded(void)
{
    new_ring(3, 0);
    uint64_t value;
    for (uint64_t i = 0; i < 3; i++)
        CHECK(put(i, 8, NULL) == 0);
    CHECK(pz_ring_is_full(ring) && put(9, 8, NULL) == -EAGAIN && pz_ring_items(ring) == 3);
    pz_wait wait = within(20 * PZ_MS);
    CHECK(put(9, 8, &wait) == -ETIMEDOUT);
    CHECK(get(&value, NULL, NULL) == 0 && value == 0 && !pz_ring_is_full(ring));
    CHECK(put(3, 8, NULL) == 0 && pz_ring_is_full(ring));
    for (uint64_t i = 1; i < 4; i++)
        CHECK(get(&value, NULL, NULL) == 0 && value == i);
    wait = within(20 * PZ_MS);
    CHECK(get(&value, NULL, &wait) == -ETIMEDOUT);
    pz_object_close(&P, &queue);
}

static void batches(void)
{
    new_ring(50, 0);
    pz_put p;
    pz_get g;
    uint8_t *at;
    const pz_record *record;
    const uint8_t *payload;
    uint64_t sent = 0, got = 0;
    for (int round = 0; round < 500; round++) {
        CHECK(pz_put_open(&P, ring, &p, NULL) == 0);
        while (pz_put_record(&P, ring, &p, 1, 1000, &at) == 0)
            memcpy(at, &sent, 8), sent++;
        CHECK(p.items <= 50);
        pz_put_close(&P, ring, &p);
        CHECK(pz_ring_is_full(ring));
        /* A look that takes nothing. */
        CHECK(pz_get_open(&P, ring, &g, NULL) == 0);
        CHECK(pz_get_record(&P, ring, &g, &record, &payload) == 0);
        pz_get_close(&P, ring, &g, true);
        uint64_t first = got;
        while (pz_ring_items(ring) > 20) {
            CHECK(pz_get_open(&P, ring, &g, NULL) == 0);
            while (g.items < 7 && pz_get_record(&P, ring, &g, &record, &payload) == 0) {
                CHECK(record->length == 1000 && memcmp(payload, &got, 8) == 0);
                got++;
            }
            pz_get_close(&P, ring, &g, false);
        }
        CHECK(got > first);
    }
    CHECK(pz_ring_items(ring) == sent - got);
    pz_object_close(&P, &queue);
}

static void parcels(void)
{
    new_ring(0, 0);
    pz_memory before = memory();
    pz_ref thing, kept;
    pz_lock *lock = object(sizeof(pz_lock), PZ_LOCK, &thing);
    uint64_t parcel, got, value;
    for (int i = 0; i < 20; i++) {
        CHECK(pz_parcel_new(&P, 100000, 2, &parcel) == 0);
        for (int k = 0; k < 2; k++)
            CHECK(pz_parcel_carry(&P, parcel, thing.offset, thing.gen) == 0);
        CHECK(pz_parcel_carry(&P, parcel, thing.offset, thing.gen) == -ENOSPC);
        memset(pz_parcel_data(pz_at(&P, parcel)), i, 100000);
        pz_put p;
        CHECK(pz_put_open(&P, ring, &p, NULL) == 0);
        CHECK(pz_put_parcel(&P, ring, &p, 2, parcel) == 0);
        pz_put_close(&P, ring, &p);
    }
    CHECK(lock->block.refs == 41);
    for (int i = 0; i < 10; i++) {
        CHECK(get(&value, &got, NULL) == 0 && got != 0);
        CHECK(pz_parcel_data(pz_at(&P, got))[99999] == i);
        if (i < 5) {
            pz_parcel_free(&P, got);
        } else {
            CHECK(pz_parcel_keep(&P, got, PZ_BUFFER, &kept) == 0);
            CHECK(pz_parcel_data(pz_at(&P, kept.offset))[0] == i);
            pz_object_close(&P, &kept);
        }
    }
    CHECK(lock->block.refs == 21);
    pz_object_close(&P, &queue); /* with ten in it */
    CHECK(lock->block.refs == 1);
    pz_object_close(&P, &thing);
    CHECK(memory().blocks == before.blocks - 2);
    check_valid();
}

/* ---- many producers and consumers ---- */

#define EACH 4000

static pz_u32 done;
static pz_u64 sum;

static void *produce_or_consume(void *argument)
{
    long me = (long)argument;
    pz_wait wait = forever();
    if (me % 2 == 0) {
        for (uint64_t i = 0; i < EACH; i++)
            CHECK(put((uint64_t)me << 32 | i, 8 + (uint32_t)(i % 50) * 8, &wait) == 0);
        return NULL;
    }
    uint64_t value, last[THREADS] = {0};
    for (uint64_t i = 0; i < EACH; i++) {
        CHECK(get(&value, NULL, &wait) == 0);
        uint64_t from = value >> 32, number = (value & 0xffffffff) + 1;
        CHECK(from < THREADS && number > last[from]); /* in the order of each producer */
        last[from] = number;
        pz_add(&sum, number);
    }
    pz_add(&done, 1);
    return NULL;
}

static void many_to_many(void)
{
    for (uint64_t max_items = 0; max_items <= 10; max_items += 5) {
        new_ring(max_items, 0);
        sum = 0;
        in_threads(produce_or_consume);
        CHECK(pz_ring_is_empty(ring) && pz_ring_items(ring) == 0);
        CHECK(sum == (uint64_t)(THREADS / 2) * EACH * (EACH + 1) / 2);
        pz_object_close(&P, &queue);
    }
}

/* ---- tasks and pipes ---- */

static void tasks(void)
{
    new_ring(0, PZ_RING_JOINABLE);
    uint64_t value;
    uint32_t lost = 9;
    pz_wait wait = within(20 * PZ_MS);
    CHECK(pz_task_done(&P, ring, &wait) == -EPERM);
    CHECK(pz_tasks_join(&P, ring, &wait, &lost) == 0 && lost == 0);
    for (uint64_t i = 0; i < 3; i++)
        CHECK(put(i, 8, NULL) == 0);
    int rc;
    STEADY(rc, pz_tasks_join(&P, ring, &wait, &lost));
    CHECK(rc == -ETIMEDOUT && pz_tasks_unfinished(ring) == 3);
    for (uint64_t i = 0; i < 3; i++) {
        CHECK(get(&value, NULL, NULL) == 0);
        wait = forever();
        CHECK(pz_task_done(&P, ring, &wait) == 0);
    }
    CHECK(pz_tasks_join(&P, ring, &wait, &lost) == 0 && lost == 0);
    pz_object_close(&P, &queue);
}

static void pipe_ends(void)
{
    pz_memory before = memory();
    pz_ref ends[2];
    CHECK(pz_pipe_new(&P, true, ends) == 0);
    pz_pipe_end *a = pz_at(&P, ends[0].offset), *b = pz_at(&P, ends[1].offset);
    CHECK(pz_end_out(&P, a) == pz_end_in(&P, b) && pz_end_out(&P, b) == pz_end_in(&P, a));
    uint64_t value;
    ring = pz_end_out(&P, a);
    CHECK(put(5, 64, NULL) == 0);
    pz_object_close(&P, &ends[0]);
    ring = pz_end_in(&P, b);
    pz_wait wait = forever();
    CHECK(get(&value, NULL, &wait) == 0 && value == 5); /* what was sent is there, then the end */
    CHECK(get(&value, NULL, &wait) == -EPIPE);
    ring = pz_end_out(&P, b);
    CHECK(put(5, 64, &wait) == -EPIPE);
    pz_object_close(&P, &ends[1]);
    CHECK(memory().blocks == before.blocks);
    check_valid();
}

int main(void)
{
    begin(UINT64_C(64) << 20, NULL);
    RUN(order_and_segments);
    RUN(bounded);
    RUN(batches);
    RUN(parcels);
    RUN(many_to_many);
    RUN(tasks);
    RUN(pipe_ends);
    end();
    return 0;
}
