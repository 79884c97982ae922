/* Containers: dict, set, namespace (hashed), list and deque (in sequence), of values that the binding has encoded.
 *
 *   pz_store ── first shard, or root ──▶ 16 shards        shard ── table ──▶ slots ──▶ cells (key, value)
 *                                                               └─ pool ───▶ chunks of memory for cells, free cells
 *
 * A new value is a new cell, and the old one goes to the free cells of its size; only a short value of the same size is
 * written over the old one. A shard has a robust lock for those who change it and a version for those who read: readers take no lock, copy
 * what they found and look whether the version is still the same and even.
 *
 * A change is a transaction. Its words are written to the shard's own journal before they are overwritten (the heap's
 * journal, inside the heap lock, if the change moves counted references or blocks), and emptying the journal commits.
 * Who takes the lock after a dead owner plays it back. Memory is taken before anything is changed.
 *
 * A hashed store starts with one shard and gets 16 as it grows, so that processes that write different keys rarely meet.
 * Each table keeps its entries in the order of insertion, as CPython's dict does; a number in the cell orders those of
 * different shards.
 *
 * Why not one lock for all, as for the heap: what is done here is frequent. Why not lock-free writers: two of them would
 * have to help each other finish, for what the journal gives in five lines.
 */
#ifndef PZ_STORE_H
#define PZ_STORE_H

#include "refs.h"
#include "sync.h"

#define PZ_SHARDS 16u
#define PZ_SHARD_UNDO 28u
#define PZ_KEY_MAX 16384u  /* bytes of an encoded key, */
#define PZ_VALUE_MAX 4096u /* and of a value in a cell; larger ones are objects of their own */
#define PZ_CELL_CLASSES 44u
#define PZ_ITEM_OBJECT 1u /* flags: the value is an object, by reference; */
#define PZ_ITEM_REMOVE 2u /* in a batch: the key is to be removed */

enum pz_form { PZ_FORM_DICT = 1, PZ_FORM_SET, PZ_FORM_NAMESPACE, PZ_FORM_LIST, PZ_FORM_DEQUE };

typedef struct pz_shard {
    _Alignas(PZ_LINE) pz_u32 lock;
    pz_u32 journal;
    pz_u64 version; /* odd while it is being changed */
    pz_u64 table;   /* offset of its table, and the log2 of the table's slots; 0: none yet */
    pz_u64 counts;  /* items, and above them (hashed) entries used, (sequence) place of the first item */
    uint64_t pool;
    uint64_t dead; /* a block that lists cells that are still to be freed */
    pz_u32 repairs, waits;
    pz_undo undo[PZ_SHARD_UNDO];
} pz_shard;
_Static_assert(sizeof(pz_shard) == 512, "a shard is eight cache lines");

typedef struct pz_store { /* PZ_STORE */
    pz_block block;
    uint64_t none;
    char name[PZ_NAME];
    uint32_t form;
    uint32_t objects; /* some value is, or was, an object */
    uint64_t most;    /* items of a deque; UINT64_MAX: any number */
    pz_u64 order;     /* insertions so far */
    pz_u64 root;      /* the block with the shards, 0 as long as there is only the first */
    uint64_t pending; /* the same just before it is root */
    uint64_t trash;   /* a block that lists tables and pools that are still to be freed */
    uint64_t batch;   /* a block that lists cells that are still to be put in: a group that has been committed */
    uint64_t bulk;    /* bytes of chunks that came with groups and slices since it was compacted */
    pz_u32 gate;      /* a mutex: somebody has a group of changes, others wait with theirs */
    pz_u64 retries;   /* reads that had to start again */
    pz_shard first;
} pz_store;

/* A key as the binding has encoded it: equal keys have equal type and bytes. `extra` is the key as it was given where
 * that cannot be told from the bytes (True, which is 1). */
typedef struct pz_key {
    uint64_t hash;
    const void *data, *extra;
    uint32_t length, extra_length;
    uint8_t type;
} pz_key;

/* A value on its way in: bytes, or an object that this process holds a reference to. */
typedef struct pz_value_in {
    const void *data;
    uint32_t length, gen;
    uint64_t object;
    uint8_t type;
} pz_value_in;

