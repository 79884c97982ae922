/* The message ring: a queue of records in chained segments, for any number of producers and consumers.
 *
 *      producers, one at a time (put_lock)             consumers, one at a time (get_lock)
 *          write behind tail, then publish tail            copy out, then publish head
 *                                |                           |
 *      segment -> next -> segment (tail)         (head) segment -> next -> ...
 *
 * tail and head are single words (segment and place in it), so one store commits a put or a get, batch or not. What
 * lies behind tail does not exist. A dead owner of put_lock or get_lock is repaired by the next one from the two small
 * journals (j_*): counters are put back if the word was not published, and a parcel that was under way is freed.
 *
 * Steps, and what a death in them leaves:
 *   put   write record, link segments (heap transaction)   nothing; a linked segment is used by the next put
 *         j_*, pending, parcel owner := ring, counters     repaired: counters back, parcel freed
 *         tail := new                                      the message is there
 *         unlock, wake                                     the message is there; sleepers look again in their slices
 *   get   j_*, taking, counters                            repaired: the message is still there
 *         head := new                                      the message is gone with its reader
 *         parcel owner := slot                             repaired: parcel freed
 *
 * Records of up to PZ_INLINE_MAX bytes lie in the ring; larger ones, and those that carry references, are parcels.
 */
#ifndef PZ_RING_H
#define PZ_RING_H

#include "sync.h"

#define PZ_INLINE_MAX 16384u
#define PZ_BELLS 8u

enum pz_record_type { PZ_JUMP = 0xff };
enum { PZ_RECORD_PARCEL = 1 };
enum { PZ_RING_JOINABLE = 1, PZ_RING_PIPE = 2 };
enum { PZ_NO_READER = 1, PZ_NO_WRITER = 2 }; /* ring->closed */

typedef struct pz_record {
    uint32_t length; /* of the payload behind it */
    uint8_t type;    /* the binding's business */
    uint8_t flags;
    uint16_t spare;
} pz_record;

typedef struct pz_parcel_record { /* payload of a PZ_RECORD_PARCEL */
    uint64_t offset, length;
} pz_parcel_record;

typedef struct pz_segment {
    pz_block block;
    uint64_t next;
    uint64_t end; /* bytes, this header included */
    uint8_t data[];
} pz_segment;
#define PZ_SEGMENT_START 48u

typedef struct pz_task_holder {
    uint32_t owner, outstanding;
} pz_task_holder;

typedef struct pz_ring {
    pz_block block;
    uint64_t max_items; /* 0: no limit */
    uint64_t max_bytes; /* 0: no limit; a put that finds less in flight may go beyond it */
    uint32_t flags;
    pz_u32 closed;
    char name[PZ_NAME];
    /* producers */
    _Alignas(PZ_LINE) pz_u32 put_lock;
    uint32_t spare1; /* a word of the heap's journal: nothing that others change may share the lock's 8 bytes */
    pz_u64 tail, put_items, put_bytes;
    uint64_t j_tail, j_put_items, j_put_bytes;
    _Alignas(PZ_LINE) uint64_t pending;
    /* consumers */
    _Alignas(PZ_LINE) pz_u32 get_lock;
    uint32_t spare0;
    pz_u64 head, got_items, got_bytes;
    uint64_t j_head, j_got_items, j_got_bytes;
    _Alignas(PZ_LINE) uint64_t taking;
    uint64_t taking_gen;        /* generation of that block: it may be freed, and used anew, before the repair */
    uint64_t seen_tail;         /* tail when the consumers last looked */
    uint64_t tasks;             /* block with pz_task_holder for each consumer process */
    uint64_t j_holder, j_value; /* entry that a get changes, and its value before */
    /* sleepers */
    _Alignas(PZ_LINE) pz_u32 getters_asleep;
    pz_u32 putters_asleep, spin_get, spin_put;
    uint64_t spare; /* an empty segment for the next switch (heap lock) */
    pz_u64 done_items, lost; /* lost: items whose consumer died before task_done; both: heap lock */
    pz_u32 done_turn, joiners_asleep;
    pz_u32 get_waits, put_waits;
    /* who wants a bell rung when there is something new */
    _Alignas(PZ_LINE) pz_u32 bells;
    pz_u32 bell_missed;
    pz_u32 bell_owner[PZ_BELLS];
} pz_ring;

typedef struct pz_put { /* an open put: holds put_lock */
    uint64_t tail, items, bytes, parcel;
} pz_put;

typedef struct pz_get { /* an open get: holds get_lock */
    uint64_t head, items, bytes, parcel;
    pz_u64 *note; /* a word of the arena that becomes note_value if, and only if, the get is published */
    uint64_t note_value;
} pz_get;

int pz_ring_init(pz_proc *proc, pz_ring *ring, uint64_t max_items, uint64_t max_bytes, uint32_t flags);
int pz_ring_new(pz_proc *proc, uint64_t max_items, uint32_t flags, pz_ref *ref);

