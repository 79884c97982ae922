/* The ground of the core: atomics, the clock, the futex, and the operations table that tests can replace.
 *
 * Conventions of every function in the core:
 *   - returns 0 (or a non-negative count) on success and a negative errno on failure;
 *   - takes an absolute CLOCK_MONOTONIC deadline in nanoseconds, never a duration; PZ_FOREVER waits without limit;
 *   - keeps offsets into the arena in shared memory, never pointers;
 *   - needs no clean-up by a dying process: whatever it was doing, the next one repairs.
 *
 * A process that is killed has executed a prefix of its instructions, and all stores of that prefix become visible.
 * Crash consistency therefore needs program order only (PZ_ORDER, a compiler barrier); consistency between running
 * processes needs real memory ordering (the C11 atomics).
 */
#ifndef PZ_BASE_H
#define PZ_BASE_H

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PZ_FOREVER UINT64_MAX
#define PZ_LINE 64u
#define PZ_MS UINT64_C(1000000)
#define PZ_US UINT64_C(1000)
#define PZ_SECOND UINT64_C(1000000000)

#define PZ_LIKELY(x) __builtin_expect(!!(x), 1)
#define PZ_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define PZ_COLD __attribute__((noinline, cold))

/* Keeps the compiler from moving stores across: the order in which a killed process has left its traces. */
#define PZ_ORDER() atomic_signal_fence(memory_order_seq_cst)

typedef _Atomic uint32_t pz_u32;
typedef _Atomic uint64_t pz_u64;

#define pz_load(p) atomic_load_explicit((p), memory_order_acquire)
#define pz_peek(p) atomic_load_explicit((p), memory_order_relaxed)
#define pz_store(p, v) atomic_store_explicit((p), (v), memory_order_release)
#define pz_poke(p, v) atomic_store_explicit((p), (v), memory_order_relaxed)
#define pz_swap(p, v) atomic_exchange_explicit((p), (v), memory_order_seq_cst)
#define pz_add(p, v) atomic_fetch_add_explicit((p), (v), memory_order_seq_cst)
#define pz_sub(p, v) atomic_fetch_sub_explicit((p), (v), memory_order_seq_cst)
#define pz_cas(p, old, new_) \
    atomic_compare_exchange_strong_explicit((p), (old), (new_), memory_order_seq_cst, memory_order_acquire)

static inline void pz_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("isb" ::: "memory");
#endif
}

/* What the core asks of the operating system; tests inject their own. */
typedef struct pz_ops {
    uint64_t (*now)(void);
    /* Lets others have the CPU that want it. */
    void (*yield)(void);
    /* Sleeps while *word == expected, at most until the deadline: 0, -EAGAIN, -EINTR or -ETIMEDOUT. */
    int (*futex_wait)(pz_u32 *word, uint32_t expected, uint64_t deadline);
    /* Wakes at most `count` sleepers; returns how many. */
    int (*futex_wake)(pz_u32 *word, int count);
    /* True while the thread group `pid` that started at `start` runs (a zombie does not). */
    bool (*alive)(pid_t pid, uint64_t start);
} pz_ops;

extern const pz_ops pz_system_ops;

/* Start time of a process in clock ticks since boot (field 22 of /proc/PID/stat), 0 if unknown. */
uint64_t pz_process_start(pid_t pid, char *state);

#endif
