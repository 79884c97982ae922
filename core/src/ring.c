/* The message ring. See ring.h for the steps and what a death in them leaves. */
#include "pz/ring.h"

#include <string.h>

#include "pz/destroy.h"

#define FIRST_SEGMENT 4096u
#define ROUND8(n) (((n) + 7u) & ~UINT64_C(7))

/* Place of a record: segment (64-byte units) and place in it (8-byte units). */
#define PLACE(segment, byte) ((((uint64_t)(segment)) >> 6 << 20) | ((uint64_t)(byte) >> 3))
#define SEGMENT(place) ((place) >> 20 << 6)
#define BYTE(place) (((place) & 0xfffffu) << 3)

/* The half of a 64-bit word that changes with every step, for the futex. */
static inline pz_u32 *low_half(pz_u64 *word)
{
    return (pz_u32 *)(void *)word;
}

static inline pz_segment *segment_of(pz_proc *proc, uint64_t place)
{
    return pz_at(proc, SEGMENT(place));
}

int pz_ring_init(pz_proc *proc, pz_ring *ring, uint64_t max_items, uint64_t max_bytes, uint32_t flags)
{
    for (;;) {
        uint64_t offset, tasks = 0;
        pz_heap_lock(proc);
        int rc = pz_heap_alloc(proc, FIRST_SEGMENT, PZ_SEGMENT, &offset);
        if (rc == 0 && (flags & PZ_RING_JOINABLE)) {
            rc = pz_heap_alloc(proc, FIRST_SEGMENT, PZ_SEGMENT, &tasks);
            if (rc < 0)
                pz_heap_free(proc, offset);
            else
                memset((pz_block *)pz_at(proc, tasks) + 1, 0, FIRST_SEGMENT - sizeof(pz_block));
        }
        if (rc == 0) {
            pz_segment *segment = pz_at(proc, offset);
            segment->next = 0;
            segment->end = FIRST_SEGMENT;
            pz_tx(proc, ring->tail);
            pz_tx(proc, ring->head);
            pz_tx(proc, ring->tasks);
            pz_poke(&ring->head, PLACE(offset, PZ_SEGMENT_START));
            pz_poke(&ring->tail, PLACE(offset, PZ_SEGMENT_START));
            ring->seen_tail = 0;
            ring->tasks = tasks;
            ring->max_items = max_items;
            ring->max_bytes = max_bytes;
            ring->flags = flags;
        }
        pz_heap_unlock(proc);
        if (rc != -EAGAIN)
            return rc;
        rc = pz_heap_reserve(proc, 2 * FIRST_SEGMENT);
        if (rc < 0)
            return rc;
    }
}

int pz_ring_new(pz_proc *proc, uint64_t max_items, uint32_t flags, pz_ref *ref)
{
    int rc = pz_object_new(proc, sizeof(pz_ring), PZ_RING, ref);
    if (rc == 0) {
        rc = pz_ring_init(proc, pz_at(proc, ref->offset), max_items, 0, flags);
        if (rc < 0)
            pz_object_close(proc, ref);
    }
    return rc;
}

/* ---- producers --------------------------------------------------------------------------------------------------- */

static PZ_COLD void free_orphan(pz_proc *proc, pz_ring *ring, uint64_t *where)
{
    uint64_t offset = *where;
    pz_block *block = pz_block_at(proc, offset);
    bool orphan = pz_peek(&block->owner) == PZ_BY_RING(pz_offset(proc, ring));
    if (orphan) {
        pz_parcels_used(proc);
        pz_store(&block->owner, PZ_BY_SLOT(proc->self));
    }
    PZ_ORDER();
    *where = 0;
    PZ_ORDER();
    if (orphan)
        pz_parcel_free(proc, offset);
}

static PZ_COLD void repair_put(pz_proc *proc, pz_ring *ring)
{
    pz_heap_settle(proc);
    if (pz_peek(&ring->tail) == ring->j_tail) {
        pz_poke(&ring->put_items, ring->j_put_items);
        pz_poke(&ring->put_bytes, ring->j_put_bytes);
        if (ring->pending)
            free_orphan(proc, ring, &ring->pending);
    }
    ring->pending = 0;
}

