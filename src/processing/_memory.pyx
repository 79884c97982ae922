"""Memory of the arena that Python objects look into: the handles behind arrays (processing.arrays), ctypes objects
(processing.sharedctypes) and what share() made."""
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport uint64_t
from libc.string cimport memset

from processing.pz cimport *
from processing._message cimport *
from processing._program cimport check, program

from processing import _failures
from processing import _native
from processing import _program

from processing._message import quick

from _pickle import dumps

cdef extern from *:
    """
    typedef struct pz_area { /* PZ_MEMORY */
        pz_block block;
        uint64_t none;
        uint64_t length; /* bytes, from `start` on, which counts from the block */
        uint64_t start;
        char name[PZ_NAME];
    } pz_area;
    #define AREA_NAME_AT offsetof(pz_area, name)

    /* numpy's array interface, https://numpy.org/doc/stable/reference/arrays.interface.html */
    typedef struct pz_numpy_array {
        int two, nd;
        char typekind;
        int itemsize, flags;
        Py_ssize_t *shape, *strides;
        void *data;
    } pz_numpy_array;
    enum { ARRAY_C_CONTIGUOUS = 0x1, ARRAY_WRITEABLE = 0x400 };
    """
    ctypedef struct pz_area:
        uint64_t length, start
    enum: AREA_NAME_AT
    ctypedef struct pz_numpy_array:
        char typekind
        int flags
        void *data
    enum: ARRAY_C_CONTIGUOUS, ARRAY_WRITEABLE

cdef pz_proc *proc = <pz_proc *>PyCapsule_GetPointer(_native.proc, PZ_PROC_CAPSULE)
cdef enum:
    LARGE = 32768  # bytes: from here on data begin at a page of the machine
    PAGE = 4096
    LINE = 64

MOST = 1 << 60  # bytes: so much there is nowhere
MEMORY = (PZ_MEMORY, sizeof(pz_area), AREA_NAME_AT)
SHARED = (PZ_SHARED, 0, 0)


