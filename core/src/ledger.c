/* The list of references that a slot holds. Inside the heap lock. See slot.h. */
#include <string.h>

#include "ledger.h"
#include "pz/refs.h"

/* A chunk is a block: header, then entries. A used entry is the object's offset (64-byte aligned); a free one is the
 * index of the next free entry + 1, shifted up, with the lowest bit set. */
typedef struct chunk {
    pz_block block;
    uint64_t entries[PZ_CHUNK_ENTRIES];
} chunk;
_Static_assert(sizeof(chunk) <= 4096, "a chunk is one 4 KiB block");

typedef struct directory {
    pz_block block;
    uint64_t chunks[PZ_CHUNKS_MAX];
} directory;

#define FREE_LINK(next) (((uint64_t)(next) << 1) | 1u)

uint64_t *pz_ledger_entry(pz_proc *proc, uint32_t number, uint32_t entry)
{
    directory *dir = pz_at(proc, pz_slot_at(proc, number)->directory);
    chunk *c = pz_at(proc, dir->chunks[entry / PZ_CHUNK_ENTRIES]);
    return &c->entries[entry % PZ_CHUNK_ENTRIES];
}

static int add_chunk(pz_proc *proc, uint32_t number)
{
    pz_slot *slot = pz_slot_at(proc, number);
    uint64_t offset;
    int rc;
    if (slot->chunks >= PZ_CHUNKS_MAX)
        return -EMFILE;
    if (slot->directory == 0) {
        rc = pz_heap_alloc(proc, sizeof(directory), PZ_LEDGER, &offset);
        if (rc < 0)
            return rc;
        pz_tx(proc, slot->directory);
        slot->directory = offset;
        /* Made visible on its own: a directory without chunks is a valid ledger. */
        pz_tx_commit(proc);
    }
    rc = pz_heap_alloc(proc, sizeof(chunk), PZ_LEDGER, &offset);
    if (rc < 0)
        return rc;
    chunk *c = pz_at(proc, offset);
    uint32_t base = slot->chunks * PZ_CHUNK_ENTRIES;
    for (uint32_t i = 0; i < PZ_CHUNK_ENTRIES; i++)
        c->entries[i] = FREE_LINK(i + 1 < PZ_CHUNK_ENTRIES ? base + i + 2 : slot->free_entry);
    directory *dir = pz_at(proc, slot->directory);
    pz_tx(proc, dir->chunks[slot->chunks]);
    dir->chunks[slot->chunks] = offset;
    pz_tx(proc, slot->chunks);
    slot->chunks++;
    slot->free_entry = base + 1;
    return 0;
}
_Static_assert(offsetof(pz_slot, free_entry) == offsetof(pz_slot, chunks) + 4 && offsetof(pz_slot, chunks) % 8 == 0,
               "chunks and free_entry share the word that one pz_tx saves");

int pz_ledger_room(pz_proc *proc, uint32_t number)
{
    if (PZ_LIKELY(pz_slot_at(proc, number)->free_entry != 0))
        return 0;
    int rc = add_chunk(proc, number);
    if (rc == 0)
        pz_tx_commit(proc);
    return rc;
}

uint32_t pz_ledger_put(pz_proc *proc, uint32_t number, uint64_t offset)
{
    pz_slot *slot = pz_slot_at(proc, number);
    uint32_t index = slot->free_entry - 1;
    uint64_t *place = pz_ledger_entry(proc, number, index);
    pz_tx(proc, slot->free_entry);
    pz_tx(proc, slot->entries);
    pz_tx(proc, *place);
    slot->free_entry = (uint32_t)(*place >> 1);
    slot->entries++;
    *place = offset;
    return index;
}

int pz_ledger_add(pz_proc *proc, uint32_t number, uint64_t offset, uint32_t *entry)
{
    int rc = pz_ledger_room(proc, number);
    if (rc == 0)
        *entry = pz_ledger_put(proc, number, offset);
    return rc;
}

void pz_ledger_remove(pz_proc *proc, uint32_t number, uint32_t entry)
{
    pz_slot *slot = pz_slot_at(proc, number);
    uint64_t *place = pz_ledger_entry(proc, number, entry);
    pz_tx(proc, slot->free_entry);
    pz_tx(proc, slot->entries);
    pz_tx(proc, *place);
    *place = FREE_LINK(slot->free_entry);
    slot->free_entry = entry + 1;
    slot->entries--;
}

int pz_ledger_copy(pz_proc *proc, uint32_t from, uint32_t to)
{
    pz_slot *source = pz_slot_at(proc, from), *target = pz_slot_at(proc, to);
    uint64_t offset;
    int rc;
    if (source->directory == 0)
        return 0;
    if (target->directory == 0) {
        rc = pz_heap_alloc(proc, sizeof(directory), PZ_LEDGER, &offset);
        if (rc < 0)
            return rc;
        pz_tx(proc, target->directory);
        target->directory = offset;
        pz_tx_commit(proc);
    }
    directory *dir = pz_at(proc, target->directory);
    while (target->chunks < source->chunks) {
        rc = pz_heap_alloc(proc, sizeof(chunk), PZ_LEDGER, &offset);
        if (rc < 0)
            return rc;
        chunk *c = pz_at(proc, offset);
        for (uint32_t i = 0; i < PZ_CHUNK_ENTRIES; i++)
            c->entries[i] = FREE_LINK(0);
        pz_tx(proc, dir->chunks[target->chunks]);
        dir->chunks[target->chunks] = offset;
        pz_tx(proc, target->chunks);
        target->chunks++;
        pz_tx_commit(proc);
    }
    /* Entry by entry: the count and its holder change together, so a crash leaves a shorter copy that can be swept. */
    for (uint32_t i = 0; i < source->chunks * PZ_CHUNK_ENTRIES; i++) {
        uint64_t value = *pz_ledger_entry(proc, from, i), *place = pz_ledger_entry(proc, to, i);
        if (value & 1) {
            *place = value;
            continue;
        }
        pz_block *block = pz_block_at(proc, value);
        pz_tx(proc, *place);
        pz_tx(proc, block->refs);
        pz_tx(proc, target->entries);
        *place = value;
        block->refs++;
        target->entries++;
        pz_tx_commit(proc);
    }
    pz_tx(proc, target->free_entry);
    target->free_entry = source->free_entry;
    pz_tx_commit(proc);
    return 0;
}

void pz_ledger_drop(pz_proc *proc, uint32_t number)
{
    pz_slot *slot = pz_slot_at(proc, number);
    if (slot->directory == 0)
        return;
    directory *dir = pz_at(proc, slot->directory);
    while (slot->chunks > 0) {
        chunk *c = pz_at(proc, dir->chunks[slot->chunks - 1]);
        for (uint32_t i = 0; i < PZ_CHUNK_ENTRIES; i++) {
            uint64_t value = c->entries[i];
            if (value & 1)
                continue;
            pz_tx(proc, c->entries[i]);
            c->entries[i] = FREE_LINK(0);
            pz_unref(proc, pz_block_at(proc, value));
            pz_tx_commit(proc);
        }
        pz_heap_free(proc, dir->chunks[slot->chunks - 1]);
        pz_tx(proc, slot->chunks);
        slot->chunks--;
        slot->free_entry = 0;
        pz_tx_commit(proc);
    }
    pz_heap_free(proc, slot->directory);
    pz_tx(proc, slot->directory);
    pz_tx(proc, slot->entries);
    slot->directory = 0;
    slot->entries = 0;
    pz_tx_commit(proc);
}
