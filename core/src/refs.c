/* References and parcels. See refs.h. */
#include "pz/refs.h"

#include <string.h>

#include "pz/destroy.h"

/* ---- objects ----------------------------------------------------------------------------------------------------- */

int pz_object_new(pz_proc *proc, uint64_t size, enum pz_kind kind, pz_ref *ref)
{
    for (;;) {
        pz_heap_lock(proc);
        /* Room in the ledger comes first: making it commits. */
        int rc = pz_ledger_room(proc, proc->slot);
        if (rc == 0)
            rc = pz_heap_alloc(proc, size, kind, &ref->offset);
        if (rc == 0) {
            pz_block *block = pz_block_at(proc, ref->offset);
            ref->gen = block->gen;
            memset(block + 1, 0, size - sizeof *block);
            ref->entry = pz_ledger_put(proc, proc->slot, ref->offset);
            pz_tx(proc, block->refs);
            block->refs = 1;
        }
        pz_heap_unlock(proc);
        if (PZ_LIKELY(rc != -EAGAIN))
            return rc;
        rc = pz_heap_reserve(proc, size);
        if (rc < 0)
            return rc;
    }
}

/* A private block of this process: a parcel, as those are what the sweep of a slot looks for. */
static int private_block(pz_proc *proc, uint64_t size, uint32_t capacity, uint64_t length, uint64_t *offset)
{
    pz_slot *slot = pz_slot_at(proc, proc->slot);
    for (;;) {
        pz_heap_lock(proc);
        int rc = pz_heap_alloc(proc, size, PZ_PARCEL, offset);
        if (rc == 0) {
            pz_parcel *parcel = pz_at(proc, *offset);
            parcel->count = 0;
            parcel->capacity = capacity;
            parcel->length = length;
            if (!slot->had_parcels) {
                pz_tx(proc, slot->had_parcels);
                slot->had_parcels = 1;
            }
        }
        pz_heap_unlock(proc);
        if (PZ_LIKELY(rc != -EAGAIN))
            return rc;
        rc = pz_heap_reserve(proc, size);
        if (rc < 0)
            return rc;
    }
}

int pz_object_draft(pz_proc *proc, uint64_t size, uint64_t zero, uint64_t *offset)
{
    if (size < sizeof(pz_parcel))
        size = sizeof(pz_parcel);
    int rc = private_block(proc, size, 0, 0, offset);
    if (rc == 0 && zero)
        memset(pz_block_at(proc, *offset) + 1, 0, zero);
    return rc;
}

int pz_object_finish(pz_proc *proc, uint64_t offset, enum pz_kind kind, pz_ref *ref)
{
    pz_block *block = pz_block_at(proc, offset);
    for (;;) {
        pz_heap_lock(proc);
        int rc = pz_ledger_add(proc, proc->slot, offset, &ref->entry);
        if (rc == 0) {
            pz_tx(proc, block->gen);
            pz_tx(proc, block->refs);
            block->kind = (uint16_t)kind;
            block->refs = 1;
            ref->offset = offset;
            ref->gen = block->gen;
        }
        pz_heap_unlock(proc);
        if (PZ_LIKELY(rc != -EAGAIN))
            return rc;
        rc = pz_heap_reserve(proc, 4096);
        if (rc < 0)
            return rc;
    }
}

static pz_block *find_object(pz_proc *proc, uint64_t offset, uint32_t gen)
{
    pz_block *block = pz_block_find(proc, offset, gen);
    return block && block->refs > 0 ? block : NULL;
}

int pz_object_open(pz_proc *proc, uint64_t offset, uint32_t gen, pz_ref *ref, uint16_t *kind)
{
    for (;;) {
        pz_heap_lock(proc);
        pz_block *block = find_object(proc, offset, gen);
        int rc = block ? pz_ledger_add(proc, proc->slot, offset, &ref->entry) : -ESTALE;
        if (rc == 0) {
            pz_tx(proc, block->refs);
            block->refs++;
            ref->offset = offset;
            ref->gen = gen;
            *kind = block->kind;
        }
        pz_heap_unlock(proc);
        if (PZ_LIKELY(rc != -EAGAIN))
            return rc;
        rc = pz_heap_reserve(proc, 4096);
        if (rc < 0)
            return rc;
    }
}

