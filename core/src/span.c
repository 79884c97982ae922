/* Spans of pages: which are free, which of those are backed by memory, and the reservation of more.
 *
 *   never used --take--> LARGE/SMALL --give--> WARM (backed, free) --take--> ...
 *        |                                        | pz_heap_trim: MADV_REMOVE
 *        +---- pz_heap_reserve: fallocate <-- COLD (not backed, free)
 *
 * Reserving and giving back are system calls that may take long, so they run outside the heap lock on a span that is
 * marked as MOVING by this process: if it dies meanwhile the sweep of its slot makes the span COLD again.
 */
#include "span.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#include "pz/refs.h"

#define FALLOCATE_STEP (UINT64_C(16) << 20)

static unsigned bin_of(uint32_t pages)
{
    return 31u - (unsigned)__builtin_clz(pages);
}

static void mark(pz_proc *proc, uint32_t first, uint32_t pages, uint16_t use)
{
    uint32_t edges[2] = {first, first + pages - 1};
    for (unsigned i = 0; i < (pages > 1 ? 2u : 1u); i++) {
        pz_page *page = pz_page_at(proc, edges[i]);
        pz_tx(proc, page->span);
        page->span = pages;
        page->use = use;
    }
}

void pz_pages_push(pz_proc *proc, uint32_t *head, uint32_t index)
{
    pz_page *page = pz_page_at(proc, index);
    pz_tx(proc, page->next);
    page->next = *head;
    page->prev = 0;
    if (*head) {
        pz_page *other = pz_page_at(proc, *head);
        pz_tx(proc, other->prev);
        other->prev = index;
    }
    pz_tx(proc, *head);
    *head = index;
}

void pz_pages_remove(pz_proc *proc, uint32_t *head, uint32_t index)
{
    pz_page *page = pz_page_at(proc, index);
    if (page->next) {
        pz_page *other = pz_page_at(proc, page->next);
        pz_tx(proc, other->prev);
        other->prev = page->prev;
    }
    if (page->prev) {
        pz_page *other = pz_page_at(proc, page->prev);
        pz_tx(proc, other->next);
        other->next = page->next;
    } else {
        pz_tx(proc, *head);
        *head = page->next;
    }
}

uint32_t pz_span_after(const pz_proc *proc, uint32_t index)
{
    for (;;) {
        const pz_page *page = pz_page_at(proc, index);
        index += page->use == PZ_USE_SMALL || page->span == 0 ? 1 : page->span;
        if (index >= proc->heap->end_page)
            return index;
        page = pz_page_at(proc, index);
        if (page->use != PZ_USE_WARM && page->use != PZ_USE_COLD)
            return index;
    }
}

static void link_span(pz_proc *proc, uint32_t first, uint32_t pages, bool backed)
{
    mark(proc, first, pages, backed ? PZ_USE_WARM : PZ_USE_COLD);
    pz_pages_push(proc, &proc->heap->spans[backed][bin_of(pages)], first);
}

static void unlink_span(pz_proc *proc, uint32_t first, bool backed)
{
    pz_pages_remove(proc, &proc->heap->spans[backed][bin_of(pz_page_at(proc, first)->span)], first);
}

static uint32_t find(pz_proc *proc, uint32_t pages, bool backed)
{
    unsigned bin = bin_of(pages);
    uint32_t index = proc->heap->spans[backed][bin], looked = 0;
    for (; index && looked < 64; index = pz_page_at(proc, index)->next, looked++)
        if (pz_page_at(proc, index)->span >= pages)
            return index;
    while (++bin < PZ_BINS)
        if (proc->heap->spans[backed][bin])
            return proc->heap->spans[backed][bin];
    return 0;
}

