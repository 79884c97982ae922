"""Values of shared containers on their way in and out.

    exact builtins, small pickles    in a cell of the container, as in a message (_encode.h)
    shared containers                by reference (PZ_VALUE_CONTAINER + form); a plain dict, set, list or deque becomes one
    everything else                  an object of its own (PZ_SHARED), by reference: large values, arrays, what holds handles

Nothing foreign runs inside a lock of a container: values are encoded before and decoded after.
"""
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.errno cimport EBUSY, EINTR, ENOMEM
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport qsort
from libc.string cimport memcpy

from processing.pz cimport *
from processing._program cimport program, check
from processing._message cimport *

from pickle import loads as pickle_loads

from processing import _native
from processing import _failures


cdef extern from "_key.h":
    int pz_by_order(const void *, const void *) noexcept nogil

cdef extern from *:
    """
    #define STORE_NAME_AT offsetof(pz_store, name)
    """
    enum: STORE_NAME_AT

cdef pz_proc *proc = <pz_proc *>PyCapsule_GetPointer(_native.proc, PZ_PROC_CAPSULE)
cdef object containers = None  # the module, at first use
cdef object shared_type = None  # processing.sharing.Shared

cdef enum:
    VALUE_SHARED = 64     # an object of kind PZ_SHARED
    VALUE_CONTAINER = 64  # + form

LAYOUT = (PZ_STORE, sizeof(pz_store), STORE_NAME_AT)


cdef class StoreBase(Handle):
    """What all containers have in common."""

    cdef pz_store *store(self) except NULL:
        if self.at == NULL:
            raise _failures.handle_closed(self)
        return <pz_store *>self.at

    cdef bint grouped(self):
        return self.group is not None and self.group.mine()

    cdef int wait_for(self, pz_shard *busy, pz_wait *wait) except -1:
        """Waits for a lock, or (NULL) for the end of somebody's group; sees to signals. The handle stays open meanwhile."""
        cdef pz_store *store = self.store()
        cdef int rc
        self.exports += 1
        try:
            with nogil:
                rc = pz_store_await(proc, store, busy, wait)
            if rc == -EINTR:
                PyErr_CheckSignals()
        finally:
            self.exports -= 1
        return 0

    cdef uint64_t count(self) except? 0xffffffffffffffff:
        cdef uint64_t count = 0
        if pz_store_count_read(proc, self.store(), &count) == -EBUSY:
            lock_all(self, False)
            count = pz_store_count(proc, self.store())
            pz_store_unlock_all(proc, self.store())
        return count

    def __len__(self):
        if self.group is not None and self.grouped():
            return self.group.length()
        return self.count()

    def _raw_len(self):
        return self.count()

    def __enter__(self):
        """Begins a group of changes: the others see all of them, when the `with` ends, or none.

        Changes of others wait until then (reading goes on, and finds what was there before). An exception that leaves the
        `with` drops the changes; so does the death of this process. This thread sees its own changes at once.
        """
        cdef pz_wait wait
        cdef pz_shard *busy = NULL
        if self.grouped():
            self.group.depth += 1
            return self
        pz_wait_init(&wait, PZ_FOREVER)
        while pz_group_begin(proc, self.store(), &wait, &busy) == -EBUSY:
            self.wait_for(busy, &wait)
        try:
            self.group = groups().new(self, self.store().form)
        except BaseException:
            pz_group_end(proc, self.store())
            raise
        self.gatekeeper = proc.self_
        self.exports += 1  # it cannot be closed
        return self

    cdef int end_group(self) except -1:
        self.group = None
        self.gatekeeper = 0
        self.exports -= 1
        pz_group_end(proc, self.store())
        return 0

    def __dealloc__(self):
        if self.gatekeeper and self.gatekeeper == proc.self_ and self.at != NULL:
            pz_group_end(proc, <pz_store *>self.at)  # begun by hand, and forgotten

    def __exit__(self, kind, error, traceback):
        group = self.group
        if not self.grouped():
            if group is not None and group.is_inherited():
                self.group = None  # of the process that forked this one
                self.gatekeeper = 0
                self.exports -= 1
                return
            raise RuntimeError(f"this thread has no group of changes of this {type(self).__name__}")
        if group.depth > 0:
            group.depth -= 1
            return
        try:
            if kind is None:
                group.commit()
        finally:
            self.end_group()

    def _clear(self):
        if self.group is not None and self.grouped():
            return self.group.clear()
        cdef pz_store *store = self.store()
        lock_all(self, True)
        cdef int rc = pz_store_clear(proc, store)
        pz_store_unlock_all(proc, store)
        check(rc, self)
        pz_store_sweep(proc, store)

    cdef int tidy(self) except -1:
        """After much came at once: if too much memory is in chunks that only that used, copies all items together."""
        cdef pz_store *store = self.store()
        if pz_store_is_bulky(proc, store):
            lock_all(self, False)
            if pz_store_is_bulky(proc, store):
                pz_store_compact(proc, store)  # without memory for it: another time
            pz_store_unlock_all(proc, store)
            pz_store_sweep(proc, store)
        return 0

    cdef int emptied(self, const pz_shard *shard) except -1:
        """After something was taken out of a shard: if that was the last of much, gives the memory back."""
        cdef pz_store *store = self.store()
        if pz_shard_is_empty(shard) and pz_store_is_hollow(proc, store):
            lock_all(self, False)
            if pz_store_is_hollow(proc, store):
                pz_store_clear(proc, store)  # without memory for it: another time
            pz_store_unlock_all(proc, store)
            pz_store_sweep(proc, store)
        return 0

    def _facts(self):
        """(items, bytes, shards, repairs after a death, reads that took the lock, waits for a lock)."""
        cdef pz_store *store = self.store()
        cdef pz_shard *shard
        cdef uint64_t repairs = 0, waits = 0
        for number in range(pz_store_shards(store)):
            shard = pz_store_number(proc, store, number)
            repairs += pz_load(&shard.repairs)
            waits += pz_load(&shard.waits)
        return (self.count(), pz_store_bytes(proc, store), pz_store_shards(store), repairs,
                pz_load64(&store.retries), waits)


