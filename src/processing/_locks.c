/* Handles, and the four locks whose calls are so short that the binding decides their speed.
 *
 * Owns this process's attachment to the arena (one static pz_proc, shared with the Cython modules through a capsule),
 * the type Handle, the registry (one handle per object and process) and the types Lock, RLock, Semaphore and
 * BoundedSemaphore without their slow parts, which the Python classes in synchronize.py add.
 *
 * Plain C because a call through a Cython method costs half as much again as the whole acquire (docs/design.md).
 * Every blocking call tries with the GIL held, then waits without it, and sees to signals when it is interrupted.
 */
#include "_handle.h"

#include <math.h>
#include <stdio.h>

static pz_proc proc = {.fd = -1};
static PyObject *registry; /* offset -> address of the handle, not counted */
static PyTypeObject HandleType;

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

static PyObject *raise_closed(PyObject *self)
{
    return call_errors("handle_closed", Py_BuildValue("(O)", self));
}

static PyObject *raise_owner_died(PyObject *self, uint32_t dead)
{
    return call_errors("owner_died", Py_BuildValue("(Oi)", self, (int)pz_owner_pid(&proc, dead)));
}

/* A status of the core as an exception. */
static PyObject *raise_status(PyObject *self, int rc)
{
    return call_errors("status", Py_BuildValue("(Oi)", self, -rc));
}

static int deadline_of(PyObject *timeout, uint64_t *deadline)
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
    uint64_t now = proc.ops->now();
    *deadline = seconds <= 0 ? now : now + (uint64_t)(seconds * 1e9);
    return 0;
}

/* acquire(block=True, timeout=None); threading says `blocking` for the first. */
static int acquire_arguments(PyObject *const *args, Py_ssize_t count, PyObject *names, int *block, uint64_t *deadline)
{
    PyObject *values[2] = {NULL, NULL};
    if (count > 2) {
        PyErr_Format(PyExc_TypeError, "acquire() takes at most 2 arguments (%zd given)", count);
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++)
        values[i] = args[i];
    for (Py_ssize_t i = 0; names && i < PyTuple_GET_SIZE(names); i++) {
        PyObject *name = PyTuple_GET_ITEM(names, i);
        int slot = PyUnicode_CompareWithASCIIString(name, "timeout") == 0    ? 1
                   : PyUnicode_CompareWithASCIIString(name, "block") == 0    ? 0
                   : PyUnicode_CompareWithASCIIString(name, "blocking") == 0 ? 0
                                                                             : -1;
        if (slot < 0 || values[slot]) {
            PyErr_Format(PyExc_TypeError, "acquire() got an unexpected or repeated keyword argument '%U'", name);
            return -1;
        }
        values[slot] = args[count + i];
    }
    *block = values[0] ? PyObject_IsTrue(values[0]) : 1;
    if (*block < 0)
        return -1;
    return deadline_of(values[1], deadline);
}

/* ---- handles ----------------------------------------------------------------------------------------------------- */

