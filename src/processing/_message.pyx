"""Values as messages: what goes into a ring as it is, what is pickled, what becomes a parcel.

    exact builtins, bytes   as they are (_encode.h)
    everything else         a pickle; its buffers of 4 KiB and more out of band
    more than 16 KiB, or with buffers, or carrying handles: a parcel, otherwise a record in the ring

A parcel is filled once and read in place: arrays are views on it (Buffer), and it is freed with the last of them.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from processing.pz cimport *
from processing._program cimport check, new_parcel, carried

from _thread import get_ident
from pickle import loads as pickle_loads
from sys import modules

from processing import _native

cdef extern from "_encode.h" nogil:
    ctypedef struct pz_buffers:
        uint64_t count, pickle, pickle_length

cdef pz_proc *proc = <pz_proc *>PyCapsule_GetPointer(_native.proc, PZ_PROC_CAPSULE)
cdef object dumps = None  # processing.reduction.dumps, at first use
cdef enum:
    OUT_OF_BAND = 4096  # bytes: smaller buffers stay in the pickle
cdef bint arrays_known = False

# Type -> function(value, refs) that gives the pickle of a message that is exactly one such value, quicker than pickle
# would, and adds (offset, generation) of the handles in it to `refs`; or None, and pickle does it.
quick = {}


cdef class Buffer(Handle):
    """A received payload that objects look into; its memory is freed with the last of them."""

    def __getbuffer__(self, Py_buffer *view, int flags):
        cdef pz_parcel *parcel = <pz_parcel *>self.at
        if parcel == NULL:
            raise BufferError("this buffer is closed")
        PyBuffer_FillInfo(view, self, pz_parcel_data(parcel), <Py_ssize_t>parcel.length, 0, flags)


# ---- making messages -----------------------------------------------------------------------------------------------

cdef class Message:
    """A value ready to be written: `encoded` for the ring, or `parcel`, which this object owns until it is put."""

    def __dealloc__(self):
        if self.parcel:
            pz_parcel_free(proc, self.parcel)


cdef uint64_t bytes_parcel(const void *data, Py_ssize_t length, list refs, who) except 0:
    cdef uint64_t offset = new_parcel(length, refs, who)
    cdef uint8_t *target = pz_parcel_data(<pz_parcel *>pz_at(proc, offset))
    if length < (1 << 20):
        memcpy(target, data, length)
    else:
        with nogil:
            memcpy(target, data, length)
    return offset


cdef uint64_t aligned(uint64_t place):
    return (place + 63) & ~<uint64_t>63


cdef uint64_t buffers_parcel(bytes pickle, list buffers, list refs, who) except 0:
    """One parcel for the pickle and its out-of-band buffers: the one copy on the way in."""
    cdef uint64_t place = sizeof(pz_buffers) + 16 * len(buffers) + len(pickle), offset, at
    cdef const uint8_t[::1] view
    for buffer in buffers:
        place = aligned(place) + buffer.nbytes
    offset = new_parcel(place, refs, who)
    cdef uint8_t *base = pz_parcel_data(<pz_parcel *>pz_at(proc, offset))
    cdef pz_buffers *head = <pz_buffers *>base
    cdef uint64_t *table = <uint64_t *>(head + 1)
    head.count = len(buffers)
    head.pickle = sizeof(pz_buffers) + 16 * head.count
    head.pickle_length = len(pickle)
    memcpy(base + head.pickle, PyBytes_AS_STRING(pickle), head.pickle_length)
    place = head.pickle + head.pickle_length
    for i, buffer in enumerate(buffers):
        place = aligned(place)
        table[2 * i] = place
        table[2 * i + 1] = buffer.nbytes
        if buffer.nbytes:
            view = buffer
            with nogil:
                memcpy(base + place, &view[0], view.shape[0])
            view = None
        place += <uint64_t>buffer.nbytes
    return offset


cdef int encode_slow(Message message, object value, who, Py_ssize_t least, bint by_value) except -1:
    """Pickles; notes handles and buffers on the way."""
    global dumps
    cdef list refs = [], buffers = []
    pickler = quick.get(type(value))
    if pickler is not None:
        pickle = pickler(value, refs)
        if pickle is not None:
            return encode_pickle(message, pickle, refs, who)
    if dumps is None:
        from processing.reduction import dumps
    ident = get_ident()
    before = carried.get(ident)
    carried[ident] = refs

    def out_of_band(buffer):
        raw = buffer.raw()
        if raw.nbytes < least:
            return True
        buffers.append(raw)
        return False

    def start_again():
        refs.clear()
        buffers.clear()

    try:
        pickle = dumps(value, out_of_band, by_value=by_value, on_retry=start_again)
    finally:
        if before is None:
            del carried[ident]
        else:
            carried[ident] = before
    if type(pickle) is not bytes:
        pickle = bytes(pickle)
    if buffers:
        message.parcel = buffers_parcel(pickle, buffers, refs, who)
        message.encoded.type = PZ_VALUE_BUFFERS
        return 0
    return encode_pickle(message, pickle, refs, who)


cdef int encode_pickle(Message message, bytes pickle, list refs, who) except -1:
    message.keep = pickle
    message.encoded.data = PyBytes_AS_STRING(pickle)
    message.encoded.length = PyBytes_GET_SIZE(pickle)
    message.encoded.type = PZ_VALUE_PICKLE
    if refs or message.encoded.length > PZ_INLINE_MAX:
        message.parcel = bytes_parcel(message.encoded.data, message.encoded.length, refs, who)
    return 0


cdef Message make_message(object value, who, Py_ssize_t out_of_band=OUT_OF_BAND, bint by_value=False):
    """`out_of_band`: the bytes of the smallest buffer that the receiver looks into, instead of having a copy. `by_value`: the
    reader may have another `__main__` than this process."""
    cdef Message message = Message.__new__(Message)
    if not pz_encode(value, &message.encoded):
        encode_slow(message, value, who, out_of_band, by_value)
    else:
        message.keep = value
        if message.encoded.length > PZ_INLINE_MAX:
            message.parcel = bytes_parcel(message.encoded.data, message.encoded.length, None, who)
    return message



# ---- reading parcels ----------------------------------------------------------------------------------------------

cdef object from_parcel(uint8_t type, uint64_t offset, bint raw):
    """The value in a parcel of this process, which is freed or kept by what looks into it."""
    cdef pz_parcel *parcel = <pz_parcel *>pz_at(proc, offset)
    cdef const uint8_t *data = pz_parcel_data(parcel)
    cdef pz_ref ref
    if type != PZ_VALUE_BUFFERS:
        try:
            if type == PZ_VALUE_PICKLE and not raw:
                return pickle_loads((<const char *>data)[:parcel.length])
            return pz_decode(type, data, <Py_ssize_t>parcel.length)
        finally:
            pz_parcel_free(proc, offset)
    cdef int rc = pz_parcel_keep(proc, offset, PZ_BUFFER, &ref)
    if rc < 0:
        pz_parcel_free(proc, offset)
        check(rc, "a received array")
    return load_views(parcel, _native.adopt(Buffer, PZ_BUFFER, ref.offset, ref.gen, ref.entry, 0))


cdef object load_views(pz_parcel *parcel, owner):
    """Unpickles with views on the buffers, which keep `owner` alive."""
    cdef const uint8_t *data = pz_parcel_data(parcel)
    cdef const pz_buffers *head = <const pz_buffers *>data
    cdef const uint64_t *table = <const uint64_t *>(head + 1)
    cdef uint64_t i
    whole = memoryview(owner)
    views = []
    for i in range(head.count):
        views.append(whole[table[2 * i]:table[2 * i] + table[2 * i + 1]])
    pickle = (<const char *>data)[head.pickle:head.pickle + head.pickle_length]
    return pickle_loads(pickle, buffers=views)


cdef object argument_of(pz_parcel *parcel, uint8_t type, owner, bint copied):
    """The value in a payload that `owner` keeps there; `copied`: arrays look into a private copy."""
    cdef const uint8_t *data = pz_parcel_data(parcel)
    if type == PZ_VALUE_BUFFERS:
        return load_views(parcel, bytearray(owner) if copied else owner)
    if type == PZ_VALUE_PICKLE:
        return pickle_loads((<const char *>data)[:parcel.length])
    return pz_decode(type, data, <Py_ssize_t>parcel.length)


cdef Message in_parcel(Message message, who):
    """The same message, as a parcel."""
    if message.parcel == 0:
        message.parcel = bytes_parcel(message.encoded.data, message.encoded.length, None, who)
    return message


# ---- payloads that are objects ---------------------------------------------------------------------------------------

cdef Message raw_message(value, who):
    """The bytes of `value`, which come back as a view on them."""
    cdef Message message = Message.__new__(Message)
    whole = memoryview(value)
    # What has gaps is copied together first; what is empty cannot be cast.
    cdef const uint8_t[::1] view = whole.cast("B") if whole.c_contiguous and whole.nbytes else whole.tobytes()
    message.encoded.type = PZ_VALUE_RAW
    message.parcel = bytes_parcel(&view[0] if view.shape[0] else NULL, view.shape[0], None, who)
    return message


cdef int shared_from(Message message, who, pz_ref *ref) except -1:
    """Makes the payload an object that is never changed (PZ_SHARED): `ref` is this process's reference to it."""
    cdef int rc
    if message.parcel == 0:
        message.parcel = bytes_parcel(message.encoded.data, message.encoded.length, None, who)
    (<pz_parcel *>pz_at(proc, message.parcel)).block.flags = message.encoded.type
    rc = pz_parcel_keep(proc, message.parcel, PZ_SHARED, ref)
    check(rc, who)
    message.parcel = 0
    return 0


cdef int know_arrays() except -1:
    """From now on numpy's arrays are sent as views where they lie in the arena, if there is numpy here."""
    global arrays_known
    if not arrays_known and "numpy" in modules:
        from processing.arrays import _numpy as know

        know()
        arrays_known = True
    return 0


cdef object shared_value(Handle handle):
    """The value of such an object; arrays in it are views, read-only."""
    cdef pz_parcel *parcel = <pz_parcel *>handle.at
    cdef const uint8_t *data = pz_parcel_data(parcel)
    cdef uint8_t type = <uint8_t>parcel.block.flags
    if type == PZ_VALUE_BUFFERS:
        value = load_views(parcel, handle)
        know_arrays()
        return value
    if type == PZ_VALUE_RAW:
        return memoryview(handle)
    if type == PZ_VALUE_PICKLE:
        return pickle_loads((<const char *>data)[:parcel.length])
    return pz_decode(type, data, <Py_ssize_t>parcel.length)
