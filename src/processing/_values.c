/* SharedValue and SharedStruct without their slow parts, and what they have in common with SharedArray.
 *
 *   a number              one atomic access (_items.h)
 *   a record              bytes; values.py packs and unpacks them with the struct module. The core sees to it that
 *                         nobody sees half of one. Its internal mutex is only taken with the GIL held: who waits for it
 *                         waits without the GIL, then takes the GIL, then tries
 *
 * A value is converted before anything is written, so one that does not fit changes nothing.
 */
#include "_values.h"

#define proc pz_program

/* ---- making and looking ------------------------------------------------------------------------------------------ */

static uint8_t form_of(PyTypeObject *cls)
{
    return PyType_IsSubtype(cls, &pz_SharedArrayType)    ? PZ_FORM_ARRAY
           : PyType_IsSubtype(cls, &pz_SharedStructType) ? PZ_FORM_STRUCT
           : PyType_IsSubtype(cls, &pz_SharedValueType)  ? PZ_FORM_VALUE
                                                         : 0;
}

PZ_COLD int pz_values_bind(PzValues *self)
{
    if (!self->handle.at) {
        pz_raise_closed((PyObject *)self);
        return -1;
    }
    if (self->form)
        return 0;
    pz_values *values = pz_values_of(self);
    if (values->form != form_of(Py_TYPE(self)) || values->code >= PZ_ITEMS) {
        PyErr_Format(PyExc_ValueError, "this handle is not that of a %s", Py_TYPE(self)->tp_name);
        return -1;
    }
    self->count = (Py_ssize_t)values->count;
    self->data = values->data;
    self->code = values->swapped ? PZ_ITEM_NONE : values->code;
    self->size = pz_item_size[values->code];
    self->swapped = values->swapped;
    self->form = values->form;
    return 0;
}

PzValues *pz_values_make(PyTypeObject *cls, const pz_shape *shape, bool blank)
{
    pz_ref ref;
    uint64_t draft, bytes = 0;
    int rc;
    if (pz_attached() < 0)
        return NULL;
    if (__builtin_mul_overflow(shape->item, shape->count, &bytes) || bytes <= PZ_VALUES_SMALL) {
        rc = pz_values_new(&proc, shape, &ref);
    } else {
        rc = pz_values_draft(&proc, shape, true, &draft);
        if (rc == 0 && !blank) {
            pz_values *values = pz_at(&proc, draft);
            size_t size = values->block.size - values->data;
            Py_BEGIN_ALLOW_THREADS
            memset(pz_values_data(values), 0, size);
            Py_END_ALLOW_THREADS
        }
        if (rc == 0) {
            rc = pz_values_finish(&proc, draft, &ref);
            if (rc < 0)
                pz_block_free(&proc, draft);
        }
    }
    if (rc < 0)
        return (PzValues *)pz_raise_status((PyObject *)cls, rc);
    PzValues *self = (PzValues *)pz_handle_adopt(cls, PZ_VALUES, &ref, offsetof(pz_values, name));
    if (self && pz_values_bind(self) < 0)
        Py_CLEAR(self);
    return self;
}

PyDoc_STRVAR(new_record_doc, "new_record(cls, format, code, swapped, size) -> a SharedValue or SharedStruct, all zero.\n\n"
                             "`format`: what its `_description` is to be. `code`: one of the ITEM_ numbers of the module.");
static PyObject *new_record(PyObject *module, PyObject *args)
{
    (void)module;
    PyTypeObject *cls;
    pz_shape shape = {.count = 1};
    Py_ssize_t described, size;
    int code, swapped;
    if (!PyArg_ParseTuple(args, "O!y#ipn", &PyType_Type, &cls, &shape.description, &described, &code, &swapped, &size))
        return NULL;
    if (code < 0 || code >= PZ_ITEMS || described > 1 << 20 || size < 0) {
        PyErr_SetString(PyExc_ValueError, "a format is at most 1 MiB long");
        return NULL;
    }
    shape.described = (uint32_t)described;
    shape.form = form_of(cls);
    shape.code = (uint8_t)code;
    shape.swapped = swapped != 0;
    shape.item = (uint64_t)size;
    return (PyObject *)pz_values_make(cls, &shape, false);
}

