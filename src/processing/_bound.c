/* `with lock:` without allocating: the descriptors that _native.own makes of __enter__ and __exit__.
 *
 * Up to CPython 3.13 a `with` binds both methods anew each time, and two bound methods of the interpreter's own cost half
 * of an uncontended `with` (docs/design.md): each is allocated, tracked by the garbage collector and freed. These bound
 * methods come from a free list and are not tracked.
 */
#include "_handle.h"

#include <structmember.h>

typedef struct method {
    PyObject_HEAD
    PyMethodDef *def; /* METH_NOARGS or METH_FASTCALL */
    PyTypeObject *cls;
    vectorcallfunc call;
} method;

typedef struct bound {
    PyObject_HEAD
    PyMethodDef *def;
    PyObject *self; /* of a bound method on the free list: the next one there */
    vectorcallfunc call;
} bound;

static PyTypeObject BoundType;
static bound *unused; /* guarded by the GIL */
static int unused_count;
#define UNUSED_MOST 16

static inline PyObject *call(const PyMethodDef *def, PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    if (def->ml_flags == METH_NOARGS && PZ_LIKELY(count == 0))
        return def->ml_meth(self, NULL);
    if (def->ml_flags == METH_FASTCALL)
        return ((PyObject * (*)(PyObject *, PyObject *const *, Py_ssize_t))(void *)def->ml_meth)(self, args, count);
    PyErr_Format(PyExc_TypeError, "%s() takes no arguments (%zd given)", def->ml_name, count);
    return NULL;
}

static int no_keywords(const PyMethodDef *def, PyObject *names)
{
    if (PZ_LIKELY(!names || PyTuple_GET_SIZE(names) == 0))
        return 0;
    PyErr_Format(PyExc_TypeError, "%s() takes no keyword arguments", def->ml_name);
    return -1;
}

/* ---- bound ------------------------------------------------------------------------------------------------------- */

static PyObject *bound_call(PyObject *object, PyObject *const *args, size_t count, PyObject *names)
{
    bound *self = (bound *)object;
    if (no_keywords(self->def, names) < 0)
        return NULL;
    return call(self->def, self->self, args, PyVectorcall_NARGS(count));
}

static void bound_dealloc(bound *self)
{
    PyObject *object = self->self;
    if (unused_count < UNUSED_MOST) {
        self->self = (PyObject *)unused;
        unused = self;
        unused_count++;
    } else {
        PyObject_Free(self);
    }
    Py_DECREF(object);
}

static PyObject *bound_repr(bound *self)
{
    return PyUnicode_FromFormat("<bound method %s of %R>", self->def->ml_name, self->self);
}

static PyObject *bound_name(bound *self, void *closure)
{
    (void)closure;
    return PyUnicode_FromString(self->def->ml_name);
}

static PyGetSetDef bound_getset[] = {{"__name__", (getter)bound_name, NULL, NULL, NULL}, {NULL, NULL, NULL, NULL, NULL}};
static PyMemberDef bound_members[] = {{"__self__", T_OBJECT, offsetof(bound, self), READONLY, NULL},
                                      {NULL, 0, 0, 0, NULL}};

static PyTypeObject BoundType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "processing._native.bound_method",
    .tp_basicsize = sizeof(bound),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_vectorcall_offset = offsetof(bound, call),
    .tp_call = PyVectorcall_Call,
    .tp_dealloc = (destructor)bound_dealloc,
    .tp_repr = (reprfunc)bound_repr,
    .tp_getset = bound_getset,
    .tp_members = bound_members,
};

/* ---- in the class ------------------------------------------------------------------------------------------------ */

static PyObject *method_get(PyObject *object, PyObject *self, PyObject *cls)
{
    (void)cls;
    method *descriptor = (method *)object;
    if (!self || !PyObject_TypeCheck(self, descriptor->cls))
        return Py_NewRef(object);
    bound *made = unused;
    if (PZ_LIKELY(made)) {
        unused = (bound *)made->self;
        unused_count--;
        PyObject_Init((PyObject *)made, &BoundType);
    } else {
        made = PyObject_New(bound, &BoundType);
        if (!made)
            return NULL;
        made->call = bound_call;
    }
    made->def = descriptor->def;
    made->self = Py_NewRef(self);
    return (PyObject *)made;
}

static PyObject *method_call(PyObject *object, PyObject *const *args, size_t given, PyObject *names)
{
    method *self = (method *)object;
    Py_ssize_t count = PyVectorcall_NARGS(given);
    if (count < 1 || !PyObject_TypeCheck(args[0], self->cls)) {
        PyErr_Format(PyExc_TypeError, "%s() is called on a %s", self->def->ml_name, self->cls->tp_name);
        return NULL;
    }
    if (no_keywords(self->def, names) < 0)
        return NULL;
    return call(self->def, args[0], args + 1, count - 1);
}

static void method_dealloc(method *self)
{
    Py_DECREF(self->cls);
    PyObject_Free(self);
}

static PyObject *method_name(method *self, void *closure)
{
    (void)closure;
    return PyUnicode_FromString(self->def->ml_name);
}

static PyGetSetDef method_getset[] = {{"__name__", (getter)method_name, NULL, NULL, NULL},
                                      {NULL, NULL, NULL, NULL, NULL}};
static PyMemberDef method_members[] = {{"__objclass__", T_OBJECT, offsetof(method, cls), READONLY, NULL},
                                       {NULL, 0, 0, 0, NULL}};

static PyTypeObject MethodType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "processing._native.method",
    .tp_basicsize = sizeof(method),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_METHOD_DESCRIPTOR |
                Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_vectorcall_offset = offsetof(method, call),
    .tp_call = PyVectorcall_Call,
    .tp_descr_get = method_get,
    .tp_dealloc = (destructor)method_dealloc,
    .tp_getset = method_getset,
    .tp_members = method_members,
};

PyObject *pz_context_method(PyTypeObject *cls, PyMethodDef *def)
{
    if (PyType_Ready(&BoundType) < 0 || PyType_Ready(&MethodType) < 0)
        return NULL;
    method *self = PyObject_New(method, &MethodType);
    if (!self)
        return NULL;
    self->def = def;
    self->cls = (PyTypeObject *)Py_NewRef((PyObject *)cls);
    self->call = method_call;
    return (PyObject *)self;
}
