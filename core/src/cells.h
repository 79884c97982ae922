/* Transactions, cells and tables of a shard, for store.c, dict.c and sequence.c. Everything here runs inside the lock of
 * the shard. */
#ifndef PZ_CELLS_H
#define PZ_CELLS_H

#include <string.h>

#include "pz/store.h"

/* Readers copy while writers write, and find out afterwards: to ThreadSanitizer that is a race. */
#if defined(__SANITIZE_THREAD__)
#define PZ_RACY __attribute__((no_sanitize_thread, noinline))
#else
#define PZ_RACY
#endif

PZ_RACY void pz_racy_copy(void *to, const void *from, uint64_t length);
PZ_RACY bool pz_racy_equal(const void *one, const void *other, uint64_t length);

#define PZ_LOG_MASK UINT64_C(63) /* of a table word: log2 of the slots */
#define PZ_ENTRY_TAG 40          /* of an entry: where the tag begins, below it the place of the cell in units of 16 */

typedef struct pz_table {
    pz_block block;
    uint64_t none;
    uint32_t fill; /* hashed: index slots that are not empty */
    uint32_t spare;
    uint64_t words[];
} pz_table;

/* Memory that cells are cut from. Its own block is the first chunk. */
typedef struct pz_pool {
    pz_parcel head; /* spare[0]: the next chunk */
    uint64_t fresh, end, total;
    uint64_t free[PZ_CELL_CLASSES];
    uint64_t spare;
} pz_pool;
_Static_assert(sizeof(pz_pool) % 16 == 0 && sizeof(pz_parcel) % 16 == 0, "cells lie at multiples of 16");

/* A list of places, for what is done step by step. */
typedef struct pz_list {
    pz_block block;
    uint64_t none;
    uint64_t count, done;
    uint64_t places[];
} pz_list;

/* One change of a shard: from begin to end nothing else may be changed. */
typedef struct pz_change {
    pz_proc *proc;
    pz_shard *shard;
    pz_u32 *journal;
    pz_undo *undo;
    uint32_t most;
    bool heap, quiet; /* in the heap's journal; inside a batch, which sees to the version */
} pz_change;

void pz_change_begin(pz_change *change, pz_proc *proc, pz_shard *shard, bool heap);
void pz_change_end(pz_change *change);

static inline void pz_note(pz_change *change, void *word)
{
    uint64_t offset = pz_offset(change->proc, word) & ~UINT64_C(7);
    uint32_t n = pz_peek(change->journal);
    if (PZ_UNLIKELY(n >= change->most))
        __builtin_trap(); /* a transaction longer than any that exists */
    change->undo[n].offset = offset;
    change->undo[n].old = *(volatile uint64_t *)pz_at(change->proc, offset);
    PZ_ORDER();
    pz_store(change->journal, n + 1);
    PZ_ORDER();
}
#define pz_set(change, lvalue, value) (pz_note((change), &(lvalue)), (void)((lvalue) = (value)))
#define pz_set_atomic(change, lvalue, value) (pz_note((change), (void *)&(lvalue)), pz_poke(&(lvalue), (value)))

static inline pz_item *pz_item_at(const pz_proc *proc, uint64_t offset)
{
    return (pz_item *)pz_at(proc, offset);
}

static inline uint64_t pz_table_of(const pz_shard *shard)
{
    return pz_peek(&shard->table) & ~PZ_LOG_MASK;
}

static inline uint32_t pz_items(uint64_t counts)
{
    return (uint32_t)counts;
}

unsigned pz_cell_class(uint64_t bytes);
uint64_t pz_cell_bytes(unsigned klass);

/* Makes sure that pz_cell_take succeeds for this class. -ENOMEM. Before a change. */
int pz_cell_room(pz_proc *proc, pz_shard *shard, unsigned klass);
/* In a change: a cell, not yet found by anybody; */
pz_item *pz_cell_take(pz_change *change, unsigned klass);
/* a cell goes to the free ones, its object is given up. */
void pz_cell_give(pz_change *change, pz_item *cell);
void pz_cell_fill(pz_item *cell, unsigned klass, uint64_t order, uint64_t stamp, const pz_key *key,
                  const pz_value_in *value);
/* Whether a value can be written over the present one: short, and of the same size. It then stays in the caches of the
 * processes that write this item, and everybody's free cells do not. */
bool pz_cell_fits(const pz_item *item, const pz_value_in *value);
/* In a change: writes it. */
void pz_cell_overwrite(pz_change *change, pz_item *item, const pz_value_in *value);
/* In a change with the heap: one holder more. -ESTALE: no such object. */
int pz_object_hold(pz_change *change, uint64_t object, uint32_t gen);

/* A block that belongs to the store from pz_block_attach on; until then it goes with this process. */
int pz_block_draft(pz_proc *proc, uint64_t size, uint64_t zero, uint64_t *offset);
void pz_block_attach(pz_change *change, uint64_t offset);

/* What a cell says, copied out; false: what lies there is no cell, as a reader without the lock may find. */
PZ_RACY bool pz_cell_copy(const pz_proc *proc, uint64_t place, pz_value_out *out);
/* A reference to the object of a value for the caller, if it is one. -ENOMEM, -ESTALE. */
int pz_value_open(pz_proc *proc, pz_value_out *out);

/* In a change with the heap: the cells of the bulk, and the references that it carried, are the store's. */
void pz_bulk_attach(pz_change *change, pz_store *store, pz_bulk *bulk);

/* Frees the cells on a shard's list of dead ones. */
void pz_shard_bury(pz_proc *proc, pz_shard *shard);
/* After the death of an owner. `batch`: it had a group to finish, somebody will; until then no reader comes in. */
void pz_shard_repair(pz_proc *proc, pz_shard *shard, bool batch);

/* How many entries a hashed table of 1 << log slots has room for, and where its index begins. */
static inline uint64_t pz_table_room(unsigned log)
{
    return ((UINT64_C(1) << log) * 2) / 3;
}

#endif
