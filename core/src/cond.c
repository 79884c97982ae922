/* Condition: one cell a waiter, each with its own futex word.
 *
 *   cell        from -> to                                    who
 *   FREE        -> CLAIMED       pz_cond_enter (CAS)           the waiter
 *   CLAIMED     -> WAITING       after the ticket is written   the waiter
 *   WAITING     -> NOTIFIED      pz_cond_notify (CAS)          a notifier, lowest ticket first
 *               -> FREE          timeout, interruption (CAS)   the waiter
 *   NOTIFIED    -> FREE          consumed: it has the lock     the waiter
 *   CLAIMED, WAITING -> FREE     the owner is dead             another waiter at the end of a slice
 *   NOTIFIED    -> NOTIFIED      the owner is dead             the same; by the CAS the notification is its own now (if
 *                                                              it dies too, the next takes it from there), it passes
 *                                                              it on and frees the cell
 *
 * Cells never move; more of them are linked in behind the first ones and stay.
 */
#include <string.h>

#include "pz/destroy.h"
#include "pz/sync.h"

static pz_cell *cell_at(pz_proc *proc, pz_cond *cond, uint32_t index)
{
    if (PZ_LIKELY(index < PZ_CELLS_FIRST))
        return &cond->cells[index];
    index -= PZ_CELLS_FIRST;
    uint64_t more = pz_load(&cond->more);
    while (more) {
        pz_cell_block *block = pz_at(proc, more);
        if (index < PZ_CELLS_MORE)
            return &block->cells[index];
        index -= PZ_CELLS_MORE;
        more = pz_load(&block->more);
    }
    return NULL;
}

static PZ_COLD int add_cells(pz_proc *proc, pz_cond *cond)
{
    for (;;) {
        uint64_t offset;
        pz_heap_lock(proc);
        pz_u64 *end = &cond->more;
        uint32_t room = PZ_CELLS_FIRST;
        while (pz_peek(end)) {
            end = &((pz_cell_block *)pz_at(proc, pz_peek(end)))->more;
            room += PZ_CELLS_MORE;
        }
        int rc = 0;
        if (room <= pz_load(&cond->high)) {
            rc = pz_heap_alloc(proc, sizeof(pz_cell_block), PZ_SEGMENT, &offset);
            if (rc == 0) {
                memset((pz_block *)pz_at(proc, offset) + 1, 0, sizeof(pz_cell_block) - sizeof(pz_block));
                pz_tx(proc, *end);
                pz_poke(end, offset);
            }
        }
        pz_heap_unlock(proc);
        if (rc != -EAGAIN)
            return rc;
        rc = pz_heap_reserve(proc, sizeof(pz_cell_block));
        if (rc < 0)
            return rc;
    }
}

static uint32_t sweep(pz_proc *proc, pz_cond *cond)
{
    uint32_t high = pz_load(&cond->high), freed = 0;
    for (uint32_t i = 0; i < high; i++) {
        pz_cell *cell = cell_at(proc, cond, i);
        uint32_t state = pz_load(&cell->state), owner = PZ_OWNER_OF(state);
        if ((state & 3u) == PZ_CELL_FREE || owner == proc->self || pz_owner_life(proc, owner) == PZ_ALIVE)
            continue;
        if ((state & 3u) != PZ_CELL_NOTIFIED) {
            freed += pz_cas(&cell->state, &state, PZ_CELL_FREE);
        } else if (pz_cas(&cell->state, &state, proc->self | PZ_CELL_NOTIFIED)) {
            pz_cond_notify(proc, cond, 1);
            pz_store(&cell->state, PZ_CELL_FREE);
            pz_add(&cond->passed_on, 1);
            freed++;
        }
    }
    return freed;
}

