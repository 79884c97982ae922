/* What is proved of shared lists and deques: after a kill each is as before the operation or as after it, whole; readers without a lock
 * see nothing else; nothing is lost or left. */
#include "proof_store.h"

static void add(uint32_t what)
{
    pz_value_in value = value_of(what);
    pz_shard *shard = open_for(0);
    must(pz_seq_insert(&P, store, pz_store_count(&P, store), &value) == 0);
    pz_store_close(&P, shard);
    before[count_before++] = what;
}

static uint32_t the_place, the_value;

static void setup_items(uint32_t count, uint64_t most)
{
    start(most == UINT64_MAX ? PZ_FORM_LIST : PZ_FORM_DEQUE, most);
    for (uint32_t i = 0; i < count; i++)
        add(i == 1 ? THING : 20 + i);
    memcpy(after_it, before, sizeof before);
    count_after = count_before;
}

static void setup_insert(uint32_t count, uint32_t place, uint32_t what)
{
    setup_items(count, UINT64_MAX);
    the_place = place;
    the_value = what;
    memmove(after_it + place + 1, after_it + place, (count - place) * sizeof *after_it);
    after_it[place] = what;
    count_after++;
}

static void setup_remove(uint32_t count, uint32_t place)
{
    setup_items(count, UINT64_MAX);
    the_place = place;
    memmove(after_it + place, after_it + place + 1, (count - place - 1) * sizeof *after_it);
    after_it[--count_after] = 0;
}

static void setup_assign(uint32_t place, uint32_t what)
{
    setup_items(5, UINT64_MAX);
    the_place = place;
    the_value = what;
    after_it[place] = what;
}

static void setup_first_item(void) { setup_insert(0, 0, 50); }
static void setup_append(void) { setup_insert(3, 3, 50); }
static void setup_append_thing(void) { setup_insert(3, 3, THING); }
static void setup_append_grow(void) { setup_insert(8, 8, 50); }
static void setup_insert_left(void) { setup_insert(6, 2, 50); }
static void setup_insert_right(void) { setup_insert(6, 4, THING); }
static void setup_insert_far(void) { setup_insert(60, 30, 50); }
static void setup_remove_end(void) { setup_remove(4, 3); }
static void setup_remove_thing(void) { setup_remove(4, 1); }
static void setup_remove_far(void) { setup_remove(60, 30); }
static void setup_assign_same(void) { setup_assign(2, 23); }
static void setup_assign_thing(void) { setup_assign(2, THING); }
static void setup_assign_over_thing(void) { setup_assign(1, 50); }

static void setup_full_deque(void)
{
    setup_items(4, 4);
    the_place = 4;
    the_value = 50;
    memmove(after_it, after_it + 1, 3 * sizeof *after_it);
    after_it[3] = 50;
}

/* The first two items go, among them the object; the others are turned round, and two come, among them the object. */
static void setup_rebuild(void)
{
    static const uint32_t then[] = {25, 24, 23, 22, 50, THING};
    setup_items(6, UINT64_MAX);
    memcpy(after_it, then, sizeof then);
}

static void setup_extend(void)
{
    setup_items(6, UINT64_MAX);
    after_it[6] = 50;
    after_it[7] = THING;
    count_after = 8;
}

static void setup_empty_list(void)
{
    setup_items(6, UINT64_MAX);
    memset(after_it, 0, sizeof after_it);
    count_after = 0;
}

static void run_insert(void)
{
    pz_value_in value = value_of(the_value);
    pz_shard *shard = open_for(0);
    must(pz_seq_insert(&P, store, the_place, &value) == 0);
    pz_store_close(&P, shard);
}

static void run_remove(void)
{
    static pz_value_out out;
    pz_shard *shard = open_for(0);
    must(pz_seq_take(&P, store, the_place, &out) == 1);
    pz_store_close(&P, shard);
}

static void run_assign(void)
{
    pz_value_in value = value_of(the_value);
    pz_shard *shard = open_for(0);
    must(pz_seq_set(&P, store, the_place, &value) == 0);
    pz_store_close(&P, shard);
}