static void values_dealloc(PzValues *self)
{
    Py_CLEAR(self->lock);
    Py_CLEAR(self->pack);
    Py_CLEAR(self->unpack);
    pz_HandleType.tp_dealloc((PyObject *)self);
}

/* ---- the user's lock --------------------------------------------------------------------------------------------- */

static PyObject *values_lock(PzValues *self)
{
    if (PZ_UNLIKELY(!self->handle.at))
        return pz_raise_closed((PyObject *)self);
    if (PZ_UNLIKELY(!self->lock)) {
        PyObject *module = PyImport_ImportModule("processing.values");
        PyObject *lock = module ? PyObject_CallMethod(module, "_lock_of", "O", self) : NULL;
        Py_XDECREF(module);
        if (!lock)
            return NULL;
        Py_XSETREF(self->lock, lock);
    }
    return self->lock;
}

static PyObject *values_get_lock(PzValues *self, PyObject *unused)
{
    (void)unused;
    PyObject *lock = values_lock(self);
    return Py_XNewRef(lock);
}

static PyObject *values_enter(PzValues *self, PyObject *unused)
{
    (void)unused;
    PyObject *lock = values_lock(self), *done = lock ? PyObject_CallMethod(lock, "__enter__", NULL) : NULL;
    if (!done)
        return NULL;
    Py_DECREF(done);
    return Py_NewRef((PyObject *)self);
}

static PyObject *values_exit(PzValues *self, PyObject *unused)
{
    (void)unused;
    PyObject *lock = values_lock(self);
    return lock ? PyObject_CallMethod(lock, "release", NULL) : NULL;
}

static PyObject *values_get_obj(PyObject *self, PyObject *unused)
{
    (void)unused;
    return Py_NewRef(self);
}

/* (offset, generation) of the lock, or None. */
static PyObject *values_lock_place(PzValues *self, PyObject *unused)
{
    (void)unused;
    uint64_t offset;
    uint32_t gen;
    if (pz_values_need(self) < 0)
        return NULL;
    pz_values_get_lock(&proc, pz_values_of(self), &offset, &gen);
    if (!offset)
        Py_RETURN_NONE;
    return Py_BuildValue("(KI)", (unsigned long long)offset, gen);
}

/* True if it is the lock now, False if there is one already. */
static PyObject *values_set_lock(PzValues *self, PyObject *lock)
{
    if (pz_values_need(self) < 0)
        return NULL;
    if (!PyObject_TypeCheck(lock, &pz_HandleType) || !((PzHandle *)lock)->at) {
        PyErr_Format(PyExc_TypeError, "the lock of a shared value is an RLock, not %R", lock);
        return NULL;
    }
    pz_ref *ref = &((PzHandle *)lock)->ref;
    int rc = pz_values_set_lock(&proc, pz_values_of(self), ref->offset, ref->gen);
    if (rc < 0 && rc != -EEXIST)
        return pz_raise_status(lock, rc);
    return PyBool_FromLong(rc == 0);
}

/* ---- facts ------------------------------------------------------------------------------------------------------- */

static PyObject *values_description(PzValues *self, void *unused)
{
    (void)unused;
    if (pz_values_need(self) < 0)
        return NULL;
    pz_values *values = pz_values_of(self);
    return PyBytes_FromStringAndSize(pz_values_description(values), (Py_ssize_t)values->described);
}

/* (items, bytes of one, bytes in all, writes of a record, writers that died) */
static PyObject *values_facts(PzValues *self, PyObject *unused)
{
    (void)unused;
    if (pz_values_need(self) < 0)
        return NULL;
    pz_values *values = pz_values_of(self);
    return Py_BuildValue("(KKKKI)", (unsigned long long)values->count, (unsigned long long)values->item,
                         (unsigned long long)values->block.size, (unsigned long long)pz_load(&values->version),
                         pz_load(&values->deaths));
}

