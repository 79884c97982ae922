"""Condition cells, events and barriers: the waiting parts, without the GIL. The classes are in synchronize.py."""
from cpython.exc cimport PyErr_CheckSignals
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.errno cimport EINTR, EPIPE, ETIMEDOUT
from libc.stdint cimport uint32_t, uint64_t

from processing.pz cimport *
from processing._program cimport program, check, deadline_of

from processing import _native
from processing import _failures
from threading import BrokenBarrierError

cdef extern from "_handle.h":
    enum: EOWNERDEAD
    unsigned long PyThread_get_thread_ident()

cdef pz_proc *proc = <pz_proc *>PyCapsule_GetPointer(_native.proc, PZ_PROC_CAPSULE)


cdef void *need(Handle handle) except NULL:
    if handle.at == NULL:
        raise _failures.handle_closed(handle)
    return handle.at


cdef extern from *:
    """
    #define LAYOUT(type) sizeof(type), offsetof(type, name)
    static const unsigned layouts[][2] = {{LAYOUT(pz_lock)}, {LAYOUT(pz_semaphore)}, {LAYOUT(pz_cond)},
        {LAYOUT(pz_event)}, {LAYOUT(pz_barrier)}, {LAYOUT(pz_ring)}, {LAYOUT(pz_pipe_end)}, {LAYOUT(pz_bounded)},
        {sizeof(pz_rlock), offsetof(pz_lock, name)}};
    """
    const unsigned layouts[9][2]
    enum: PZ_SEMAPHORE, PZ_BOUNDED


# What a handle of each type needs to know: kind, bytes of the object (without what follows it), place of its name.
LOCK = (PZ_LOCK, layouts[0][0], layouts[0][1])
RLOCK = (PZ_RLOCK, layouts[8][0], layouts[8][1])
SEMAPHORE = (PZ_SEMAPHORE, layouts[1][0], layouts[1][1])
BOUNDED_SEMAPHORE = (PZ_BOUNDED, layouts[7][0], layouts[7][1])
CONDITION = (PZ_CONDITION, layouts[2][0], layouts[2][1])
EVENT = (PZ_EVENT, layouts[3][0], layouts[3][1])
BARRIER = (PZ_BARRIER, layouts[4][0], layouts[4][1])
QUEUE = (PZ_RING, layouts[5][0], layouts[5][1])
PIPE_END = (PZ_PIPE_END, layouts[6][0], layouts[6][1])


cdef bint holds(Handle lock):
    """Whether this process (for an RLock: this thread) holds the lock."""
    cdef uint32_t word
    if lock.at == NULL:
        return False
    if lock.kind == PZ_RLOCK:
        return pz_rlock_is_mine(proc, <pz_rlock *>lock.at, PyThread_get_thread_ident())
    word = pz_load(&(<pz_lock *>lock.at).word)
    return word & PZ_LOCKED and PZ_OWNER_OF(word) == proc.self_


cdef object retake(Handle lock, object interruption):
    """Takes the lock of a condition back; -> the first exception on the way, to be raised when the lock is held.

    That may be one of a signal handler, or LockOwnerDied: the `with` around it will release the lock. A second
    exception of a handler ends the attempt: it is raised, and the lock is not held.
    """
    cdef pz_wait wait
    cdef uint32_t dead = 0
    cdef uint64_t thread = PyThread_get_thread_ident()
    cdef void *at = lock.at
    cdef bint recursive = lock.kind == PZ_RLOCK
    cdef int rc = pz_rlock_try(proc, <pz_rlock *>at, thread) if recursive else pz_lock_try(proc, <pz_lock *>at)
    if rc == 0:
        return interruption
    pz_wait_init(&wait, PZ_FOREVER)
    while True:
        with nogil:
            if recursive:
                rc = pz_rlock_wait(proc, <pz_rlock *>at, thread, &wait, &dead)
            else:
                rc = pz_lock_wait(proc, <pz_lock *>at, &wait, &dead)
        if rc == 0:
            return interruption
        if rc == -EOWNERDEAD:
            interruption = _failures.owner_died(lock, pz_owner_pid(proc, dead))
            continue
        if rc != -EINTR:
            check(rc, lock)
        try:
            PyErr_CheckSignals()
        except BaseException as error:
            if interruption is not None:
                raise
            interruption = error