void pz_object_close(pz_proc *proc, const pz_ref *ref)
{
    pz_heap *heap = proc->heap;
    pz_heap_lock(proc);
    pz_block *block = pz_block_find(proc, ref->offset, ref->gen);
    if (block && *pz_ledger_entry(proc, proc->slot, ref->entry) == ref->offset) {
        pz_ledger_remove(proc, proc->slot, ref->entry);
        pz_unref(proc, block);
    }
    uint64_t waiting = heap->reap;
    pz_heap_unlock(proc);
    if (waiting)
        pz_reap(proc);
}

void pz_unref(pz_proc *proc, pz_block *block)
{
    pz_tx(proc, block->refs);
    if (--block->refs > 0)
        return;
    pz_tx(proc, block->owner);
    pz_tx(proc, proc->heap->reap);
    pz_poke(&block->owner, proc->heap->reap);
    proc->heap->reap = pz_offset(proc, block);
}

void pz_reap(pz_proc *proc)
{
    pz_heap *heap = proc->heap;
    pz_heap_lock(proc);
    while (heap->reap) {
        uint64_t offset = heap->reap;
        pz_block *block = pz_block_at(proc, offset);
        /* What it holds goes first, in steps of their own; each leaves the object a little emptier. */
        if (block->kind == PZ_RING)
            pz_ring_empty(proc, block);
        else if (block->kind == PZ_PIPE_END)
            pz_pipe_end_drop(proc, block);
        else if (block->kind == PZ_PIPE)
            pz_pipe_drop(proc, block);
        else if (block->kind == PZ_POOL)
            pz_pool_drop(proc, block);
        else if (block->kind == PZ_BUFFER || block->kind == PZ_SHARED)
            pz_parcel_unload(proc, block);
        else if (block->kind == PZ_STORE)
            pz_store_drop(proc, block);
        else if (block->kind == PZ_COND)
            pz_cond_drop(proc, block);
        else if (block->kind == PZ_VALUES)
            pz_values_drop(proc, block);
        if (heap->reap != offset) {
            /* Something it held waits before it now: that one first. */
            pz_tx_commit(proc);
            continue;
        }
        pz_tx(proc, heap->reap);
        heap->reap = pz_peek(&block->owner);
        pz_heap_free(proc, offset);
        pz_tx_commit(proc);
    }
    pz_heap_unlock(proc);
    pz_heap_trim(proc, pz_peek(&heap->limit) / 4);
}

/* ---- parcels ----------------------------------------------------------------------------------------------------- */

static uint64_t *carried(pz_parcel *parcel)
{
    return (uint64_t *)(parcel + 1);
}

int pz_parcel_new(pz_proc *proc, uint64_t length, uint32_t capacity, uint64_t *offset)
{
    uint64_t size = sizeof(pz_parcel) + (uint64_t)capacity * sizeof(uint64_t) + PZ_LINE + length;
    return private_block(proc, size, capacity, length, offset);
}

int pz_parcel_carry(pz_proc *proc, uint64_t offset, uint64_t object, uint32_t gen)
{
    pz_parcel *parcel = pz_at(proc, offset);
    pz_heap_lock(proc);
    pz_block *block = find_object(proc, object, gen);
    int rc = !block ? -ESTALE : parcel->count >= parcel->capacity ? -ENOSPC : 0;
    if (rc == 0) {
        pz_tx(proc, parcel->count);
        carried(parcel)[parcel->count] = object;
        PZ_ORDER();
        parcel->count++;
        pz_tx(proc, block->refs);
        block->refs++;
    }
    pz_heap_unlock(proc);
    return rc;
}

void pz_parcel_unload(pz_proc *proc, pz_block *block)
{
    pz_parcel *parcel = (pz_parcel *)block;
    while (parcel->count > 0) {
        pz_tx(proc, parcel->count);
        parcel->count--;
        pz_unref(proc, pz_block_at(proc, carried(parcel)[parcel->count]));
        pz_tx_commit(proc);
    }
}

void pz_parcel_drop(pz_proc *proc, pz_block *block)
{
    pz_parcel_unload(proc, block);
    pz_heap_free(proc, pz_offset(proc, block));
    pz_tx_commit(proc);
}

void pz_parcel_free(pz_proc *proc, uint64_t offset)
{
    pz_heap_lock(proc);
    pz_parcel_drop(proc, pz_block_at(proc, offset));
    uint64_t waiting = proc->heap->reap;
    pz_heap_unlock(proc);
    if (waiting)
        pz_reap(proc);
    pz_heap_trim(proc, pz_peek(&proc->heap->limit) / 4);
}

int pz_parcel_keep(pz_proc *proc, uint64_t offset, enum pz_kind kind, pz_ref *ref)
{
    return pz_object_finish(proc, offset, kind, ref);
}
