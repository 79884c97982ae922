/* SharedArray without its slow parts: an array of fixed length whose items are read and written atomically, one by one.
 *
 * What takes or gives several items (_slices.c) goes through them one after the other without a lock: each is whole, but
 * others may write between two of them; the lock of the array is for who minds.
 */
#include "_values.h"

#define proc pz_program

/* ---- one item ---------------------------------------------------------------------------------------------------- */

PZ_COLD static void *bad_index(PzValues *self, const char *what)
{
    if (pz_values_need(self) == 0)
        PyErr_Format(PyExc_IndexError, "SharedArray %sindex out of range", what);
    return NULL;
}

/* The place of an item; NULL with an IndexError. */
static inline void *item_at(PzValues *self, Py_ssize_t index, const char *what)
{
    if (PZ_UNLIKELY(!self->handle.at || !self->form) && pz_values_bind(self) < 0)
        return NULL;
    if (index < 0)
        index += self->count;
    if (PZ_UNLIKELY((size_t)index >= (size_t)self->count))
        return bad_index(self, what);
    return pz_values_at(self, index);
}

static void *item_of(PzValues *self, PyObject *key, const char *what)
{
    Py_ssize_t index = PyNumber_AsSsize_t(key, PyExc_IndexError);
    if (index == -1 && PyErr_Occurred())
        return NULL;
    return item_at(self, index, what);
}

static PyObject *array_item(PzValues *self, Py_ssize_t index)
{
    void *at = item_at(self, index, "");
    return at ? pz_item_load(at, self->code) : NULL;
}

static Py_ssize_t array_length(PzValues *self)
{
    return pz_values_need(self) < 0 ? -1 : self->count;
}

/* ---- a[key] ------------------------------------------------------------------------------------------------------ */

PZ_COLD static PyObject *subscript_slow(PzValues *self, PyObject *key)
{
    if (PySlice_Check(key))
        return pz_slice_get(self, key);
    if (PyIndex_Check(key)) {
        void *at = item_of(self, key, "");
        return at ? pz_item_load(at, self->code) : NULL;
    }
    PyErr_Format(PyExc_TypeError, "SharedArray indices must be integers or slices, not %.200s", Py_TYPE(key)->tp_name);
    return NULL;
}

static PyObject *array_subscript(PzValues *self, PyObject *key)
{
    long index;
    if (PZ_LIKELY(pz_small_int(key, &index))) {
        index += index < 0 ? self->count : 0;
        if (PZ_LIKELY((size_t)index < (size_t)self->count && self->handle.at))
            return pz_item_load(pz_values_at(self, index), self->code);
    }
    return subscript_slow(self, key);
}

PZ_COLD static int ass_subscript_slow(PzValues *self, PyObject *key, PyObject *value)
{
    if (!value) {
        PyErr_SetString(PyExc_TypeError, "items of a SharedArray cannot be deleted: it has a fixed length");
        return -1;
    }
    if (PySlice_Check(key))
        return pz_values_need(self) < 0 ? -1 : pz_slice_set(self, key, value);
    if (PyIndex_Check(key)) {
        void *at = item_of(self, key, "assignment ");
        return at ? pz_item_store(at, self->code, value) : -1;
    }
    PyErr_Format(PyExc_TypeError, "SharedArray indices must be integers or slices, not %.200s", Py_TYPE(key)->tp_name);
    return -1;
}

static int array_ass_subscript(PzValues *self, PyObject *key, PyObject *value)
{
    long index;
    if (PZ_LIKELY(value && pz_small_int(key, &index))) {
        index += index < 0 ? self->count : 0;
        if (PZ_LIKELY((size_t)index < (size_t)self->count && self->handle.at))
            return pz_item_store(pz_values_at(self, index), self->code, value);
    }
    return ass_subscript_slow(self, key, value);
}

static int array_ass_item(PzValues *self, Py_ssize_t index, PyObject *value)
{
    void *at = item_at(self, index, "assignment ");
    if (at && !value) {
        PyErr_SetString(PyExc_TypeError, "items of a SharedArray cannot be deleted: it has a fixed length");
        return -1;
    }
    return at ? pz_item_store(at, self->code, value) : -1;
}

