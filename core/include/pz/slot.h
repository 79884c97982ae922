/* Process slots: who takes part in this program, who is alive, and what each one holds.
 *
 *   state      from -> to                                          who
 *   FREE       -> RESERVED   pz_slot_reserve (under the heap lock)  the parent, for a child about to be born
 *   RESERVED   -> LIVE       pz_slot_claim (one CAS)                the child itself
 *              -> SWEEPING   pz_sweep, parent dead, child buried    anybody
 *                            or known to have died unborn
 *   LIVE       -> SWEEPING   pz_sweep, death proved                 anybody
 *              -> FREE       pz_slot_leave, with a new generation   the process itself, after it has given up everything
 *                                                                   and holds no lock: from then on it counts as dead
 *   SWEEPING   -> FREE       with a new generation                  who holds the heap lock; a crash leaves it SWEEPING
 *                                                                   and the next sweep goes on
 *
 * Death is proved by the end of the thread group (pidfd, or pid and start time; zombies are dead). A process that called
 * exec without leaving is dead to the arena too: its record lock on the slot's byte is gone and it no longer maps it.
 *
 * The ledger of a slot lists its references, one entry an object. It lives in chunks found through a directory, so an
 * entry is named by its index, which means the same in a forked child, whose ledger is a copy.
 */
#ifndef PZ_SLOT_H
#define PZ_SLOT_H

#include "heap.h"

enum pz_slot_state { PZ_SLOT_FREE, PZ_SLOT_RESERVED, PZ_SLOT_LIVE, PZ_SLOT_SWEEPING };
enum pz_life { PZ_ALIVE, PZ_DEAD };

#define PZ_CHUNK_ENTRIES 500u /* a chunk is one 4 KiB block */
#define PZ_CHUNKS_MAX 4000u   /* 2,000,000 handles in a process */

typedef struct pz_slot {
    pz_u32 state; /* enum pz_slot_state in bits 0..7, generation in bits 16..31 */
    pid_t pid;    /* one 64-bit word with the state, so that a claim enters both with one CAS */
    pz_u64 start; /* start time of the process, clock ticks since boot; 0: not known (yet) */
    uint32_t parent;    /* PZ_OWNER of the parent */
    pz_u32 spinning;    /* counted in header->spinners */
    uint64_t directory; /* block with the offsets of the ledger's chunks */
    uint32_t chunks, free_entry, entries, had_parcels;
    pid_t last_pid; /* who died or left last here, for reports */
    uint32_t last_cpu;
    uint64_t parked; /* a parcel for the child of a RESERVED slot */
    pz_u32 unborn;   /* the child of a RESERVED slot holds a lock until its claim */
    char name[64];
} pz_slot;
_Static_assert(sizeof(pz_slot) <= PZ_SLOT_SIZE, "a slot fits its place");
_Static_assert(offsetof(pz_slot, state) == 0 && offsetof(pz_slot, pid) == 4, "state and pid are one word");

static inline pz_slot *pz_slot_at(const pz_proc *proc, uint32_t slot)
{
    return (pz_slot *)pz_at(proc, PZ_SLOT_OFFSET + (uint64_t)slot * PZ_SLOT_SIZE);
}

/* Reserves a slot for a child. `copy`: with a copy of the caller's references (a fork); -EAGAIN: no slot is free. The
 * token is the PZ_OWNER of the new slot. */
int pz_slot_reserve(pz_proc *proc, bool copy, uint32_t *token);
/* Before a fork: a lock that the child shares, so that a death before its claim is seen. -> a descriptor, which the
 * parent gives to pz_slot_end_birth after the fork, the child after its claim; -errno: without it such a slot waits for
 * a burial, or for the parent's end. */
int pz_slot_mark_birth(pz_proc *proc, uint32_t token);
void pz_slot_end_birth(pz_proc *proc, int mark);
/* Takes a reserved slot for this process: after a fork or a pz_arena_map. -ESTALE if it was swept meanwhile. */
int pz_slot_claim(pz_proc *proc, uint32_t token);
/* Gives up the slot of this process in an orderly way: all its references are dropped. */
void pz_slot_leave(pz_proc *proc);
/* Sweeps the slot of a child that is known to have ended (or was never born). */
void pz_slot_bury(pz_proc *proc, uint32_t token);

enum pz_life pz_owner_life(pz_proc *proc, uint32_t owner);
/* The pid behind an owner, dead or alive, 0 if it is no longer known. */
pid_t pz_owner_pid(pz_proc *proc, uint32_t owner);
/* Looks at every slot and sweeps the dead; returns how many. */
int pz_sweep_all(pz_proc *proc);
/* The same, but only if no process of the program has done so for a while (250 ms, more with many processes). */
void pz_sweep_sometimes(pz_proc *proc);
/* Notes that this process may own parcels, which its sweep has then to look for. */
void pz_parcels_used(pz_proc *proc);
void pz_sweep(pz_proc *proc, uint32_t owner);

/* Inside the heap lock: enters or removes a reference. pz_ledger_room and pz_ledger_add commit what came before them;
 * pz_ledger_put needs a pz_ledger_room that said 0. */
int pz_ledger_room(pz_proc *proc, uint32_t slot);
uint32_t pz_ledger_put(pz_proc *proc, uint32_t slot, uint64_t offset);
int pz_ledger_add(pz_proc *proc, uint32_t slot, uint64_t offset, uint32_t *entry);
void pz_ledger_remove(pz_proc *proc, uint32_t slot, uint32_t entry);
uint64_t *pz_ledger_entry(pz_proc *proc, uint32_t slot, uint32_t entry);

#endif
