/* What every test of the core needs: checks that stay on, an arena, threads, children. */
#ifndef PZ_TEST_HELPER_H
#define PZ_TEST_HELPER_H

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "pz/ring.h"

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            abort(); \
        } \
    } while (0)

#define RUN(test) \
    do { \
        fprintf(stderr, "  %s\n", #test); \
        alarm(60); \
        test(); \
    } while (0)

/* Repeats a blocking call while it says -EINTR. */
#define STEADY(rc, call) \
    do \
        rc = (call); \
    while (rc == -EINTR)

static pz_proc P;

__attribute__((unused)) static pz_memory memory(void)
{
    pz_memory memory;
    pz_memory_get(&P, &memory);
    return memory;
}

__attribute__((unused)) static void check_valid(void)
{
    pz_heap_lock(&P);
    int rc = pz_heap_valid(&P);
    pz_heap_unlock(&P);
    if (rc != 0)
        fprintf(stderr, "the heap says %s\n", strerror(-rc));
    CHECK(rc == 0);
}

__attribute__((unused)) static void begin(uint64_t limit, const pz_ops *ops)
{
    CHECK(pz_arena_create(&P, limit, ops) == 0);
}

__attribute__((unused)) static void end(void)
{
    check_valid();
    pz_slot_leave(&P);
    pz_arena_unmap(&P);
}

__attribute__((unused)) static pz_wait forever(void)
{
    pz_wait wait;
    pz_wait_init(&wait, PZ_FOREVER);
    return wait;
}

__attribute__((unused)) static pz_wait within(uint64_t ns)
{
    pz_wait wait;
    pz_wait_init(&wait, P.ops->now() + ns);
    return wait;
}

__attribute__((unused)) static void *object(uint64_t size, enum pz_kind kind, pz_ref *ref)
{
    CHECK(pz_object_new(&P, size, kind, ref) == 0);
    return pz_at(&P, ref->offset);
}

/* A child with its own slot and a copy of our references. */
typedef struct child {
    pid_t pid;
    uint32_t token;
} child;

__attribute__((unused)) static child start(void (*run)(void))
{
    child c;
    CHECK(pz_slot_reserve(&P, true, &c.token) == 0);
    c.pid = fork();
    CHECK(c.pid >= 0);
    if (c.pid == 0) {
        alarm(60);
        CHECK(pz_slot_claim(&P, c.token) == 0);
        run();
        pz_slot_leave(&P);
        _exit(0);
    }
    return c;
}

__attribute__((unused)) static void finish(child c)
{
    int status;
    CHECK(waitpid(c.pid, &status, 0) == c.pid && status == 0);
    pz_slot_bury(&P, c.token);
}

/* Killed, and nobody buries it: the others have to find out. */
__attribute__((unused)) static void kill_child(child c)
{
    int status;
    CHECK(kill(c.pid, SIGKILL) == 0 && waitpid(c.pid, &status, 0) == c.pid && WIFSIGNALED(status));
}

/* Waits until another process or thread has brought a word to a value. */
__attribute__((unused)) static void until(pz_u32 *word, uint32_t value)
{
    while (pz_load(word) != value)
        usleep(100);
}

#define THREADS 4
__attribute__((unused)) static void in_threads(void *(*run)(void *))
{
    pthread_t thread[THREADS];
    for (long i = 0; i < THREADS; i++)
        CHECK(pthread_create(&thread[i], NULL, run, (void *)i) == 0);
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_join(thread[i], NULL) == 0);
}

/* A generator for each thread. */
static inline uint32_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return (uint32_t)(*state >> 11);
}

#endif