/* ---- looking for items ------------------------------------------------------------------------------------------- */

/* The first place from `start` on where the value is, -1 if there is none, -2 with an exception. */
static Py_ssize_t find(PzValues *self, PyObject *value, Py_ssize_t start, Py_ssize_t stop)
{
    for (Py_ssize_t i = start; i < stop && i < self->count; i++) {
        PyObject *item = array_item(self, i);
        int same = item ? PyObject_RichCompareBool(item, value, Py_EQ) : -1;
        Py_XDECREF(item);
        if (same != 0)
            return same < 0 ? -2 : i;
    }
    return -1;
}

static int array_contains(PzValues *self, PyObject *value)
{
    if (pz_values_need(self) < 0)
        return -1;
    Py_ssize_t place = find(self, value, 0, self->count);
    return place == -2 ? -1 : place >= 0;
}

static PyObject *array_count(PzValues *self, PyObject *value)
{
    if (pz_values_need(self) < 0)
        return NULL;
    Py_ssize_t count = 0, place = -1;
    while ((place = find(self, value, place + 1, self->count)) >= 0)
        count++;
    return place == -2 ? NULL : PyLong_FromSsize_t(count);
}

static PyObject *array_index(PzValues *self, PyObject *args)
{
    PyObject *value;
    Py_ssize_t start = 0, stop = PY_SSIZE_T_MAX;
    if (pz_values_need(self) < 0 || !PyArg_ParseTuple(args, "O|nn:index", &value, &start, &stop))
        return NULL;
    start = start < 0 ? start + self->count : start;
    stop = stop < 0 ? stop + self->count : stop;
    Py_ssize_t place = find(self, value, start < 0 ? 0 : start, stop);
    if (place == -1)
        PyErr_Format(PyExc_ValueError, "%R is not in the SharedArray", value);
    return place < 0 ? NULL : PyLong_FromSsize_t(place);
}

static PyObject *array_tolist(PzValues *self, PyObject *unused)
{
    (void)unused;
    return pz_values_need(self) < 0 ? NULL : pz_items_list(self, 0, self->count, 1);
}

/* As lists compare; with SharedArray, array.array, list, tuple and range. */
static PyObject *array_compare(PyObject *self, PyObject *other, int op)
{
    bool ours = PyObject_TypeCheck(other, &pz_SharedArrayType);
    if (!ours && !PyList_Check(other) && !PyTuple_Check(other) && !PyRange_Check(other)) {
        PyObject *type = pz_array_type();
        int is_array = type ? PyObject_IsInstance(other, type) : -1;
        if (is_array < 0)
            return NULL;
        if (!is_array)
            Py_RETURN_NOTIMPLEMENTED;
    }
    PyObject *left = array_tolist((PzValues *)self, NULL);
    PyObject *right = !left ? NULL : ours ? array_tolist((PzValues *)other, NULL) : PySequence_List(other);
    PyObject *result = right ? PyObject_RichCompare(left, right, op) : NULL;
    Py_XDECREF(left);
    Py_XDECREF(right);
    return result;
}

/* ---- iteration --------------------------------------------------------------------------------------------------- */

typedef struct iterator {
    PyObject_HEAD
    PzValues *array; /* NULL at the end */
    Py_ssize_t next, step;
} iterator;

static PyObject *iterate(PzValues *self, Py_ssize_t step)
{
    if (pz_values_need(self) < 0)
        return NULL;
    iterator *it = PyObject_New(iterator, &pz_ArrayIteratorType);
    if (!it)
        return NULL;
    it->array = (PzValues *)Py_NewRef((PyObject *)self);
    it->next = step > 0 ? 0 : self->count - 1;
    it->step = step;
    return (PyObject *)it;
}

static PyObject *array_iter(PzValues *self)
{
    return iterate(self, 1);
}

static PyObject *array_reversed(PzValues *self, PyObject *unused)
{
    (void)unused;
    return iterate(self, -1);
}

