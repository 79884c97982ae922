/* The C side of SharedValue, SharedStruct and SharedArray: a handle that knows what it points to.
 *
 * `form` is 0 until the handle has looked at its object (pz_values_bind); `count` too, so that a first access to an array
 * fails its range check and comes to the slow path, which looks.
 */
#ifndef PROCESSING_VALUES_H
#define PROCESSING_VALUES_H

#include "_items.h"

enum { PZ_FORM_VALUE = 1, PZ_FORM_STRUCT, PZ_FORM_ARRAY };

typedef struct PzValues {
    PzHandle handle;
    Py_ssize_t count; /* items */
    uint32_t data;    /* where they are, from handle.at */
    uint8_t code;     /* enum pz_item; PZ_ITEM_NONE: a record, or of the other byte order */
    uint8_t size, form, swapped;
    PyObject *lock;         /* this process's handle of the RLock, once it was asked for */
    PyObject *pack, *unpack; /* of records: value -> bytes, bytes -> value */
} PzValues;

static inline pz_values *pz_values_of(const PzValues *self)
{
    return self->handle.at;
}
static inline void *pz_values_at(const PzValues *self, Py_ssize_t index)
{
    return (uint8_t *)self->handle.at + self->data + (size_t)index * self->size;
}

/* Looks at the object, if that was not done before; -1 with an exception if the handle is closed. */
int pz_values_bind(PzValues *self);
static inline int pz_values_need(PzValues *self)
{
    return PZ_LIKELY(self->handle.at && self->form) ? 0 : pz_values_bind(self);
}
/* A new object of a subclass of the type of this form; `blank`: its items are to be filled by the caller. */
PzValues *pz_values_make(PyTypeObject *cls, const pz_shape *shape, bool blank);

/* ---- SharedArray: many items at a time (_slices.c) ---- */
static inline char pz_typecode(PzValues *self)
{
    return pz_values_description(pz_values_of(self))[0];
}
PyObject *pz_items_list(PzValues *self, Py_ssize_t start, Py_ssize_t count, Py_ssize_t step);
PyObject *pz_items_bytes(PzValues *self, Py_ssize_t start, Py_ssize_t count, Py_ssize_t step);
PyObject *pz_items_frombytes(PzValues *self, PyObject *buffer);
PyObject *pz_array_type(void); /* array.array, borrowed */
PyObject *pz_slice_get(PzValues *self, PyObject *key);
int pz_slice_set(PzValues *self, PyObject *key, PyObject *values);

extern PyTypeObject pz_ValuesType, pz_SharedValueType, pz_SharedStructType, pz_SharedArrayType;
extern PyTypeObject pz_ArrayIteratorType;
extern PyMethodDef pz_values_functions[], pz_array_functions[];

#endif
