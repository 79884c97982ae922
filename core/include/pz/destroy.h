/* What each kind of object gives back before its block is freed. All run inside the heap lock, commit in steps, and may
 * be run again after a crash in the middle. */
#ifndef PZ_DESTROY_H
#define PZ_DESTROY_H

#include "heap.h"

void pz_ring_empty(pz_proc *proc, pz_block *ring);
void pz_pipe_end_drop(pz_proc *proc, pz_block *end);
void pz_pipe_drop(pz_proc *proc, pz_block *pipe);
void pz_pool_drop(pz_proc *proc, pz_block *pool);
void pz_parcel_unload(pz_proc *proc, pz_block *parcel);
void pz_store_drop(pz_proc *proc, pz_block *store);
void pz_cond_drop(pz_proc *proc, pz_block *cond);
void pz_values_drop(pz_proc *proc, pz_block *values);

#endif
