/* The four locks whose calls are so short that the binding decides their speed.
 *
 * The types Lock, RLock, Semaphore and BoundedSemaphore without their slow parts, which the Python classes in
 * synchronize.py add. Plain C because a call through a Cython method costs half as much again as the whole acquire
 * (docs/design.md). Every blocking call tries with the GIL held, then waits without it, and sees to signals when it is
 * interrupted.
 */
#include "_handle.h"

#define proc pz_program

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
    return pz_deadline_of(values[1], deadline);
}

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

/* Looks for a dead owner after a try that did not wait. The proof costs as much as 100 tries, so whoever tries again and
 * again has it made once in a millisecond. */
static int check_kind(void *at, uint16_t kind, uint32_t *dead)
{
    static void *last;
    static uint64_t checked;
    uint64_t now = proc.ops->now();
    if (at == last && now - checked < PZ_MS)
        return -EBUSY;
    last = at;
    checked = now;
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
        pz_raise_owner_died((PyObject *)self, dead);
    else
        pz_raise_status((PyObject *)self, rc);
    return -1;
}

static inline PyObject *acquire_kind(PzHandle *self, PyObject *const *args, Py_ssize_t count, PyObject *names,
                                     uint16_t kind)
{
    int block = 1;
    uint64_t deadline = PZ_FOREVER;
    if (PZ_UNLIKELY(!self->at))
        return pz_raise_closed((PyObject *)self);
    if (PZ_UNLIKELY(count || names) && acquire_arguments(args, count, names, &block, &deadline) < 0)
        return NULL;
    int rc = try_kind(self->at, kind);
    if (PZ_LIKELY(rc == 0))
        Py_RETURN_TRUE;
    if (rc != -EBUSY)
        return pz_raise_status((PyObject *)self, rc);
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
        return pz_raise_closed((PyObject *)self);
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
        PyVarObject_HEAD_INIT(NULL, 0).tp_name = "processing._native." #Name,                                           \
        .tp_doc = BASE_DOC,                                                                                            \
        .tp_basicsize = sizeof(PzHandle),                                                                              \
        .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,                                                          \
        .tp_base = &pz_HandleType,                                                                                        \
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

PyTypeObject *const pz_lock_types[] = {&LockType, &RLockType, &SemaphoreType, &BoundedSemaphoreType, NULL};
