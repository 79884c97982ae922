/* Pipes: two rings in one object, and two ends that refer to it.
 *
 * An end is an object like any other: every process that has it holds a reference, messages may carry it, and when the
 * last reference goes (closed, collected, or swept with a dead process) its ring is shut for the other side.
 */
#include "pz/destroy.h"
#include "pz/ring.h"

static int end_new(pz_proc *proc, uint64_t pipe, uint32_t side, uint32_t mode, pz_ref *ref)
{
    int rc = pz_object_new(proc, sizeof(pz_pipe_end), PZ_PIPE_END, ref);
    if (rc < 0)
        return rc;
    pz_pipe_end *end = pz_at(proc, ref->offset);
    pz_pipe *whole = pz_at(proc, pipe);
    pz_heap_lock(proc);
    pz_tx(proc, end->pipe);
    pz_tx(proc, end->side);
    pz_tx(proc, whole->block.refs);
    end->pipe = pipe;
    end->side = side;
    end->mode = mode;
    whole->block.refs++;
    pz_heap_unlock(proc);
    return 0;
}

int pz_pipe_new(pz_proc *proc, bool duplex, pz_ref ends[2])
{
    pz_ref pipe;
    int rc = pz_object_new(proc, sizeof(pz_pipe), PZ_PIPE, &pipe);
    if (rc < 0)
        return rc;
    pz_pipe *whole = pz_at(proc, pipe.offset);
    for (int i = 0; i < 2 && rc == 0; i++)
        rc = pz_ring_init(proc, &whole->rings[i], 0, PZ_PIPE_BYTES, PZ_RING_PIPE);
    if (rc == 0)
        rc = end_new(proc, pipe.offset, 0, duplex ? PZ_END_READS | PZ_END_WRITES : PZ_END_READS, &ends[0]);
    if (rc == 0) {
        rc = end_new(proc, pipe.offset, 1, duplex ? PZ_END_READS | PZ_END_WRITES : PZ_END_WRITES, &ends[1]);
        if (rc < 0)
            pz_object_close(proc, &ends[0]);
    }
    pz_object_close(proc, &pipe); /* the ends hold it now */
    return rc;
}

void pz_pipe_end_drop(pz_proc *proc, pz_block *block)
{
    pz_pipe_end *end = (pz_pipe_end *)block;
    if (end->pipe == 0)
        return;
    pz_pipe *whole = pz_at(proc, end->pipe);
    if (pz_peek(&whole->rings[0].tail)) {
        pz_ring_shut(proc, &whole->rings[end->side], PZ_NO_WRITER);
        pz_ring_shut(proc, &whole->rings[end->side ^ 1], PZ_NO_READER);
    }
    pz_tx(proc, end->pipe);
    end->pipe = 0;
    pz_unref(proc, &whole->block);
    pz_tx_commit(proc);
}

void pz_pipe_drop(pz_proc *proc, pz_block *block)
{
    pz_pipe *whole = (pz_pipe *)block;
    for (int i = 0; i < 2; i++)
        pz_ring_empty(proc, &whole->rings[i].block);
}
