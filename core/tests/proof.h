/* The proof: an operation of the core ends at every instruction boundary, and the others must not mind.
 *
 *   this process                            the child
 *   setup(): objects, what came before
 *   reserve a slot, fork                    claim the slot, before(), SIGSTOP
 *   single-step                             run()
 *   at each boundary: fork a survivor, which sees a private copy of the arena and takes the child for dead;
 *   at some of them: SIGKILL, reap, and be the survivor itself
 *
 *   the survivor, within a time limit
 *   check(): others go on; what was committed is there, what was not is gone
 *   bury the slot
 *   after(): the objects are closed; then the heap is valid, as full as before, and no lock is held
 *
 * A kill leaves in the arena what the instructions before it have stored, so the private copy at a boundary is what a kill
 * there leaves. (Killing a new child at each one takes time in the square of the length: hours.)
 *
 * With `first`, another child has been killed at a random place in that operation before, so run() is the repair, and it
 * is the repairer who is killed.
 */
#ifndef PZ_PROOF_H
#define PZ_PROOF_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pz/ring.h"

typedef struct op {
    const char *name;
    void (*setup)(void);
    void (*before)(void); /* in the child */
    void (*run)(void);    /* in the child, stepped */
    bool (*poke)(void);   /* here, somewhere in the middle of run(), until it says true; with `first`: between the two */
    void (*check)(void);
    void (*after)(void);
    const struct op *first;
    bool bare; /* the child has no copy of our references */
} op;

extern pz_proc P;       /* this process's, and after the fork the child's */
extern bool done;       /* the child came to the end of run() */
extern uint32_t victim; /* PZ_OWNER of the child */
extern uint32_t corpse; /* the same of the one killed before it */

/* Fails the proof, saying where; never returns. */
#define must(condition) \
    do { \
        if (!(condition)) \
            broken(#condition, __FILE__, __LINE__); \
    } while (0)
_Noreturn void broken(const char *what, const char *file, int line);

pz_wait forever(void);
bool is_dead(uint32_t owner);

extern const op ring_ops[], sync_ops[], meet_ops[], heap_ops[], values_ops[], store_ops[], sequence_ops[], pool_ops[]; /* end with one that has no name */

#endif
