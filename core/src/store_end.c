/* Emptying, compacting and destroying containers. See store.h.
 *
 *   clear     1. a list of all tables and pools is written, 2. in one transaction the shards become empty and the list is
 *             the store's trash, 3. the trash is freed step by step
 *   killed in 1: nothing happened; after 2: the store is empty, and the trash waits for the next clear or the end
 *
 *   compact   the same, with copies of the tables and one new pool in their place
 *   destroy   the journals of the dead first, then all tables with the objects in their cells, then all memory of cells:
 *             a shard's cells may lie in another one's
 */
#include "cells.h"
#include "pz/destroy.h"
#include "store_parts.h"

#define SLACK 512u /* bytes that a compacted pool has for what comes next */

/* What the trash lists of each shard. */
typedef struct heap_of {
    uint64_t table, counts, pool;
} heap_of;

int pz_store_clear(pz_proc *proc, pz_store *store)
{
    uint32_t shards = pz_store_shards(store);
    uint64_t offset;
    pz_store_sweep(proc, store);
    int rc = pz_block_draft(proc, sizeof(pz_list) + PZ_SHARDS * sizeof(heap_of), sizeof(pz_list) - sizeof(pz_block), &offset);
    if (rc < 0)
        return rc;
    pz_list *list = pz_at(proc, offset);
    heap_of *parts = (heap_of *)list->places;
    for (uint32_t i = 0; i < shards; i++) {
        pz_shard *shard = pz_store_number(proc, store, i);
        pz_shard_bury(proc, shard);
        parts[i] = (heap_of){pz_peek(&shard->table), pz_peek(&shard->counts), shard->pool};
        if (i > 0)
            pz_poke(&shard->version, pz_peek(&shard->version) + 1);
    }
    list->count = shards;
    atomic_thread_fence(memory_order_release);
    pz_change change;
    pz_change_begin(&change, proc, pz_store_number(proc, store, 0), true);
    pz_block_attach(&change, offset);
    pz_set(&change, store->trash, offset);
    for (uint32_t i = 0; i < shards; i++) {
        pz_shard *shard = pz_store_number(proc, store, i);
        pz_set_atomic(&change, shard->table, 0);
        pz_set_atomic(&change, shard->counts, 0);
        pz_set(&change, shard->pool, 0);
    }
    pz_set(&change, store->bulk, 0);
    pz_change_end(&change);
    for (uint32_t i = 1; i < shards; i++) {
        pz_shard *shard = pz_store_number(proc, store, i);
        pz_store(&shard->version, pz_peek(&shard->version) + 1);
    }
    return 0;
}

/* A copy of a table whose cells are copied to *place on. */
static void copy_table(pz_proc *proc, bool hashed, uint64_t word, uint64_t counts, uint64_t to, uint64_t *place)
{
    const pz_table *from = pz_at(proc, word & ~PZ_LOG_MASK);
    pz_table *table = pz_at(proc, to);
    uint64_t mask = (UINT64_C(1) << (word & PZ_LOG_MASK)) - 1, end = hashed ? counts >> 32 : pz_items(counts);
    memcpy(&table->block + 1, &from->block + 1, from->block.size - sizeof(pz_block));
    for (uint64_t i = 0; i < end; i++) {
        uint64_t *slot = &table->words[hashed ? i : ((counts >> 32) + i) & mask];
        if (*slot == 0)
            continue;
        const pz_item *cell = pz_item_at(proc, hashed ? pz_entry_place(*slot) : *slot);
        memcpy(pz_at(proc, *place), cell, pz_cell_bytes(cell->klass));
        *slot = hashed ? (*slot >> PZ_ENTRY_TAG << PZ_ENTRY_TAG) | *place >> 4 : *place;
        *place += pz_cell_bytes(cell->klass);
    }
}

