/* Containers as a whole: their locks, growing to several shards. See store.h; emptying and destroying is in store_end.c.
 *
 *   growing to 16 shards   1. shards and tables are written, 2. in one transaction they belong to the store (pending),
 *                          3. root = pending: from here on they are used, 4. the first shard is emptied
 *   killed after 2: who takes the first shard's lock goes on with 3 and 4
 */
#include "cells.h"
#include "store_parts.h"

#define TRIES 200u
#define BULKY (UINT64_C(64) << 10)
#define HOLLOW (UINT64_C(128) << 10) /* bytes that an empty store may keep for what comes next */

int pz_store_new(pz_proc *proc, enum pz_form form, uint64_t most, pz_ref *ref)
{
    int rc = pz_object_new(proc, sizeof(pz_store), PZ_STORE, ref);
    if (rc == 0) {
        pz_store *store = pz_at(proc, ref->offset);
        store->form = form;
        store->most = most;
    }
    return rc;
}

uint64_t pz_hash(const pz_proc *proc, uint8_t type, const void *data, uint32_t length)
{
    __extension__ typedef unsigned __int128 wide;
    const uint8_t *at = data;
    uint64_t hash = proc->header->program ^ (((uint64_t)type << 32 | length) * UINT64_C(0x9e3779b97f4a7c15));
    for (uint32_t left = length; left; ) {
        uint64_t word = 0;
        uint32_t step = left < 8 ? left : 8;
        memcpy(&word, at, step);
        wide product = (wide)(hash ^ word) * UINT64_C(0xd6e8feb86659fd93);
        hash = (uint64_t)product ^ (uint64_t)(product >> 64) ^ UINT64_C(0x8bb84b93962eacc9);
        at += step;
        left -= step;
    }
    wide last = (wide)(hash ^ UINT64_C(0x2d358dccaa6c78a5)) * UINT64_C(0x9e3779b97f4a7c15);
    return (uint64_t)last ^ (uint64_t)(last >> 64);
}

/* ---- shards ------------------------------------------------------------------------------------------------------ */

uint32_t pz_store_shards(const pz_store *store)
{
    return pz_load(&store->root) ? PZ_SHARDS : 1;
}

pz_shard *pz_store_number(const pz_proc *proc, pz_store *store, uint32_t number)
{
    uint64_t root = pz_load(&store->root);
    return root ? pz_shards_at(proc, root) + number : &store->first;
}

static pz_shard *shards_of(const pz_proc *proc, const pz_store *store, uint64_t root)
{
    return root ? pz_shards_at(proc, root) : (pz_shard *)(uintptr_t)&store->first;
}

uint64_t pz_store_count(const pz_proc *proc, const pz_store *store)
{
    uint64_t count = 0, root = pz_load(&store->root);
    const pz_shard *shards = shards_of(proc, store, root);
    for (uint32_t i = 0; i < (root ? PZ_SHARDS : 1); i++)
        count += pz_items(pz_load(&shards[i].counts));
    return count;
}

int pz_store_count_read(const pz_proc *proc, const pz_store *store, uint64_t *count)
{
    for (unsigned try = 0; try < TRIES; try++) {
        uint64_t root = pz_load(&store->root), odd = 0, versions[PZ_SHARDS];
        const pz_shard *shards = shards_of(proc, store, root);
        uint32_t n = root ? PZ_SHARDS : 1;
        for (uint32_t i = 0; i < n; i++)
            odd |= (versions[i] = pz_load(&shards[i].version)) & 1;
        if (!odd && pz_load(&store->root) == root) {
            *count = 0;
            for (uint32_t i = 0; i < n; i++)
                *count += pz_items(pz_peek(&shards[i].counts));
            atomic_thread_fence(memory_order_acquire);
            bool same = pz_peek(&store->root) == root;
            for (uint32_t i = 0; i < n; i++)
                same = same && pz_peek(&shards[i].version) == versions[i];
            if (PZ_LIKELY(same))
                return 0;
        }
        pz_relax();
    }
    return -EBUSY;
}

uint64_t pz_store_bytes(const pz_proc *proc, const pz_store *store)
{
    uint64_t bytes = store->block.size + (pz_peek(&store->root) ? PZ_SHARDS * sizeof(pz_shard) : 0);
    for (uint32_t i = 0, n = pz_store_shards(store); i < n; i++) {
        const pz_shard *shard = pz_store_number(proc, (pz_store *)(uintptr_t)store, i);
        if (shard->pool)
            bytes += ((pz_pool *)pz_at(proc, shard->pool))->total;
        if (pz_peek(&shard->table))
            bytes += pz_block_at(proc, pz_table_of(shard))->size;
    }
    return bytes;
}

bool pz_store_is_hollow(const pz_proc *proc, const pz_store *store)
{
    return pz_store_count(proc, store) == 0 && pz_store_bytes(proc, store) > HOLLOW;
}

