/* Process slots: birth, proof of death, sweeping. See slot.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "ledger.h"
#include "pz/refs.h"
#include "span.h"

#define STATE(kind, gen) (((uint32_t)(gen) << 16) | (uint32_t)(kind))
#define KIND(state) ((state) & 0xffu)
#define GEN(state) ((state) >> 16)

/* Bytes of the arena's file that are locked for a slot; nothing of it is read or written. */
enum slot_byte {
    OF_THE_LIVING, /* a record lock: this process still maps the arena; exec drops it */
    OF_THE_UNBORN  /* a lock of an open file that a child inherits: it has not claimed its slot yet */
};

static struct flock slot_lock(uint32_t slot, enum slot_byte byte, short type)
{
    off_t start = (off_t)(PZ_SLOT_OFFSET + slot + (byte == OF_THE_UNBORN ? PZ_SLOTS : 0));
    return (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = 1};
}

static void hold_byte(pz_proc *proc, uint32_t slot, short type)
{
    struct flock lock = slot_lock(slot, OF_THE_LIVING, type);
    (void)fcntl(proc->fd, F_SETLK, &lock);
}

static bool byte_is_held(pz_proc *proc, uint32_t slot, enum slot_byte byte)
{
    struct flock lock = slot_lock(slot, byte, F_WRLCK);
    return fcntl(proc->fd, F_GETLK, &lock) < 0 || lock.l_type != F_UNLCK;
}

/* True unless the memory map of a process could be read and does not show the arena. */
static bool still_maps(pz_proc *proc, pid_t pid)
{
    char path[64], line[4096];
    struct stat status;
    snprintf(path, sizeof path, "/proc/%d/maps", (int)pid);
    FILE *maps = fstat(proc->fd, &status) == 0 ? fopen(path, "re") : NULL;
    if (!maps)
        return true;
    struct {
        bool any, found;
    } seen = {false, false};
    while (!seen.found && fgets(line, sizeof line, maps)) {
        unsigned major_, minor_;
        unsigned long inode;
        seen.any = true;
        seen.found = sscanf(line, "%*s %*s %*s %x:%x %lu", &major_, &minor_, &inode) == 3 &&
                     inode == (unsigned long)status.st_ino && makedev(major_, minor_) == status.st_dev;
    }
    fclose(maps);
    return seen.found || !seen.any;
}

int pz_slot_reserve(pz_proc *proc, bool copy, uint32_t *token)
{
    uint32_t start = pz_peek(&proc->header->slot_hint);
    for (int full = 0; full < 3;) {
        int rc = -EAGAIN;
        *token = 0;
        pz_heap_lock(proc);
        for (uint32_t i = 0; i < PZ_SLOTS - 1; i++) {
            uint32_t number = 1 + (start + i) % (PZ_SLOTS - 1);
            pz_slot *slot = pz_slot_at(proc, number);
            uint32_t state = pz_peek(&slot->state);
            if (KIND(state) != PZ_SLOT_FREE)
                continue;
            pz_poke(&proc->header->slot_hint, number);
            /* Nobody reads a free slot, so nothing has to be undone. */
            slot->parent = proc->self;
            slot->pid = 0;
            pz_poke(&slot->start, 0);
            slot->had_parcels = 0;
            slot->parked = 0;
            slot->name[0] = 0;
            pz_poke(&slot->unborn, 0);
            /* Reserved from here on: if this process dies, the slot is swept with whatever it holds by then. */
            pz_store(&slot->state, STATE(PZ_SLOT_RESERVED, GEN(state)));
            *token = PZ_OWNER(number, GEN(state));
            rc = copy ? pz_ledger_copy(proc, proc->slot, number) : 0;
            break;
        }
        pz_heap_unlock(proc);
        if (rc == 0)
            return 0;
        if (copy && *token)
            pz_slot_bury(proc, *token);
        if (rc != -EAGAIN)
            return rc;
        if (*token == 0) { /* no slot is free, unless of the dead */
            full++;
            pz_sweep_all(proc);
            continue;
        }
        /* No memory for the copy. Others may take what is reserved here first, so again, until the limit. */
        rc = pz_heap_reserve(proc, PZ_SMALL_MAX + 4096 * (UINT64_C(1) + (copy ? pz_slot_at(proc, proc->slot)->chunks : 0)));
        if (rc < 0)
            return rc;
    }
    return -EAGAIN;
}

