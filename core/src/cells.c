/* Transactions, cells and their memory. See store.h and cells.h.
 *
 * Sizes of cells go in steps of 16 bytes to 256, then four to each doubling. Free cells of a size are a list; new ones
 * are cut from chunks, each as large as all before it, up to 256 KiB. What a chunk still has when the next one comes is
 * lost (at most a quarter). Chunks go back to the heap when the store is emptied or destroyed.
 */
#include "cells.h"

#define OVERWRITE_MAX 128u /* bytes: their words fit into the journal */
#define POOL_FIRST 1024u
#define CHUNK_MAX (UINT64_C(256) << 10)

/* ---- racy reading ------------------------------------------------------------------------------------------------ */

#if defined(__SANITIZE_THREAD__)
PZ_RACY void pz_racy_copy(void *to, const void *from, uint64_t length)
{
    volatile uint8_t *target = to;
    const volatile uint8_t *source = from;
    for (uint64_t i = 0; i < length; i++)
        target[i] = source[i];
}

PZ_RACY bool pz_racy_equal(const void *one, const void *other, uint64_t length)
{
    const volatile uint8_t *a = one, *b = other;
    for (uint64_t i = 0; i < length; i++)
        if (a[i] != b[i])
            return false;
    return true;
}
#else
void pz_racy_copy(void *to, const void *from, uint64_t length)
{
    memcpy(to, from, length);
}

bool pz_racy_equal(const void *one, const void *other, uint64_t length)
{
    return memcmp(one, other, length) == 0;
}
#endif

/* ---- transactions ------------------------------------------------------------------------------------------------ */

void pz_change_begin(pz_change *change, pz_proc *proc, pz_shard *shard, bool heap)
{
    change->proc = proc;
    change->shard = shard;
    change->heap = heap;
    change->journal = heap ? &proc->heap->journal : &shard->journal;
    change->undo = heap ? proc->heap->undo : shard->undo;
    change->most = heap ? PZ_UNDO_MAX : PZ_SHARD_UNDO;
    if (heap)
        pz_heap_lock(proc);
    change->quiet = pz_peek(&shard->version) & 1;
    if (!change->quiet)
        pz_poke(&shard->version, pz_peek(&shard->version) + 1);
    atomic_thread_fence(memory_order_release);
    PZ_ORDER();
}

void pz_change_end(pz_change *change)
{
    PZ_ORDER();
    pz_store(change->journal, 0);
    PZ_ORDER();
    if (!change->quiet)
        pz_store(&change->shard->version, pz_peek(&change->shard->version) + 1);
    if (change->heap)
        pz_heap_unlock(change->proc);
}

static void roll_back(pz_proc *proc, pz_shard *shard)
{
    for (uint32_t i = pz_peek(&shard->journal); i-- > 0;)
        *(volatile uint64_t *)pz_at(proc, shard->undo[i].offset) = shard->undo[i].old;
    PZ_ORDER();
    pz_store(&shard->journal, 0);
}

void pz_shard_repair(pz_proc *proc, pz_shard *shard, bool batch)
{
    pz_heap_settle(proc); /* the change may be in the heap's journal */
    roll_back(proc, shard);
    PZ_ORDER();
    if (pz_peek(&shard->version) & 1 && !batch)
        pz_store(&shard->version, pz_peek(&shard->version) + 1);
    pz_add(&shard->repairs, 1);
    pz_shard_bury(proc, shard);
}

/* ---- blocks ------------------------------------------------------------------------------------------------------ */

int pz_block_draft(pz_proc *proc, uint64_t size, uint64_t zero, uint64_t *offset)
{
    return pz_object_draft(proc, size, zero, offset);
}

void pz_block_attach(pz_change *change, uint64_t offset)
{
    pz_block *block = pz_block_at(change->proc, offset);
    pz_note(change, &block->gen);
    block->kind = PZ_CHUNK;
}

int pz_object_hold(pz_change *change, uint64_t object, uint32_t gen)
{
    pz_block *block = pz_block_find(change->proc, object, gen);
    if (!block || block->refs == 0)
        return -ESTALE;
    pz_set(change, block->refs, block->refs + 1);
    return 0;
}

/* ---- cells ------------------------------------------------------------------------------------------------------- */

unsigned pz_cell_class(uint64_t bytes)
{
    if (bytes <= 256)
        return bytes <= 32 ? 1 : (unsigned)((bytes + 15) / 16 - 1);
    unsigned top = 63u - (unsigned)__builtin_clzll(bytes - 1), shift = top - 2;
    return 16 + (top - 8) * 4 + (unsigned)(((bytes - 1) >> shift) & 3);
}

uint64_t pz_cell_bytes(unsigned klass)
{
    if (klass < 16)
        return (klass + 1) * 16u;
    unsigned shift = 6 + (klass - 16) / 4;
    return (uint64_t)(5 + (klass - 16) % 4) << shift;
}

