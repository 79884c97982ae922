/* The stepper. See proof.h.
 *
 * PZ_PROOF=full      every boundary; otherwise a sample of them
 * PZ_PROOF_SEED=n    of the sample, of where in `first` the first one is killed, and of when the poke comes
 * PZ_PROOF_ONLY=name, PZ_PROOF_AT=k   one operation, one boundary
 */
#include "proof.h"

#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define WHOLE 4000000
#define LIMIT (UINT64_C(64) << 20)

pz_proc P;
bool done;
uint32_t victim, corpse;

static const op *now_proved;
static long now_at, first_at = -1;
static uint64_t seed;
static struct {
    uint64_t boundaries, steps, kills;
} total;

/* ---- the world of the proof: waits are cut short, so that the dead are found soon -------------------------------- */

static uint64_t world_now(void)
{
    struct timespec ts;
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &ts); /* one instruction to step over, unlike the vDSO's */
    return (uint64_t)ts.tv_sec * PZ_SECOND + (uint64_t)ts.tv_nsec;
}

static void world_yield(void)
{
    pz_system_ops.yield();
}

static int world_futex_wait(pz_u32 *word, uint32_t expected, uint64_t deadline)
{
    uint64_t soon = world_now() + PZ_MS / 20;
    int rc = pz_system_ops.futex_wait(word, expected, soon < deadline ? soon : deadline);
    return rc == -ETIMEDOUT && soon < deadline ? -EINTR : rc;
}

static int world_futex_wake(pz_u32 *word, int count)
{
    return pz_system_ops.futex_wake(word, count);
}

static pid_t frozen; /* stopped for good, as far as the others can tell */

static bool world_alive(pid_t pid, uint64_t start)
{
    (void)start;
    return pid != frozen && kill(pid, 0) == 0; /* everybody is reaped at once here */
}

static const pz_ops world = {world_now, world_yield, world_futex_wait, world_futex_wake, world_alive};

pz_wait forever(void)
{
    pz_wait wait;
    pz_wait_init(&wait, PZ_FOREVER);
    return wait;
}

bool is_dead(uint32_t owner)
{
    return pz_owner_life(&P, owner) == PZ_DEAD;
}

/* ---- failing ----------------------------------------------------------------------------------------------------- */

static void say_where(void)
{
    fprintf(stderr, "in '%s' killed after %ld instructions", now_proved->name, now_at);
    if (now_proved->first)
        fprintf(stderr, ", after '%s' was killed after %ld", now_proved->first->name, first_at);
    fprintf(stderr, " (seed %llu)\n", (unsigned long long)seed);
}

_Noreturn void broken(const char *what, const char *file, int line)
{
    fprintf(stderr, "%s:%d: not so: %s\n", file, line, what);
    say_where();
    abort();
}

static void too_long(int signal)
{
    (void)signal;
    fprintf(stderr, "somebody hangs ");
    say_where();
    abort();
}

/* ---- one kill ---------------------------------------------------------------------------------------------------- */

