# What the other Cython modules use of this process's attachment to the arena.
from libc.stdint cimport uint64_t
from processing.pz cimport *

cdef pz_proc *program() except NULL
cdef object check(int rc, object who)
cdef uint64_t deadline_of(object timeout) except? 0
cdef dict carried
cdef uint64_t new_parcel(uint64_t length, list refs, object who) except 0
