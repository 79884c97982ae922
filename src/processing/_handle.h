/* The C side of a handle: one Python object for one object in the arena and one process.
 *
 * Owned by the extension module processing._locks, which makes the type; Cython modules extend it. `at` points into the
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
} PzHandle;

#define PZ_PROC_CAPSULE "processing._locks.proc"

#endif
