"""POSIX message queues, on their descriptors.

Owns nothing: every function takes the descriptor of a queue, which on Linux is a file descriptor (mq_overview(7)), and
the caller closes it. All descriptors are non-blocking, which is a property that everybody who inherited one shares.

    try mq_send or mq_receive, with the GIL    a system call that never sleeps
      full or empty: poll the descriptor       without the GIL, until a deadline
      somebody else was faster: once more

poll, because the deadlines of mq_timedsend and mq_timedreceive are on a clock that can be set; ours are on the
monotonic one: nanoseconds, 0 for not at all, negative for never. The kernel does each send and receive completely or
not at all, so a process may be killed anywhere.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from posix.fcntl cimport O_CREAT, O_EXCL, O_NONBLOCK, O_RDWR
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

import os

cdef extern from "<fcntl.h>" nogil:
    int O_CLOEXEC

cdef extern from "<mqueue.h>" nogil:
    ctypedef int mqd_t
    struct mq_attr:
        long mq_flags
        long mq_maxmsg
        long mq_msgsize
        long mq_curmsgs
    mqd_t mq_open(const char *name, int oflag, unsigned int mode, mq_attr *attr)
    int mq_close(mqd_t mqdes)
    int mq_unlink(const char *name)
    int mq_getattr(mqd_t mqdes, mq_attr *attr)
    int mq_send(mqd_t mqdes, const char *data, size_t length, unsigned int priority)
    ssize_t mq_receive(mqd_t mqdes, char *data, size_t size, unsigned int *priority)

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int ppoll(pollfd *fds, unsigned long count, const timespec *timeout, const void *mask)
    short POLLIN
    short POLLOUT

cdef int64_t SECOND = 1_000_000_000


cdef int64_t now() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <int64_t>t.tv_sec * SECOND + t.tv_nsec


cdef object failed(int code):
    return OSError(code, os.strerror(code))


cdef bint wait(int fd, short events, int64_t deadline) except -1:
    """Sleeps until the queue may have room (POLLOUT) or a message (POLLIN); False at the deadline."""
    cdef pollfd one
    cdef timespec left
    cdef int64_t remaining
    cdef int rc, code
    if deadline == 0:
        return False
    while True:
        one.fd = fd
        one.events = events
        one.revents = 0
        remaining = 0
        if deadline > 0:
            remaining = deadline - now()
            if remaining <= 0:
                return False
            left.tv_sec = remaining // SECOND
            left.tv_nsec = remaining % SECOND
        with nogil:
            rc = ppoll(&one, 1, &left if deadline > 0 else NULL, NULL)
            code = errno
        if rc > 0:
            return True
        if rc < 0 and code != EINTR:
            raise failed(code)
        # Interrupted, or the time is up: the handlers of signals run here, and may raise.
        PyErr_CheckSignals()


def create(name, long maxsize, long msgsize):
    """A new queue that nobody else can open: `name` (bytes, with its slash) is gone again. -> its descriptor."""
    cdef bytes path = name
    cdef const char *c_path = path
    cdef mq_attr attr
    cdef int fd, code
    attr.mq_flags = 0
    attr.mq_maxmsg = maxsize
    attr.mq_msgsize = msgsize
    attr.mq_curmsgs = 0
    while True:
        with nogil:
            fd = mq_open(c_path, O_CREAT | O_EXCL | O_RDWR | O_NONBLOCK | O_CLOEXEC, 0o600, &attr)
            code = errno
            if fd >= 0:
                mq_unlink(c_path)
        if fd >= 0:
            return fd
        if code != EINTR:
            raise failed(code)
        PyErr_CheckSignals()


def close(int fd):
    """Gives the descriptor back."""
    if mq_close(fd) < 0:
        raise failed(errno)


def attributes(int fd):
    """(most messages, longest message in bytes, messages now)"""
    cdef mq_attr attr
    if mq_getattr(fd, &attr) < 0:
        raise failed(errno)
    return attr.mq_maxmsg, attr.mq_msgsize, attr.mq_curmsgs


def send(int fd, list messages, int64_t deadline):
    """Sends bytes objects in order; -> how many, which is fewer than given only if the deadline passed."""
    cdef Py_ssize_t sent = 0
    cdef bytes message
    cdef int code
    while sent < len(messages):
        message = messages[sent]
        if mq_send(fd, PyBytes_AS_STRING(message), <size_t>PyBytes_GET_SIZE(message), 0) == 0:
            sent += 1
            continue
        code = errno
        if code == EINTR:
            PyErr_CheckSignals()
        elif code != EAGAIN:
            raise failed(code)
        elif not wait(fd, POLLOUT, deadline):
            break
    return sent


def receive(int fd, Py_ssize_t size, Py_ssize_t most, int64_t deadline):
    """Waits for a message, then takes those that are there, `most` at most (negative: all); -> list of bytes, empty at
    the deadline. `size`: the longest that a message can be."""
    cdef list messages = []
    cdef ssize_t length
    cdef int code
    cdef char *buffer = <char *>malloc(<size_t>size)
    if buffer == NULL:
        raise MemoryError(f"no memory for a message of {size} bytes")
    try:
        while most < 0 or len(messages) < most:
            length = mq_receive(fd, buffer, <size_t>size, NULL)
            if length >= 0:
                messages.append(PyBytes_FromStringAndSize(buffer, length))
                continue
            code = errno
            if messages:
                break  # whatever the matter is, what was taken has to be handed over
            if code == EINTR:
                PyErr_CheckSignals()
            elif code != EAGAIN:
                raise failed(code)
            elif not wait(fd, POLLIN, deadline):
                break
    finally:
        free(buffer)
    return messages