/* A value on its way out: a copy of its bytes, or where the object is. */
typedef struct pz_value_out {
    uint64_t stamp; /* version of the item: never the same twice for one key */
    uint64_t object;
    uint32_t gen, length;
    uint8_t type;
    bool opened; /* `ref` is a reference to the object that is the caller's */
    pz_ref ref;
    uint8_t bytes[PZ_VALUE_MAX];
} pz_value_out;

typedef struct pz_item {
    uint64_t order; /* of insertion; in a free cell: the next free one */
    uint64_t stamp;
    uint32_t hash;
    uint16_t key_length, extra_length;
    uint32_t value_length;
    uint8_t klass, key_type, value_type, flags;
    uint8_t data[]; /* key, extra, value */
} pz_item;
_Static_assert(sizeof(pz_item) == 32, "the head of a cell is 32 bytes");

typedef struct pz_item_object {
    uint64_t object;
    uint32_t gen, unused;
} pz_item_object;

static inline uint8_t *pz_item_value(pz_item *cell)
{
    return cell->data + cell->key_length + cell->extra_length;
}

int pz_store_new(pz_proc *proc, enum pz_form form, uint64_t most, pz_ref *ref);
/* Items: inside the locks; */
uint64_t pz_store_count(const pz_proc *proc, const pz_store *store);
/* without: 0, or -EBUSY, it is being changed for too long. */
int pz_store_count_read(const pz_proc *proc, const pz_store *store, uint64_t *count);
uint64_t pz_hash(const pz_proc *proc, uint8_t type, const void *data, uint32_t length);

/* ---- locks: between open and close of a shard the caller holds the GIL (or its like) all the time ------------------ */

/* The shard of a hash, locked, to `change` it or to look. 0, or -EBUSY: wait with pz_store_await for what is left in
 * *shard (0, -EINTR, -ETIMEDOUT) and try again. */
int pz_store_retry(pz_proc *proc, pz_store *store, uint64_t hash, bool change, pz_wait *wait, pz_shard **shard);
/* NULL: for the end of somebody's group. */
int pz_store_await(pz_proc *proc, pz_store *store, pz_shard *shard, pz_wait *wait);
/* Unlocks; then destroys objects that lost their last reference. */
void pz_store_close(pz_proc *proc, pz_shard *shard);
/* All shards, for snapshots, clear and groups; none of them after -EBUSY: *shard says for what to wait. */
int pz_store_lock_all(pz_proc *proc, pz_store *store, bool change, pz_wait *wait, pz_shard **shard);
void pz_store_unlock_all(pz_proc *proc, pz_store *store);
/* Empties the store; inside pz_store_lock_all. */
int pz_store_clear(pz_proc *proc, pz_store *store);
/* True if nothing is in it, but much memory: it may be cleared. For a shard just closed, as a hint: it looks empty. */
bool pz_store_is_hollow(const pz_proc *proc, const pz_store *store);
static inline bool pz_shard_is_empty(const pz_shard *shard)
{
    return (uint32_t)pz_peek(&shard->counts) == 0;
}
/* True if much memory came with groups and slices, whose free cells the next ones do not use: it may be compacted. */
bool pz_store_is_bulky(const pz_proc *proc, const pz_store *store);
/* Inside pz_store_lock_all: copies all cells into one new chunk. -ENOMEM: nothing has changed. */
int pz_store_compact(pz_proc *proc, pz_store *store);
/* Frees what a clear or compacting took out; outside of all locks. */
void pz_store_sweep(pz_proc *proc, pz_store *store);

/* A group of changes: from begin to end nobody else changes the store. 0, or -EBUSY as above. What the
 * group changes is committed with pz_dict_commit or pz_seq_rebuild; who dies in between has changed nothing. */
int pz_group_begin(pz_proc *proc, pz_store *store, pz_wait *wait, pz_shard **shard);
void pz_group_end(pz_proc *proc, pz_store *store);

/* Inside the locks: the next item from *entry on (in the order of the table), or NULL. */
pz_item *pz_store_walk(pz_proc *proc, pz_store *store, uint32_t shard, uint64_t *entry);
uint32_t pz_store_shards(const pz_store *store);
pz_shard *pz_store_number(const pz_proc *proc, pz_store *store, uint32_t number);
/* Bytes of the arena that it takes, without the objects among its values. */
uint64_t pz_store_bytes(const pz_proc *proc, const pz_store *store);

