/* Many items at a time: slices of a SharedArray, its lists and bytes, and what it is made from.
 *
 * New items are all converted into private memory before the first is stored, so a value that does not fit changes
 * nothing. Then they are stored one after the other, each with one atomic access.
 */
#include "_values.h"

#define proc pz_program

typedef struct run { /* items on their way in: private memory */
    uint8_t *data;
    Py_ssize_t count, room;
} run;

/* ---- one after the other ----------------------------------------------------------------------------------------- */

static inline void item_in(void *to, const uint8_t *from, unsigned size)
{
    uint64_t bits = 0; /* the low bytes come first on the machines that we run on */
    memcpy(&bits, from, size);
    pz_bits_store(to, size, bits);
}

static inline void item_out(uint8_t *to, const void *from, unsigned size)
{
    uint64_t bits = pz_bits_load(from, size);
    memcpy(to, &bits, size);
}

/* Neighbours go eight bytes at a time: an aligned word holds whole items. */
static void copy_in(PzValues *self, Py_ssize_t start, Py_ssize_t count, Py_ssize_t step, const uint8_t *from)
{
    unsigned size = self->size;
    Py_ssize_t i = 0;
    if (step == 1) {
        uint8_t *to = pz_values_at(self, start);
        for (; i < count && ((uintptr_t)to & 7); i++, to += size, from += size)
            item_in(to, from, size);
        for (Py_ssize_t items = 8 / size; i + items <= count; i += items, to += 8, from += 8)
            item_in(to, from, 8);
    }
    for (; i < count; i++, from += size)
        item_in(pz_values_at(self, start + i * step), from, size);
}

static void copy_out(PzValues *self, Py_ssize_t start, Py_ssize_t count, Py_ssize_t step, uint8_t *to)
{
    unsigned size = self->size;
    Py_ssize_t i = 0;
    if (step == 1) {
        const uint8_t *from = pz_values_at(self, start);
        for (; i < count && ((uintptr_t)from & 7); i++, to += size, from += size)
            item_out(to, from, size);
        for (Py_ssize_t items = 8 / size; i + items <= count; i += items, to += 8, from += 8)
            item_out(to, from, 8);
    }
    for (; i < count; i++, to += size)
        item_out(to, pz_values_at(self, start + i * step), size);
}

/* ---- many items, in -------------------------------------------------------------------------------------------- */

static int make_room(run *items, Py_ssize_t count, unsigned size)
{
    if (count <= items->room)
        return 0;
    Py_ssize_t room = items->room + items->room / 2;
    if (room < count)
        room = count;
    if (room > PY_SSIZE_T_MAX / (Py_ssize_t)size) {
        PyErr_NoMemory();
        return -1;
    }
    uint8_t *data = PyMem_Realloc(items->data, (size_t)room * size + 1);
    if (!data) {
        PyErr_NoMemory();
        return -1;
    }
    items->data = data;
    items->room = room;
    return 0;
}

static int append(run *items, uint8_t code, PyObject *value)
{
    unsigned size = pz_item_size[code];
    uint64_t bits;
    if (pz_item_pack(code, value, &bits) < 0 || make_room(items, items->count + 1, size) < 0)
        return -1;
    pz_bits_store(items->data + (size_t)items->count * size, size, bits);
    items->count++;
    return 0;
}

/* 1: taken as it is, 0: it is no buffer of such items. */
static int collect_buffer(run *items, uint8_t code, PyObject *values)
{
    bool raw = PyBytes_Check(values) || PyByteArray_Check(values);
    unsigned size = pz_item_size[code];
    Py_buffer view;
    if (!PyObject_CheckBuffer(values))
        return 0;
    if (PyObject_GetBuffer(values, &view, raw ? PyBUF_SIMPLE : PyBUF_FORMAT | PyBUF_C_CONTIGUOUS) < 0) {
        PyErr_Clear();
        return 0;
    }
    int rc = 0;
    if (raw && view.len % size) {
        PyErr_Format(PyExc_ValueError, "bytes length not a multiple of item size: %zd bytes, items of %u", view.len, size);
        rc = -1;
    } else if (raw || (view.ndim == 1 && pz_item_of_buffer(&view) == code)) {
        rc = make_room(items, view.len / size, size) < 0 ? -1 : 1;
        if (rc == 1) {
            memcpy(items->data, view.buf, (size_t)view.len);
            items->count = view.len / size;
        }
    }
    PyBuffer_Release(&view);
    return rc;
}

/* Converts everything, before anything is stored. The memory is the caller's to free, also after an exception. */
static int collect(run *items, uint8_t code, PyObject *values)
{
    int rc = collect_buffer(items, code, values);
    if (rc != 0)
        return rc < 0 ? -1 : 0;
    if (PyUnicode_Check(values) && code != PZ_ITEM_TEXT) {
        PyErr_SetString(PyExc_TypeError, "a str holds characters: typecode 'u' or 'w'");
        return -1;
    }
    Py_ssize_t hint = PyObject_LengthHint(values, 0);
    if (hint < 0 || make_room(items, hint < 1 << 24 ? hint : 1 << 24, pz_item_size[code]) < 0)
        return -1;
    PyObject *iterator = PyObject_GetIter(values), *value;
    if (!iterator)
        return -1;
    while ((value = PyIter_Next(iterator))) {
        rc = append(items, code, value);
        Py_DECREF(value);
        if (rc < 0)
            break;
    }
    Py_DECREF(iterator);
    return PyErr_Occurred() ? -1 : 0;
}