/* Opens a put. `wait` NULL: -EBUSY instead of sleeping for the lock. -EPIPE: nobody can read any more. */
int pz_put_open(pz_proc *proc, pz_ring *ring, pz_put *put, pz_wait *wait);
/* The same in two steps, as pz_mutex_retry and pz_mutex_await: the lock is not held between them. */
int pz_put_retry(pz_proc *proc, pz_ring *ring, pz_put *put, const pz_wait *wait);
int pz_put_await(pz_proc *proc, pz_ring *ring, pz_wait *wait);
/* Room for one record; the payload goes to *at. -EAGAIN: the ring is full; -ENOMEM. Either way the put stays open. */
int pz_put_record(pz_proc *proc, pz_ring *ring, pz_put *put, uint8_t type, uint32_t length, uint8_t **at);
/* The record of a parcel of this process; at most one in a put, and the last thing in it. */
int pz_put_parcel(pz_proc *proc, pz_ring *ring, pz_put *put, uint8_t type, uint64_t parcel);
/* Publishes what was put and closes. */
void pz_put_close(pz_proc *proc, pz_ring *ring, pz_put *put);
/* Until there is room. */
int pz_ring_wait_room(pz_proc *proc, pz_ring *ring, pz_wait *wait);

int pz_get_open(pz_proc *proc, pz_ring *ring, pz_get *get, pz_wait *wait);
int pz_get_retry(pz_proc *proc, pz_ring *ring, pz_get *get, const pz_wait *wait);
int pz_get_await(pz_proc *proc, pz_ring *ring, pz_wait *wait);
/* The next record. -EAGAIN: nothing more (in this get). A parcel is the last record of its get; after the close it is
 * owned by this process. */
int pz_get_record(pz_proc *proc, pz_ring *ring, pz_get *get, const pz_record **record, const uint8_t **payload);
/* Publishes and closes; `keep`: leaves everything in the ring instead. */
void pz_get_close(pz_proc *proc, pz_ring *ring, pz_get *get, bool keep);
/* Until there is something. -EPIPE: it is empty and nobody can write any more. */
int pz_ring_wait_items(pz_proc *proc, pz_ring *ring, pz_wait *wait);

static inline bool pz_ring_is_empty(pz_ring *ring)
{
    return pz_load(&ring->head) == pz_load(&ring->tail);
}
static inline uint64_t pz_ring_items(pz_ring *ring)
{
    uint64_t got = pz_load(&ring->got_items), put = pz_load(&ring->put_items);
    return put > got && !pz_ring_is_empty(ring) ? put - got : 0; /* a dead producer's count may wait for its repair */
}
bool pz_ring_is_full(pz_ring *ring);
/* One side is gone for good: its flag is set and everybody is woken. */
void pz_ring_shut(pz_proc *proc, pz_ring *ring, uint32_t closed);

/* ---- tasks (JoinableQueue) ---- */
int pz_task_done(pz_proc *proc, pz_ring *ring, pz_wait *wait); /* -EPERM: called too many times */
/* Until each item put has been done, or its consumer died; *lost is how many were lost that way since the last join. */
int pz_tasks_join(pz_proc *proc, pz_ring *ring, pz_wait *wait, uint32_t *lost);
uint64_t pz_tasks_unfinished(pz_ring *ring);
/* For the ring: notes that this process took items; -ENOSPC is no error for the caller. */
void pz_tasks_taken(pz_proc *proc, pz_ring *ring, uint64_t items);

/* ---- bells: see doorbell.py for who listens ---- */
int pz_bell_add(pz_proc *proc, pz_ring *ring);    /* this process wants to be rung; -ENOSPC */
void pz_bell_remove(pz_proc *proc, pz_ring *ring);
void pz_bell_ring(pz_proc *proc, pz_ring *ring);  /* sends a datagram to each */
/* Name of the bell of a process for a ring: an abstract Unix address of at most 107 bytes; returns its length. */
unsigned pz_bell_name(pz_proc *proc, const pz_ring *ring, uint32_t owner, char *name);

/* ---- pipes: two rings between two ends ---- */
typedef struct pz_pipe { /* PZ_PIPE */
    pz_block block;
    uint64_t spare[4];
    pz_ring rings[2];
} pz_pipe;

typedef struct pz_pipe_end { /* PZ_PIPE_END */
    pz_block block;
    uint64_t pipe;
    uint32_t side, mode; /* mode: PZ_END_READS | PZ_END_WRITES */
    uint64_t spare[2];
    char name[PZ_NAME];
} pz_pipe_end;

enum { PZ_END_READS = 1, PZ_END_WRITES = 2 };
#define PZ_PIPE_BYTES (UINT64_C(1) << 20)

int pz_pipe_new(pz_proc *proc, bool duplex, pz_ref ends[2]);
static inline pz_ring *pz_end_in(pz_proc *proc, pz_pipe_end *end)
{
    return &((pz_pipe *)pz_at(proc, end->pipe))->rings[end->side ^ 1];
}
static inline pz_ring *pz_end_out(pz_proc *proc, pz_pipe_end *end)
{
    return &((pz_pipe *)pz_at(proc, end->pipe))->rings[end->side];
}

#endif
