/* Spans of pages: which are free, which of those are backed by memory, and the reservation of more.
 *
 *   never used --take--> LARGE/SMALL --give--> WARM (backed, free) --take--> ...
 *        |                                        | pz_heap_trim: MADV_REMOVE
 *        +---- pz_heap_reserve: fallocate <-- COLD (not backed, free)
 *
 * Reserving and giving back are system calls that may take long, so they run outside the heap lock on a span that is
 * taken as a private, UNBACKED parcel: if the process dies meanwhile the sweep of its slot makes the span COLD again.
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

static void link_span(pz_proc *proc, uint32_t first, uint32_t pages, bool backed)
{
    uint32_t *head = &proc->heap->spans[backed][bin_of(pages)];
    pz_page *page = pz_page_at(proc, first);
    mark(proc, first, pages, backed ? PZ_USE_WARM : PZ_USE_COLD);
    pz_tx(proc, page->next);
    page->next = *head;
    page->prev = 0;
    if (*head) {
        pz_page *other = pz_page_at(proc, *head);
        pz_tx(proc, other->prev);
        other->prev = first;
    }
    pz_tx(proc, *head);
    *head = first;
}

static void unlink_span(pz_proc *proc, uint32_t first, bool backed)
{
    pz_page *page = pz_page_at(proc, first);
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
        uint32_t *head = &proc->heap->spans[backed][bin_of(page->span)];
        pz_tx(proc, *head);
        *head = page->next;
    }
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
        heap->warm -= (uint64_t)pages << PZ_PAGE_SHIFT;
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
        heap->warm += (uint64_t)pages << PZ_PAGE_SHIFT;
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

/* Takes a span as a private parcel that the sweep would give back as COLD. */
static int take_private(pz_proc *proc, uint32_t pages, bool backed, uint32_t *first)
{
    pz_heap *heap = proc->heap;
    if (!pz_span_take(proc, pages, backed, first))
        return -ENOMEM;
    uint64_t bytes = (uint64_t)pages << PZ_PAGE_SHIFT;
    pz_block *block = pz_block_at(proc, (uint64_t)*first << PZ_PAGE_SHIFT);
    pz_slot *slot = pz_slot_at(proc, proc->slot);
    pz_tx(proc, slot->had_parcels);
    slot->had_parcels = 1;
    pz_tx(proc, block->owner);
    pz_tx(proc, block->gen);
    pz_tx(proc, block->refs);
    pz_tx(proc, heap->serial);
    pz_tx(proc, heap->used);
    pz_tx(proc, heap->blocks);
    pz_tx(proc, heap->backed);
    do
        heap->serial++;
    while ((uint32_t)heap->serial == 0);
    pz_poke(&block->owner, PZ_BY_SLOT(proc->self));
    block->gen = (uint32_t)heap->serial;
    block->kind = PZ_PARCEL;
    block->klass = PZ_CLASSES;
    block->refs = 0;
    block->flags = PZ_BLOCK_UNBACKED;
    heap->used += bytes;
    heap->blocks++;
    if (backed)
        heap->backed -= bytes;
    return 0;
}

static int reserve(pz_proc *proc, uint32_t pages)
{
    pz_heap *heap = proc->heap;
    uint64_t bytes = (uint64_t)pages << PZ_PAGE_SHIFT;
    uint32_t first;
    pz_heap_lock(proc);
    int rc = heap->backed + bytes > heap->limit ? -ENOMEM : take_private(proc, pages, false, &first);
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
    pz_block *block = pz_block_at(proc, offset);
    if (rc == 0) {
        pz_tx(proc, block->refs);
        block->flags = 0;
        pz_tx(proc, heap->backed);
        heap->backed += bytes;
    }
    pz_heap_free(proc, offset);
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
                rc = take_private(proc, pages, true, &first);
            break;
        }
    pz_heap_unlock(proc);
    if (rc < 0)
        return false;
    unback(proc, (uint64_t)first << PZ_PAGE_SHIFT, (uint64_t)pages << PZ_PAGE_SHIFT);
    pz_heap_lock(proc);
    pz_heap_free(proc, (uint64_t)first << PZ_PAGE_SHIFT);
    pz_heap_unlock(proc);
    return true;
}

void pz_heap_trim(pz_proc *proc, uint64_t keep)
{
    while (proc->heap->warm > keep && give_back_one(proc, proc->heap->warm - keep))
        ;
}

int pz_heap_reserve(pz_proc *proc, uint64_t size)
{
    pz_heap *heap = proc->heap;
    uint64_t need = size > PZ_SMALL_MAX ? size : 1;
    if (need > proc->size)
        return -ENOMEM;
    uint32_t pages = (uint32_t)((need + PZ_PAGE - 1) >> PZ_PAGE_SHIFT);
    uint64_t growth = heap->backed / 8;
    uint32_t more = (uint32_t)((growth < (4u << 20) ? growth : (4u << 20)) >> PZ_PAGE_SHIFT);
    if (more > pages && reserve(proc, more) == 0)
        return 0;
    int rc = reserve(proc, pages);
    if (rc != -ENOMEM)
        return rc;
    /* At the limit: memory that is free in pieces too small can be given back and taken anew, and the dead may hold some. */
    pz_sweep_all(proc);
    uint64_t over = heap->backed + ((uint64_t)pages << PZ_PAGE_SHIFT);
    if (over > heap->limit && over - heap->limit <= heap->warm)
        pz_heap_trim(proc, heap->warm - (over - heap->limit));
    return reserve(proc, pages);
}

void pz_heap_init(pz_proc *proc, uint64_t limit)
{
    pz_heap *heap = proc->heap;
    uint64_t table = (proc->size >> PZ_PAGE_SHIFT) * sizeof(pz_page);
    heap->max_pages = (uint32_t)(proc->size >> PZ_PAGE_SHIFT);
    heap->first_page = heap->end_page = (uint32_t)((PZ_TABLE_OFFSET + table + PZ_PAGE - 1) >> PZ_PAGE_SHIFT);
    heap->limit = limit;
}

/* ---- checking ---------------------------------------------------------------------------------------------------- */

int pz_heap_valid(pz_proc *proc)
{
    pz_heap *heap = proc->heap;
    uint64_t used = 0, blocks = 0, warm = 0, linked[2] = {0, 0}, found[2] = {0, 0};
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
    if (used != heap->used || blocks != heap->blocks || warm != heap->warm || heap->backed > heap->limit)
        return -EOVERFLOW;
    return 0;
}
