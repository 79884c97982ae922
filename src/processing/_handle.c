/* Handles: one object of the arena as this process holds it.
 *
 * Owns this process's attachment to the arena (pz_program, shared with the Cython modules through a capsule), the type
 * Handle and the registry (one handle per object and process). Built into the extension module processing._native.
 */
#include "_handle.h"

#include <math.h>
#include <stdio.h>

pz_proc pz_program = {.fd = -1};
static PyObject *registry; /* offset -> address of the handle, not counted */

/* ---- errors and time --------------------------------------------------------------------------------------------- */

static PyObject *call_errors(const char *function, PyObject *args)
{
    PyObject *module = args ? PyImport_ImportModule("processing._failures") : NULL;
    PyObject *f = module ? PyObject_GetAttrString(module, function) : NULL;
    PyObject *error = f ? PyObject_CallObject(f, args) : NULL;
    if (error)
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
    Py_XDECREF(error);
    Py_XDECREF(f);
    Py_XDECREF(module);
    Py_XDECREF(args);
    return NULL;
}

PyObject *pz_raise_closed(PyObject *self)
{
    return call_errors("handle_closed", Py_BuildValue("(O)", self));
}

PyObject *pz_raise_owner_died(PyObject *self, uint32_t dead)
{
    return call_errors("owner_died", Py_BuildValue("(Oi)", self, (int)pz_owner_pid(&pz_program, dead)));
}

/* A status of the core as an exception. */
PyObject *pz_raise_status(PyObject *self, int rc)
{
    return call_errors("status", Py_BuildValue("(Oi)", self, -rc));
}

int pz_deadline_of(PyObject *timeout, uint64_t *deadline)
{
    *deadline = PZ_FOREVER;
    if (timeout == NULL || timeout == Py_None)
        return 0;
    double seconds = PyFloat_AsDouble(timeout);
    if (seconds == -1.0 && PyErr_Occurred())
        return -1;
    if (isnan(seconds)) {
        PyErr_SetString(PyExc_ValueError, "timeout is not a number of seconds: nan");
        return -1;
    }
    if (seconds > 9e8)
        return 0; /* 28 years */
    uint64_t now = pz_program.ops->now();
    *deadline = seconds <= 0 ? now : now + (uint64_t)(seconds * 1e9);
    return 0;
}

/* ---- handles ----------------------------------------------------------------------------------------------------- */

int pz_attached(void)
{
    if (PZ_LIKELY(pz_program.base != NULL))
        return 0;
    PyObject *module = PyImport_ImportModule("processing._program");
    PyObject *done = module ? PyObject_CallMethod(module, "attach", NULL) : NULL;
    Py_XDECREF(done);
    Py_XDECREF(module);
    return done ? 0 : -1;
}

static int enter_registry(PzHandle *self)
{
    PyObject *key = PyLong_FromUnsignedLongLong(self->ref.offset), *value = PyLong_FromVoidPtr(self);
    int rc = key && value ? PyDict_SetItem(registry, key, value) : -1;
    Py_XDECREF(key);
    Py_XDECREF(value);
    return rc;
}

/* The open handle for an object, counted; NULL without an error if there is none. */
static PzHandle *find_handle(uint64_t offset, uint32_t gen)
{
    PyObject *key = PyLong_FromUnsignedLongLong(offset);
    PyObject *value = key ? PyDict_GetItemWithError(registry, key) : NULL;
    PzHandle *found = value ? PyLong_AsVoidPtr(value) : NULL;
    Py_XDECREF(key);
    if (!found || found->ref.gen != gen || !found->at || Py_REFCNT(found) <= 0)
        return NULL;
    Py_INCREF(found);
    return found;
}

/* What this process holds of a lock stays held when the process ends in an orderly way or loses the handle. */
static void disown(PzHandle *self)
{
    if (self->kind == PZ_LOCK || self->kind == PZ_RLOCK)
        pz_lock_disown(&pz_program, self->at);
    else if (self->kind == PZ_BOUNDED)
        pz_bounded_disown(&pz_program, self->at);
}

static void close_handle(PzHandle *self)
{
    if (!self->at)
        return;
    PyObject *key = PyLong_FromUnsignedLongLong(self->ref.offset);
    PyObject *value = key ? PyDict_GetItemWithError(registry, key) : NULL;
    if (value && PyLong_AsVoidPtr(value) == self)
        PyDict_DelItem(registry, key);
    Py_XDECREF(key);
    PyErr_Clear();
    if (pz_program.base && pz_program.slot) {
        disown(self);
        self->at = NULL;
        pz_object_close(&pz_program, &self->ref);
    }
    self->at = NULL;
}

static void handle_dealloc(PzHandle *self)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (self->weak)
        PyObject_ClearWeakRefs((PyObject *)self);
    close_handle(self);
    PyErr_Restore(type, value, traceback);
    PyTypeObject *cls = Py_TYPE(self);
    cls->tp_free((PyObject *)self);
}

