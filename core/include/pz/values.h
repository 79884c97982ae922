/* Values: one record, or an array of items of one size, that several processes read and write.
 *
 *   items of 1, 2, 4 or 8 bytes lie aligned in an array: the binding loads and stores each with one atomic access
 *   a record of up to 8 bytes is one such item
 *   a larger record lies there twice, and the lowest bit of `version` says which copy is the current one
 *
 *                   version 6                    version 7
 *     copy 0   [ current ] <- readers      [ next write goes here ]
 *     copy 1   [ next write goes here ]    [ current ] <- readers
 *
 *   writer (one at a time, under `mutex`)            dies before the store of `version`: nothing has changed
 *     fills the other copy                           dies after it: the new record is there
 *     publishes it: one store of `version`           the next writer takes the mutex over; there is nothing to repair
 *   reader (no lock): reads `version`, copies, reads it again; once more if it has changed, and after some tries under
 *     the mutex
 *
 * The format is stored in the object, so that whoever opens a handle knows it; the core does not look into it. A user's
 * RLock may belong to the values: it is an object of its own, on which they hold a counted reference.
 */
#ifndef PZ_VALUES_H
#define PZ_VALUES_H

#include "sync.h"

#define PZ_VALUES_SMALL 4096u /* up to here an object is zeroed inside the heap lock */

typedef struct pz_values { /* PZ_VALUES */
    pz_block block;
    uint64_t reserved; /* stays 0: see pz_object_draft */
    pz_u32 mutex;      /* of who writes a record */
    pz_u32 deaths;     /* writers that died in the middle */
    pz_u64 version;    /* of a record: how often it was written */
    uint64_t lock;     /* the user's RLock: changed inside the heap lock; 0: none yet */
    char name[PZ_NAME];
    uint32_t lock_gen;
    uint32_t described; /* bytes of the description, behind this struct */
    uint64_t item;      /* bytes of an item, or of the record */
    uint64_t count;     /* items; 1: a record */
    uint32_t data;      /* where they are, from the start of the object */
    uint8_t form, code, swapped, spare; /* the binding's */
} pz_values;
_Static_assert(offsetof(pz_values, reserved) == sizeof(pz_block), "a draft carries nothing");

/* What the values are, as their maker says. */
typedef struct pz_shape {
    const char *description;
    uint32_t described;
    uint8_t form, code, swapped;
    uint64_t item, count;
} pz_shape;

static inline void *pz_values_data(pz_values *values)
{
    return (uint8_t *)values + values->data;
}
static inline char *pz_values_description(pz_values *values)
{
    return (char *)(values + 1);
}
/* Whether it lies there twice. */
static inline bool pz_values_twice(const pz_values *values)
{
    return values->count == 1 && values->item > 8;
}

/* Makes the values, all zero, with one reference: this process's. -ENOMEM, also for a size that overflows. The two steps
 * are for what is large: between them the caller fills `draft`, outside any lock (`blank`: it need not be zeroed). */
int pz_values_new(pz_proc *proc, const pz_shape *shape, pz_ref *ref);
int pz_values_draft(pz_proc *proc, const pz_shape *shape, bool blank, uint64_t *draft);
int pz_values_finish(pz_proc *proc, uint64_t draft, pz_ref *ref);

/* A record, for a caller without the mutex: -EAGAIN if it was written all the time; come with the mutex then. */
int pz_values_read(pz_values *values, void *record);
/* For who holds the mutex. */
void pz_values_copy(pz_values *values, void *record);
void pz_values_write(pz_values *values, const void *record);
/* The mutex in the two steps of pz_mutex_await and pz_mutex_retry (0, -EBUSY). */
int pz_values_retry(pz_proc *proc, pz_values *values, const pz_wait *wait);
static inline int pz_values_await(pz_proc *proc, pz_values *values, pz_wait *wait)
{
    return pz_mutex_await(proc, &values->mutex, wait);
}
static inline void pz_values_unlock(pz_proc *proc, pz_values *values)
{
    pz_mutex_unlock(proc, &values->mutex);
}

/* The user's lock becomes that of the values, which hold a reference on it from then on. -EEXIST: they have one;
 * -ESTALE: there is no such object. */
int pz_values_set_lock(pz_proc *proc, pz_values *values, uint64_t offset, uint32_t gen);
/* Offset and generation of the lock, zeros if there is none. */
void pz_values_get_lock(pz_proc *proc, pz_values *values, uint64_t *offset, uint32_t *gen);

#endif