bool pz_span_take(pz_proc *proc, uint32_t pages, bool backed, uint32_t *first)
{
    pz_heap *heap = proc->heap;
    uint32_t index = find(proc, pages, backed);
    if (index == 0) {
        if (backed || heap->max_pages - heap->end_page < pages)
            return false;
        index = heap->end_page;
        pz_tx(proc, heap->end_page);
        heap->end_page += pages;
    } else {
        uint32_t span = pz_page_at(proc, index)->span;
        unlink_span(proc, index, backed);
        if (span > pages)
            link_span(proc, index + pages, span - pages, backed);
    }
    mark(proc, index, pages, PZ_USE_LARGE);
    pz_page *page = pz_page_at(proc, index);
    pz_tx(proc, page->next);
    page->next = page->prev = 0;
    if (backed) {
        pz_tx(proc, heap->warm);
        pz_poke(&heap->warm, pz_peek(&heap->warm) - ((uint64_t)pages << PZ_PAGE_SHIFT));
    }
    *first = index;
    return true;
}

void pz_span_give(pz_proc *proc, uint32_t first, uint32_t pages, bool backed)
{
    pz_heap *heap = proc->heap;
    uint16_t use = backed ? PZ_USE_WARM : PZ_USE_COLD;
    if (backed) {
        pz_tx(proc, heap->warm);
        pz_poke(&heap->warm, pz_peek(&heap->warm) + ((uint64_t)pages << PZ_PAGE_SHIFT));
    }
    if (first > heap->first_page && pz_page_at(proc, first - 1)->use == use) {
        uint32_t before = pz_page_at(proc, first - 1)->span;
        unlink_span(proc, first - before, backed);
        first -= before;
        pages += before;
    }
    if (first + pages < heap->end_page && pz_page_at(proc, first + pages)->use == use) {
        uint32_t after = first + pages;
        pages += pz_page_at(proc, after)->span;
        unlink_span(proc, after, backed);
    }
    link_span(proc, first, pages, backed);
}

/* ---- memory from and to the kernel ------------------------------------------------------------------------------ */

static int back(pz_proc *proc, uint64_t offset, uint64_t bytes)
{
    while (bytes) {
        uint64_t step = bytes < FALLOCATE_STEP ? bytes : FALLOCATE_STEP;
        int rc;
        do
            rc = fallocate(proc->fd, 0, (off_t)offset, (off_t)step);
        while (rc < 0 && errno == EINTR);
        if (rc < 0)
            return errno == ENOSPC || errno == EFBIG ? -ENOMEM : -errno;
        offset += step;
        bytes -= step;
    }
    return 0;
}

static void unback(pz_proc *proc, uint64_t offset, uint64_t bytes)
{
    (void)madvise(pz_at(proc, offset), bytes, MADV_REMOVE);
}

/* Takes a span to work on it outside the lock. Its owner stands in the page table (page->free), as the span itself has
 * no memory, or loses it, mark and all. */
static int take_moving(pz_proc *proc, uint32_t pages, bool backed, uint32_t *first)
{
    pz_heap *heap = proc->heap;
    if (!pz_span_take(proc, pages, backed, first))
        return -ENOMEM;
    pz_page *page = pz_page_at(proc, *first);
    pz_tx(proc, page->free);
    page->free = PZ_BY_SLOT(proc->self);
    mark(proc, *first, pages, PZ_USE_MOVING);
    if (backed) {
        pz_tx(proc, heap->backed);
        pz_poke(&heap->backed, pz_peek(&heap->backed) - ((uint64_t)pages << PZ_PAGE_SHIFT));
    }
    return 0;
}

/* Ends the move. */
static void moved(pz_proc *proc, uint32_t first, bool backed)
{
    pz_heap *heap = proc->heap;
    pz_page *page = pz_page_at(proc, first);
    if (backed) {
        pz_tx(proc, heap->backed);
        pz_poke(&heap->backed, pz_peek(&heap->backed) + ((uint64_t)page->span << PZ_PAGE_SHIFT));
    }
    pz_tx(proc, page->free);
    page->free = 0;
    pz_span_give(proc, first, page->span, backed);
}

