/* Slots with an injected proof of death: claim, leave, sweep, pids that are used again. No process is started. */
#include "helper.h"

static pid_t dead_pid;
static uint64_t alive_start;

static bool injected_alive(pid_t pid, uint64_t start)
{
    return pid != dead_pid && (alive_start == 0 || start == 0 || start == alive_start);
}

static pz_ops ops;

static void begin_injected(void)
{
    ops = pz_system_ops;
    ops.alive = injected_alive;
    dead_pid = 0;
    alive_start = 0;
    begin(UINT64_C(64) << 20, &ops);
}

/* Another participant in this process: its pid is ours. */
static pz_proc other;

static uint32_t join(bool copy)
{
    uint32_t token;
    CHECK(pz_slot_reserve(&P, copy, &token) == 0);
    other = P;
    CHECK(pz_slot_claim(&other, token) == 0);
    CHECK(pz_owner_life(&P, token) == PZ_ALIVE && pz_owner_pid(&P, token) == getpid());
    return token;
}

static void references_follow_a_fork(void)
{
    begin_injected();
    pz_ref ref, mine;
    pz_lock *lock = object(sizeof(pz_lock), PZ_LOCK, &ref);
    uint32_t token = join(true);
    CHECK(lock->block.refs == 2);
    pz_object_close(&P, &ref);
    CHECK(lock->block.refs == 1);
    uint16_t kind;
    CHECK(pz_object_open(&other, ref.offset, ref.gen, &mine, &kind) == 0 && kind == PZ_LOCK && lock->block.refs == 2);
    pz_object_close(&other, &ref); /* the entry means the same in the copy */
    CHECK(lock->block.refs == 1);
    pz_slot_leave(&other);
    CHECK(pz_object_open(&P, ref.offset, ref.gen, &mine, &kind) == -ESTALE);
    CHECK(pz_owner_life(&P, token) == PZ_DEAD && pz_owner_pid(&P, token) == getpid());
    CHECK(pz_slot_claim(&other, token) == -ESTALE);
    end();
}

static void the_dead_are_swept(void)
{
    begin_injected();
    pz_ref ref;
    pz_lock *lock = object(sizeof(pz_lock), PZ_LOCK, &ref);
    pz_memory before = memory();
    uint32_t token = join(true);
    uint64_t parcel;
    pz_ref own;
    CHECK(pz_object_new(&other, 5000, PZ_EVENT, &own) == 0);
    CHECK(pz_parcel_new(&other, 100000, 1, &parcel) == 0);
    CHECK(pz_parcel_carry(&other, parcel, ref.offset, ref.gen) == 0);
    CHECK(lock->block.refs == 3);
    CHECK(pz_sweep_all(&P) == 0);
    pz_sweep(&P, token);
    CHECK(lock->block.refs == 3); /* it lives */
    dead_pid = getpid();
    CHECK(pz_owner_life(&P, token) == PZ_DEAD);
    CHECK(pz_sweep_all(&P) == 1 && pz_sweep_all(&P) == 0);
    CHECK(lock->block.refs == 1 && memory().blocks == before.blocks && memory().used == before.used);
    dead_pid = 0;
    pz_object_close(&P, &ref);
    end();
}

static void a_pid_is_used_again(void)
{
    begin_injected();
    uint32_t token = join(false);
    CHECK(pz_load(&pz_slot_at(&P, PZ_OWNER_SLOT(token))->start) != 0);
    alive_start = 12345; /* somebody else has our pid now */
    CHECK(pz_owner_life(&P, token) == PZ_DEAD);
    CHECK(pz_owner_life(&P, P.self) == PZ_ALIVE);
    pz_slot_bury(&P, token);
    alive_start = 0;
    end();
}

