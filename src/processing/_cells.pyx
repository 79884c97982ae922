"""Many values at once on their way into a container. See store.h (pz_bulk)."""
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.errno cimport ENOMEM
from libc.stdint cimport int64_t, uint32_t, uint64_t

from processing.pz cimport *
from processing._program cimport check
from processing._store cimport *

from processing import _native

cdef pz_proc *proc = <pz_proc *>PyCapsule_GetPointer(_native.proc, PZ_PROC_CAPSULE)


cdef class Cells:
    def __dealloc__(self):
        PyMem_Free(self.places)
        pz_bulk_drop(proc, &self.bulk)

    cdef int begin(self, uint64_t most) noexcept:
        """Room for so many places. 0, or -ENOMEM: called inside a lock, where no exception may be made."""
        self.places = <int64_t *>PyMem_Malloc((most + 1) * sizeof(int64_t))
        return -ENOMEM if self.places == NULL else 0

    cdef void present(self, uint64_t first, uint64_t end) noexcept:
        cdef uint64_t i
        for i in range(first, end):
            self.places[self.count] = -1 - <int64_t>i
            self.count += 1

    cdef int room(self, list prepared, uint64_t keys, who) except -1:
        """Room for the cells of values (None: of no value), with so many bytes of keys in all."""
        cdef uint64_t bytes = 0
        cdef uint32_t objects = 0
        cdef Prepared one
        for one in prepared:
            if one is None:
                bytes += pz_bulk_bytes(0)
                continue
            bytes += pz_bulk_bytes(sizeof(pz_item_object) if one.value.object else one.value.length)
            objects += one.value.object != 0
        check(pz_bulk_new(proc, bytes + keys + keys // 4, objects, &self.bulk), who)
        return 0

    cdef list make(self, list prepared, who):
        """New cells for values without keys; -> their places."""
        cdef uint64_t place = 0
        cdef Prepared one
        self.room(prepared, 0, who)
        places = []
        for one in prepared:
            check(pz_bulk_add(proc, &self.bulk, NULL, &one.value, &place), who)
            places.append(place)
        return places

    cdef int add(self, list places) except -1:
        for place in places:
            self.places[self.count] = place
            self.count += 1
        return 0
