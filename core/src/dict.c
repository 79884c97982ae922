/* Hashed stores: dict, set, namespace. See store.h.
 *
 *   table    words: entries in the order of insertion: 24 bits of the hash, place of the cell; 0: removed
 *            index: for each slot the number of an entry + 1, or EMPTY, or DELETED; linear probing
 *
 * As in CPython's dict, but that an entry is one word, so that replacing a value is one store.
 */
#include "cells.h"
#include "store_parts.h"

#define LOG_MIN 3u
#define LOG_MAX 30u
#define SPLIT_AT 512u /* items from which on a store has 16 shards */
#define TRIES 200u

typedef struct place {
    uint64_t cell;  /* 0: not there */
    uint64_t entry; /* its number */
    uint64_t slot;  /* of the index: where it is, or where it would go; UINT64_MAX: nowhere */
} place;

static pz_u32 *index_of(pz_table *table, unsigned log)
{
    return (pz_u32 *)(table->words + pz_table_room(log));
}

static uint64_t table_bytes(unsigned log)
{
    return sizeof(pz_table) + pz_table_room(log) * sizeof(uint64_t) + (sizeof(uint32_t) << log);
}

static uint64_t entry_word(uint64_t hash, uint64_t cell)
{
    return hash >> 40 << PZ_ENTRY_TAG | cell >> 4;
}

/* Where the search begins. The upper bits of the hash, which stand in the entry too, so that a table can be made anew
 * without a look at the cells; in very large ones the lower bits, which stand in the cell. */
static uint64_t home(uint64_t tag, uint32_t low, unsigned log)
{
    return (log <= 20 ? tag : low) & ((UINT64_C(1) << log) - 1);
}

/* 1 found, 0 not there, -EBUSY: what lies there is no table, as a reader without the lock may find. */
PZ_RACY static int probe(const pz_proc *proc, uint64_t word, const pz_key *key, place *at)
{
    unsigned log = word & PZ_LOG_MASK;
    uint64_t offset = word & ~PZ_LOG_MASK, room = pz_table_room(log), mask = (UINT64_C(1) << log) - 1;
    at->cell = 0;
    at->slot = UINT64_MAX;
    if (!offset)
        return 0;
    if (log > LOG_MAX || offset + table_bytes(log) > proc->size)
        return -EBUSY;
    pz_table *table = pz_at(proc, offset);
    pz_u32 *index = index_of(table, log);
    uint64_t tag = key->hash >> 40, slot = home(tag, (uint32_t)key->hash, log);
    for (uint64_t n = 0; n <= mask; n++, slot = (slot + 1) & mask) {
        uint32_t e = pz_peek(&index[slot]);
        if (e == PZ_INDEX_EMPTY || e == PZ_INDEX_DELETED) {
            if (at->slot == UINT64_MAX)
                at->slot = slot;
            if (e == PZ_INDEX_EMPTY)
                return 0;
            continue;
        }
        if (e > room)
            return -EBUSY;
        uint64_t entry = *(volatile uint64_t *)&table->words[e - 1];
        if (entry >> PZ_ENTRY_TAG != tag)
            continue;
        uint64_t cell = pz_entry_place(entry);
        if (cell == 0 || cell + sizeof(pz_item) + key->length > proc->size)
            return -EBUSY;
        const volatile pz_item *found = pz_item_at(proc, cell);
        if (found->key_type == key->type && found->key_length == key->length &&
            pz_racy_equal(pz_item_at(proc, cell)->data, key->data, key->length)) {
            at->cell = cell;
            at->entry = e - 1;
            at->slot = slot;
            return 1;
        }
    }
    return 0;
}

PZ_RACY int pz_dict_read(pz_proc *proc, pz_store *store, const pz_key *key, pz_value_out *out)
{
    place at;
    for (unsigned i = 0; i < TRIES; i++) {
        uint64_t root = pz_load(&store->root);
        pz_shard *shard = pz_store_shard(proc, store, key->hash, root);
        uint64_t version = pz_load(&shard->version);
        if (PZ_LIKELY(!(version & 1) && pz_load(&store->root) == root)) {
            uint64_t table = pz_load(&shard->table);
            atomic_thread_fence(memory_order_acquire);
            if (pz_peek(&shard->version) == version) { /* the table is, or was a moment ago */
                int rc = probe(proc, table, key, &at);
                if (rc == 1 && out && !pz_cell_copy(proc, at.cell, out))
                    rc = -EBUSY;
                atomic_thread_fence(memory_order_acquire);
                /* The root too: once there are 16 shards, what lies in this one is changed under their versions. */
                if (PZ_LIKELY(rc >= 0 && pz_peek(&shard->version) == version && pz_peek(&store->root) == root))
                    return rc;
            }
        }
        pz_relax();
    }
    pz_poke(&store->retries, pz_peek(&store->retries) + 1);
    return -EBUSY;
}

