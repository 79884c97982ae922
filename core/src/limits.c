/* What the machine and its control groups allow: memory in bytes, CPUs. Read when needed, never cached for long. */
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pz/arena.h"

/* The first number in a small file; `fallback` if there is none ("max" included). */
static uint64_t number_in(const char *path, uint64_t fallback)
{
    char text[64];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return fallback;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0)
        return fallback;
    text[n] = 0;
    char *end;
    uint64_t value = strtoull(text, &end, 10);
    return end == text ? fallback : value;
}

static size_t text_in(const char *path, char *text, size_t room)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, text, room - 1);
    if (fd >= 0)
        close(fd);
    text[n > 0 ? n : 0] = 0;
    return n > 0 ? (size_t)n : 0;
}

typedef void (*level_fn)(const char *directory, void *context);

/* Calls `visit` for the directory of each visible level of this process's cgroup that has the controller: v2, and the
 * v1 hierarchy of that name. In a container the path may not exist below the mount; then the root itself is looked at. */
static void each_level(const char *controller, level_fn visit, void *context)
{
    char text[4096], directory[4600];
    if (!text_in("/proc/self/cgroup", text, sizeof text))
        return;
    for (char *save = NULL, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char *names = strchr(line, ':'), *path = names ? strchr(names + 1, ':') : NULL;
        if (!path)
            continue;
        *path++ = 0;
        names++;
        bool v2 = *names == 0, wanted = v2;
        for (char *s = NULL, *name = strtok_r(names, ",", &s); name; name = strtok_r(NULL, ",", &s))
            wanted = wanted || strcmp(name, controller) == 0;
        if (!wanted)
            continue;
        const char *roots[] = {v2 ? "/sys/fs/cgroup" : NULL, v2 ? "/sys/fs/cgroup/unified" : NULL};
        char v1[64];
        if (!v2) {
            snprintf(v1, sizeof v1, "/sys/fs/cgroup/%s", strcmp(controller, "cpu") == 0 ? "cpu" : controller);
            roots[0] = v1;
        }
        for (size_t i = 0; i < 2; i++) {
            if (!roots[i] || access(roots[i], R_OK) != 0)
                continue;
            size_t root = strlen(roots[i]);
            snprintf(directory, sizeof directory, "%s%s", roots[i], strcmp(path, "/") == 0 ? "" : path);
            for (;;) {
                visit(directory, context);
                char *slash = strrchr(directory, '/');
                if (strlen(directory) <= root || !slash)
                    break;
                *slash = 0;
            }
        }
    }
}

struct memory_levels {
    uint64_t limit, headroom;
};

static void memory_level(const char *directory, void *context)
{
    struct memory_levels *found = context;
    char path[4700];
    snprintf(path, sizeof path, "%s/memory.max", directory);
    uint64_t limit = number_in(path, UINT64_MAX), use = 0;
    if (limit != UINT64_MAX) {
        snprintf(path, sizeof path, "%s/memory.current", directory);
    } else {
        snprintf(path, sizeof path, "%s/memory.limit_in_bytes", directory);
        limit = number_in(path, UINT64_MAX);
        snprintf(path, sizeof path, "%s/memory.usage_in_bytes", directory);
    }
    if (limit >= (UINT64_C(1) << 62)) /* v1 says "no limit" by a huge number */
        return;
    use = number_in(path, 0);
    if (limit < found->limit)
        found->limit = limit;
    uint64_t room = use < limit ? limit - use : 0;
    if (room < found->headroom)
        found->headroom = room;
}

uint64_t pz_memory_default(void)
{
    struct memory_levels found = {UINT64_MAX, UINT64_MAX};
    each_level("memory", memory_level, &found);
    uint64_t machine = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    return (found.limit < machine ? found.limit : machine) / 2;
}

uint64_t pz_memory_headroom(void)
{
    struct memory_levels found = {UINT64_MAX, UINT64_MAX};
    each_level("memory", memory_level, &found);
    return found.headroom;
}

static void cpu_level(const char *directory, void *context)
{
    double *quota = context;
    char path[4700], text[128];
    long long limit = -1, period = 0;
    snprintf(path, sizeof path, "%s/cpu.max", directory);
    if (text_in(path, text, sizeof text)) {
        if (sscanf(text, "%lld %lld", &limit, &period) != 2)
            return;
    } else {
        snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", directory);
        if (!text_in(path, text, sizeof text))
            return;
        limit = strtoll(text, NULL, 10);
        snprintf(path, sizeof path, "%s/cpu.cfs_period_us", directory);
        period = (long long)number_in(path, 0);
    }
    if (limit > 0 && period > 0 && (double)limit / (double)period < *quota)
        *quota = (double)limit / (double)period;
}

double pz_cpu_quota(void)
{
    double quota = 1e9;
    each_level("cpu", cpu_level, &quota);
    return quota;
}

uint32_t pz_cpus(pz_proc *proc)
{
    uint64_t now = proc->ops->now(), looked = pz_peek(&proc->cpus_looked);
    if (looked && now - looked < 10 * PZ_MS)
        return pz_peek(&proc->cpus);
    cpu_set_t set;
    uint32_t count = 1;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        count = (uint32_t)CPU_COUNT(&set);
    else
        count = (uint32_t)sysconf(_SC_NPROCESSORS_ONLN);
    if ((double)count > proc->header->quota)
        count = (uint32_t)proc->header->quota;
    if (count < 1)
        count = 1;
    pz_poke(&proc->cpus, count);
    pz_poke(&proc->cpus_looked, now);
    return count;
}