/* Many values at once, made outside of any lock: a chunk with a cell for each. */
typedef struct pz_bulk {
    uint64_t chunk, place, end; /* offsets; 0: nothing */
    uint64_t count;
} pz_bulk;
int pz_bulk_new(pz_proc *proc, uint64_t bytes, uint32_t objects, pz_bulk *bulk);
/* Room for a cell with so many bytes of key, extra and value. */
static inline uint64_t pz_bulk_bytes(uint64_t length)
{
    return ((uint64_t)sizeof(pz_item) + length + length / 4 + 63) & ~UINT64_C(15); /* at least the cell's class */
}
/* Adds a value, for hashed stores with its key; *cell is its place. No value: the key is to be removed. -ESTALE: the
 * object is gone. */
int pz_bulk_add(pz_proc *proc, pz_bulk *bulk, const pz_key *key, const pz_value_in *value, uint64_t *cell);
void pz_bulk_drop(pz_proc *proc, pz_bulk *bulk);

/* ---- hashed stores ------------------------------------------------------------------------------------------------ */

/* Without a lock: 1 found, 0 not there, -EBUSY: it is being changed for too long, use pz_dict_look. */
int pz_dict_read(pz_proc *proc, pz_store *store, const pz_key *key, pz_value_out *out);
/* The rest inside the lock of the key's shard. 1 found, 0 not there. */
int pz_dict_look(pz_proc *proc, pz_store *store, pz_shard *shard, const pz_key *key, pz_value_out *out);
/* The item of a key, as it lies there; NULL. */
const pz_item *pz_dict_item(pz_proc *proc, pz_shard *shard, const pz_key *key);
/* Stores: 1 the key is new, 0 a value was replaced; -ENOMEM, -ESTALE (the object is gone): nothing has changed; -EAGAIN:
 * the store has got more shards, open again. */
int pz_dict_put(pz_proc *proc, pz_store *store, pz_shard *shard, const pz_key *key, const pz_value_in *value);
/* Removes: 1, or 0 not there. `out` (may be NULL) gets the value, an object with a reference; -ENOMEM for that. */
int pz_dict_take(pz_proc *proc, pz_store *store, pz_shard *shard, const pz_key *key, pz_value_out *out);
/* Inside pz_store_lock_all: removes the item that was inserted last. The key is given as its cell, copied to `cell` (room
 * for `room` bytes; -ENOBUFS: *need says how much is wanted). 1, or 0 empty. */
int pz_dict_take_last(pz_proc *proc, pz_store *store, pz_item *cell, uint64_t room, uint64_t *need, pz_ref *object);

/* Inside pz_store_lock_all: puts `count` cells of the bulk in and takes out what they say: for readers all at once, and
 * after a death none or all. 0, -ENOMEM (nothing has changed). The bulk belongs to the store then. */
int pz_dict_commit(pz_proc *proc, pz_store *store, const int64_t *cells, uint64_t count, pz_bulk *bulk);

/* ---- sequences: inside the lock, but for pz_seq_read --------------------------------------------------------------- */

/* Without a lock; as pz_dict_read; `index` may be negative, 0: out of range. */
int pz_seq_read(pz_proc *proc, pz_store *store, int64_t index, pz_value_out *out);
int pz_seq_look(pz_proc *proc, pz_store *store, int64_t index, pz_value_out *out);
/* 0; -ERANGE, -ENOMEM */
int pz_seq_set(pz_proc *proc, pz_store *store, int64_t index, const pz_value_in *value);
/* Inserts before `index`, 0 <= index <= count. A full deque loses the item at the other end. */
int pz_seq_insert(pz_proc *proc, pz_store *store, uint64_t index, const pz_value_in *value);
int pz_seq_take(pz_proc *proc, pz_store *store, int64_t index, pz_value_out *out);

/* Adds the cells of the bulk, `count` places, at the right end. 0, -ENOMEM. The bulk belongs to the store then. */
int pz_seq_extend(pz_proc *proc, pz_store *store, const int64_t *cells, uint64_t count, pz_bulk *bulk);
/* Puts another list of cells in place of the present one: `cells` (count of them) are cells of the bulk, or places of
 * present items, negative: -1 - index. Items that are not mentioned go. The bulk belongs to the store then. */
int pz_seq_rebuild(pz_proc *proc, pz_store *store, const int64_t *cells, uint64_t count, pz_bulk *bulk);

/* 0, or a negative errno that says which invariant is broken; inside pz_store_lock_all. */
int pz_store_valid(pz_proc *proc, pz_store *store);

#endif