static void iterator_dealloc(iterator *self)
{
    Py_XDECREF(self->array);
    PyObject_Free(self);
}

static PyObject *iterator_next(iterator *self)
{
    PzValues *array = self->array;
    if (!array)
        return NULL;
    Py_ssize_t index = self->next;
    if ((size_t)index >= (size_t)array->count) {
        Py_CLEAR(self->array);
        return NULL;
    }
    self->next += self->step;
    return array_item(array, index);
}

static PyObject *iterator_hint(iterator *self, PyObject *unused)
{
    (void)unused;
    if (!self->array)
        return PyLong_FromLong(0);
    return PyLong_FromSsize_t(self->step > 0 ? self->array->count - self->next : self->next + 1);
}

static PyMethodDef iterator_methods[] = {
    {"__length_hint__", (PyCFunction)(void *)iterator_hint, METH_NOARGS, NULL}, {NULL, NULL, 0, NULL}};

PyTypeObject pz_ArrayIteratorType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "processing._native.SharedArrayIterator",
    .tp_basicsize = sizeof(iterator),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)iterator_dealloc,
    .tp_iter = PyObject_SelfIter,
    .tp_iternext = (iternextfunc)iterator_next,
    .tp_methods = iterator_methods,
};

/* ---- buffers ----------------------------------------------------------------------------------------------------- */

static int array_getbuffer(PzValues *self, Py_buffer *view, int flags)
{
    static char wide[] = "w"; /* what array.array too calls 'u' of 4 bytes */
    if (pz_values_need(self) < 0) {
        view->obj = NULL;
        return -1;
    }
    if (PyBuffer_FillInfo(view, (PyObject *)self, pz_values_at(self, 0), self->count * self->size, 0, flags) < 0)
        return -1;
    view->itemsize = self->size;
    if (flags & PyBUF_FORMAT) /* zeros follow the description: the data are aligned */
        view->format = pz_typecode(self) == 'u' ? wide : pz_values_description(pz_values_of(self));
    if (flags & PyBUF_ND)
        view->shape = &self->count; /* strides: FillInfo has made them those of the itemsize */
    self->handle.exports++;
    return 0;
}

static void array_releasebuffer(PzValues *self, Py_buffer *view)
{
    (void)view;
    self->handle.exports--;
}

static PyBufferProcs array_as_buffer = {(getbufferproc)array_getbuffer, (releasebufferproc)array_releasebuffer};

/* ---- updates in one step ----------------------------------------------------------------------------------------- */

static int arguments(const char *method, Py_ssize_t wanted, Py_ssize_t given)
{
    if (wanted != given)
        PyErr_Format(PyExc_TypeError, "%s() takes %zd arguments (%zd given)", method, wanted, given);
    return wanted == given ? 0 : -1;
}

static PyObject *array_add(PzValues *self, PyObject *const *args, Py_ssize_t count)
{
    void *at = arguments("add", 2, count) < 0 ? NULL : item_of(self, args[0], "");
    return at ? pz_item_add(at, self->code, false, args[1]) : NULL;
}

static PyObject *array_exchange(PzValues *self, PyObject *const *args, Py_ssize_t count)
{
    void *at = arguments("exchange", 2, count) < 0 ? NULL : item_of(self, args[0], "");
    return at ? pz_item_exchange(at, self->code, false, args[1]) : NULL;
}

static PyObject *array_compare_exchange(PzValues *self, PyObject *const *args, Py_ssize_t count)
{
    void *at = arguments("compare_exchange", 3, count) < 0 ? NULL : item_of(self, args[0], "");
    return at ? pz_item_compare_exchange(at, self->code, false, args[1], args[2]) : NULL;
}

/* ---- the type ---------------------------------------------------------------------------------------------------- */

static PyObject *array_tobytes(PzValues *self, PyObject *unused)
{
    (void)unused;
    return pz_values_need(self) < 0 ? NULL : pz_items_bytes(self, 0, self->count, 1);
}