int pz_store_compact(pz_proc *proc, pz_store *store)
{
    uint32_t shards = pz_store_shards(store);
    uint64_t live = 0, entry;
    const pz_item *cell;
    pz_store_sweep(proc, store);
    for (uint32_t i = 0; i < shards; i++) {
        pz_shard_bury(proc, pz_store_number(proc, store, i));
        for (entry = 0; (cell = pz_store_walk(proc, store, i, &entry));)
            live += pz_cell_bytes(cell->klass);
    }
    uint64_t size = sizeof(pz_pool) + live + SLACK;
    uint64_t drafts[PZ_SHARDS + 2] = {0};
    int rc = pz_block_draft(proc, size, sizeof(pz_pool) - sizeof(pz_block), &drafts[PZ_SHARDS]);
    if (rc == 0)
        rc = pz_block_draft(proc, sizeof(pz_list) + PZ_SHARDS * sizeof(heap_of), sizeof(pz_list) - sizeof(pz_block),
                            &drafts[PZ_SHARDS + 1]);
    for (uint32_t i = 0; rc == 0 && i < shards; i++) {
        uint64_t table = pz_table_of(pz_store_number(proc, store, i));
        if (table)
            rc = pz_block_draft(proc, pz_block_at(proc, table)->size, sizeof(uint64_t), &drafts[i]);
    }
    if (rc < 0) {
        for (uint32_t i = 0; i < PZ_SHARDS + 2; i++)
            if (drafts[i])
                pz_block_free(proc, drafts[i]);
        return rc;
    }
    const uint64_t *tables = drafts, pool_at = drafts[PZ_SHARDS], list_at = drafts[PZ_SHARDS + 1];
    pz_pool *pool = pz_at(proc, pool_at);
    pz_list *list = pz_at(proc, list_at);
    heap_of *parts = (heap_of *)list->places;
    pool->fresh = pool_at + sizeof *pool;
    pool->end = pool_at + size;
    pool->total = size;
    for (uint32_t i = 0; i < shards; i++) {
        pz_shard *shard = pz_store_number(proc, store, i);
        uint64_t word = pz_peek(&shard->table);
        if (word)
            copy_table(proc, pz_is_hashed(store), word, pz_peek(&shard->counts), tables[i], &pool->fresh);
        parts[i] = (heap_of){word, 0, shard->pool}; /* without items: their objects are the copies' */
        if (i > 0)
            pz_poke(&shard->version, pz_peek(&shard->version) + 1);
    }
    list->count = shards;
    atomic_thread_fence(memory_order_release);
    pz_change change;
    pz_change_begin(&change, proc, pz_store_number(proc, store, 0), true);
    pz_block_attach(&change, pool_at);
    pz_block_attach(&change, list_at);
    pz_set(&change, store->trash, list_at);
    pz_set(&change, store->bulk, 0);
    for (uint32_t i = 0; i < shards; i++) {
        pz_shard *shard = pz_store_number(proc, store, i);
        if (tables[i]) {
            pz_block_attach(&change, tables[i]);
            pz_set_atomic(&change, shard->table, tables[i] | (pz_peek(&shard->table) & PZ_LOG_MASK));
        }
        pz_set(&change, shard->pool, i == 0 ? pool_at : 0);
    }
    pz_change_end(&change);
    for (uint32_t i = 1; i < shards; i++) {
        pz_shard *shard = pz_store_number(proc, store, i);
        pz_store(&shard->version, pz_peek(&shard->version) + 1);
    }
    return 0;
}

/* The rest inside the heap lock, committing on the way; `table`, `counts` and `pool` say how far it got. */

static void drop_objects(pz_proc *proc, bool hashed, uint64_t table, uint64_t *counts)
{
    uint64_t entry = 0, left = *counts;
    pz_item *cell;
    while ((cell = pz_cells_next(proc, hashed, table, left, &entry))) {
        if (!(cell->flags & PZ_ITEM_OBJECT))
            continue;
        pz_item_object what;
        memcpy(&what, pz_item_value(cell), sizeof what);
        pz_tx(proc, cell->value_length); /* the word with the flags */
        cell->flags = 0;
        pz_unref(proc, pz_block_at(proc, what.object));
        pz_tx_commit(proc);
    }
}

static void drop_table(pz_proc *proc, const pz_store *store, uint64_t *table, uint64_t *counts)
{
    if (*table) {
        if (store->objects)
            drop_objects(proc, pz_is_hashed(store), *table, counts);
        pz_heap_free(proc, *table & ~PZ_LOG_MASK);
        pz_tx(proc, *table);
        *table = 0;
        pz_tx_commit(proc);
    }
}

