/* What is proved of shared dicts and sets: after a kill each is as before the operation or as after it, whole; readers without a lock
 * see nothing else; nothing is lost or left. */
#include "proof_store.h"

static pz_key key_of(const uint32_t *number)
{
    pz_key key = {.data = number, .length = sizeof *number, .type = 3};
    key.hash = pz_hash(&P, key.type, key.data, key.length);
    return key;
}

static int put(uint32_t number, uint32_t what)
{
    pz_key key = key_of(&number);
    pz_value_in value = value_of(what);
    int rc;
    do {
        pz_shard *shard = open_for(key.hash);
        rc = pz_dict_put(&P, store, shard, &key, &value);
        pz_store_close(&P, shard);
    } while (rc == -EAGAIN);
    return rc;
}

static int take(uint32_t number)
{
    static pz_value_out out;
    pz_key key = key_of(&number);
    pz_shard *shard = open_for(key.hash);
    int rc = pz_dict_take(&P, store, shard, &key, &out);
    pz_store_close(&P, shard);
    if (rc == 1 && out.opened)
        pz_object_close(&P, &out.ref);
    return rc;
}

static int get(uint32_t number, pz_value_out *out)
{
    pz_key key = key_of(&number);
    int rc = pz_dict_read(&P, store, &key, out);
    if (rc == -EBUSY) {
        pz_shard *shard = open_for(key.hash);
        rc = pz_dict_look(&P, store, shard, &key, out);
        pz_store_close(&P, shard);
    }
    return rc;
}

/* ---- dict --------------------------------------------------------------------------------------------------------- */

static void fill(uint32_t number, uint32_t what)
{
    put(number, what);
    count_before += before[number] == 0;
    before[number] = what;
}

static void setup_some(uint32_t count)
{
    start(PZ_FORM_DICT, UINT64_MAX);
    for (uint32_t i = 0; i < count; i++)
        fill(i, i == 1 ? THING : i == 2 ? 300 : 40);
    memcpy(after_it, before, sizeof before);
    count_after = count_before;
}

static void expect(uint32_t number, uint32_t what)
{
    count_after += (what != 0) - (after_it[number] != 0);
    after_it[number] = what;
}

/* For each operation: the key, and what it is to hold. */
static uint32_t the_key, the_value;

static void setup_put(uint32_t count, uint32_t key, uint32_t value)
{
    setup_some(count);
    the_key = key;
    the_value = value;
    expect(key, value);
}

static void setup_empty(void) { setup_put(0, 0, 40); }
static void setup_new(void) { setup_put(4, 9, 40); }
static void setup_new_thing(void) { setup_put(4, 9, THING); }
static void setup_same_size(void) { setup_put(4, 3, 41); }
static void setup_other_size(void) { setup_put(4, 3, 120); }
static void setup_large(void) { setup_put(4, 3, 4000); }
static void setup_to_thing(void) { setup_put(4, 3, THING); }
static void setup_from_thing(void) { setup_put(4, 1, 40); }
static void setup_full_table(void) { setup_put(5, 9, 40); }
static void setup_take(void) { setup_put(4, 3, 0); }
static void setup_take_middle(void) { setup_put(5, 2, 0); }
static void setup_take_thing(void) { setup_put(4, 1, 0); }

/* As setup_other_size, with cells of that size among the free ones. */
static void setup_free_cells(void)
{
    setup_other_size();
    for (uint32_t i = 10; i < 13; i++)
        put(i, 120);
    for (uint32_t i = 10; i < 13; i++)
        take(i);
}

static void setup_clear(void)
{
    setup_some(6);
    memset(after_it, 0, sizeof after_it);
    count_after = 0;
}

static void run_put(void)
{
    must(put(the_key, the_value) == (before[the_key] == 0));
}

static void run_take(void)
{
    must(take(the_key) == 1);
}

static void run_take_last(void)
{
    uint8_t space[512];
    uint64_t need;
    pz_ref object;
    lock_everything();
    must(pz_dict_take_last(&P, store, (pz_item *)space, sizeof space, &need, &object) == 1);
    pz_store_unlock_all(&P, store);
}

static void check_dict(void)
{
    static pz_value_out out;
    bool is_before = true, is_after = true;
    for (uint32_t i = 0; i < KEYS; i++) {
        if (!before[i] && !after_it[i] && i > 20)
            continue;
        int rc = get(i, &out);
        is_before = is_before && (before[i] ? rc == 1 && is_value(&out, before[i]) : rc == 0);
        is_after = is_after && (after_it[i] ? rc == 1 && is_value(&out, after_it[i]) : rc == 0);
    }
    must(is_after || (is_before && !done));
    /* Everything can be locked, and goes on. */
    lock_everything();
    must(pz_store_valid(&P, store) == 0);
    pz_store_unlock_all(&P, store);
    must(pz_store_count(&P, store) == (is_after ? count_after : count_before));
    for (uint32_t i = KEYS; i < KEYS + 3; i++)
        must(put(i, i == KEYS + 1 ? THING : 60) == 1);
    must(take(KEYS) == 1 && take(KEYS + 1) == 1 && take(KEYS + 2) == 1 && take(KEYS + 1) == 0);
}

