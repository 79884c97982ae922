/* Pools: taking batches, waiting for them, and what a dead worker leaves. See pool.h for the steps. */
#include "pz/pool.h"

#include <string.h>

#include "pz/destroy.h"

static inline pz_u32 *low_half(pz_u64 *word)
{
    return (pz_u32 *)(void *)word;
}

int pz_pool_new(pz_proc *proc, pz_ref *ref)
{
    int rc = pz_object_new(proc, sizeof(pz_pool), PZ_POOL, ref);
    if (rc < 0)
        return rc;
    pz_pool *pool = pz_at(proc, ref->offset);
    rc = pz_ring_init(proc, &pool->tasks, 0, 0, 0);
    if (rc == 0)
        rc = pz_ring_init(proc, &pool->results, 0, 0, 0);
    if (rc < 0)
        pz_object_close(proc, ref);
    return rc;
}

int pz_pool_grow(pz_proc *proc, pz_pool *pool, uint32_t count)
{
    if (count > PZ_DESKS_MAX)
        return -EINVAL;
    while (pz_peek(&pool->desks) < count) {
        uint64_t offset;
        pz_heap_lock(proc);
        int rc = pz_peek(&pool->desks) >= count ? -EEXIST : pz_heap_alloc(proc, sizeof(pz_desk), PZ_SEGMENT, &offset);
        if (rc == 0) {
            memset((pz_block *)pz_at(proc, offset) + 1, 0, offsetof(pz_desk, task) - sizeof(pz_block));
            uint32_t rank = pz_peek(&pool->desks);
            pz_tx(proc, pool->desk_at[rank]);
            pz_tx(proc, pool->desks);
            pool->desk_at[rank] = offset;
            pz_store(&pool->desks, rank + 1);
        }
        pz_heap_unlock(proc);
        if (rc == -EAGAIN)
            rc = pz_heap_reserve(proc, sizeof(pz_desk));
        if (rc < 0 && rc != -EEXIST)
            return rc;
    }
    return 0;
}

void pz_pool_drop(pz_proc *proc, pz_block *block)
{
    pz_pool *pool = (pz_pool *)block;
    /* Also where there is no tail: of a pool that was not finished, or after a crash in here, when a spare is left. */
    pz_ring_empty(proc, &pool->tasks.block);
    pz_ring_empty(proc, &pool->results.block);
    while (pz_peek(&pool->desks) > 0) {
        uint32_t rank = pz_peek(&pool->desks) - 1;
        uint64_t offset = pool->desk_at[rank];
        pz_tx(proc, pool->desks);
        pz_poke(&pool->desks, rank);
        pz_heap_free(proc, offset);
        pz_tx_commit(proc);
    }
}

void pz_desk_become(pz_desk *desk, enum pz_desk_state state)
{
    pz_store(&desk->turn, (pz_peek(&desk->turn) & ~UINT64_C(0xff)) | state);
}

/* ---- waking and waiting ------------------------------------------------------------------------------------------ */

static void wake_one(pz_proc *proc, pz_pool *pool)
{
    if (!pz_swap(&pool->asleep, 0))
        return;
    /* Others may sleep on: who is woken says so before it takes, in pz_pool_await. If it were said here, whoever put or
     * took in between would wake nobody. */
    pz_add(&pool->turn, 1);
    proc->ops->futex_wake(&pool->turn, 1);
}

void pz_pool_wake(pz_proc *proc, pz_pool *pool)
{
    /* SYNC: a spinner leaves `spinning` before it looks at the ring for the last time; see pz_pool_await. */
    if ((uint64_t)__builtin_popcountll(pz_peek(&pool->spinning)) < pz_ring_items(&pool->tasks))
        wake_one(proc, pool);
}

void pz_pool_stir(pz_proc *proc, pz_pool *pool)
{
    pz_add(&pool->turn, 1);
    proc->ops->futex_wake(&pool->turn, INT32_MAX);
}

void pz_pool_shut(pz_proc *proc, pz_pool *pool)
{
    pz_ring_shut(proc, &pool->tasks, PZ_NO_WRITER);
    pz_pool_stir(proc, pool);
}