int pz_dict_look(pz_proc *proc, pz_store *store, pz_shard *shard, const pz_key *key, pz_value_out *out)
{
    place at;
    (void)store;
    int rc = probe(proc, pz_peek(&shard->table), key, &at);
    if (rc == 1 && out)
        (void)pz_cell_copy(proc, at.cell, out);
    return rc;
}

const pz_item *pz_dict_item(pz_proc *proc, pz_shard *shard, const pz_key *key)
{
    place at;
    probe(proc, pz_peek(&shard->table), key, &at);
    return at.cell ? pz_item_at(proc, at.cell) : NULL;
}

/* ---- growing ----------------------------------------------------------------------------------------------------- */

static unsigned log_for(uint64_t items)
{
    unsigned log = LOG_MIN;
    while (pz_table_room(log) < items + items / 2 + 2)
        log++;
    return log;
}

/* Enters a cell in a table that is being written. */
static void enter(pz_table *table, unsigned log, uint64_t number, uint64_t entry, uint32_t low)
{
    pz_u32 *index = index_of(table, log);
    uint64_t mask = (UINT64_C(1) << log) - 1, slot = home(entry >> PZ_ENTRY_TAG, low, log);
    while (pz_peek(&index[slot]) != PZ_INDEX_EMPTY)
        slot = (slot + 1) & mask;
    pz_poke(&index[slot], (uint32_t)number + 1);
    table->words[number] = entry;
    table->fill++;
}

static int new_table(pz_proc *proc, unsigned log, uint64_t *offset)
{
    if (log > LOG_MAX)
        return -ENOMEM;
    return pz_block_draft(proc, table_bytes(log), table_bytes(log) - sizeof(pz_block), offset);
}

/* The lower bits of a hash, where tables of this size need them. */
static uint32_t low_bits(pz_proc *proc, uint64_t entry, unsigned log)
{
    return log > 20 ? pz_item_at(proc, pz_entry_place(entry))->hash : 0;
}

/* A new table, with room for `more` entries beyond what is usual. */
static int rebuild(pz_proc *proc, pz_shard *shard, uint64_t more)
{
    uint64_t word = pz_peek(&shard->table), counts = pz_peek(&shard->counts), offset, number = 0;
    unsigned log = log_for(pz_items(counts) + more);
    int rc = new_table(proc, log, &offset);
    if (rc < 0)
        return rc;
    const pz_table *old = pz_at(proc, word & ~PZ_LOG_MASK);
    for (uint64_t e = 0; e < counts >> 32; e++)
        if (old->words[e])
            enter(pz_at(proc, offset), log, number++, old->words[e], low_bits(proc, old->words[e], log));
    pz_change change;
    pz_change_begin(&change, proc, shard, true);
    pz_block_attach(&change, offset);
    if (word)
        pz_heap_free(proc, word & ~PZ_LOG_MASK);
    pz_set_atomic(&change, shard->table, offset | log);
    pz_set_atomic(&change, shard->counts, number << 32 | number);
    pz_change_end(&change);
    return 0;
}

/* 0: there are 16 shards now; -ENOMEM: as before. In the lock of the first shard. */
static int split(pz_proc *proc, pz_store *store)
{
    pz_shard *first = &store->first;
    uint64_t word = pz_peek(&first->table), counts = pz_peek(&first->counts), used = counts >> 32;
    uint64_t block, items[PZ_SHARDS] = {0};
    unsigned made = 0;
    pz_table *old = pz_at(proc, word & ~PZ_LOG_MASK);
    for (uint64_t e = 0; e < used; e++)
        items[old->words[e] >> 60] += old->words[e] != 0;
    int rc = pz_block_draft(proc, sizeof(pz_parcel) + PZ_SHARDS * sizeof(pz_shard),
                            sizeof(pz_parcel) - sizeof(pz_block) + PZ_SHARDS * sizeof(pz_shard), &block);
    if (rc < 0)
        return rc;
    pz_shard *shards = pz_shards_at(proc, block);
    for (; made < PZ_SHARDS; made++) {
        uint64_t offset;
        unsigned log = log_for(items[made]);
        rc = new_table(proc, log, &offset);
        if (rc < 0)
            break;
        pz_poke(&shards[made].table, offset | log);
        pz_poke(&shards[made].counts, items[made] << 32 | items[made]);
        pz_poke(&shards[made].version, (pz_peek(&first->version) + 3) & ~UINT64_C(1)); /* stamps are never the same */
        items[made] = 0;
    }
    if (rc < 0) {
        while (made-- > 0)
            pz_block_free(proc, pz_table_of(&shards[made]));
        pz_block_free(proc, block);
        return rc;
    }
    for (uint64_t e = 0; e < used; e++) {
        uint64_t entry = old->words[e];
        if (!entry)
            continue;
        unsigned n = (unsigned)(entry >> 60), log = pz_peek(&shards[n].table) & PZ_LOG_MASK;
        enter(pz_at(proc, pz_table_of(&shards[n])), log, items[n]++, entry, low_bits(proc, entry, log));
    }
    pz_change change;
    pz_change_begin(&change, proc, first, true);
    pz_block_attach(&change, block);
    for (unsigned i = 0; i < PZ_SHARDS; i++)
        pz_block_attach(&change, pz_table_of(&shards[i]));
    shards[0].pool = first->pool;
    pz_set(&change, first->pool, 0);
    pz_set(&change, store->pending, block);
    pz_change_end(&change);
    pz_store_split_end(proc, store);
    return 0;
}

