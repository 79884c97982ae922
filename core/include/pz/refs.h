/* Counted references, and the parcels that carry payloads and references between processes.
 *
 * An object lives while its count is above zero. A count is held by a ledger entry (a process has a handle) or by a
 * parcel (a message in flight carries the object). Count and holder change in one transaction.
 *
 * A parcel is private to a slot until it is put into a ring and again after it was taken out; which of the two is its
 * owner word, so sweeping a dead slot frees exactly what it alone held.
 */
#ifndef PZ_REFS_H
#define PZ_REFS_H

#include "mutex.h"

typedef struct pz_ref {
    uint64_t offset;
    uint32_t gen;
    uint32_t entry; /* index in the ledger of this process */
} pz_ref;

typedef struct pz_parcel {
    pz_block block;
    uint32_t count;    /* references carried, right behind this struct */
    uint32_t capacity; /* room for references */
    uint64_t length;   /* bytes of payload, from pz_parcel_data() on */
    uint64_t spare[2];
} pz_parcel; /* 64 bytes */

/* A new object of `size` bytes (header included), zeroed behind its header, with one reference: this process's. For
 * what is small: it is zeroed inside the heap lock. */
int pz_object_new(pz_proc *proc, uint64_t size, enum pz_kind kind, pz_ref *ref);
/* The same in two steps, for what is large: a block that this process owns and fills without any lock (the first `zero`
 * bytes behind the header are zeroed). Its first 8 bytes behind the header stay 0 until it is finished: if this process
 * dies, it is a parcel that carries nothing. */
int pz_object_draft(pz_proc *proc, uint64_t size, uint64_t zero, uint64_t *offset);
/* The draft becomes an object with one reference. -ENOMEM and others: it is still a draft (pz_block_free). */
int pz_object_finish(pz_proc *proc, uint64_t offset, enum pz_kind kind, pz_ref *ref);
/* A reference to an object known by offset and generation. -ESTALE: it is gone, or was never there. */
int pz_object_open(pz_proc *proc, uint64_t offset, uint32_t gen, pz_ref *ref, uint16_t *kind);
/* Gives the reference up; the last one destroys the object. */
void pz_object_close(pz_proc *proc, const pz_ref *ref);
/* Inside the heap lock: one reference less; at zero the object is put on the reap list. */
void pz_unref(pz_proc *proc, pz_block *block);
/* Destroys what waits on the reap list. */
void pz_reap(pz_proc *proc);

/* A parcel owned by this process, with room for `length` bytes and `capacity` references. */
int pz_parcel_new(pz_proc *proc, uint64_t length, uint32_t capacity, uint64_t *offset);
/* Lets the parcel hold a reference to an object. -ESTALE as pz_object_open; -ENOSPC: no room. */
int pz_parcel_carry(pz_proc *proc, uint64_t parcel, uint64_t offset, uint32_t gen);
void pz_parcel_free(pz_proc *proc, uint64_t parcel);
/* Inside the heap lock, committing on the way: frees a parcel and what it carries. */
void pz_parcel_drop(pz_proc *proc, pz_block *block);
/* Turns a parcel of this process into an object (PZ_BUFFER or PZ_SHARED) with one reference; it keeps what it carries. */
int pz_parcel_keep(pz_proc *proc, uint64_t parcel, enum pz_kind kind, pz_ref *ref);

static inline uint8_t *pz_parcel_data(pz_parcel *parcel)
{
    uint64_t at = sizeof(pz_parcel) + (uint64_t)parcel->capacity * sizeof(uint64_t);
    return (uint8_t *)parcel + ((at + PZ_LINE - 1) & ~(uint64_t)(PZ_LINE - 1));
}

#endif
