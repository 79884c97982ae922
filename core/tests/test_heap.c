/* The allocator: random sizes, coalescing, trimming, the limit. */
#include "helper.h"
#include "span.h"

#define MANY 600

static uint32_t some_size(uint64_t *state)
{
    switch (next_random(state) % 8) {
    case 0:
        return 32768 + next_random(state) % 300000;
    case 1:
        return 4096 + next_random(state) % 30000;
    default:
        return 32 + next_random(state) % 3000;
    }
}

static void random_sizes(void)
{
    begin(UINT64_C(256) << 20, NULL);
    pz_memory before = memory();
    static uint64_t block[MANY], size[MANY];
    uint64_t state = 88172645463325252u;
    for (int round = 0; round < 20000; round++) {
        unsigned i = next_random(&state) % MANY;
        if (block[i]) {
            uint8_t *bytes = pz_at(&P, block[i]);
            for (uint64_t k = sizeof(pz_block); k < size[i]; k += 997)
                CHECK(bytes[k] == (uint8_t)i);
            CHECK(bytes[size[i] - 1] == (uint8_t)i || size[i] == sizeof(pz_block));
            pz_block_free(&P, block[i]);
            block[i] = 0;
        } else {
            size[i] = some_size(&state);
            CHECK(pz_block_new(&P, size[i], PZ_SEGMENT, &block[i]) == 0);
            CHECK(block[i] % 64 == 0 && pz_block_at(&P, block[i])->size == size[i]);
            memset((uint8_t *)pz_at(&P, block[i]) + sizeof(pz_block), (int)i, size[i] - sizeof(pz_block));
        }
        if (round % 50 == 0)
            check_valid();
    }
    for (int i = 0; i < MANY; i++)
        if (block[i])
            pz_block_free(&P, block[i]);
    check_valid();
    CHECK(memory().used == before.used && memory().blocks == before.blocks);
    pz_heap_trim(&P, 0);
    check_valid();
    CHECK(memory().warm == 0);
    /* No more is kept than one page of each size class, and what the ledger needs. */
    CHECK(memory().backed <= before.backed + (PZ_CLASSES + 2) * PZ_PAGE);
    end();
}

static void neighbours_join(void)
{
    begin(UINT64_C(64) << 20, NULL);
    uint64_t block[16];
    for (int order = 0; order < 3; order++) {
        CHECK(pz_heap_reserve(&P, 16 * 3 * PZ_PAGE) == 0);
        for (int i = 0; i < 16; i++)
            CHECK(pz_block_new(&P, 3 * PZ_PAGE, PZ_SEGMENT, &block[i]) == 0);
        for (int i = 0; i < 16; i++) {
            int k = order == 0 ? i : order == 1 ? 15 - i : (i * 7) % 16;
            pz_block_free(&P, block[k]);
            check_valid();
        }
        /* They are one span again: the whole fits without new memory. */
        uint64_t backed = memory().backed, whole;
        CHECK(pz_block_new(&P, 16 * 3 * PZ_PAGE, PZ_SEGMENT, &whole) == 0);
        CHECK(memory().backed == backed);
        pz_block_free(&P, whole);
    }
    end();
}

static void trimmed_memory_is_given_back_and_zero(void)
{
    begin(UINT64_C(64) << 20, NULL);
    uint64_t block;
    for (int i = 0; i < 5; i++) {
        CHECK(pz_block_new(&P, 8 << 20, PZ_SEGMENT, &block) == 0);
        uint8_t *bytes = pz_at(&P, block);
        memset(bytes + sizeof(pz_block), 0x55, (8 << 20) - sizeof(pz_block));
        uint64_t backed = memory().backed;
        pz_block_free(&P, block);
        pz_heap_trim(&P, 0);
        check_valid();
        CHECK(memory().warm == 0 && memory().backed <= backed - (8 << 20));
        CHECK(bytes[4 << 20] == 0);
    }
    end();
}