static int reserve(pz_proc *proc, uint32_t pages)
{
    pz_heap *heap = proc->heap;
    uint64_t bytes = (uint64_t)pages << PZ_PAGE_SHIFT;
    uint32_t first;
    pz_heap_lock(proc);
    int rc = pz_peek(&heap->backed) + bytes > pz_peek(&heap->limit) ? -ENOMEM : take_moving(proc, pages, false, &first);
    pz_heap_unlock(proc);
    if (rc < 0)
        return rc;
    uint64_t offset = (uint64_t)first << PZ_PAGE_SHIFT;
    if (bytes >= (UINT64_C(1) << 20) && pz_memory_headroom() < bytes + bytes / 16)
        rc = -ENOMEM;
    if (rc == 0)
        rc = back(proc, offset, bytes);
    if (rc < 0)
        unback(proc, offset, bytes);
    pz_heap_lock(proc);
    if (rc == 0 && pz_peek(&heap->backed) + bytes > pz_peek(&heap->limit))
        rc = -ENOMEM; /* somebody else was faster */
    moved(proc, first, rc == 0);
    pz_heap_unlock(proc);
    return rc;
}

/* Gives one free span of at most `most` bytes back; false if there is none. */
static bool give_back_one(pz_proc *proc, uint64_t most)
{
    pz_heap *heap = proc->heap;
    uint32_t first = 0, pages = 0;
    pz_heap_lock(proc);
    int rc = -ENOMEM;
    for (unsigned bin = PZ_BINS; bin-- > 0;)
        if (heap->spans[1][bin]) {
            pages = pz_page_at(proc, heap->spans[1][bin])->span;
            if (pages > (most >> PZ_PAGE_SHIFT))
                pages = (uint32_t)(most >> PZ_PAGE_SHIFT);
            if (pages)
                rc = take_moving(proc, pages, true, &first);
            break;
        }
    pz_heap_unlock(proc);
    if (rc < 0)
        return false;
    unback(proc, (uint64_t)first << PZ_PAGE_SHIFT, (uint64_t)pages << PZ_PAGE_SHIFT);
    pz_heap_lock(proc);
    moved(proc, first, false);
    pz_heap_unlock(proc);
    return true;
}

void pz_span_reclaim(pz_proc *proc, uint32_t owner)
{
    pz_heap *heap = proc->heap;
    for (uint32_t index = heap->first_page, next; index < heap->end_page; index = next) {
        pz_page *page = pz_page_at(proc, index);
        next = pz_span_after(proc, index);
        if (page->use == PZ_USE_MOVING && page->free == PZ_BY_SLOT(owner)) {
            unback(proc, (uint64_t)index << PZ_PAGE_SHIFT, (uint64_t)page->span << PZ_PAGE_SHIFT);
            moved(proc, index, false);
            pz_tx_commit(proc);
        }
    }
}

void pz_heap_trim(pz_proc *proc, uint64_t keep)
{
    for (;;) {
        uint64_t warm = pz_peek(&proc->heap->warm);
        if (PZ_LIKELY(warm <= keep) || !give_back_one(proc, warm - keep))
            return;
    }
}

int pz_heap_reserve(pz_proc *proc, uint64_t size)
{
    pz_heap *heap = proc->heap;
    uint64_t need = size > PZ_SMALL_MAX ? size : 1;
    if (need > proc->size)
        return -ENOMEM;
    uint32_t pages = (uint32_t)((need + PZ_PAGE - 1) >> PZ_PAGE_SHIFT);
    uint64_t growth = pz_peek(&heap->backed) / 8;
    uint32_t more = (uint32_t)((growth < (4u << 20) ? growth : (4u << 20)) >> PZ_PAGE_SHIFT);
    if (more > pages && reserve(proc, more) == 0)
        return 0;
    int rc = reserve(proc, pages);
    if (rc != -ENOMEM)
        return rc;
    /* At the limit: memory that is free in pieces too small can be given back and taken anew, and the dead may hold some. */
    pz_sweep_all(proc);
    uint64_t over = pz_peek(&heap->backed) + ((uint64_t)pages << PZ_PAGE_SHIFT), limit = pz_peek(&heap->limit);
    uint64_t warm = pz_peek(&heap->warm);
    if (over > limit && over - limit <= warm)
        pz_heap_trim(proc, warm - (over - limit));
    return reserve(proc, pages);
}