/* Room for one more entry. 0, -ENOMEM, -EAGAIN: it lies in another shard now. */
static int entry_room(pz_proc *proc, pz_store *store, pz_shard *shard, const place *at)
{
    uint64_t word = pz_peek(&shard->table), counts = pz_peek(&shard->counts);
    if (word) {
        unsigned log = word & PZ_LOG_MASK;
        pz_table *table = pz_at(proc, word & ~PZ_LOG_MASK);
        uint64_t room = pz_table_room(log);
        bool fresh = at->slot == UINT64_MAX || pz_peek(&index_of(table, log)[at->slot]) == PZ_INDEX_EMPTY;
        if (counts >> 32 < room && at->slot != UINT64_MAX && (!fresh || table->fill < room))
            return 0;
        if (shard == &store->first && pz_items(counts) >= SPLIT_AT && split(proc, store) == 0)
            return -EAGAIN;
    }
    int rc = rebuild(proc, shard, 0);
    return rc < 0 ? rc : 1;
}

/* ---- changing ---------------------------------------------------------------------------------------------------- */

/* In a change: the cell takes its place, in that of an old one or in a new entry. */
static void put_in(pz_change *change, const place *at, uint64_t hash, pz_item *cell)
{
    pz_proc *proc = change->proc;
    pz_shard *shard = change->shard;
    pz_table *table = pz_at(proc, pz_table_of(shard));
    uint64_t entry = entry_word(hash, pz_offset(proc, cell)), counts = pz_peek(&shard->counts), used = counts >> 32;
    if (at->cell) {
        pz_set(change, table->words[at->entry], entry);
        pz_cell_give(change, pz_item_at(proc, at->cell));
        return;
    }
    pz_u32 *index = index_of(table, pz_peek(&shard->table) & PZ_LOG_MASK);
    pz_set(change, table->words[used], entry);
    if (pz_peek(&index[at->slot]) == PZ_INDEX_EMPTY)
        pz_set(change, table->fill, table->fill + 1);
    pz_set_atomic(change, index[at->slot], (uint32_t)used + 1);
    pz_set_atomic(change, shard->counts, counts + 1 + (UINT64_C(1) << 32));
}

int pz_dict_put(pz_proc *proc, pz_store *store, pz_shard *shard, const pz_key *key, const pz_value_in *value)
{
    place at;
    pz_item *old;
    pz_key full = *key;
    unsigned klass = 0;
    int rc;
    for (;;) {
        probe(proc, pz_peek(&shard->table), key, &at);
        old = at.cell ? pz_item_at(proc, at.cell) : NULL;
        if (old) { /* the key stays the one that came first */
            full.extra = old->data + old->key_length;
            full.extra_length = old->extra_length;
            if (pz_cell_fits(old, value))
                break;
        }
        uint64_t length = value->object ? sizeof(pz_item_object) : value->length;
        klass = pz_cell_class(sizeof(pz_item) + full.length + full.extra_length + length);
        rc = pz_cell_room(proc, shard, klass);
        if (rc < 0)
            return rc;
        rc = old ? 0 : entry_room(proc, store, shard, &at);
        if (rc < 0)
            return rc;
        if (rc == 0)
            break;
    }
    if (value->object)
        store->objects = 1;
    pz_change change;
    pz_change_begin(&change, proc, shard, value->object || (old && old->flags & PZ_ITEM_OBJECT));
    if (value->object && (rc = pz_object_hold(&change, value->object, value->gen)) < 0) {
        pz_change_end(&change);
        return rc;
    }
    if (old && pz_cell_fits(old, value)) {
        pz_cell_overwrite(&change, old, value);
        pz_change_end(&change);
        return 0;
    }
    pz_item *cell = pz_cell_take(&change, klass);
    uint64_t order = old ? old->order : pz_add(&store->order, 1) + 1;
    pz_cell_fill(cell, klass, order, pz_peek(&shard->version), &full, value);
    put_in(&change, &at, key->hash, cell);
    pz_change_end(&change);
    return !old;
}

