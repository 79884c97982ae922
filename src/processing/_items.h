/* One number, character or truth value of 1, 2, 4 or 8 aligned bytes in shared memory: each load and store is one atomic
 * access, so nobody ever sees half of it, and no lock is needed.
 *
 * The loads and stores here are what an element access of SharedArray and SharedValue.value cost; what converts anything
 * but a small int, and what fails, is in _items.c.
 */
#ifndef PROCESSING_ITEMS_H
#define PROCESSING_ITEMS_H

#include "_handle.h"
#include "pz/values.h"

/* How the bytes are read. Stored in the objects; values.py knows which letter of a format is which. */
enum pz_item {
    PZ_ITEM_NONE, /* none of these: a record, which the struct module reads */
    PZ_ITEM_I8,
    PZ_ITEM_U8,
    PZ_ITEM_I16,
    PZ_ITEM_U16,
    PZ_ITEM_I32,
    PZ_ITEM_U32,
    PZ_ITEM_I64,
    PZ_ITEM_U64,
    PZ_ITEM_F16,
    PZ_ITEM_F32,
    PZ_ITEM_F64,
    PZ_ITEM_BOOL,
    PZ_ITEM_CHAR, /* one byte, as bytes */
    PZ_ITEM_TEXT, /* a character, as str */
    PZ_ITEMS
};

extern const uint8_t pz_item_size[PZ_ITEMS];

/* An item as the bits that are stored, in the byte order of this machine. -1 with an exception. */
int pz_item_pack(uint8_t code, PyObject *value, uint64_t *bits);
PyObject *pz_item_unpack(uint8_t code, uint64_t bits);
/* The code of the items of a buffer, PZ_ITEM_NONE if they are none of these. */
uint8_t pz_item_of_buffer(const Py_buffer *view);

/* For all codes, `swapped` being those of the other byte order. The new value; the old one; True if it was `expected`. */
PyObject *pz_item_add(void *at, uint8_t code, bool swapped, PyObject *amount);
PyObject *pz_item_exchange(void *at, uint8_t code, bool swapped, PyObject *value);
PyObject *pz_item_compare_exchange(void *at, uint8_t code, bool swapped, PyObject *expected, PyObject *value);
PyObject *pz_item_get(const void *at, uint8_t code, bool swapped);
int pz_item_set(void *at, uint8_t code, bool swapped, PyObject *value);

#define PZ_ITEM_LOAD(type, at) __atomic_load_n((const type *)(at), __ATOMIC_ACQUIRE)
#define PZ_ITEM_STORE(type, at, value) __atomic_store_n((type *)(at), (type)(value), __ATOMIC_RELEASE)

static inline uint64_t pz_bits_load(const void *at, unsigned size)
{
    switch (size) {
    case 1:
        return PZ_ITEM_LOAD(uint8_t, at);
    case 2:
        return PZ_ITEM_LOAD(uint16_t, at);
    case 4:
        return PZ_ITEM_LOAD(uint32_t, at);
    default:
        return PZ_ITEM_LOAD(uint64_t, at);
    }
}

static inline void pz_bits_store(void *at, unsigned size, uint64_t bits)
{
    switch (size) {
    case 1:
        PZ_ITEM_STORE(uint8_t, at, bits);
        break;
    case 2:
        PZ_ITEM_STORE(uint16_t, at, bits);
        break;
    case 4:
        PZ_ITEM_STORE(uint32_t, at, bits);
        break;
    default:
        PZ_ITEM_STORE(uint64_t, at, bits);
    }
}