static int64_t two_new(pz_bulk *bulk, int64_t *cells)
{
    pz_value_in value = value_of(50), other;
    uint64_t cell;
    must(pz_bulk_new(&P, pz_bulk_bytes(50) + pz_bulk_bytes(16), 1, bulk) == 0);
    must(pz_bulk_add(&P, bulk, NULL, &value, &cell) == 0);
    cells[0] = (int64_t)cell;
    other = value_of(THING);
    must(pz_bulk_add(&P, bulk, NULL, &other, &cell) == 0);
    cells[1] = (int64_t)cell;
    return 2;
}

static void run_rebuild(void)
{
    int64_t cells[6] = {-6, -5, -4, -3};
    pz_bulk bulk;
    two_new(&bulk, cells + 4);
    pz_shard *shard = open_for(0);
    must(pz_seq_rebuild(&P, store, cells, 6, &bulk) == 0);
    pz_store_close(&P, shard);
}

static void run_extend(void)
{
    int64_t cells[2];
    pz_bulk bulk;
    two_new(&bulk, cells);
    pz_shard *shard = open_for(0);
    must(pz_seq_extend(&P, store, cells, 2, &bulk) == 0);
    pz_store_close(&P, shard);
}

static void check_items(void)
{
    static pz_value_out out;
    bool is_before = true, is_after = true;
    for (uint32_t i = 0; i <= (count_before > count_after ? count_before : count_after); i++) {
        int rc = pz_seq_read(&P, store, i, &out);
        if (rc == -EBUSY) {
            pz_shard *shard = open_for(0);
            rc = pz_seq_look(&P, store, i, &out);
            pz_store_close(&P, shard);
        }
        is_before = is_before && (i < count_before ? rc == 1 && is_value(&out, before[i]) : rc == 0);
        is_after = is_after && (i < count_after ? rc == 1 && is_value(&out, after_it[i]) : rc == 0);
    }
    must(is_after || (is_before && !done));
    pz_shard *shard = open_for(0);
    must(pz_store_count(&P, store) == (is_after ? count_after : count_before));
    pz_value_in value = value_of(THING);
    must(pz_seq_insert(&P, store, 0, &value) == 0);
    must(pz_seq_take(&P, store, store->most == 4 ? -1 : 0, NULL) == 1);
    pz_store_close(&P, shard);
}

static void after_items(void)
{
    clear();
    pz_reap(&P);
    must(pz_block_at(&P, thing.offset)->refs == 1);
    finish();
}

#define LIST(name, setup, run) {name, setup, NULL, run, NULL, check_items, after_items, NULL, false}

static const op rebuild_first = LIST("rebuild", setup_rebuild, run_rebuild);

static void check_repaired(void)
{
    bool was = done;
    done = false;
    check_items();
    done = was;
}

#define REPAIR(name, setup, first) {name, setup, NULL, run_look, NULL, check_repaired, after_items, first, false}

const op sequence_ops[] = {
    LIST("list: first item", setup_first_item, run_insert),
    LIST("list: append", setup_append, run_insert),
    LIST("list: append an object", setup_append_thing, run_insert),
    LIST("list: append, grow", setup_append_grow, run_insert),
    LIST("list: insert at the left", setup_insert_left, run_insert),
    LIST("list: insert at the right", setup_insert_right, run_insert),
    LIST("list: insert far inside", setup_insert_far, run_insert),
    LIST("list: pop", setup_remove_end, run_remove),
    LIST("list: pop an object", setup_remove_thing, run_remove),
    LIST("list: delete far inside", setup_remove_far, run_remove),
    LIST("list: overwrite", setup_assign_same, run_assign),
    LIST("list: set an object", setup_assign_thing, run_assign),
    LIST("list: set over an object", setup_assign_over_thing, run_assign),
    LIST("list: rebuild", setup_rebuild, run_rebuild),
    LIST("list: extend", setup_extend, run_extend),
    LIST("list: clear", setup_empty_list, clear),
    LIST("deque: append to a full one", setup_full_deque, run_insert),
    REPAIR("repair of a rebuild", setup_rebuild, &rebuild_first),
    {NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false},
};