static PyMethodDef values_methods[] = {
    {"get_lock", (PyCFunction)(void *)values_get_lock, METH_NOARGS,
     "get_lock() -> RLock\n\nThe lock that belongs to it, for updates of several steps; the same for every process. "
     "Single reads and writes do not need it."},
    {"get_obj", values_get_obj, METH_NOARGS, "get_obj() -> itself: reads and writes take no lock."},
    {"__enter__", (PyCFunction)(void *)values_enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)(void *)values_exit, METH_VARARGS, NULL},
    {"_lock_place", (PyCFunction)(void *)values_lock_place, METH_NOARGS, NULL},
    {"_set_lock", (PyCFunction)(void *)values_set_lock, METH_O, NULL},
    {"_facts", (PyCFunction)(void *)values_facts, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL}};

static PyGetSetDef values_getset[] = {{"_description", (getter)values_description, NULL, NULL, NULL},
                                      {NULL, NULL, NULL, NULL, NULL}};

PyTypeObject pz_ValuesType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "processing._native.Values",
    .tp_doc = "One or many values in the arena.",
    .tp_basicsize = sizeof(PzValues),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .tp_base = &pz_HandleType,
    .tp_dealloc = (destructor)values_dealloc,
    .tp_methods = values_methods,
    .tp_getset = values_getset,
};

/* ---- records ----------------------------------------------------------------------------------------------------- */

static int need_codec(PzValues *self)
{
    if (pz_values_need(self) < 0)
        return -1;
    if (self->pack)
        return 0;
    PyObject *module = PyImport_ImportModule("processing.values"), *pack, *unpack;
    PyObject *codec = module ? PyObject_CallMethod(module, "_codec_of", "O", self) : NULL;
    Py_XDECREF(module);
    int rc = codec && PyArg_ParseTuple(codec, "OO", &pack, &unpack) ? 0 : -1;
    if (rc == 0 && !self->pack) {
        self->pack = Py_NewRef(pack);
        self->unpack = Py_NewRef(unpack);
    }
    Py_XDECREF(codec);
    return rc;
}

/* The mutex, taken with the GIL held. */
static int lock_record(PzValues *self)
{
    pz_values *values = pz_values_of(self);
    pz_wait wait;
    pz_wait_init(&wait, PZ_FOREVER);
    int rc = pz_values_retry(&proc, values, &wait);
    Py_INCREF(self); /* a handle keeps alive what C can see, whatever a signal handler does */
    while (rc == -EBUSY) {
        Py_BEGIN_ALLOW_THREADS
        rc = pz_values_await(&proc, values, &wait);
        Py_END_ALLOW_THREADS
        if (rc == -EINTR && PyErr_CheckSignals() < 0)
            break;
        if (!self->handle.at) {
            pz_raise_closed((PyObject *)self);
            break;
        }
        rc = pz_values_retry(&proc, values, &wait);
    }
    Py_DECREF(self);
    return PyErr_Occurred() ? -1 : 0;
}

static void unlock_record(PzValues *self)
{
    pz_values_unlock(&proc, pz_values_of(self));
}

static PyObject *load_record(PzValues *self)
{
    pz_values *values = pz_values_of(self);
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)values->item);
    if (!bytes || PZ_LIKELY(pz_values_read(values, PyBytes_AS_STRING(bytes)) == 0))
        return bytes;
    if (lock_record(self) < 0) {
        Py_DECREF(bytes);
        return NULL;
    }
    pz_values_copy(values, PyBytes_AS_STRING(bytes));
    unlock_record(self);
    return bytes;
}

static PyObject *record_get(PzValues *self)
{
    if (need_codec(self) < 0)
        return NULL;
    PyObject *bytes = load_record(self), *value = bytes ? PyObject_CallOneArg(self->unpack, bytes) : NULL;
    Py_XDECREF(bytes);
    return value;
}