static int attached(void)
{
    if (PZ_LIKELY(proc.base != NULL))
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
        pz_lock_disown(&proc, self->at);
    else if (self->kind == PZ_BOUNDED)
        pz_bounded_disown(&proc, self->at);
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
    if (proc.base && proc.slot) {
        disown(self);
        self->at = NULL;
        pz_object_close(&proc, &self->ref);
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
    if (!PyType_IsSubtype(cls, &HandleType)) {
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
    self->at = pz_at(&proc, self->ref.offset);
    self->kind = kind;
    self->name_at = (uint16_t)name_at;
    if (enter_registry(self) < 0)
        Py_CLEAR(self);
    return (PyObject *)self;
}

PyDoc_STRVAR(create_doc, "create(cls, kind, size, name_at) -> a handle of a new, zeroed object of this kind.");
static PyObject *create(PyObject *module, PyObject *args)
{
    (void)module;
    PyTypeObject *cls;
    unsigned kind, name_at;
    unsigned long long size;
    if (!PyArg_ParseTuple(args, "O!IKI", &PyType_Type, &cls, &kind, &size, &name_at) || attached() < 0)
        return NULL;
    PzHandle *self = bare(cls);
    if (!self)
        return NULL;
    int rc = pz_object_new(&proc, size, (enum pz_kind)kind, &self->ref);
    if (rc < 0) {
        Py_DECREF(self);
        return raise_status((PyObject *)cls, rc);
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
    if (!proc.base || proc.header->program != program)
        return call_errors("other_program", Py_BuildValue("(O)", cls));
    PzHandle *self = find_handle(offset, gen);
    if (self)
        return (PyObject *)self;
    if (PyErr_Occurred() || !(self = bare(cls)))
        return NULL;
    uint16_t found = PZ_FREE;
    int rc = pz_object_open(&proc, offset, gen, &self->ref, &found);
    if (rc == 0 && found != kind) {
        pz_object_close(&proc, &self->ref);
        rc = -ESTALE;
    }
    if (rc < 0) {
        Py_DECREF(self);
        return rc == -ESTALE ? call_errors("stale", Py_BuildValue("(O)", cls)) : raise_status((PyObject *)cls, rc);
    }
    return finish(self, found, name_at);
}

PyDoc_STRVAR(disown_all_doc, "disown_all(): this process ends in an orderly way; the locks it holds stay held by nobody.");
static PyObject *disown_all(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    PyObject *key, *value;
    for (Py_ssize_t at = 0; PyDict_Next(registry, &at, &key, &value);) {
        PzHandle *handle = PyLong_AsVoidPtr(value);
        if (handle && handle->at)
            disown(handle);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(own_doc, "own(cls, base) -> cls with the methods of `base` as its own.\n\n"
                      "The interpreter's fast calls want the type that a C method was made for, not a subclass of it.");
static PyObject *own(PyObject *module, PyObject *args)
{
    (void)module;
    PyTypeObject *cls, *base;
    if (!PyArg_ParseTuple(args, "O!O!", &PyType_Type, &cls, &PyType_Type, &base))
        return NULL;
    for (PyMethodDef *def = base->tp_methods; def && def->ml_name; def++) {
        PyObject *method = PyDescr_NewMethod(cls, def);
        int rc = method ? PyObject_SetAttrString((PyObject *)cls, def->ml_name, method) : -1;
        Py_XDECREF(method);
        if (rc < 0)
            return NULL;
    }
    return Py_NewRef((PyObject *)cls);
}

static PyObject *handle_key(PzHandle *self, PyObject *unused)
{
    (void)unused;
    if (!self->at)
        return raise_closed((PyObject *)self);
    return Py_BuildValue("(KKI)", (unsigned long long)proc.header->program, (unsigned long long)self->ref.offset,
                         self->ref.gen);
}

static PyObject *handle_close(PzHandle *self, PyObject *unused)
{
    (void)unused;
    close_handle(self);
    Py_RETURN_NONE;
}

static PyObject *handle_get_name(PzHandle *self, void *unused)
{
    (void)unused;
    if (!self->at || !self->name_at)
        return PyUnicode_FromString("");
    const char *name = (const char *)self->at + self->name_at;
    return PyUnicode_DecodeUTF8(name, (Py_ssize_t)strnlen(name, PZ_NAME), "ignore");
}

static int handle_set_name(PzHandle *self, PyObject *value, void *unused)
{
    (void)unused;
    Py_ssize_t length;
    const char *text = value ? PyUnicode_AsUTF8AndSize(value, &length) : NULL;
    if (!text) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_AttributeError, "the name cannot be deleted");
        return -1;
    }
    if (!self->at || !self->name_at) {
        raise_closed((PyObject *)self);
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
     "Name of the object, for messages and tools: at most 64 bytes of UTF-8, seen by every process.", NULL},
    {"_is_open", (getter)handle_is_open, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL}};

static PyTypeObject HandleType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "processing._locks.Handle",
    .tp_doc = "One object of the arena as this process holds it.",
    .tp_basicsize = sizeof(PzHandle),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .tp_new = PyType_GenericNew,
    .tp_dealloc = (destructor)handle_dealloc,
    .tp_weaklistoffset = offsetof(PzHandle, weak),
    .tp_methods = handle_methods,
    .tp_getset = handle_getset,
};

/* ---- the locks: one shape, four kinds ------------------------------------------------------------------------------ */

static inline int try_kind(void *at, uint16_t kind)
{
    switch (kind) {
    case PZ_LOCK:
        return pz_lock_try(&proc, at);
    case PZ_RLOCK:
        return pz_rlock_try(&proc, at, PyThread_get_thread_ident());
    case PZ_SEMAPHORE:
        return pz_semaphore_try(&proc, at);
    default:
        return pz_bounded_try(&proc, at);
    }
}

static inline int wait_kind(void *at, uint16_t kind, pz_wait *wait, uint32_t *dead, uint64_t thread)
{
    switch (kind) {
    case PZ_LOCK:
        return pz_lock_wait(&proc, at, wait, dead);
    case PZ_RLOCK:
        return pz_rlock_wait(&proc, at, thread, wait, dead);
    case PZ_SEMAPHORE:
        return pz_semaphore_wait(&proc, at, wait);
    default:
        return pz_bounded_wait(&proc, at, wait);
    }
}

/* Looks for a dead owner after a try that did not wait: now and then, as the proof costs as much as 100 tries. */
static int check_kind(void *at, uint16_t kind, uint32_t *dead)
{
    static unsigned tries;
    if (++tries % 64 != 1)
        return -EBUSY;
    if (kind == PZ_LOCK || kind == PZ_RLOCK)
        return pz_lock_check(&proc, at, dead);
    return kind == PZ_BOUNDED && pz_bounded_sweep(&proc, at) > 0 ? try_kind(at, kind) : -EBUSY;
}

/* 1 acquired, 0 not, -1 with an exception. */
PZ_COLD static int acquire_slow(PzHandle *self, int block, uint64_t deadline)
{
    uint32_t dead = 0;
    void *at = self->at;
    uint16_t kind = self->kind;
    uint64_t thread = PyThread_get_thread_ident();
    int rc = -EBUSY;
    if (!block) {
        rc = check_kind(at, kind, &dead);
    } else {
        pz_wait wait;
        pz_wait_init(&wait, deadline);
        Py_INCREF(self); /* a handle keeps alive what C can see, whatever a signal handler does */
        do {
            Py_BEGIN_ALLOW_THREADS
            rc = wait_kind(at, kind, &wait, &dead, thread);
            Py_END_ALLOW_THREADS
            if (rc == -EINTR && PyErr_CheckSignals() < 0) {
                Py_DECREF(self);
                return -1;
            }
        } while (rc == -EINTR);
        Py_DECREF(self);
    }
    if (rc == 0)
        return 1;
    if (rc == -EBUSY || rc == -ETIMEDOUT)
        return 0;
    if (rc == -EOWNERDEAD)
        raise_owner_died((PyObject *)self, dead);
    else
        raise_status((PyObject *)self, rc);
    return -1;
}

static inline PyObject *acquire_kind(PzHandle *self, PyObject *const *args, Py_ssize_t count, PyObject *names,
                                     uint16_t kind)
{
    int block = 1;
    uint64_t deadline = PZ_FOREVER;
    if (PZ_UNLIKELY(!self->at))
        return raise_closed((PyObject *)self);
    if (PZ_UNLIKELY(count || names) && acquire_arguments(args, count, names, &block, &deadline) < 0)
        return NULL;
    int rc = try_kind(self->at, kind);
    if (PZ_LIKELY(rc == 0))
        Py_RETURN_TRUE;
    if (rc != -EBUSY)
        return raise_status((PyObject *)self, rc);
    rc = acquire_slow(self, block, deadline);
    return rc < 0 ? NULL : PyBool_FromLong(rc);
}

static inline PyObject *enter_kind(PzHandle *self, uint16_t kind)
{
    return acquire_kind(self, NULL, 0, NULL, kind);
}

PZ_COLD static PyObject *release_failed(PzHandle *self)
{
    if (self->kind == PZ_RLOCK)
        PyErr_Format(PyExc_AssertionError, "attempt to release recursive lock not owned by thread: %R", self);
    else
        PyErr_Format(PyExc_ValueError, "semaphore or lock released too many times: %R", self);
    return NULL;
}

static inline PyObject *release_kind(PzHandle *self, uint16_t kind, uint32_t count)
{
    int rc;
    if (PZ_UNLIKELY(!self->at))
        return raise_closed((PyObject *)self);
    switch (kind) {
    case PZ_LOCK:
        rc = pz_lock_release(&proc, self->at);
        break;
    case PZ_RLOCK:
        rc = pz_rlock_release(&proc, self->at, PyThread_get_thread_ident());
        break;
    case PZ_SEMAPHORE:
        rc = pz_semaphore_release(&proc, self->at, count);
        break;
    default:
        rc = pz_bounded_release(&proc, self->at, count);
    }
    if (PZ_UNLIKELY(rc < 0))
        return release_failed(self);
    Py_RETURN_NONE;
}

static int release_count(PyObject *const *args, Py_ssize_t count, PyObject *names, uint32_t *result)
{
    Py_ssize_t named = names ? PyTuple_GET_SIZE(names) : 0;
    *result = 1;
    if (count + named == 0)
        return 0;
    if (count + named > 1 || (named && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, 0), "n") != 0)) {
        PyErr_SetString(PyExc_TypeError, "release() takes one optional argument, n");
        return -1;
    }
    long n = PyLong_AsLong(args[0]);
    if (n == -1 && PyErr_Occurred())
        return -1;
    if (n < 1 || n > (long)PZ_SEMAPHORE_MAX) {
        PyErr_SetString(PyExc_ValueError, "n must be one or more");
        return -1;
    }
    *result = (uint32_t)n;
    return 0;
}

