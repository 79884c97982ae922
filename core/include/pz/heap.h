/* The allocator and the transactions that everything rare is built on.
 *
 * Blocks of 64 bytes to 32 KiB are carved from 64 KiB pages, one size class a page; larger ones are spans of pages.
 * All of it is guarded by one robust lock with an undo journal: inside a transaction each word is recorded before it is
 * overwritten (pz_tx), and committing empties the journal with one store. Whoever takes the lock after a dead owner
 * plays the journal back, so a crash leaves either the state before the transaction or the one after it.
 *
 * Why one lock: messages up to 16 KiB never come here, nor does any acquire or release; what does (making an object,
 * passing a handle, a large payload) costs some hundred nanoseconds in all, most of it not under the lock.
 */
#ifndef PZ_HEAP_H
#define PZ_HEAP_H

#include "arena.h"

#define PZ_UNDO_MAX 62u
#define PZ_CLASSES 24u
#define PZ_BINS 48u
#define PZ_SMALL_MAX 32768u

enum pz_kind { /* what a block is */
    PZ_FREE = 0,
    PZ_PARCEL, /* a payload: private to a slot, or in a message ring */
    PZ_LEDGER, /* bookkeeping of a slot */
    PZ_SEGMENT,
    PZ_BUFFER, /* a received payload that objects of the user look into */
    PZ_LOCK,
    PZ_RLOCK,
    PZ_SEMAPHORE,
    PZ_BOUNDED,
    PZ_COND,
    PZ_EVENT,
    PZ_BARRIER,
    PZ_RING,
    PZ_PIPE,
    PZ_PIPE_END,
    PZ_VALUES, /* numbers, text and structs (values.h) */
    PZ_MEMORY, /* arrays of the user */
    PZ_SHARED, /* a payload that is never changed: what share() made, a large value of a container */
    PZ_STORE,  /* a dict, set, list or deque (store.h), and */
    PZ_CHUNK,  /* its memory */
    PZ_POOL,
    PZ_KINDS
};

/* Who owns a parcel: a process (its PZ_OWNER), or the message ring at an offset. */
#define PZ_BY_SLOT(owner) (((uint64_t)(owner) << 8) | 2u)
#define PZ_BY_RING(offset) ((uint64_t)(offset) | 1u)

/* First bytes of every block. */
typedef struct pz_block {
    pz_u64 owner;  /* parcels: PZ_BY_SLOT or PZ_BY_RING; of an object without references: link of the reap list */
    uint32_t gen;  /* identity: never the same twice for one place, 0 while free */
    uint16_t kind; /* enum pz_kind */
    uint16_t klass;
    uint32_t refs; /* counted references: ledger entries and parcels that carry it */
    uint32_t flags;
    uint64_t size; /* bytes asked for, this header included */
} pz_block;
_Static_assert(sizeof(pz_block) == 32, "the block header is 32 bytes");

typedef struct pz_undo {
    uint64_t offset, old;
} pz_undo;

typedef struct pz_page {
    uint32_t next, prev; /* list of pages with free blocks, or of free spans */
    uint32_t span;       /* pages in this span (first and last page of a free one; first of a used one) */
    uint16_t use;        /* enum pz_page_use */
    uint16_t klass;
    uint32_t used;  /* blocks in use */
    uint32_t fresh; /* blocks never handed out yet start here */
    uint64_t free;  /* offset of the first free block */
} pz_page;

typedef struct pz_heap {
    pz_u32 lock;
    pz_u32 journal; /* number of valid records in undo[] */
    pz_undo undo[PZ_UNDO_MAX];
    uint64_t serial;                          /* generations handed out */
    pz_u64 limit, backed;                     /* bytes: allowed, reserved from the kernel; */
    uint64_t used;                            /* in blocks; */
    pz_u64 warm;                              /* reserved and free */
    uint64_t blocks;                          /* blocks in use */
    uint64_t reap;                            /* offset of the first object that waits to be destroyed */
    uint32_t first_page, end_page, max_pages; /* pages [first, end) have ever been used */
    uint32_t repairs;                         /* journals played back */
    uint32_t partial[PZ_CLASSES];             /* first page with free blocks of this class */
    uint32_t spans[2][PZ_BINS];               /* free spans by log2 of their length: [0] not backed, [1] backed */
} pz_heap;

typedef struct pz_memory {
    uint64_t limit, backed, used, warm, blocks;
} pz_memory;

/* Lock and unlock; between them, pz_tx() before each write and pz_tx_commit() after each consistent step. */
void pz_heap_lock(pz_proc *proc);
void pz_heap_unlock(pz_proc *proc);
/* Makes sure that no dead process's transaction is still to be undone. */
void pz_heap_settle(pz_proc *proc);
void pz_tx_word(pz_proc *proc, void *word);
static inline void pz_tx_commit(pz_proc *proc)
{
    PZ_ORDER();
    pz_store(&proc->heap->journal, 0);
    PZ_ORDER();
}
#define pz_tx(proc, lvalue) pz_tx_word((proc), &(lvalue))

/* Inside the lock. `size` counts the header. -ENOMEM: the limit or the machine's memory is reached; -EAGAIN: memory has
 * to be reserved first (call pz_heap_reserve without the lock and try again). */
int pz_heap_alloc(pz_proc *proc, uint64_t size, enum pz_kind kind, uint64_t *offset);
void pz_heap_free(pz_proc *proc, uint64_t offset);

/* Outside the lock: allocates one block owned by this process's slot, in one transaction. */
int pz_block_new(pz_proc *proc, uint64_t size, enum pz_kind kind, uint64_t *offset);
void pz_block_free(pz_proc *proc, uint64_t offset);
/* Reserves memory such that a block of `size` bytes fits. */
int pz_heap_reserve(pz_proc *proc, uint64_t size);
/* Gives free memory beyond `keep` bytes back to the kernel. */
void pz_heap_trim(pz_proc *proc, uint64_t keep);

/* The block at an offset that came from outside, or NULL if none is there with this generation. */
pz_block *pz_block_find(pz_proc *proc, uint64_t offset, uint32_t gen);
/* Calls `visit` for every block in use whose class may hold parcels; inside the lock. */
typedef void (*pz_visit)(pz_proc *proc, pz_block *block, void *context);
void pz_heap_each(pz_proc *proc, pz_visit visit, void *context);

void pz_heap_init(pz_proc *proc, uint64_t limit);
void pz_memory_get(pz_proc *proc, pz_memory *memory);
void pz_memory_set_limit(pz_proc *proc, uint64_t limit);
/* 0, or a negative errno that says which invariant is broken; inside the lock. */
int pz_heap_valid(pz_proc *proc);

static inline pz_block *pz_block_at(const pz_proc *proc, uint64_t offset)
{
    return (pz_block *)pz_at(proc, offset);
}

#endif