bool pz_store_is_bulky(const pz_proc *proc, const pz_store *store)
{
    uint64_t bulk = store->bulk;
    return bulk > BULKY && 2 * bulk > pz_store_bytes(proc, store);
}

static void empty_first(pz_proc *proc, pz_store *store)
{
    pz_change change;
    pz_shard *first = &store->first;
    if (!pz_peek(&first->table))
        return;
    pz_change_begin(&change, proc, first, true);
    pz_heap_free(proc, pz_table_of(first));
    pz_set_atomic(&change, first->table, 0);
    pz_set_atomic(&change, first->counts, 0);
    pz_change_end(&change);
}

void pz_store_split_end(pz_proc *proc, pz_store *store)
{
    if (!store->pending)
        return;
    if (!pz_load(&store->root))
        pz_store(&store->root, store->pending);
    empty_first(proc, store);
}

static void repair(pz_proc *proc, pz_store *store, pz_shard *shard)
{
    pz_heap_settle(proc); /* which also decides whether there is a batch */
    pz_shard_repair(proc, shard, store->batch != 0);
    if (shard == &store->first)
        pz_store_split_end(proc, store);
}

static bool gate_is_shut(pz_store *store, bool change)
{
    return change && pz_load(&store->gate) & PZ_LOCKED;
}

/* Finishes the group of a dead process. Others are quick in here, so this blocks. */
static void finish_batch(pz_proc *proc, pz_store *store)
{
    uint64_t root = pz_load(&store->root);
    pz_shard *shards = shards_of(proc, store, root);
    for (uint32_t i = 0; i < (root ? PZ_SHARDS : 1); i++)
        if (pz_mutex_lock(proc, &shards[i].lock) == 1)
            repair(proc, store, &shards[i]);
    if (store->batch && root == pz_load(&store->root))
        pz_batch_finish(proc, store);
    for (uint32_t i = root ? PZ_SHARDS : 1; i-- > 0;)
        pz_mutex_unlock(proc, &shards[i].lock);
}

int pz_store_retry(pz_proc *proc, pz_store *store, uint64_t hash, bool change, pz_wait *wait, pz_shard **shard)
{
    for (;;) {
        pz_shard *found = pz_store_shard(proc, store, hash, pz_load(&store->root));
        *shard = found;
        int rc = pz_mutex_retry(proc, &found->lock, wait);
        if (rc < 0)
            return rc;
        if (rc == 1)
            repair(proc, store, found);
        bool shut = gate_is_shut(store, change);
        if (PZ_LIKELY(found == pz_store_shard(proc, store, hash, pz_load(&store->root)) && !shut && !store->batch))
            return 0;
        bool unfinished = store->batch != 0;
        pz_mutex_unlock(proc, &found->lock);
        if (unfinished) {
            finish_batch(proc, store);
        } else if (shut) {
            *shard = NULL;
            return -EBUSY;
        }
    }
}

int pz_store_await(pz_proc *proc, pz_store *store, pz_shard *shard, pz_wait *wait)
{
    if (!shard) {
        if (!(pz_load(&store->gate) & PZ_LOCKED))
            return 0;
        int rc = pz_mutex_await(proc, &store->gate, wait);
        if (rc == 0 && wait->suspect && pz_mutex_retry(proc, &store->gate, wait) >= 0)
            pz_group_end(proc, store); /* its owner died, and has changed nothing */
        wait->suspect = 0;
        return rc;
    }
    pz_poke(&shard->waits, pz_peek(&shard->waits) + 1);
    return pz_mutex_await(proc, &shard->lock, wait);
}

int pz_store_lock_all(pz_proc *proc, pz_store *store, bool change, pz_wait *wait, pz_shard **shard)
{
    for (;;) {
        uint64_t root = pz_load(&store->root);
        pz_shard *shards = shards_of(proc, store, root);
        uint32_t n = root ? PZ_SHARDS : 1, taken = 0;
        int rc = 0;
        for (; taken < n; taken++) {
            rc = pz_mutex_retry(proc, &shards[taken].lock, wait);
            if (rc < 0)
                break;
            if (rc == 1)
                repair(proc, store, &shards[taken]);
        }
        if (rc >= 0 && root == pz_load(&store->root)) {
            if (PZ_UNLIKELY(store->batch))
                pz_batch_finish(proc, store);
            if (PZ_LIKELY(!gate_is_shut(store, change)))
                return 0;
        }
        *shard = rc < 0 ? &shards[taken] : NULL;
        bool moved = root != pz_load(&store->root);
        while (taken > 0)
            pz_mutex_unlock(proc, &shards[--taken].lock);
        if (!moved)
            return -EBUSY;
    }
}

