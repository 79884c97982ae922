/* Containers: against a model, with objects as values, growing and shrinking, from several threads. */
#include "helper.h"

#include "pz/store.h"

#define KEYS 3000

static pz_ref ref;
static pz_store *store;

static void make(enum pz_form form, uint64_t most)
{
    CHECK(pz_store_new(&P, form, most, &ref) == 0);
    store = pz_at(&P, ref.offset);
}

static void lock_everything(void)
{
    pz_wait wait = forever();
    pz_shard *busy;
    while (pz_store_lock_all(&P, store, false, &wait, &busy) < 0)
        pz_store_await(&P, store, busy, &wait);
}

static void unmake(void)
{
    lock_everything();
    CHECK(pz_store_valid(&P, store) == 0);
    pz_store_unlock_all(&P, store);
    pz_object_close(&P, &ref);
}

static pz_key key_of(uint32_t *number)
{
    pz_key key = {.data = number, .length = sizeof *number, .type = 3};
    key.hash = pz_hash(&P, key.type, key.data, key.length);
    return key;
}

static pz_value_in text(const char *bytes, uint32_t length)
{
    return (pz_value_in){.data = bytes, .length = length, .type = 5};
}

static pz_shard *open_for(uint64_t hash)
{
    pz_wait wait = forever();
    pz_shard *shard;
    while (pz_store_retry(&P, store, hash, true, &wait, &shard) < 0)
        pz_store_await(&P, store, shard, &wait);
    return shard;
}

static int put(uint32_t number, const pz_value_in *value)
{
    pz_key key = key_of(&number);
    int rc;
    do {
        pz_shard *shard = open_for(key.hash);
        rc = pz_dict_put(&P, store, shard, &key, value);
        pz_store_close(&P, shard);
    } while (rc == -EAGAIN);
    return rc;
}

static int take(uint32_t number, pz_value_out *out)
{
    pz_key key = key_of(&number);
    pz_shard *shard = open_for(key.hash);
    int rc = pz_dict_take(&P, store, shard, &key, out);
    pz_store_close(&P, shard);
    return rc;
}

static int get(uint32_t number, pz_value_out *out)
{
    pz_key key = key_of(&number);
    int rc = pz_dict_read(&P, store, &key, out);
    CHECK(rc >= 0);
    return rc;
}

static char filler[PZ_VALUE_MAX];

static void test_dict(void)
{
    static uint32_t model[KEYS]; /* length of the value + 1, 0: not there */
    static pz_value_out out;
    uint64_t state = 88172645463325252u, blocks = memory().blocks, used = memory().used, count = 0;
    make(PZ_FORM_DICT, UINT64_MAX);
    memset(filler, 'x', sizeof filler);
    for (uint32_t i = 0; i < 200000; i++) {
        uint32_t number = next_random(&state) % KEYS, what = next_random(&state) % 8;
        uint32_t length = next_random(&state) % 200 + (what == 0 ? next_random(&state) % 3800 : 0);
        if (what < 4) {
            pz_value_in value = text(filler, length);
            filler[0] = (char)number;
            CHECK(put(number, &value) == (model[number] == 0));
            count += model[number] == 0;
            model[number] = length + 1;
        } else if (what < 6) {
            CHECK(get(number, &out) == (model[number] != 0));
            CHECK(!model[number] || out.length == model[number] - 1);
            CHECK(!model[number] || !out.length || out.bytes[0] == (uint8_t)number);
        } else {
            CHECK(take(number, what == 6 ? &out : NULL) == (model[number] != 0));
            count -= model[number] != 0;
            model[number] = 0;
        }
        if (i % 5000 == 0) {
            lock_everything();
            CHECK(pz_store_valid(&P, store) == 0);
            pz_store_unlock_all(&P, store);
            CHECK(pz_store_count(&P, store) == count);
        }
        if (i == 150000) {
            lock_everything();
            CHECK(pz_store_clear(&P, store) == 0);
            pz_store_unlock_all(&P, store);
            pz_store_sweep(&P, store);
            memset(model, 0, sizeof model);
            count = 0;
        }
    }
    CHECK(pz_store_shards(store) == PZ_SHARDS);
    unmake();
    CHECK(memory().blocks == blocks);
    CHECK(memory().used == used);
}