int pz_slice_set(PzValues *self, PyObject *key, PyObject *values)
{
    run items = {NULL, 0, 0};
    Py_ssize_t start, stop, step, count;
    int rc = collect(&items, self->code, values);
    if (rc == 0 && (rc = pz_values_need(self)) == 0 && (rc = PySlice_Unpack(key, &start, &stop, &step)) == 0) {
        count = PySlice_AdjustIndices(self->count, &start, &stop, step);
        if (count == items.count) {
            copy_in(self, start, count, step, items.data);
        } else {
            PyErr_Format(PyExc_ValueError, "cannot assign %zd items to a slice of %zd: a SharedArray has a fixed length",
                         items.count, count);
            rc = -1;
        }
    }
    PyMem_Free(items.data);
    return rc;
}

/* ---- many items, out --------------------------------------------------------------------------------------------- */

PyObject *pz_items_bytes(PzValues *self, Py_ssize_t start, Py_ssize_t count, Py_ssize_t step)
{
    unsigned size = self->size;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, count * (Py_ssize_t)size);
    if (!bytes)
        return NULL;
    copy_out(self, start, count, step, (uint8_t *)PyBytes_AS_STRING(bytes));
    return bytes;
}

PyObject *pz_items_list(PzValues *self, Py_ssize_t start, Py_ssize_t count, Py_ssize_t step)
{
    PyObject *list = PyList_New(count);
    for (Py_ssize_t i = 0; list && i < count; i++) {
        PyObject *item = pz_item_load(pz_values_at(self, start + i * step), self->code);
        if (!item)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, i, item);
    }
    return list;
}

static bool array_has(char letter)
{
    if (letter == 'u')
        return PY_VERSION_HEX < 0x03100000;
    return strchr(PY_VERSION_HEX >= 0x030D0000 ? "bBwhHiIlLqQfd" : "bBhHiIlLqQfd", letter) != NULL;
}

PyObject *pz_array_type(void)
{
    static PyObject *type;
    if (!type) {
        PyObject *module = PyImport_ImportModule("array");
        type = module ? PyObject_GetAttrString(module, "array") : NULL;
        Py_XDECREF(module);
    }
    return type;
}

/* An array.array, as slices of array.array are; a list for the typecodes that it does not have. */
PyObject *pz_slice_get(PzValues *self, PyObject *key)
{
    Py_ssize_t start, stop, step;
    if (pz_values_need(self) < 0 || PySlice_Unpack(key, &start, &stop, &step) < 0)
        return NULL;
    Py_ssize_t count = PySlice_AdjustIndices(self->count, &start, &stop, step);
    char letter = pz_typecode(self);
    if (!array_has(letter))
        return pz_items_list(self, start, count, step);
    PyObject *type = pz_array_type(), *bytes = type ? pz_items_bytes(self, start, count, step) : NULL;
    PyObject *result = bytes ? PyObject_CallFunction(type, "CO", letter, bytes) : NULL;
    Py_XDECREF(bytes);
    return result;
}

/* ---- bytes, and new arrays --------------------------------------------------------------------------------------- */

PyObject *pz_items_frombytes(PzValues *self, PyObject *buffer)
{
    Py_buffer view;
    if (pz_values_need(self) < 0 || PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    if (view.len != self->count * self->size) {
        PyErr_Format(PyExc_ValueError, "%zd bytes for a SharedArray of %zd: it has a fixed length", view.len,
                     self->count * self->size);
        PyBuffer_Release(&view);
        return NULL;
    }
    copy_in(self, 0, self->count, 1, view.buf);
    PyBuffer_Release(&view);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(new_array_doc, "new_array(cls, typecode, code, values) -> a SharedArray.\n\n"
                            "`values`: its length (an int), or the items. `code`: one of the ITEM_ numbers of the module.");
static PyObject *new_array(PyObject *module, PyObject *args)
{
    (void)module;
    PyTypeObject *cls;
    PyObject *values;
    pz_shape shape = {.form = PZ_FORM_ARRAY};
    Py_ssize_t described;
    int code;
    if (!PyArg_ParseTuple(args, "O!y#iO", &PyType_Type, &cls, &shape.description, &described, &code, &values))
        return NULL;
    if (code <= 0 || code >= PZ_ITEMS || described != 1) {
        PyErr_SetString(PyExc_ValueError, "bad typecode");
        return NULL;
    }
    shape.described = 1;
    shape.code = (uint8_t)code;
    shape.item = pz_item_size[code];
    if (PyLong_Check(values)) {
        Py_ssize_t count = PyLong_AsSsize_t(values);
        if (count == -1 && PyErr_Occurred())
            return NULL;
        if (count < 0)
            return PyErr_Format(PyExc_ValueError, "the length of a SharedArray is not negative: %zd", count);
        shape.count = (uint64_t)count;
        return (PyObject *)pz_values_make(cls, &shape, false);
    }
    run items = {NULL, 0, 0};
    PzValues *self = NULL;
    if (collect(&items, shape.code, values) == 0) {
        shape.count = (uint64_t)items.count;
        self = pz_values_make(cls, &shape, true);
        if (self && items.count)
            memcpy(pz_values_at(self, 0), items.data, (size_t)items.count * self->size); /* nobody else has it yet */
    }
    PyMem_Free(items.data);
    return (PyObject *)self;
}

PyMethodDef pz_array_functions[] = {{"new_array", new_array, METH_VARARGS, new_array_doc}, {NULL, NULL, 0, NULL}};
