"""Failures of calls in another process: how they are packed there, and what is raised here.

worker   pack(error)   -> the exception if it survives pickling both ways, else its text; and the traceback's text
caller   unpack(data)  -> the exception, with a RemoteTraceback as its cause; or a RemoteError with the text
"""

from __future__ import annotations

import _pickle

from .errors import RemoteError

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from typing import Any

__all__ = ["RemoteTraceback", "pack", "unpack", "unreadable"]


class RemoteTraceback(Exception):
    """The cause of an exception that came from another process: the text of its traceback there."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = self.tb = text  # `tb`: what the standard library calls it

    def __str__(self) -> str:
        return self.text


def _text_of(error: BaseException) -> str:
    import traceback

    try:
        return "".join(traceback.format_exception(error))
    except Exception as second:  # its __str__ may fail
        return f"{type(error).__name__} (its text cannot be had: {type(second).__name__})\n"


def name_of(function: Any) -> str:
    """What a timeline calls it."""
    function = getattr(function, "func", function)  # of a partial
    return str(getattr(function, "__qualname__", None) or type(function).__name__)[:100]


def _says(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__


def pack(error: BaseException, *, what: str = "raised") -> bytes:
    """Bytes for `unpack`. Never fails: what cannot be pickled, or not be unpickled again, goes as text."""
    text = _text_of(error)
    try:
        from .reduction import dumps

        pickled = dumps(error, by_value=True)
        copy = _pickle.loads(pickled)
        if type(copy).__name__ != type(error).__name__:
            raise TypeError(f"it came back as {type(copy).__name__}")
        return _pickle.dumps((pickled, _says(error), text, what, None), 5)
    except Exception as why:
        return _pickle.dumps((None, _says(error), text, what, _says(why)), 5)


def pack_unpicklable(error: BaseException, value: Any) -> bytes:
    """The same for a result that cannot be sent, because of `error`."""
    try:
        shown = repr(value)
    except Exception:
        shown = object.__repr__(value)
    if len(shown) > 200:
        shown = shown[:200] + "..."
    return _pickle.dumps((None, _says(error), _text_of(error), "result", shown), 5)


def unreadable(error: BaseException) -> bytes:
    """The same for what came, but cannot be unpickled in this process, because of `error`."""
    return _pickle.dumps((None, _says(error), _text_of(error), "unreadable", None), 5)


def unpack(data: bytes) -> BaseException:
    """The exception to raise."""
    pickled, says, text, what, detail = _pickle.loads(data)
    if pickled is not None:
        try:
            error: BaseException = _pickle.loads(pickled)
        except Exception as why:
            detail = _says(why)
        else:
            error.__cause__ = RemoteTraceback(f'\n"""\n{text}"""')
            return error
    if what == "result":
        message = f"the result {detail} cannot be sent to the caller: {says}"
    elif what == "unreadable":
        message = f"the result cannot be unpickled in the caller: {says}"
    else:
        message = f"{says} (the exception itself cannot be sent to the caller: {detail})"
    failure = RemoteError(message, text)
    if what == "result":
        failure = _maybe_encoding_error(failure, says, detail)
    failure.__cause__ = RemoteTraceback(f'\n"""\n{text}"""')
    return failure


def _maybe_encoding_error(error: RemoteError, exc: str, value: str | None) -> RemoteError:
    from .pool import MaybeEncodingError

    return MaybeEncodingError(exc, value, str(error), error.traceback)
