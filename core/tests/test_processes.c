/* Several processes at work on one arena, all of which end well. */
#include <fcntl.h>

#include "helper.h"

static pz_ref queue, result;
static pz_ring *ring;
static pz_u64 *sum;

#define EACH 20000

static void produce(void)
{
    pz_wait wait = forever();
    int rc;
    for (uint64_t i = 1; i <= EACH; i++) {
        pz_put p;
        uint8_t *at;
        for (;;) {
            STEADY(rc, pz_put_open(&P, ring, &p, &wait));
            CHECK(rc == 0);
            rc = pz_put_record(&P, ring, &p, 1, 8 + (uint32_t)(i % 90) * 4, &at);
            if (rc == 0)
                memcpy(at, &i, 8);
            pz_put_close(&P, ring, &p);
            if (rc == 0)
                break;
            CHECK(rc == -EAGAIN);
            STEADY(rc, pz_ring_wait_room(&P, ring, &wait));
            CHECK(rc == 0);
        }
    }
}

static void consume(void)
{
    pz_wait wait = forever();
    int rc;
    for (uint64_t n = 0; n < EACH;) {
        pz_get g;
        const pz_record *record;
        const uint8_t *payload;
        uint64_t value, batch = 0;
        STEADY(rc, pz_get_open(&P, ring, &g, &wait));
        CHECK(rc == 0);
        while (n + g.items < EACH && g.items < 8 && pz_get_record(&P, ring, &g, &record, &payload) == 0) {
            memcpy(&value, payload, 8);
            batch += value;
        }
        n += g.items;
        uint64_t got = g.items;
        pz_get_close(&P, ring, &g, false);
        pz_add(sum, batch);
        if (got == 0 && n < EACH) {
            STEADY(rc, pz_ring_wait_items(&P, ring, &wait));
            CHECK(rc == 0);
        }
    }
}

static void many_to_many(void)
{
    sum = (pz_u64 *)((pz_block *)object(64, PZ_EVENT, &result) + 1);
    for (uint64_t max_items = 0; max_items <= 40; max_items += 20) {
        CHECK(pz_ring_new(&P, max_items, 0, &queue) == 0);
        ring = pz_at(&P, queue.offset);
        pz_store(sum, 0);
        child c[6];
        for (int i = 0; i < 6; i++)
            c[i] = start(i % 2 ? consume : produce);
        for (int i = 0; i < 6; i++)
            finish(c[i]);
        CHECK(pz_ring_is_empty(ring) && pz_ring_items(ring) == 0);
        CHECK(pz_load(sum) == UINT64_C(3) * EACH * (EACH + 1) / 2);
        pz_object_close(&P, &queue);
        check_valid();
    }
    pz_object_close(&P, &result);
}

static void just_put(void)
{
    produce();
}

/* Who exits right after its put loses nothing. */
static void what_was_put_stays(void)
{
    CHECK(pz_ring_new(&P, 0, 0, &queue) == 0);
    ring = pz_at(&P, queue.offset);
    finish(start(just_put));
    CHECK(pz_ring_items(ring) == EACH);
    pz_object_close(&P, &queue);
    check_valid();
}

/* ---- leaving with a long ledger while others allocate: the lock of one that leaves is not a dead one's ---- */

static void churn(void)
{
    uint64_t state = (uint64_t)getpid() + 1;
    static pz_ref ref[4000];
    for (int i = 0; i < 4000; i++)
        object(64 + next_random(&state) % 400, PZ_EVENT, &ref[i]);
}

static void leaving_is_not_dying(void)
{
    pz_memory before = memory();
    for (int round = 0; round < 15; round++) {
        child c[3];
        for (int i = 0; i < 3; i++)
            c[i] = start(churn);
        for (int i = 0; i < 3; i++)
            finish(c[i]);
        check_valid();
    }
    CHECK(memory().blocks == before.blocks && memory().used == before.used && P.heap->repairs == 0);
}

/* ---- pipes ---- */

static pz_ref ends[2];

static void write_some(void)
{
    pz_object_close(&P, &ends[0]);
    ring = pz_end_out(&P, pz_at(&P, ends[1].offset));
    for (uint64_t i = 0; i < 10; i++) {
        pz_put p;
        pz_wait wait = forever();
        uint8_t *at;
        CHECK(pz_put_open(&P, ring, &p, &wait) == 0);
        CHECK(pz_put_record(&P, ring, &p, 1, 8, &at) == 0);
        memcpy(at, &i, 8);
        pz_put_close(&P, ring, &p);
    }
}

static void write_and_die(void)
{
    write_some();
    raise(SIGKILL);
}

/* All that was sent, then the end, whether the writer left or was killed and nobody has buried it. */
static void the_end_of_a_pipe(void)
{
    pz_memory before = memory();
    for (int killed = 0; killed < 2; killed++) {
        CHECK(pz_pipe_new(&P, false, ends) == 0);
        child c = start(killed ? write_and_die : write_some);
        pz_object_close(&P, &ends[1]);
        ring = pz_end_in(&P, pz_at(&P, ends[0].offset));
        uint64_t expected = 0;
        pz_wait wait = within(20 * PZ_SECOND);
        int rc;
        for (;;) {
            STEADY(rc, pz_ring_wait_items(&P, ring, &wait));
            if (rc == -EPIPE)
                break;
            CHECK(rc == 0);
            pz_get g;
            const pz_record *record;
            const uint8_t *payload;
            STEADY(rc, pz_get_open(&P, ring, &g, &wait));
            CHECK(rc == 0 && pz_get_record(&P, ring, &g, &record, &payload) == 0);
            CHECK(memcmp(payload, &expected, 8) == 0);
            expected++;
            pz_get_close(&P, ring, &g, false);
        }
        CHECK(expected == 10);
        waitpid(c.pid, NULL, 0);
        pz_slot_bury(&P, c.token);
        pz_object_close(&P, &ends[0]);
        check_valid();
        CHECK(memory().blocks == before.blocks);
    }
}

/* ---- a process that was not forked maps the arena anew ---- */

static void mapped_anew(void)
{
    pz_ref ref;
    pz_lock *lock = object(sizeof(pz_lock), PZ_LOCK, &ref);
    uint32_t token;
    CHECK(pz_lock_try(&P, lock) == 0);
    CHECK(pz_slot_reserve(&P, false, &token) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        pz_proc mine;
        int fd = dup(P.fd);
        pz_arena_unmap(&P);
        CHECK(pz_arena_map(&mine, fd, NULL) == 0 && pz_slot_claim(&mine, token) == 0);
        pz_ref opened;
        uint16_t kind;
        CHECK(pz_object_open(&mine, ref.offset, ref.gen, &opened, &kind) == 0);
        CHECK(pz_lock_try(&mine, pz_at(&mine, opened.offset)) == -EBUSY);
        pz_object_close(&mine, &opened);
        pz_slot_leave(&mine);
        pz_arena_unmap(&mine);
        int other = open("/dev/zero", O_RDWR | O_CLOEXEC);
        CHECK(pz_arena_map(&mine, other, NULL) == -EPROTO);
        _exit(0);
    }
    finish((child){pid, token});
    pz_object_close(&P, &ref);
    check_valid();
}

int main(void)
{
    begin(UINT64_C(256) << 20, NULL);
    RUN(many_to_many);
    RUN(what_was_put_stays);
    RUN(leaving_is_not_dying);
    RUN(the_end_of_a_pipe);
    RUN(mapped_anew);
    end();
    return 0;
}
