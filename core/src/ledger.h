/* Whole ledgers, for the slots alone. Inside the heap lock; both commit in steps. */
#ifndef PZ_LEDGER_H
#define PZ_LEDGER_H

#include "pz/slot.h"

/* Copies the references of one slot to a new one, entry for entry. */
int pz_ledger_copy(pz_proc *proc, uint32_t from, uint32_t to);
/* Drops every reference of a slot, and the ledger's own memory. */
void pz_ledger_drop(pz_proc *proc, uint32_t number);

#endif