/* In a change: the entry and its cell go. */
static void take_out(pz_change *change, uint64_t entry, uint64_t slot)
{
    pz_shard *shard = change->shard;
    unsigned log = pz_peek(&shard->table) & PZ_LOG_MASK;
    pz_table *table = pz_at(change->proc, pz_table_of(shard));
    pz_u32 *index = index_of(table, log);
    uint64_t counts = pz_peek(&shard->counts), used = counts >> 32, mask = (UINT64_C(1) << log) - 1;
    pz_item *cell = pz_item_at(change->proc, pz_entry_place(table->words[entry]));
    if (entry + 1 == used)
        do
            used--;
        while (used > 0 && table->words[used - 1] == 0);
    pz_set(change, table->words[entry], 0);
    if (pz_peek(&index[(slot + 1) & mask]) == PZ_INDEX_EMPTY) { /* nobody searches beyond */
        pz_set_atomic(change, index[slot], PZ_INDEX_EMPTY);
        pz_set(change, table->fill, table->fill - 1);
    } else {
        pz_set_atomic(change, index[slot], PZ_INDEX_DELETED);
    }
    pz_set_atomic(change, shard->counts, used << 32 | (pz_items(counts) - 1));
    pz_cell_give(change, cell);
}

static void remove_entry(pz_proc *proc, pz_shard *shard, const pz_item *cell, uint64_t entry, uint64_t slot)
{
    pz_change change;
    pz_change_begin(&change, proc, shard, cell->flags & PZ_ITEM_OBJECT);
    take_out(&change, entry, slot);
    pz_change_end(&change);
}

int pz_dict_take(pz_proc *proc, pz_store *store, pz_shard *shard, const pz_key *key, pz_value_out *out)
{
    place at;
    (void)store;
    int rc = probe(proc, pz_peek(&shard->table), key, &at);
    if (rc != 1)
        return rc;
    if (out) {
        (void)pz_cell_copy(proc, at.cell, out);
        rc = pz_value_open(proc, out);
        if (rc < 0)
            return rc;
    }
    remove_entry(proc, shard, pz_item_at(proc, at.cell), at.entry, at.slot);
    return 1;
}

int pz_dict_take_last(pz_proc *proc, pz_store *store, pz_item *copy, uint64_t room, uint64_t *need, pz_ref *object)
{
    pz_shard *where = NULL;
    pz_item *last = NULL;
    uint64_t root = pz_load(&store->root);
    for (uint32_t i = 0; i < (root ? PZ_SHARDS : 1); i++) {
        pz_shard *shard = root ? pz_shards_at(proc, root) + i : &store->first;
        uint64_t used = pz_peek(&shard->counts) >> 32;
        if (used == 0)
            continue;
        pz_table *table = pz_at(proc, pz_table_of(shard));
        pz_item *cell = pz_item_at(proc, pz_entry_place(table->words[used - 1]));
        if (!last || cell->order > last->order) {
            last = cell;
            where = shard;
        }
    }
    if (!last)
        return 0;
    *need = sizeof *last + last->key_length + last->extra_length + last->value_length;
    if (*need > room)
        return -ENOBUFS;
    memcpy(copy, last, *need);
    if (last->flags & PZ_ITEM_OBJECT) {
        pz_item_object what;
        uint16_t kind;
        memcpy(&what, pz_item_value(last), sizeof what);
        int rc = pz_object_open(proc, what.object, what.gen, object, &kind);
        if (rc < 0)
            return rc;
    }
    uint64_t entry = (pz_peek(&where->counts) >> 32) - 1;
    unsigned log = pz_peek(&where->table) & PZ_LOG_MASK;
    pz_table *table = pz_at(proc, pz_table_of(where));
    pz_u32 *index = index_of(table, log);
    uint64_t slot = home(table->words[entry] >> PZ_ENTRY_TAG, last->hash, log), mask = (UINT64_C(1) << log) - 1;
    while (pz_peek(&index[slot]) != entry + 1)
        slot = (slot + 1) & mask;
    remove_entry(proc, where, last, entry, slot);
    return 1;
}

