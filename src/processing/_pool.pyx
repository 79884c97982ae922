# cython: binding=False
"""The arena object of a pool: what the supervisor asks and does; putting into its rings.

The caller's half is in _calls, the workers' in _work, the steps and what a death leaves in core/include/pz/pool.h.
"""
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.errno cimport EINTR, ENOMEM
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from processing.pz cimport *
from processing._message cimport *
from processing._program cimport check, program
from processing._ring cimport open_put

from _pickle import dumps
from collections import namedtuple

from processing import _failures
from processing import _native

cdef pz_proc *proc = <pz_proc *>PyCapsule_GetPointer(_native.proc, PZ_PROC_CAPSULE)

POOL = (PZ_POOL, 0, POOL_NAME_AT)
MOST = PZ_DESKS_MAX
STATES = ("empty", "starting", "idle", "taken", "left", "failed")

DeskView = namedtuple(
    "DeskView",
    "owner_pid state job first from_ to done running attempt retries timeout started_ns deadline_ns text calls busy_ns "
    "waited_ns orders broadcast memory",
)


cdef class PoolBase(Handle):
    """Two rings, and a desk for each worker; the class in engine.py adds the rest."""

    cdef pz_pool *pool(self) except NULL:
        if self.at == NULL:
            raise _failures.handle_closed(self)
        return <pz_pool *>self.at

    cdef pz_desk *desk_of(self, Py_ssize_t rank) except NULL:
        cdef pz_pool *pool = self.pool()
        if rank < 0 or rank >= load32(&pool.desks):
            raise IndexError(f"there is no desk {rank}: the pool has {load32(&pool.desks)}")
        return pz_desk_at(proc, pool, <uint32_t>rank)

    # -- Putting

    cdef int send(self, pz_ring *ring, uint8_t type, const void *data, size_t length) except -1:
        """One message of at most PZ_INLINE_MAX bytes."""
        cdef pz_put put
        cdef uint8_t *at
        cdef int rc = open_put(ring, &put, PZ_FOREVER)
        if rc == 0:
            rc = pz_put_record(proc, ring, &put, type, <uint32_t>length, &at)
            if rc == 0:
                memcpy(at, data, length)
            pz_put_close(proc, ring, &put)
        check(rc, self)
        return 0

    cdef int send_parcel(self, pz_ring *ring, const pz_result *head, uint8_t type, uint64_t parcel) except -1:
        """A result and its payload; the parcel is the ring's then."""
        cdef pz_put put
        cdef uint8_t *at
        cdef int rc = open_put(ring, &put, PZ_FOREVER)
        if rc == 0:
            rc = pz_put_record(proc, ring, &put, PZ_MESSAGE_LARGE, sizeof(pz_result), &at)
            if rc == 0:
                memcpy(at, head, sizeof(pz_result))
                rc = pz_put_parcel(proc, ring, &put, type, parcel)
            if rc < 0:
                put.items = 0  # both or none
            pz_put_close(proc, ring, &put)
        check(rc, self)
        return 0

    def report(self, int kind, uint64_t job, uint32_t index, payload):
        """An event for the caller. Raises what pickling raises."""
        cdef bytes data = dumps((kind, job, index, payload, 0), 5)
        if len(data) > PZ_INLINE_MAX:
            raise ValueError(f"an event of {len(data)} bytes is too large")
        self.send(&self.pool().results, PZ_MESSAGE_EVENT, <const char *>data, len(data))

    # -- The supervisor's

    def grow(self, uint32_t count):
        """Sees to it that there are desks for `count` workers."""
        check(pz_pool_grow(proc, self.pool(), count), self)

    @property
    def desks(self):
        return load32(&self.pool().desks)

    def desk(self, rank):
        """What lies on the desk of that rank: a DeskView."""
        cdef pz_desk *desk = self.desk_of(rank)
        cdef pz_batch *batch = <pz_batch *>desk.task
        cdef int state = pz_desk_state(desk)
        cdef uint64_t at = load64(&desk.at)
        cdef uint64_t results = load64(&desk.results)
        text = None
        if state == PZ_DESK_FAILED:
            text = PyBytes_FromStringAndSize(<const char *>desk.result, results & 0xffffffff).decode(errors="replace")
        facts = (0, 0, 0, 0, 0, 0, 0.0)
        if state == PZ_DESK_TAKEN:
            facts = (batch.job, batch.first, batch.begin, batch.to, batch.attempt, batch.retries, batch.timeout / 1e3)
        job, first, begin, to, attempt, retries, timeout = facts
        return DeskView(
            load32(&desk.pid), STATES[state], job, first, begin, to, at & 0xffffffff,
            state == PZ_DESK_TAKEN and at & PZ_RUNNING != 0, attempt, retries, timeout, load64(&desk.started),
            load64(&desk.deadline), text, load64(&desk.calls), load64(&desk.busy), load64(&desk.waited),
            load32(&desk.orders), load64(&desk.broadcasting), load64(&desk.memory),
        )

    def settle(self, uint32_t rank):
        """The worker of that rank is dead: repairs what it was at."""
        self.desk_of(rank)
        pz_pool_settle(proc, self.pool(), rank)

    def flush(self, rank):
        """Passes on what a dead worker had finished."""
        cdef pz_desk *desk = self.desk_of(rank)
        cdef uint64_t results = load64(&desk.results)
        if pz_desk_state(desk) in (PZ_DESK_TAKEN, PZ_DESK_IDLE) and results >> 32:
            (<pz_flush *>desk.result).count = <uint32_t>(results >> 32)
            (<pz_flush *>desk.result).ns = 0
            self.note_result(desk, results & 0xffffffff)
            self.send(&self.pool().results, PZ_MESSAGE_RESULTS, desk.result, results & 0xffffffff)
            store64(&desk.results, 0)

    cdef int note_result(self, pz_desk *desk, uint32_t used) except -1:
        """If the call that seems to run has left its result, it has ended."""
        cdef pz_batch *batch = <pz_batch *>desk.task
        cdef uint64_t at = load64(&desk.at)
        cdef uint32_t place = sizeof(pz_flush)
        cdef pz_result *result
        while at & PZ_RUNNING and place < used:
            result = <pz_result *>(desk.result + place)
            if result.job == batch.job and result.index == batch.first + <uint32_t>at:
                store64(&desk.at, <uint32_t>at + 1)
                return 0
            place += sizeof(pz_result) + PZ_ROUND8(result.length)
        return 0

    def requeue(self, rank, uint32_t begin, uint32_t to, uint8_t attempt):
        """Puts calls [begin, to) of the batch on that desk back into the ring."""
        cdef pz_desk *desk = self.desk_of(rank)
        cdef bytes data = PyBytes_FromStringAndSize(<const char *>desk.task, desk.length)
        cdef pz_batch *batch = <pz_batch *><const char *>data
        if not batch.begin <= begin < to <= batch.to:
            raise ValueError(f"calls [{begin}, {to}) are not in a batch of [{batch.begin}, {batch.to})")
        batch.begin = begin
        batch.to = to
        batch.attempt = attempt
        self.send(&self.pool().tasks, PZ_MESSAGE_RESULTS, <const char *>data, len(data))
        pz_pool_notify(proc, self.pool())

    def clear(self, rank):
        """Nobody sits at that desk, and nothing lies on it."""
        cdef pz_desk *desk = self.desk_of(rank)
        store64(&desk.results, 0)
        store64(&desk.deadline, 0)
        store64(&desk.at, 0)
        store64(&desk.broadcasting, 0)
        store32(&desk.orders, 0)
        store32(&desk.owner, 0)
        store32(&desk.pid, 0)
        pz_desk_become(desk, PZ_DESK_EMPTY)

    def order(self, rank, what):
        """`retire`: the worker of that rank leaves after its batch."""
        if what != "retire":
            raise ValueError(f"there is no order {what!r}")
        or32(&self.desk_of(rank).orders, PZ_ORDER_RETIRE)
        pz_pool_stir(proc, self.pool())

    def tasks_waiting(self):
        """How many batches are in the ring."""
        return pz_ring_items(&self.pool().tasks)

    def close_tasks(self):
        """Workers leave once nothing is left in the ring."""
        pz_pool_shut(proc, self.pool())

    def cancel_queued(self, uint64_t job, index=None):
        """That call (None: every call of the job) is not to begin any more; -> False if no more can be remembered."""
        return pz_pool_cancel(self.pool(), job, PZ_ALL_CALLS if index is None else index) == 0

    def forget_cancelled(self, uint64_t job, index=None):
        """The same is over and done with."""
        pz_pool_uncancel(self.pool(), job, PZ_ALL_CALLS if index is None else index)

    @property
    def tracing(self):
        """Whether workers report when each call began and ended."""
        return load32(&self.pool().tracing) != 0

    @tracing.setter
    def tracing(self, bint on):
        store32(&self.pool().tracing, on)

    @property
    def watching(self):
        """Whether the supervisor looks after timeouts just now."""
        return load32(&self.pool().watching) != 0

    @watching.setter
    def watching(self, bint on):
        swap32(&self.pool().watching, on)


def new_pool(cls, uint32_t desks):
    """A handle of a new pool with so many desks."""
    cdef pz_ref ref
    cdef int rc = pz_pool_new(program(), &ref)
    if rc < 0:
        raise _failures.status(cls, -rc)
    pool = _native.adopt(cls, PZ_POOL, ref.offset, ref.gen, ref.entry, POOL_NAME_AT)
    pool.grow(desks)
    return pool