static void after_dict(void)
{
    static pz_value_out out;
    uint32_t is_after = 0;
    pz_store_sweep(&P, store); /* a clear may have ended before it did */
    pz_reap(&P);
    for (uint32_t i = 0; i < KEYS && !is_after; i++)
        if (before[i] != after_it[i])
            is_after = after_it[i] ? get(i, &out) == 1 && is_value(&out, after_it[i]) : get(i, &out) == 0;
    must(pz_block_at(&P, thing.offset)->refs == 1 + things(is_after ? after_it : before));
    finish();
}

/* A group: two values are replaced, an object comes, another goes, a key that is not there is removed. */
static void setup_group(void)
{
    setup_some(4);
    expect(3, 120);
    expect(9, THING);
    expect(1, 0);
    expect(0, 41);
}

static void run_group(void)
{
    static const uint32_t keys[] = {3, 9, 1, 0, 15}, values[] = {120, THING, 0, 41, 0};
    int64_t cells[5];
    pz_bulk bulk;
    pz_wait wait = forever();
    pz_shard *busy;
    while (pz_group_begin(&P, store, &wait, &busy) < 0)
        pz_store_await(&P, store, busy, &wait);
    must(pz_bulk_new(&P, pz_bulk_bytes(124) + 2 * pz_bulk_bytes(45) + 2 * pz_bulk_bytes(20), 1, &bulk) == 0);
    for (int i = 0; i < 5; i++) {
        pz_key key = key_of(&keys[i]);
        pz_value_in value = value_of(values[i]);
        must(pz_bulk_add(&P, &bulk, &key, values[i] ? &value : NULL, (uint64_t *)&cells[i]) == 0);
    }
    lock_everything();
    must(pz_dict_commit(&P, store, cells, 5, &bulk) == 0);
    pz_store_unlock_all(&P, store);
    pz_group_end(&P, store);
}

/* ---- compacting -------------------------------------------------------------------------------------------------- */

static void compact(void)
{
    lock_everything();
    must(pz_store_compact(&P, store) == 0);
    pz_store_unlock_all(&P, store);
    pz_store_sweep(&P, store);
}

static void setup_compact(void)
{
    setup_free_cells();
    memcpy(after_it, before, sizeof before);
    count_after = count_before;
}

static void check_same(void)
{
    bool was = done;
    done = false; /* before and after are the same */
    check_dict();
    done = was;
}

/* ---- growing to several shards ------------------------------------------------------------------------------------- */

static void setup_many(uint32_t count)
{
    start(PZ_FORM_SET, UINT64_MAX);
    for (uint32_t i = 0; i < count; i++)
        must(put(i, 1) == 1);
    count_before = count;
}

/* The table of one shard is full for the first time beyond 512 items with 682. */
#define SPLITS 682u

static void setup_split_one(void)
{
    setup_many(SPLITS);
    must(pz_store_shards(store) == 1);
}

static void setup_clear_many(void)
{
    setup_many(SPLITS + 1);
    must(pz_store_shards(store) == PZ_SHARDS);
}

static void run_split(void)
{
    must(put(SPLITS, 1) == 1);
    must(pz_store_shards(store) == PZ_SHARDS);
}

static void check_many(void)
{
    uint32_t found = 0, number;
    for (uint32_t i = 0; i < SPLITS; i += 13) { /* on some keys: there are many boundaries */
        pz_key key = key_of(&i);
        int rc = pz_dict_read(&P, store, &key, NULL);
        if (rc == -EBUSY) {
            pz_shard *shard = open_for(key.hash);
            rc = pz_dict_look(&P, store, shard, &key, NULL);
            pz_store_close(&P, shard);
        }
        must(rc == 1);
    }
    lock_everything();
    must(pz_store_valid(&P, store) == 0);
    for (uint32_t shard = 0; shard < pz_store_shards(store); shard++) {
        uint64_t entry = 0;
        for (pz_item *item; (item = pz_store_walk(&P, store, shard, &entry)); found++) {
            memcpy(&number, item->data, sizeof number);
            must(number <= SPLITS);
        }
    }
    pz_store_unlock_all(&P, store);
    must(found == SPLITS || found == SPLITS + 1);
    must(found == SPLITS + 1 || !done);
    must(put(SPLITS + 1, 5) == 1 && take(SPLITS + 1) == 1);
}

