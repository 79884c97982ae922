/* The operating system behind pz_ops: CLOCK_MONOTONIC, shared futexes on absolute deadlines, proofs of death. */
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "pz/base.h"

static uint64_t system_now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * PZ_SECOND + (uint64_t)ts.tv_nsec;
}

static int system_futex_wait(pz_u32 *word, uint32_t expected, uint64_t deadline)
{
    struct timespec ts, *limit = NULL;
    if (deadline != PZ_FOREVER) {
        ts.tv_sec = (time_t)(deadline / PZ_SECOND);
        ts.tv_nsec = (long)(deadline % PZ_SECOND);
        limit = &ts;
    }
    /* WAIT_BITSET takes an absolute time on CLOCK_MONOTONIC. */
    long rc = syscall(SYS_futex, word, FUTEX_WAIT_BITSET, expected, limit, NULL, FUTEX_BITSET_MATCH_ANY);
    return rc == 0 ? 0 : -errno;
}

static int system_futex_wake(pz_u32 *word, int count)
{
    long rc = syscall(SYS_futex, word, FUTEX_WAKE, count, NULL, NULL, 0);
    return rc < 0 ? 0 : (int)rc;
}

uint64_t pz_process_start(pid_t pid, char *state)
{
    char path[48], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    if (state)
        *state = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0)
        return 0;
    text[n] = 0;
    char *p = strrchr(text, ')'); /* the name may hold anything */
    if (!p || p[1] != ' ')
        return 0;
    p += 2;
    if (state)
        *state = *p;
    for (int field = 3; field < 22; field++) {
        p = strchr(p, ' ');
        if (!p)
            return 0;
        p++;
    }
    return strtoull(p, NULL, 10);
}

static bool system_alive(pid_t pid, uint64_t start)
{
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (fd < 0 && errno == ESRCH)
        return false;
    if (fd >= 0) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int ended = poll(&p, 1, 0); /* readable when the whole thread group has ended, zombies included */
        close(fd);
        if (ended > 0)
            return false;
    }
    char state;
    uint64_t now = pz_process_start(pid, &state);
    if (now == 0) /* /proc is hidden: all that is known is that the pid exists */
        return true;
    if (start != 0 && now != start)
        return false;
    return fd >= 0 || (state != 'Z' && state != 'X');
}

static void system_yield(void)
{
    sched_yield();
}

const pz_ops pz_system_ops = {
    .now = system_now,
    .yield = system_yield,
    .futex_wait = system_futex_wait,
    .futex_wake = system_futex_wake,
    .alive = system_alive,
};