static void test_order(void)
{
    make(PZ_FORM_DICT, UINT64_MAX);
    pz_value_in value = text("v", 1);
    for (uint32_t i = 0; i < 5000; i++)
        put(i, &value);
    for (uint32_t i = 0; i < 5000; i += 3)
        take(i, NULL);
    char space[256];
    uint64_t need;
    pz_ref object;
    for (uint32_t i = 5000; i-- > 0;) {
        if (i % 3 == 0)
            continue;
        lock_everything();
        CHECK(pz_dict_take_last(&P, store, (pz_item *)space, 8, &need, &object) == -ENOBUFS);
        CHECK(pz_dict_take_last(&P, store, (pz_item *)space, sizeof space, &need, &object) == 1);
        pz_store_unlock_all(&P, store);
        CHECK(memcmp(((pz_item *)space)->data, &i, sizeof i) == 0);
    }
    CHECK(pz_store_count(&P, store) == 0);
    unmake();
}

static void test_objects(void)
{
    static pz_value_out out;
    uint64_t blocks = memory().blocks;
    make(PZ_FORM_DICT, UINT64_MAX);
    for (uint32_t i = 0; i < 3000; i++) {
        pz_ref lock;
        object(sizeof(pz_lock), PZ_LOCK, &lock);
        pz_value_in value = {.object = lock.offset, .gen = lock.gen, .type = 20};
        CHECK(put(i % 2000, &value) >= 0);
        pz_object_close(&P, &lock);
    }
    pz_value_in gone = {.object = ref.offset, .gen = ref.gen + 1, .type = 20};
    CHECK(put(1, &gone) == -ESTALE);
    CHECK(take(1, &out) == 1 && out.opened && pz_block_at(&P, out.ref.offset)->refs == 1);
    pz_object_close(&P, &out.ref);
    for (uint32_t i = 0; i < 500; i++)
        CHECK(take(i, NULL) == (i != 1));
    lock_everything();
    CHECK(pz_store_clear(&P, store) == 0);
    pz_store_unlock_all(&P, store);
    pz_store_sweep(&P, store);
    pz_reap(&P);
    pz_ref lock;
    object(sizeof(pz_lock), PZ_LOCK, &lock);
    pz_value_in value = {.object = lock.offset, .gen = lock.gen, .type = 20};
    put(7, &value);
    put(8, &value);
    CHECK(pz_block_at(&P, lock.offset)->refs == 3);
    unmake();
    CHECK(pz_block_at(&P, lock.offset)->refs == 1);
    pz_object_close(&P, &lock);
    CHECK(memory().blocks == blocks);
}

/* ---- sequences --------------------------------------------------------------------------------------------------- */

#define ITEMS 4000
static uint32_t model[ITEMS + 8];
static uint32_t items;

static void check_sequence(void)
{
    static pz_value_out out;
    CHECK(pz_store_count(&P, store) == items);
    for (uint32_t i = 0; i < items; i++) {
        CHECK(pz_seq_read(&P, store, i, &out) == 1 && out.length == 4);
        CHECK(memcmp(out.bytes, &model[i], 4) == 0);
    }
    CHECK(pz_seq_read(&P, store, items, &out) == 0);
    CHECK(pz_seq_read(&P, store, -(int64_t)items - 1, &out) == 0);
    lock_everything();
    CHECK(pz_store_valid(&P, store) == 0);
    pz_store_unlock_all(&P, store);
}