cdef class ConditionBase(Handle):
    """Waiting and notifying; `lock` is the Lock or RLock (a handle) that goes with it."""

    def _wait(self, Handle lock not None, timeout):
        """Releases the lock, waits, takes it again; -> whether notified. The caller holds the lock."""
        cdef pz_cond *cond = <pz_cond *>need(self)
        cdef pz_cell *cell = NULL
        cdef pz_wait wait
        cdef uint32_t depth = 1
        cdef int rc
        cdef bint notified
        cdef uint64_t thread = PyThread_get_thread_ident()
        if not holds(lock):
            raise AssertionError(f"must acquire() condition before using wait(): {self!r}")
        pz_wait_init(&wait, deadline_of(timeout))
        check(pz_cond_enter(proc, cond, &cell), self)
        if lock.kind == PZ_RLOCK:
            rc = pz_rlock_release_all(proc, <pz_rlock *>lock.at, thread, &depth)
        else:
            rc = pz_lock_release(proc, <pz_lock *>lock.at)
        check(rc, self)
        interruption = None
        while True:
            with nogil:
                rc = pz_cond_await(proc, cond, cell, &wait)
            if rc == 0 or rc == -ETIMEDOUT:
                break
            try:
                PyErr_CheckSignals()
            except BaseException as error:
                interruption = error
                break
        try:
            interruption = retake(lock, interruption)
            if lock.kind == PZ_RLOCK:
                pz_rlock_set_depth(<pz_rlock *>lock.at, depth)
        except BaseException:
            if pz_cond_leave(proc, cond, cell):
                pz_cond_notify(proc, cond, 1)
            raise
        notified = pz_cond_leave(proc, cond, cell)
        if interruption is not None:
            if notified:
                pz_cond_notify(proc, cond, 1)  # somebody else is to have it
            raise interruption
        return notified

    def _notify(self, Handle lock not None, uint32_t count):
        if not holds(lock):
            raise AssertionError(f"must acquire() condition before using notify(): {self!r}")
        return pz_cond_notify(proc, <pz_cond *>need(self), count)

    def _waiting(self):
        return pz_cond_waiting(proc, <pz_cond *>need(self))

    def _counts(self):
        cdef pz_cond *cond = <pz_cond *>need(self)
        return pz_load(&cond.notified), pz_load(&cond.passed_on)


cdef class EventBase(Handle):
    def is_set(self):
        """True if the event is set."""
        return pz_event_is_set(<pz_event *>need(self))

    def set(self):
        """Sets it and releases everybody who waits, even if it is cleared right after."""
        pz_event_set(proc, <pz_event *>need(self))

    def clear(self):
        """Clears it: who comes to wait from now on waits for the next set()."""
        pz_event_clear(<pz_event *>need(self))

    def wait(self, timeout=None):
        """Blocks until the event is set, at most `timeout` seconds; -> whether it was.

        A set() that never comes, because the process that should have made it died, is not noticed: give a timeout.
        """
        cdef pz_event *event = <pz_event *>need(self)
        cdef uint32_t first
        cdef pz_wait wait
        cdef int rc
        if pz_event_is_set(event):
            return True
        first = pz_load(&event.word)
        pz_wait_init(&wait, deadline_of(timeout))
        while True:
            with nogil:
                rc = pz_event_wait(proc, event, first, &wait)
            if rc == 0:
                return True
            if rc == -ETIMEDOUT:
                return False
            PyErr_CheckSignals()

    def _sets(self):
        return pz_load(&(<pz_event *>need(self)).sets)


