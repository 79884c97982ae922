# cython: binding=False
"""The caller's way into a pool: calls become batches in the task ring.

Exact builtins, and tuples of them, are written as they are; everything else is pickled. What is longer than 8 KiB, has
buffers out of band or carries handles becomes an object of the arena that this process holds (`held`) until the call has
ended, so that a batch can be put back without it. Everything is pickled here, in the caller: errors are raised before
anything is sent.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from processing.pz cimport *
from processing._message cimport *
from processing._pool cimport *

from _pickle import dumps
from types import BuiltinFunctionType, FunctionType, ModuleType

from processing import _native
from processing import reduction

cdef pz_proc *proc = <pz_proc *>PyCapsule_GetPointer(_native.proc, PZ_PROC_CAPSULE)
cdef enum:
    ITEM_MAX = 8192  # bytes: a longer argument becomes an object
    TUPLE_MAX = 32   # elements
    KNOWN_MAX = 512

cdef dict known = {}  # function -> its pickle, where that is its name alone
cdef list spare = []  # Drafts to use again


cdef class Held(Handle):
    """A large argument: the calls that get it open it, this keeps it there."""


cdef class Draft:
    """A batch in the making."""
    cdef uint8_t data[PZ_TASK_MAX]
    cdef uint32_t used, start  # bytes; where the items begin
    cdef uint32_t count
    cdef list held             # (index in the job, handle)

    cdef pz_batch *head(self):
        return <pz_batch *>self.data


cdef Draft new_draft(uint64_t job, uint32_t first, uint8_t kind, double timeout, int retries):
    cdef Draft draft = spare.pop() if spare else Draft.__new__(Draft)
    cdef pz_batch *head = draft.head()
    memset(head, 0, sizeof(pz_batch))
    if not 0 <= retries <= 255:
        raise ValueError(f"retries must be 0 to 255, not {retries}")
    if not 0 <= timeout <= 4e6:
        raise ValueError(f"timeout must be 0 to 4,000,000 seconds, not {timeout}")
    head.job = job
    head.first = first
    head.kind = kind
    head.timeout = <uint32_t>(timeout * 1e3 + 0.999)
    head.retries = retries
    head.flags = PZ_BATCH_PRIVATE if retries else 0
    draft.used = sizeof(pz_batch)
    draft.count = 0
    draft.held = None
    return draft


cdef int put_aside(Draft draft) except -1:
    """For another batch. What this one was given belongs to its calls alone."""
    draft.held = None
    if len(spare) < 8:
        spare.append(draft)
    return 0


# ---- items -----------------------------------------------------------------------------------------------------------

cdef inline bint place(Draft draft, uint8_t type, uint8_t flags, const void *data, size_t length):
    """False if there is no room."""
    cdef size_t need = sizeof(pz_item) + PZ_ROUND8(length)
    cdef pz_item *item = <pz_item *>(draft.data + draft.used)
    if draft.used + need > PZ_TASK_MAX:
        return False
    item.length = <uint32_t>length
    item.type = type
    item.flags = flags
    memcpy(item + 1, data, length)
    draft.used += <uint32_t>need
    return True


cdef int place_tuple(Draft draft, tuple value):
    """1; 0: there is no room; -1: not all elements are exact builtins."""
    cdef uint32_t before = draft.used
    cdef pz_item *item = <pz_item *>(draft.data + before)
    cdef pz_encoded quick
    if before + sizeof(pz_item) > PZ_TASK_MAX:
        return 0
    draft.used += sizeof(pz_item)
    for element in value:
        if not pz_encode(element, &quick) or quick.length > ITEM_MAX:
            draft.used = before
            return -1
        if not place(draft, quick.type, 0, quick.data, quick.length):
            draft.used = before
            return 0
    item.length = draft.used - before - sizeof(pz_item)
    item.type = 0
    item.flags = PZ_ITEM_TUPLE
    return 1


cdef Message packed(value, who):
    """A value that has to be pickled, or is long."""
    know_arrays()
    return make_message(value, who, 4096, True)


cdef int place_message(Draft draft, Message message, who, uint8_t flags) except -1:
    """1; 0: there is no room."""
    cdef pz_item_object where
    cdef pz_ref ref
    if message.parcel == 0 and message.encoded.length <= ITEM_MAX:
        return place(draft, message.encoded.type, flags, message.encoded.data, message.encoded.length)
    if draft.used + sizeof(pz_item) + sizeof(where) > PZ_TASK_MAX:
        return 0
    shared_from(message, who, &ref)
    handle = _native.adopt(Held, PZ_SHARED, ref.offset, ref.gen, ref.entry, 0)
    where.offset = ref.offset
    where.gen = ref.gen
    place(draft, message.encoded.type, flags | PZ_ITEM_OBJECT, &where, sizeof(where))
    if draft.held is None:
        draft.held = []
    draft.held.append((draft.count, handle))
    return 1


cdef int place_function(Draft draft, func, who) except -1:
    """The item of the function. A name alone is pickled once; by value it is pickled each time, as it may have changed."""
    cdef bytes data = None
    kind = type(func)
    if kind is FunctionType or kind is type or kind is BuiltinFunctionType and isinstance(func.__self__, ModuleType):
        data = known.get(func)
        if data is None:
            try:
                data = dumps(func, 5)
            except Exception:
                pass
            else:
                if len(data) > 1024 or b"__main__" in data and not reduction.main_is_importable():
                    data = None
                else:
                    if len(known) >= KNOWN_MAX:
                        known.clear()
                    known[func] = data
    if data is not None:
        place(draft, PZ_VALUE_PICKLE, PZ_ITEM_CACHE, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
    else:
        place_message(draft, packed(func, who), who, 0)
    draft.start = draft.used
    return 0


# ---- sending ---------------------------------------------------------------------------------------------------------

cdef int dispatch(PoolBase pool, Draft draft) except -1:
    """Sends a batch, unless it is empty; the draft is to be made anew."""
    cdef pz_pool *shared = pool.pool()
    cdef pz_batch *head = draft.head()
    cdef uint64_t key
    if draft.count == 0:
        return 0
    head.begin = 0
    head.to = draft.count
    if draft.held is not None:
        for index, handle in draft.held:
            # What the function holds goes with the last call.
            key = head.job << 32 | (head.first + <uint32_t>index)
            before = pool.held.get(key)
            pool.held[key] = (handle,) if before is None else before + (handle,)
    pool.send(&shared.tasks, PZ_MESSAGE_RESULTS, draft.data, draft.used)
    pz_pool_notify(proc, shared)
    return 0


def call(PoolBase pool not None, uint64_t job, func, args, kwds, double timeout=0.0, int retries=0):
    """Has `func(*args, **kwds)` run, as call 0 of the job. Raises what pickling raises, MemoryError at the limit."""
    cdef uint8_t kind = PZ_CALL_KEYWORDS if kwds else PZ_CALL_STAR
    cdef Draft draft = new_draft(job, 0, kind, timeout, retries)
    if pool.held is None:
        pool.held = {}
    place_function(draft, func, pool)
    if type(args) is not tuple:
        args = tuple(args)
    item = args if not kwds else (args, dict(kwds))
    if kwds or len(args) > TUPLE_MAX or place_tuple(draft, item) != 1:
        if not place_message(draft, packed(item, pool), pool, 0):
            raise ValueError("the function and its arguments are too large for one message")
    draft.count = 1
    dispatch(pool, draft)
    put_aside(draft)


def announce(PoolBase pool not None, uint64_t job, func, args, kwds, uint32_t audience):
    """Has the worker of each rank below `audience` run `func(*args, **kwds)` once, between its batches: call `rank` of the
    job. -> what has to be kept until all have answered. One at a time; raises what pickling raises."""
    cdef pz_pool *shared = pool.pool()
    cdef Message message = packed((func, args, kwds), pool)
    cdef pz_ref ref
    cdef uint8_t type = message.encoded.type
    cdef uint32_t rank
    shared_from(message, pool, &ref)
    handle = _native.adopt(Held, PZ_SHARED, ref.offset, ref.gen, ref.entry, 0)
    # Who reads this looks at the number before and after.
    store64(&shared.broadcast_job, 0)
    store64(&shared.broadcast, load64(&shared.broadcast) + 1)
    shared.message = ref.offset
    shared.message_gen = ref.gen
    shared.message_type = type
    store32(&shared.audience, audience)
    store64(&shared.broadcast_job, job)
    for rank in range(min(audience, load32(&shared.desks))):
        or32(&pz_desk_at(proc, shared, rank).orders, PZ_ORDER_BROADCAST)
    pz_pool_stir(proc, shared)
    return handle


def unannounce(PoolBase pool not None):
    """That is over: who has not begun need not."""
    store64(&pool.pool().broadcast_job, 0)


cdef int place_one(Draft draft, value, bint star, PoolBase pool, list waiting) except -1:
    """1; 0: there is no room (what was pickled then lies in `waiting`)."""
    cdef pz_encoded quick
    cdef Message message
    cdef int placed
    if waiting:
        message = <Message>waiting[0]
        if place_message(draft, message, pool, 0):
            waiting.clear()
            return 1
        return 0
    if not star and pz_encode(value, &quick) and quick.length <= ITEM_MAX:
        return place(draft, quick.type, 0, quick.data, quick.length)
    if star and type(value) is not tuple:
        value = tuple(value)
    if type(value) is tuple and len(<tuple>value) <= TUPLE_MAX:
        placed = place_tuple(draft, <tuple>value)
        if placed >= 0:
            return placed
    message = packed(value, pool)
    if place_message(draft, message, pool, 0):
        return 1
    waiting.append(message)
    return 0


def batch(
    PoolBase pool not None, uint64_t job, uint32_t first, func, items, bint star, double timeout=0.0,
    int retries=0,
):
    """Has `func(item)` (`star`: `func(*item)`) run for each item, as calls first, first + 1, ... of the job.

    Raises what pickling raises; then the first `error.sent` calls have been sent, the others not.
    """
    cdef uint8_t kind = PZ_CALL_STAR if star else PZ_CALL_ONE
    cdef Draft draft = new_draft(job, first, kind, timeout, retries)
    cdef list waiting = []
    cdef uint32_t sent = 0
    if pool.held is None:
        pool.held = {}
    place_function(draft, func, pool)
    try:
        for value in items:
            while not place_one(draft, value, star, pool, waiting):
                if draft.count == 0:
                    raise ValueError("the function and one argument are too large for one message")
                dispatch(pool, draft)
                sent += draft.count
                restart(draft)
                if draft.held is not None:  # a function that is an object is held by each batch
                    draft = new_draft(job, first + sent, kind, timeout, retries)
                    place_function(draft, func, pool)
            draft.count += 1
        dispatch(pool, draft)
    except Exception as error:
        error.sent = sent
        raise
    put_aside(draft)


cdef void restart(Draft draft):
    """The next batch of the same function."""
    draft.head().first += draft.count
    draft.used = draft.start
    draft.count = 0
    if draft.held is not None and not (<pz_item *>(draft.data + sizeof(pz_batch))).flags & PZ_ITEM_OBJECT:
        draft.held = None
