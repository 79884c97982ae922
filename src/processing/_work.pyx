# cython: binding=False
"""A worker's half of a pool: takes batches to its desk, runs them call by call, leaves results where no death loses them.

Each result is on the desk before the next call begins. They are passed on when the batch ends, when the desk is full, and
every few milliseconds. Exceptions of calls, SystemExit included, are results like others.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.errno cimport EAGAIN, EBUSY, EINTR, EPIPE
from libc.stdint cimport UINT64_MAX, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from processing.pz cimport *
from processing._message cimport *
from processing._pool cimport *
from processing._program cimport check

from _pickle import loads
from time import sleep

from processing import _failures
from processing import _native
from processing.remote import name_of, pack, pack_unpicklable

cdef pz_proc *proc = <pz_proc *>PyCapsule_GetPointer(_native.proc, PZ_PROC_CAPSULE)
cdef enum:
    RESULT_MAX = 8192  # bytes: a longer result is sent by itself
    KNOWN_MAX = 512
    SPANS_MAX = 64
    HEAD = sizeof(pz_flush)
    SPAN = 9  # a kind of events, see _collect

cdef Seat seat = None  # of this process


def current():
    """The Seat of this process; None if it is no worker."""
    return seat if seat is not None and seat.pid == proc.pid else None


cdef class Seat:
    """The place of this process in a pool."""
    cdef readonly PoolBase pool
    cdef pz_desk *desk
    cdef readonly uint32_t rank, pid
    cdef uint64_t flushed  # coarse time of the last flush
    cdef uint64_t begun    # when what has not been flushed began
    cdef dict known        # pickle of a function -> the function
    cdef list spans        # what a timeline is to show and has not been sent
    cdef uint64_t job_now     # of the call that runs; 0: none does
    cdef uint32_t index_now

    def __init__(self, PoolBase pool not None, rank):
        pz_end_with_parent()
        self.pool = pool
        self.desk = pool.desk_of(rank)
        self.rank = rank
        self.pid = proc.pid
        self.known = {}
        self.spans = []
        store64(&self.desk.results, 0)
        store64(&self.desk.deadline, 0)
        store64(&self.desk.since, proc.ops.now())
        store32(&self.desk.pid, proc.pid)
        store32(&self.desk.owner, proc.self_)
        store64(&self.desk.broadcasting, 0)
        pz_desk_become(self.desk, PZ_DESK_STARTING)
        global seat
        seat = self

    @property
    def job(self):
        """Of the call that runs; None."""
        return self.job_now or None

    @property
    def index(self):
        """Of the call that runs; None."""
        return self.index_now if self.job_now else None

    def task(self):
        """What identifies the call that runs; None."""
        return (self.job_now, self.index_now) if self.job_now else None

    def ready(self, uint64_t memory=0):
        """From now on this worker takes batches. memory: bytes that it has for itself."""
        store64(&self.desk.memory, memory)
        pz_desk_become(self.desk, PZ_DESK_IDLE)

    def leave(self):
        """This worker goes, in an orderly way."""
        cdef pz_batch *batch = <pz_batch *>self.desk.task
        self.send_spans()
        # What is left of a batch stays on the desk: the supervisor puts it back.
        if pz_desk_state(self.desk) != PZ_DESK_TAKEN or load64(&self.desk.at) >= batch.to:
            pz_desk_become(self.desk, PZ_DESK_LEFT)

    def event(self, int kind, payload):
        """Tells the caller something about the call that runs, or about none. ValueError if it is longer than 16,000
        bytes; what pickling raises. Blocks while there is no memory."""
        while True:
            try:
                self.pool.report(kind, self.job_now, self.index_now, payload)
                return
            except MemoryError:
                sleep(0.05)  # until the caller has taken something out

    def fail(self, text):
        """This worker cannot begin, for that reason."""
        cdef bytes data = text.encode(errors="replace")[:RESULT_MAX]
        memcpy(self.desk.result, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        store64(&self.desk.results, <uint64_t>PyBytes_GET_SIZE(data))
        pz_desk_become(self.desk, PZ_DESK_FAILED)

    # -- Taking batches

    def run(self, Py_ssize_t limit):
        """Works until the pool is closed and empty, `limit` calls (0: any number) have ended, or the worker is to
        retire."""
        cdef pz_pool *pool = self.pool.pool()
        cdef uint64_t last = load64(&self.desk.calls) + limit if limit else UINT64_MAX, since, now
        cdef pz_wait wait
        cdef int rc
        pz_wait_init(&wait, PZ_FOREVER)
        or32(&self.desk.orders, PZ_ORDER_BROADCAST)  # there may be one that nobody has heard here
        while True:
            if load32(&self.desk.orders) and self.obey(pool):
                return
            rc = pz_pool_take(proc, pool, self.desk, &wait)
            if rc == 0:
                now = proc.ops.now()
                since = load64(&self.desk.since)
                store64(&self.desk.waited, load64(&self.desk.waited) + now - since)
                store64(&self.desk.since, now)
                if not self.run_batch(pool, now, last):
                    return
                store64(&self.desk.deadline, 0)
                pz_desk_become(self.desk, PZ_DESK_IDLE)
                if load64(&self.desk.calls) >= last:
                    return
                pz_wait_init(&wait, PZ_FOREVER)
                continue
            if rc == -EPIPE:
                self.obey(pool)
                return
            if rc == -EAGAIN or rc == -EBUSY:
                if self.spans:
                    self.send_spans()
                with nogil:
                    rc = pz_pool_await(proc, pool, self.desk, self.rank, &wait)
                if rc == -EINTR:
                    PyErr_CheckSignals()
                    rc = 0
            check(rc, self.pool)

    cdef bint obey(self, pz_pool *pool) except -1:
        """Carries out orders; whether this worker is to leave."""
        cdef uint32_t orders = load32(&self.desk.orders)
        if orders & PZ_ORDER_BROADCAST:
            and32(&self.desk.orders, ~<uint32_t>PZ_ORDER_BROADCAST)
            self.run_broadcast(pool)
        return orders & PZ_ORDER_RETIRE != 0

    cdef int run_broadcast(self, pz_pool *pool) except -1:
        """Runs what every worker is to run, unless it was run at this desk."""
        cdef uint64_t number = load64(&pool.broadcast), job = load64(&pool.broadcast_job), now = proc.ops.now()
        cdef pz_item_object where
        cdef pz_batch batch
        cdef uint8_t type = <uint8_t>pool.message_type
        cdef int status = PZ_RESULT_VALUE
        where.offset = pool.message
        where.gen = pool.message_gen
        pz_read_before()
        if not job or number <= load64(&self.desk.broadcast) or self.rank >= load32(&pool.audience):
            return 0
        if number != load64(&pool.broadcast):
            or32(&self.desk.orders, PZ_ORDER_BROADCAST)
            return 0  # the next one is being written
        batch.job, batch.first, self.begun = job, self.rank, now
        self.flushed = pz_coarse_now()
        store64(&self.desk.broadcasting, job)
        store64(&self.desk.broadcast, number)
        self.job_now, self.index_now = job, self.rank
        try:
            function, args, kwds = open_value(&where, type, True)
            value = function(*args, **kwds)
        except BaseException as error:
            status = PZ_RESULT_ERROR
            error.__traceback__ = error.__traceback__.tb_next or error.__traceback__
            value = pack(error)
        self.job_now = self.index_now = 0
        self.add(pool, &batch, 0, status, value)
        self.flush(pool)
        store64(&self.desk.broadcasting, 0)
        return 0

    # -- Running them

    cdef bint run_batch(self, pz_pool *pool, uint64_t now, uint64_t last) except -1:
        """False if something of it is left, as `last` calls have been run."""
        cdef pz_batch *batch = <pz_batch *>self.desk.task
        cdef uint8_t *at = <uint8_t *>(batch + 1)
        cdef pz_item *item = <pz_item *>at
        cdef uint32_t i = 0
        cdef bint copied = batch.flags & PZ_BATCH_PRIVATE
        cdef uint64_t timeout = <uint64_t>batch.timeout * 1000000
        cdef bint tracing = load32(&pool.tracing) != 0, complete = True
        failure = function = None
        self.begun = now
        self.flushed = pz_coarse_now()
        try:
            function = self.function_of(item, copied)
        except BaseException as error:
            failure = pack(error)
        at += sizeof(pz_item) + PZ_ROUND8(item.length)
        name = name_of(function) if tracing else None
        while i < batch.to:
            item = <pz_item *>at
            at += sizeof(pz_item) + PZ_ROUND8(item.length)
            if i >= batch.begin:
                if load64(&self.desk.calls) >= last:
                    complete = False
                    break
                if pz_pool_is_cancelled(pool, batch.job, batch.first + i):
                    self.add(pool, batch, i, PZ_RESULT_CANCELLED, None)
                elif failure is not None:
                    self.add(pool, batch, i, PZ_RESULT_ERROR, failure)
                else:
                    store64(&self.desk.started, proc.ops.now() if timeout or tracing else self.flushed)
                    if timeout:
                        store64(&self.desk.deadline, load64(&self.desk.started) + timeout)
                    store64(&self.desk.at, i | PZ_RUNNING)
                    self.run_call(pool, batch, i, function, item, copied, name)
                store64(&self.desk.at, i + 1)
                store64(&self.desk.calls, load64(&self.desk.calls) + 1)
            i += 1
        self.flush(pool)
        now = proc.ops.now()
        store64(&self.desk.busy, load64(&self.desk.busy) + now - load64(&self.desk.since))
        store64(&self.desk.since, now)
        self.job_now = self.index_now = 0
        return complete

    cdef int run_call(
        self, pz_pool *pool, pz_batch *batch, uint32_t i, function, pz_item *item, bint copied, name
    ) except -1:
        cdef int status = PZ_RESULT_VALUE
        self.job_now, self.index_now = batch.job, batch.first + i
        try:
            argument = self.value_of(item, copied)
            if batch.kind == PZ_CALL_ONE:
                value = function(argument)
            elif batch.kind == PZ_CALL_STAR:
                value = function(*argument)
            else:
                value = function(*argument[0], **argument[1])
        except BaseException as error:
            status = PZ_RESULT_ERROR
            error.__traceback__ = error.__traceback__.tb_next or error.__traceback__
            value = pack(error)
        argument = None  # it may be large: gone before the result is looked at
        if name is not None:
            self.note_span(name, load64(&self.desk.started), status == PZ_RESULT_VALUE)
        self.add(pool, batch, i, status, value)
        return 0

    cdef int note_span(self, name, uint64_t started, bint ok) except -1:
        self.spans.append((self.job, self.index, name, started, proc.ops.now(), ok))
        if len(self.spans) >= SPANS_MAX:
            self.send_spans()
        return 0

    cdef int send_spans(self) except -1:
        if self.spans:
            self.event(SPAN, (self.rank, self.pid, self.spans))
            self.spans = []
        return 0

    cdef object function_of(self, pz_item *item, bint copied):
        cdef bytes key
        if not item.flags & PZ_ITEM_CACHE:
            return self.value_of(item, copied)
        key = (<const char *>(item + 1))[:item.length]
        function = self.known.get(key)
        if function is None:
            function = loads(key)
            if len(self.known) >= KNOWN_MAX:
                self.known.clear()
            self.known[key] = function
        return function

    cdef object value_of(self, pz_item *item, bint copied):
        cdef const uint8_t *data = <const uint8_t *>(item + 1)
        cdef const pz_item *part
        cdef size_t used = 0
        if item.flags & PZ_ITEM_OBJECT:
            return open_value(<const pz_item_object *>data, item.type, copied)
        if item.flags & PZ_ITEM_TUPLE:
            values = []
            while used < item.length:
                part = <const pz_item *>(data + used)
                values.append(pz_decode(part.type, part + 1, part.length))
                used += sizeof(pz_item) + PZ_ROUND8(part.length)
            return tuple(values)
        if item.type == PZ_VALUE_PICKLE:
            return loads((<const char *>data)[:item.length])
        return pz_decode(item.type, data, item.length)

    # -- Results

    cdef int add(self, pz_pool *pool, pz_batch *batch, uint32_t i, int status, value) except -1:
        """The result of a call: onto the desk, or, if it is long, on its way."""
        cdef pz_encoded quick
        cdef const pz_encoded *encoded = &quick
        cdef Message message = None
        cdef uint64_t results = load64(&self.desk.results)
        cdef uint32_t used = results & 0xffffffff, count = results >> 32
        cdef size_t need
        cdef pz_result *result
        cdef uint64_t now
        if not pz_encode(value, &quick) or quick.length > RESULT_MAX:
            try:
                know_arrays()
                message = make_message(value, "a result", 4096, True)
            except BaseException as error:
                status = PZ_RESULT_ERROR
                message = make_message(pack_unpicklable(error, value), "a result")
            encoded = &message.encoded
            if message.parcel or message.encoded.length > RESULT_MAX:
                return self.send_large(pool, batch, i, status, message)
        need = sizeof(pz_result) + PZ_ROUND8(encoded.length)
        if used == 0:
            used = HEAD
        elif used + need > PZ_INLINE_MAX:
            self.flush(pool)
            used, count = HEAD, 0
        result = <pz_result *>(self.desk.result + used)
        result.job = batch.job
        result.index = batch.first + i
        result.length = <uint32_t>encoded.length
        result.type = encoded.type
        result.status = status
        memcpy(result + 1, encoded.data, encoded.length)
        store64(&self.desk.results, <uint64_t>(count + 1) << 32 | (used + need))
        if pz_desk_state(self.desk) == PZ_DESK_TAKEN:
            store64(&self.desk.at, i + 1)  # before it is passed on: then nobody runs it again
        now = pz_coarse_now()
        if now != self.flushed:
            self.flush(pool)
            self.flushed = now
        return 0

    cdef int flush(self, pz_pool *pool) except -1:
        """Passes on what has ended."""
        cdef uint64_t results = load64(&self.desk.results), now
        cdef pz_flush *head = <pz_flush *>self.desk.result
        if results == 0:
            return 0
        if self.spans:
            self.send_spans()  # first: who has a result finds its span
        now = proc.ops.now()
        head.ns = now - self.begun
        head.rank = self.rank
        head.count = <uint32_t>(results >> 32)
        self.begun = now
        while True:
            try:
                self.pool.send(&pool.results, PZ_MESSAGE_RESULTS, self.desk.result, results & 0xffffffff)
                break
            except MemoryError:
                sleep(0.05)  # until the caller has taken something out
        store64(&self.desk.results, 0)
        return 0

    cdef int send_large(self, pz_pool *pool, pz_batch *batch, uint32_t i, int status, Message message) except -1:
        cdef pz_result head
        self.flush(pool)
        head.job = batch.job
        head.index = batch.first + i
        head.status = status
        head.type = message.encoded.type
        head.length = 0
        in_parcel(message, "a result")
        self.pool.send_parcel(&pool.results, &head, message.encoded.type, message.parcel)
        message.parcel = 0
        return 0


cdef object open_value(const pz_item_object *where, uint8_t type, bint copied):
    """The value of an argument that is an object of the arena. Arrays in it are views on that, or on a copy."""
    cdef uint16_t kind
    cdef pz_ref ref
    check(pz_object_open(proc, where.offset, where.gen, &ref, &kind), "an argument")
    handle = _native.adopt(Buffer, PZ_BUFFER, ref.offset, ref.gen, ref.entry, 0)
    return argument_of(<pz_parcel *>pz_at(proc, where.offset), type, handle, copied)
