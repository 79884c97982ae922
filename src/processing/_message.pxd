# Messages, for the ring binding.
from libc.stdint cimport uint8_t, uint64_t

from processing.pz cimport Handle, pz_parcel, pz_ref

cdef extern from "_encode.h" nogil:
    enum: PZ_VALUE_PICKLE, PZ_VALUE_RAW, PZ_VALUE_BUFFERS, PZ_VALUE_BYTES
    ctypedef struct pz_encoded:
        const void *data
        Py_ssize_t length
        uint8_t type

cdef extern from "_encode.h":
    bint pz_encode(object, pz_encoded *)
    object pz_decode(uint8_t, const void *, Py_ssize_t)


cdef class Message:
    cdef object keep  # owns what encoded.data points to
    cdef pz_encoded encoded
    cdef uint64_t parcel


cdef class Buffer(Handle):
    pass


cdef object argument_of(pz_parcel *parcel, uint8_t type, object owner, bint copied)
cdef Message in_parcel(Message message, object who)
cdef Message make_message(object value, object who, Py_ssize_t out_of_band=*, bint by_value=*)
cdef object from_parcel(uint8_t type, uint64_t offset, bint raw)
cdef Message raw_message(object value, object who)
cdef int know_arrays() except -1
cdef int shared_from(Message message, object who, pz_ref *ref) except -1
cdef object shared_value(Handle handle)
