/* Items: conversion of every kind of value, and the atomic updates. See _items.h. */
#include "_items.h"

#include <math.h>

const uint8_t pz_item_size[PZ_ITEMS] = {0, 1, 1, 2, 2, 4, 4, 8, 8, 2, 4, 8, 1, 1, 4};

typedef __int128 wide; /* any sum of two 64-bit integers */

static bool is_integer(uint8_t code)
{
    return code >= PZ_ITEM_I8 && code <= PZ_ITEM_U64;
}

static bool is_float(uint8_t code)
{
    return code >= PZ_ITEM_F16 && code <= PZ_ITEM_F64;
}

static bool is_unsigned(uint8_t code)
{
    return code == PZ_ITEM_U8 || code == PZ_ITEM_U16 || code == PZ_ITEM_U32 || code == PZ_ITEM_U64;
}

/* ---- integers ---------------------------------------------------------------------------------------------------- */

static wide least(uint8_t code)
{
    return is_unsigned(code) ? 0 : -((wide)1 << (8 * pz_item_size[code] - 1));
}

static wide most(uint8_t code)
{
    return ((wide)1 << (8 * pz_item_size[code] - (is_unsigned(code) ? 0 : 1))) - 1;
}

static int out_of_range(uint8_t code, PyObject *value)
{
    const char *sign = is_unsigned(code) ? "an unsigned" : "a signed";
    unsigned bits = 8u * pz_item_size[code];
    if (is_unsigned(code))
        PyErr_Format(PyExc_OverflowError, "%S does not fit: %s %u-bit integer is from 0 to %llu", value, sign, bits,
                     (unsigned long long)most(code));
    else
        PyErr_Format(PyExc_OverflowError, "%S does not fit: %s %u-bit integer is from %lld to %lld", value, sign, bits,
                     (long long)least(code), (long long)most(code));
    return -1;
}

static int too_large(uint8_t code)
{
    PyObject *what = PyUnicode_FromString("an integer of more than 64 bits");
    if (what)
        out_of_range(code, what);
    Py_XDECREF(what);
    return -1;
}

static PyObject *from_wide(wide value)
{
    if (value >= INT64_MIN)
        return value < 0 ? PyLong_FromLongLong((long long)value) : PyLong_FromUnsignedLongLong((unsigned long long)value);
    PyObject *absolute = PyLong_FromUnsignedLongLong((unsigned long long)-value);
    PyObject *number = absolute ? PyNumber_Negative(absolute) : NULL;
    Py_XDECREF(absolute);
    return number;
}

/* Any integer of up to 64 bits and a sign. */
static int as_wide(uint8_t code, PyObject *value, wide *result)
{
    PyObject *number = PyNumber_Index(value);
    if (!number)
        return -1;
    int overflow;
    *result = PyLong_AsLongLongAndOverflow(number, &overflow);
    if (overflow) {
        PyObject *absolute = PyNumber_Absolute(number);
        unsigned long long big = absolute ? PyLong_AsUnsignedLongLong(absolute) : 0;
        Py_XDECREF(absolute);
        if (PyErr_Occurred()) {
            PyErr_Clear();
            Py_DECREF(number);
            return too_large(code);
        }
        *result = overflow > 0 ? (wide)big : -(wide)big;
    }
    Py_DECREF(number);
    return 0;
}

static wide wide_of(uint8_t code, uint64_t bits)
{
    switch (code) {
    case PZ_ITEM_I8:
        return (int8_t)bits;
    case PZ_ITEM_I16:
        return (int16_t)bits;
    case PZ_ITEM_I32:
        return (int32_t)bits;
    case PZ_ITEM_I64:
        return (int64_t)bits;
    default:
        return bits;
    }
}

static uint64_t mask(uint8_t code)
{
    return UINT64_MAX >> (64 - 8 * pz_item_size[code]);
}

/* ---- all kinds --------------------------------------------------------------------------------------------------- */

static int pack_float(uint8_t code, double number, uint64_t *bits)
{
    union {
        uint32_t bits;
        float number;
    } f32;
    char half[2];
    switch (code) {
    case PZ_ITEM_F16:
        if (PyFloat_Pack2(number, half, 1) < 0)
            return -1;
        *bits = (uint64_t)(uint8_t)half[0] | (uint64_t)(uint8_t)half[1] << 8;
        return 0;
    case PZ_ITEM_F32:
        f32.number = (float)number;
        if (isinf(f32.number) && !isinf(number)) {
            PyErr_SetString(PyExc_OverflowError, "float too large for a 32-bit float");
            return -1;
        }
        *bits = f32.bits;
        return 0;
    default:
        memcpy(bits, &number, 8);
        return 0;
    }
}

