/* Sequences: list and deque. See store.h.
 *
 * The table is a circle of 1 << log slots, each the place of a cell; the upper half of the shard's counts says where the
 * first item is. So both ends are cheap, a few items in the middle are moved one by one inside the transaction, and what
 * moves more writes a new table and publishes it with one store.
 */
#include "cells.h"
#include "store_parts.h"

#define LOG_MIN 3u
#define LOG_MAX 31u
#define MOVES 12u /* slots that are moved inside one transaction */
#define TRIES 200u

typedef struct view {
    pz_table *table;
    uint64_t mask, head, count;
} view;

static view look(const pz_proc *proc, const pz_shard *shard)
{
    uint64_t word = pz_peek(&shard->table), counts = pz_peek(&shard->counts);
    return (view){pz_at(proc, word & ~PZ_LOG_MASK), word ? (UINT64_C(1) << (word & PZ_LOG_MASK)) - 1 : 0, counts >> 32,
                  pz_items(counts)};
}

static uint64_t *slot_of(const view *v, uint64_t index)
{
    return &v->table->words[(v->head + index) & v->mask];
}

static uint64_t counts_of(uint64_t head, uint64_t count)
{
    return head << 32 | count;
}

PZ_RACY int pz_seq_read(pz_proc *proc, pz_store *store, int64_t index, pz_value_out *out)
{
    pz_shard *shard = &store->first;
    for (unsigned i = 0; i < TRIES; i++) {
        uint64_t version = pz_load(&shard->version);
        uint64_t word = pz_load(&shard->table), counts = pz_load(&shard->counts);
        atomic_thread_fence(memory_order_acquire);
        if (PZ_LIKELY(!(version & 1) && pz_peek(&shard->version) == version)) {
            int64_t at = index < 0 ? index + (int64_t)pz_items(counts) : index;
            int rc = at >= 0 && at < (int64_t)pz_items(counts);
            if (rc) {
                uint64_t mask = (UINT64_C(1) << (word & PZ_LOG_MASK)) - 1;
                const pz_table *table = pz_at(proc, word & ~PZ_LOG_MASK);
                uint64_t cell = *(const volatile uint64_t *)&table->words[((counts >> 32) + (uint64_t)at) & mask];
                if (cell == 0 || cell > proc->size - sizeof(pz_item) || !pz_cell_copy(proc, cell, out))
                    rc = -EBUSY;
            }
            atomic_thread_fence(memory_order_acquire);
            if (PZ_LIKELY(rc >= 0 && pz_peek(&shard->version) == version))
                return rc;
        }
        pz_relax();
    }
    pz_poke(&store->retries, pz_peek(&store->retries) + 1);
    return -EBUSY;
}

int pz_seq_look(pz_proc *proc, pz_store *store, int64_t index, pz_value_out *out)
{
    view v = look(proc, &store->first);
    if (index < 0)
        index += (int64_t)v.count;
    if (index < 0 || index >= (int64_t)v.count)
        return 0;
    (void)pz_cell_copy(proc, *slot_of(&v, (uint64_t)index), out);
    return 1;
}

/* ---- tables ------------------------------------------------------------------------------------------------------ */

static int new_table(pz_proc *proc, uint64_t items, uint64_t *offset, unsigned *log)
{
    *log = LOG_MIN;
    while (UINT64_C(1) << *log < items)
        ++*log;
    if (*log > LOG_MAX)
        return -ENOMEM;
    return pz_block_draft(proc, sizeof(pz_table) + (sizeof(uint64_t) << *log), sizeof(pz_table) - sizeof(pz_block), offset);
}

/* In a change with the heap: the new table takes the place of the old one. */
static void publish(pz_change *change, uint64_t offset, unsigned log, uint64_t count)
{
    uint64_t old = pz_table_of(change->shard);
    pz_block_attach(change, offset);
    if (old)
        pz_heap_free(change->proc, old);
    pz_set_atomic(change, change->shard->table, offset | log);
    pz_set_atomic(change, change->shard->counts, counts_of(0, count));
}

/* Room for `more` items at the ends. */
static int slots_room(pz_proc *proc, pz_shard *shard, uint64_t more)
{
    view v = look(proc, shard);
    uint64_t offset, have = pz_peek(&shard->table) ? v.mask + 1 : 0;
    unsigned log;
    if (v.count + more <= have)
        return 0;
    if (v.count + more > (UINT64_C(1) << 31))
        return -ENOMEM;
    int rc = new_table(proc, v.count + more, &offset, &log);
    if (rc < 0)
        return rc;
    pz_table *table = pz_at(proc, offset);
    for (uint64_t i = 0; i < v.count; i++)
        table->words[i] = *slot_of(&v, i);
    pz_change change;
    pz_change_begin(&change, proc, shard, true);
    publish(&change, offset, log, v.count);
    pz_change_end(&change);
    return 0;
}

