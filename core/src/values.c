/* Values. See values.h. */
#include "pz/values.h"

#include <string.h>

#include "pz/destroy.h"

#define TRIES 64

/* ---- making ------------------------------------------------------------------------------------------------------ */

static uint64_t up(uint64_t size, uint64_t unit)
{
    return (size + unit - 1) & ~(unit - 1);
}

/* Where the data begin, and the bytes of the whole object; 0 if there is no such number. */
static uint64_t measure(const pz_shape *shape, uint64_t *data)
{
    uint64_t bytes;
    *data = up(sizeof(pz_values) + shape->described, PZ_LINE);
    if (*data > UINT32_MAX || __builtin_mul_overflow(shape->item, shape->count, &bytes) || bytes > UINT64_MAX / 4)
        return 0;
    bytes = up(bytes ? bytes : 1, 8);
    if (shape->count == 1 && shape->item > 8)
        bytes = 2 * up(bytes, PZ_LINE);
    return *data + bytes;
}

static void describe(pz_values *values, const pz_shape *shape, uint64_t data)
{
    values->described = shape->described;
    values->item = shape->item;
    values->count = shape->count;
    values->data = (uint32_t)data;
    values->form = shape->form;
    values->code = shape->code;
    values->swapped = shape->swapped;
    memcpy(pz_values_description(values), shape->description, shape->described);
}

int pz_values_draft(pz_proc *proc, const pz_shape *shape, bool blank, uint64_t *draft)
{
    uint64_t data, size = measure(shape, &data);
    if (size == 0)
        return -ENOMEM;
    int rc = pz_object_draft(proc, size, (blank ? data : size) - sizeof(pz_block), draft);
    if (rc == 0)
        describe(pz_at(proc, *draft), shape, data);
    return rc;
}

int pz_values_finish(pz_proc *proc, uint64_t draft, pz_ref *ref)
{
    return pz_object_finish(proc, draft, PZ_VALUES, ref);
}

int pz_values_new(pz_proc *proc, const pz_shape *shape, pz_ref *ref)
{
    uint64_t data, draft, size = measure(shape, &data);
    if (size == 0)
        return -ENOMEM;
    int rc;
    if (size <= PZ_VALUES_SMALL) {
        rc = pz_object_new(proc, size, PZ_VALUES, ref);
        if (rc == 0)
            describe(pz_at(proc, ref->offset), shape, data);
        return rc;
    }
    rc = pz_values_draft(proc, shape, false, &draft);
    if (rc == 0) {
        rc = pz_values_finish(proc, draft, ref);
        if (rc < 0)
            pz_block_free(proc, draft);
    }
    return rc;
}

/* ---- records ----------------------------------------------------------------------------------------------------- */

static pz_u64 *copy_at(pz_values *values, uint64_t version)
{
    uint8_t *data = pz_values_data(values);
    return (pz_u64 *)(data + (version & 1 ? up(values->item, PZ_LINE) : 0));
}

/* Word by word, and each with its order: what a reader finds of the write after the next makes the version of the next
 * visible to it (SYNC POINT: the stores in put_words, and that of `version` before them). */
static void get_words(pz_u64 *from, uint8_t *to, uint64_t size)
{
    uint64_t word, i = 0;
    for (; i + 8 <= size; i += 8) {
        word = pz_load(&from[i / 8]);
        memcpy(to + i, &word, 8);
    }
    if (i < size) {
        word = pz_load(&from[i / 8]);
        memcpy(to + i, &word, size - i);
    }
}

static void put_words(pz_u64 *to, const uint8_t *from, uint64_t size)
{
    uint64_t word, i = 0;
    for (; i + 8 <= size; i += 8) {
        memcpy(&word, from + i, 8);
        pz_store(&to[i / 8], word);
    }
    if (i < size) {
        word = 0;
        memcpy(&word, from + i, size - i);
        pz_store(&to[i / 8], word);
    }
}

int pz_values_read(pz_values *values, void *record)
{
    if (!pz_values_twice(values)) {
        get_words(pz_values_data(values), record, values->item);
        return 0;
    }
    for (int i = 0; i < TRIES; i++) {
        uint64_t version = pz_load(&values->version);
        get_words(copy_at(values, version), record, values->item);
        if (PZ_LIKELY(pz_load(&values->version) == version))
            return 0;
        pz_relax();
    }
    return -EAGAIN;
}

void pz_values_copy(pz_values *values, void *record)
{
    get_words(copy_at(values, pz_load(&values->version)), record, values->item);
}

void pz_values_write(pz_values *values, const void *record)
{
    if (!pz_values_twice(values)) {
        put_words(pz_values_data(values), record, values->item);
        return;
    }
    uint64_t next = pz_peek(&values->version) + 1;
    put_words(copy_at(values, next), record, values->item);
    PZ_ORDER();
    pz_store(&values->version, next);
}

int pz_values_retry(pz_proc *proc, pz_values *values, const pz_wait *wait)
{
    int rc = pz_mutex_retry(proc, &values->mutex, wait);
    if (PZ_UNLIKELY(rc == 1)) {
        pz_poke(&values->deaths, pz_peek(&values->deaths) + 1);
        return 0;
    }
    return rc;
}

/* ---- the user's lock --------------------------------------------------------------------------------------------- */

int pz_values_set_lock(pz_proc *proc, pz_values *values, uint64_t offset, uint32_t gen)
{
    pz_heap_lock(proc);
    pz_block *lock = pz_block_find(proc, offset, gen);
    int rc = values->lock ? -EEXIST : !lock || lock->refs == 0 || lock->kind != PZ_RLOCK ? -ESTALE : 0;
    if (rc == 0) {
        pz_tx(proc, values->lock);
        pz_tx(proc, values->lock_gen);
        pz_tx(proc, lock->refs);
        values->lock = offset;
        values->lock_gen = gen;
        lock->refs++;
    }
    pz_heap_unlock(proc);
    return rc;
}

void pz_values_get_lock(pz_proc *proc, pz_values *values, uint64_t *offset, uint32_t *gen)
{
    pz_heap_lock(proc); /* a dead process's half-made one is undone by that */
    *offset = values->lock;
    *gen = values->lock ? values->lock_gen : 0;
    pz_heap_unlock(proc);
}

void pz_values_drop(pz_proc *proc, pz_block *block)
{
    pz_values *values = (pz_values *)block;
    if (values->lock == 0)
        return;
    pz_block *lock = pz_block_at(proc, values->lock);
    pz_tx(proc, values->lock);
    values->lock = 0;
    pz_unref(proc, lock);
    pz_tx_commit(proc);
}
