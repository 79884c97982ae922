/* Blocks and transactions. Spans of pages are in span.c. See heap.h. */
#include <string.h>

#include "pz/mutex.h"
#include "span.h"

static const uint16_t class_size[PZ_CLASSES] = {64,   128,  192,  256,  320,  384,  512,  640,  768,   1024,  1280,  1536,
                                                2048, 2560, 3072, 4096, 5120, 6144, 8192, 9344, 10880, 16384, 21824, 32768};

static unsigned class_of(uint64_t size)
{
    unsigned low = 0, high = PZ_CLASSES - 1;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        if (class_size[middle] < size)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

uint64_t pz_class_bytes(unsigned klass)
{
    return class_size[klass];
}

/* ---- transactions ---------------------------------------------------------------------------------------------- */

void pz_tx_word(pz_proc *proc, void *word)
{
    pz_heap *heap = proc->heap;
    uint64_t offset = pz_offset(proc, word) & ~UINT64_C(7);
    uint32_t n = pz_peek(&heap->journal);
    if (n >= PZ_UNDO_MAX)
        __builtin_trap(); /* a transaction longer than any that exists */
    heap->undo[n].offset = offset;
    heap->undo[n].old = *(volatile uint64_t *)pz_at(proc, offset);
    PZ_ORDER();
    pz_store(&heap->journal, n + 1);
    PZ_ORDER();
}

static PZ_COLD void roll_back(pz_proc *proc)
{
    pz_heap *heap = proc->heap;
    uint32_t n = pz_peek(&heap->journal);
    if (n == 0)
        return;
    for (uint32_t i = n; i-- > 0;)
        *(volatile uint64_t *)pz_at(proc, heap->undo[i].offset) = heap->undo[i].old;
    PZ_ORDER();
    pz_store(&heap->journal, 0);
    heap->repairs++;
}

void pz_heap_lock(pz_proc *proc)
{
    if (pz_mutex_lock(proc, &proc->heap->lock) != 0)
        roll_back(proc);
}

void pz_heap_unlock(pz_proc *proc)
{
    pz_tx_commit(proc);
    pz_mutex_unlock(proc, &proc->heap->lock);
}

void pz_heap_settle(pz_proc *proc)
{
    pz_heap_lock(proc);
    pz_heap_unlock(proc);
}

/* ---- blocks ------------------------------------------------------------------------------------------------------ */

static void stamp(pz_proc *proc, uint64_t offset, uint64_t size, unsigned klass, enum pz_kind kind, uint64_t bytes)
{
    pz_heap *heap = proc->heap;
    pz_block *block = pz_block_at(proc, offset);
    pz_tx(proc, heap->serial);
    do
        heap->serial++;
    while ((uint32_t)heap->serial == 0);
    pz_tx(proc, heap->used);
    heap->used += bytes;
    pz_tx(proc, heap->blocks);
    heap->blocks++;
    pz_tx(proc, block->owner);
    pz_tx(proc, block->gen);
    pz_tx(proc, block->refs);
    pz_tx(proc, block->size);
    pz_poke(&block->owner, PZ_BY_SLOT(proc->self));
    block->gen = (uint32_t)heap->serial;
    block->kind = (uint16_t)kind;
    block->klass = (uint16_t)klass;
    block->refs = 0;
    block->flags = 0;
    block->size = size;
}

int pz_heap_alloc(pz_proc *proc, uint64_t size, enum pz_kind kind, uint64_t *offset)
{
    pz_heap *heap = proc->heap;
    if (size > PZ_SMALL_MAX) {
        if (size > proc->size)
            return -ENOMEM;
        uint32_t first, pages = (uint32_t)((size + PZ_PAGE - 1) >> PZ_PAGE_SHIFT);
        if (!pz_span_take(proc, pages, true, &first))
            return -EAGAIN;
        *offset = (uint64_t)first << PZ_PAGE_SHIFT;
        stamp(proc, *offset, size, PZ_CLASSES, kind, (uint64_t)pages << PZ_PAGE_SHIFT);
        return 0;
    }
    unsigned klass = class_of(size);
    uint32_t bytes = class_size[klass], index = heap->partial[klass];
    pz_page *page;
    if (index == 0) {
        if (!pz_span_take(proc, 1, true, &index))
            return -EAGAIN;
        page = pz_page_at(proc, index);
        pz_tx(proc, page->use);
        pz_tx(proc, page->used);
        pz_tx(proc, page->free);
        page->use = PZ_USE_SMALL;
        page->klass = (uint16_t)klass;
        page->used = page->fresh = 0;
        page->free = 0;
        pz_pages_push(proc, &heap->partial[klass], index);
    }
    page = pz_page_at(proc, index);
    pz_tx(proc, page->used);
    if (page->free) {
        *offset = page->free;
        pz_tx(proc, page->free);
        page->free = pz_block_at(proc, *offset)->size;
    } else {
        *offset = ((uint64_t)index << PZ_PAGE_SHIFT) + (uint64_t)page->fresh * bytes;
        page->fresh++;
    }
    page->used++;
    if (page->free == 0 && (page->fresh + 1) * (uint64_t)bytes > PZ_PAGE)
        pz_pages_remove(proc, &heap->partial[klass], index);
    stamp(proc, *offset, size, klass, kind, bytes);
    return 0;
}

void pz_heap_free(pz_proc *proc, uint64_t offset)
{
    pz_heap *heap = proc->heap;
    pz_block *block = pz_block_at(proc, offset);
    uint32_t index = (uint32_t)(offset >> PZ_PAGE_SHIFT);
    pz_page *page = pz_page_at(proc, index);
    bool large = page->use == PZ_USE_LARGE;
    uint64_t bytes = large ? (uint64_t)page->span << PZ_PAGE_SHIFT : class_size[page->klass];
    pz_tx(proc, heap->used);
    heap->used -= bytes;
    pz_tx(proc, heap->blocks);
    heap->blocks--;
    pz_tx(proc, block->gen);
    block->gen = 0;
    block->kind = PZ_FREE;
    if (large) {
        pz_span_give(proc, index, page->span, true);
        return;
    }
    unsigned klass = page->klass;
    bool was_full = page->free == 0 && (page->fresh + 1) * (uint64_t)class_size[klass] > PZ_PAGE;
    pz_tx(proc, page->used);
    if (--page->used == 0 && (page->next || page->prev)) {
        if (!was_full)
            pz_pages_remove(proc, &heap->partial[klass], index);
        pz_span_give(proc, index, 1, true);
        return;
    }
    pz_tx(proc, block->size);
    block->size = page->free;
    pz_tx(proc, page->free);
    page->free = offset;
    if (was_full)
        pz_pages_push(proc, &heap->partial[klass], index);
}

int pz_block_new(pz_proc *proc, uint64_t size, enum pz_kind kind, uint64_t *offset)
{
    for (;;) {
        pz_heap_lock(proc);
        int rc = pz_heap_alloc(proc, size, kind, offset);
        pz_heap_unlock(proc);
        if (PZ_LIKELY(rc != -EAGAIN))
            return rc;
        rc = pz_heap_reserve(proc, size);
        if (rc < 0)
            return rc;
    }
}

void pz_block_free(pz_proc *proc, uint64_t offset)
{
    pz_heap_lock(proc);
    pz_heap_free(proc, offset);
    pz_heap_unlock(proc);
    pz_heap_trim(proc, pz_peek(&proc->heap->limit) / 4);
}

pz_block *pz_block_find(pz_proc *proc, uint64_t offset, uint32_t gen)
{
    uint64_t index = offset >> PZ_PAGE_SHIFT;
    if (gen == 0 || index < proc->heap->first_page || index >= proc->heap->end_page)
        return NULL;
    pz_page *page = pz_page_at(proc, (uint32_t)index);
    uint64_t within = offset & (PZ_PAGE - 1);
    if (page->use == PZ_USE_SMALL) {
        if (page->klass >= PZ_CLASSES || within % class_size[page->klass] != 0 ||
            within / class_size[page->klass] >= page->fresh)
            return NULL;
    } else if (page->use != PZ_USE_LARGE || within != 0) {
        return NULL;
    }
    pz_block *block = pz_block_at(proc, offset);
    return block->gen == gen && block->kind != PZ_FREE && block->kind < PZ_KINDS ? block : NULL;
}

void pz_heap_each(pz_proc *proc, pz_visit visit, void *context)
{
    uint32_t end = proc->heap->end_page;
    for (uint32_t index = proc->heap->first_page, next; index < end; index = next) {
        pz_page *page = pz_page_at(proc, index);
        uint64_t base = (uint64_t)index << PZ_PAGE_SHIFT;
        next = pz_span_after(proc, index);
        if (page->use == PZ_USE_LARGE) {
            visit(proc, pz_block_at(proc, base), context);
        } else if (page->use == PZ_USE_SMALL) {
            uint32_t bytes = class_size[page->klass], count = page->fresh;
            for (uint32_t i = 0; i < count && page->use == PZ_USE_SMALL; i++) {
                pz_block *block = pz_block_at(proc, base + (uint64_t)i * bytes);
                if (block->gen != 0)
                    visit(proc, block, context);
            }
        }
    }
}

void pz_memory_get(pz_proc *proc, pz_memory *memory)
{
    pz_heap *heap = proc->heap;
    pz_heap_lock(proc);
    *memory = (pz_memory){pz_peek(&heap->limit), pz_peek(&heap->backed), heap->used, pz_peek(&heap->warm), heap->blocks};
    pz_heap_unlock(proc);
}

void pz_memory_set_limit(pz_proc *proc, uint64_t limit)
{
    pz_heap_lock(proc);
    pz_tx(proc, proc->heap->limit);
    pz_poke(&proc->heap->limit, limit);
    uint64_t used = proc->heap->used;
    pz_heap_unlock(proc);
    /* What is reserved for later must not be a way around a lower limit. */
    uint64_t room = limit > used ? limit - used : 0;
    pz_heap_trim(proc, room < limit / 4 ? room : limit / 4);
}