static inline PyObject *pz_item_load(const void *at, uint8_t code)
{
    union {
        uint32_t bits;
        float number;
    } f32;
    union {
        uint64_t bits;
        double number;
    } f64;
    uint64_t big;
    switch (code) {
    case PZ_ITEM_I8:
        return PyLong_FromLong(PZ_ITEM_LOAD(int8_t, at));
    case PZ_ITEM_U8:
        return PyLong_FromLong(PZ_ITEM_LOAD(uint8_t, at));
    case PZ_ITEM_I16:
        return PyLong_FromLong(PZ_ITEM_LOAD(int16_t, at));
    case PZ_ITEM_U16:
        return PyLong_FromLong(PZ_ITEM_LOAD(uint16_t, at));
    case PZ_ITEM_I32:
        return PyLong_FromLong(PZ_ITEM_LOAD(int32_t, at));
    case PZ_ITEM_U32:
        return PyLong_FromLong((long)PZ_ITEM_LOAD(uint32_t, at));
    case PZ_ITEM_I64:
        return PyLong_FromLong((long)PZ_ITEM_LOAD(int64_t, at));
    case PZ_ITEM_U64:
        big = PZ_ITEM_LOAD(uint64_t, at);
        return big <= INT64_MAX ? PyLong_FromLong((long)big) : PyLong_FromUnsignedLong(big);
    case PZ_ITEM_F32:
        f32.bits = PZ_ITEM_LOAD(uint32_t, at);
        return PyFloat_FromDouble((double)f32.number);
    case PZ_ITEM_F64:
        f64.bits = PZ_ITEM_LOAD(uint64_t, at);
        return PyFloat_FromDouble(f64.number);
    default:
        return pz_item_get(at, code, false);
    }
}

/* The value of a small int; false for anything else. */
static inline bool pz_small_int(PyObject *object, long *value)
{
    if (PZ_UNLIKELY(!PyLong_CheckExact(object)))
        return false;
#if PY_VERSION_HEX >= 0x030C0000
    if (PZ_UNLIKELY(!PyUnstable_Long_IsCompact((PyLongObject *)object)))
        return false;
    *value = (long)PyUnstable_Long_CompactValue((PyLongObject *)object);
#else
    Py_ssize_t size = Py_SIZE(object);
    if (PZ_UNLIKELY(size < -1 || size > 1))
        return false;
    *value = (long)size * (long)((PyLongObject *)object)->ob_digit[0];
#endif
    return true;
}

static inline int pz_item_store(void *at, uint8_t code, PyObject *value)
{
    union {
        uint64_t bits;
        double number;
    } f64;
    long number;
    if (PZ_LIKELY(pz_small_int(value, &number))) {
        switch (code) {
        case PZ_ITEM_I8:
            if (number != (int8_t)number)
                break;
            PZ_ITEM_STORE(int8_t, at, number);
            return 0;
        case PZ_ITEM_U8:
            if (number != (uint8_t)number)
                break;
            PZ_ITEM_STORE(uint8_t, at, number);
            return 0;
        case PZ_ITEM_I16:
            if (number != (int16_t)number)
                break;
            PZ_ITEM_STORE(int16_t, at, number);
            return 0;
        case PZ_ITEM_U16:
            if (number != (uint16_t)number)
                break;
            PZ_ITEM_STORE(uint16_t, at, number);
            return 0;
        case PZ_ITEM_I32:
            if (number != (int32_t)number)
                break;
            PZ_ITEM_STORE(int32_t, at, number);
            return 0;
        case PZ_ITEM_U32:
            if (number != (uint32_t)number)
                break;
            PZ_ITEM_STORE(uint32_t, at, number);
            return 0;
        case PZ_ITEM_I64:
            PZ_ITEM_STORE(int64_t, at, number);
            return 0;
        case PZ_ITEM_U64:
            if (number < 0)
                break;
            PZ_ITEM_STORE(uint64_t, at, number);
            return 0;
        case PZ_ITEM_F64:
            f64.number = (double)number;
            PZ_ITEM_STORE(uint64_t, at, f64.bits);
            return 0;
        default:
            break;
        }
    } else if (code == PZ_ITEM_F64 && PyFloat_CheckExact(value)) {
        f64.number = PyFloat_AS_DOUBLE(value);
        PZ_ITEM_STORE(uint64_t, at, f64.bits);
        return 0;
    }
    return pz_item_set(at, code, false, value);
}

#endif