cdef object new_store(cls, int form, uint64_t most):
    cdef pz_ref ref
    check(pz_store_new(program(), form, most, &ref), cls)
    return _native.adopt(cls, PZ_STORE, ref.offset, ref.gen, ref.entry, STORE_NAME_AT)


cdef object groups():
    from processing import groups
    return groups


cdef int open_shard(StoreBase self, uint64_t hash, bint change, pz_shard **shard) except -1:
    """Locks the shard of a hash. To change it: waits for the end of somebody else's group first."""
    cdef pz_wait wait
    pz_wait_init(&wait, PZ_FOREVER)
    # Only ever taken with the GIL held, so that it is never held by a thread that waits for the GIL.
    while pz_store_retry(proc, self.store(), hash, change, &wait, shard) == -EBUSY:
        self.wait_for(shard[0], &wait)
    return 0


cdef int lock_all(StoreBase self, bint change) except -1:
    cdef pz_wait wait
    cdef pz_shard *busy = NULL
    pz_wait_init(&wait, PZ_FOREVER)
    while pz_store_lock_all(proc, self.store(), change, &wait, &busy) == -EBUSY:
        self.wait_for(busy, &wait)
    return 0


# ---- in ------------------------------------------------------------------------------------------------------------

cdef class Prepared:
    def __dealloc__(self):
        if self.owned:
            pz_object_close(proc, &self.ref)


cdef Prepared prepare(object value, who):
    """Encodes a value of any kind. Raises what pickling raises, or MemoryError."""
    global containers
    cdef Prepared self = Prepared.__new__(Prepared)
    cdef Message message
    kind = type(value)
    if containers is None:
        from processing import containers
    if kind is dict or kind is list or kind is set or kind is containers.deque:
        value = containers.convert(value)
    if isinstance(value, StoreBase):
        self.keep = value
        self.value.object = (<Handle>value).ref.offset
        self.value.gen = (<Handle>value).ref.gen
        self.value.type = VALUE_CONTAINER + <uint8_t>(<StoreBase>value).store().form
        return self
    message = make_message(value, who)
    self.keep = message
    if message.parcel == 0 and message.encoded.length <= PZ_VALUE_MAX:
        self.value.data = message.encoded.data
        self.value.length = <uint32_t>message.encoded.length
        self.value.type = message.encoded.type
        return self
    shared_from(message, who, &self.ref)
    self.owned = True
    self.value.object = self.ref.offset
    self.value.gen = self.ref.gen
    self.value.type = VALUE_SHARED
    return self


cdef object load_value(object value, pz_encoded *encoded, pz_value_in *to, who):
    """Encodes a value; what is returned keeps alive what `to` points to."""
    cdef Prepared prepared
    if pz_encode(value, encoded) and encoded.length <= PZ_VALUE_MAX:
        to.object = 0
        to.data = encoded.data
        to.length = <uint32_t>encoded.length
        to.type = encoded.type
        return value
    prepared = prepare(value, who)
    to[0] = prepared.value
    return prepared


def prepared(value, who):
    """A value encoded, for groups."""
    return prepare(value, who)


def content(Prepared prepared not None):
    """What a prepared value is when it is read."""
    if prepared.value.object:
        return object_from(prepared.value.type, prepared.value.object, prepared.value.gen)
    return value_from(prepared.value.type, prepared.value.data, prepared.value.length)