static double float_of(uint8_t code, uint64_t bits)
{
    union {
        uint32_t bits;
        float number;
    } f32;
    double number;
    char half[2];
    switch (code) {
    case PZ_ITEM_F16:
        half[0] = (char)bits;
        half[1] = (char)(bits >> 8);
        return PyFloat_Unpack2(half, 1);
    case PZ_ITEM_F32:
        f32.bits = (uint32_t)bits;
        return (double)f32.number;
    default:
        memcpy(&number, &bits, 8);
        return number;
    }
}

static int pack_text(PyObject *value, uint64_t *bits)
{
    if (!PyUnicode_Check(value)) {
        PyErr_Format(PyExc_TypeError, "a str of one character is needed, not %.200s", Py_TYPE(value)->tp_name);
        return -1;
    }
    if (PyUnicode_GetLength(value) != 1) {
        PyErr_Format(PyExc_TypeError, "a str of one character is needed, not one of %zd", PyUnicode_GetLength(value));
        return -1;
    }
    *bits = PyUnicode_ReadChar(value, 0);
    return 0;
}

static int pack_char(PyObject *value, uint64_t *bits)
{
    if (PyBytes_Check(value) && PyBytes_GET_SIZE(value) == 1)
        *bits = (uint8_t)PyBytes_AS_STRING(value)[0];
    else if (PyByteArray_Check(value) && PyByteArray_GET_SIZE(value) == 1)
        *bits = (uint8_t)PyByteArray_AS_STRING(value)[0];
    else {
        PyErr_Format(PyExc_TypeError, "bytes of length 1 are needed, not %.200R", value);
        return -1;
    }
    return 0;
}

int pz_item_pack(uint8_t code, PyObject *value, uint64_t *bits)
{
    if (is_integer(code)) {
        wide number;
        if (as_wide(code, value, &number) < 0)
            return -1;
        if (number < least(code) || number > most(code)) {
            PyObject *what = from_wide(number);
            if (what)
                out_of_range(code, what);
            Py_XDECREF(what);
            return -1;
        }
        *bits = (uint64_t)number & mask(code);
        return 0;
    }
    if (is_float(code)) {
        double number = PyFloat_AsDouble(value);
        return number == -1.0 && PyErr_Occurred() ? -1 : pack_float(code, number, bits);
    }
    if (code == PZ_ITEM_BOOL) {
        int truth = PyObject_IsTrue(value);
        *bits = truth > 0;
        return truth < 0 ? -1 : 0;
    }
    return code == PZ_ITEM_CHAR ? pack_char(value, bits) : pack_text(value, bits);
}

PyObject *pz_item_unpack(uint8_t code, uint64_t bits)
{
    if (is_integer(code))
        return from_wide(wide_of(code, bits));
    if (is_float(code)) {
        double number = float_of(code, bits);
        return number == -1.0 && PyErr_Occurred() ? NULL : PyFloat_FromDouble(number);
    }
    if (code == PZ_ITEM_BOOL)
        return PyBool_FromLong(bits != 0);
    if (code == PZ_ITEM_CHAR) {
        char byte = (char)bits;
        return PyBytes_FromStringAndSize(&byte, 1);
    }
    if (bits > 0x10ffff) { /* written through a view */
        PyErr_Format(PyExc_ValueError, "%llu is no character", (unsigned long long)bits);
        return NULL;
    }
    return PyUnicode_FromOrdinal((int)bits);
}

uint8_t pz_item_of_buffer(const Py_buffer *view)
{
    const char *format = view->format ? view->format : "B";
    if (*format == '@' || *format == '=' || *format == '<')
        format++; /* both machines that we run on have this byte order; the size is itemsize */
    if (!*format || format[1])
        return PZ_ITEM_NONE;
    static const struct {
        const char *letters;
        uint8_t codes[4]; /* by the logarithm of the size */
    } kinds[] = {
        {"bhilqn", {PZ_ITEM_I8, PZ_ITEM_I16, PZ_ITEM_I32, PZ_ITEM_I64}},
        {"BHILQNP", {PZ_ITEM_U8, PZ_ITEM_U16, PZ_ITEM_U32, PZ_ITEM_U64}},
        {"efd", {0, PZ_ITEM_F16, PZ_ITEM_F32, PZ_ITEM_F64}},
        {"?", {PZ_ITEM_BOOL, 0, 0, 0}},
        {"c", {PZ_ITEM_CHAR, 0, 0, 0}},
        {"uw", {0, 0, PZ_ITEM_TEXT, 0}},
    };
    unsigned log = view->itemsize == 1 ? 0 : view->itemsize == 2 ? 1 : view->itemsize == 4 ? 2 : view->itemsize == 8 ? 3 : 4;
    for (size_t i = 0; log < 4 && i < sizeof kinds / sizeof *kinds; i++)
        if (strchr(kinds[i].letters, *format))
            return kinds[i].codes[log];
    return PZ_ITEM_NONE;
}

