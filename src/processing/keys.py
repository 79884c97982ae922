"""Keys of shared dicts and sets: which bytes stand for a key, such that equal keys have equal bytes.

    None, bool, int, float, Decimal, Fraction, complex    by value, across the types: 1 == 1.0 == True
    str, bytes                                            by content
    tuple, frozenset                                      by their elements
    a subclass that equals its builtin, and hashes alike  as the builtin (IntEnum, namedtuple, numpy's numbers)
    everything else                                       by its pickle: equal if the pickles are

`hash()` cannot serve: it differs from process to process. Exact builtins, and tuples of them,
rarely come here (`_key.h`, `_dict.pyx`).
"""

from __future__ import annotations

import _pickle
import io

from . import _program

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from typing import Any

__all__ = ["encode_key"]

# As in _encode.h and _key.h.
_NONE, _INT, _FLOAT, _ASCII, _UCS1, _UCS2, _UCS4, _BYTES, _PICKLE = 0, 3, 4, 5, 6, 7, 8, 9, 10
_LARGE_INT, _TUPLE, _FROZENSET, _RATIO, _COMPLEX = 32, 33, 34, 35, 36

LONGEST = 16384
"""Bytes that an encoded key may have."""


def encode_key(key: Any, storing: bool) -> tuple[int, bytes, bytes]:
    """(type, bytes, the key as it is to be given back or b"" if the bytes say it; only for `storing`).

    TypeError for a key that is not hashable, or (storing) that holds a handle; ValueError for one that is too long.
    """
    hash(key)
    kind, data = _encode(key)
    extra = b""
    if storing and type(key) not in (int, str, bytes):
        from .reduction import dumps

        with _program.carrying() as noted:
            extra = bytes([_PICKLE]) + dumps(key, name="key")
        if noted:
            raise TypeError(
                f"a key cannot hold a handle to a shared object: {key!r:.200}. Use its name, or a number, as the key"
            )
    if len(data) + len(extra) > LONGEST:
        raise ValueError(
            f"the key takes {len(data) + len(extra):,} bytes, at most {LONGEST:,} are possible: {key!r:.80}... "
            f"Use a digest of it as the key, and put the rest into the value"
        )
    return kind, data, extra


def _encode(key: Any) -> tuple[int, bytes]:
    if key is None:
        return _NONE, b""
    if isinstance(key, str):
        plain = str.__str__(key)
        if type(key) is str or _same(key, plain):
            return _text(plain)
    elif isinstance(key, bytes):
        plain_bytes = bytes.__bytes__(key)
        if type(key) is bytes or _same(key, plain_bytes):
            return _BYTES, plain_bytes
    elif isinstance(key, tuple):
        if type(key) is tuple or _same(key, tuple(key)):
            return _TUPLE, b"".join(map(_framed, key))
    elif isinstance(key, frozenset):
        if type(key) is frozenset or _same(key, frozenset(key)):
            return _FROZENSET, b"".join(sorted(map(_framed, key)))
    else:
        if type(key).__name__ in ("bool_", "bool") and type(key).__module__ == "numpy":
            key = bool(key)
        number = _number(key)
        if number is not None:
            return number
    return _PICKLE, _pickled(key)


def _framed(key: Any) -> bytes:
    kind, data = _encode(key)
    return bytes([kind]) + len(data).to_bytes(4, "little") + data


def _same(key: Any, plain: Any) -> bool:
    return bool(key == plain) and hash(key) == hash(plain)


def _text(text: str) -> tuple[int, bytes]:
    widest = max(map(ord, text), default=0)
    if widest < 0x80:
        return _ASCII, text.encode("ascii")
    if widest < 0x100:
        return _UCS1, text.encode("latin-1")
    if widest < 0x10000:
        return _UCS2, text.encode("utf-16-le", "surrogatepass")
    return _UCS4, text.encode("utf-32-le", "surrogatepass")


def _whole(number: int) -> tuple[int, bytes]:
    if -(2**63) <= number < 2**63:
        return _INT, number.to_bytes(8, "little", signed=True)
    return _LARGE_INT, number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)


def _number(key: Any) -> tuple[int, bytes] | None:
    import struct
    from decimal import Decimal
    from numbers import Complex, Integral, Rational, Real

    if type(key) is int:
        return _whole(key)
    if isinstance(key, Integral):
        whole = int(key)
        return _whole(whole) if _same(key, whole) else None
    if isinstance(key, (Real, Decimal)):
        try:
            top, bottom = (
                (int(key.numerator), int(key.denominator))
                if isinstance(key, Rational)
                else key.as_integer_ratio()  # type: ignore[union-attr]
            )
        except (OverflowError, ValueError, AttributeError):  # infinite, or not a number
            real = float(key)
            return (_FLOAT, struct.pack("<d", real)) if _same(key, real) else None
        if bottom == 1:
            return _whole(top) if _same(key, top) else None
        try:
            real = top / bottom
        except OverflowError:
            real = 0.0
        if real.as_integer_ratio() == (top, bottom):
            return (_FLOAT, struct.pack("<d", real)) if _same(key, real) else None
        from fractions import Fraction

        return (_RATIO, _framed(top) + _framed(bottom)) if _same(key, Fraction(top, bottom)) else None
    if isinstance(key, Complex):
        value = complex(key)
        if not _same(key, value):
            return None
        if value.imag == 0:
            return _number(value.real) if value.real.is_integer() else (_FLOAT, struct.pack("<d", value.real))
        return _COMPLEX, struct.pack("<dd", value.real + 0.0, value.imag + 0.0)  # -0.0 equals 0.0
    return None


def _pickled(key: Any) -> bytes:
    """The pickle without references to what came before: with them, equal objects may have different pickles."""
    file = io.BytesIO()
    pickler = _pickle.Pickler(file, 5)
    pickler.fast = True
    try:
        pickler.dump(key)
    except (_pickle.PicklingError, AttributeError, TypeError, RecursionError, ValueError):
        from .reduction import dumps

        return dumps(key, name="key")
    return file.getvalue()