static int put_opened(pz_proc *proc, pz_ring *ring, pz_put *put, int rc)
{
    if (PZ_UNLIKELY(rc < 0))
        return rc;
    if (PZ_UNLIKELY(rc == 1))
        repair_put(proc, ring);
    if (PZ_UNLIKELY(pz_peek(&ring->closed) & PZ_NO_READER)) {
        pz_mutex_unlock(proc, &ring->put_lock);
        return -EPIPE;
    }
    put->tail = pz_peek(&ring->tail);
    put->items = put->bytes = put->parcel = 0;
    return 0;
}

int pz_put_open(pz_proc *proc, pz_ring *ring, pz_put *put, pz_wait *wait)
{
    int rc = pz_mutex_try(proc, &ring->put_lock);
    if (PZ_UNLIKELY(rc < 0) && wait)
        rc = pz_mutex_wait(proc, &ring->put_lock, wait);
    return put_opened(proc, ring, put, rc);
}

int pz_put_retry(pz_proc *proc, pz_ring *ring, pz_put *put, const pz_wait *wait)
{
    return put_opened(proc, ring, put, pz_mutex_retry(proc, &ring->put_lock, wait));
}

int pz_put_await(pz_proc *proc, pz_ring *ring, pz_wait *wait)
{
    return pz_mutex_await(proc, &ring->put_lock, wait);
}

/* The segment behind the one that is full: linked already, the spare one, or a new one. */
static PZ_COLD int next_segment(pz_proc *proc, pz_ring *ring, pz_segment *full, uint64_t *result)
{
    if (full->next) {
        *result = full->next;
        return 0;
    }
    for (;;) {
        uint64_t offset = 0;
        int rc = 0;
        pz_heap_lock(proc);
        if (ring->spare) {
            offset = ring->spare;
            pz_tx(proc, ring->spare);
            ring->spare = 0;
        } else {
            rc = pz_heap_alloc(proc, PZ_PAGE, PZ_SEGMENT, &offset);
        }
        if (rc == 0) {
            pz_segment *segment = pz_at(proc, offset);
            segment->next = 0;
            segment->end = PZ_PAGE;
            pz_tx(proc, full->next);
            full->next = offset;
        }
        pz_heap_unlock(proc);
        *result = offset;
        if (rc != -EAGAIN)
            return rc;
        rc = pz_heap_reserve(proc, PZ_PAGE);
        if (rc < 0)
            return rc;
    }
}

static inline bool is_full(pz_ring *ring, uint64_t items, uint64_t bytes)
{
    if (ring->max_items && pz_peek(&ring->put_items) + items - pz_load(&ring->got_items) >= ring->max_items)
        return true;
    return ring->max_bytes && pz_peek(&ring->put_bytes) + bytes - pz_load(&ring->got_bytes) >= ring->max_bytes;
}

bool pz_ring_is_full(pz_ring *ring)
{
    return is_full(ring, 0, 0);
}

int pz_put_record(pz_proc *proc, pz_ring *ring, pz_put *put, uint8_t type, uint32_t length, uint8_t **at)
{
    if (PZ_UNLIKELY(is_full(ring, put->items, put->bytes)))
        return -EAGAIN;
    pz_segment *segment = segment_of(proc, put->tail);
    uint64_t byte = BYTE(put->tail), need = sizeof(pz_record) + ROUND8(length);
    if (PZ_UNLIKELY(byte + need + sizeof(pz_record) > segment->end)) {
        uint64_t next;
        int rc = next_segment(proc, ring, segment, &next);
        if (rc < 0)
            return rc;
        *(pz_record *)((uint8_t *)segment + byte) = (pz_record){.type = PZ_JUMP};
        segment = pz_at(proc, next);
        put->tail = PLACE(next, PZ_SEGMENT_START);
        byte = PZ_SEGMENT_START;
    }
    pz_record *record = (pz_record *)((uint8_t *)segment + byte);
    *record = (pz_record){.length = length, .type = type};
    *at = (uint8_t *)(record + 1);
    put->tail += need >> 3;
    put->items++;
    put->bytes += need;
    return 0;
}

