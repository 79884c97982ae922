# cython: binding=False
"""Queues and ends of pipes: the C halves of the classes in queues.py and connection.py."""
from cpython.exc cimport PyErr_CheckSignals
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.errno cimport EINTR, EPERM, ETIMEDOUT
from libc.stdint cimport uint32_t, uint64_t

from processing.pz cimport *
from processing._program cimport program, check, deadline_of
from processing._ring cimport *

from queue import Empty

from processing import _native
from processing import _failures
from processing._ring import Closed

cdef pz_proc *proc = <pz_proc *>PyCapsule_GetPointer(_native.proc, PZ_PROC_CAPSULE)


cdef class QueueBase(Handle):
    """A ring as a queue; the classes in queues.py add names, repr and statistics."""
    cdef bint closed
    cdef public object doorbell  # of doorbell.py, once a descriptor was asked for
    unused_is_empty = False
    cdef list received  # taken in a batch with one that could not be unpickled, and not yet handed out

    def _init(self, bint joinable):
        check(pz_ring_init(proc, <pz_ring *>self.at, 0, 0, PZ_RING_JOINABLE if joinable else 0), self)

    def _limit(self, uint64_t maxsize):
        self.ring().max_items = maxsize

    cdef pz_ring *ring(self) except NULL:
        if self.at == NULL or self.closed:
            raise _failures.queue_closed(self)
        return <pz_ring *>self.at

    def put(self, obj, bint block=True, timeout=None):
        """Puts one object.

        Blocks while the queue is full, at most `timeout` seconds; queue.Full then, or at once if `block` is false.
        Raises what pickling raises (nothing is put), MemoryError at the memory limit (nothing is put), ValueError when
        the queue is closed. When it returns, the object is in the queue, whatever becomes of this process.
        """
        put_value(self.ring(), obj, block, PZ_FOREVER if timeout is None else deadline_of(timeout), self, False)

    def get(self, bint block=True, timeout=None):
        """Takes one object out.

        Blocks while the queue is empty, at most `timeout` seconds; queue.Empty then, or at once if `block` is false.
        """
        if self.received is not None:
            self.ring()
            return self.stashed(1)[0]
        value = get_value(self.ring(), block, PZ_FOREVER if timeout is None else deadline_of(timeout), False)
        if self.doorbell is not None:
            self.doorbell.refresh()
        return value

    def put_nowait(self, obj):
        """put(obj, block=False)."""
        put_value(self.ring(), obj, False, PZ_FOREVER, self, False)

    def get_nowait(self):
        """get(block=False)."""
        return self.get(False)

    def put_many(self, iterable, bint block=True, timeout=None):
        """Puts every object of an iterable, in batches of one lock each.

        All are pickled before the first is put. queue.Full has an attribute `put`: how many were put.
        """
        put_values(self.ring(), list(iterable), block, PZ_FOREVER if timeout is None else deadline_of(timeout), self)

    def get_many(self, max_items=None, bint block=True, timeout=None):
        """Takes what is there, at most `max_items` objects (None: all), in order; waits like get() for the first.

        If one cannot be unpickled its error is raised, and the next call returns the others.
        """
        cdef uint64_t deadline = PZ_FOREVER if timeout is None else deadline_of(timeout)
        cdef pz_ring *ring = self.ring()
        cdef Py_ssize_t most = (1 << 60) if max_items is None else max_items
        if most < 1:
            raise ValueError(f"max_items must be at least 1, or None for all, not {max_items}")
        if self.received is not None:
            return self.stashed(most)
        while True:
            try:
                values = get_values(ring, most)
            except Exception as error:
                self.received = getattr(error, "received", None) or None
                raise
            if values:
                if self.doorbell is not None:
                    self.doorbell.refresh()
                return values
            if not block or wait_items(ring, deadline) == -ETIMEDOUT:
                raise Empty

    cdef list stashed(self, Py_ssize_t most):
        values = self.received
        self.received = values[most:] or None
        return values[:most]

    def qsize(self):
        """How many objects are in the queue."""
        return pz_ring_items(self.ring()) + (len(self.received) if self.received is not None else 0)

    def empty(self):
        """True if nothing is in the queue."""
        if self.closed and self.unused_is_empty and pz_load64(&(<pz_ring *>need(self)).put_items) == 0:
            return True  # as in the standard library: closing a queue is nothing before its first use
        return pz_ring_is_empty(self.ring()) and self.received is None

    def full(self):
        """True if a bounded queue holds `maxsize` objects."""
        return pz_ring_is_full(self.ring())

    def close(self):
        """This process will not use the queue any more; what is in it stays for the others."""
        self.closed = True

    @property
    def maxsize(self):
        """Most objects the queue holds; 0: no limit but memory."""
        return (<pz_ring *>need(self)).max_items

    def _task_done(self):
        cdef pz_wait wait
        cdef int rc
        cdef pz_ring *ring = self.ring()
        pz_wait_init(&wait, PZ_FOREVER)
        while True:
            with nogil:
                rc = pz_task_done(proc, ring, &wait)
            if rc != -EINTR:
                break
            PyErr_CheckSignals()
        if rc == -EPERM:
            raise ValueError("task_done() called too many times")
        check(rc, self)

    def _join(self, timeout):
        """-> items lost with their consumers, or None at the deadline."""
        cdef pz_wait wait
        cdef uint32_t lost = 0
        cdef int rc
        cdef pz_ring *ring = self.ring()
        pz_wait_init(&wait, deadline_of(timeout))
        while True:
            with nogil:
                rc = pz_tasks_join(proc, ring, &wait, &lost)
            if rc == 0:
                return lost
            if rc == -ETIMEDOUT:
                return None
            if rc != -EINTR:
                check(rc, self)
            PyErr_CheckSignals()

    def _facts(self):
        """(put, got, bytes held, waits of consumers, waits of producers, unfinished, closed)."""
        cdef pz_ring *ring = <pz_ring *>need(self)
        cdef uint64_t got = pz_load64(&ring.got_bytes), put = pz_load64(&ring.put_bytes)
        return (pz_load64(&ring.put_items), pz_load64(&ring.got_items), put - got if put > got else 0,
                pz_load(&ring.get_waits), pz_load(&ring.put_waits), pz_tasks_unfinished(ring), self.closed)

    def _bell(self, bint on):
        return bell(<pz_ring *>need(self), on)

    def _ready(self):
        return self.received is not None or is_ready(<pz_ring *>need(self))


