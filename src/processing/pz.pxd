# The core as Cython modules see it: declarations only (core/include/pz).
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from posix.types cimport pid_t


cdef extern from "pz/ring.h" nogil:
    enum: PZ_CONDITION "PZ_COND", PZ_EVENT, PZ_BARRIER, PZ_RING, PZ_PIPE_END, PZ_BUFFER, PZ_LOCK, PZ_RLOCK
    enum: PZ_MEMORY, PZ_SHARED, PZ_STORE, PZ_VALUES
    enum: PZ_RECORD_PARCEL, PZ_INLINE_MAX, PZ_RING_JOINABLE, PZ_END_READS, PZ_END_WRITES, PZ_NO_READER, PZ_NO_WRITER
    const uint64_t PZ_FOREVER
    ctypedef struct pz_u32:
        pass
    ctypedef struct pz_u64:
        pass
    uint32_t pz_load(pz_u32 *)
    uint64_t pz_load64 "pz_load"(pz_u64 *)
    void pz_store64 "pz_store"(pz_u64 *, uint64_t)

    ctypedef struct pz_ops:
        uint64_t (*now)() noexcept nogil
    ctypedef struct pz_header:
        uint64_t program, size
        pid_t root
    ctypedef struct pz_proc:
        void *base
        uint64_t size
        pz_header *header
        const pz_ops *ops
        int fd
        pid_t pid
        uint32_t slot
        uint32_t self_ "self"
    ctypedef struct pz_block:
        pz_u64 owner
        uint32_t gen
        uint16_t kind
        uint32_t refs
        uint32_t flags
        uint64_t size
    ctypedef struct pz_ref:
        uint64_t offset
        uint32_t gen
        uint32_t entry
    ctypedef struct pz_parcel:
        pz_block block
        uint32_t count
        uint64_t length
    ctypedef struct pz_slot:
        pid_t pid
        uint32_t had_parcels
        uint64_t parked
        char name[64]
    ctypedef struct pz_memory:
        uint64_t limit, backed, used, warm, blocks
    ctypedef struct pz_wait:
        uint32_t sleeps
    ctypedef struct pz_record:
        uint32_t length
        uint8_t type
        uint8_t flags

    void *pz_at(const pz_proc *, uint64_t)
    uint64_t pz_offset(const pz_proc *, const void *)
    int pz_arena_create(pz_proc *, uint64_t, const pz_ops *)
    int pz_arena_map(pz_proc *, int, const pz_ops *)
    void pz_arena_unmap(pz_proc *)
    uint64_t pz_memory_default()
    uint64_t pz_memory_headroom()
    double pz_cpu_quota()
    uint32_t pz_cpus(pz_proc *)
    void pz_memory_get(pz_proc *, pz_memory *)
    void pz_memory_set_limit(pz_proc *, uint64_t)
    pz_slot *pz_slot_at(const pz_proc *, uint32_t)
    uint32_t PZ_OWNER_SLOT(uint32_t)
    uint64_t PZ_BY_SLOT(uint32_t)
    int pz_slot_reserve(pz_proc *, bint, uint32_t *)
    int pz_slot_mark_birth(pz_proc *, uint32_t)
    void pz_slot_end_birth(pz_proc *, int)
    int pz_slot_claim(pz_proc *, uint32_t)
    void pz_slot_leave(pz_proc *)
    void pz_slot_bury(pz_proc *, uint32_t)
    pid_t pz_owner_pid(pz_proc *, uint32_t)
    int pz_sweep_all(pz_proc *)
    int pz_object_new(pz_proc *, uint64_t, int, pz_ref *)
    void pz_object_close(pz_proc *, const pz_ref *)
    int pz_parcel_new(pz_proc *, uint64_t, uint32_t, uint64_t *)
    int pz_parcel_carry(pz_proc *, uint64_t, uint64_t, uint32_t)
    void pz_parcel_free(pz_proc *, uint64_t)
    int pz_parcel_keep(pz_proc *, uint64_t, int, pz_ref *)
    int pz_object_draft(pz_proc *, uint64_t, uint64_t, uint64_t *)
    int pz_object_finish(pz_proc *, uint64_t, int, pz_ref *)
    void pz_block_free(pz_proc *, uint64_t)
    int pz_object_open(pz_proc *, uint64_t, uint32_t, pz_ref *, uint16_t *)
    uint8_t *pz_parcel_data(pz_parcel *)
    pz_block *pz_block_find(pz_proc *, uint64_t, uint32_t)
    void pz_wait_init(pz_wait *, uint64_t)

    # synchronisation
    ctypedef struct pz_lock:
        pz_u32 word
        uint64_t acquired
        pz_u32 contended, deaths
    ctypedef struct pz_rlock:
        uint32_t depth
    ctypedef struct pz_cell:
        pass
    ctypedef struct pz_cond:
        pz_u32 notified, passed_on
    ctypedef struct pz_event:
        pz_u32 word, sets
    ctypedef struct pz_barrier:
        pz_u32 state, passed
        uint32_t parties
    ctypedef struct pz_arrival:
        uint64_t token
        uint32_t index, phase
        bint arrived
    ctypedef struct pz_semaphore:
        pz_u32 value, contended
    ctypedef struct pz_bounded:
        uint32_t permits
        pz_u32 contended, deaths
    uint32_t PZ_LOCKED, PZ_NOBODY
    uint32_t PZ_OWNER_OF(uint32_t)
    uint32_t PZ_SEMAPHORE_MAX, PZ_BOUNDED_MAX
    uint32_t pz_bounded_value(pz_bounded *)
    int pz_lock_release(pz_proc *, pz_lock *)
    int pz_rlock_release_all(pz_proc *, pz_rlock *, uint64_t, uint32_t *)
    bint pz_rlock_is_mine(pz_proc *, pz_rlock *, uint64_t)
    void pz_rlock_set_depth(pz_rlock *, uint32_t)
    int pz_cond_enter(pz_proc *, pz_cond *, pz_cell **)
    int pz_cond_await(pz_proc *, pz_cond *, pz_cell *, pz_wait *)
    int pz_lock_try(pz_proc *, pz_lock *)
    int pz_lock_wait(pz_proc *, pz_lock *, pz_wait *, uint32_t *)
    int pz_rlock_try(pz_proc *, pz_rlock *, uint64_t)
    int pz_rlock_wait(pz_proc *, pz_rlock *, uint64_t, pz_wait *, uint32_t *)
    bint pz_cond_leave(pz_proc *, pz_cond *, pz_cell *)
    uint32_t pz_cond_notify(pz_proc *, pz_cond *, uint32_t)
    uint32_t pz_cond_waiting(pz_proc *, pz_cond *)
    bint pz_event_is_set(pz_event *)
    void pz_event_set(pz_proc *, pz_event *)
    void pz_event_clear(pz_event *)
    int pz_event_wait(pz_proc *, pz_event *, uint32_t, pz_wait *)
    int pz_barrier_wait(pz_proc *, pz_barrier *, pz_arrival *, pz_wait *)
    void pz_barrier_release(pz_proc *, pz_barrier *)
    bint pz_barrier_leave(pz_proc *, pz_barrier *, pz_arrival *)
    void pz_barrier_break(pz_proc *, pz_barrier *)
    void pz_barrier_reset(pz_proc *, pz_barrier *)
    uint32_t pz_barrier_waiting(pz_barrier *)

    # rings
    ctypedef struct pz_ring:
        pz_block block
        uint64_t max_items, max_bytes
        pz_u32 closed, get_waits, put_waits
        pz_u64 put_items, got_items, put_bytes, got_bytes
    ctypedef struct pz_put:
        uint64_t items, parcel
    ctypedef struct pz_get:
        uint64_t items, parcel
    ctypedef struct pz_pipe_end:
        uint64_t pipe
        uint32_t side, mode
    int pz_ring_init(pz_proc *, pz_ring *, uint64_t, uint64_t, uint32_t)
    int pz_put_open(pz_proc *, pz_ring *, pz_put *, pz_wait *)
    int pz_put_retry(pz_proc *, pz_ring *, pz_put *, const pz_wait *)
    int pz_put_await(pz_proc *, pz_ring *, pz_wait *)
    int pz_get_retry(pz_proc *, pz_ring *, pz_get *, const pz_wait *)
    int pz_get_await(pz_proc *, pz_ring *, pz_wait *)
    int pz_put_record(pz_proc *, pz_ring *, pz_put *, uint8_t, uint32_t, uint8_t **)
    int pz_put_parcel(pz_proc *, pz_ring *, pz_put *, uint8_t, uint64_t)
    void pz_put_close(pz_proc *, pz_ring *, pz_put *)
    int pz_ring_wait_room(pz_proc *, pz_ring *, pz_wait *)
    int pz_get_open(pz_proc *, pz_ring *, pz_get *, pz_wait *)
    int pz_get_record(pz_proc *, pz_ring *, pz_get *, const pz_record **, const uint8_t **)
    void pz_get_close(pz_proc *, pz_ring *, pz_get *, bint)
    int pz_ring_wait_items(pz_proc *, pz_ring *, pz_wait *)
    bint pz_ring_is_empty(pz_ring *)
    bint pz_ring_is_full(pz_ring *)
    uint64_t pz_ring_items(pz_ring *)
    void pz_ring_shut(pz_proc *, pz_ring *, uint32_t)
    int pz_task_done(pz_proc *, pz_ring *, pz_wait *)
    int pz_tasks_join(pz_proc *, pz_ring *, pz_wait *, uint32_t *)
    uint64_t pz_tasks_unfinished(pz_ring *)
    int pz_bell_add(pz_proc *, pz_ring *)
    void pz_bell_remove(pz_proc *, pz_ring *)
    unsigned pz_bell_name(pz_proc *, const pz_ring *, uint32_t, char *)
    void pz_bell_ring(pz_proc *, pz_ring *)
    void pz_sweep_sometimes(pz_proc *)
    int pz_pipe_new(pz_proc *, bint, pz_ref *)
    pz_ring *pz_end_in(pz_proc *, pz_pipe_end *)
    pz_ring *pz_end_out(pz_proc *, pz_pipe_end *)


cdef extern from "_handle.h":
    const char *PZ_PROC_CAPSULE
    ctypedef class processing._native.Handle [object PzHandle, check_size ignore]:
        cdef void *at
        cdef pz_ref ref
        cdef uint16_t kind
        cdef uint16_t name_at
        cdef uint32_t exports