/* ---- single items ------------------------------------------------------------------------------------------------ */

static unsigned class_for(const pz_value_in *value)
{
    return pz_cell_class(sizeof(pz_item) + (value->object ? sizeof(pz_item_object) : value->length));
}

int pz_seq_set(pz_proc *proc, pz_store *store, int64_t index, const pz_value_in *value)
{
    pz_shard *shard = &store->first;
    view v = look(proc, shard);
    if (index < 0)
        index += (int64_t)v.count;
    if (index < 0 || index >= (int64_t)v.count)
        return -ERANGE;
    uint64_t *slot = slot_of(&v, (uint64_t)index);
    pz_item *old = pz_item_at(proc, *slot);
    pz_change change;
    if (pz_cell_fits(old, value)) {
        pz_change_begin(&change, proc, shard, false);
        pz_cell_overwrite(&change, old, value);
        pz_change_end(&change);
        return 0;
    }
    unsigned klass = class_for(value);
    int rc = pz_cell_room(proc, shard, klass);
    if (rc < 0)
        return rc;
    if (value->object)
        store->objects = 1;
    pz_change_begin(&change, proc, shard, value->object || old->flags & PZ_ITEM_OBJECT);
    rc = value->object ? pz_object_hold(&change, value->object, value->gen) : 0;
    if (rc == 0) {
        pz_item *cell = pz_cell_take(&change, klass);
        pz_cell_fill(cell, klass, 0, pz_peek(&shard->version), NULL, value);
        pz_set(&change, *slot, pz_offset(proc, cell));
        pz_cell_give(&change, old);
    }
    pz_change_end(&change);
    return rc;
}

/* Takes the item out of the circle, which has few enough to move. */
static void close_gap(pz_change *change, view *v, uint64_t index)
{
    if (index <= v->count / 2) {
        for (uint64_t i = index; i > 0; i--)
            pz_set(change, *slot_of(v, i), *slot_of(v, i - 1));
        v->head = (v->head + 1) & v->mask;
    } else {
        for (uint64_t i = index; i + 1 < v->count; i++)
            pz_set(change, *slot_of(v, i), *slot_of(v, i + 1));
    }
    v->count--;
}

/* Makes place for an item before `index`; the slot is the caller's to write. */
static uint64_t *open_gap(pz_change *change, view *v, uint64_t index)
{
    v->count++;
    if (index < v->count / 2) {
        v->head = (v->head - 1) & v->mask;
        for (uint64_t i = 0; i < index; i++)
            pz_set(change, *slot_of(v, i), *slot_of(v, i + 1));
    } else {
        for (uint64_t i = v->count - 1; i > index; i--)
            pz_set(change, *slot_of(v, i), *slot_of(v, i - 1));
    }
    return slot_of(v, index);
}

static uint64_t moves(uint64_t index, uint64_t count)
{
    return index < count - index ? index : count - index;
}

int pz_seq_insert(pz_proc *proc, pz_store *store, uint64_t index, const pz_value_in *value)
{
    pz_shard *shard = &store->first;
    view v = look(proc, shard);
    if (index > v.count)
        return -ERANGE;
    bool full = v.count >= store->most;
    if (full && store->most == 0)
        return 0;
    if (full && index != 0 && index != v.count)
        return -EXFULL;
    unsigned klass = class_for(value), log = 0;
    bool far = moves(index, v.count) > MOVES;
    uint64_t offset = 0;
    int rc = pz_cell_room(proc, shard, klass);
    if (rc == 0)
        rc = far ? new_table(proc, v.count + 1 + v.count / 4, &offset, &log) : slots_room(proc, shard, 1);
    if (rc < 0)
        return rc;
    v = look(proc, shard);
    if (far) {
        pz_table *table = pz_at(proc, offset);
        for (uint64_t i = 0; i < v.count; i++)
            table->words[i + (i >= index)] = *slot_of(&v, i);
    }
    pz_item *lost = full ? pz_item_at(proc, *slot_of(&v, index ? 0 : v.count - 1)) : NULL;
    if (value->object)
        store->objects = 1;
    pz_change change;
    pz_change_begin(&change, proc, shard, far || value->object || (lost && lost->flags & PZ_ITEM_OBJECT));
    rc = value->object ? pz_object_hold(&change, value->object, value->gen) : 0;
    if (rc < 0) {
        pz_change_end(&change);
        if (far)
            pz_block_free(proc, offset);
        return rc;
    }
    pz_item *cell = pz_cell_take(&change, klass);
    pz_cell_fill(cell, klass, 0, pz_peek(&shard->version), NULL, value);
    if (far) {
        ((pz_table *)pz_at(proc, offset))->words[index] = pz_offset(proc, cell);
        publish(&change, offset, log, v.count + 1);
    } else {
        if (lost) {
            close_gap(&change, &v, index ? 0 : v.count - 1);
            index = index ? v.count : 0;
            pz_cell_give(&change, lost);
        }
        uint64_t *slot = open_gap(&change, &v, index);
        pz_set(&change, *slot, pz_offset(proc, cell));
        pz_set_atomic(&change, shard->counts, counts_of(v.head, v.count));
    }
    pz_change_end(&change);
    return 0;
}

