"""This process's attachment to its program's arena.

Owns: making the arena at first use, taking it over from a parent, the slots of children, what pickles carry. The
memory that handles point into is mapped once and never unmapped while the process lives.

    first process      attach() -> arena and slot
    fork (any)         before: reserve_child(True) with a copy of all references; child: claims that slot
    spawn, forkserver  parent: reserve_child(False), park(arguments); child: adopt(fd, token), unpark(), unparked()
    end                leave(); a child that was reaped: bury_child(token)
"""
import os
import sys
from _thread import get_ident

from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.errno cimport EINTR, ENOMEM
from libc.math cimport isnan
from libc.string cimport memcpy

from processing import _native
from processing import _failures

cdef pz_proc *proc = <pz_proc *>PyCapsule_GetPointer(_native.proc, PZ_PROC_CAPSULE)

# Thread -> references noted while something is pickled for a message.
cdef dict carried = {}

cdef extern from "pthread.h" nogil:
    int pthread_atfork(void (*before)() noexcept nogil, void (*parent)() noexcept nogil, void (*child)() noexcept nogil)

# What this thread's fork, or its last one, has reserved. `on`: it is about to fork, between before_fork and the fork.
cdef extern from *:
    """
    static _Thread_local struct births { uint32_t token; int mark; int on; } birth = {0, -1, 0};
    """
    struct births:
        uint32_t token
        int mark  # what pz_slot_mark_birth gave
        int on
    births birth

cdef uint64_t parked_offset = 0
cdef bint hooked = False


cdef pz_proc *program() except NULL:
    if proc.base == NULL:
        attach()
    return proc


cdef object check(int rc, object who):
    """Turns a negative status of the core into an exception about `who`."""
    if rc < 0:
        raise _failures.status(who, -rc)


cdef uint64_t deadline_of(object timeout) except? 0:
    """Absolute monotonic deadline of a timeout in seconds (None: never)."""
    if timeout is None:
        return PZ_FOREVER
    cdef double seconds = timeout
    if isnan(seconds):
        raise ValueError("timeout is not a number of seconds: nan")
    if seconds > 9e8:
        return PZ_FOREVER
    cdef uint64_t now = program().ops.now()
    return now if seconds <= 0 else now + <uint64_t>(seconds * 1e9)


cdef object refusal = None


def attach():
    """Makes the program's arena if this process has none yet."""
    if proc.base != NULL:
        return
    if refusal is not None:
        raise RuntimeError(refusal)
    text = os.environ.get("PROCESSING_MEMORY_LIMIT", "")
    cdef uint64_t limit = _failures.parse_bytes(text) if text else 0
    cdef int rc = pz_arena_create(proc, limit, NULL)
    if rc < 0:
        raise _failures.no_arena(-rc)
    hook()


def refuse(text):
    """Has no arena made in this process: RuntimeError with that text. None: one may be made again."""
    global refusal
    refusal = text


cdef hook():
    global hooked
    if not hooked:
        hooked = True
        os.register_at_fork(
            before=before_fork, after_in_parent=after_fork_in_parent, after_in_child=after_fork_in_child
        )
        check(-pthread_atfork(NULL, NULL, claim_in_child), None)
        # Registered before anything else that runs at exit, hence run after it; unless util.shutdown, which leaves last
        # of all that it does, was before.
        util = sys.modules.get("processing.util")
        if util is None or not util.shutdown.registered:
            import atexit
            atexit.register(leave)


def is_attached():
    return proc.base != NULL and proc.slot != 0


def arena_fd():
    return proc.fd


def program_id():
    return proc.header.program


def self_slot():
    return proc.slot


def self_owner():
    """What stands for this process in locks: never the same for two processes at a time, or one after the other."""
    return proc.self_


# ---- children ------------------------------------------------------------------------------------------------------

def reserve_child(bint copy_ledger):
    """A slot for a child about to be born; the token to give it. OSError when 4,095 processes take part already."""
    cdef uint32_t token = 0
    cdef int rc = pz_slot_reserve(program(), copy_ledger, &token)
    if rc < 0:
        raise _failures.no_slot(-rc)
    return token


def bury_child(uint32_t token):
    """The child has ended, as its parent knows: sweeps what it held."""
    if proc.base != NULL and token:
        pz_slot_bury(proc, token)


cancel_child = bury_child


def before_fork():
    birth.token = 0
    if proc.base == NULL or proc.slot == 0:
        return
    birth.on = True
    try:
        birth.token = reserve_child(True)
    except BaseException as error:
        # A raw os.fork() must not fail for us: the child then has no part in the program.
        _failures.warn_no_slot(error)
    else:
        birth.mark = pz_slot_mark_birth(proc, birth.token)


cdef void end_birth() noexcept nogil:
    birth.on = False
    if birth.mark >= 0:
        pz_slot_end_birth(proc, birth.mark)
        birth.mark = -1


cdef void claim_in_child() noexcept nogil:
    """Runs inside of fork(): before any hook of Python, which may drop handles, and must not drop the parent's."""
    if proc.base == NULL or proc.slot == 0 or not birth.on:
        return  # not ours, or a fork of some C library, which only execs
    cdef uint32_t token = birth.token
    birth.token = 0
    if not token or pz_slot_claim(proc, token) < 0:
        proc.slot = 0
        proc.self_ = 0
    end_birth()