/* ---- groups ------------------------------------------------------------------------------------------------------ */

static pz_key key_in(const pz_proc *proc, const pz_item *cell)
{
    pz_key key = {.data = cell->data, .length = cell->key_length, .type = cell->key_type};
    key.hash = pz_hash(proc, key.type, key.data, key.length);
    return key;
}

/* Room for as many new entries in each shard as the batch may bring there. */
static int room_for_batch(pz_proc *proc, pz_store *store, const int64_t *cells, uint64_t count)
{
    uint64_t more[PZ_SHARDS] = {0};
    bool several = pz_store_shards(store) > 1;
    for (uint64_t i = 0; i < count; i++) {
        const pz_item *cell = pz_item_at(proc, (uint64_t)cells[i]);
        if (!(cell->flags & PZ_ITEM_REMOVE))
            more[several ? key_in(proc, cell).hash >> 60 : 0]++;
    }
    for (uint32_t i = 0; i < pz_store_shards(store); i++) {
        pz_shard *shard = pz_store_number(proc, store, i);
        uint64_t word = pz_peek(&shard->table), room = word ? pz_table_room(word & PZ_LOG_MASK) : 0;
        const pz_table *table = pz_at(proc, word & ~PZ_LOG_MASK);
        int rc = pz_cell_room(proc, shard, 1); /* there is a pool */
        if (rc == 0 && more[i] && (!word || (pz_peek(&shard->counts) >> 32) + more[i] > room || table->fill + more[i] > room))
            rc = rebuild(proc, shard, more[i]);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static void batch_step(pz_proc *proc, pz_store *store, pz_list *list)
{
    pz_item *cell = pz_item_at(proc, list->places[list->done]);
    pz_key key = key_in(proc, cell);
    pz_shard *shard = pz_store_shard(proc, store, key.hash, pz_load(&store->root));
    place at;
    probe(proc, pz_peek(&shard->table), &key, &at);
    const pz_item *old = at.cell ? pz_item_at(proc, at.cell) : NULL;
    if (!(cell->flags & PZ_ITEM_REMOVE)) {
        cell->order = old ? old->order : pz_add(&store->order, 1) + 1;
        cell->stamp = pz_peek(&shard->version);
    }
    pz_change change;
    pz_change_begin(&change, proc, shard, old && old->flags & PZ_ITEM_OBJECT);
    if (!(cell->flags & PZ_ITEM_REMOVE)) {
        put_in(&change, &at, key.hash, cell);
    } else {
        if (old)
            take_out(&change, at.entry, at.slot);
        pz_cell_give(&change, cell);
    }
    pz_set(&change, list->done, list->done + 1);
    pz_change_end(&change);
}

static void set_versions(pz_proc *proc, pz_store *store, bool odd)
{
    for (uint32_t i = 0; i < pz_store_shards(store); i++) {
        pz_shard *shard = pz_store_number(proc, store, i);
        uint64_t version = pz_peek(&shard->version);
        if ((version & 1) != odd)
            pz_store(&shard->version, version + 1);
    }
    atomic_thread_fence(memory_order_release);
}

void pz_batch_finish(pz_proc *proc, pz_store *store)
{
    pz_list *list = pz_at(proc, store->batch);
    set_versions(proc, store, true);
    while (list->done < list->count)
        batch_step(proc, store, list);
    pz_change change;
    pz_change_begin(&change, proc, pz_store_number(proc, store, 0), true);
    pz_heap_free(proc, store->batch);
    pz_set(&change, store->batch, 0);
    pz_change_end(&change);
    set_versions(proc, store, false);
}

int pz_dict_commit(pz_proc *proc, pz_store *store, const int64_t *cells, uint64_t count, pz_bulk *bulk)
{
    uint64_t offset;
    if (count == 0)
        return 0;
    int rc = room_for_batch(proc, store, cells, count);
    if (rc == 0)
        rc = pz_block_draft(proc, sizeof(pz_list) + count * sizeof(uint64_t), sizeof(pz_list) - sizeof(pz_block), &offset);
    if (rc < 0)
        return rc;
    pz_list *list = pz_at(proc, offset);
    list->count = count;
    memcpy(list->places, cells, count * sizeof *cells);
    pz_change change;
    pz_change_begin(&change, proc, pz_store_number(proc, store, 0), true);
    pz_bulk_attach(&change, store, bulk);
    pz_block_attach(&change, offset);
    pz_set(&change, store->batch, offset);
    pz_change_end(&change);
    pz_batch_finish(proc, store);
    return 0;
}