/* A value as the bytes that are stored. */
static PyObject *packed(PzValues *self, PyObject *value)
{
    if (need_codec(self) < 0)
        return NULL;
    PyObject *bytes = PyObject_CallOneArg(self->pack, value);
    if (bytes && pz_values_need(self) < 0) /* closed meanwhile */
        Py_CLEAR(bytes);
    if (bytes && (!PyBytes_Check(bytes) || (uint64_t)PyBytes_GET_SIZE(bytes) != pz_values_of(self)->item)) {
        PyErr_SetString(PyExc_ValueError, "packed to a wrong size");
        Py_CLEAR(bytes);
    }
    return bytes;
}

static int record_set(PzValues *self, PyObject *value)
{
    PyObject *bytes = packed(self, value);
    if (!bytes)
        return -1;
    pz_values *values = pz_values_of(self);
    bool twice = pz_values_twice(values);
    int rc = twice ? lock_record(self) : 0;
    if (rc == 0)
        pz_values_write(values, PyBytes_AS_STRING(bytes));
    if (rc == 0 && twice)
        unlock_record(self);
    Py_DECREF(bytes);
    return rc;
}

/* Stores `bytes` if the record is `expected` (NULL: whatever it is); *old: what it was. 1 stored, 0 not, -1 exception. */
static int swap_record(PzValues *self, PyObject *expected, PyObject *bytes, PyObject **old)
{
    pz_values *values = pz_values_of(self);
    size_t size = (size_t)values->item;
    if (!(*old = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size)))
        return -1;
    char *was = PyBytes_AS_STRING(*old);
    if (!pz_values_twice(values)) {
        uint64_t next = 0, found = pz_bits_load(pz_values_data(values), 8);
        memcpy(&next, PyBytes_AS_STRING(bytes), size);
        do {
            memcpy(was, &found, size);
            if (expected && memcmp(was, PyBytes_AS_STRING(expected), size) != 0)
                return 0;
        } while (!__atomic_compare_exchange_n((uint64_t *)pz_values_data(values), &found, next, false, __ATOMIC_SEQ_CST,
                                              __ATOMIC_ACQUIRE));
        return 1;
    }
    if (lock_record(self) < 0)
        return -1;
    pz_values_copy(values, was);
    int rc = !expected || memcmp(was, PyBytes_AS_STRING(expected), size) == 0;
    if (rc)
        pz_values_write(values, PyBytes_AS_STRING(bytes));
    unlock_record(self);
    return rc;
}

/* ---- SharedValue and SharedStruct -------------------------------------------------------------------------------- */

static inline bool is_number(PzValues *self)
{
    return self->size > 0;
}

PZ_COLD static PyObject *get_slow(PzValues *self)
{
    if (pz_values_need(self) < 0)
        return NULL;
    if (!is_number(self))
        return record_get(self);
    return pz_item_get(pz_values_at(self, 0), pz_values_of(self)->code, self->swapped);
}

static PyObject *get_value(PzValues *self, void *unused)
{
    (void)unused;
    if (PZ_LIKELY(self->handle.at && self->code))
        return pz_item_load((uint8_t *)self->handle.at + self->data, self->code);
    return get_slow(self);
}

static int set_value(PzValues *self, PyObject *value, void *unused)
{
    (void)unused;
    if (PZ_UNLIKELY(!value)) {
        PyErr_SetString(PyExc_AttributeError, "a shared value cannot be deleted");
        return -1;
    }
    if (PZ_LIKELY(self->handle.at && self->code))
        return pz_item_store((uint8_t *)self->handle.at + self->data, self->code, value);
    if (pz_values_need(self) < 0)
        return -1;
    if (!is_number(self))
        return record_set(self, value);
    return pz_item_set(pz_values_at(self, 0), pz_values_of(self)->code, self->swapped, value);
}