int pz_cell_room(pz_proc *proc, pz_shard *shard, unsigned klass)
{
    pz_pool *pool = shard->pool ? pz_at(proc, shard->pool) : NULL;
    uint64_t bytes = pz_cell_bytes(klass), offset;
    if (pool && (pool->free[klass] || pool->end - pool->fresh >= bytes))
        return 0;
    uint64_t head = pool ? sizeof(pz_parcel) : sizeof(pz_pool), size = pool ? pool->total : POOL_FIRST;
    if (size > CHUNK_MAX)
        size = CHUNK_MAX;
    if (size < head + 4 * bytes && size < head + bytes + CHUNK_MAX / 4)
        size = head + (bytes > 4096 ? bytes : 4 * bytes);
    int rc = pz_block_draft(proc, size, head - sizeof(pz_block), &offset);
    if (rc < 0)
        return rc;
    pz_change change;
    pz_change_begin(&change, proc, shard, true);
    pz_block_attach(&change, offset);
    if (!pool) {
        pool = pz_at(proc, offset);
        pool->fresh = offset + sizeof *pool;
        pool->end = offset + size;
        pool->total = size;
        pz_set(&change, shard->pool, offset);
    } else {
        pz_parcel *chunk = pz_at(proc, offset);
        chunk->spare[0] = pool->head.spare[0];
        pz_set(&change, pool->head.spare[0], offset);
        pz_set(&change, pool->fresh, offset + head);
        pz_set(&change, pool->end, offset + size);
        pz_set(&change, pool->total, pool->total + size);
    }
    pz_change_end(&change);
    return 0;
}

pz_item *pz_cell_take(pz_change *change, unsigned klass)
{
    pz_pool *pool = pz_at(change->proc, change->shard->pool);
    uint64_t offset = pool->free[klass];
    if (offset) {
        pz_item *cell = pz_item_at(change->proc, offset);
        pz_set(change, pool->free[klass], cell->order);
        pz_note(change, &cell->order); /* the link, which a roll-back needs again */
        return cell;
    }
    offset = pool->fresh;
    pz_set(change, pool->fresh, offset + pz_cell_bytes(klass));
    return pz_item_at(change->proc, offset);
}

void pz_cell_give(pz_change *change, pz_item *cell)
{
    pz_pool *pool = pz_at(change->proc, change->shard->pool);
    if (cell->flags & PZ_ITEM_OBJECT) {
        pz_item_object what;
        memcpy(&what, pz_item_value(cell), sizeof what);
        pz_unref(change->proc, pz_block_at(change->proc, what.object));
    }
    pz_set(change, cell->order, pool->free[cell->klass]);
    pz_set(change, pool->free[cell->klass], pz_offset(change->proc, cell));
}

void pz_cell_fill(pz_item *cell, unsigned klass, uint64_t order, uint64_t stamp, const pz_key *key,
                  const pz_value_in *value)
{
    cell->order = order;
    cell->stamp = stamp;
    cell->hash = key ? (uint32_t)key->hash : 0;
    cell->key_length = key ? (uint16_t)key->length : 0;
    cell->extra_length = key ? (uint16_t)key->extra_length : 0;
    cell->value_length = value->object ? sizeof(pz_item_object) : value->length;
    cell->klass = (uint8_t)klass;
    cell->key_type = key ? key->type : 0;
    cell->value_type = value->type;
    cell->flags = value->object ? PZ_ITEM_OBJECT : 0;
    if (key) {
        memcpy(cell->data, key->data, key->length);
        if (key->extra_length)
            memcpy(cell->data + key->length, key->extra, key->extra_length);
    }
    if (value->object) {
        pz_item_object what = {value->object, value->gen, 0};
        memcpy(pz_item_value(cell), &what, sizeof what);
    } else if (value->length) {
        memcpy(pz_item_value(cell), value->data, value->length);
    }
}

bool pz_cell_fits(const pz_item *item, const pz_value_in *value)
{
    if (item->flags & PZ_ITEM_OBJECT || value->object || value->length > OVERWRITE_MAX)
        return false;
    return pz_cell_class(sizeof *item + item->key_length + item->extra_length + value->length) == item->klass;
}

void pz_cell_overwrite(pz_change *change, pz_item *item, const pz_value_in *value)
{
    uint8_t *at = pz_item_value(item);
    pz_note(change, &item->stamp);
    pz_note(change, &item->value_length);
    for (uint8_t *word = at; word < at + value->length; word = (uint8_t *)(((uintptr_t)word | 7) + 1))
        pz_note(change, word);
    item->stamp = pz_peek(&change->shard->version);
    item->value_length = value->length;
    item->value_type = value->type;
    if (value->length)
        memcpy(at, value->data, value->length);
}