static void check_cleared(void)
{
    uint64_t count = pz_store_count(&P, store), found = 0;
    lock_everything();
    must(pz_store_valid(&P, store) == 0);
    count = pz_store_count(&P, store);
    for (uint32_t shard = 0; shard < pz_store_shards(store); shard++) {
        uint64_t entry = 0;
        while (pz_store_walk(&P, store, shard, &entry))
            found++;
    }
    pz_store_unlock_all(&P, store);
    must(found == count && (count == SPLITS + 1 ? !done || store->bulk == 0 : count == 0));
    must(put(SPLITS + 1, 5) == 1 && take(SPLITS + 1) == 1);
}

static void setup_thing(void)
{
    must(pz_object_new(&P, sizeof(pz_lock), PZ_LOCK, &thing) == 0);
}

/* The child's own: with objects, several chunks, a list of the dead. */
static void before_drop(void)
{
    must(pz_store_new(&P, PZ_FORM_DICT, UINT64_MAX, &ref) == 0);
    store = pz_at(&P, ref.offset);
    for (uint32_t i = 0; i < 9; i++)
        must(put(i, i % 2 ? THING : 500) == 1);
}

static void before_drop_many(void)
{
    must(pz_store_new(&P, PZ_FORM_SET, UINT64_MAX, &ref) == 0);
    store = pz_at(&P, ref.offset);
    for (uint32_t i = 0; i <= SPLITS; i++)
        must(put(i, i % 100 ? 1 : THING) == 1);
}

static void run_drop(void)
{
    pz_object_close(&P, &ref);
}

static void check_nothing(void)
{
}

static void after_drop(void)
{
    pz_reap(&P);
    must(pz_block_at(&P, thing.offset)->refs == 1);
    pz_object_close(&P, &thing);
}

#define DICT(name, setup, run) {name, setup, NULL, run, NULL, check_dict, after_dict, NULL, false}

/* Somebody else's repair is killed too: what it does next is another change of the same place. */
static const op put_first = DICT("put", setup_other_size, run_put);
static const op put_thing_first = DICT("put", setup_to_thing, run_put);
static const op take_first = DICT("take", setup_take_thing, run_take);
static const op group_first = DICT("group", setup_group, run_group);

static void check_repaired(void)
{
    bool was = done;
    done = false;
    check_dict();
    done = was;
}

#define REPAIR(name, setup, first) {name, setup, NULL, run_look, NULL, check_repaired, after_dict, first, false}

const op store_ops[] = {
    DICT("dict: first item", setup_empty, run_put),
    DICT("dict: new key", setup_new, run_put),
    DICT("dict: new key, an object", setup_new_thing, run_put),
    DICT("dict: overwrite", setup_same_size, run_put),
    DICT("dict: replace", setup_other_size, run_put),
    DICT("dict: replace, free cells", setup_free_cells, run_put),
    DICT("dict: replace by a large one", setup_large, run_put),
    DICT("dict: replace by an object", setup_to_thing, run_put),
    DICT("dict: replace an object", setup_from_thing, run_put),
    DICT("dict: grow", setup_full_table, run_put),
    DICT("dict: take the last", setup_take, run_take),
    DICT("dict: take", setup_take_middle, run_take),
    DICT("dict: take an object", setup_take_thing, run_take),
    DICT("dict: popitem", setup_take, run_take_last),
    DICT("dict: clear", setup_clear, clear),
    DICT("dict: group", setup_group, run_group),
    {"dict: compact", setup_compact, NULL, compact, NULL, check_same, after_dict, NULL, false},
    {"set: compact 16 shards", setup_clear_many, NULL, compact, NULL, check_cleared, finish, NULL, false},
    {"dict: drop", setup_thing, before_drop, run_drop, NULL, check_nothing, after_drop, NULL, false},
    {"set: drop 16 shards", setup_thing, before_drop_many, run_drop, NULL, check_nothing, after_drop, NULL, false},
    {"set: 16 shards", setup_split_one, NULL, run_split, NULL, check_many, finish, NULL, false},
    {"set: clear 16 shards", setup_clear_many, NULL, clear, NULL, check_cleared, finish, NULL, false},
    REPAIR("repair of a put", setup_other_size, &put_first),
    REPAIR("repair of a put of an object", setup_to_thing, &put_thing_first),
    REPAIR("repair of a take", setup_take_thing, &take_first),
    REPAIR("repair of a group", setup_group, &group_first),
    {NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false},
};
