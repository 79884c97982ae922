# New cells, for _dict.pyx and _sequence.pyx.
from libc.stdint cimport int64_t, uint64_t

from processing._store cimport pz_bulk


cdef class Cells:
    """New cells, and the order that a sequence is to have: places, and -1 - index of present items."""
    cdef int64_t *places
    cdef uint64_t count
    cdef pz_bulk bulk
    cdef int begin(self, uint64_t most) noexcept
    cdef void present(self, uint64_t first, uint64_t end) noexcept
    cdef int room(self, list prepared, uint64_t keys, who) except -1
    cdef list make(self, list prepared, who)
    cdef int add(self, list places) except -1
