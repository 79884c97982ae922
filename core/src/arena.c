/* Making and mapping the arena. See arena.h. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pz/slot.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif
#ifndef MADV_DONTDUMP
#define MADV_DONTDUMP 16
#endif

#define SMALLEST (UINT64_C(32) << 20)

/* A descriptor of an empty unnamed file in memory; without memfd_create, an unlinked file. */
static int make_file(void)
{
    int fd = memfd_create("processing", MFD_CLOEXEC | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL) /* before Linux 6.3 */
        fd = memfd_create("processing", MFD_CLOEXEC);
    if (fd >= 0 || (errno != ENOSYS && errno != EPERM))
        return fd < 0 ? -errno : fd;
    const char *directories[] = {"/dev/shm", getenv("TMPDIR"), "/tmp"};
    int error = -ENOENT;
    for (size_t i = 0; i < 3; i++) {
        if (!directories[i])
            continue;
        fd = open(directories[i], O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
        if (fd >= 0)
            return fd;
        error = -errno;
    }
    return error;
}

static int map(pz_proc *proc, uint64_t size)
{
    void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, proc->fd, 0);
    if (base == MAP_FAILED)
        return -errno;
    /* A core dump of the arena would be as large as all shared data and holds nothing of the crash. */
    madvise(base, size, MADV_DONTDUMP);
    proc->base = base;
    proc->size = size;
    proc->header = base;
    proc->heap = pz_at(proc, PZ_HEAP_OFFSET);
    return 0;
}

static void prepare(pz_proc *proc, int fd, const pz_ops *ops)
{
    memset(proc, 0, sizeof *proc);
    proc->fd = fd;
    proc->ops = ops ? ops : &pz_system_ops;
    proc->pid = getpid();
}

int pz_arena_create(pz_proc *proc, uint64_t limit, const pz_ops *ops)
{
    if (limit == 0)
        limit = pz_memory_default();
    int fd = make_file();
    if (fd < 0)
        return fd;
    prepare(proc, fd, ops);
    /* Room for holes between blocks in use: four times the memory, less where address space or file size is limited. */
    uint64_t size = limit < (UINT64_C(1) << 42) ? limit * 4 : UINT64_C(1) << 44;
    if (size < (UINT64_C(1) << 30))
        size = UINT64_C(1) << 30;
    size = (size + PZ_PAGE - 1) & ~(PZ_PAGE - 1);
    struct rlimit file;
    if (getrlimit(RLIMIT_FSIZE, &file) == 0 && file.rlim_cur != RLIM_INFINITY && size > file.rlim_cur)
        size = (uint64_t)file.rlim_cur & ~(PZ_PAGE - 1);
    struct rlimit space;
    if (getrlimit(RLIMIT_AS, &space) == 0 && space.rlim_cur != RLIM_INFINITY && size > space.rlim_cur / 2)
        size = (uint64_t)(space.rlim_cur / 2) & ~(PZ_PAGE - 1);
    int rc = -ENOMEM;
    for (; size >= SMALLEST; size = (size / 2) & ~(PZ_PAGE - 1)) {
        if (ftruncate(fd, (off_t)size) < 0) {
            rc = -errno;
            continue;
        }
        rc = map(proc, size);
        if (rc == 0)
            break;
    }
    if (rc < 0) {
        close(fd);
        return rc;
    }
    pz_header *header = proc->header;
    header->layout = PZ_LAYOUT;
    header->page_size = (uint32_t)sysconf(_SC_PAGESIZE);
    header->size = size;
    header->root = proc->pid;
    header->quota = pz_cpu_quota();
    if (getrandom(&header->program, sizeof header->program, 0) != sizeof header->program)
        header->program = proc->ops->now() ^ (uint64_t)proc->pid << 40;
    header->program |= 1;
    pz_heap_init(proc, limit < size ? limit : size);
    header->magic = PZ_MAGIC;
    uint32_t token;
    rc = pz_slot_reserve(proc, false, &token);
    if (rc == 0)
        rc = pz_slot_claim(proc, token);
    if (rc < 0)
        pz_arena_unmap(proc);
    return rc;
}

int pz_arena_map(pz_proc *proc, int fd, const pz_ops *ops)
{
    struct stat status;
    pz_header header;
    if (fstat(fd, &status) < 0)
        return -errno;
    if (pread(fd, &header, sizeof header, 0) != (ssize_t)sizeof header || header.magic != PZ_MAGIC ||
        header.layout != PZ_LAYOUT || header.size != (uint64_t)status.st_size)
        return -EPROTO;
    prepare(proc, fd, ops);
    return map(proc, header.size);
}

void pz_arena_unmap(pz_proc *proc)
{
    if (proc->base)
        munmap(proc->base, proc->size);
    if (proc->fd >= 0)
        close(proc->fd);
    proc->base = NULL;
    proc->fd = -1;
}
