/* Spans of pages, for the heap alone. Everything here runs inside the heap lock and its transaction, but for
 * pz_heap_reserve and pz_heap_trim (heap.h), which live in span.c too. */
#ifndef PZ_SPAN_H
#define PZ_SPAN_H

#include "pz/heap.h"

enum pz_page_use { PZ_USE_NEVER, PZ_USE_COLD, PZ_USE_WARM, PZ_USE_SMALL, PZ_USE_LARGE, PZ_USE_MOVING };

/* Bytes of a block of a size class. */
uint64_t pz_class_bytes(unsigned klass);

static inline pz_page *pz_page_at(const pz_proc *proc, uint32_t index)
{
    return (pz_page *)pz_at(proc, PZ_TABLE_OFFSET) + index;
}

/* The next span after the one at `index` that is not free. To be asked before the one at `index` is freed: it is joined
 * with free neighbours then, and their pages say something else. */
uint32_t pz_span_after(const pz_proc *proc, uint32_t index);

/* Lists of pages, linked both ways; `head` is in the heap. */
void pz_pages_push(pz_proc *proc, uint32_t *head, uint32_t index);
void pz_pages_remove(pz_proc *proc, uint32_t *head, uint32_t index);

/* Takes `pages` adjacent pages out of the backed (or not backed) free spans; marks them as a LARGE span. */
bool pz_span_take(pz_proc *proc, uint32_t pages, bool backed, uint32_t *first);
/* Puts them back, joined with free neighbours of the same kind. */
void pz_span_give(pz_proc *proc, uint32_t first, uint32_t pages, bool backed);
/* Makes the spans COLD that a dead process was moving; commits in steps. */
void pz_span_reclaim(pz_proc *proc, uint32_t owner);

#endif