int pz_put_parcel(pz_proc *proc, pz_ring *ring, pz_put *put, uint8_t type, uint64_t parcel)
{
    uint8_t *at;
    int rc = pz_put_record(proc, ring, put, type, sizeof(pz_parcel_record), &at);
    if (rc < 0)
        return rc;
    uint64_t size = pz_block_at(proc, parcel)->size;
    pz_parcel_record body = {parcel, size};
    memcpy(at, &body, sizeof body);
    ((pz_record *)(void *)at)[-1].flags = PZ_RECORD_PARCEL;
    put->bytes += size;
    put->parcel = parcel;
    return 0;
}

static PZ_COLD void wake_getter(pz_proc *proc, pz_ring *ring)
{
    if (pz_swap(&ring->getters_asleep, 0))
        proc->ops->futex_wake(low_half(&ring->tail), 1);
}

static PZ_COLD void wake_putter(pz_proc *proc, pz_ring *ring)
{
    if (pz_swap(&ring->putters_asleep, 0))
        proc->ops->futex_wake(low_half(&ring->head), 1);
}

void pz_put_close(pz_proc *proc, pz_ring *ring, pz_put *put)
{
    if (PZ_UNLIKELY(put->items == 0)) {
        pz_mutex_unlock(proc, &ring->put_lock);
        return;
    }
    uint64_t items = pz_peek(&ring->put_items), bytes = pz_peek(&ring->put_bytes);
    ring->j_put_items = items;
    ring->j_put_bytes = bytes;
    PZ_ORDER(); /* the counters are put back only where j_tail is the tail */
    ring->j_tail = pz_peek(&ring->tail);
    PZ_ORDER();
    if (PZ_UNLIKELY(put->parcel != 0)) {
        ring->pending = put->parcel;
        PZ_ORDER();
        pz_store(&pz_block_at(proc, put->parcel)->owner, PZ_BY_RING(pz_offset(proc, ring)));
    }
    pz_store(&ring->put_items, items + put->items);
    pz_store(&ring->put_bytes, bytes + put->bytes);
    PZ_ORDER();
    pz_store(&ring->tail, put->tail); /* SYNC: pairs with the load of tail by consumers */
    PZ_ORDER();
    if (PZ_UNLIKELY(put->parcel != 0))
        ring->pending = 0;
    /* The unlock is a full barrier: a consumer that says it sleeps after it has seen the old tail is seen here. */
    pz_mutex_unlock(proc, &ring->put_lock);
    if (PZ_UNLIKELY(pz_peek(&ring->getters_asleep)))
        wake_getter(proc, ring);
    if (PZ_UNLIKELY(pz_peek(&ring->bells)))
        pz_bell_ring(proc, ring);
}

/* A producer that died in the middle has counted what it did not publish: for who waits for room that is there. */
static PZ_COLD void settle_put(pz_proc *proc, pz_ring *ring)
{
    uint32_t seen = pz_peek(&ring->put_lock);
    if (!(seen & PZ_LOCKED) || PZ_OWNER_OF(seen) == proc->self || pz_owner_life(proc, PZ_OWNER_OF(seen)) == PZ_ALIVE)
        return;
    pz_put put;
    pz_wait now;
    pz_wait_init(&now, 0);
    if (pz_put_open(proc, ring, &put, &now) == 0)
        pz_put_close(proc, ring, &put);
}

int pz_ring_wait_room(pz_proc *proc, pz_ring *ring, pz_wait *wait)
{
    bool slept = wait->sleeps > 0;
    for (;;) {
        uint64_t head = pz_load(&ring->head);
        if (pz_peek(&ring->closed) & PZ_NO_READER)
            return -EPIPE;
        if (!pz_ring_is_full(ring)) {
            if (slept)
                pz_swap(&ring->putters_asleep, 1);
            return 0;
        }
        if (pz_spin(proc, low_half(&ring->head), (uint32_t)head, &ring->spin_put, wait))
            continue;
        pz_swap(&ring->putters_asleep, 1);
        if (!pz_ring_is_full(ring))
            continue;
        slept = true;
        pz_poke(&ring->put_waits, pz_peek(&ring->put_waits) + 1);
        int rc = pz_sleep(proc, low_half(&ring->head), (uint32_t)head, wait);
        if (rc == -EINTR && (ring->flags & PZ_RING_PIPE))
            pz_sweep_sometimes(proc);
        if (rc < 0)
            settle_put(proc, ring);
        if (rc < 0 && pz_ring_is_full(ring) && !(pz_peek(&ring->closed) & PZ_NO_READER))
            return rc;
    }
}

