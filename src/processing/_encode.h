/* How values lie in a message: exact builtins as they are, everything else as a pickle. */
#ifndef PROCESSING_ENCODE_H
#define PROCESSING_ENCODE_H

#include "_handle.h"

enum pz_value {
    PZ_VALUE_NONE,
    PZ_VALUE_TRUE,
    PZ_VALUE_FALSE,
    PZ_VALUE_INT,   /* int64 */
    PZ_VALUE_FLOAT, /* double */
    PZ_VALUE_ASCII,
    PZ_VALUE_UCS1,
    PZ_VALUE_UCS2,
    PZ_VALUE_UCS4,
    PZ_VALUE_BYTES,
    PZ_VALUE_PICKLE,
    PZ_VALUE_RAW,     /* bytes that the user sent as such */
    PZ_VALUE_BUFFERS, /* a pickle with buffers out of band; always a parcel: pz_buffers */
};

typedef struct pz_encoded {
    const void *data;
    Py_ssize_t length;
    union {
        int64_t integer;
        double real;
    } value;
    uint8_t type;
} pz_encoded;

/* True if the object has an encoding of its own; the object must outlive `out`, and `out` must not move. */
static inline int pz_encode(PyObject *o, pz_encoded *out)
{
    PyTypeObject *type = Py_TYPE(o);
    out->data = &out->value;
    if (type == &PyUnicode_Type) {
        Py_ssize_t length = PyUnicode_GET_LENGTH(o);
        out->data = PyUnicode_DATA(o);
        out->length = length * PyUnicode_KIND(o);
        out->type = PyUnicode_IS_ASCII(o)                             ? PZ_VALUE_ASCII
                    : PyUnicode_KIND(o) == PyUnicode_1BYTE_KIND ? PZ_VALUE_UCS1
                    : PyUnicode_KIND(o) == PyUnicode_2BYTE_KIND ? PZ_VALUE_UCS2
                                                                : PZ_VALUE_UCS4;
        return 1;
    }
    if (type == &PyLong_Type) {
        int overflow;
        out->value.integer = PyLong_AsLongLongAndOverflow(o, &overflow);
        out->length = 8;
        out->type = PZ_VALUE_INT;
        return !overflow;
    }
    if (type == &PyBytes_Type) {
        out->data = PyBytes_AS_STRING(o);
        out->length = PyBytes_GET_SIZE(o);
        out->type = PZ_VALUE_BYTES;
        return 1;
    }
    if (type == &PyFloat_Type) {
        out->value.real = PyFloat_AS_DOUBLE(o);
        out->length = 8;
        out->type = PZ_VALUE_FLOAT;
        return 1;
    }
    out->length = 0;
    out->type = o == Py_None ? PZ_VALUE_NONE : o == Py_True ? PZ_VALUE_TRUE : PZ_VALUE_FALSE;
    return o == Py_None || o == Py_True || o == Py_False;
}

/* The value of a message that needs no unpickling; pickles and raw bytes come as bytes. */
static inline PyObject *pz_decode(uint8_t type, const void *data, Py_ssize_t length)
{
    int64_t integer;
    double real;
    PyObject *text;
    switch (type) {
    case PZ_VALUE_NONE:
        Py_RETURN_NONE;
    case PZ_VALUE_TRUE:
        Py_RETURN_TRUE;
    case PZ_VALUE_FALSE:
        Py_RETURN_FALSE;
    case PZ_VALUE_INT:
        memcpy(&integer, data, 8);
        return PyLong_FromLongLong(integer);
    case PZ_VALUE_FLOAT:
        memcpy(&real, data, 8);
        return PyFloat_FromDouble(real);
    case PZ_VALUE_ASCII:
        text = PyUnicode_New(length, 127);
        if (text)
            memcpy(PyUnicode_1BYTE_DATA(text), data, (size_t)length);
        return text;
    case PZ_VALUE_UCS1:
        return PyUnicode_FromKindAndData(PyUnicode_1BYTE_KIND, data, length);
    case PZ_VALUE_UCS2:
        return PyUnicode_FromKindAndData(PyUnicode_2BYTE_KIND, data, length / 2);
    case PZ_VALUE_UCS4:
        return PyUnicode_FromKindAndData(PyUnicode_4BYTE_KIND, data, length / 4);
    default:
        return PyBytes_FromStringAndSize(data, length);
    }
}

/* Head of the payload of a PZ_VALUE_BUFFERS; behind it `count` pairs (place, length) and the pickle. Places count from
 * the head and are multiples of 64. */
typedef struct pz_buffers {
    uint64_t count, pickle, pickle_length;
} pz_buffers;

#endif