static PyObject *value_add(PzValues *self, PyObject *amount)
{
    if (pz_values_need(self) < 0)
        return NULL;
    if (!is_number(self)) {
        PyErr_SetString(PyExc_TypeError, "add() is for numbers");
        return NULL;
    }
    return pz_item_add(pz_values_at(self, 0), pz_values_of(self)->code, self->swapped, amount);
}

static PyObject *value_exchange(PzValues *self, PyObject *value)
{
    if (pz_values_need(self) < 0)
        return NULL;
    if (is_number(self))
        return pz_item_exchange(pz_values_at(self, 0), pz_values_of(self)->code, self->swapped, value);
    PyObject *bytes = packed(self, value), *old = NULL, *result = NULL;
    if (bytes && swap_record(self, NULL, bytes, &old) >= 0)
        result = PyObject_CallOneArg(self->unpack, old);
    Py_XDECREF(bytes);
    Py_XDECREF(old);
    return result;
}

static PyObject *value_compare_exchange(PzValues *self, PyObject *const *args, Py_ssize_t count)
{
    if (pz_values_need(self) < 0)
        return NULL;
    if (count != 2) {
        PyErr_Format(PyExc_TypeError, "compare_exchange() takes 2 arguments, expected and new (%zd given)", count);
        return NULL;
    }
    if (is_number(self))
        return pz_item_compare_exchange(pz_values_at(self, 0), pz_values_of(self)->code, self->swapped, args[0], args[1]);
    PyObject *expected = packed(self, args[0]), *bytes = expected ? packed(self, args[1]) : NULL, *old = NULL;
    int rc = bytes ? swap_record(self, expected, bytes, &old) : -1;
    Py_XDECREF(expected);
    Py_XDECREF(bytes);
    Py_XDECREF(old);
    return rc < 0 ? NULL : PyBool_FromLong(rc);
}

#define EXCHANGE_METHODS                                                                                               \
    {"exchange", (PyCFunction)(void *)value_exchange, METH_O,                                                          \
     "exchange(value) -> the value before\n\nStores a value; in one step, without a lock of the user's."},             \
        {"compare_exchange", (PyCFunction)(void *)value_compare_exchange, METH_FASTCALL,                               \
         "compare_exchange(expected, new) -> bool\n\nStores `new` if the value is `expected`; True if so. In one step; " \
         "compared as it is stored, so 0.0 is not -0.0."},                                                             \
    {                                                                                                                  \
        NULL, NULL, 0, NULL                                                                                            \
    }

static PyMethodDef value_methods[] = {
    {"add", (PyCFunction)(void *)value_add, METH_O,
     "add(amount) -> the new value\n\nAdds to a number in one step, so that no update of another process is lost. "
     "OverflowError, and nothing changed, if the sum does not fit the format."},
    {"get_lock", (PyCFunction)(void *)values_get_lock, METH_NOARGS, "get_lock() -> RLock\n\nThe lock that belongs to it."},
    EXCHANGE_METHODS};

static PyMethodDef struct_methods[] = {EXCHANGE_METHODS};

static PyGetSetDef value_getset[] = {
    {"value", (getter)get_value, (setter)set_value,
     "The value. Read and written as a whole, without waiting for anybody's lock.", NULL},
    {NULL, NULL, NULL, NULL, NULL}};

PyTypeObject pz_SharedValueType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "processing._native.SharedValue",
    .tp_doc = "One value in the arena.",
    .tp_basicsize = sizeof(PzValues),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .tp_base = &pz_ValuesType,
    .tp_methods = value_methods,
    .tp_getset = value_getset,
};

PyTypeObject pz_SharedStructType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "processing._native.SharedStruct",
    .tp_doc = "Several values in the arena that are read and written together.",
    .tp_basicsize = sizeof(PzValues),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .tp_base = &pz_ValuesType,
    .tp_methods = struct_methods,
    .tp_getset = value_getset,
};

PyMethodDef pz_values_functions[] = {{"new_record", new_record, METH_VARARGS, new_record_doc}, {NULL, NULL, 0, NULL}};
