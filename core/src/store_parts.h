/* What store.c, dict.c and sequence.c know of each other. */
#ifndef PZ_STORE_PARTS_H
#define PZ_STORE_PARTS_H

#include "cells.h"

#define PZ_INDEX_EMPTY 0u
#define PZ_INDEX_DELETED UINT32_MAX

static inline bool pz_is_hashed(const pz_store *store)
{
    return store->form <= PZ_FORM_NAMESPACE;
}

/* The shards of a store that has several: behind the head of their block. */
static inline pz_shard *pz_shards_at(const pz_proc *proc, uint64_t root)
{
    return (pz_shard *)pz_at(proc, root + sizeof(pz_parcel));
}

static inline pz_shard *pz_store_shard(const pz_proc *proc, pz_store *store, uint64_t hash, uint64_t root)
{
    return root ? pz_shards_at(proc, root) + (hash >> 60) : &store->first;
}

static inline uint64_t pz_entry_place(uint64_t entry)
{
    return (entry & ((UINT64_C(1) << PZ_ENTRY_TAG) - 1)) << 4;
}

/* The next item of a table, whatever became of its shard; NULL at the end. */
pz_item *pz_cells_next(const pz_proc *proc, bool hashed, uint64_t table, uint64_t counts, uint64_t *entry);

/* In all locks: puts in what a committed group still has to put in. */
void pz_batch_finish(pz_proc *proc, pz_store *store);

/* In the lock of the first shard: the shards that are pending become the root. */
void pz_store_split_end(pz_proc *proc, pz_store *store);

#endif