#define ACQUIRE_DOC                                                                                                    \
    "acquire(block=True, timeout=None) -> bool\n\nBlocks until acquired, at most `timeout` seconds (None: without "    \
    "limit; below zero: as zero), or not at all if `block` is false. Signals are honoured while it blocks."
#define RELEASE_DOC "release()\n\nGives it back and wakes one who waits."

#define LOCK_TYPE(Name, KIND, BASE_DOC, RELEASE, RELEASE_FLAGS)                                                        \
    static PyObject *Name##_acquire(PzHandle *self, PyObject *const *args, Py_ssize_t count, PyObject *names)          \
    {                                                                                                                  \
        return acquire_kind(self, args, count, names, KIND);                                                           \
    }                                                                                                                  \
    static PyObject *Name##_enter(PzHandle *self, PyObject *unused)                                                    \
    {                                                                                                                  \
        (void)unused;                                                                                                  \
        return enter_kind(self, KIND);                                                                                 \
    }                                                                                                                  \
    static PyObject *Name##_exit(PzHandle *self, PyObject *const *args, Py_ssize_t count)                              \
    {                                                                                                                  \
        (void)args;                                                                                                    \
        (void)count;                                                                                                   \
        return release_kind(self, KIND, 1);                                                                            \
    }                                                                                                                  \
    static PyMethodDef Name##_methods[] = {                                                                            \
        {"acquire", (PyCFunction)(void *)Name##_acquire, METH_FASTCALL | METH_KEYWORDS, ACQUIRE_DOC},                  \
        {"release", (PyCFunction)(void *)RELEASE, RELEASE_FLAGS, RELEASE_DOC},                                         \
        {"__enter__", (PyCFunction)(void *)Name##_enter, METH_NOARGS, NULL},                                           \
        {"__exit__", (PyCFunction)(void *)Name##_exit, METH_FASTCALL, NULL},                                           \
        {NULL, NULL, 0, NULL}};                                                                                        \
    static PyTypeObject Name##Type = {                                                                                 \
        PyVarObject_HEAD_INIT(NULL, 0).tp_name = "processing._locks." #Name,                                           \
        .tp_doc = BASE_DOC,                                                                                            \
        .tp_basicsize = sizeof(PzHandle),                                                                              \
        .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,                                                          \
        .tp_base = &HandleType,                                                                                        \
        .tp_methods = Name##_methods,                                                                                  \
    };

static PyObject *lock_release(PzHandle *self, PyObject *unused)
{
    (void)unused;
    return release_kind(self, PZ_LOCK, 1);
}

static PyObject *rlock_release(PzHandle *self, PyObject *unused)
{
    (void)unused;
    return release_kind(self, PZ_RLOCK, 1);
}

static PyObject *semaphore_release(PzHandle *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    uint32_t n;
    return release_count(args, count, names, &n) < 0 ? NULL : release_kind(self, PZ_SEMAPHORE, n);
}

static PyObject *bounded_release(PzHandle *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    uint32_t n;
    return release_count(args, count, names, &n) < 0 ? NULL : release_kind(self, PZ_BOUNDED, n);
}

LOCK_TYPE(Lock, PZ_LOCK, "A lock in the arena.", lock_release, METH_NOARGS)
LOCK_TYPE(RLock, PZ_RLOCK, "A recursive lock in the arena.", rlock_release, METH_NOARGS)
LOCK_TYPE(Semaphore, PZ_SEMAPHORE, "A semaphore in the arena.", semaphore_release, METH_FASTCALL | METH_KEYWORDS)
LOCK_TYPE(BoundedSemaphore, PZ_BOUNDED, "A bounded semaphore in the arena.", bounded_release,
          METH_FASTCALL | METH_KEYWORDS)

/* ---- module ------------------------------------------------------------------------------------------------------ */

static PyMethodDef module_methods[] = {{"create", create, METH_VARARGS, create_doc},
                                       {"adopt", adopt, METH_VARARGS, adopt_doc},
                                       {"reopen", reopen, METH_VARARGS, reopen_doc},
                                       {"own", own, METH_VARARGS, own_doc},
                                       {"disown_all", disown_all, METH_NOARGS, disown_all_doc},
                                       {NULL, NULL, 0, NULL}};

static struct PyModuleDef module_def = {PyModuleDef_HEAD_INIT, "processing._locks", NULL, -1, module_methods,
                                        NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__locks(void);
PyMODINIT_FUNC PyInit__locks(void)
{
    PyTypeObject *types[] = {&HandleType, &LockType, &RLockType, &SemaphoreType, &BoundedSemaphoreType};
    PyObject *module = PyModule_Create(&module_def);
    registry = PyDict_New();
    if (!module || !registry)
        return NULL;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (PyModule_AddType(module, types[i]) < 0)
            return NULL;
    if (PyModule_AddObject(module, "proc", PyCapsule_New(&proc, PZ_PROC_CAPSULE, NULL)) < 0)
        return NULL;
    return module;
}
