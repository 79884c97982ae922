"""Putting Python values into message rings and taking them out: the binding of queues and pipes.

    put   exact builtins and bytes are written into the ring as they are; everything else is pickled first (errors are
          raised before anything is written). Up to 16 KiB lies in the ring; what is larger, has buffers out of band or
          carries handles goes into a parcel, and the ring carries its place.
    get   decoded under the ring's get lock when that runs no foreign code, else copied out, then unpickled.

Every call first tries with the GIL held, then waits without it and sees to signals when interrupted.
"""
from cpython.exc cimport PyErr_CheckSignals
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.errno cimport EAGAIN, EBUSY, EINTR, ENOMEM, EPERM, EPIPE, ETIMEDOUT
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from processing.pz cimport *
from processing._program cimport program, check, deadline_of
from processing._message cimport *

from pickle import loads as pickle_loads, dumps as pickle_dumps
from queue import Empty, Full

from processing import _native
from processing import _failures

cdef pz_proc *proc = <pz_proc *>PyCapsule_GetPointer(_native.proc, PZ_PROC_CAPSULE)


class Closed(Exception):
    """Nobody is at the other end (the callers say so in their own words)."""


# ---- putting --------------------------------------------------------------------------------------------------------

cdef int open_put(pz_ring *ring, pz_put *put, uint64_t deadline) except? -1:
    """0, or -EPIPE, -ETIMEDOUT."""
    cdef pz_wait wait
    # The lock is only ever taken with the GIL held, so that it is never held by a thread that waits for the GIL.
    cdef int rc
    pz_wait_init(&wait, deadline)
    while True:
        rc = pz_put_retry(proc, ring, put, &wait)
        if rc != -EBUSY:
            break
        with nogil:
            rc = pz_put_await(proc, ring, &wait)
        if rc == -EINTR:
            PyErr_CheckSignals()
        elif rc < 0:
            break
    return rc


cdef int wait_room(pz_ring *ring, uint64_t deadline) except? -1:
    cdef pz_wait wait
    cdef int rc
    pz_wait_init(&wait, deadline)
    while True:
        with nogil:
            rc = pz_ring_wait_room(proc, ring, &wait)
        if rc != -EINTR:
            return rc
        PyErr_CheckSignals()


cdef inline int write_encoded(pz_ring *ring, pz_put *put, const pz_encoded *encoded) except? -1:
    cdef uint8_t *at
    cdef int rc = pz_put_record(proc, ring, put, encoded.type, <uint32_t>encoded.length, &at)
    if rc == 0:
        memcpy(at, encoded.data, encoded.length)
    return rc


cdef int put_value(pz_ring *ring, object value, bint block, uint64_t deadline, who, bint raw) except -1:
    """Puts one value. Full, Closed, MemoryError, or what pickling raises."""
    cdef pz_encoded quick
    cdef const pz_encoded *encoded = &quick
    cdef Message message = None
    cdef pz_put put
    cdef int rc
    if not pz_encode(value, &quick) or quick.length > PZ_INLINE_MAX:
        message = make_message(value, who)
        encoded = &message.encoded
    if raw:
        (<pz_encoded *>encoded).type = PZ_VALUE_RAW
    while True:
        rc = open_put(ring, &put, deadline if block else proc.ops.now())
        if rc == 0:
            if message is not None and message.parcel:
                rc = pz_put_parcel(proc, ring, &put, encoded.type, message.parcel)
            else:
                rc = write_encoded(ring, &put, encoded)
            if rc == 0 and message is not None:
                message.parcel = 0  # the ring's from here on
            pz_put_close(proc, ring, &put)
        if rc == 0:
            return 0
        if rc == -EAGAIN:
            rc = wait_room(ring, deadline) if block else -ETIMEDOUT
        if rc == -ETIMEDOUT:
            raise Full
        if rc == -EPIPE:
            raise Closed
        check(rc, who)


cdef Py_ssize_t put_values(pz_ring *ring, list values, bint block, uint64_t deadline, who) except -1:
    """Puts many, one lock a batch; everything is pickled before the first is put."""
    cdef list messages = [make_message(value, who) for value in values]
    cdef Py_ssize_t done = 0, opened, count = len(messages)
    cdef Message message
    cdef pz_put put
    cdef int rc
    while done < count:
        rc = open_put(ring, &put, deadline if block else proc.ops.now())
        opened = done
        while rc == 0 and done < count:
            message = <Message>messages[done]
            if message.parcel:
                if done > opened:
                    break  # a parcel comes first in its put
                rc = pz_put_parcel(proc, ring, &put, message.encoded.type, message.parcel)
                if rc == 0:
                    message.parcel = 0
                    done += 1
                break
            rc = write_encoded(ring, &put, &message.encoded)
            done += rc == 0
        if rc != -EPIPE and rc != -ETIMEDOUT:
            pz_put_close(proc, ring, &put)
        if rc == -EAGAIN:
            rc = wait_room(ring, deadline) if block else -ETIMEDOUT
        if rc == -ETIMEDOUT:
            error = Full(f"{done} of {count} items were put")
            error.put = done
            raise error
        if rc == -EPIPE:
            raise Closed
        check(rc, who)
    return done


