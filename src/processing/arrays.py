"""numpy arrays that lie in shared memory: plain `numpy.ndarray`, made by functions of numpy's names and arguments.

Sent to another process, by whatever way (queues, pipes, arguments of a process, shared containers), such an array, or
any view of one, arrives as a view on the same memory: no byte is copied, and what one process writes the others see.
The memory lives as long as any process has an array that looks into it, and is freed with the last, also if that
process is killed.

    array ──base──▶ bytes, an array ──base──▶ memoryview ──obj──▶ ArrayMemory, a handle of the memory in the arena

The same holds for the read-only arrays of objects that `share` put there. Pickled outside of this package
(`pickle.dump` to a file) an array is copied, as any other; so is a subclass of ndarray. There is no lock: use one where
several processes write the same elements.
"""

from __future__ import annotations

from operator import index

from . import _memory, _program
from .reduction import reducers
from .synchronize import _Pickles, _reopen, _tail

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from typing import Any, Literal

    from numpy.typing import ArrayLike, DTypeLike, NDArray

    from .counters import MemoryStatistics

    Shape = int | tuple[int, ...] | list[int]
    Order = Literal["C", "F"]

__all__ = [
    "ArrayMemory",
    "array",
    "asarray",
    "copy",
    "empty",
    "empty_like",
    "full",
    "full_like",
    "is_shared",
    "ones",
    "ones_like",
    "zeros",
    "zeros_like",
]


class ArrayMemory(_Pickles, _memory.ArrayMemoryBase):
    """The memory behind arrays: `nbytes` bytes, zeroed unless `zero` is false, which the buffer protocol gives.

    Pickles as a handle. The memory is freed with the last handle, and with the last view, of all processes.
    """

    __slots__ = ()
    _layout = _memory.MEMORY

    def __new__(cls, nbytes: int, *, zero: bool = True, name: str | None = None) -> ArrayMemory:
        if nbytes < 0:
            raise ValueError(f"a negative number of bytes: {nbytes}")
        self = _memory.new_memory(cls, nbytes, zero)
        if name:
            self.name = name
        return self

    def statistics(self) -> MemoryStatistics:
        """Its size, and how many hold it."""
        from .counters import MemoryStatistics

        return MemoryStatistics(self.nbytes, _memory.holders(self))

    def __repr__(self) -> str:
        if not self._is_open:
            return f"<{type(self).__name__}(closed)>"
        return f"<{type(self).__name__}({self.nbytes} bytes){_tail(self)}"


_loaded: Any = None


def _numpy() -> Any:
    """numpy, whose arrays this package knows how to send from now on."""
    global _loaded
    if _loaded is None:
        try:
            import numpy
        except ImportError as error:
            raise ImportError("processing.arrays needs numpy: pip install processing[numpy]") from error
        reducers.register(numpy.ndarray, _reduce)
        _memory.send_as_views(numpy.ndarray)
        _loaded = numpy
    return _loaded


# ---- on their way ---------------------------------------------------------------------------------------------------


def _reduce(array: Any) -> Any:
    if not _program.is_carrying():
        return array.__reduce_ex__(4)  # whatever the protocol is
    found = _memory.place_of(array)
    if found is None:
        return _with_buffer(array)
    place, memory = found
    _program.note(memory)
    return _rebuild, place


def _rebuild(
    key: tuple[int, int, int],
    is_memory: bool,
    dtype: Any,
    shape: tuple[int, ...],
    strides: tuple[int, ...] | None,
    offset: int,
    writeable: bool,
) -> Any:
    if is_memory:
        memory: Any = _reopen(ArrayMemory, *key)
    else:
        from .sharing import Shared

        memory = _reopen(Shared, *key)
    array = _numpy().ndarray(shape, dtype, _bytes_of(memory), offset, strides)
    if not writeable:
        array.flags.writeable = False
    return array


def _with_buffer(array: Any) -> Any:
    """What reduces an ordinary array to a buffer that the receiver looks into, also where numpy itself has none."""
    dtype, flags = array.dtype, array.flags
    if not flags.contiguous and not flags.f_contiguous and not dtype.hasobject:
        array = array.copy()
    if dtype.kind in "mM":
        return _dates, (array.view("i8"), dtype)
    return array.__reduce_ex__(5)


def _dates(numbers: Any, dtype: Any) -> Any:
    return numbers.view(dtype)


def _bytes_of(memory: Any) -> Any:
    """The memory as an array that holds a buffer of it: `ndarray` itself would not, and the handle could be closed."""
    return _numpy().frombuffer(memory, "u1")


def is_shared(array: NDArray[Any]) -> bool:
    """True if the array lies in shared memory, and is sent without being copied."""
    numpy = _numpy()
    if not isinstance(array, numpy.ndarray):
        raise TypeError(f"not a numpy array: {type(array).__name__}")
    return type(array) is numpy.ndarray and _memory.place_of(array) is not None


# ---- making them -----------------------------------------------------------------------------------------------------