/* ---- consumers --------------------------------------------------------------------------------------------------- */

static PZ_COLD void repair_get(pz_proc *proc, pz_ring *ring)
{
    pz_heap_settle(proc);
    if (pz_peek(&ring->head) == ring->j_head) {
        pz_poke(&ring->got_items, ring->j_got_items);
        pz_poke(&ring->got_bytes, ring->j_got_bytes);
        if (ring->j_holder)
            *(uint64_t *)pz_at(proc, ring->j_holder) = ring->j_value;
    } else if (ring->taking && ring->taking_gen == pz_block_at(proc, ring->taking)->gen) {
        free_orphan(proc, ring, &ring->taking);
    }
    atomic_thread_fence(memory_order_release); /* what was put back is there before the journal forgets it */
    ring->taking = 0;
    ring->j_holder = 0;
    ring->seen_tail = 0;
}

static int get_opened(pz_proc *proc, pz_ring *ring, pz_get *get, int rc)
{
    if (PZ_UNLIKELY(rc < 0))
        return rc;
    if (PZ_UNLIKELY(rc == 1))
        repair_get(proc, ring);
    get->head = pz_peek(&ring->head);
    get->items = get->bytes = get->parcel = 0;
    get->note = NULL;
    return 0;
}

int pz_get_open(pz_proc *proc, pz_ring *ring, pz_get *get, pz_wait *wait)
{
    int rc = pz_mutex_try(proc, &ring->get_lock);
    if (PZ_UNLIKELY(rc < 0) && wait)
        rc = pz_mutex_wait(proc, &ring->get_lock, wait);
    return get_opened(proc, ring, get, rc);
}

int pz_get_retry(pz_proc *proc, pz_ring *ring, pz_get *get, const pz_wait *wait)
{
    return get_opened(proc, ring, get, pz_mutex_retry(proc, &ring->get_lock, wait));
}

int pz_get_await(pz_proc *proc, pz_ring *ring, pz_wait *wait)
{
    return pz_mutex_await(proc, &ring->get_lock, wait);
}

/* Leaves the segment that has been read to its end. */
static PZ_COLD void leave_segment(pz_proc *proc, pz_ring *ring, pz_get *get)
{
    uint64_t old = SEGMENT(get->head);
    pz_segment *segment = pz_at(proc, old);
    get->head = PLACE(segment->next, PZ_SEGMENT_START);
    pz_heap_lock(proc);
    pz_tx(proc, ring->head);
    pz_store(&ring->head, get->head);
    if (ring->spare == 0 && segment->end == PZ_PAGE) {
        pz_tx(proc, ring->spare);
        ring->spare = old;
    } else {
        pz_heap_free(proc, old);
    }
    pz_heap_unlock(proc);
}

int pz_get_record(pz_proc *proc, pz_ring *ring, pz_get *get, const pz_record **record, const uint8_t **payload)
{
    if (PZ_UNLIKELY(get->parcel != 0))
        return -EAGAIN;
    if (get->head == ring->seen_tail || ring->seen_tail == 0) {
        ring->seen_tail = pz_load(&ring->tail); /* SYNC: pairs with the store in pz_put_close */
        if (get->head == ring->seen_tail)
            return -EAGAIN;
    }
    const pz_record *at = (const pz_record *)((uint8_t *)segment_of(proc, get->head) + BYTE(get->head));
    if (PZ_UNLIKELY(at->type == PZ_JUMP)) {
        if (get->items)
            return -EAGAIN; /* published first, then the next get moves on */
        leave_segment(proc, ring, get);
        at = (const pz_record *)((uint8_t *)segment_of(proc, get->head) + BYTE(get->head));
    }
    if (PZ_UNLIKELY(at->flags & PZ_RECORD_PARCEL)) {
        if (get->items)
            return -EAGAIN;
        pz_parcel_record body;
        memcpy(&body, at + 1, sizeof body);
        get->parcel = body.offset;
        get->bytes += body.length;
    }
    *record = at;
    *payload = (const uint8_t *)(at + 1);
    uint64_t size = sizeof(pz_record) + ROUND8(at->length);
    get->head += size >> 3;
    get->items++;
    get->bytes += size;
    return 0;
}

