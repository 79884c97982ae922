/* The extension module processing._native: every type that is written in plain C, because a measurement asked for it.
 *
 * Handle and the registry are in _handle.c, the locks in _locks.c.
 */
#include "_handle.h"

static struct PyModuleDef module_def = {PyModuleDef_HEAD_INIT, "processing._native", NULL, -1, pz_handle_functions,
                                        NULL, NULL, NULL, NULL};

static int add_types(PyObject *module, PyTypeObject *const *types)
{
    for (; *types; types++)
        if (PyModule_AddType(module, *types) < 0)
            return -1;
    return 0;
}

PyMODINIT_FUNC PyInit__native(void);
PyMODINIT_FUNC PyInit__native(void)
{
    PyObject *module = PyModule_Create(&module_def);
    if (!module || pz_handle_ready() < 0 || PyModule_AddType(module, &pz_HandleType) < 0 ||
        add_types(module, pz_lock_types) < 0)
        return NULL;
    if (PyModule_AddObject(module, "proc", PyCapsule_New(&pz_program, PZ_PROC_CAPSULE, NULL)) < 0)
        return NULL;
    return module;
}
