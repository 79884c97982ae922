"""Wire: short messages both ways between two programs of one machine, through a memfd that both map.

    lane     head, tail: bytes taken and put since the beginning; asleep: its reader has gone to sleep; data
             a message is its length (4 bytes) and its bytes, in a row, around the end of the data if need be

One lane each way, one writer and one reader in each, and no lock: a writer that is killed has published a message as a
whole or not at all (`tail` is stored last). Whoever finds that its reader is asleep rings a bell: what that is, and what becomes of
messages that are too long, is up to the users. The other program is not trusted with the indices: what cannot be is an
OSError; and it cannot make the file smaller, as it is sealed.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t

import fcntl
import os

cdef extern from *:
    """
    #include <sched.h>
    #include <string.h>
    #include <sys/mman.h>
    #include "pz/base.h"

    #define WIRE_ROOM (16u << 10)

    typedef struct wire_lane {
        _Alignas(PZ_LINE) pz_u64 head;
        _Alignas(PZ_LINE) pz_u64 tail;
        _Alignas(PZ_LINE) pz_u32 asleep;
        _Alignas(PZ_LINE) unsigned char data[WIRE_ROOM];
    } wire_lane;

    #define WIRE_SIZE (2 * sizeof(wire_lane))

    static void wire_copy_in(wire_lane *lane, uint64_t at, const void *from, uint32_t size)
    {
        uint32_t start = (uint32_t)(at % WIRE_ROOM), first = WIRE_ROOM - start;
        if (first > size)
            first = size;
        memcpy(lane->data + start, from, first);
        memcpy(lane->data, (const char *)from + first, size - first);
    }

    static void wire_copy_out(wire_lane *lane, uint64_t at, void *to, uint32_t size)
    {
        uint32_t start = (uint32_t)(at % WIRE_ROOM), first = WIRE_ROOM - start;
        if (first > size)
            first = size;
        memcpy(to, lane->data + start, first);
        memcpy((char *)to + first, lane->data, size - first);
    }

    /* 1: put; 0: there is no room; -1: the indices cannot be. */
    static int wire_put(wire_lane *lane, const void *message, uint32_t size)
    {
        uint64_t tail = pz_peek(&lane->tail), used = tail - pz_load(&lane->head);
        if (used > WIRE_ROOM)
            return -1;
        if (size + sizeof size > WIRE_ROOM - used)
            return 0;
        wire_copy_in(lane, tail, &size, sizeof size);
        wire_copy_in(lane, tail + sizeof size, message, size);
        pz_store(&lane->tail, tail + sizeof size + size);
        return 1;
    }

    /* Length of the next message; -1: there is none; -2: it cannot be. */
    static int64_t wire_next(wire_lane *lane)
    {
        uint64_t head = pz_peek(&lane->head), used = pz_load(&lane->tail) - head;
        uint32_t size;
        if (used == 0)
            return -1;
        if (used < sizeof size || used > WIRE_ROOM)
            return -2;
        wire_copy_out(lane, head, &size, sizeof size);
        return size <= used - sizeof size ? (int64_t)size : -2;
    }

    static void wire_take(wire_lane *lane, void *to, uint32_t size)
    {
        uint64_t head = pz_peek(&lane->head);
        wire_copy_out(lane, head + sizeof size, to, size);
        pz_store(&lane->head, head + sizeof size + size);
    }

    static int wire_is_empty(wire_lane *lane) { return pz_load(&lane->tail) == pz_peek(&lane->head); }

    /* Looks for a message for so many nanoseconds, and lets others have the CPU. */
    static int wire_spin(wire_lane *lane, uint64_t ns)
    {
        uint64_t end = pz_system_ops.now() + ns;
        for (uint32_t i = 1; wire_is_empty(lane); i++) {
            pz_relax();
            if (i % 32 == 0) {
                if (pz_system_ops.now() >= end)
                    return 0;
                sched_yield();
            }
        }
        return 1;
    }

    /* What its reader says before it sleeps; 1: there is a message after all. */
    static int wire_rest(wire_lane *lane)
    {
        pz_swap(&lane->asleep, 1u);
        if (wire_is_empty(lane))
            return 0;
        pz_swap(&lane->asleep, 0u);
        return 1;
    }

    static int wire_must_ring(wire_lane *lane)
    {
        atomic_thread_fence(memory_order_seq_cst);
        return pz_peek(&lane->asleep) && pz_swap(&lane->asleep, 0u);
    }
    """
    enum: WIRE_ROOM
    const size_t WIRE_SIZE
    ctypedef struct wire_lane:
        pass
    int wire_put(wire_lane *, const void *, uint32_t) nogil
    long long wire_next(wire_lane *) nogil
    void wire_take(wire_lane *, void *, uint32_t) nogil
    int wire_is_empty(wire_lane *) nogil
    int wire_spin(wire_lane *, uint64_t) nogil
    int wire_rest(wire_lane *) nogil
    int wire_must_ring(wire_lane *) nogil
    void *mmap(void *, size_t, int, int, int, long) nogil
    int munmap(void *, size_t) nogil
    enum: PROT_READ, PROT_WRITE, MAP_SHARED
    void *MAP_FAILED

SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def make_file():
    """A descriptor for a Wire at each end."""
    cdef int fd = os.memfd_create("processing-wire", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, WIRE_SIZE)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


cdef class Wire:
    """One end. `fd` may be closed afterwards. `first`: which of the two ends."""
    cdef void *base
    cdef wire_lane *ours     # what we write
    cdef wire_lane *theirs   # what we read

    def __init__(self, int fd, bint first):
        if os.fstat(fd).st_size != WIRE_SIZE or fcntl.fcntl(fd, fcntl.F_GET_SEALS) & SEALS != SEALS:
            raise OSError("this is not the file of a wire")
        cdef void *base = mmap(NULL, WIRE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
        if base == MAP_FAILED:
            raise MemoryError("a wire cannot be mapped")
        self.base = base
        self.ours = <wire_lane *>base + (0 if first else 1)
        self.theirs = <wire_lane *>base + (1 if first else 0)

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, WIRE_SIZE)

    def send(self, bytes message not None):
        """0: it does not fit, now at least. 1: sent. 2: sent, and the reader is asleep: ring its bell."""
        if PyBytes_GET_SIZE(message) >= WIRE_ROOM:
            return 0
        cdef int rc = wire_put(self.ours, PyBytes_AS_STRING(message), <uint32_t>PyBytes_GET_SIZE(message))
        if rc < 0:
            raise OSError("the other end of a wire is broken")
        if rc == 0:
            return 0
        return 2 if wire_must_ring(self.ours) else 1

    def receive(self):
        """The next message; None if there is none."""
        cdef long long size = wire_next(self.theirs)
        if size == -1:
            return None
        if size < 0:
            raise OSError("the other end of a wire is broken")
        message = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
        wire_take(self.theirs, PyBytes_AS_STRING(message), <uint32_t>size)
        return message

    def ready(self):
        """Whether there is a message."""
        return not wire_is_empty(self.theirs)

    def spin(self, double seconds):
        """Looks for a message for so long, without the GIL: -> whether there is one."""
        cdef uint64_t ns = <uint64_t>(seconds * 1e9)
        cdef int found
        with nogil:
            found = wire_spin(self.theirs, ns)
        return bool(found)

    def rest(self):
        """The reader is about to sleep, and has to be rung for. -> True: not so, there is a message."""
        return bool(wire_rest(self.theirs))