/* Named after what it guards: a child that comes late to a slot which was swept meanwhile must not touch it. */
static void a_late_claim_harms_nobody(void)
{
    begin_injected();
    uint32_t late, token;
    pz_proc stranger = P;
    CHECK(pz_slot_reserve(&P, false, &late) == 0);
    pz_slot_bury(&P, late);
    /* Its place is taken by the next. */
    P.header->slot_hint = PZ_OWNER_SLOT(late) - 1;
    CHECK(pz_slot_reserve(&P, false, &token) == 0 && PZ_OWNER_SLOT(token) == PZ_OWNER_SLOT(late));
    CHECK(pz_slot_claim(&stranger, late) == -ESTALE);
    other = P;
    CHECK(pz_slot_claim(&other, token) == 0);
    CHECK(pz_slot_claim(&stranger, late) == -ESTALE && pz_slot_claim(&stranger, token) == -ESTALE);
    CHECK(pz_slot_at(&P, PZ_OWNER_SLOT(token))->pid == getpid());
    pz_slot_leave(&other);
    end();
}

static void a_reserved_slot_dies_with_its_parent(void)
{
    begin_injected();
    pz_ref ref;
    pz_lock *lock = object(sizeof(pz_lock), PZ_LOCK, &ref);
    uint32_t token = join(true), grandchild;
    CHECK(pz_slot_reserve(&other, true, &grandchild) == 0 && lock->block.refs == 3);
    CHECK(pz_owner_life(&P, grandchild) == PZ_ALIVE);
    pz_slot_bury(&P, token);
    CHECK(pz_owner_life(&P, grandchild) == PZ_DEAD && pz_sweep_all(&P) == 1 && lock->block.refs == 1);
    pz_object_close(&P, &ref);
    end();
}

static void all_slots(void)
{
    begin_injected();
    static uint32_t token[PZ_SLOTS];
    unsigned n = 0;
    int rc;
    while ((rc = pz_slot_reserve(&P, false, &token[n])) == 0)
        n++;
    CHECK(rc == -EAGAIN && n == PZ_SLOTS - 2);
    for (unsigned i = 0; i < n; i++)
        pz_slot_bury(&P, token[i]);
    CHECK(pz_slot_reserve(&P, false, &token[0]) == 0 && PZ_OWNER_GEN(token[0]) == 1);
    pz_slot_bury(&P, token[0]);
    end();
}

static void a_large_ledger(void)
{
    begin_injected();
    static pz_ref ref[20000];
    pz_memory before = memory();
    for (int i = 0; i < 20000; i++)
        object(sizeof(pz_lock), PZ_LOCK, &ref[i]);
    for (int i = 0; i < 3; i++) {
        join(true);
        CHECK(pz_block_at(&P, ref[19999].offset)->refs == 2);
        pz_slot_leave(&other);
        CHECK(pz_block_at(&P, ref[19999].offset)->refs == 1);
    }
    check_valid();
    for (int i = 0; i < 20000; i++)
        pz_object_close(&P, &ref[i]);
    CHECK(memory().used - before.used < 300000); /* the ledger itself */
    end();
}

static void *hold_and_churn(void *argument)
{
    uint64_t state = 3 + (uint64_t)(long)argument;
    for (int i = 0; i < 60; i++) {
        uint32_t token;
        pz_proc me = other;
        pz_ref ref[60];
        CHECK(pz_slot_reserve(&P, true, &token) == 0);
        CHECK(pz_slot_claim(&me, token) == 0);
        for (int k = 0; k < 60; k++)
            CHECK(pz_object_new(&me, 64 + next_random(&state) % 3000, PZ_EVENT, &ref[k]) == 0);
        for (int k = 0; k < 30; k++)
            pz_object_close(&me, &ref[k]);
        if (i % 2)
            pz_slot_leave(&me);
        else
            pz_slot_bury(&P, token);
    }
    return NULL;
}

static void births_and_deaths_in_threads(void)
{
    begin_injected();
    pz_ref ref;
    object(sizeof(pz_lock), PZ_LOCK, &ref);
    pz_memory before = memory();
    other = P;
    in_threads(hold_and_churn);
    CHECK(memory().blocks == before.blocks && memory().used == before.used);
    pz_object_close(&P, &ref);
    end();
}

int main(void)
{
    RUN(references_follow_a_fork);
    RUN(the_dead_are_swept);
    RUN(a_pid_is_used_again);
    RUN(a_late_claim_harms_nobody);
    RUN(a_reserved_slot_dies_with_its_parent);
    RUN(all_slots);
    RUN(a_large_ledger);
    RUN(births_and_deaths_in_threads);
    return 0;
}
