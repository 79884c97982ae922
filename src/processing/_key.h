/* How keys of shared dicts and sets lie in memory: equal keys have the same type and the same bytes.
 *
 * Exact builtins are done here; what needs more thought (tuples, subclasses, large numbers, everything else) by keys.py.
 * Where the key as it was given cannot be told from the bytes (True and 1.0 are the key 1) it is kept beside them
 * (`extra`: a type and what pz_decode or pickle understands).
 */
#ifndef PROCESSING_KEY_H
#define PROCESSING_KEY_H

#include "_encode.h"

#include "pz/store.h"

enum pz_key_type { PZ_KEY_LARGE_INT = 32 /* two's complement, little end first */, PZ_KEY_TUPLE = 33 };

typedef struct pz_quick_key {
    pz_key key;
    pz_encoded encoded;
    uint8_t extra[16];
} pz_quick_key;

/* 1: done, `out` holds until the object goes or `out` moves. 0: ask keys.py. */
static inline int pz_encode_key(const pz_proc *proc, PyObject *o, pz_quick_key *out)
{
    pz_key *key = &out->key;
    PyTypeObject *type = Py_TYPE(o);
    key->extra = out->extra;
    key->extra_length = 0;
    if (type == &PyFloat_Type) {
        double real = PyFloat_AS_DOUBLE(o);
        if (real >= -9.2e18 && real <= 9.2e18 && real == (double)(int64_t)real) {
            out->encoded.value.integer = (int64_t)real;
            out->extra[0] = PZ_VALUE_FLOAT;
            memcpy(out->extra + 1, &real, sizeof real);
            key->extra_length = 1 + sizeof real;
            key->type = PZ_VALUE_INT;
        } else if (real - real == 0 && (real > 9.2e18 || real < -9.2e18)) {
            return 0; /* equal to a large int */
        } else {
            out->encoded.value.real = real;
            key->type = PZ_VALUE_FLOAT;
        }
        key->data = &out->encoded.value;
        key->length = 8;
    } else if (type == &PyBool_Type) {
        out->encoded.value.integer = o == Py_True;
        out->extra[0] = o == Py_True ? PZ_VALUE_TRUE : PZ_VALUE_FALSE;
        key->extra_length = 1;
        key->data = &out->encoded.value;
        key->length = 8;
        key->type = PZ_VALUE_INT;
    } else {
        if (!pz_encode(o, &out->encoded) || out->encoded.length > (Py_ssize_t)PZ_KEY_MAX)
            return 0;
        key->data = out->encoded.data;
        key->length = (uint32_t)out->encoded.length;
        key->type = out->encoded.type;
    }
    key->hash = pz_hash(proc, key->type, key->data, key->length);
    return 1;
}

static inline int pz_by_order(const void *one, const void *other)
{
    uint64_t a = (*(pz_item *const *)one)->order, b = (*(pz_item *const *)other)->order;
    return a < b ? -1 : a > b;
}

#endif