int pz_slot_mark_birth(pz_proc *proc, uint32_t token)
{
    uint32_t number = PZ_OWNER_SLOT(token);
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", proc->fd);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    struct flock lock = slot_lock(number, OF_THE_UNBORN, F_WRLCK);
    if (fcntl(fd, F_OFD_SETLK, &lock) < 0) {
        int rc = -errno;
        close(fd);
        return rc;
    }
    pz_store(&pz_slot_at(proc, number)->unborn, 1);
    return fd;
}

void pz_slot_end_birth(pz_proc *proc, int mark)
{
    close(mark);
    /* To close any descriptor of a file gives up all record locks that the process has on it. Who looks for this one in
     * the meantime reads the memory map. */
    if (proc->slot)
        hold_byte(proc, proc->slot, F_WRLCK);
}

int pz_slot_claim(pz_proc *proc, uint32_t token)
{
    uint32_t number = PZ_OWNER_SLOT(token), gen = PZ_OWNER_GEN(token);
    pz_slot *slot = pz_slot_at(proc, number);
    uint64_t expected = STATE(PZ_SLOT_RESERVED, gen); /* and pid 0 */
    proc->pid = getpid();
    proc->slot = number;
    proc->self = token;
    uint64_t start = pz_process_start(proc->pid, NULL);
    /* Nothing is written before the slot is ours: it may have been swept, and belong to somebody else by now. */
    if (!pz_cas((pz_u64 *)(void *)slot, &expected, (uint64_t)(uint32_t)proc->pid << 32 | STATE(PZ_SLOT_LIVE, gen))) {
        proc->slot = 0;
        proc->self = 0;
        return -ESTALE;
    }
    pz_store(&slot->start, start);
    hold_byte(proc, number, F_WRLCK);
    return 0;
}

enum pz_life pz_owner_life(pz_proc *proc, uint32_t owner)
{
    uint32_t number = PZ_OWNER_SLOT(owner);
    if (number == 0 || owner == proc->self)
        return PZ_ALIVE;
    pz_slot *slot = pz_slot_at(proc, number);
    uint32_t state = pz_load(&slot->state);
    if (GEN(state) != PZ_OWNER_GEN(owner) || KIND(state) == PZ_SLOT_FREE || KIND(state) == PZ_SLOT_SWEEPING)
        return PZ_DEAD;
    if (KIND(state) == PZ_SLOT_RESERVED) {
        if (pz_owner_life(proc, slot->parent) == PZ_DEAD)
            return PZ_DEAD;
        /* A child gives the byte up after its claim, so it is dead, or there is none, if there was no claim by then. */
        bool nobody = pz_load(&slot->unborn) && !byte_is_held(proc, number, OF_THE_UNBORN);
        return nobody && pz_load(&slot->state) == state ? PZ_DEAD : PZ_ALIVE;
    }
    if (!proc->ops->alive(slot->pid, pz_load(&slot->start)))
        return PZ_DEAD;
    if (slot->pid != proc->pid && !byte_is_held(proc, number, OF_THE_LIVING) && !still_maps(proc, slot->pid))
        return PZ_DEAD;
    return PZ_ALIVE;
}

static uint32_t next_gen(uint32_t gen)
{
    return gen == 0xffffu ? 1 : gen + 1; /* a slot that was used is never all zero again */
}

pid_t pz_owner_pid(pz_proc *proc, uint32_t owner)
{
    pz_slot *slot = pz_slot_at(proc, PZ_OWNER_SLOT(owner));
    uint32_t gen = GEN(pz_load(&slot->state));
    if (PZ_OWNER_SLOT(owner) == 0)
        return 0;
    if (gen == PZ_OWNER_GEN(owner))
        return slot->pid;
    return gen == next_gen(PZ_OWNER_GEN(owner)) ? slot->last_pid : 0;
}

static void free_private_parcel(pz_proc *proc, pz_block *block, void *context)
{
    if (block->kind == PZ_PARCEL && pz_peek(&block->owner) == *(const uint64_t *)context)
        pz_parcel_drop(proc, block);
}

/* Inside the heap lock: everything the slot holds. */
static void drop_all(pz_proc *proc, uint32_t number, uint32_t gen)
{
    pz_slot *slot = pz_slot_at(proc, number);
    uint32_t owner = PZ_OWNER(number, gen);
    if (slot->had_parcels) {
        uint64_t mine = PZ_BY_SLOT(owner);
        pz_heap_each(proc, free_private_parcel, &mine);
    }
    pz_span_reclaim(proc, owner);
    pz_ledger_drop(proc, number);
}

