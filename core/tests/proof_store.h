/* What the proofs of containers have in common: a store and an object that is a value of it, what is in the store before
 * and after the operation. */
#ifndef PZ_PROOF_STORE_H
#define PZ_PROOF_STORE_H

#include "proof.h"

#include "pz/store.h"

#define PROOF_UNUSED __attribute__((unused))
#define KEYS 1200
#define THING 0xffffffffu /* this value is the object */

static pz_ref ref, thing;
static pz_store *store;

/* What is there before and after the operation: by key (0: nothing), or by place. */
static uint32_t before[KEYS], after_it[KEYS];
static uint32_t count_before, count_after;

static uint8_t bytes[PZ_VALUE_MAX];

/* A value of which every byte says which one it is. */
PROOF_UNUSED static pz_value_in value_of(uint32_t number)
{
    if (number == THING)
        return (pz_value_in){.object = thing.offset, .gen = thing.gen, .type = 70};
    memset(bytes, (int)(number & 255), sizeof bytes);
    return (pz_value_in){.data = bytes, .length = number, .type = 9};
}

PROOF_UNUSED static bool is_value(const pz_value_out *out, uint32_t number)
{
    if (number == THING)
        return out->object == thing.offset && out->type == 70;
    if (out->object || out->length != number)
        return false;
    for (uint32_t i = 0; i < number; i++)
        if (out->bytes[i] != (uint8_t)number)
            return false;
    return true;
}

PROOF_UNUSED static void lock_everything(void)
{
    pz_wait wait = forever();
    pz_shard *busy;
    while (pz_store_lock_all(&P, store, false, &wait, &busy) < 0)
        pz_store_await(&P, store, busy, &wait);
}

PROOF_UNUSED static pz_shard *open_for(uint64_t hash)
{
    pz_wait wait = forever();
    pz_shard *shard;
    while (pz_store_retry(&P, store, hash, true, &wait, &shard) < 0)
        pz_store_await(&P, store, shard, &wait);
    return shard;
}

PROOF_UNUSED static void clear(void)
{
    lock_everything();
    must(pz_store_clear(&P, store) == 0);
    pz_store_unlock_all(&P, store);
    pz_store_sweep(&P, store);
}

PROOF_UNUSED static uint32_t things(const uint32_t *values)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < KEYS; i++)
        n += values[i] == THING;
    return n;
}

PROOF_UNUSED static void start(enum pz_form form, uint64_t most)
{
    must(pz_object_new(&P, sizeof(pz_lock), PZ_LOCK, &thing) == 0);
    must(pz_store_new(&P, form, most, &ref) == 0);
    store = pz_at(&P, ref.offset);
    memset(before, 0, sizeof before);
    count_before = 0;
}

PROOF_UNUSED static void finish(void)
{
    lock_everything();
    must(pz_store_valid(&P, store) == 0);
    pz_store_unlock_all(&P, store);
    pz_object_close(&P, &ref);
    pz_reap(&P);
    must(pz_block_at(&P, thing.offset)->refs == 1);
    pz_object_close(&P, &thing);
}

/* The repair after a death: everything is locked once. */
PROOF_UNUSED static void run_look(void)
{
    lock_everything();
    pz_store_unlock_all(&P, store);
}

#endif