cdef class ArrayMemoryBase(Handle):
    """Bytes that every process that has a handle may read and write. The buffer protocol gives them, writable.

    What looks into them keeps this handle alive, and so the memory; it is freed with the last handle of all processes.
    """

    def __getbuffer__(self, Py_buffer *view, int flags):
        cdef pz_area *area = <pz_area *>self.at
        if area == NULL:
            raise BufferError("this memory is closed")
        PyBuffer_FillInfo(view, self, <char *>area + area.start, <Py_ssize_t>area.length, 0, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.exports -= 1

    @property
    def nbytes(self):
        """How many bytes there are."""
        if self.at == NULL:
            raise _failures.handle_closed(self)
        return (<pz_area *>self.at).length

    @property
    def address(self):
        """Where they begin in this process."""
        if self.at == NULL:
            raise _failures.handle_closed(self)
        return <size_t>self.at + (<pz_area *>self.at).start


cdef class SharedBase(Handle):
    """An object that was pickled into the arena once, and is never changed. The buffer protocol gives its bytes."""
    cdef public object _label

    def __getbuffer__(self, Py_buffer *view, int flags):
        cdef pz_parcel *parcel = <pz_parcel *>self.at
        if parcel == NULL:
            raise BufferError("this shared object is closed")
        PyBuffer_FillInfo(view, self, pz_parcel_data(parcel), <Py_ssize_t>parcel.length, 1, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.exports -= 1

    @property
    def nbytes(self):
        """The bytes that it takes in the arena."""
        if self.at == NULL:
            raise _failures.handle_closed(self)
        return (<pz_parcel *>self.at).length

    @property
    def address(self):
        """Where they begin in this process."""
        if self.at == NULL:
            raise _failures.handle_closed(self)
        return <size_t>pz_parcel_data(<pz_parcel *>self.at)

    def _get(self):
        if self.at == NULL:
            raise _failures.handle_closed(self)
        return shared_value(self)


# ---- arrays that look into them -------------------------------------------------------------------------------------

# The start of a pickle that calls the function behind it with the tuple that follows, and the end.
cdef bytes CALL = b"\x80\x05cprocessing.arrays\n_rebuild\n"
cdef bytes END = b"R."


cdef Handle memory_of(array):
    """The handle of the memory that an array looks into; None if that is not in the arena."""
    base = array.base
    while base is not None:
        if isinstance(base, ArrayMemoryBase) or isinstance(base, SharedBase):
            return base
        # Subclasses and what numpy's stride tricks put in between have a base, too.
        base = base.obj if type(base) is memoryview else getattr(base, "base", None)
    return None


def place_of(array):
    """What arrays._rebuild needs to make the same view in another process, and the handle; None if the array does not
    lie in the arena."""
    cdef Handle memory = memory_of(array)
    if memory is None or memory.at == NULL:
        return None
    capsule = array.__array_struct__
    cdef pz_numpy_array *facts = <pz_numpy_array *>PyCapsule_GetPointer(capsule, NULL)
    cdef bint is_memory = isinstance(memory, ArrayMemoryBase)
    cdef size_t start = <size_t>memory.at + (<pz_area *>memory.at).start
    cdef uint64_t length
    if is_memory:
        length = (<pz_area *>memory.at).length
    else:
        start = <size_t>pz_parcel_data(<pz_parcel *>memory.at)
        length = (<pz_parcel *>memory.at).length
    cdef uint64_t offset = <size_t>facts.data - start
    if <size_t>facts.data < start or offset > length:
        if array.size:
            return None
        offset = 0  # where nothing begins does not matter
    dtype = array.dtype
    return (
        memory._key(),
        is_memory,
        dtype.str if dtype.isbuiltin == 1 else dtype,  # a short name is quicker than a pickled dtype
        array.shape,
        None if facts.flags & ARRAY_C_CONTIGUOUS else array.strides,
        offset,
        # Of structured arrays the interface forgets the flags (numpy 2.4 and before).
        array.flags.writeable if facts.typekind == b"V" else facts.flags & ARRAY_WRITEABLE != 0,
    ), memory


def pickled_array(array, list refs):
    """For _message.quick: the pickle of an array, as pickle itself makes it of what arrays._reduce gives."""
    found = place_of(array)
    if found is None:
        return None
    cdef Handle memory = found[1]
    place = found[0]
    if type(place[2]) is not str:
        return None
    cdef bytes packed = dumps(place, 2)
    refs.append((memory.ref.offset, memory.ref.gen))
    return CALL + packed[2:-1] + END


def send_as_views(cls):
    """Arrays of exactly this type are sent by pickled_array from now on."""
    quick[cls] = pickled_array


# ---- making them -----------------------------------------------------------------------------------------------------

def holders(Handle handle not None):
    """How many processes, messages and other objects hold the object."""
    if handle.at == NULL:
        raise _failures.handle_closed(handle)
    return (<pz_block *>handle.at).refs


def new_memory(cls, size_wanted, bint zero=True):
    """A handle of new memory. MemoryError at the program's limit."""
    if size_wanted >= MOST:
        raise _failures.out_of_memory(cls)
    cdef uint64_t offset = 0, head = LINE * ((sizeof(pz_area) + LINE - 1) // LINE), size, nbytes = size_wanted
    cdef pz_area *area
    cdef pz_ref ref
    cdef int rc
    if nbytes + PAGE >= LARGE:
        head = PAGE
    size = head + (nbytes if nbytes else 1)
    rc = pz_object_draft(program(), size, head - sizeof(pz_block), &offset)
    if rc < 0:
        raise _failures.status(cls, -rc)
    area = <pz_area *>pz_at(proc, offset)
    area.length = nbytes
    area.start = head
    if zero and nbytes:
        with nogil:
            memset(<char *>area + head, 0, nbytes)
    rc = pz_object_finish(proc, offset, PZ_MEMORY, &ref)
    if rc < 0:
        pz_block_free(proc, offset)
        raise _failures.status(cls, -rc)
    return _native.adopt(cls, PZ_MEMORY, ref.offset, ref.gen, ref.entry, AREA_NAME_AT)


def new_shared(cls, value, bint raw):
    """A handle of `value`, pickled; `raw`: of its bytes, as they are. No buffer is too small to be looked into."""
    cdef pz_ref ref
    cdef Message message
    program()
    if raw:
        message = raw_message(value, cls)
    else:
        know_arrays()
        message = make_message(value, cls, 0)
    shared_from(message, cls, &ref)
    return _native.adopt(cls, PZ_SHARED, ref.offset, ref.gen, ref.entry, 0)
