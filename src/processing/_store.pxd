# Values and keys of shared containers, for _dict.pyx and _sequence.pyx.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from processing.pz cimport *
from processing._message cimport pz_encoded

cdef extern from "pz/store.h" nogil:
    enum: PZ_KEY_MAX, PZ_VALUE_MAX, PZ_ITEM_OBJECT
    enum: PZ_FORM_DICT, PZ_FORM_SET, PZ_FORM_NAMESPACE, PZ_FORM_LIST, PZ_FORM_DEQUE
    ctypedef struct pz_shard:
        pz_u32 repairs, waits
        pz_u64 version
    ctypedef struct pz_store:
        uint32_t form
        uint64_t most
        pz_u64 retries, root
        pz_shard first
    ctypedef struct pz_key:
        uint64_t hash
        const void *data
        const void *extra
        uint32_t length, extra_length
        uint8_t type
    ctypedef struct pz_value_in:
        const void *data
        uint32_t length, gen
        uint64_t object
        uint8_t type
    ctypedef struct pz_value_out:
        uint64_t stamp, object
        uint32_t gen, length
        uint8_t type
        bint opened
        pz_ref ref
        uint8_t bytes[4096]
    ctypedef struct pz_item:
        uint64_t order, stamp
        uint16_t key_length, extra_length
        uint32_t value_length
        uint8_t key_type, value_type, flags
        uint8_t data[1]
    ctypedef struct pz_item_object:
        uint64_t object
        uint32_t gen
    ctypedef struct pz_bulk:
        uint64_t chunk
    uint8_t *pz_item_value(pz_item *)
    int pz_store_new(pz_proc *, int, uint64_t, pz_ref *)
    uint64_t pz_store_count(const pz_proc *, const pz_store *)
    int pz_store_count_read(const pz_proc *, const pz_store *, uint64_t *)
    uint64_t pz_hash(const pz_proc *, uint8_t, const void *, uint32_t)
    int pz_store_retry(pz_proc *, pz_store *, uint64_t, bint, pz_wait *, pz_shard **)
    int pz_store_await(pz_proc *, pz_store *, pz_shard *, pz_wait *)
    void pz_store_close(pz_proc *, pz_shard *)
    int pz_store_lock_all(pz_proc *, pz_store *, bint, pz_wait *, pz_shard **)
    int pz_group_begin(pz_proc *, pz_store *, pz_wait *, pz_shard **)
    void pz_group_end(pz_proc *, pz_store *)
    int pz_dict_commit(pz_proc *, pz_store *, const int64_t *, uint64_t, pz_bulk *)
    void pz_store_unlock_all(pz_proc *, pz_store *)
    int pz_store_clear(pz_proc *, pz_store *)
    bint pz_store_is_bulky(const pz_proc *, const pz_store *)
    int pz_store_compact(pz_proc *, pz_store *)
    bint pz_store_is_hollow(const pz_proc *, const pz_store *)
    bint pz_shard_is_empty(const pz_shard *)
    void pz_store_sweep(pz_proc *, pz_store *)
    pz_item *pz_store_walk(pz_proc *, pz_store *, uint32_t, uint64_t *)
    uint32_t pz_store_shards(const pz_store *)
    pz_shard *pz_store_number(const pz_proc *, pz_store *, uint32_t)
    uint64_t pz_store_bytes(const pz_proc *, const pz_store *)
    int pz_dict_read(pz_proc *, pz_store *, const pz_key *, pz_value_out *)
    int pz_dict_look(pz_proc *, pz_store *, pz_shard *, const pz_key *, pz_value_out *)
    const pz_item *pz_dict_item(pz_proc *, pz_shard *, const pz_key *)
    int pz_dict_put(pz_proc *, pz_store *, pz_shard *, const pz_key *, const pz_value_in *)
    int pz_dict_take(pz_proc *, pz_store *, pz_shard *, const pz_key *, pz_value_out *)
    int pz_dict_take_last(pz_proc *, pz_store *, pz_item *, uint64_t, uint64_t *, pz_ref *)
    int pz_seq_read(pz_proc *, pz_store *, int64_t, pz_value_out *)
    int pz_seq_look(pz_proc *, pz_store *, int64_t, pz_value_out *)
    int pz_seq_set(pz_proc *, pz_store *, int64_t, const pz_value_in *)
    int pz_seq_insert(pz_proc *, pz_store *, uint64_t, const pz_value_in *)
    int pz_seq_take(pz_proc *, pz_store *, int64_t, pz_value_out *)
    int pz_bulk_new(pz_proc *, uint64_t, uint32_t, pz_bulk *)
    uint64_t pz_bulk_bytes(uint64_t)
    int pz_bulk_add(pz_proc *, pz_bulk *, const pz_key *, const pz_value_in *, uint64_t *)
    void pz_bulk_drop(pz_proc *, pz_bulk *)
    int pz_seq_extend(pz_proc *, pz_store *, const int64_t *, uint64_t, pz_bulk *)
    int pz_seq_rebuild(pz_proc *, pz_store *, const int64_t *, uint64_t, pz_bulk *)


cdef class Prepared:
    """A value ready to be stored; keeps alive what `value` points to."""
    cdef object keep
    cdef pz_value_in value
    cdef pz_ref ref
    cdef bint owned


cdef class StoreBase(Handle):
    cdef object group  # of changes, if one is open (groups.py)
    cdef uint32_t gatekeeper  # PZ_OWNER of the process whose group that is
    cdef uint64_t count(self) except? 0xffffffffffffffff
    cdef int wait_for(self, pz_shard *busy, pz_wait *wait) except -1
    cdef int end_group(self) except -1
    cdef pz_store *store(self) except NULL
    cdef bint grouped(self)
    cdef int tidy(self) except -1
    cdef int emptied(self, const pz_shard *shard) except -1


cdef Prepared prepare(object value, object who)
cdef object load_value(object value, pz_encoded *encoded, pz_value_in *to, object who)
cdef object value_of(pz_value_out *out)
cdef bint is_same_object(const pz_value_out *out, uint64_t object, uint32_t gen)
cdef object value_from(uint8_t type, const void *data, Py_ssize_t length)
cdef object object_from(uint8_t type, uint64_t offset, uint32_t gen)
cdef int open_shard(StoreBase self, uint64_t hash, bint change, pz_shard **shard) except -1
cdef int lock_all(StoreBase self, bint change) except -1
cdef object new_store(cls, int form, uint64_t most)
cdef int copy_items(pz_store *store, bint open_objects, Py_ssize_t *count, pz_item **copy, pz_item ***items) noexcept
cdef object item_value(pz_item *item)
cdef void drop_items(pz_item **items, Py_ssize_t first, Py_ssize_t count) noexcept