PZ_RACY bool pz_cell_copy(const pz_proc *proc, uint64_t place, pz_value_out *out)
{
    const volatile pz_item *cell = pz_item_at(proc, place);
    uint64_t at = place + sizeof(pz_item) + cell->key_length + cell->extra_length;
    bool object = cell->flags & PZ_ITEM_OBJECT;
    out->stamp = cell->stamp;
    out->type = cell->value_type;
    out->length = cell->value_length;
    out->object = 0;
    out->opened = false;
    if (out->length > PZ_VALUE_MAX || at + (object ? sizeof(pz_item_object) : out->length) > proc->size)
        return false;
    if (object) {
        pz_item_object what;
        pz_racy_copy(&what, pz_at(proc, at), sizeof what);
        out->object = what.object;
        out->gen = what.gen;
    } else {
        pz_racy_copy(out->bytes, pz_at(proc, at), out->length);
    }
    return true;
}

int pz_value_open(pz_proc *proc, pz_value_out *out)
{
    uint16_t kind;
    if (!out->object)
        return 0;
    int rc = pz_object_open(proc, out->object, out->gen, &out->ref, &kind);
    out->opened = rc == 0;
    return rc;
}

/* ---- many at once -------------------------------------------------------------------------------------------------- */

int pz_bulk_new(pz_proc *proc, uint64_t bytes, uint32_t objects, pz_bulk *bulk)
{
    *bulk = (pz_bulk){0};
    if (bytes == 0)
        return 0;
    int rc = pz_parcel_new(proc, bytes, objects, &bulk->chunk);
    if (rc < 0) {
        bulk->chunk = 0;
        return rc;
    }
    pz_parcel *chunk = pz_at(proc, bulk->chunk);
    bulk->place = pz_offset(proc, pz_parcel_data(chunk));
    bulk->end = bulk->place + bytes;
    return 0;
}

int pz_bulk_add(pz_proc *proc, pz_bulk *bulk, const pz_key *key, const pz_value_in *value, uint64_t *cell)
{
    const pz_value_in nothing = {0};
    uint64_t length = !value ? 0 : value->object ? sizeof(pz_item_object) : value->length;
    if (key)
        length += (uint64_t)key->length + key->extra_length;
    unsigned klass = pz_cell_class(sizeof(pz_item) + length);
    uint64_t bytes = pz_cell_bytes(klass);
    if (bulk->end - bulk->place < bytes)
        return -ENOSPC;
    if (value && value->object) {
        int rc = pz_parcel_carry(proc, bulk->chunk, value->object, value->gen);
        if (rc < 0)
            return rc;
    }
    *cell = bulk->place;
    pz_cell_fill(pz_item_at(proc, *cell), klass, 0, 1, key, value ? value : &nothing);
    if (!value)
        pz_item_at(proc, *cell)->flags |= PZ_ITEM_REMOVE;
    bulk->place += bytes;
    bulk->count++;
    return 0;
}

void pz_bulk_drop(pz_proc *proc, pz_bulk *bulk)
{
    if (bulk->chunk)
        pz_parcel_free(proc, bulk->chunk);
    bulk->chunk = 0;
}

void pz_bulk_attach(pz_change *change, pz_store *store, pz_bulk *bulk)
{
    if (!bulk->chunk)
        return;
    pz_parcel *chunk = pz_at(change->proc, bulk->chunk);
    pz_pool *pool = pz_at(change->proc, change->shard->pool);
    if (chunk->count)
        store->objects = 1;
    pz_block_attach(change, bulk->chunk);
    pz_set(change, store->bulk, store->bulk + chunk->block.size);
    pz_set(change, pool->total, pool->total + chunk->block.size);
    pz_set(change, chunk->count, 0);
    pz_set(change, chunk->spare[0], pool->head.spare[0]);
    pz_set(change, pool->head.spare[0], bulk->chunk);
    bulk->chunk = 0;
}

/* ---- dead cells -------------------------------------------------------------------------------------------------- */

void pz_shard_bury(pz_proc *proc, pz_shard *shard)
{
    if (!shard->dead)
        return;
    pz_list *list = pz_at(proc, shard->dead);
    pz_change change;
    while (list->done < list->count) {
        pz_item *cell = pz_item_at(proc, list->places[list->done]);
        pz_change_begin(&change, proc, shard, cell->flags & PZ_ITEM_OBJECT);
        pz_cell_give(&change, cell);
        pz_set(&change, list->done, list->done + 1);
        pz_change_end(&change);
    }
    pz_change_begin(&change, proc, shard, true);
    pz_heap_free(proc, shard->dead);
    pz_set(&change, shard->dead, 0);
    pz_change_end(&change);
}