static PzHandle *bare(PyTypeObject *cls)
{
    if (!PyType_IsSubtype(cls, &pz_HandleType)) {
        PyErr_Format(PyExc_TypeError, "%s is not a type of handle", cls->tp_name);
        return NULL;
    }
    /* The tp_new written in C or Cython, which sets up its fields; not the __new__ of a Python class above it. */
    PyTypeObject *base = cls;
    while (base->tp_flags & Py_TPFLAGS_HEAPTYPE)
        base = base->tp_base;
    PyObject *none = PyTuple_New(0), *self = none ? base->tp_new(cls, none, NULL) : NULL;
    Py_XDECREF(none);
    return (PzHandle *)self;
}

static PyObject *finish(PzHandle *self, uint16_t kind, unsigned name_at)
{
    self->at = pz_at(&pz_program, self->ref.offset);
    self->kind = kind;
    self->name_at = (uint16_t)name_at;
    if (enter_registry(self) < 0)
        Py_CLEAR(self);
    return (PyObject *)self;
}

PyObject *pz_handle_adopt(PyTypeObject *cls, uint16_t kind, const pz_ref *ref, unsigned name_at)
{
    PzHandle *self = bare(cls);
    if (!self) {
        pz_object_close(&pz_program, ref);
        return NULL;
    }
    self->ref = *ref;
    return finish(self, kind, name_at);
}

PyDoc_STRVAR(create_doc, "create(cls, kind, size, name_at) -> a handle of a new, zeroed object of this kind.");
static PyObject *create(PyObject *module, PyObject *args)
{
    (void)module;
    PyTypeObject *cls;
    unsigned kind, name_at;
    unsigned long long size;
    if (!PyArg_ParseTuple(args, "O!IKI", &PyType_Type, &cls, &kind, &size, &name_at) || pz_attached() < 0)
        return NULL;
    PzHandle *self = bare(cls);
    if (!self)
        return NULL;
    int rc = pz_object_new(&pz_program, size, (enum pz_kind)kind, &self->ref);
    if (rc < 0) {
        Py_DECREF(self);
        return pz_raise_status((PyObject *)cls, rc);
    }
    return finish(self, (uint16_t)kind, name_at);
}

PyDoc_STRVAR(adopt_doc, "adopt(cls, kind, offset, generation, entry, name_at) -> a handle that takes over a reference.");
static PyObject *adopt(PyObject *module, PyObject *args)
{
    (void)module;
    PyTypeObject *cls;
    unsigned kind, name_at;
    pz_ref ref;
    unsigned long long offset;
    if (!PyArg_ParseTuple(args, "O!IKIII", &PyType_Type, &cls, &kind, &offset, &ref.gen, &ref.entry, &name_at))
        return NULL;
    PzHandle *self = bare(cls);
    if (!self)
        return NULL;
    ref.offset = offset;
    self->ref = ref;
    return finish(self, (uint16_t)kind, name_at);
}

PyDoc_STRVAR(reopen_doc, "reopen(cls, kind, program, offset, generation, name_at) -> the handle of a known object.");
static PyObject *reopen(PyObject *module, PyObject *args)
{
    (void)module;
    PyTypeObject *cls;
    unsigned kind, gen, name_at;
    unsigned long long program, offset;
    if (!PyArg_ParseTuple(args, "O!IKKII", &PyType_Type, &cls, &kind, &program, &offset, &gen, &name_at))
        return NULL;
    if (!pz_program.base || pz_program.header->program != program)
        return call_errors("other_program", Py_BuildValue("(O)", cls));
    PzHandle *self = find_handle(offset, gen);
    if (self)
        return (PyObject *)self;
    if (PyErr_Occurred() || !(self = bare(cls)))
        return NULL;
    uint16_t found = PZ_FREE;
    int rc = pz_object_open(&pz_program, offset, gen, &self->ref, &found);
    if (rc == 0 && found != kind) {
        pz_object_close(&pz_program, &self->ref);
        rc = -ESTALE;
    }
    if (rc < 0) {
        Py_DECREF(self);
        return rc == -ESTALE ? call_errors("stale", Py_BuildValue("(O)", cls)) : pz_raise_status((PyObject *)cls, rc);
    }
    return finish(self, found, name_at);
}

PyDoc_STRVAR(disown_all_doc, "disown_all(close) -> whether memory is still looked into.\n\n"
                             "This process ends in an orderly way: the locks it holds stay held by nobody. `close`: its "
                             "handles are closed too, unless arrays look into received messages.");
static PyObject *disown_all(PyObject *module, PyObject *close)
{
    (void)module;
    PyObject *key, *value;
    bool closing = PyObject_IsTrue(close) == 1, looked_into = false;
    for (Py_ssize_t at = 0; PyDict_Next(registry, &at, &key, &value);) {
        PzHandle *handle = PyLong_AsVoidPtr(value);
        if (!handle || !handle->at)
            continue;
        disown(handle);
        looked_into |= handle->kind == PZ_BUFFER || handle->exports > 0;
    }
    if (closing && !looked_into)
        for (Py_ssize_t at = 0; PyDict_Next(registry, &at, &key, &value);)
            ((PzHandle *)PyLong_AsVoidPtr(value))->at = NULL; /* their references go with the ledger */
    return PyBool_FromLong(looked_into);
}