def _new(shape: Any, dtype: Any, order: str, zero: bool) -> Any:
    numpy = _numpy()
    dtype = numpy.dtype(dtype)
    if dtype.hasobject:
        raise TypeError(
            f"arrays of Python objects cannot lie in shared memory: dtype {dtype}. Use a fixed-size dtype, or a "
            f"list of LocalManager"
        )
    if order not in ("C", "F"):
        raise ValueError(f"order must be 'C' or 'F', not {order!r}")
    if not hasattr(shape, "__index__") and not hasattr(shape, "__iter__"):
        raise TypeError(f"the shape is an integer or a sequence of integers, not {shape!r}")
    shape = tuple(map(index, (shape,) if hasattr(shape, "__index__") else shape))
    nbytes = dtype.itemsize
    for length in shape:
        if length < 0:
            raise ValueError("negative dimensions are not allowed")
        nbytes *= length
    return numpy.ndarray(shape, dtype, _bytes_of(ArrayMemory(nbytes, zero=zero)), order=order)


def empty(shape: Shape, dtype: DTypeLike = float, order: Order = "C") -> NDArray[Any]:
    """A shared array with whatever was in that memory before. As `numpy.empty`; MemoryError at the program's limit."""
    return _new(shape, dtype, order, False)


def zeros(shape: Shape, dtype: DTypeLike = float, order: Order = "C") -> NDArray[Any]:
    """A shared array of zeros. As `numpy.zeros`."""
    return _new(shape, dtype, order, True)


def ones(shape: Shape, dtype: DTypeLike = float, order: Order = "C") -> NDArray[Any]:
    """A shared array of ones. As `numpy.ones`."""
    return full(shape, 1, float if dtype is None else dtype, order)


def full(shape: Shape, fill_value: Any, dtype: DTypeLike = None, order: Order = "C") -> NDArray[Any]:
    """A shared array filled with `fill_value`. As `numpy.full`."""
    numpy = _numpy()
    if dtype is None:
        dtype = numpy.asarray(fill_value).dtype
    result = _new(shape, dtype, order, False)
    numpy.copyto(result, fill_value, casting="unsafe")
    return result


def array(object: ArrayLike, dtype: DTypeLike = None, *, order: str = "K", ndmin: int = 0) -> NDArray[Any]:
    """A shared array with a copy of `object`. As `numpy.array`; of a subclass of ndarray the values alone."""
    numpy = _numpy()
    source = numpy.array(object, dtype, copy=None if _copies_if_needed(numpy) else False, ndmin=ndmin)
    if order in ("K", "A"):
        fortran = source.flags.f_contiguous and not source.flags.c_contiguous
        order = "F" if fortran else "C"
    result = _new(source.shape, source.dtype, order, False)
    numpy.copyto(result, source)
    return result


def _copies_if_needed(numpy: Any) -> bool:
    return int(numpy.__version__.split(".")[0]) >= 2


def asarray(a: ArrayLike, dtype: DTypeLike = None, order: Order | None = None) -> NDArray[Any]:
    """`a` itself if it is a shared array of that dtype and order, else a shared copy."""
    numpy = _numpy()
    if type(a) is numpy.ndarray and is_shared(a):
        same_order = order is None or (a.flags.f_contiguous if order == "F" else a.flags.c_contiguous)
        if same_order and (dtype is None or a.dtype == numpy.dtype(dtype)):
            return a
    return array(a, dtype, order=order or "K")


def copy(a: ArrayLike, order: str = "K") -> NDArray[Any]:
    """A shared array with the values of `a`. As `numpy.copy`."""
    return array(a, order=order)


def _like(prototype: Any, dtype: Any, order: str, shape: Any, zero: bool) -> Any:
    source = _numpy().asanyarray(prototype)
    fortran = source.flags.f_contiguous and not source.flags.c_contiguous
    order = ("F" if fortran else "C") if order in ("K", "A") else order
    dtype = source.dtype if dtype is None else dtype
    return _new(source.shape if shape is None else shape, dtype, order, zero)


def empty_like(
    prototype: ArrayLike, dtype: DTypeLike = None, order: str = "K", shape: Shape | None = None
) -> NDArray[Any]:
    """A shared array of the same shape and dtype. As `numpy.empty_like`."""
    return _like(prototype, dtype, order, shape, False)


def zeros_like(
    a: ArrayLike, dtype: DTypeLike = None, order: str = "K", shape: Shape | None = None
) -> NDArray[Any]:
    """As `numpy.zeros_like`, in shared memory."""
    return _like(a, dtype, order, shape, True)


def ones_like(
    a: ArrayLike, dtype: DTypeLike = None, order: str = "K", shape: Shape | None = None
) -> NDArray[Any]:
    """As `numpy.ones_like`, in shared memory."""
    return full_like(a, 1, dtype, order, shape)


def full_like(
    a: ArrayLike, fill_value: Any, dtype: DTypeLike = None, order: str = "K", shape: Shape | None = None
) -> NDArray[Any]:
    """As `numpy.full_like`, in shared memory."""
    result = _like(a, dtype, order, shape, False)
    _numpy().copyto(result, fill_value, casting="unsafe")
    return result