static void test_sequence(void)
{
    static int64_t cells[ITEMS + 8];
    uint64_t state = 362436069u, blocks = memory().blocks;
    make(PZ_FORM_LIST, UINT64_MAX);
    for (uint32_t step = 0; step < 30000; step++) {
        uint32_t what = next_random(&state) % 16, value = next_random(&state);
        uint32_t at = items ? next_random(&state) % items : 0;
        if (what % 4 == 0)
            at = next_random(&state) % 2 && items ? items - 1 : 0;
        pz_value_in in = {.data = &value, .length = 4, .type = 3};
        pz_shard *shard = open_for(0);
        if (what < 8 && items < ITEMS) {
            at = what < 4 ? items : at;
            CHECK(pz_seq_insert(&P, store, at, &in) == 0);
            memmove(model + at + 1, model + at, (items - at) * 4);
            model[at] = value;
            items++;
        } else if (what < 11 && items) {
            CHECK(pz_seq_set(&P, store, (int64_t)at - items, &in) == 0);
            model[at] = value;
        } else if (what < 15) {
            CHECK(pz_seq_take(&P, store, at, NULL) == (items > 0));
            if (items) {
                memmove(model + at, model + at + 1, (items - at - 1) * 4);
                items--;
            }
        } else if (next_random(&state) % 20 == 0) {
            /* every third one goes, the others are turned round, and five come */
            pz_bulk bulk;
            uint32_t n = 0, old[ITEMS];
            uint64_t cell;
            memcpy(old, model, items * 4);
            CHECK(pz_bulk_new(&P, 5 * pz_bulk_bytes(4), 0, &bulk) == 0);
            for (uint32_t i = items; i-- > 0;)
                if (i % 3) {
                    model[n] = old[i];
                    cells[n++] = -1 - (int64_t)i;
                }
            for (uint32_t i = 0; i < 5; i++) {
                CHECK(pz_bulk_add(&P, &bulk, NULL, &in, &cell) == 0);
                model[n] = value;
                cells[n++] = (int64_t)cell;
            }
            CHECK(pz_seq_rebuild(&P, store, cells, n, &bulk) == 0);
            items = n;
        }
        pz_store_close(&P, shard);
        if (step % 1000 == 0)
            check_sequence();
    }
    check_sequence();
    unmake();
    CHECK(memory().blocks == blocks);
}

static void test_deque(void)
{
    static pz_value_out out;
    make(PZ_FORM_DEQUE, 10);
    pz_shard *shard = open_for(0);
    for (uint32_t i = 0; i < 1000; i++) {
        pz_value_in in = {.data = &i, .length = 4, .type = 3};
        CHECK(pz_seq_insert(&P, store, i < 500 ? pz_store_count(&P, store) : 0, &in) == 0);
        CHECK(pz_store_count(&P, store) == (i < 10 ? i + 1 : 10));
        CHECK(pz_seq_look(&P, store, i < 500 ? -1 : 0, &out) == 1 && memcmp(out.bytes, &i, 4) == 0);
        if (i >= 10)
            CHECK(pz_seq_insert(&P, store, 5, &in) == -EXFULL);
    }
    pz_store_close(&P, shard);
    unmake();
}

static void test_bulk_objects(void)
{
    uint64_t blocks = memory().blocks;
    int64_t cells[50];
    pz_ref lock;
    pz_bulk bulk;
    make(PZ_FORM_LIST, UINT64_MAX);
    object(sizeof(pz_lock), PZ_LOCK, &lock);
    pz_value_in value = {.object = lock.offset, .gen = lock.gen, .type = 20};
    for (int round = 0; round < 3; round++) {
        CHECK(pz_bulk_new(&P, 50 * pz_bulk_bytes(sizeof(pz_item_object)), 50, &bulk) == 0);
        for (int i = 0; i < 50; i++)
            CHECK(pz_bulk_add(&P, &bulk, NULL, &value, (uint64_t *)&cells[i]) == 0);
        CHECK(pz_block_at(&P, lock.offset)->refs == (round ? 101u : 51u));
        pz_shard *shard = open_for(0);
        CHECK((round ? pz_seq_rebuild : pz_seq_extend)(&P, store, cells, 50, &bulk) == 0);
        pz_store_close(&P, shard);
        CHECK(pz_block_at(&P, lock.offset)->refs == 51);
    }
    unmake();
    CHECK(pz_block_at(&P, lock.offset)->refs == 1);
    pz_object_close(&P, &lock);
    CHECK(memory().blocks == blocks);
}

/* ---- groups ------------------------------------------------------------------------------------------------------- */