# ---- taking messages -----------------------------------------------------------------------------------------------

cdef int wait_items(pz_ring *ring, uint64_t deadline) except? -1:
    cdef pz_wait wait
    cdef int rc
    pz_wait_init(&wait, deadline)
    while True:
        with nogil:
            rc = pz_ring_wait_items(proc, ring, &wait)
        if rc != -EINTR:
            return rc
        PyErr_CheckSignals()


cdef int open_get(pz_ring *ring, pz_get *get, uint64_t deadline) except? -1:
    cdef pz_wait wait
    # The lock is only ever taken with the GIL held, so that it is never held by a thread that waits for the GIL.
    cdef int rc
    pz_wait_init(&wait, deadline)
    while True:
        rc = pz_get_retry(proc, ring, get, &wait)
        if rc != -EBUSY:
            break
        with nogil:
            rc = pz_get_await(proc, ring, &wait)
        if rc == -EINTR:
            PyErr_CheckSignals()
        elif rc < 0:
            break
    return rc


cdef object get_value(pz_ring *ring, bint block, uint64_t deadline, bint raw):
    """Takes one value. Empty, Closed, or what unpickling raises. `raw`: bytes as they were sent or pickled."""
    cdef pz_get get
    cdef const pz_record *record
    cdef const uint8_t *payload
    cdef uint8_t type
    cdef int rc
    cdef object value
    while True:
        rc = open_get(ring, &get, deadline if block else proc.ops.now())
        if rc == 0:
            rc = pz_get_record(proc, ring, &get, &record, &payload)
            if rc == 0:
                type = record.type
                if get.parcel == 0:
                    try:
                        value = pz_decode(type, payload, record.length)
                    except BaseException:
                        pz_get_close(proc, ring, &get, True)
                        raise
                    pz_get_close(proc, ring, &get, False)
                    if type == PZ_VALUE_PICKLE and not raw:
                        return pickle_loads(value)
                else:
                    pz_get_close(proc, ring, &get, False)
                    value = from_parcel(type, get.parcel, raw)
                if raw and type < PZ_VALUE_PICKLE or type == PZ_VALUE_BUFFERS and raw:
                    return pickle_dumps(value, 5)
                if type == PZ_VALUE_RAW and not raw:
                    return pickle_loads(value)
                return value
            pz_get_close(proc, ring, &get, False)
        if rc == -EAGAIN:
            rc = wait_items(ring, deadline if block else proc.ops.now())
            if rc == 0:
                continue
        if rc == -ETIMEDOUT:
            raise Empty
        if rc == -EPIPE:
            raise Closed
        check(rc, "a message")


cdef list get_values(pz_ring *ring, Py_ssize_t most):
    """What is there now, at most `most` values; one lock a batch.

    If some cannot be unpickled the first error is raised, with the values that could in its attribute `received`.
    """
    cdef list taken = [], values, kinds
    cdef pz_get get
    cdef const pz_record *record
    cdef const uint8_t *payload
    cdef uint8_t type = 0
    cdef Py_ssize_t i
    cdef int rc
    failure = None
    while len(taken) < most:
        values, kinds = [], []
        open_get(ring, &get, PZ_FOREVER)
        try:
            # Nothing in here runs foreign code, not even the garbage collector: only strings, numbers, bytes are made.
            while len(taken) + len(values) < most:
                rc = pz_get_record(proc, ring, &get, &record, &payload)
                if rc < 0:
                    break
                type = record.type
                if get.parcel:
                    break
                values.append(pz_decode(type, payload, record.length))
                kinds.append(type)
        except BaseException:
            pz_get_close(proc, ring, &get, True)
            raise
        pz_get_close(proc, ring, &get, False)
        if get.parcel:
            values.append(None)
            kinds.append(0)
        elif not values and pz_ring_is_empty(ring):
            break
        for i in range(len(values)):
            try:
                if get.parcel:
                    taken.append(from_parcel(type, get.parcel, False))
                elif kinds[i] == PZ_VALUE_PICKLE or kinds[i] == PZ_VALUE_RAW:
                    taken.append(pickle_loads(values[i]))
                else:
                    taken.append(values[i])
            except Exception as error:
                failure = failure or error
    if failure is not None:
        failure.received = taken
        raise failure
    return taken
