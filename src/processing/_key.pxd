# Keys, for _dict.pyx.
from processing._store cimport pz_item, pz_key

cdef extern from "_key.h":
    ctypedef struct pz_quick_key:
        pz_key key


cdef object load_key(object key, pz_quick_key *quick, bint storing)
cdef object item_key(const pz_item *item)
