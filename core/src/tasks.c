/* Who has taken how many items of a JoinableQueue and not yet reported them done.
 *
 * unfinished = put_items - done_items. Items whose consumer died before task_done are added to done_items and `lost` by
 * the next one who joins, in one transaction, so that join ends and can say so.
 */
#include "pz/ring.h"

#define HOLDERS ((4096u - sizeof(pz_block)) / sizeof(pz_task_holder))

static pz_task_holder *holders(pz_proc *proc, pz_ring *ring)
{
    return (pz_task_holder *)((pz_block *)pz_at(proc, ring->tasks) + 1);
}

/* Inside the get lock: the entry of this process, or a free one (owner 0), or NULL. */
static pz_task_holder *mine(pz_proc *proc, pz_ring *ring)
{
    pz_task_holder *table = holders(proc, ring), *free_one = NULL;
    for (size_t i = 0; i < HOLDERS; i++) {
        if (table[i].owner == proc->self)
            return &table[i];
        if (!free_one && table[i].outstanding == 0)
            free_one = &table[i];
        if (table[i].owner == 0)
            break; /* never used, nor any behind it */
    }
    return free_one;
}

void pz_tasks_taken(pz_proc *proc, pz_ring *ring, uint64_t items)
{
    pz_task_holder *holder = mine(proc, ring);
    if (!holder)
        return; /* more consumers than entries: these items cannot be told as lost */
    _Static_assert(sizeof(pz_task_holder) == 8, "one store changes a whole entry");
    union {
        pz_task_holder holder;
        uint64_t word;
    } next = {.holder = {proc->self, (uint32_t)items}};
    if (holder->owner == proc->self)
        next.holder.outstanding += holder->outstanding;
    ring->j_value = *(uint64_t *)holder;
    PZ_ORDER();
    ring->j_holder = pz_offset(proc, holder);
    PZ_ORDER();
    *(volatile uint64_t *)holder = next.word;
}

uint64_t pz_tasks_unfinished(pz_ring *ring)
{
    uint64_t done = pz_load(&ring->done_items), put = pz_load(&ring->put_items);
    return put > done ? put - done : 0;
}

static void done_some(pz_proc *proc, pz_ring *ring)
{
    if (pz_tasks_unfinished(ring) > 0)
        return;
    pz_add(&ring->done_turn, 1);
    if (pz_swap(&ring->joiners_asleep, 0))
        proc->ops->futex_wake(&ring->done_turn, INT32_MAX);
}

int pz_task_done(pz_proc *proc, pz_ring *ring, pz_wait *wait)
{
    pz_get get;
    int rc = pz_get_open(proc, ring, &get, wait);
    if (rc < 0)
        return rc;
    pz_task_holder *table = holders(proc, ring), *holder = mine(proc, ring);
    if (!holder || holder->owner != proc->self || holder->outstanding == 0) {
        /* Another process took the item and passed it on: any live holder's will do. */
        holder = NULL;
        for (size_t i = 0; i < HOLDERS && table[i].owner && !holder; i++)
            if (table[i].outstanding)
                holder = &table[i];
    }
    rc = pz_tasks_unfinished(ring) == 0 ? -EPERM : 0;
    if (rc == 0) {
        pz_heap_lock(proc);
        pz_tx(proc, ring->done_items);
        pz_poke(&ring->done_items, pz_peek(&ring->done_items) + 1);
        if (holder) {
            pz_tx(proc, *holder);
            holder->outstanding--;
        }
        pz_heap_unlock(proc);
    }
    pz_get_close(proc, ring, &get, true);
    if (rc == 0)
        done_some(proc, ring);
    return rc;
}

/* Items of dead consumers become done and lost. */
static int bury_lost(pz_proc *proc, pz_ring *ring, pz_wait *wait)
{
    pz_get get;
    int rc = pz_get_open(proc, ring, &get, wait);
    if (rc < 0)
        return rc;
    pz_task_holder *table = holders(proc, ring);
    for (size_t i = 0; i < HOLDERS && table[i].owner; i++) {
        if (table[i].outstanding == 0 || pz_owner_life(proc, table[i].owner) == PZ_ALIVE)
            continue;
        pz_heap_lock(proc);
        pz_tx(proc, ring->done_items);
        pz_tx(proc, ring->lost);
        pz_tx(proc, table[i]);
        pz_poke(&ring->done_items, pz_peek(&ring->done_items) + table[i].outstanding);
        pz_poke(&ring->lost, pz_peek(&ring->lost) + table[i].outstanding);
        table[i].outstanding = 0;
        pz_heap_unlock(proc);
    }
    pz_get_close(proc, ring, &get, true);
    done_some(proc, ring);
    return 0;
}

/* The same inside the heap lock, which undoes what somebody who died had not finished; then `lost` is right too. */
static bool all_done(pz_proc *proc, pz_ring *ring, uint32_t *lost)
{
    pz_heap_lock(proc);
    bool done = pz_tasks_unfinished(ring) == 0;
    if (done) {
        *lost = (uint32_t)pz_peek(&ring->lost);
        pz_tx(proc, ring->lost);
        pz_poke(&ring->lost, 0);
    }
    pz_heap_unlock(proc);
    return done;
}

int pz_tasks_join(pz_proc *proc, pz_ring *ring, pz_wait *wait, uint32_t *lost)
{
    for (;;) {
        uint32_t turn = pz_load(&ring->done_turn);
        if (pz_tasks_unfinished(ring) == 0 && all_done(proc, ring, lost))
            return 0;
        pz_swap(&ring->joiners_asleep, 1);
        if (pz_load(&ring->done_turn) != turn)
            continue;
        int rc = pz_sleep(proc, &ring->done_turn, turn, wait);
        if (rc == 0)
            continue;
        int buried = bury_lost(proc, ring, wait);
        if (pz_tasks_unfinished(ring) > 0)
            return rc < 0 ? rc : buried;
    }
}
