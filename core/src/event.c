/* Event: one word, generation << 2 | asleep << 1 | set. Each set starts a generation, so whoever waited through it is
 * released even if the event is cleared before it looks again. */
#include "pz/sync.h"

#define SET 1u
#define ASLEEP 2u
#define GENERATION(word) ((word) >> 2)

bool pz_event_is_set(pz_event *event)
{
    return (pz_load(&event->word) & SET) != 0;
}

void pz_event_set(pz_proc *proc, pz_event *event)
{
    uint32_t seen = pz_peek(&event->word);
    do
        if (seen & SET)
            return;
    while (!pz_cas(&event->word, &seen, ((GENERATION(seen) + 1) << 2) | SET));
    pz_add(&event->sets, 1);
    if (seen & ASLEEP)
        proc->ops->futex_wake(&event->word, INT32_MAX);
}

void pz_event_clear(pz_event *event)
{
    uint32_t seen = pz_peek(&event->word);
    while ((seen & SET) && !pz_cas(&event->word, &seen, seen & ~SET))
        ;
}

int pz_event_wait(pz_proc *proc, pz_event *event, uint32_t first, pz_wait *wait)
{
    for (;;) {
        uint32_t seen = pz_load(&event->word);
        if ((seen & SET) || GENERATION(seen) != GENERATION(first))
            return 0;
        if (pz_spin(proc, &event->word, seen, &event->spin, wait))
            continue;
        if (!(seen & ASLEEP) && !pz_cas(&event->word, &seen, seen | ASLEEP))
            continue;
        int rc = pz_sleep(proc, &event->word, seen | ASLEEP, wait);
        if (rc < 0) {
            seen = pz_load(&event->word);
            return (seen & SET) || GENERATION(seen) != GENERATION(first) ? 0 : rc;
        }
    }
}