PyDoc_STRVAR(own_doc, "own(cls, base) -> cls with the methods and attributes of `base` as its own.\n\n"
                      "The interpreter's fast calls want the type that a C method was made for, not a subclass of it.");
static PyObject *own(PyObject *module, PyObject *args)
{
    (void)module;
    PyTypeObject *cls, *base;
    if (!PyArg_ParseTuple(args, "O!O!", &PyType_Type, &cls, &PyType_Type, &base))
        return NULL;
    for (PyMethodDef *def = base->tp_methods; def && def->ml_name; def++) {
        bool context = strcmp(def->ml_name, "__enter__") == 0 || strcmp(def->ml_name, "__exit__") == 0;
        PyObject *method = context ? pz_context_method(cls, def) : PyDescr_NewMethod(cls, def);
        int rc = method ? PyObject_SetAttrString((PyObject *)cls, def->ml_name, method) : -1;
        Py_XDECREF(method);
        if (rc < 0)
            return NULL;
    }
    for (PyGetSetDef *def = base->tp_getset; def && def->name; def++) {
        PyObject *attribute = PyDescr_NewGetSet(cls, def);
        int rc = attribute ? PyObject_SetAttrString((PyObject *)cls, def->name, attribute) : -1;
        Py_XDECREF(attribute);
        if (rc < 0)
            return NULL;
    }
    return Py_NewRef((PyObject *)cls);
}

static PyObject *handle_key(PzHandle *self, PyObject *unused)
{
    (void)unused;
    if (!self->at)
        return pz_raise_closed((PyObject *)self);
    return Py_BuildValue("(KKI)", (unsigned long long)pz_program.header->program, (unsigned long long)self->ref.offset,
                         self->ref.gen);
}

static PyObject *handle_close(PzHandle *self, PyObject *unused)
{
    (void)unused;
    if (self->exports > 0) {
        PyErr_Format(PyExc_BufferError, "%u buffers (memoryviews, numpy arrays) still look into this %s", self->exports,
                     Py_TYPE(self)->tp_name);
        return NULL;
    }
    close_handle(self);
    Py_RETURN_NONE;
}

static PyObject *handle_get_name(PzHandle *self, void *unused)
{
    (void)unused;
    const char *name = self->at && self->name_at ? (const char *)self->at + self->name_at : "";
    if (!*name)
        Py_RETURN_NONE;
    return PyUnicode_DecodeUTF8(name, (Py_ssize_t)strnlen(name, PZ_NAME), "ignore");
}

static int handle_set_name(PzHandle *self, PyObject *value, void *unused)
{
    (void)unused;
    Py_ssize_t length = 0;
    const char *text = value == Py_None ? "" : value ? PyUnicode_AsUTF8AndSize(value, &length) : NULL;
    if (!text) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_AttributeError, "the name cannot be deleted");
        return -1;
    }
    if (!self->at || !self->name_at) {
        pz_raise_closed((PyObject *)self);
        return -1;
    }
    char *name = (char *)self->at + self->name_at;
    size_t n = (size_t)length < PZ_NAME ? (size_t)length : PZ_NAME;
    memcpy(name, text, n);
    if (n < PZ_NAME)
        name[n] = 0;
    return 0;
}

static PyObject *handle_is_open(PzHandle *self, void *unused)
{
    (void)unused;
    return PyBool_FromLong(self->at != NULL);
}

static PyMethodDef handle_methods[] = {
    {"_key", (PyCFunction)(void *)handle_key, METH_NOARGS, "(program, offset, generation): what a pickle carries."},
    {"_close", (PyCFunction)(void *)handle_close, METH_NOARGS, "Gives up this process's reference."},
    {NULL, NULL, 0, NULL}};

static PyGetSetDef handle_getset[] = {
    {"name", (getter)handle_get_name, (setter)handle_set_name,
     "Name of the object for messages and tools, or None: at most 64 bytes of UTF-8, seen by every process.", NULL},
    {"_is_open", (getter)handle_is_open, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL}};

PyTypeObject pz_HandleType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "processing._native.Handle",
    .tp_doc = "One object of the arena as this process holds it.",
    .tp_basicsize = sizeof(PzHandle),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .tp_new = PyType_GenericNew,
    .tp_dealloc = (destructor)handle_dealloc,
    .tp_weaklistoffset = offsetof(PzHandle, weak),
    .tp_methods = handle_methods,
    .tp_getset = handle_getset,
};


PyMethodDef pz_handle_functions[] = {{"create", create, METH_VARARGS, create_doc},
                                     {"adopt", adopt, METH_VARARGS, adopt_doc},
                                     {"reopen", reopen, METH_VARARGS, reopen_doc},
                                     {"own", own, METH_VARARGS, own_doc},
                                     {"disown_all", disown_all, METH_O, disown_all_doc},
                                     {NULL, NULL, 0, NULL}};

int pz_handle_ready(void)
{
    registry = PyDict_New();
    return registry ? PyType_Ready(&pz_HandleType) : -1;
}