static PyObject *array_buffer_info(PzValues *self, PyObject *unused)
{
    (void)unused;
    return pz_values_need(self) < 0 ? NULL : Py_BuildValue("(Nn)", PyLong_FromVoidPtr(pz_values_at(self, 0)), self->count);
}

static PyObject *array_get_typecode(PzValues *self, void *unused)
{
    (void)unused;
    return pz_values_need(self) < 0 ? NULL : PyUnicode_FromFormat("%c", pz_typecode(self));
}

static PyObject *array_get_itemsize(PzValues *self, void *unused)
{
    (void)unused;
    return pz_values_need(self) < 0 ? NULL : PyLong_FromLong(self->size);
}

static PyObject *array_get_nbytes(PzValues *self, void *unused)
{
    (void)unused;
    return pz_values_need(self) < 0 ? NULL : PyLong_FromSsize_t(self->count * self->size);
}

static PyMethodDef array_methods[] = {
    {"add", (PyCFunction)(void *)array_add, METH_FASTCALL,
     "add(index, amount) -> the new value\n\nAdds to an item in one step, so that no update of another process is lost. "
     "OverflowError, and nothing changed, if the sum does not fit."},
    {"exchange", (PyCFunction)(void *)array_exchange, METH_FASTCALL,
     "exchange(index, value) -> the value before\n\nStores an item; in one step."},
    {"compare_exchange", (PyCFunction)(void *)array_compare_exchange, METH_FASTCALL,
     "compare_exchange(index, expected, new) -> bool\n\nStores `new` if the item is `expected`; True if so. In one step; "
     "compared as it is stored, so 0.0 is not -0.0."},
    {"count", (PyCFunction)(void *)array_count, METH_O, "count(value) -> how often the value is in it."},
    {"index", (PyCFunction)(void *)array_index, METH_VARARGS,
     "index(value, start=0, stop=...) -> its first place. ValueError if it is not there."},
    {"tolist", (PyCFunction)(void *)array_tolist, METH_NOARGS, "tolist() -> a list of the items."},
    {"tobytes", (PyCFunction)(void *)array_tobytes, METH_NOARGS, "tobytes() -> the items as bytes of this machine."},
    {"frombytes", (PyCFunction)(void *)pz_items_frombytes, METH_O,
     "frombytes(buffer)\n\nStores bytes of this machine into all items; ValueError unless there are as many."},
    {"buffer_info", (PyCFunction)(void *)array_buffer_info, METH_NOARGS,
     "buffer_info() -> (address in this process, length)"},
    {"__reversed__", (PyCFunction)(void *)array_reversed, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL}};

static PyGetSetDef array_getset[] = {
    {"typecode", (getter)array_get_typecode, NULL, "The letter of the items' format.", NULL},
    {"itemsize", (getter)array_get_itemsize, NULL, "Bytes of an item.", NULL},
    {"nbytes", (getter)array_get_nbytes, NULL, "Bytes of all items.", NULL},
    {NULL, NULL, NULL, NULL, NULL}};

static PyMappingMethods array_as_mapping = {(lenfunc)array_length, (binaryfunc)array_subscript,
                                            (objobjargproc)array_ass_subscript};

static PySequenceMethods array_as_sequence = {
    .sq_length = (lenfunc)array_length,
    .sq_item = (ssizeargfunc)array_item,
    .sq_ass_item = (ssizeobjargproc)array_ass_item,
    .sq_contains = (objobjproc)array_contains,
};

PyTypeObject pz_SharedArrayType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "processing._native.SharedArray",
    .tp_doc = "An array of fixed length in the arena.",
    .tp_basicsize = sizeof(PzValues),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_SEQUENCE,
    .tp_base = &pz_ValuesType,
    .tp_as_mapping = &array_as_mapping,
    .tp_as_sequence = &array_as_sequence,
    .tp_as_buffer = &array_as_buffer,
    .tp_hash = PyObject_HashNotImplemented,
    .tp_richcompare = array_compare,
    .tp_iter = (getiterfunc)array_iter,
    .tp_methods = array_methods,
    .tp_getset = array_getset,
};