# ---- out -----------------------------------------------------------------------------------------------------------

cdef object value_from(uint8_t type, const void *data, Py_ssize_t length):
    value = pz_decode(type, data, length)
    return pickle_loads(value) if type == PZ_VALUE_PICKLE else value


cdef object object_from(uint8_t type, uint64_t offset, uint32_t gen):
    """The value that is an object. StaleHandleError: it is gone by now."""
    global containers, shared_type
    if type == VALUE_SHARED:
        if shared_type is None:
            from processing.sharing import Shared as shared_type
        return shared_value(_native.reopen(shared_type, PZ_SHARED, proc.header.program, offset, gen, 0))
    if containers is None:
        from processing import containers
    return _native.reopen(containers.CLASSES[type - VALUE_CONTAINER], PZ_STORE, proc.header.program, offset, gen,
                          STORE_NAME_AT)


cdef bint is_same_object(const pz_value_out *out, uint64_t object, uint32_t gen):
    """Whether what was read is still that object, and the object lives: then it is not gone, it cannot be unpickled."""
    return out.object == object and out.gen == gen and pz_block_find(proc, object, gen) != NULL


cdef object value_of(pz_value_out *out):
    """The value that was read. The reference that came with it is given up."""
    if out.object == 0:
        return value_from(out.type, out.bytes, out.length)
    try:
        return object_from(out.type, out.object, out.gen)
    finally:
        if out.opened:
            pz_object_close(proc, &out.ref)


# ---- all items, as at one moment -----------------------------------------------------------------------------------

cdef int copy_items(pz_store *store, bint open_objects, Py_ssize_t *count, pz_item **copy, pz_item ***items) noexcept:
    """Copies of all items, in order, inside the caller's locks; `items` points to each. Objects are opened: a pz_ref
    takes the place of the value. Free both with PyMem_Free, and the references with item_value or drop_items.
    0, or a negative errno: exceptions are made outside of the locks.
    """
    cdef uint64_t bytes = 16, entry, size
    cdef uint32_t number, shards = pz_store_shards(store)
    cdef pz_item *item
    cdef pz_item_object *what
    cdef uint8_t *at
    cdef pz_ref ref
    cdef uint16_t kind
    cdef int rc
    count[0] = 0
    for number in range(shards):
        entry = 0
        while True:
            item = pz_store_walk(proc, store, number, &entry)
            if item == NULL:
                break
            bytes += item_bytes(item)
            count[0] += 1
    copy[0] = <pz_item *>PyMem_Malloc(bytes)
    items[0] = <pz_item **>PyMem_Malloc((count[0] + 1) * sizeof(pz_item *))
    count[0] = 0
    if copy[0] == NULL or items[0] == NULL:
        return -ENOMEM
    at = <uint8_t *>copy[0]
    for number in range(shards):
        entry = 0
        while True:
            item = pz_store_walk(proc, store, number, &entry)
            if item == NULL:
                break
            memcpy(at, item, sizeof(pz_item) + item.key_length + item.extra_length + item.value_length)
            items[0][count[0]] = <pz_item *>at
            if item.flags & PZ_ITEM_OBJECT and open_objects:
                what = <pz_item_object *>pz_item_value(<pz_item *>at)
                memcpy(&ref, what, sizeof(pz_item_object))
                rc = pz_object_open(proc, ref.offset, ref.gen, &ref, &kind)
                if rc < 0:
                    return rc
                memcpy(what, &ref, sizeof(pz_ref))
            count[0] += 1
            at += item_bytes(item)
    if shards > 1:
        qsort(items[0], count[0], sizeof(pz_item *), pz_by_order)
    return 0


cdef uint64_t item_bytes(const pz_item *item) noexcept:
    return (sizeof(pz_item) + item.key_length + item.extra_length + item.value_length + 7) & ~<uint64_t>7


cdef object item_value(pz_item *item):
    """The value of an item that copy_items made."""
    cdef pz_ref ref
    if not item.flags & PZ_ITEM_OBJECT:
        return value_from(item.value_type, pz_item_value(item), item.value_length)
    memcpy(&ref, pz_item_value(item), sizeof(pz_ref))
    item.flags = 0
    try:
        return object_from(item.value_type, ref.offset, ref.gen)
    finally:
        pz_object_close(proc, &ref)


cdef void drop_items(pz_item **items, Py_ssize_t first, Py_ssize_t count) noexcept:
    """Gives up the references that nobody took."""
    cdef pz_ref ref
    for i in range(first, count):
        if items[i].flags & PZ_ITEM_OBJECT:
            memcpy(&ref, pz_item_value(items[i]), sizeof(pz_ref))
            pz_object_close(proc, &ref)