void pz_get_close(pz_proc *proc, pz_ring *ring, pz_get *get, bool keep)
{
    if (PZ_UNLIKELY(get->items == 0 || keep)) {
        pz_mutex_unlock(proc, &ring->get_lock);
        return;
    }
    uint64_t items = pz_peek(&ring->got_items), bytes = pz_peek(&ring->got_bytes);
    if (PZ_UNLIKELY(get->parcel != 0))
        pz_parcels_used(proc);
    ring->j_got_items = items;
    ring->j_got_bytes = bytes;
    PZ_ORDER();
    ring->j_head = pz_peek(&ring->head);
    PZ_ORDER();
    if (PZ_UNLIKELY(get->parcel != 0)) {
        ring->taking_gen = pz_block_at(proc, get->parcel)->gen;
        PZ_ORDER();
        ring->taking = get->parcel;
    }
    if (PZ_UNLIKELY(ring->tasks != 0))
        pz_tasks_taken(proc, ring, get->items);
    if (get->note) {
        ring->j_value = pz_peek(get->note);
        PZ_ORDER();
        ring->j_holder = pz_offset(proc, get->note);
        PZ_ORDER();
        pz_store(get->note, get->note_value);
    }
    PZ_ORDER();
    pz_store(&ring->got_items, items + get->items);
    pz_store(&ring->got_bytes, bytes + get->bytes);
    PZ_ORDER();
    pz_store(&ring->head, get->head); /* SYNC: pairs with the load of head by producers that wait for room */
    PZ_ORDER();
    if (PZ_UNLIKELY(get->parcel != 0)) {
        pz_store(&pz_block_at(proc, get->parcel)->owner, PZ_BY_SLOT(proc->self));
        PZ_ORDER();
        ring->taking = 0;
    }
    if (PZ_UNLIKELY(ring->j_holder != 0))
        ring->j_holder = 0;
    pz_mutex_unlock(proc, &ring->get_lock);
    if (PZ_UNLIKELY(pz_peek(&ring->putters_asleep)))
        wake_putter(proc, ring);
    /* Wake the next: one wake-up may have stood for several messages. */
    if (PZ_UNLIKELY(pz_peek(&ring->getters_asleep)) && !pz_ring_is_empty(ring))
        wake_getter(proc, ring);
}

int pz_ring_wait_items(pz_proc *proc, pz_ring *ring, pz_wait *wait)
{
    bool slept = wait->sleeps > 0;
    for (;;) {
        uint32_t closed = pz_load(&ring->closed);
        uint64_t tail = pz_load(&ring->tail);
        if (tail != pz_load(&ring->head)) {
            if (slept) /* others may sleep on; see semaphore.c */
                pz_swap(&ring->getters_asleep, 1);
            return 0;
        }
        if (closed & PZ_NO_WRITER)
            return -EPIPE;
        if (pz_spin(proc, low_half(&ring->tail), (uint32_t)tail, &ring->spin_get, wait))
            continue;
        pz_swap(&ring->getters_asleep, 1);
        if (pz_load(&ring->tail) != tail || pz_load(&ring->closed) != closed)
            continue;
        slept = true;
        pz_poke(&ring->get_waits, pz_peek(&ring->get_waits) + 1);
        int rc = pz_sleep(proc, low_half(&ring->tail), (uint32_t)tail, wait);
        if (rc == -EINTR && (ring->flags & PZ_RING_PIPE))
            pz_sweep_sometimes(proc);
        if (rc < 0 && pz_ring_is_empty(ring) && !(pz_load(&ring->closed) & PZ_NO_WRITER))
            return rc;
    }
}

