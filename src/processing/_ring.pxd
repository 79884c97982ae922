# Putting into rings and taking out, for the types in _channel.pyx.
from libc.stdint cimport uint64_t

from processing.pz cimport *

cdef int put_value(pz_ring *ring, object value, bint block, uint64_t deadline, object who, bint raw) except -1
cdef Py_ssize_t put_values(pz_ring *ring, list values, bint block, uint64_t deadline, object who) except -1
cdef object get_value(pz_ring *ring, bint block, uint64_t deadline, bint raw)
cdef list get_values(pz_ring *ring, Py_ssize_t most)
cdef int open_put(pz_ring *ring, pz_put *put, uint64_t deadline) except? -1
cdef int open_get(pz_ring *ring, pz_get *get, uint64_t deadline) except? -1
cdef int wait_items(pz_ring *ring, uint64_t deadline) except? -1