static void the_limit(void)
{
    begin(UINT64_C(24) << 20, NULL);
    uint64_t block[400];
    int n = 0, rc;
    while ((rc = pz_block_new(&P, 300000, PZ_SEGMENT, &block[n])) == 0)
        n++;
    CHECK(rc == -ENOMEM && n > 50);
    check_valid();
    CHECK(memory().backed <= memory().limit);
    pz_ref refs[2000];
    int m = 0;
    while (m < 2000 && (rc = pz_object_new(&P, 16384, PZ_LOCK, &refs[m])) == 0)
        m++;
    CHECK(rc == -ENOMEM);
    check_valid();
    for (int i = 0; i < m; i++)
        pz_object_close(&P, &refs[i]);
    /* Memory that is free in the wrong places is given back and taken anew. */
    for (int i = 0; i < n; i += 2)
        pz_block_free(&P, block[i]);
    uint64_t whole;
    CHECK(pz_block_new(&P, UINT64_C(8) << 20, PZ_SEGMENT, &whole) == 0);
    check_valid();
    pz_block_free(&P, whole);
    for (int i = 1; i < n; i += 2)
        pz_block_free(&P, block[i]);
    CHECK(pz_block_new(&P, UINT64_C(18) << 20, PZ_SEGMENT, &whole) == 0);
    pz_block_free(&P, whole);
    CHECK(pz_block_new(&P, UINT64_C(30) << 20, PZ_SEGMENT, &whole) == -ENOMEM);
    pz_memory_set_limit(&P, UINT64_C(40) << 20);
    CHECK(pz_block_new(&P, UINT64_C(30) << 20, PZ_SEGMENT, &whole) == 0);
    pz_block_free(&P, whole);
    CHECK(pz_block_new(&P, P.size * 2, PZ_SEGMENT, &whole) == -ENOMEM);
    end();
}

static void *churn(void *argument)
{
    uint64_t state = 7777 + (uint64_t)(long)argument, block[40] = {0};
    for (int round = 0; round < 4000; round++) {
        unsigned i = next_random(&state) % 40;
        if (block[i]) {
            CHECK(((uint8_t *)pz_at(&P, block[i]))[sizeof(pz_block)] == (uint8_t)(long)argument);
            pz_block_free(&P, block[i]);
            block[i] = 0;
        } else {
            CHECK(pz_block_new(&P, some_size(&state) + 8, PZ_SEGMENT, &block[i]) == 0);
            ((uint8_t *)pz_at(&P, block[i]))[sizeof(pz_block)] = (uint8_t)(long)argument;
        }
    }
    for (int i = 0; i < 40; i++)
        if (block[i])
            pz_block_free(&P, block[i]);
    return NULL;
}

static void many_threads(void)
{
    begin(UINT64_C(256) << 20, NULL);
    pz_memory before = memory();
    in_threads(churn);
    CHECK(memory().used == before.used && memory().blocks == before.blocks);
    end();
}

static void strangers_find_nothing(void)
{
    begin(UINT64_C(64) << 20, NULL);
    pz_ref ref;
    object(sizeof(pz_lock), PZ_LOCK, &ref);
    pz_ref got;
    uint16_t kind;
    uint64_t state = 99;
    CHECK(pz_object_open(&P, ref.offset, ref.gen, &got, &kind) == 0 && kind == PZ_LOCK);
    pz_object_close(&P, &got);
    for (int i = 0; i < 100000; i++) {
        uint64_t offset = next_random(&state) % 3 ? next_random(&state) % (P.size / 512) : (uint64_t)next_random(&state) << 20;
        uint32_t gen = next_random(&state) % 4 ? ref.gen : next_random(&state);
        if (offset != ref.offset || gen != ref.gen)
            CHECK(pz_object_open(&P, offset, gen, &got, &kind) == -ESTALE);
    }
    pz_object_close(&P, &ref);
    CHECK(pz_object_open(&P, ref.offset, ref.gen, &got, &kind) == -ESTALE);
    end();
}

int main(void)
{
    RUN(random_sizes);
    RUN(neighbours_join);
    RUN(trimmed_memory_is_given_back_and_zero);
    RUN(the_limit);
    RUN(many_threads);
    RUN(strangers_find_nothing);
    return 0;
}