void pz_ring_shut(pz_proc *proc, pz_ring *ring, uint32_t closed)
{
    atomic_fetch_or_explicit(&ring->closed, closed, memory_order_seq_cst);
    /* Sleepers compare their word before they sleep, not `closed`: who is about to is caught by the end of its slice. */
    pz_poke(&ring->getters_asleep, 0);
    pz_poke(&ring->putters_asleep, 0);
    proc->ops->futex_wake(low_half(&ring->tail), INT32_MAX);
    proc->ops->futex_wake(low_half(&ring->head), INT32_MAX);
    if (pz_peek(&ring->bells))
        pz_bell_ring(proc, ring);
}

/* ---- the end ----------------------------------------------------------------------------------------------------- */

void pz_ring_empty(pz_proc *proc, pz_block *block)
{
    pz_ring *ring = (pz_ring *)block;
    uint64_t mine = PZ_BY_RING(pz_offset(proc, ring)), under_way[2] = {0, 0};
    if (ring->pending && pz_peek(&ring->tail) == ring->j_tail)
        under_way[0] = ring->pending;
    if (ring->taking && pz_peek(&ring->head) != ring->j_head &&
        ring->taking_gen == pz_block_at(proc, ring->taking)->gen)
        under_way[1] = ring->taking;
    for (int i = 0; i < 2; i++) {
        if (under_way[i] && pz_peek(&pz_block_at(proc, under_way[i])->owner) == mine) {
            pz_block *parcel = pz_block_at(proc, under_way[i]);
            pz_parcel_unload(proc, parcel);
            pz_tx(proc, ring->pending);
            pz_tx(proc, ring->taking);
            *(i ? &ring->taking : &ring->pending) = 0;
            pz_heap_free(proc, under_way[i]);
            pz_tx_commit(proc);
        }
    }
    /* Message by message; each step moves head over what it freed. */
    while (pz_peek(&ring->head) != pz_peek(&ring->tail)) {
        uint64_t head = pz_peek(&ring->head);
        pz_segment *segment = segment_of(proc, head);
        pz_record *record = (pz_record *)((uint8_t *)segment + BYTE(head));
        if (record->type == PZ_JUMP) {
            pz_tx(proc, ring->head);
            pz_poke(&ring->head, PLACE(segment->next, PZ_SEGMENT_START));
            pz_heap_free(proc, SEGMENT(head));
            pz_tx_commit(proc);
            continue;
        }
        uint64_t size = sizeof(pz_record) + ROUND8(record->length);
        if (record->flags & PZ_RECORD_PARCEL) {
            pz_parcel_record body;
            memcpy(&body, record + 1, sizeof body);
            pz_parcel_unload(proc, pz_block_at(proc, body.offset));
            pz_tx(proc, ring->head);
            pz_poke(&ring->head, head + (size >> 3));
            pz_heap_free(proc, body.offset);
            pz_tx_commit(proc);
        } else {
            pz_poke(&ring->head, head + (size >> 3));
        }
    }
    /* The chain from here on: the last segment and any that were linked ahead. */
    while (pz_peek(&ring->head)) {
        uint64_t old = SEGMENT(pz_peek(&ring->head)), next = ((pz_segment *)pz_at(proc, old))->next;
        pz_tx(proc, ring->head);
        pz_tx(proc, ring->tail);
        pz_poke(&ring->head, next ? PLACE(next, PZ_SEGMENT_START) : 0);
        pz_poke(&ring->tail, pz_peek(&ring->head));
        pz_heap_free(proc, old);
        pz_tx_commit(proc);
    }
    uint64_t *extra[] = {&ring->spare, &ring->tasks};
    for (int i = 0; i < 2; i++)
        if (*extra[i]) {
            uint64_t offset = *extra[i];
            pz_tx(proc, *extra[i]);
            *extra[i] = 0;
            pz_heap_free(proc, offset);
            pz_tx_commit(proc);
        }
}