static uint64_t random64(void)
{
    static uint64_t state;
    if (state == 0)
        state = seed * 2 + 1;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

/* Called at a boundary, where the child is stopped and counts as dead. */
typedef void (*look_fn)(const op *o, long steps);

/* Makes a child that runs the operation, kills it after `at` instructions (or at the end) and says after how many. */
static long run_and_kill(const op *o, long at, long poke_at, uint32_t *owner, look_fn look)
{
    uint32_t token;
    must(pz_slot_reserve(&P, !o->bare, &token) == 0);
    *owner = token;
    pid_t child = fork();
    if (child == 0) {
        alarm(0);
        signal(SIGALRM, SIG_DFL);
        if (pz_slot_claim(&P, token) != 0)
            _exit(3);
        if (o->before)
            o->before();
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
            _exit(77);
        pid_t self = getpid();
        kill(self, SIGSTOP);
        o->run();
        kill(self, SIGSTOP);
        _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    if (!WIFSTOPPED(status) || WSTOPSIG(status) != SIGSTOP) {
        if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
            fprintf(stderr, "SKIPPED: ptrace is forbidden here, so nothing of the crash safety was proved\n");
            exit(77);
        }
        fprintf(stderr, "status %x ", status);
        must(!"the child got ready");
    }
    long steps = 0;
    bool poked = o->poke == NULL || o->first;
    done = false;
    while (steps < at) {
        if (look)
            look(o, steps);
        if (!poked && steps >= poke_at)
            poked = o->poke();
        if (ptrace(PTRACE_SINGLESTEP, child, NULL, NULL) < 0) {
            fprintf(stderr, "SKIPPED: single stepping is forbidden here, so nothing of the crash safety was proved\n");
            kill(child, SIGKILL);
            exit(77);
        }
        waitpid(child, &status, 0);
        if (!WIFSTOPPED(status)) {
            fprintf(stderr, "status %x ", status);
            must(!"the child lives until it is killed");
        }
        if (WSTOPSIG(status) == SIGSTOP) {
            done = true;
            break;
        }
        if (WSTOPSIG(status) != SIGTRAP) {
            fprintf(stderr, "signal %d ", WSTOPSIG(status));
            must(!"the child is well");
        }
        steps++;
    }
    total.steps += (uint64_t)steps;
    total.kills++;
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    return steps;
}

static int valid(void)
{
    pz_heap_lock(&P);
    pz_tx_commit(&P);
    int rc = pz_heap_valid(&P);
    pz_heap_unlock(&P);
    return rc;
}

static long first_length;
static pz_memory before;

/* What must hold once the child is dead: see proof.h. */
static void verify(const op *o, bool compare)
{
    o->check();
    pz_slot_bury(&P, victim);
    if (corpse)
        pz_slot_bury(&P, corpse);
    pz_sweep_all(&P);
    o->after();
    pz_reap(&P);
    int rc = valid();
    if (rc != 0) {
        fprintf(stderr, "the heap says %s: ", strerror(-rc));
        must(!"the heap is valid");
    }
    must(P.heap->lock == 0 && P.heap->reap == 0);
    must(P.header->spinners == 0);
    for (uint32_t i = 1; i < 64; i++)
        must(i == P.slot || (pz_slot_at(&P, i)->state & 0xff) == PZ_SLOT_FREE);
    pz_memory memory;
    pz_memory_get(&P, &memory);
    if (!compare) {
        before = memory;
    } else if (memory.used != before.used || memory.blocks != before.blocks) {
        fprintf(stderr, "used %+ld, blocks %+ld: ", (long)(memory.used - before.used),
                (long)(memory.blocks - before.blocks));
        must(!"as much memory is in use as before");
    }
}

static void prepare(const op *o)
{
    now_proved = o;
    alarm(20);
    o->setup();
    corpse = 0;
    if (o->first) {
        first_at = (long)(random64() % (uint64_t)(first_length + 1));
        run_and_kill(o->first, first_at, first_length / 2, &corpse, NULL);
        if (o->poke)
            o->poke();
    }
}

static long poke_place(long length)
{
    return length > 0 ? (long)(random64() % (uint64_t)length) : 30;
}

/* One kill. */
static long once(const op *o, long at, long length)
{
    prepare(o);
    now_at = at;
    long steps = run_and_kill(o, at, poke_place(length), &victim, NULL);
    now_at = steps;
    verify(o, length > 0);
    return steps;
}

/* One walk through the operation. At each boundary (each `stride`th) a survivor is forked whose view of the arena is a
 * private copy: it finds there what a kill at this place leaves, while the child can be stepped on afterwards. */
static long walk_stride, walk_offset, looked;

static void look(const op *o, long steps)
{
    if ((steps + walk_offset) % walk_stride != 0)
        return;
    now_at = steps;
    looked++;
    pid_t survivor = fork();
    if (survivor == 0) {
        alarm(5);
        frozen = pz_slot_at(&P, PZ_OWNER_SLOT(victim))->pid;
        if (mmap(P.base, P.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, P.fd, 0) != P.base)
            _exit(4);
        verify(o, true);
        _exit(0);
    }
    int status;
    waitpid(survivor, &status, 0);
    if (status != 0) {
        fprintf(stderr, "(the survivor ended with status %x)\n", (unsigned)status);
        exit(1);
    }
    total.boundaries++;
}

static long walk(const op *o, long stride, long length)
{
    walk_stride = stride;
    walk_offset = (long)(random64() % (uint64_t)stride);
    prepare(o);
    alarm(0);
    long steps = run_and_kill(o, WHOLE, poke_place(length), &victim, look);
    now_at = steps;
    alarm(20);
    verify(o, true);
    return steps;
}

static double seconds(void)
{
    return (double)world_now() * 1e-9;
}

/* Handing over between two processes on one CPU is ten times as fast; but where the child may spin, it should. */
static void pin(bool one)
{
    static cpu_set_t all;
    cpu_set_t set;
    if (CPU_COUNT(&all) == 0)
        sched_getaffinity(0, sizeof all, &all);
    set = all;
    for (int i = 0; one && i < CPU_SETSIZE; i++)
        if (CPU_ISSET(i, &all)) {
            CPU_ZERO(&set);
            CPU_SET(i, &set);
            break;
        }
    sched_setaffinity(0, sizeof set, &set);
}

static void prove(const op *o, bool full, long only)
{
    pin(o->poke == NULL || o->first);
    double start = seconds();
    now_proved = o;
    if (o->first) {
        op plain = *o->first;
        plain.check = o->check;
        plain.after = o->after;
        plain.setup = o->setup;
        if (o->poke)
            plain.poke = o->poke;
        plain.first = NULL;
        first_length = 0;
        first_length = once(&plain, WHOLE, 0);
    }
    /* To the end first: caches, ledgers and segments have then what they keep. */
    once(o, WHOLE, 0);
    once(o, 0, 0);
    long length = once(o, WHOLE, 60);
    must(done);
    if (only >= 0) {
        once(o, only, length);
        return;
    }
    looked = 0;
    /* Where chance plays a part too (when the poke comes, where the first was killed) more than one walk is worth it. */
    int walks = full && (o->poke || o->first) ? length < 5000 ? 5 : 2 : 1;
    long stride = full ? 1 : length < 40 ? 2 : length < 2000 ? 7 : length / 250;
    for (int i = 0; i < walks; i++)
        walk(o, stride, length);
    int kills = full ? 40 : 3;
    for (int i = 0; i < kills; i++)
        once(o, (long)(random64() % (uint64_t)(length + 1)), length);
    printf("%-28s %6ld of %6ld boundaries, %2d kills  %6.2f s\n", o->name, looked, length + 1, kills, seconds() - start);
    fflush(stdout);
}

int main(void)
{
    const char *how = getenv("PZ_PROOF"), *only = getenv("PZ_PROOF_ONLY"), *at = getenv("PZ_PROOF_AT");
    const char *given = getenv("PZ_PROOF_SEED");
    seed = given ? strtoull(given, NULL, 10) : world_now() % 1000000;
    printf("seed %llu\n", (unsigned long long)seed);
    signal(SIGALRM, too_long);
    must(pz_arena_create(&P, LIMIT, &world) == 0);
    double start = seconds();
    const op *lists[] = {ring_ops, sync_ops, meet_ops, heap_ops, values_ops, store_ops, sequence_ops, pool_ops};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        for (const op *o = lists[i]; o->name; o++)
            if (!only || strcmp(only, o->name) == 0)
                prove(o, how && strcmp(how, "full") == 0, at ? atol(at) : -1);
    printf("%llu boundaries, %llu kills, %llu instructions stepped, %.1f s\n", (unsigned long long)total.boundaries,
           (unsigned long long)total.kills, (unsigned long long)total.steps, seconds() - start);
    pz_slot_leave(&P);
    pz_arena_unmap(&P);
    return 0;
}
