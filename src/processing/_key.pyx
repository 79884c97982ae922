# cython: boundscheck=False, wraparound=False
"""Keys of shared dicts and sets, to bytes and back. See _key.h and keys.py."""
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from processing.pz cimport *
from processing._message cimport *
from processing._store cimport *

from pickle import dumps as pickle_dumps

from processing import _native

cdef extern from "_key.h":
    bint pz_encode_key(const pz_proc *, object, pz_quick_key *)
    enum: PZ_KEY_LARGE_INT, PZ_KEY_TUPLE

cdef pz_proc *proc = <pz_proc *>PyCapsule_GetPointer(_native.proc, PZ_PROC_CAPSULE)
cdef object slow_key = None  # processing.keys.encode_key, at first use
cdef bytes PICKLED = bytes([PZ_VALUE_PICKLE])


cdef bytes tuple_bytes(tuple key):
    """The elements, each with type and length, as keys.py has it; None if one is no exact builtin."""
    cdef pz_quick_key quick
    cdef uint8_t head[5]
    cdef bytearray data = bytearray()
    for element in key:
        if type(element) is tuple:
            inner = tuple_bytes(<tuple>element)
            if inner is None:
                return None
            quick.key.type = PZ_KEY_TUPLE
            quick.key.data = <const char *>(<bytes>inner)
            quick.key.length = <uint32_t>len(inner)
        elif not pz_encode_key(proc, element, &quick):
            return None
        head[0] = quick.key.type
        memcpy(head + 1, &quick.key.length, 4)
        data += (<const char *>head)[:5]
        data += (<const char *>quick.key.data)[:quick.key.length]
    return bytes(data)


cdef object load_key(object key, pz_quick_key *quick, bint storing):
    """Encodes a key; what is returned keeps alive what `quick` points to."""
    global slow_key
    if pz_encode_key(proc, key, quick):
        return key
    kind = PZ_KEY_TUPLE
    data = tuple_bytes(<tuple>key) if type(key) is tuple else None
    if data is not None:
        extra = PICKLED + pickle_dumps(key, 5) if storing else b""
    if data is None or len(data) + len(extra) > PZ_KEY_MAX:
        if slow_key is None:
            from processing.keys import encode_key as slow_key
        kind, data, extra = slow_key(key, storing)
    quick.key.type = kind
    quick.key.data = <const char *>(<bytes>data)
    quick.key.length = <uint32_t>len(data)
    quick.key.extra = <const char *>(<bytes>extra)
    quick.key.extra_length = <uint32_t>len(extra)
    quick.key.hash = pz_hash(proc, quick.key.type, quick.key.data, quick.key.length)
    return data, extra


cdef object item_key(const pz_item *item):
    cdef const uint8_t *extra = item.data + item.key_length
    if item.extra_length:
        return value_from(extra[0], extra + 1, item.extra_length - 1)
    if item.key_type == PZ_KEY_LARGE_INT:
        return int.from_bytes((<const char *>item.data)[:item.key_length], "little", signed=True)
    return value_from(item.key_type, item.data, item.key_length)