cdef class BarrierBase(Handle):
    def _init(self, uint32_t parties):
        (<pz_barrier *>need(self)).parties = parties

    def _wait(self, action, timeout):
        cdef pz_barrier *barrier = <pz_barrier *>need(self)
        cdef pz_arrival arrival
        cdef pz_wait wait
        cdef int rc
        arrival.token = 0
        arrival.index = arrival.phase = 0
        arrival.arrived = False
        pz_wait_init(&wait, deadline_of(timeout))
        try:
            while True:
                with nogil:
                    rc = pz_barrier_wait(proc, barrier, &arrival, &wait)
                if rc == 0:
                    return arrival.index
                if rc == -EPIPE:
                    break
                if rc == 1:
                    if action is not None:
                        action()
                    pz_barrier_release(proc, barrier)
                    return arrival.index
                if rc == -ETIMEDOUT:
                    raise BrokenBarrierError(f"timed out at {self!r}, which is broken now")
                PyErr_CheckSignals()
        except BaseException:
            pz_barrier_leave(proc, barrier, &arrival)
            raise
        raise BrokenBarrierError(f"{self!r} is broken, or was reset")

    def reset(self):
        """Back to empty; processes that wait get BrokenBarrierError."""
        pz_barrier_reset(proc, <pz_barrier *>need(self))

    def abort(self):
        """Breaks the barrier: everybody who waits, and who comes until reset(), gets BrokenBarrierError."""
        pz_barrier_break(proc, <pz_barrier *>need(self))

    @property
    def parties(self):
        """How many processes (or threads) the barrier waits for."""
        return (<pz_barrier *>need(self)).parties

    @property
    def n_waiting(self):
        """How many wait now."""
        return pz_barrier_waiting(<pz_barrier *>need(self))

    @property
    def broken(self):
        """True if the barrier is broken."""
        return bool(pz_load(&(<pz_barrier *>need(self)).state) & 1)

    def _passed(self):
        return pz_load(&(<pz_barrier *>need(self)).passed)


def lock_facts(Handle handle not None):
    """(locked, owner's pid or None, mine, acquired, contended, deaths, depth) of a Lock or RLock."""
    cdef pz_lock *lock = <pz_lock *>need(handle)
    cdef uint32_t word = pz_load(&lock.word)
    cdef bint mine = bool(word & PZ_LOCKED) and PZ_OWNER_OF(word) == proc.self_
    depth = 1 if word & PZ_LOCKED else 0
    if handle.kind == PZ_RLOCK:
        depth = (<pz_rlock *>handle.at).depth if word & PZ_LOCKED else 0
        mine = pz_rlock_is_mine(proc, <pz_rlock *>handle.at, PyThread_get_thread_ident())
    pid = pz_owner_pid(proc, PZ_OWNER_OF(word)) if word & PZ_LOCKED else 0
    return (bool(word & PZ_LOCKED), pid or None, bool(mine), lock.acquired, pz_load(&lock.contended),
            pz_load(&lock.deaths), depth)


def semaphore_init(Handle handle not None, uint32_t value, bint bounded):
    """Sets the first value of a new semaphore."""
    if bounded:
        (<pz_bounded *>need(handle)).permits = value
    else:
        (<uint32_t *>&(<pz_semaphore *>need(handle)).value)[0] = value


def semaphore_facts(Handle handle not None, bint bounded):
    """(value, contended, permits taken back from the dead)."""
    if bounded:
        return (pz_bounded_value(<pz_bounded *>need(handle)), pz_load(&(<pz_bounded *>handle.at).contended),
                pz_load(&(<pz_bounded *>handle.at).deaths))
    return pz_load(&(<pz_semaphore *>need(handle)).value), pz_load(&(<pz_semaphore *>handle.at).contended), 0


def bounded_permits(Handle handle not None):
    """How many permits a BoundedSemaphore has in all."""
    return (<pz_bounded *>need(handle)).permits