/* Inside the heap lock. */
static void sweep_slot(pz_proc *proc, uint32_t number, uint32_t gen)
{
    pz_slot *slot = pz_slot_at(proc, number);
    pz_store(&slot->state, STATE(PZ_SLOT_SWEEPING, gen));
    drop_all(proc, number, gen);
    if (pz_swap(&slot->spinning, 0) && (int32_t)pz_peek(&proc->header->spinners) > 0)
        pz_sub(&proc->header->spinners, 1);
    slot->last_pid = slot->pid;
    slot->had_parcels = 0;
    PZ_ORDER();
    pz_store(&slot->state, STATE(PZ_SLOT_FREE, next_gen(gen)));
}

static void sweep_if(pz_proc *proc, uint32_t owner, bool proved)
{
    uint32_t number = PZ_OWNER_SLOT(owner), gen = PZ_OWNER_GEN(owner);
    if (number == 0)
        return;
    pz_slot *slot = pz_slot_at(proc, number);
    pz_heap_lock(proc);
    uint32_t state = pz_peek(&slot->state);
    bool ours = GEN(state) == gen && KIND(state) != PZ_SLOT_FREE &&
                (proved || KIND(state) == PZ_SLOT_SWEEPING || pz_owner_life(proc, owner) == PZ_DEAD);
    if (ours)
        sweep_slot(proc, number, gen);
    uint64_t waiting = proc->heap->reap;
    pz_heap_unlock(proc);
    if (waiting)
        pz_reap(proc);
}

void pz_sweep(pz_proc *proc, uint32_t owner)
{
    if (owner != proc->self)
        sweep_if(proc, owner, false);
}

void pz_slot_bury(pz_proc *proc, uint32_t token)
{
    sweep_if(proc, token, true);
}

void pz_slot_leave(pz_proc *proc)
{
    if (proc->slot == 0)
        return;
    pz_slot *slot = pz_slot_at(proc, proc->slot);
    uint32_t gen = PZ_OWNER_GEN(proc->self);
    /* The slot stays LIVE while this process may hold the heap lock: who is not LIVE is dead to the others, and a dead
     * owner's lock is taken over. */
    pz_heap_lock(proc);
    drop_all(proc, proc->slot, gen);
    pz_heap_unlock(proc);
    pz_reap(proc);
    slot->last_pid = proc->pid;
    pz_store(&slot->state, STATE(PZ_SLOT_FREE, next_gen(gen)));
    hold_byte(proc, proc->slot, F_UNLCK);
    proc->slot = 0;
    proc->self = 0;
}

int pz_sweep_all(pz_proc *proc)
{
    int swept = 0;
    for (uint32_t number = 1; number < PZ_SLOTS; number++) {
        uint32_t state = pz_load(&pz_slot_at(proc, number)->state), owner = PZ_OWNER(number, GEN(state));
        if (state == 0 && number > pz_peek(&proc->header->slot_hint) + 1)
            break; /* never used, nor anything behind it */
        if (KIND(state) == PZ_SLOT_FREE || owner == proc->self)
            continue;
        if (KIND(state) == PZ_SLOT_SWEEPING || pz_owner_life(proc, owner) == PZ_DEAD) {
            pz_sweep(proc, owner);
            swept++;
        }
    }
    return swept;
}

void pz_sweep_sometimes(pz_proc *proc)
{
    uint64_t now = proc->ops->now(), next = pz_peek(&proc->header->next_sweep);
    if (now < next || !pz_cas(&proc->header->next_sweep, &next, now + 250 * PZ_MS))
        return;
    pz_sweep_all(proc);
    /* Never more than a hundredth of one CPU. */
    uint64_t spent = proc->ops->now() - now;
    if (spent * 100 > 250 * PZ_MS)
        pz_store(&proc->header->next_sweep, now + spent * 100);
}

void pz_parcels_used(pz_proc *proc)
{
    pz_slot *slot = pz_slot_at(proc, proc->slot);
    if (PZ_LIKELY(slot->had_parcels))
        return;
    pz_heap_lock(proc);
    pz_tx(proc, slot->had_parcels);
    slot->had_parcels = 1;
    pz_heap_unlock(proc);
}