static void drop_pool(pz_proc *proc, uint64_t *pool)
{
    if (*pool) {
        pz_pool *head = pz_at(proc, *pool);
        while (head->head.spare[0]) {
            pz_parcel *chunk = pz_at(proc, head->head.spare[0]);
            pz_tx(proc, head->head.spare[0]);
            head->head.spare[0] = chunk->spare[0];
            pz_heap_free(proc, pz_offset(proc, chunk));
            pz_tx_commit(proc);
        }
        pz_heap_free(proc, *pool);
        pz_tx(proc, *pool);
        *pool = 0;
        pz_tx_commit(proc);
    }
}

static void drop_trash(pz_proc *proc, pz_store *store)
{
    if (!store->trash)
        return;
    pz_list *list = pz_at(proc, store->trash);
    heap_of *parts = (heap_of *)list->places;
    for (uint64_t i = 0; i < list->count; i++)
        drop_table(proc, store, &parts[i].table, &parts[i].counts);
    for (uint64_t i = 0; i < list->count; i++)
        drop_pool(proc, &parts[i].pool);
    pz_heap_free(proc, store->trash);
    pz_tx(proc, store->trash);
    store->trash = 0;
    pz_tx_commit(proc);
}

/* The cells from list->done on, and the list. */
static void drop_list(pz_proc *proc, uint64_t *place)
{
    if (!*place)
        return;
    pz_list *list = pz_at(proc, *place);
    while (list->done < list->count) {
        pz_item *cell = pz_item_at(proc, list->places[list->done]);
        pz_tx(proc, list->done);
        list->done++;
        if (cell->flags & PZ_ITEM_OBJECT) {
            pz_item_object what;
            memcpy(&what, pz_item_value(cell), sizeof what);
            pz_unref(proc, pz_block_at(proc, what.object));
        }
        pz_tx_commit(proc);
    }
    pz_heap_free(proc, *place);
    pz_tx(proc, *place);
    *place = 0;
    pz_tx_commit(proc);
}

static void undo_shard(pz_proc *proc, pz_shard *shard)
{
    for (uint32_t i = pz_peek(&shard->journal); i-- > 0;)
        *(volatile uint64_t *)pz_at(proc, shard->undo[i].offset) = shard->undo[i].old;
    PZ_ORDER();
    pz_store(&shard->journal, 0);
}

static void drop_items_of(pz_proc *proc, pz_store *store, pz_shard *shard)
{
    drop_list(proc, &shard->dead);
    drop_table(proc, store, (uint64_t *)&shard->table, (uint64_t *)&shard->counts);
}

void pz_store_drop(pz_proc *proc, pz_block *block)
{
    pz_store *store = (pz_store *)block;
    uint64_t root = pz_peek(&store->root) ? pz_peek(&store->root) : store->pending;
    if (root && !pz_peek(&store->root)) { /* what the first shard has is theirs already */
        pz_tx(proc, store->root);
        pz_poke(&store->root, root);
        pz_tx_commit(proc);
    }
    for (uint32_t i = 0; root && i < PZ_SHARDS; i++)
        undo_shard(proc, pz_shards_at(proc, root) + i);
    undo_shard(proc, &store->first);
    drop_trash(proc, store);
    drop_list(proc, &store->batch); /* a group that nobody finished */
    if (root) {
        if (pz_peek(&store->first.table)) {
            pz_heap_free(proc, pz_table_of(&store->first));
            pz_tx(proc, store->first.table);
            pz_poke(&store->first.table, 0);
            pz_tx_commit(proc);
        }
        for (uint32_t i = 0; i < PZ_SHARDS; i++)
            drop_items_of(proc, store, pz_shards_at(proc, root) + i);
        for (uint32_t i = 0; i < PZ_SHARDS; i++)
            drop_pool(proc, &(pz_shards_at(proc, root) + i)->pool);
        pz_heap_free(proc, root);
        pz_tx(proc, store->root);
        pz_tx(proc, store->pending);
        pz_poke(&store->root, 0);
        store->pending = 0;
        pz_tx_commit(proc);
    }
    drop_items_of(proc, store, &store->first);
    drop_pool(proc, &store->first.pool);
}

void pz_store_sweep(pz_proc *proc, pz_store *store)
{
    if (!store->trash)
        return;
    pz_heap_lock(proc);
    drop_trash(proc, store);
    pz_heap_unlock(proc);
}
