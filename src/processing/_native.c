/* The extension module processing._native: every type that is written in plain C, because a measurement asked for it.
 *
 * Handle and the registry are in _handle.c, the locks in _locks.c, SharedValue and SharedStruct in _values.c, SharedArray
 * in _sharedarray.c.
 */
#include "_values.h"

static struct PyModuleDef module_def = {PyModuleDef_HEAD_INIT, "processing._native", NULL, -1, pz_handle_functions,
                                        NULL, NULL, NULL, NULL};

static int add_types(PyObject *module, PyTypeObject *const *types)
{
    for (; *types; types++)
        if (PyModule_AddType(module, *types) < 0)
            return -1;
    return 0;
}

static PyTypeObject *const value_types[] = {&pz_ValuesType,      &pz_SharedValueType,    &pz_SharedStructType,
                                            &pz_SharedArrayType, &pz_ArrayIteratorType, NULL};

/* What values.py has to know of the numbers in _items.h. */
static int add_values(PyObject *module)
{
    static const char *const items[PZ_ITEMS] = {NULL,       "ITEM_I8",  "ITEM_U8",  "ITEM_I16",  "ITEM_U16",
                                                "ITEM_I32", "ITEM_U32", "ITEM_I64", "ITEM_U64",  "ITEM_F16",
                                                "ITEM_F32", "ITEM_F64", "ITEM_BOOL", "ITEM_CHAR", "ITEM_TEXT"};
    for (int code = 1; code < PZ_ITEMS; code++)
        if (PyModule_AddIntConstant(module, items[code], code) < 0)
            return -1;
    if (PyModule_AddObject(module, "VALUES", Py_BuildValue("(iin)", PZ_VALUES, 0, offsetof(pz_values, name))) < 0)
        return -1;
    return PyModule_AddFunctions(module, pz_values_functions) < 0 ? -1 : PyModule_AddFunctions(module, pz_array_functions);
}

PyMODINIT_FUNC PyInit__native(void);
PyMODINIT_FUNC PyInit__native(void)
{
    PyObject *module = PyModule_Create(&module_def);
    if (!module || pz_handle_ready() < 0 || PyModule_AddType(module, &pz_HandleType) < 0 ||
        add_types(module, pz_lock_types) < 0 || add_types(module, value_types) < 0 || add_values(module) < 0)
        return NULL;
    if (PyModule_AddObject(module, "proc", PyCapsule_New(&pz_program, PZ_PROC_CAPSULE, NULL)) < 0)
        return NULL;
    return module;
}
