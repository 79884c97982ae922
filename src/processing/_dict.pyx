# cython: boundscheck=False, wraparound=False
"""Shared dicts, sets and namespaces: the binding. The classes are in containers.py and its neighbours."""
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.errno cimport EAGAIN, EBUSY, ENOBUFS
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from processing.pz cimport *
from processing._program cimport check
from processing._message cimport *
from processing._store cimport *
from processing._cells cimport Cells
from processing._key cimport item_key, load_key, pz_quick_key

from processing import _native
from processing.errors import StaleHandleError

cdef pz_proc *proc = <pz_proc *>PyCapsule_GetPointer(_native.proc, PZ_PROC_CAPSULE)
cdef object MISSING = object()


def new(cls, int form):
    """A handle of a new, empty store."""
    return new_store(cls, form, <uint64_t>-1)


# ---- values --------------------------------------------------------------------------------------------------------

cdef int find(StoreBase self, const pz_key *key, pz_value_out *out) except -1:
    """1: `out` holds the value; 0: it is not there."""
    cdef pz_shard *shard
    cdef int rc = pz_dict_read(proc, self.store(), key, out)
    if rc == -EBUSY:
        open_shard(self, key.hash, False, &shard)
        rc = pz_dict_look(proc, self.store(), shard, key, out)
        pz_store_close(proc, shard)
    return rc


cdef object fetch(StoreBase self, const pz_key *key, uint64_t *stamp):
    """The value, or MISSING."""
    cdef pz_value_out out
    cdef uint64_t first
    cdef uint32_t gen
    while True:
        if not find(self, key, &out):
            return MISSING
        if stamp:
            stamp[0] = out.stamp
        first = out.object
        gen = out.gen
        try:
            return value_of(&out)
        except StaleHandleError:
            # The object went after we had read of it: there is another value now, or none.
            if first == 0 or (find(self, key, &out) and is_same_object(&out, first, gen)):
                raise


cdef int put(StoreBase self, const pz_key *key, const pz_value_in *value) except -1:
    """1: the key is new."""
    cdef pz_shard *shard
    cdef int rc
    while True:
        open_shard(self, key.hash, True, &shard)
        rc = pz_dict_put(proc, self.store(), shard, key, value)
        pz_store_close(proc, shard)
        if rc != -EAGAIN:
            break
    check(rc, self)
    return rc