int pz_seq_take(pz_proc *proc, pz_store *store, int64_t at, pz_value_out *out)
{
    pz_shard *shard = &store->first;
    view v = look(proc, shard);
    if (at < 0)
        at += (int64_t)v.count;
    if (at < 0 || at >= (int64_t)v.count)
        return 0;
    uint64_t index = (uint64_t)at, place = *slot_of(&v, index), offset = 0;
    unsigned log = 0;
    bool far = moves(index, v.count - 1) > MOVES;
    pz_item *cell = pz_item_at(proc, place);
    int rc = far ? new_table(proc, v.count, &offset, &log) : 0;
    if (rc == 0 && out) {
        (void)pz_cell_copy(proc, place, out);
        rc = pz_value_open(proc, out);
    }
    if (rc < 0) {
        if (offset)
            pz_block_free(proc, offset);
        return rc;
    }
    if (far) {
        pz_table *table = pz_at(proc, offset);
        for (uint64_t i = 0; i + 1 < v.count; i++)
            table->words[i] = *slot_of(&v, i + (i >= index));
    }
    pz_change change;
    pz_change_begin(&change, proc, shard, far || cell->flags & PZ_ITEM_OBJECT);
    if (far) {
        publish(&change, offset, log, v.count - 1);
    } else {
        close_gap(&change, &v, index);
        pz_set_atomic(&change, shard->counts, counts_of(v.head, v.count));
    }
    pz_cell_give(&change, cell);
    pz_change_end(&change);
    return 1;
}

/* ---- many at once ------------------------------------------------------------------------------------------------ */

int pz_seq_extend(pz_proc *proc, pz_store *store, const int64_t *cells, uint64_t count, pz_bulk *bulk)
{
    pz_shard *shard = &store->first;
    int rc = pz_cell_room(proc, shard, 1); /* there is a pool */
    if (rc == 0)
        rc = slots_room(proc, shard, count);
    if (rc < 0)
        return rc;
    view v = look(proc, shard);
    for (uint64_t i = 0; i < count; i++) /* beyond the items: nobody looks there */
        *slot_of(&v, v.count + i) = (uint64_t)cells[i];
    pz_change change;
    pz_change_begin(&change, proc, shard, true);
    pz_bulk_attach(&change, store, bulk);
    pz_set_atomic(&change, shard->counts, counts_of(v.head, v.count + count));
    pz_change_end(&change);
    return 0;
}

int pz_seq_rebuild(pz_proc *proc, pz_store *store, const int64_t *cells, uint64_t count, pz_bulk *bulk)
{
    pz_shard *shard = &store->first;
    int rc = pz_cell_room(proc, shard, 1);
    if (rc < 0)
        return rc;
    view v = look(proc, shard);
    uint64_t offset, gone;
    unsigned log;
    rc = new_table(proc, count, &offset, &log);
    if (rc < 0)
        return rc;
    rc = pz_block_draft(proc, sizeof(pz_list) + v.count * sizeof(uint64_t), sizeof(pz_list) - sizeof(pz_block), &gone);
    if (rc < 0) {
        pz_block_free(proc, offset);
        return rc;
    }
    pz_list *list = pz_at(proc, gone);
    pz_table *table = pz_at(proc, offset);
    for (uint64_t i = 0; i < v.count; i++)
        list->places[i] = *slot_of(&v, i);
    for (uint64_t i = 0; i < count; i++) {
        uint64_t index = (uint64_t)(-1 - cells[i]);
        table->words[i] = cells[i] < 0 ? *slot_of(&v, index) : (uint64_t)cells[i];
        if (cells[i] < 0)
            list->places[index] = 0;
    }
    for (uint64_t i = 0; i < v.count; i++)
        if (list->places[i])
            list->places[list->count++] = list->places[i];
    bool some = list->count > 0;
    pz_change change;
    pz_change_begin(&change, proc, shard, true);
    pz_bulk_attach(&change, store, bulk);
    publish(&change, offset, log, count);
    if (some) {
        pz_block_attach(&change, gone);
        pz_set(&change, shard->dead, gone);
    }
    pz_change_end(&change);
    if (some)
        pz_shard_bury(proc, shard);
    else
        pz_block_free(proc, gone);
    return 0;
}