/* ---- in shared memory -------------------------------------------------------------------------------------------- */

/* Between the byte order of the format and the machine's. */
static uint64_t ordered(uint64_t bits, unsigned size, bool swapped)
{
    if (!swapped)
        return bits;
    return __builtin_bswap64(bits) >> (64 - 8 * size);
}

static bool cas(void *at, unsigned size, uint64_t *old, uint64_t next)
{
    uint8_t o8 = (uint8_t)*old;
    uint16_t o16 = (uint16_t)*old;
    uint32_t o32 = (uint32_t)*old;
    bool done;
#define CAS(type, o) \
    done = __atomic_compare_exchange_n((type *)at, &o, (type)next, false, __ATOMIC_SEQ_CST, __ATOMIC_ACQUIRE); \
    *old = o;
    switch (size) {
    case 1:
        CAS(uint8_t, o8)
        break;
    case 2:
        CAS(uint16_t, o16)
        break;
    case 4:
        CAS(uint32_t, o32)
        break;
    default:
        done = __atomic_compare_exchange_n((uint64_t *)at, old, next, false, __ATOMIC_SEQ_CST, __ATOMIC_ACQUIRE);
    }
#undef CAS
    return done;
}

PyObject *pz_item_get(const void *at, uint8_t code, bool swapped)
{
    unsigned size = pz_item_size[code];
    return pz_item_unpack(code, ordered(pz_bits_load(at, size), size, swapped));
}

int pz_item_set(void *at, uint8_t code, bool swapped, PyObject *value)
{
    unsigned size = pz_item_size[code];
    uint64_t bits;
    if (pz_item_pack(code, value, &bits) < 0)
        return -1;
    pz_bits_store(at, size, ordered(bits, size, swapped));
    return 0;
}

static PyObject *sum_out_of_range(uint8_t code, wide old, wide amount)
{
    PyObject *first = from_wide(old), *second = from_wide(amount);
    PyObject *what = first && second ? PyUnicode_FromFormat("%S + %S", first, second) : NULL;
    if (what)
        out_of_range(code, what);
    Py_XDECREF(first);
    Py_XDECREF(second);
    Py_XDECREF(what);
    return NULL;
}

PyObject *pz_item_add(void *at, uint8_t code, bool swapped, PyObject *amount)
{
    unsigned size = pz_item_size[code];
    wide number = 0;
    double real = 0;
    if (is_float(code)) {
        real = PyFloat_AsDouble(amount);
        if (real == -1.0 && PyErr_Occurred())
            return NULL;
    } else if (!is_integer(code)) {
        PyErr_SetString(PyExc_TypeError, "add() is for numbers");
        return NULL;
    } else if (as_wide(code, amount, &number) < 0) {
        return NULL;
    }
    uint64_t old = pz_bits_load(at, size), next;
    do {
        uint64_t bits = ordered(old, size, swapped);
        if (is_float(code)) {
            if (pack_float(code, float_of(code, bits) + real, &next) < 0)
                return NULL;
        } else {
            wide sum = wide_of(code, bits) + number;
            if (sum < least(code) || sum > most(code))
                return sum_out_of_range(code, wide_of(code, bits), number);
            next = (uint64_t)sum & mask(code);
        }
    } while (!cas(at, size, &old, ordered(next, size, swapped)));
    return pz_item_unpack(code, next);
}

PyObject *pz_item_exchange(void *at, uint8_t code, bool swapped, PyObject *value)
{
    unsigned size = pz_item_size[code];
    uint64_t bits;
    if (pz_item_pack(code, value, &bits) < 0)
        return NULL;
    uint64_t old = pz_bits_load(at, size);
    while (!cas(at, size, &old, ordered(bits, size, swapped)))
        ;
    return pz_item_unpack(code, ordered(old, size, swapped));
}

PyObject *pz_item_compare_exchange(void *at, uint8_t code, bool swapped, PyObject *expected, PyObject *value)
{
    unsigned size = pz_item_size[code];
    uint64_t old, bits;
    if (pz_item_pack(code, expected, &old) < 0 || pz_item_pack(code, value, &bits) < 0)
        return NULL;
    old = ordered(old, size, swapped);
    return PyBool_FromLong(cas(at, size, &old, ordered(bits, size, swapped)));
}
