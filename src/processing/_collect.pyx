# cython: binding=False
"""The caller's way out of a pool: messages of the result ring become events (see pool.py for what they mean).

Values are unpickled here, one by one: what cannot be is a failure of that call alone. What a call was given (`held`) is let
go of with its end.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.errno cimport EINTR, ETIMEDOUT
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from processing.pz cimport *
from processing._message cimport *
from processing._pool cimport *
from processing._ring cimport open_get

from _pickle import loads

from processing import _native
from processing.remote import unpack, unreadable

cdef pz_proc *proc = <pz_proc *>PyCapsule_GetPointer(_native.proc, PZ_PROC_CAPSULE)
cdef enum:
    AT_ONCE = 64  # messages taken under one lock

DONE, FAILED, LOST, TIMEOUT, CANCELLED, BROKEN, WORKER, PROGRESS, LOG, SPAN, WAKE, OVER = range(12)


cdef object decoded(uint8_t type, const uint8_t *data, uint32_t length):
    if type == PZ_VALUE_PICKLE:
        return loads((<const char *>data)[:length])
    return pz_decode(type, data, length)


cdef int release(PoolBase pool, uint64_t job, uint32_t first, uint32_t count) except -1:
    """Those calls have ended: lets go of what they were given."""
    cdef uint32_t i
    for i in range(count):
        pool.held.pop(job << 32 | (first + i), None)
    return 0


cdef int add_result(PoolBase pool, events, uint64_t job, uint32_t index, int status, value, uint64_t ns) except -1:
    if pool.held:
        release(pool, job, index, 1)
    if status == PZ_RESULT_VALUE:
        events.append((0, job, index, [value], ns))
    elif status == PZ_RESULT_ERROR:
        events.append((1, job, index, unpack(value), ns))
    else:
        events.append((4, job, index, None, ns))
    return 0


cdef int read_results(PoolBase pool, bytes data, events) except -1:
    """A message of results; neighbours become one event."""
    cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(data)
    cdef const uint8_t *end = at + PyBytes_GET_SIZE(data)
    cdef uint64_t ns = (<const pz_flush *>at).ns, job = 0
    cdef uint32_t following = 0, first = 0
    cdef const pz_result *result
    cdef list values = None
    at += sizeof(pz_flush)
    while at < end:
        result = <const pz_result *>at
        at += sizeof(pz_result)
        try:
            value = decoded(result.type, at, result.length)
        except Exception as error:
            add_result(pool, events, result.job, result.index, PZ_RESULT_ERROR, unreadable(error), ns)
            values, ns = None, 0
            at += PZ_ROUND8(result.length)
            continue
        at += PZ_ROUND8(result.length)
        if result.status != PZ_RESULT_VALUE:
            add_result(pool, events, result.job, result.index, result.status, value, ns)
            values, ns = None, 0
        elif values is not None and result.job == job and result.index == following:
            values.append(value)
            following += 1
            if pool.held:
                release(pool, job, result.index, 1)
        else:
            job, first, following = result.job, result.index, result.index + 1
            values = [value]
            events.append((0, job, first, values, ns))
            ns = 0
            if pool.held:
                release(pool, job, first, 1)
    return 0


cdef int read_message(PoolBase pool, uint8_t type, bytes data, events) except -1:
    cdef const pz_result *result
    if type == PZ_MESSAGE_RESULTS:
        return read_results(pool, data, events)
    if type == PZ_MESSAGE_LARGE:
        result = <const pz_result *>PyBytes_AS_STRING(data)
        pool.large = (result.job, result.index, result.status)
        return 0
    event = loads(data)
    if event[0] in (2, 3, 4) and pool.held:
        release(pool, event[1], event[2], 1)
    events.append(event)
    return 0


cdef int take(PoolBase pool, pz_ring *ring) except -1:
    """Messages from the ring into `staged`. Nothing in here runs foreign code: only bytes are made."""
    cdef const pz_record *record
    cdef const uint8_t *payload
    cdef uint8_t type
    cdef list staged = pool.staged
    cdef pz_get get
    open_get(ring, &get, PZ_FOREVER)
    try:
        while len(staged) < AT_ONCE and pz_get_record(proc, ring, &get, &record, &payload) == 0:
            type = record.type
            if get.parcel:
                break
            staged.append((type, PyBytes_FromStringAndSize(<const char *>payload, record.length)))
    except BaseException:
        pz_get_close(proc, ring, &get, True)
        staged.clear()
        raise
    pz_get_close(proc, ring, &get, False)
    if get.parcel:
        staged.append((type, get.parcel))
    return 0


cdef int read_large(PoolBase pool, uint8_t type, uint64_t parcel, events) except -1:
    job, index, status = pool.large
    try:
        value = from_parcel(type, parcel, False)
    except BaseException as error:
        add_result(pool, events, job, index, PZ_RESULT_ERROR, unreadable(error), 0)
        if not isinstance(error, Exception):
            raise
    else:
        add_result(pool, events, job, index, status, value, 0)
    return 0


def collect(PoolBase pool not None, inbox, Py_ssize_t most=1000):
    """What has come from the workers and the supervisor by now: events of about `most` messages, appended to `inbox`.

    An event is (kind, job, first, payload, ns); see engine.py. One thread at a time. Interrupted by a signal, the rest, and
    perhaps what was in the inbox already, comes with the next call.
    """
    cdef pz_ring *ring = &pool.pool().results
    cdef list staged
    cdef Py_ssize_t i, count = 0
    if pool.held is None:
        pool.held = {}
    if pool.staged is None:
        pool.staged = []
    staged = pool.staged
    while staged or (count < most and not pz_ring_is_empty(ring)):
        if not staged:
            take(pool, ring)
        i = 0
        try:
            while i < len(staged):
                type, data = <tuple>staged[i]
                if isinstance(data, bytes):
                    read_message(pool, type, data, inbox)
                else:
                    i += 1  # a parcel is taken once
                    read_large(pool, type, data, inbox)
                    i -= 1
                i += 1
        finally:
            del staged[:i]
        count += i + 1


def await_results(PoolBase pool not None, deadline):
    """Blocks until there is something to collect: True; False at the deadline (monotonic seconds, None: never), None after
    a while, or a signal that had nothing to say, for the caller to look around."""
    cdef pz_ring *ring = &pool.pool().results
    cdef pz_wait wait
    cdef int rc
    pz_wait_init(&wait, PZ_FOREVER if deadline is None else <uint64_t>(<double>deadline * 1e9))
    with nogil:
        rc = pz_ring_wait_items(proc, ring, &wait)
    if rc == -EINTR:
        PyErr_CheckSignals()
        return None
    return rc != -ETIMEDOUT
