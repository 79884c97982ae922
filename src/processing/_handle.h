/* The C side of a handle: one Python object for one object in the arena and one process.
 *
 * Owned by the extension module processing._native, which makes the type; Cython modules extend it. `at` points into the
 * arena while the handle is open and is NULL before and after, so that every method checks one field.
 */
#ifndef PROCESSING_HANDLE_H
#define PROCESSING_HANDLE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "pz/ring.h"

typedef struct PzHandle {
    PyObject_HEAD
    void *at;      /* the object, NULL when closed */
    pz_ref ref;    /* this process's reference to it */
    PyObject *weak;
    uint16_t kind;    /* enum pz_kind */
    uint16_t name_at; /* place of its name (PZ_NAME bytes) */
    uint32_t exports; /* buffers that look into it: it stays open */
} PzHandle;

/* This process's attachment to the arena: one in a process, used by every extension module through the capsule. */
extern pz_proc pz_program;
extern PyTypeObject pz_HandleType;
extern PyMethodDef pz_handle_functions[];
extern PyTypeObject *const pz_lock_types[]; /* _locks.c; ends with NULL */
int pz_handle_ready(void);

/* Sees to it that this process has an arena; -1 with an exception. */
int pz_attached(void);
/* A handle that takes over a reference, which is given up if that fails. */
PyObject *pz_handle_adopt(PyTypeObject *cls, uint16_t kind, const pz_ref *ref, unsigned name_at);

/* Exceptions (worded in _failures.py); all return NULL. */
PyObject *pz_raise_closed(PyObject *self);
PyObject *pz_raise_owner_died(PyObject *self, uint32_t dead);
PyObject *pz_raise_status(PyObject *self, int rc);
/* Absolute deadline of a timeout in seconds (NULL or None: never); -1 with an exception. */
int pz_deadline_of(PyObject *timeout, uint64_t *deadline);

/* A method of a class, __enter__ or __exit__, that costs no allocation to bind (_bound.c). */
PyObject *pz_context_method(PyTypeObject *cls, PyMethodDef *def);

#define PZ_PROC_CAPSULE "processing._native.proc"

#endif