cdef class EndBase(Handle):
    """One end of a pipe; the class Connection in connection.py adds the rest."""
    cdef public object doorbell

    cdef pz_ring *reading(self) except NULL:
        cdef pz_pipe_end *end = <pz_pipe_end *>need(self)
        if not end.mode & PZ_END_READS:
            raise OSError("connection is write-only")
        return pz_end_in(proc, end)

    cdef pz_ring *writing(self) except NULL:
        cdef pz_pipe_end *end = <pz_pipe_end *>need(self)
        if not end.mode & PZ_END_WRITES:
            raise OSError("connection is read-only")
        return pz_end_out(proc, end)

    @property
    def _mode(self):
        return (<pz_pipe_end *>need(self)).mode

    def _send(self, obj, bint raw):
        try:
            put_value(self.writing(), obj, True, PZ_FOREVER, self, raw)
        except Closed:
            raise _failures.broken_pipe(self) from None

    def _recv(self, bint raw):
        try:
            value = get_value(self.reading(), True, PZ_FOREVER, raw)
        except Closed:
            raise EOFError from None
        if self.doorbell is not None:
            self.doorbell.refresh()
        return value

    def _poll(self, timeout):
        """True if recv() would not block: a message is there, or the other end is gone."""
        cdef pz_ring *ring = self.reading()
        if not pz_ring_is_empty(ring):
            return True
        if wait_items(ring, deadline_of(timeout)) != -ETIMEDOUT:
            return True
        # Whoever asks again and again, without waiting, learns of a death, too.
        pz_sweep_sometimes(proc)
        return is_ready(ring)

    def _bell(self, bint on):
        return bell(self.reading(), on)

    def _ready(self):
        return is_ready(self.reading())

    def _facts(self):
        cdef pz_pipe_end *end = <pz_pipe_end *>need(self)
        cdef pz_ring *to = pz_end_out(proc, end)
        cdef pz_ring *fro = pz_end_in(proc, end)
        return (pz_load64(&to.put_items), pz_load64(&fro.got_items), pz_ring_items(to), pz_ring_items(fro),
                bool(pz_load(&to.closed) & PZ_NO_READER))


cdef void *need(Handle handle) except NULL:
    if handle.at == NULL:
        raise _failures.handle_closed(handle)
    return handle.at


cdef object bell(pz_ring *ring, bint on):
    """Enters this process as one to be rung, or removes it; -> the address of its bell."""
    cdef char name[128]
    cdef unsigned length
    if not on:
        pz_bell_remove(proc, ring)
        return None
    check(pz_bell_add(proc, ring), "a doorbell (8 processes wait on descriptors of this object already)")
    length = pz_bell_name(proc, ring, proc.self_, name)
    return name[:length]


cdef bint is_ready(pz_ring *ring):
    return not pz_ring_is_empty(ring) or pz_load(&ring.closed) & PZ_NO_WRITER


def new_pipe(cls, bint duplex, unsigned name_at):
    """The two ends of a new pipe."""
    cdef pz_ref ends[2]
    check(pz_pipe_new(program(), duplex, ends), cls)
    return (_native.adopt(cls, PZ_PIPE_END, ends[0].offset, ends[0].gen, ends[0].entry, name_at),
            _native.adopt(cls, PZ_PIPE_END, ends[1].offset, ends[1].gen, ends[1].entry, name_at))
