/* The arena: one sparse memfd that every process of a program maps whole, at any address.
 *
 *   offset 0        header | heap state | slot table | page table | pages of 64 KiB ...
 *
 * The file is as long as the address space reserved for it; memory is taken only where it is backed (heap.c), so the
 * length costs nothing. One mapping that never moves makes "offset to pointer" one addition.
 */
#ifndef PZ_ARENA_H
#define PZ_ARENA_H

#include "base.h"

#define PZ_MAGIC UINT64_C(0x31616e6572617a70) /* "pzarena1" */
#define PZ_LAYOUT 1u
#define PZ_PAGE_SHIFT 16
#define PZ_PAGE (UINT64_C(1) << PZ_PAGE_SHIFT)
#define PZ_SLOTS 4096u

#define PZ_HEADER_OFFSET 0u
#define PZ_HEAP_OFFSET 4096u
#define PZ_SLOT_OFFSET 16384u
#define PZ_SLOT_SIZE 256u
#define PZ_TABLE_OFFSET (PZ_SLOT_OFFSET + PZ_SLOTS * PZ_SLOT_SIZE)

typedef struct pz_header {
    uint64_t magic;
    uint32_t layout;
    uint32_t page_size; /* of the machine */
    uint64_t size;      /* bytes of address space */
    uint64_t program;   /* random identity of the program */
    pid_t root;         /* pid of the process that made it */
    uint32_t reserved;
    double quota; /* CPUs that the cgroups allowed when it was made */
    _Alignas(PZ_LINE) pz_u32 spinners; /* processes that spin now */
    pz_u32 slot_hint;
    pz_u64 next_sweep; /* when pz_sweep_sometimes may sweep again */
} pz_header;

/* This process's view of an arena; lives in private memory. */
typedef struct pz_proc {
    uint8_t *base;
    uint64_t size;
    pz_header *header;
    struct pz_heap *heap;
    const pz_ops *ops;
    int fd;
    pid_t pid;
    uint32_t slot;
    uint32_t self; /* PZ_OWNER of this process, as it stands in lock words */
    pz_u32 cpus;   /* CPUs this process may use, at last look */
    pz_u64 cpus_looked;
} pz_proc;

static inline void *pz_at(const pz_proc *proc, uint64_t offset)
{
    return proc->base + offset;
}

static inline uint64_t pz_offset(const pz_proc *proc, const void *pointer)
{
    return (uint64_t)((const uint8_t *)pointer - proc->base);
}

/* Makes a new arena that may use `limit` bytes of memory (0: half of what the machine or its cgroups allow) and
 * attaches the caller to it. -ENOMEM if no useful amount of address space can be had; the errno of memfd_create. */
int pz_arena_create(pz_proc *proc, uint64_t limit, const pz_ops *ops);

/* Maps the arena behind an inherited descriptor. -EPROTO if it is not an arena of this layout. Takes no slot. */
int pz_arena_map(pz_proc *proc, int fd, const pz_ops *ops);

/* Unmaps and closes; the process must have given up its slot. */
void pz_arena_unmap(pz_proc *proc);

/* Half of the memory that the machine and the visible cgroups (v1 and v2) allow, in bytes. */
uint64_t pz_memory_default(void);
/* The bytes that the tightest visible cgroup still has to give; UINT64_MAX without a limit. */
uint64_t pz_memory_headroom(void);
/* CPUs that the tightest visible cgroup allows, maybe a fraction; 1e9 without a limit. */
double pz_cpu_quota(void);
/* CPUs that this process may use: affinity and cgroup quotas, at least 1; refreshed at most every 10 ms. */
uint32_t pz_cpus(pz_proc *proc);

#endif