int pz_group_begin(pz_proc *proc, pz_store *store, pz_wait *wait, pz_shard **shard)
{
    *shard = NULL;
    int rc = pz_mutex_retry(proc, &store->gate, wait);
    if (rc < 0)
        return rc;
    /* Who has come in before is done after this. */
    rc = pz_store_lock_all(proc, store, false, wait, shard);
    if (rc < 0)
        pz_group_end(proc, store);
    else
        pz_store_unlock_all(proc, store);
    return rc;
}

void pz_group_end(pz_proc *proc, pz_store *store)
{
    if (pz_swap(&store->gate, 0) & PZ_WAITERS)
        proc->ops->futex_wake(&store->gate, INT32_MAX); /* they do not take it, so none would wake the next */
}

void pz_store_close(pz_proc *proc, pz_shard *shard)
{
    pz_mutex_unlock(proc, &shard->lock);
    if (PZ_UNLIKELY(*(volatile uint64_t *)&proc->heap->reap))
        pz_reap(proc);
}

void pz_store_unlock_all(pz_proc *proc, pz_store *store)
{
    for (uint32_t i = pz_store_shards(store); i-- > 0;)
        pz_mutex_unlock(proc, &pz_store_number(proc, store, i)->lock);
    if (PZ_UNLIKELY(*(volatile uint64_t *)&proc->heap->reap))
        pz_reap(proc);
}

pz_item *pz_store_walk(pz_proc *proc, pz_store *store, uint32_t number, uint64_t *entry)
{
    pz_shard *shard = pz_store_number(proc, store, number);
    uint64_t word = pz_peek(&shard->table), counts = pz_peek(&shard->counts);
    if (!word)
        return NULL;
    return pz_cells_next(proc, pz_is_hashed(store), word, counts, entry);
}

pz_item *pz_cells_next(const pz_proc *proc, bool hashed, uint64_t word, uint64_t counts, uint64_t *entry)
{
    pz_table *table = pz_at(proc, word & ~PZ_LOG_MASK);
    if (!hashed) {
        uint64_t mask = (UINT64_C(1) << (word & PZ_LOG_MASK)) - 1;
        if (*entry >= pz_items(counts))
            return NULL;
        return pz_item_at(proc, table->words[((counts >> 32) + (*entry)++) & mask]);
    }
    while (*entry < counts >> 32) {
        uint64_t found = table->words[(*entry)++];
        if (found)
            return pz_item_at(proc, pz_entry_place(found));
    }
    return NULL;
}

/* ---- checking ---------------------------------------------------------------------------------------------------- */

static bool free_cells_are_valid(const pz_proc *proc, const pz_shard *shard)
{
    const pz_pool *pool = pz_at(proc, shard->pool);
    for (unsigned klass = 0; shard->pool && klass < PZ_CELL_CLASSES; klass++) {
        uint64_t steps = 0;
        for (uint64_t place = pool->free[klass]; place; place = pz_item_at(proc, place)->order)
            if (place % 16 || place >= proc->size || pz_item_at(proc, place)->klass != klass || ++steps > UINT32_MAX)
                return false;
    }
    return true;
}

int pz_store_valid(pz_proc *proc, pz_store *store)
{
    for (uint32_t i = 0; i < pz_store_shards(store); i++) {
        pz_shard *shard = pz_store_number(proc, store, i);
        uint64_t word = pz_peek(&shard->table), counts = pz_peek(&shard->counts), entry = 0, found = 0, filled = 0;
        if (pz_peek(&shard->journal) || pz_peek(&shard->version) & 1 || shard->dead || store->batch)
            return -EBUSY;
        if (!free_cells_are_valid(proc, shard))
            return -EUCLEAN;
        if (!word) {
            if (counts)
                return -ERANGE;
            continue;
        }
        while (pz_store_walk(proc, store, i, &entry))
            found++;
        if (found != pz_items(counts))
            return -EOVERFLOW;
        if (!pz_is_hashed(store))
            continue;
        unsigned log = word & PZ_LOG_MASK;
        pz_table *table = pz_at(proc, word & ~PZ_LOG_MASK);
        pz_u32 *index = (pz_u32 *)(table->words + pz_table_room(log));
        found = 0;
        for (uint64_t at = 0; at < UINT64_C(1) << log; at++) {
            uint32_t e = pz_peek(&index[at]);
            filled += e != PZ_INDEX_EMPTY;
            if (e == PZ_INDEX_EMPTY || e == PZ_INDEX_DELETED)
                continue;
            if (e > counts >> 32 || table->words[e - 1] == 0)
                return -EBADF;
            found++;
        }
        if (found != pz_items(counts) || filled != table->fill)
            return -ENOLINK;
        if (counts >> 32 && table->words[(counts >> 32) - 1] == 0)
            return -EILSEQ;
    }
    return 0;
}