def after_fork_in_parent():
    """Also if there was no fork: the slot is then as free as after a death."""
    end_birth()


def after_fork_in_child():
    carried.clear()


def last_fork_token():
    """Token of the slot that the last fork of this thread reserved; 0 if it was not attached."""
    return birth.token


def adopt(int fd, uint32_t token):
    """Takes the inherited arena and the slot that the parent reserved."""
    if proc.base != NULL:
        raise RuntimeError("this process has an arena already")
    cdef int rc = pz_arena_map(proc, fd, NULL)
    if rc < 0:
        raise _failures.no_arena(-rc)
    os.set_inheritable(fd, False)
    rc = pz_slot_claim(proc, token)
    if rc < 0:
        pz_arena_unmap(proc)
        raise _failures.no_arena(-rc)
    hook()


def leave():
    """The orderly end of this process's part: locks it holds stay held by nobody, its references are dropped.

    Handles are closed by it. Where other threads may still be using them, or arrays look into received messages, the
    references stay; whoever buries this process drops them.
    """
    if proc.base == NULL or proc.slot == 0 or os.getpid() != proc.pid:
        return
    threading = sys.modules.get("threading")
    alone = threading is None or threading.active_count() <= 1
    looked_into = _native.disown_all(alone)
    if alone and not looked_into:
        pz_slot_leave(proc)


def park(data, uint32_t token, list refs):
    """Puts bytes and references aside for the child `token`; -> (offset, generation)."""
    cdef const uint8_t[::1] view = data
    cdef uint64_t offset = new_parcel(view.shape[0], refs, "the arguments of a process")
    cdef pz_parcel *parcel = <pz_parcel *>pz_at(proc, offset)
    if view.shape[0]:
        memcpy(pz_parcel_data(parcel), &view[0], view.shape[0])
    pz_slot_at(proc, PZ_OWNER_SLOT(token)).had_parcels = 1
    pz_store64(&parcel.block.owner, PZ_BY_SLOT(token))
    return offset, parcel.block.gen


def unpark(uint64_t offset, uint32_t gen):
    """The bytes that were parked for this process; call unparked() when they have been unpickled."""
    global parked_offset
    if pz_block_find(proc, offset, gen) == NULL:
        raise _failures.stale(bytes)
    cdef pz_parcel *parcel = <pz_parcel *>pz_at(proc, offset)
    parked_offset = offset
    return (<char *>pz_parcel_data(parcel))[:parcel.length]


def unparked():
    """Frees the parked bytes and the references that came with them."""
    global parked_offset
    if parked_offset:
        pz_parcel_free(proc, parked_offset)
        parked_offset = 0


cdef uint64_t new_parcel(uint64_t length, list refs, who) except 0:
    """A parcel of this process that carries `refs`, (offset, generation) pairs."""
    cdef uint64_t offset = 0
    cdef uint32_t count = <uint32_t>len(refs) if refs is not None else 0
    cdef int rc = pz_parcel_new(program(), length, count, &offset)
    if rc < 0:
        raise _failures.status(who, -rc)
    if count:
        for at, gen in refs:
            rc = pz_parcel_carry(proc, offset, at, gen)
            if rc < 0:
                pz_parcel_free(proc, offset)
                raise _failures.status(who, -rc)
    return offset


# ---- what pickles carry --------------------------------------------------------------------------------------------

cdef class carrying:
    """While it is open, handles pickled by this thread are noted in the list it gives, as (offset, generation)."""
    cdef object ident, before

    def __enter__(self):
        self.ident = get_ident()
        self.before = carried.get(self.ident)
        carried[self.ident] = noted = []
        return noted

    def __exit__(self, *unused):
        if self.before is None:
            carried.pop(self.ident, None)
        else:
            carried[self.ident] = self.before


def note(Handle handle):
    """Called when a handle is pickled: the message that is being made carries a reference to its object."""
    noted = carried.get(get_ident())
    if noted is not None:
        noted.append((handle.ref.offset, handle.ref.gen))


def is_carrying():
    """True while this thread pickles something whose handles are counted."""
    return get_ident() in carried


# ---- memory --------------------------------------------------------------------------------------------------------

def memory():
    """(limit, reserved, used, free but reserved) in bytes, and blocks in use."""
    cdef pz_memory m
    pz_memory_get(program(), &m)
    return m.limit, m.backed, m.used, m.warm, m.blocks


def set_limit(uint64_t limit):
    pz_memory_set_limit(program(), limit)


def default_limit():
    return pz_memory_default()


def cpu_quota():
    return pz_cpu_quota()


def owner_pid(uint32_t owner):
    return pz_owner_pid(program(), owner)


def sweep():
    """Looks for processes of the program that died and frees what they held; -> how many."""
    return pz_sweep_all(program())


def sweep_sometimes():
    """sweep(), unless some process of the program has done so within the last fraction of a second."""
    pz_sweep_sometimes(program())


def doctor():
    """Facts about the arena of this process, or of the one it would make."""
    attach()
    return {
        "arena": os.readlink(f"/proc/self/fd/{proc.fd}"),
        "address_space": proc.size,
        "memory_limit": memory()[0],
        "slot": proc.slot,
        "spin_cpus": pz_cpus(proc),
        "cpu_quota": pz_cpu_quota() if pz_cpu_quota() < 1e9 else None,
    }