cdef class DictBase(StoreBase):
    """Items by key. Reading takes no lock; a change takes that of one shard for a fraction of a microsecond."""

    def __contains__(self, key):
        if self.group is not None and self.grouped():
            return self.group.contains(key)
        cdef pz_quick_key quick
        cdef pz_store *store = self.store()
        cdef pz_shard *shard
        cdef int rc
        keep = load_key(key, &quick, False)
        rc = pz_dict_read(proc, store, &quick.key, NULL)
        if rc == -EBUSY:
            open_shard(self, quick.key.hash, False, &shard)
            rc = pz_dict_look(proc, store, shard, &quick.key, NULL)
            pz_store_close(proc, shard)
        return rc == 1

    def __getitem__(self, key):
        if self.group is not None and self.grouped():
            return self.group.getitem(key)
        cdef pz_quick_key quick
        cdef pz_store *store = self.store()
        keep = load_key(key, &quick, False)
        value = fetch(self, &quick.key, NULL)
        if value is MISSING:
            raise KeyError(key)
        return value

    def get(self, key, default=None):
        """The value of `key`, or `default`."""
        if self.group is not None and self.grouped():
            return self.group.get(key, default)
        cdef pz_quick_key quick
        cdef pz_store *store = self.store()
        keep = load_key(key, &quick, False)
        value = fetch(self, &quick.key, NULL)
        return default if value is MISSING else value

    def __setitem__(self, key, value):
        if self.group is not None and self.grouped():
            self.group.setitem(key, value)
            return
        cdef pz_quick_key quick
        cdef pz_encoded encoded
        cdef pz_value_in to
        keep = load_key(key, &quick, True)
        kept = load_value(value, &encoded, &to, self)
        put(self, &quick.key, &to)

    def __delitem__(self, key):
        if not self._discard(key):
            raise KeyError(key)

    def _discard(self, key):
        """Removes `key`; -> whether it was there."""
        if self.group is not None and self.grouped():
            return self.group.discard(key)
        cdef pz_quick_key quick
        cdef pz_shard *shard
        cdef pz_store *store = self.store()
        keep = load_key(key, &quick, False)
        open_shard(self, quick.key.hash, True, &shard)
        cdef int rc = pz_dict_take(proc, store, shard, &quick.key, NULL)
        pz_store_close(proc, shard)
        self.emptied(shard)
        return rc == 1

    def pop(self, key, default=MISSING):
        """Removes `key` and gives its value; without it `default`, or KeyError."""
        if self.group is not None and self.grouped():
            return self.group.pop(key, *(() if default is MISSING else (default,)))
        cdef pz_quick_key quick
        cdef pz_value_out out
        cdef pz_shard *shard
        cdef pz_store *store = self.store()
        keep = load_key(key, &quick, False)
        open_shard(self, quick.key.hash, True, &shard)
        cdef int rc = pz_dict_take(proc, store, shard, &quick.key, &out)
        pz_store_close(proc, shard)
        check(rc, self)
        if rc == 1:
            value = value_of(&out)
            self.emptied(shard)
            return value
        if default is MISSING:
            raise KeyError(key)
        return default

    def setdefault(self, key, default=None):
        """The value of `key`; if there is none, `default`, which is stored: decided at one moment."""
        if self.group is not None and self.grouped():
            return self.group.setdefault(key, default)
        cdef pz_quick_key quick
        cdef pz_encoded encoded
        cdef pz_value_in to
        cdef pz_value_out out
        cdef pz_shard *shard
        cdef int rc
        cdef pz_store *store = self.store()
        keep = load_key(key, &quick, True)
        value = fetch(self, &quick.key, NULL)
        if value is not MISSING:
            return value
        kept = load_value(default, &encoded, &to, self)
        while True:
            open_shard(self, quick.key.hash, True, &shard)
            rc = pz_dict_look(proc, store, shard, &quick.key, &out)
            if rc == 0:
                rc = pz_dict_put(proc, store, shard, &quick.key, &to)
                pz_store_close(proc, shard)
                if rc == -EAGAIN:
                    continue
                check(rc, self)
                # What was stored, which is another object than `default` if that is a dict or a list.
                return default if to.object == 0 else object_from(to.type, to.object, to.gen)
            pz_store_close(proc, shard)
            value = fetch(self, &quick.key, NULL)
            if value is not MISSING:
                return value

    def popitem(self):
        """Removes the item that was inserted last; -> (key, value). KeyError: it is empty."""
        if self.group is not None and self.grouped():
            return self.group.popitem()
        cdef uint8_t space[1024]
        cdef pz_item *item = <pz_item *>space
        cdef pz_item *more = NULL
        cdef uint64_t need = 1024
        cdef pz_ref ref
        cdef int rc
        cdef pz_store *store = self.store()
        try:
            while True:
                lock_all(self, True)
                rc = pz_dict_take_last(proc, store, item, need, &need, &ref)
                pz_store_unlock_all(proc, store)
                if rc != -ENOBUFS:
                    break
                PyMem_Free(more)
                item = more = <pz_item *>PyMem_Malloc(need)
                if more == NULL:
                    raise MemoryError
            check(rc, self)
            if rc == 0:
                raise KeyError("popitem(): the container is empty")
            self.emptied(&store.first if pz_store_shards(store) == 1 else pz_store_number(proc, store, 0))
            if item.flags & PZ_ITEM_OBJECT:
                try:
                    return item_key(item), object_from(item.value_type, ref.offset, ref.gen)
                finally:
                    pz_object_close(proc, &ref)
            return item_key(item), item_value(item)
        finally:
            PyMem_Free(more)

    def clear(self):
        """Removes everything, at one moment."""
        self._clear()

    def _add(self, key):
        """Adds a key without a value; -> whether it is new. (A set keeps the element that came first.)"""
        if self.group is not None and self.grouped():
            return self.group.add(key)
        cdef pz_quick_key quick
        cdef pz_value_in none
        cdef pz_store *store = self.store()
        keep = load_key(key, &quick, True)
        none.object = none.length = none.type = 0
        none.data = NULL
        if pz_dict_read(proc, store, &quick.key, NULL) == 1:
            return False
        return put(self, &quick.key, &none) == 1

    def _update(self, list pairs):
        """Stores all of the (key, value) pairs; each is encoded before the first is stored."""
        if self.group is not None and self.grouped():
            return self.group.update(pairs)
        cdef pz_quick_key quick
        cdef Prepared prepared
        cdef pz_store *store = self.store()
        ready = []
        for key, value in pairs:
            load_key(key, &quick, True)
            ready.append(prepare(value, self))
        for i in range(len(pairs)):
            prepared = <Prepared>ready[i]
            keep = load_key(pairs[i][0], &quick, True)
            put(self, &quick.key, &prepared.value)

    def _fetch(self, key):
        """(value, version of the item), or (None, 0)."""
        if self.group is not None and self.grouped():
            return self.group.fetch(key)
        cdef pz_quick_key quick
        cdef uint64_t stamp = 0
        keep = load_key(key, &quick, False)
        value = fetch(self, &quick.key, &stamp)
        return (None, 0) if value is MISSING else (value, stamp)

    def _store_if(self, key, uint64_t version, value):
        """Stores if the item still has this version (0: if there is none); -> whether it was stored."""
        if self.group is not None and self.grouped():
            return self.group.store_if(key, version, value)
        cdef pz_quick_key quick
        cdef pz_encoded encoded
        cdef pz_value_in to
        cdef pz_value_out out
        cdef pz_shard *shard
        cdef int rc
        cdef pz_store *store = self.store()
        keep = load_key(key, &quick, True)
        kept = load_value(value, &encoded, &to, self)
        while True:
            open_shard(self, quick.key.hash, True, &shard)
            rc = pz_dict_look(proc, store, shard, &quick.key, &out)
            if (out.stamp if rc == 1 else 0) != version:
                pz_store_close(proc, shard)
                return False
            rc = pz_dict_put(proc, store, shard, &quick.key, &to)
            pz_store_close(proc, shard)
            if rc != -EAGAIN:
                check(rc, self)
                return True

    def _snapshot(self, int what):
        """All keys (1), values (2) or (key, value) pairs (3) as at one moment, in the order of insertion."""
        if self.group is not None and self.grouped():
            return self.group.snapshot(what)
        return self._raw_snapshot(what)

    def _raw_get(self, key, default):
        cdef pz_quick_key quick
        keep = load_key(key, &quick, False)
        value = fetch(self, &quick.key, NULL)
        return default if value is MISSING else value

    def _raw_snapshot(self, int what):
        cdef pz_item **items = NULL
        cdef pz_item *copy = NULL
        cdef Py_ssize_t count = 0, done = 0
        cdef int rc
        cdef pz_store *store = self.store()
        cdef list result = []
        lock_all(self, False)
        rc = copy_items(store, what & 2, &count, &copy, &items)
        pz_store_unlock_all(proc, store)
        try:
            check(rc, self)
            for done in range(count):
                if what == 1:
                    result.append(item_key(items[done]))
                elif what == 2:
                    result.append(item_value(items[done]))
                else:
                    result.append((item_key(items[done]), item_value(items[done])))
        finally:
            if what & 2:
                drop_items(items, done, count)
            PyMem_Free(copy)
            PyMem_Free(items)
        return result

    cdef object stored_key(self, const pz_key *key):
        """The key that came first, as it was given: a group that gives it another value leaves it. None: it is not there.
        """
        cdef pz_shard *shard
        cdef const pz_item *item
        cdef bytes extra = None
        open_shard(self, key.hash, False, &shard)
        item = pz_dict_item(proc, shard, key)
        if item != NULL:
            extra = (<const char *>item.data)[item.key_length:item.key_length + item.extra_length]
        pz_store_close(proc, shard)
        return extra

    def _commit(self, list changes):
        """Ends a group: stores all (key, prepared value), or removes where that is None; all at once."""
        cdef Cells cells = Cells.__new__(Cells)
        cdef pz_store *store = self.store()
        cdef pz_quick_key quick
        cdef Prepared prepared
        cdef uint64_t place = 0, keys = 0
        cdef int rc
        removed = MISSING  # the key of the step before, if that removed it: what comes then is a new one
        for key, prepared in changes:
            keep = load_key(key, &quick, True)
            stored = None if key is removed else self.stored_key(&quick.key)
            removed = key if prepared is None else MISSING
            keys += quick.key.length + (quick.key.extra_length if stored is None else len(stored))
        cells.room([change[1] for change in changes], keys, self)
        check(cells.begin(len(changes)), self)
        removed = MISSING
        for key, prepared in changes:
            keep = load_key(key, &quick, True)
            stored = None if key is removed else self.stored_key(&quick.key)
            removed = key if prepared is None else MISSING
            if stored is not None:
                quick.key.extra = <const char *>(<bytes>stored)
                quick.key.extra_length = <uint32_t>len(stored)
            check(pz_bulk_add(proc, &cells.bulk, &quick.key, NULL if prepared is None else &prepared.value, &place),
                  self)
            cells.places[cells.count] = <int64_t>place
            cells.count += 1
        lock_all(self, False)
        rc = pz_dict_commit(proc, store, cells.places, cells.count, &cells.bulk)
        pz_store_unlock_all(proc, store)
        check(rc, self)
        self.tidy()


def key_bytes(key):
    """What tells one key from another: equal for equal keys."""
    cdef pz_quick_key quick
    keep = load_key(key, &quick, True)
    return quick.key.type, (<const char *>quick.key.data)[:quick.key.length]