void pz_heap_init(pz_proc *proc, uint64_t limit)
{
    pz_heap *heap = proc->heap;
    uint64_t table = (proc->size >> PZ_PAGE_SHIFT) * sizeof(pz_page);
    heap->max_pages = (uint32_t)(proc->size >> PZ_PAGE_SHIFT);
    heap->first_page = heap->end_page = (uint32_t)((PZ_TABLE_OFFSET + table + PZ_PAGE - 1) >> PZ_PAGE_SHIFT);
    pz_poke(&heap->limit, limit);
}

/* ---- checking ---------------------------------------------------------------------------------------------------- */

int pz_heap_valid(pz_proc *proc)
{
    pz_heap *heap = proc->heap;
    uint64_t used = 0, blocks = 0, warm = 0, backed_pages = 0, linked[2] = {0, 0}, found[2] = {0, 0};
    if (pz_peek(&heap->journal) != 0)
        return -EBUSY;
    for (uint32_t index = heap->first_page; index < heap->end_page;) {
        pz_page *page = pz_page_at(proc, index);
        uint32_t span = page->use == PZ_USE_SMALL ? 1 : page->span;
        if (span == 0 || index + span > heap->end_page)
            return -EFAULT;
        pz_page *last = pz_page_at(proc, index + span - 1);
        if (page->use != PZ_USE_SMALL && (last->use != page->use || last->span != span))
            return -EILSEQ;
        if (page->use == PZ_USE_WARM || page->use == PZ_USE_COLD)
            found[page->use == PZ_USE_WARM]++;
        if (page->use == PZ_USE_WARM)
            warm += (uint64_t)span << PZ_PAGE_SHIFT;
        if (page->use == PZ_USE_WARM || page->use == PZ_USE_SMALL || page->use == PZ_USE_LARGE)
            backed_pages += span;
        if (page->use == PZ_USE_MOVING && page->free == 0)
            return -EOWNERDEAD;
        if (page->use == PZ_USE_LARGE) {
            used += (uint64_t)span << PZ_PAGE_SHIFT;
            blocks++;
            if (pz_block_at(proc, (uint64_t)index << PZ_PAGE_SHIFT)->gen == 0)
                return -EBADF;
        }
        if (page->use == PZ_USE_SMALL) {
            uint64_t bytes = pz_class_bytes(page->klass), count = 0;
            for (uint32_t i = 0; i < page->fresh; i++)
                count += pz_block_at(proc, ((uint64_t)index << PZ_PAGE_SHIFT) + i * bytes)->gen != 0;
            if (count != page->used)
                return -ERANGE;
            used += count * bytes;
            blocks += count;
        }
        index += span;
    }
    for (unsigned backed = 0; backed < 2; backed++)
        for (unsigned bin = 0; bin < PZ_BINS; bin++)
            for (uint32_t i = heap->spans[backed][bin]; i; i = pz_page_at(proc, i)->next) {
                pz_page *page = pz_page_at(proc, i);
                if (page->use != (backed ? PZ_USE_WARM : PZ_USE_COLD) || bin_of(page->span) != bin)
                    return -ELOOP;
                if (++linked[backed] > found[backed])
                    return -EMLINK;
            }
    if (linked[0] != found[0] || linked[1] != found[1])
        return -ENOLINK;
    if (used != heap->used || blocks != heap->blocks || warm != pz_peek(&heap->warm) || pz_peek(&heap->backed) != backed_pages << PZ_PAGE_SHIFT)
        return -EOVERFLOW;
    return 0;
}
