# cython: boundscheck=False, wraparound=False
"""Shared lists and deques: the binding. The classes are in containers.py and its neighbours."""
from cpython.mem cimport PyMem_Free
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.errno cimport EBUSY, ERANGE
from libc.stdint cimport int64_t, uint32_t, uint64_t

from processing.pz cimport *
from processing._program cimport check
from processing._message cimport *
from processing._store cimport *
from processing._cells cimport Cells

from operator import index as operator_index

from processing import _native
from processing.errors import StaleHandleError

cdef extern from "Python.h":
    int PySlice_Unpack(object, Py_ssize_t *, Py_ssize_t *, Py_ssize_t *) except -1
    Py_ssize_t PySlice_AdjustIndices(Py_ssize_t, Py_ssize_t *, Py_ssize_t *, Py_ssize_t)

cdef extern from *:
    """
    #define NO_ROOM EXFULL
    """
    enum: NO_ROOM

cdef pz_proc *proc = <pz_proc *>PyCapsule_GetPointer(_native.proc, PZ_PROC_CAPSULE)


def new(cls, int form, most=None):
    """A handle of a new, empty store; `most`: how many items a deque may have."""
    return new_store(cls, form, <uint64_t>-1 if most is None else <uint64_t>most)


cdef int64_t position(index, StoreBase who) except? -1:
    """An index as a number."""
    if type(index) is int:
        try:
            return index
        except OverflowError:
            raise IndexError("cannot fit 'int' into an index-sized integer") from None
    if not hasattr(index, "__index__"):
        slices = " or slices" if who.store().form == PZ_FORM_LIST else ""
        raise TypeError(f"{type(who).__name__} indices must be integers{slices}, not {type(index).__name__}")
    return position(operator_index(index), who)


cdef list converted(values):
    """The values of a slice assignment; containers among them are shared ones."""
    from processing.nesting import convert_all

    try:
        return convert_all(values)
    except TypeError:
        if hasattr(values, "__iter__"):
            raise
    raise TypeError("can only assign an iterable")


cdef list prepare_all(list values, who):
    return [prepare(value, who) for value in values]