static bool is_wanted(pz_pool *pool, pz_desk *desk)
{
    return !pz_ring_is_empty(&pool->tasks) || pz_load(&desk->orders) || pz_load(&pool->tasks.closed) & PZ_NO_WRITER;
}

/* Who goes to obey may be the one that whoever put a batch counted on, or woke: somebody else is to take it. */
static int to_work(pz_proc *proc, pz_pool *pool, pz_desk *desk)
{
    if (PZ_UNLIKELY(pz_load(&desk->orders)) && !pz_ring_is_empty(&pool->tasks))
        pz_pool_notify(proc, pool);
    return 0;
}

int pz_pool_await(pz_proc *proc, pz_pool *pool, pz_desk *desk, uint32_t rank, pz_wait *wait)
{
    uint64_t bit = UINT64_C(1) << (rank % 64);
    if (pz_peek(&pool->tasks.get_lock) & PZ_LOCKED && !pz_ring_is_empty(&pool->tasks)) {
        int rc = pz_get_await(proc, &pool->tasks, wait);
        if (rc < 0)
            return rc;
    }
    bool slept = false;
    for (;;) {
        uint32_t turn = pz_load(&pool->turn);
        uint64_t tail = pz_load(&pool->tasks.tail);
        if (is_wanted(pool, desk)) {
            if (slept) /* others may sleep on; see wake_one */
                pz_swap(&pool->asleep, 1);
            return to_work(proc, pool, desk);
        }
        if (!wait->spun) {
            atomic_fetch_or_explicit(&pool->spinning, bit, memory_order_seq_cst);
            pz_spin(proc, low_half(&pool->tasks.tail), (uint32_t)tail, &pool->spin, wait);
            wait->spun = 1;
            atomic_fetch_and_explicit(&pool->spinning, ~bit, memory_order_seq_cst);
            continue;
        }
        pz_swap(&pool->asleep, 1);
        if (is_wanted(pool, desk))
            return to_work(proc, pool, desk);
        slept = true;
        uint32_t sleeps = wait->sleeps;
        wait->sleeps = PZ_PATIENT; /* a death that takes a wake-up with it is made good by pz_pool_settle */
        int rc = pz_sleep(proc, &pool->turn, turn, wait);
        wait->sleeps = sleeps;
        if (rc < 0 && !is_wanted(pool, desk))
            return rc;
    }
}

static bool is_over(pz_pool *pool)
{
    return pz_load(&pool->tasks.closed) & PZ_NO_WRITER && pz_ring_is_empty(&pool->tasks);
}

int pz_pool_take(pz_proc *proc, pz_pool *pool, pz_desk *desk, const pz_wait *wait)
{
    pz_ring *ring = &pool->tasks;
    const pz_record *record;
    const uint8_t *payload;
    pz_get get;
    int rc = pz_get_retry(proc, ring, &get, wait);
    if (rc < 0) /* over also if it is a dead worker that has the lock: it took the last one, and nobody waits for that */
        return is_over(pool) ? -EPIPE : rc;
    rc = pz_get_record(proc, ring, &get, &record, &payload);
    if (rc == 0) {
        memcpy(desk->task, payload, record->length);
        desk->length = record->length;
        pz_poke(&desk->at, ((pz_batch *)(void *)desk->task)->from);
        get.note = &desk->turn;
        get.note_value = ((pz_peek(&desk->turn) >> 8) + 1) << 8 | PZ_DESK_TAKEN;
    }
    pz_get_close(proc, ring, &get, false);
    if (rc == 0 && !pz_ring_is_empty(ring))
        pz_pool_notify(proc, pool); /* one wake-up may have stood for several batches */
    return rc == -EAGAIN && is_over(pool) ? -EPIPE : rc;
}

/* ---- after a death ----------------------------------------------------------------------------------------------- */

static bool is_dead(pz_proc *proc, pz_u32 *lock)
{
    uint32_t seen = pz_peek(lock);
    return seen & PZ_LOCKED && PZ_OWNER_OF(seen) != proc->self && pz_owner_life(proc, PZ_OWNER_OF(seen)) == PZ_DEAD;
}

