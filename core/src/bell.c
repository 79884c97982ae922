/* Doorbells: how a process that waits on descriptors (select, asyncio, connection.wait) learns of something new in a ring.
 *
 * Such a process owns an abstract Unix datagram socket for the ring, whose name follows from the arena, its slot and the
 * ring, and enters itself in the ring. A writer sends a byte to those entered. The bell says "look again", nothing more; a stranger who
 * rings it costs a look. A bell that is full has been rung already.
 */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "pz/ring.h"

unsigned pz_bell_name(pz_proc *proc, const pz_ring *ring, uint32_t owner, char *name)
{
    name[0] = 0;
    return 1u + (unsigned)snprintf(name + 1, 100, "processing-%016llx-%08x-%llx",
                                   (unsigned long long)proc->header->program, owner,
                                   (unsigned long long)pz_offset(proc, ring));
}

int pz_bell_add(pz_proc *proc, pz_ring *ring)
{
    for (int round = 0; round < 2; round++) {
        for (unsigned i = 0; i < PZ_BELLS; i++)
            if (pz_load(&ring->bell_owner[i]) == proc->self)
                return 0;
        for (unsigned i = 0; i < PZ_BELLS; i++) {
            uint32_t old = pz_load(&ring->bell_owner[i]);
            if (old == 0 || (round && pz_owner_life(proc, old) == PZ_DEAD))
                if (pz_cas(&ring->bell_owner[i], &old, proc->self)) {
                    pz_swap(&ring->bells, 1);
                    return 0;
                }
        }
    }
    return -ENOSPC;
}

void pz_bell_remove(pz_proc *proc, pz_ring *ring)
{
    for (unsigned i = 0; i < PZ_BELLS; i++) {
        uint32_t old = proc->self;
        pz_cas(&ring->bell_owner[i], &old, 0);
    }
}

void pz_bell_ring(pz_proc *proc, pz_ring *ring)
{
    int fd = -1;
    bool any = false;
    for (unsigned i = 0; i < PZ_BELLS; i++) {
        uint32_t owner = pz_load(&ring->bell_owner[i]);
        if (owner == 0)
            continue;
        any = true;
        if (fd < 0)
            fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0) { /* out of descriptors: the listener looks again by itself after a while */
            pz_add(&ring->bell_missed, 1);
            return;
        }
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        unsigned length = pz_bell_name(proc, ring, owner, address.sun_path);
        if (sendto(fd, "!", 1, MSG_NOSIGNAL, (struct sockaddr *)&address,
                   (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length)) < 0 &&
            errno == ECONNREFUSED)
            pz_cas(&ring->bell_owner[i], &owner, 0); /* nobody listens there any more */
    }
    if (fd >= 0)
        close(fd);
    if (!any) {
        pz_swap(&ring->bells, 0);
        for (unsigned i = 0; i < PZ_BELLS; i++)
            if (pz_load(&ring->bell_owner[i])) /* entered meanwhile */
                pz_swap(&ring->bells, 1);
    }
}
