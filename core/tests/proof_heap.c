/* What is proved of the allocator, references, parcels, slots and sweeping. */
#include "proof.h"

static pz_ref thing, pipe_ends[2];
static uint64_t parcel;
static pz_ref born;
static uint32_t grandchild;

static pz_lock *the_thing(void)
{
    return pz_at(&P, thing.offset);
}

static void setup(void)
{
    must(pz_object_new(&P, sizeof(pz_lock), PZ_LOCK, &thing) == 0);
}

/* The others allocate, open, send and free as if nothing had been. */
static void check(void)
{
    pz_ref one, again;
    uint16_t kind;
    uint64_t big, small;
    must(pz_object_new(&P, 5000, PZ_EVENT, &one) == 0);
    for (uint32_t i = sizeof(pz_block); i < 5000; i++)
        must(((uint8_t *)pz_at(&P, one.offset))[i] == 0);
    must(pz_object_open(&P, thing.offset, thing.gen, &again, &kind) == 0 && kind == PZ_LOCK);
    must(pz_parcel_new(&P, 300000, 1, &big) == 0 && pz_parcel_new(&P, 10, 1, &small) == 0);
    must(pz_parcel_carry(&P, big, one.offset, one.gen) == 0);
    must(pz_parcel_carry(&P, small, thing.offset, thing.gen) == 0);
    pz_object_close(&P, &one);
    must(pz_object_open(&P, one.offset, one.gen, &one, &kind) == 0);
    pz_object_close(&P, &one);
    pz_parcel_free(&P, big);
    must(pz_object_open(&P, one.offset, one.gen, &one, &kind) == -ESTALE);
    pz_parcel_free(&P, small);
    pz_object_close(&P, &again);
}

static void after(void)
{
    must(the_thing()->block.gen == thing.gen && the_thing()->block.refs == 1);
    pz_object_close(&P, &thing);
}

static void run_new(void)
{
    must(pz_object_new(&P, sizeof(pz_lock), PZ_LOCK, &born) == 0);
}

static void run_new_big(void)
{
    must(pz_object_new(&P, 33000, PZ_BUFFER, &born) == 0);
}

/* One of a size that nobody has: a fresh page. */
static void run_new_page(void)
{
    must(pz_object_new(&P, 6000, PZ_EVENT, &born) == 0);
}

static void run_close(void)
{
    pz_object_close(&P, &born);
}

static void run_close_thing(void)
{
    pz_object_close(&P, &thing); /* the fork has the same entry in its copied ledger */
}

static void run_open(void)
{
    uint16_t kind;
    must(pz_object_open(&P, thing.offset, thing.gen, &born, &kind) == 0);
}

static void run_parcel(void)
{
    must(pz_parcel_new(&P, 100, 1, &parcel) == 0);
    must(pz_parcel_carry(&P, parcel, thing.offset, thing.gen) == 0);
}

static void run_parcel_free(void)
{
    pz_parcel_free(&P, parcel);
}

static void before_parcel_big(void)
{
    must(pz_parcel_new(&P, 200000, 1, &parcel) == 0);
    must(pz_parcel_carry(&P, parcel, thing.offset, thing.gen) == 0);
}

static void run_keep(void)
{
    must(pz_parcel_keep(&P, parcel, PZ_BUFFER, &born) == 0);
}

static void run_reserve_memory(void)
{
    must(pz_heap_reserve(&P, 300000) == 0);
}

static void before_trim(void)
{
    must(pz_heap_reserve(&P, 300000) == 0);
}

static void run_trim(void)
{
    pz_heap_trim(&P, 0);
}

static void run_slot(void)
{
    must(pz_slot_reserve(&P, true, &grandchild) == 0);
}

static void run_bury(void)
{
    pz_slot_bury(&P, grandchild);
}

static void run_claim(void)
{
    pz_proc other = P;
    must(pz_slot_claim(&other, grandchild) == 0);
}

static void before_leave(void)
{
    run_new();
    run_parcel();
}

static void run_leave(void)
{
    pz_slot_leave(&P);
}

static void run_sweep(void)
{
    pz_sweep_all(&P);
}

static void run_settle(void)
{
    pz_heap_settle(&P);
    pz_reap(&P);
}

static void run_pipe(void)
{
    must(pz_pipe_new(&P, true, pipe_ends) == 0);
}

static void run_pipe_close(void)
{
    pz_object_close(&P, &pipe_ends[0]);
    pz_object_close(&P, &pipe_ends[1]);
}

static const op holds_much = {"holds much", setup, before_leave, run_parcel, NULL, check, after, NULL, false};
static const op new_page = {"new", setup, NULL, run_new_page, NULL, check, after, NULL, false};
static const op close_last = {"close", setup, run_new, run_close, NULL, check, after, NULL, false};
static const op trims = {"trim", setup, before_trim, run_trim, NULL, check, after, NULL, false};
static const op leaves = {"leave", setup, before_leave, run_leave, NULL, check, after, NULL, false};

const op heap_ops[] = {
    {"object new", setup, NULL, run_new, NULL, check, after, NULL, false},
    {"object new, the first", setup, NULL, run_new, NULL, check, after, NULL, true},
    {"object new, fresh page", setup, NULL, run_new_page, NULL, check, after, NULL, false},
    {"object new, large", setup, NULL, run_new_big, NULL, check, after, NULL, false},
    {"object open", setup, NULL, run_open, NULL, check, after, NULL, true},
    {"object close", setup, NULL, run_close_thing, NULL, check, after, NULL, false},
    {"object close, the last", setup, run_new, run_close, NULL, check, after, NULL, false},
    {"object close, large", setup, run_new_big, run_close, NULL, check, after, NULL, false},
    {"parcel new", setup, NULL, run_parcel, NULL, check, after, NULL, false},
    {"parcel new, large", setup, NULL, before_parcel_big, NULL, check, after, NULL, false},
    {"parcel free", setup, run_parcel, run_parcel_free, NULL, check, after, NULL, false},
    {"parcel free, large", setup, before_parcel_big, run_parcel_free, NULL, check, after, NULL, false},
    {"parcel keep", setup, run_parcel, run_keep, NULL, check, after, NULL, false},
    {"pipe new", setup, NULL, run_pipe, NULL, check, after, NULL, false},
    {"pipe close", setup, run_pipe, run_pipe_close, NULL, check, after, NULL, false},
    {"memory reserve", setup, NULL, run_reserve_memory, NULL, check, after, NULL, false},
    {"memory trim", setup, before_trim, run_trim, NULL, check, after, NULL, false},
    {"slot reserve", setup, NULL, run_slot, NULL, check, after, NULL, false},
    {"slot bury", setup, run_slot, run_bury, NULL, check, after, NULL, false},
    {"slot claim", setup, run_slot, run_claim, NULL, check, after, NULL, false},
    {"slot leave", setup, before_leave, run_leave, NULL, check, after, NULL, false},
    {"sweep", setup, NULL, run_sweep, NULL, check, after, &holds_much, false},
    {"sweep after a leave", setup, NULL, run_sweep, NULL, check, after, &leaves, false},
    {"undo of a new", setup, NULL, run_settle, NULL, check, after, &new_page, false},
    {"undo of a close", setup, NULL, run_settle, NULL, check, after, &close_last, false},
    {"undo of a trim", setup, NULL, run_sweep, NULL, check, after, &trims, false},
    {NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false},
};
