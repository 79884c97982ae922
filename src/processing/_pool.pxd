# The arena object of a pool, for its two other halves: _calls (the caller's) and _work (the workers').
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from processing.pz cimport *


cdef extern from "_calls.h" nogil:
    enum: PZ_POOL, PZ_TASK_MAX, PZ_DESKS_MAX, PZ_RUNNING, PZ_ALL_CALLS, PZ_INLINE_MAX
    enum: PZ_DESK_EMPTY, PZ_DESK_STARTING, PZ_DESK_IDLE, PZ_DESK_TAKEN, PZ_DESK_LEFT, PZ_DESK_FAILED
    enum: PZ_ORDER_RETIRE, PZ_ORDER_BROADCAST
    enum: PZ_CALL_ONE, PZ_CALL_STAR, PZ_CALL_KEYWORDS, PZ_BATCH_PRIVATE
    enum: PZ_ITEM_OBJECT, PZ_ITEM_TUPLE, PZ_ITEM_CACHE
    enum: PZ_MESSAGE_RESULTS, PZ_MESSAGE_LARGE, PZ_MESSAGE_EVENT
    enum: PZ_RESULT_VALUE, PZ_RESULT_ERROR, PZ_RESULT_CANCELLED
    enum: POOL_SIZE "sizeof(pz_pool)", POOL_NAME_AT "offsetof(pz_pool, name)"
    ctypedef struct pz_batch:
        uint64_t job
        uint32_t first
        uint32_t begin "from"
        uint32_t to
        uint32_t timeout
        uint8_t kind, flags, attempt, retries
    ctypedef struct pz_desk:
        pz_u64 turn, at, results, started, deadline, calls, busy, waited, since, broadcast, broadcasting, memory
        pz_u32 owner, orders, pid
        uint32_t length
        uint64_t spare[16]
        uint8_t task[1]
        uint8_t result[1]
    ctypedef struct pz_pool:
        pz_u32 desks, watching, cancels, audience, tracing
        pz_u64 broadcast, broadcast_job
        uint64_t message
        uint32_t message_gen, message_type
        pz_ring tasks, results
    ctypedef struct pz_item:
        uint32_t length
        uint8_t type, flags
    ctypedef struct pz_item_object:
        uint64_t offset
        uint32_t gen
    ctypedef struct pz_flush:
        uint64_t ns
        uint32_t rank, count
    ctypedef struct pz_result:
        uint64_t job
        uint32_t index, length
        uint8_t type, status
    size_t PZ_ROUND8(size_t)
    uint64_t pz_coarse_now()
    void pz_read_before()
    void pz_end_with_parent()
    int pz_pool_new(pz_proc *, pz_ref *)
    int pz_pool_grow(pz_proc *, pz_pool *, uint32_t)
    pz_desk *pz_desk_at(pz_proc *, pz_pool *, uint32_t)
    int pz_desk_state(pz_desk *)
    void pz_desk_become(pz_desk *, int)
    void pz_pool_notify(pz_proc *, pz_pool *)
    int pz_pool_take(pz_proc *, pz_pool *, pz_desk *, const pz_wait *)
    int pz_pool_await(pz_proc *, pz_pool *, pz_desk *, uint32_t, pz_wait *)
    void pz_pool_stir(pz_proc *, pz_pool *)
    void pz_pool_shut(pz_proc *, pz_pool *)
    void pz_pool_settle(pz_proc *, pz_pool *, uint32_t)
    int pz_pool_cancel(pz_pool *, uint64_t, uint32_t)
    void pz_pool_uncancel(pz_pool *, uint64_t, uint32_t)
    bint pz_pool_is_cancelled(pz_pool *, uint64_t, uint32_t)
    uint32_t load32 "pz_load"(pz_u32 *)
    void store32 "pz_store"(pz_u32 *, uint32_t)
    uint64_t load64 "pz_load"(pz_u64 *)
    void store64 "pz_store"(pz_u64 *, uint64_t)
    uint32_t swap32 "pz_swap"(pz_u32 *, uint32_t)
    uint32_t or32 "atomic_fetch_or"(pz_u32 *, uint32_t)
    uint32_t and32 "atomic_fetch_and"(pz_u32 *, uint32_t)


cdef class PoolBase(Handle):
    cdef dict held    # (job << 32 | index) -> handles of what is too large for a message, until that call has ended
    cdef tuple large  # (job, index, status) of the result that comes as the next parcel
    cdef list staged  # messages that have been taken and not read
    cdef pz_pool *pool(self) except NULL
    cdef pz_desk *desk_of(self, Py_ssize_t rank) except NULL
    cdef int note_result(self, pz_desk *desk, uint32_t used) except -1
    cdef int send(self, pz_ring *ring, uint8_t type, const void *data, size_t length) except -1
    cdef int send_parcel(self, pz_ring *ring, const pz_result *head, uint8_t type, uint64_t parcel) except -1