/* Whether the journal of a get still says what that desk's `turn` was: another worker may be about to put it back. */
static bool is_noted(pz_proc *proc, pz_ring *ring, pz_desk *desk)
{
    /* SYNC: who sees that repair_get has forgotten it sees what it put back. */
    return __atomic_load_n(&ring->j_holder, __ATOMIC_ACQUIRE) == pz_offset(proc, &desk->turn);
}

void pz_pool_settle(pz_proc *proc, pz_pool *pool, uint32_t rank)
{
    pz_ring *rings[] = {&pool->tasks, &pool->results};
    pz_desk *desk = pz_desk_at(proc, pool, rank);
    for (int i = 0; i < 2; i++) {
        pz_wait wait;
        pz_get get;
        pz_put put;
        pz_wait_init(&wait, 0);
        if (is_dead(proc, &rings[i]->get_lock) && pz_get_open(proc, rings[i], &get, &wait) == 0)
            pz_get_close(proc, rings[i], &get, true);
        pz_wait_init(&wait, PZ_FOREVER);
        while (is_noted(proc, rings[i], desk))
            if (pz_get_open(proc, rings[i], &get, &wait) == 0)
                pz_get_close(proc, rings[i], &get, true);
        pz_wait_init(&wait, 0);
        if (is_dead(proc, &rings[i]->put_lock) && pz_put_open(proc, rings[i], &put, &wait) == 0)
            pz_put_close(proc, rings[i], &put);
    }
    atomic_fetch_and_explicit(&pool->spinning, ~(UINT64_C(1) << (rank % 64)), memory_order_seq_cst);
    pz_swap(&pool->asleep, 1); /* it may have been woken, and died before it said that others sleep on */
    if (!pz_ring_is_empty(&pool->tasks))
        wake_one(proc, pool);
}

/* ---- cancelled calls --------------------------------------------------------------------------------------------- */

static pz_cancel *find_cancel(pz_pool *pool, uint64_t job, uint32_t index, bool exactly)
{
    uint32_t count = pz_load(&pool->cancels);
    for (uint32_t i = 0; i < count; i++) {
        pz_cancel *entry = &pool->cancelled[i];
        if (pz_load(&entry->job) != job)
            continue;
        uint32_t which = pz_load(&entry->index); /* SYNC: pairs with the store of index in pz_pool_cancel */
        if ((which == index || (which == PZ_ALL_CALLS && !exactly)) && pz_load(&entry->job) == job)
            return entry; /* looked at twice: the entry may have been freed and used for another job in between */
    }
    return NULL;
}

int pz_pool_cancel(pz_pool *pool, uint64_t job, uint32_t index)
{
    if (find_cancel(pool, job, index, true))
        return 0;
    for (uint32_t i = 0; i < PZ_CANCELS; i++) {
        pz_cancel *entry = &pool->cancelled[i];
        uint64_t nobody = 0;
        uint32_t count = pz_load(&pool->cancels);
        if (!pz_cas(&entry->job, &nobody, PZ_CLAIMED))
            continue;
        pz_store(&entry->index, index); /* who sees it sees that the entry was free */
        while (i >= count && !pz_cas(&pool->cancels, &count, i + 1))
            ;
        PZ_ORDER();
        pz_store(&entry->job, job);
        return 0;
    }
    return -ENOSPC;
}

bool pz_pool_is_cancelled(pz_pool *pool, uint64_t job, uint32_t index)
{
    return PZ_UNLIKELY(pz_peek(&pool->cancels) != 0) && find_cancel(pool, job, index, false) != NULL;
}

void pz_pool_uncancel(pz_pool *pool, uint64_t job, uint32_t index)
{
    pz_cancel *entry;
    while ((entry = find_cancel(pool, job, index, true))) { /* perhaps it was entered twice */
        uint64_t old = job;
        pz_cas(&entry->job, &old, 0); /* it may be another's by now */
    }
}
