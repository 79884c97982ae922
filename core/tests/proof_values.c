/* What is proved of values: a record is the old or the new one, whoever is killed while it is written; its lock is there
 * and counted, or not there. */
#include "proof.h"

#include "pz/values.h"

#define WORDS 12

static pz_ref ref, lock;

static pz_values *values(void)
{
    return pz_at(&P, ref.offset);
}

static void put(uint64_t mark)
{
    uint64_t record[WORDS];
    for (int i = 0; i < WORDS; i++)
        record[i] = mark * 1000 + (uint64_t)i;
    pz_wait wait = forever();
    while (pz_values_retry(&P, values(), &wait) == -EBUSY)
        pz_values_await(&P, values(), &wait);
    pz_values_write(values(), record);
    pz_values_unlock(&P, values());
}

/* Readers take no lock. */
static uint64_t get(void)
{
    uint64_t record[WORDS];
    must(pz_values_read(values(), record) == 0);
    for (int i = 0; i < WORDS; i++)
        must(record[i] == record[0] + (uint64_t)i);
    return record[0] / 1000;
}

static void setup(void)
{
    pz_shape shape = {"d", 1, 0, 0, 0, WORDS * sizeof(uint64_t), 1};
    must(pz_values_new(&P, &shape, &ref) == 0);
    put(1);
    put(2);
}

static void after(void)
{
    pz_object_close(&P, &ref);
}

static void run_write(void)
{
    put(3);
}

static void check_written(void)
{
    uint64_t found = get();
    must(found == 3 || (found == 2 && !done));
    put(4); /* the other copy, */
    must(get() == 4);
    put(5); /* and this one */
    must(get() == 5);
    must(values()->mutex == 0);
}

static void run_repair(void)
{
    put(6);
}

static void check_repaired(void)
{
    uint64_t found = get();
    must(found == 6 || ((found == 2 || found == 3) && (!done || !corpse)));
    put(7);
    must(get() == 7 && values()->mutex == 0);
}

/* A read by one who is killed disturbs nobody. */
static void run_read(void)
{
    must(get() == 2);
}

static void check_read(void)
{
    must(get() == 2 && values()->mutex == 0);
}

static void run_new(void)
{
    pz_ref mine;
    pz_shape shape = {"d256p", 5, 0, 0, 0, 8 + 256, 1};
    must(pz_values_new(&P, &shape, &mine) == 0);
}

static void run_new_large(void)
{
    pz_ref mine;
    pz_shape shape = {"i", 1, 0, 0, 0, 4, 1000};
    must(pz_values_new(&P, &shape, &mine) == 0);
}

/* As get_lock() does it the first time. */
static void run_lock(void)
{
    must(pz_object_new(&P, sizeof(pz_rlock), PZ_RLOCK, &lock) == 0);
    must(pz_values_set_lock(&P, values(), lock.offset, lock.gen) == 0);
    pz_object_close(&P, &lock);
}

static void check_lock(void)
{
    uint64_t offset;
    uint32_t gen;
    uint16_t kind;
    pz_ref found;
    pz_values_get_lock(&P, values(), &offset, &gen);
    must(offset != 0 || !done);
    if (offset == 0) {
        run_lock();
        pz_values_get_lock(&P, values(), &offset, &gen);
    }
    pz_slot_bury(&P, victim);
    must(pz_object_open(&P, offset, gen, &found, &kind) == 0 && kind == PZ_RLOCK);
    pz_object_close(&P, &found);
}

static void before_close(void)
{
    run_lock();
    pz_ref mine;
    uint16_t kind;
    must(pz_object_open(&P, ref.offset, ref.gen, &mine, &kind) == 0);
}

/* The last handle goes, and the lock with it. */
static void run_close(void)
{
    pz_ref mine;
    pz_shape shape = {"i", 1, 0, 0, 0, 4, 1};
    must(pz_values_new(&P, &shape, &mine) == 0);
    must(pz_object_new(&P, sizeof(pz_rlock), PZ_RLOCK, &lock) == 0);
    must(pz_values_set_lock(&P, pz_at(&P, mine.offset), lock.offset, lock.gen) == 0);
    pz_object_close(&P, &lock);
    pz_object_close(&P, &mine);
}

static const op writes = {"write", setup, NULL, run_write, NULL, check_written, after, NULL, false};

const op values_ops[] = {
    {"values write", setup, NULL, run_write, NULL, check_written, after, NULL, false},
    {"values write, after a death", setup, NULL, run_repair, NULL, check_repaired, after, &writes, false},
    {"values read", setup, NULL, run_read, NULL, check_read, after, NULL, false},
    {"values new", setup, NULL, run_new, NULL, check_read, after, NULL, false},
    {"values new, large", setup, NULL, run_new_large, NULL, check_read, after, NULL, false},
    {"values, the lock", setup, NULL, run_lock, NULL, check_lock, after, NULL, false},
    {"values close, with a lock", setup, before_close, run_close, NULL, check_lock, after, NULL, false},
    {NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false},
};