int pz_cond_enter(pz_proc *proc, pz_cond *cond, pz_cell **result)
{
    for (;;) {
        uint32_t high = pz_load(&cond->high);
        for (uint32_t i = 0; i < high; i++) {
            pz_cell *cell = cell_at(proc, cond, i);
            uint32_t old = PZ_CELL_FREE;
            if (pz_peek(&cell->state) == PZ_CELL_FREE && pz_cas(&cell->state, &old, proc->self | PZ_CELL_CLAIMED)) {
                pz_poke(&cell->asleep, 0);
                pz_poke(&cell->ticket, pz_add(&cond->tickets, 1));
                pz_store(&cell->state, proc->self | PZ_CELL_WAITING);
                *result = cell;
                return 0;
            }
        }
        if (high >= PZ_CELLS_FIRST && cell_at(proc, cond, high))
            pz_heap_settle(proc); /* who linked that cell may have died before it was committed */
        if (!cell_at(proc, cond, high)) {
            if (sweep(proc, cond))
                continue;
            int rc = add_cells(proc, cond);
            if (rc < 0)
                return rc;
        }
        pz_cas(&cond->high, &high, high + 1);
    }
}

int pz_cond_await(pz_proc *proc, pz_cond *cond, pz_cell *cell, pz_wait *wait)
{
    uint32_t waiting = proc->self | PZ_CELL_WAITING;
    for (;;) {
        if (pz_load(&cell->state) != waiting || pz_spin(proc, &cell->state, waiting, &cond->spin, wait))
            return 0;
        pz_swap(&cell->asleep, 1);
        int rc = pz_sleep(proc, &cell->state, waiting, wait);
        if (rc < 0 && pz_load(&cell->state) == waiting) {
            if (rc == -EINTR)
                sweep(proc, cond);
            if (pz_load(&cell->state) == waiting)
                return rc;
        }
    }
}

int pz_cond_wait(pz_proc *proc, pz_cond *cond, pz_cell *cell, pz_wait *wait)
{
    int rc = pz_cond_await(proc, cond, cell, wait);
    if (rc == -EINTR)
        return rc;
    return pz_cond_leave(proc, cond, cell) ? 0 : rc;
}

bool pz_cond_leave(pz_proc *proc, pz_cond *cond, pz_cell *cell)
{
    (void)cond;
    uint32_t waiting = proc->self | PZ_CELL_WAITING;
    if (pz_cas(&cell->state, &waiting, PZ_CELL_FREE))
        return false;
    pz_store(&cell->state, PZ_CELL_FREE);
    return true;
}

uint32_t pz_cond_notify(pz_proc *proc, pz_cond *cond, uint32_t count)
{
    uint32_t done = 0;
    while (done < count) {
        uint32_t high = pz_load(&cond->high), state = 0;
        pz_cell *best = NULL;
        uint64_t ticket = 0;
        for (uint32_t i = 0; i < high; i++) {
            pz_cell *cell = cell_at(proc, cond, i);
            uint32_t seen = pz_load(&cell->state);
            uint64_t mine = pz_peek(&cell->ticket);
            if ((seen & 3u) == PZ_CELL_WAITING && (!best || mine < ticket)) {
                best = cell;
                ticket = mine;
                state = seen;
            }
        }
        if (!best)
            break;
        if (!pz_cas(&best->state, &state, PZ_OWNER_OF(state) | PZ_CELL_NOTIFIED))
            continue;
        done++;
        if (pz_load(&best->asleep))
            proc->ops->futex_wake(&best->state, 1);
    }
    if (done)
        pz_add(&cond->notified, done);
    return done;
}

uint32_t pz_cond_waiting(pz_proc *proc, pz_cond *cond)
{
    uint32_t high = pz_load(&cond->high), count = 0;
    for (uint32_t i = 0; i < high; i++)
        count += (pz_load(&cell_at(proc, cond, i)->state) & 3u) == PZ_CELL_WAITING;
    return count;
}

void pz_cond_drop(pz_proc *proc, pz_block *block)
{
    pz_cond *cond = (pz_cond *)block;
    while (pz_peek(&cond->more)) {
        uint64_t offset = pz_peek(&cond->more);
        pz_cell_block *cells = pz_at(proc, offset);
        pz_tx(proc, cond->more);
        pz_poke(&cond->more, pz_peek(&cells->more));
        pz_heap_free(proc, offset);
        pz_tx_commit(proc);
    }
}