cdef class SequenceBase(StoreBase):
    """Items by position. Reading one takes no lock."""

    cdef pz_shard *open(self, bint change=True) except NULL:
        cdef pz_shard *shard = NULL
        open_shard(self, 0, change, &shard)
        return shard

    cdef int read(self, int64_t index, pz_value_out *out) except -1:
        cdef pz_store *store = self.store()
        cdef pz_shard *shard
        cdef int rc = pz_seq_read(proc, store, index, out)
        if rc == -EBUSY:
            shard = self.open(False)
            rc = pz_seq_look(proc, store, index, out)
            pz_store_close(proc, shard)
        return rc

    @property
    def _maxlen(self):
        cdef uint64_t most = self.store().most
        return None if most == <uint64_t>-1 else most

    def _get(self, index):
        """The item at `index`, which may be negative. IndexError."""
        return self.item(position(index, self))

    cdef object item(self, int64_t index):
        if self.group is not None and self.grouped():
            return self.group.get(index)
        cdef pz_value_out out
        cdef uint64_t first
        cdef uint32_t gen
        while True:
            if not self.read(index, &out):
                raise IndexError(f"{type(self).__name__} index out of range")
            first = out.object
            gen = out.gen
            try:
                return value_of(&out)
            except StaleHandleError:
                # The object went after we had read of it: there is another item now, or none.
                if first == 0 or (self.read(index, &out) and is_same_object(&out, first, gen)):
                    raise

    def __getitem__(self, index):
        """The item at `index`, or (lists) a list of those of a slice, as at one moment."""
        if type(index) is slice and self.store().form == PZ_FORM_LIST:
            return self._items(index.start, index.stop, index.step)[0]
        return self.item(position(index, self))

    def __setitem__(self, index, value):
        if type(index) is slice and self.store().form == PZ_FORM_LIST:
            self._replace(0, index.start, index.stop, index.step, converted(value))
        else:
            self._set(position(index, self), value)

    def __delitem__(self, index):
        if type(index) is slice and self.store().form == PZ_FORM_LIST:
            self._replace(0, index.start, index.stop, index.step, None)
        else:
            self._delete(position(index, self))

    def _set(self, int64_t index, value):
        if self.group is not None and self.grouped():
            return self.group.set(index, value)
        cdef pz_encoded encoded
        cdef pz_value_in to
        kept = load_value(value, &encoded, &to, self)
        cdef pz_shard *shard = self.open()
        cdef int rc = pz_seq_set(proc, self.store(), index, &to)
        pz_store_close(proc, shard)
        if rc == -ERANGE:
            raise IndexError(f"{type(self).__name__} assignment index out of range")
        check(rc, self)

    cdef int put(self, int64_t index, bint at_end, value) except -1:
        cdef pz_encoded encoded
        cdef pz_value_in to
        cdef pz_store *store = self.store()
        cdef int64_t count
        kept = load_value(value, &encoded, &to, self)
        cdef pz_shard *shard = self.open()
        count = <int64_t>pz_store_count(proc, store)
        if at_end:
            index = count
        elif index < 0:
            index = max(0, index + count)
        cdef int rc = pz_seq_insert(proc, store, min(index, count), &to)
        pz_store_close(proc, shard)
        if rc == -NO_ROOM:
            raise IndexError("deque already at its maximum size")
        return check(rc, self) is not None

    def _insert(self, index, value):
        """Inserts before `index`, as list.insert. IndexError: a deque that is full."""
        if self.group is not None and self.grouped():
            return self.group.insert(index, value)
        self.put(max(min(index, 1 << 62), -(1 << 62)), False, value)

    def _append(self, value):
        """Adds at the right end; a full deque loses the item at the left end."""
        if self.group is not None and self.grouped():
            return self.group.append(value)
        self.put(0, True, value)

    def _appendleft(self, value):
        if self.group is not None and self.grouped():
            return self.group.appendleft(value)
        self.put(0, False, value)

    def _pop(self, index):
        """Removes the item at `index` and gives it. IndexError."""
        cdef int64_t at = position(index, self)
        if self.group is not None and self.grouped():
            return self.group.pop(at)
        cdef pz_value_out out
        cdef pz_shard *shard = self.open()
        cdef int rc = pz_seq_take(proc, self.store(), at, &out)
        pz_store_close(proc, shard)
        check(rc, self)
        if rc == 0:
            empty = len(self) == 0
            raise IndexError(f"pop from an empty {type(self).__name__}" if empty else "pop index out of range")
        value = value_of(&out)
        self.emptied(shard)
        return value

    def _delete(self, int64_t index):
        if self.group is not None and self.grouped():
            return self.group.delete(index)
        cdef pz_shard *shard = self.open()
        cdef int rc = pz_seq_take(proc, self.store(), index, NULL)
        pz_store_close(proc, shard)
        check(rc, self)
        self.emptied(shard)
        if rc == 0:
            raise IndexError(f"{type(self).__name__} assignment index out of range")

    def _extend(self, list values, bint left=False):
        """Adds all at the right end, or one by one at the left: they are seen all at once, or none."""
        if self.group is not None and self.grouped():
            return self.group.extend(values, left)
        cdef Cells cells = Cells.__new__(Cells)
        cdef pz_store *store = self.store()
        cdef uint64_t count, new, fits
        cdef int rc
        if not values:
            return
        if store.most != <uint64_t>-1 and <uint64_t>len(values) > store.most:
            values = values[<uint64_t>len(values) - store.most:] if store.most else []
        if left:
            values = values[::-1]
        places = cells.make(prepare_all(values, self), self)
        new = len(places)
        cdef pz_shard *shard = self.open()
        count = pz_store_count(proc, store)
        if not left and count + new <= store.most:
            rc = cells.begin(new)
            if rc == 0:
                cells.add(places)
                rc = pz_seq_extend(proc, store, cells.places, cells.count, &cells.bulk)
        else:
            rc = cells.begin(count + new)
            fits = count if count + new <= store.most else store.most - new
            if rc == 0 and left:
                cells.add(places)
                cells.present(0, fits)
            elif rc == 0:
                cells.present(count - fits, count)
                cells.add(places)
            if rc == 0:
                rc = pz_seq_rebuild(proc, store, cells.places, cells.count, &cells.bulk)
        pz_store_close(proc, shard)
        check(rc, self)
        self.tidy()

    def _items(self, start=None, stop=None, step=None):
        """(items of the slice, version), as at one moment."""
        if self.group is not None and self.grouped():
            return self.group.items(start, stop, step)
        return self._raw_items(start, stop, step)

    def _raw_items(self, start, stop, step):
        cdef pz_item **items = NULL
        cdef Py_ssize_t count = 0, i
        cdef pz_store *store = self.store()
        cdef list result = []
        cdef pz_shard *shard = self.open(False)
        cdef pz_item *copy = NULL
        cdef uint64_t version
        version = pz_load64(&shard.version)
        cdef int rc = copy_items(store, True, &count, &copy, &items)
        pz_store_close(proc, shard)
        try:
            check(rc, self)
            for i in range(count)[slice(start, stop, step)]:
                result.append(item_value(items[i]))
        finally:
            drop_items(items, 0, count)
            PyMem_Free(copy)
            PyMem_Free(items)
        return result, version

    def _commit(self, list order):
        """Ends a group: the new order, of indexes of present items and of prepared values."""
        cdef Cells cells = Cells.__new__(Cells)
        cdef list places = cells.make([one for one in order if type(one) is not int], self)
        cdef Py_ssize_t next_new = 0
        cdef int rc
        check(cells.begin(len(order)), self)
        for one in order:
            if type(one) is int:
                cells.present(one, one + 1)
            else:
                cells.places[cells.count] = places[next_new]
                cells.count += 1
                next_new += 1
        cdef pz_shard *shard = self.open(False)
        rc = pz_seq_rebuild(proc, self.store(), cells.places, cells.count, &cells.bulk)
        pz_store_close(proc, shard)
        check(rc, self)
        self.tidy()

    def _replace(self, uint64_t version, start, stop, step, values):
        """Slice assignment (`values` a list) or deletion (None); -> False: the version is another by now.

        Version 0: whatever it is. ValueError: an extended slice, and another number of values. IndexError: a deque that
        would have too many items.
        """
        if self.group is not None and self.grouped():
            return self.group.replace(start, stop, step, values)
        cdef Cells cells = Cells.__new__(Cells)
        cdef pz_store *store = self.store()
        cdef Py_ssize_t first, end, stride, chosen = 0, count, i
        cdef int rc = 0
        cdef bint changed = False, fits = True
        cdef list places = cells.make(prepare_all(values, self), self) if values else []
        cdef Py_ssize_t new = len(places)
        PySlice_Unpack(slice(start, stop, step), &first, &end, &stride)
        # Nothing in the lock may run the garbage collector: its finalisers would find this lock taken, by ourselves.
        cdef pz_shard *shard = self.open()
        count = <Py_ssize_t>pz_store_count(proc, store)
        if version and pz_load64(&shard.version) != version:
            changed = True
        else:
            chosen = PySlice_AdjustIndices(count, &first, &end, stride)
            fits = stride == 1 or values is None or chosen == new
        if fits and not changed:
            rc = cells.begin(count + new)
            if rc == 0 and stride == 1:
                cells.present(0, first)
                cells.add(places)
                cells.present(max(first, end), count)
            elif rc == 0:
                cells.present(0, count)
                for i in range(chosen):
                    cells.places[first + i * stride] = places[i] if new else 0
                if values is None:
                    cells.count = 0
                    for i in range(count):
                        if cells.places[i] != 0:
                            cells.places[cells.count] = cells.places[i]
                            cells.count += 1
            if rc == 0:
                rc = -NO_ROOM
                if cells.count <= store.most:
                    rc = pz_seq_rebuild(proc, store, cells.places, cells.count, &cells.bulk)
        pz_store_close(proc, shard)
        if changed:
            return False
        if not fits:
            raise ValueError(f"attempt to assign sequence of size {new} to extended slice of size {chosen}")
        if rc == -NO_ROOM:
            raise IndexError("deque already at its maximum size")
        check(rc, self)
        self.tidy()
        return True

    def _permute(self, uint64_t version, list order):
        """Puts item `order[i]` at i; -> False: the version is another by now. Each index must come once."""
        if self.group is not None and self.grouped():
            return self.group.permute(order)
        cdef Cells cells = Cells.__new__(Cells)
        cdef pz_store *store = self.store()
        cdef int rc
        if sorted(order) != list(range(len(order))):
            raise ValueError("not a permutation")
        check(cells.begin(len(order)), self)
        for index in order:
            cells.present(index, index + 1)
        cdef pz_shard *shard = self.open()
        if pz_load64(&shard.version) != version or pz_store_count(proc, store) != cells.count:
            pz_store_close(proc, shard)
            return False
        rc = pz_seq_rebuild(proc, store, cells.places, cells.count, &cells.bulk)
        pz_store_close(proc, shard)
        check(rc, self)
        return True

    cdef int turn(self, int64_t rotate, bint reverse) except -1:
        cdef Cells cells = Cells.__new__(Cells)
        cdef pz_store *store = self.store()
        cdef pz_shard *shard = self.open()
        cdef uint64_t count = pz_store_count(proc, store), i
        cdef int rc = 0
        if count:
            rc = cells.begin(count)
            rotate = rotate % <int64_t>count
            if rc == 0:
                cells.present(count - <uint64_t>rotate, count)
                cells.present(0, count - <uint64_t>rotate)
                if reverse:
                    for i in range(count):
                        cells.places[i] = -1 - <int64_t>(count - 1 - i)
                rc = pz_seq_rebuild(proc, store, cells.places, count, &cells.bulk)
        pz_store_close(proc, shard)
        check(rc, self)
        return 0

    def _reverse(self):
        if self.group is not None and self.grouped():
            return self.group.reverse()
        self.turn(0, True)

    def _rotate(self, int64_t steps):
        if self.group is not None and self.grouped():
            return self.group.rotate(steps)
        self.turn(steps, False)