static void test_groups(void)
{
    static pz_value_out out;
    static uint32_t present[KEYS];
    uint32_t compacted = 0;
    uint64_t state = 521288629u, blocks = memory().blocks, count = 0;
    make(PZ_FORM_DICT, UINT64_MAX);
    for (uint32_t round = 0; round < 300; round++) {
        int64_t cells[40];
        uint32_t keys[40];
        pz_bulk bulk;
        pz_wait wait = forever();
        pz_shard *shard;
        CHECK(pz_group_begin(&P, store, &wait, &shard) == 0);
        CHECK(pz_store_retry(&P, store, 0, true, &wait, &shard) == -EBUSY);
        CHECK(pz_store_retry(&P, store, 0, false, &wait, &shard) == 0);
        pz_store_close(&P, shard);
        CHECK(pz_store_lock_all(&P, store, true, &wait, &shard) == -EBUSY && shard == NULL);
        CHECK(pz_bulk_new(&P, 40 * pz_bulk_bytes(104), 0, &bulk) == 0);
        for (uint32_t i = 0; i < 40; i++) {
            keys[i] = next_random(&state) % KEYS;
            pz_key key = key_of(&keys[i]);
            pz_value_in value = text(filler, round % 100);
            bool removes = next_random(&state) % 4 == 0;
            CHECK(pz_bulk_add(&P, &bulk, &key, removes ? NULL : &value, (uint64_t *)&cells[i]) == 0);
            count += !removes - (uint64_t)(present[keys[i]] != 0);
            present[keys[i]] = removes ? 0 : round % 100 + 1;
        }
        lock_everything();
        CHECK(pz_dict_commit(&P, store, cells, 40, &bulk) == 0);
        CHECK(pz_store_valid(&P, store) == 0);
        if (pz_store_is_bulky(&P, store))
            CHECK(pz_store_compact(&P, store) == 0 && !pz_store_is_bulky(&P, store) && ++compacted);
        CHECK(pz_store_valid(&P, store) == 0);
        pz_store_unlock_all(&P, store);
        pz_store_sweep(&P, store);
        pz_group_end(&P, store);
        CHECK(pz_store_count(&P, store) == count);
        if (round % 10 == 0)
            for (uint32_t i = 0; i < KEYS; i++) {
                CHECK(get(i, &out) == (present[i] != 0));
                CHECK(!present[i] || out.length == present[i] - 1);
            }
    }
    CHECK(pz_store_shards(store) == 1 && count > 2000 && compacted > 3);
    unmake();
    CHECK(memory().blocks == blocks);
}

/* ---- threads: all of one process, so a lock is not theirs but the process's: each has a shard lock of its own ------- */

static pz_u32 stop, reads;

static void *reader(void *arg)
{
    static pz_value_out outs[THREADS];
    pz_value_out *out = &outs[(long)arg];
    while (!pz_load(&stop)) {
        for (uint32_t number = 0; number < 8; number++) {
            pz_key key = key_of(&number);
            if (pz_dict_read(&P, store, &key, out) != 1)
                continue;
            for (uint32_t i = 1; i < out->length; i++) /* never torn */
                CHECK(out->bytes[i] == out->bytes[0]);
            CHECK(out->length == (out->bytes[0] & 127u) + 1);
        }
        pz_add(&reads, 1);
    }
    return NULL;
}

static void test_readers(void)
{
    pthread_t thread[2];
    char bytes[256];
    make(PZ_FORM_DICT, UINT64_MAX);
    for (long i = 0; i < 2; i++)
        CHECK(pthread_create(&thread[i], NULL, reader, (void *)i) == 0);
    for (uint32_t i = 0; pz_load(&reads) < 3000 || i < 20000; i++) {
        memset(bytes, (int)(i & 255), sizeof bytes);
        pz_value_in value = text(bytes, (i & 127) + 1);
        put(i % 8, &value);
        if (i % 7 == 0)
            take(i % 8, NULL);
        if (i % 5000 == 0) {
            lock_everything();
            pz_store_clear(&P, store);
            pz_store_unlock_all(&P, store);
        }
    }
    pz_store(&stop, 1);
    for (int i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
    unmake();
}

int main(void)
{
    begin(0, NULL);
    make(PZ_FORM_LIST, 0); /* this process's ledger stays */
    unmake();
    RUN(test_dict);
    RUN(test_order);
    RUN(test_objects);
    RUN(test_sequence);
    RUN(test_deque);
    RUN(test_bulk_objects);
    RUN(test_groups);
    RUN(test_readers);
    end();
    return 0;
}
