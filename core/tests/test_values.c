/* Values: records that are never torn, whoever writes; the user's lock; sizes. */
#include "helper.h"
#include "pz/values.h"

#define WORDS 40

static pz_values *values;
static pz_ref ref;

static void make(uint64_t item, uint64_t count)
{
    pz_shape shape = {"format", 6, 1, 2, 0, item, count};
    CHECK(pz_values_new(&P, &shape, &ref) == 0);
    values = pz_at(&P, ref.offset);
    CHECK(memcmp(pz_values_description(values), "format", 6) == 0 && values->described == 6);
    CHECK((uintptr_t)pz_values_data(values) % PZ_LINE == 0);
    CHECK(values->item == item && values->count == count && values->form == 1 && values->code == 2);
}

static void lock_values(void)
{
    pz_wait wait = forever();
    while (pz_values_retry(&P, values, &wait) == -EBUSY)
        pz_values_await(&P, values, &wait);
}

static void set(const void *record)
{
    lock_values();
    pz_values_write(values, record);
    pz_values_unlock(&P, values);
}

static void get(void *record)
{
    if (pz_values_read(values, record) == -EAGAIN) {
        lock_values();
        pz_values_copy(values, record);
        pz_values_unlock(&P, values);
    }
}

static void every_size_comes_back(void)
{
    uint8_t in[700], out[701];
    for (uint64_t size = 0; size < 700; size = size < 70 ? size + 1 : size + 37) {
        make(size, 1);
        for (int round = 0; round < 5; round++) {
            memset(in, 0x11 * (round + 1), sizeof in);
            memset(out, 0xee, sizeof out);
            set(in);
            get(out);
            CHECK(memcmp(in, out, size) == 0 && out[size] == 0xee);
        }
        pz_object_close(&P, &ref);
    }
}

static void arrays_are_zero_and_of_any_length(void)
{
    static const uint64_t counts[] = {0, 1, 3, 64, 4000, 100000};
    uint64_t before = memory().used;
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        for (uint64_t item = 1; item <= 8; item *= 2) {
            make(item, counts[i]);
            uint8_t *data = pz_values_data(values);
            for (uint64_t k = 0; k < item * counts[i]; k++)
                CHECK(data[k] == 0);
            memset(data, 0x77, item * counts[i]);
            pz_object_close(&P, &ref);
        }
    pz_shape shape = {"", 0, 0, 0, 0, 8, UINT64_MAX / 8};
    CHECK(pz_values_new(&P, &shape, &ref) == -ENOMEM);
    shape.count = UINT64_C(1) << 40;
    CHECK(pz_values_new(&P, &shape, &ref) == -ENOMEM);
    CHECK(memory().used == before);
    check_valid();
}

static void *write_and_read(void *argument)
{
    uint64_t in[WORDS], out[WORDS], state = 99 + (uint64_t)(long)argument;
    for (int round = 0; round < 20000; round++) {
        uint64_t mark = next_random(&state);
        for (int i = 0; i < WORDS; i++)
            in[i] = mark + (uint64_t)i;
        if (round % 2)
            set(in);
        get(out);
        for (int i = 1; i < WORDS; i++)
            CHECK(out[i] == out[0] + (uint64_t)i || (out[0] == 0 && out[i] == 0));
    }
    return NULL;
}

static void nothing_is_torn(void)
{
    make(sizeof(uint64_t[WORDS]), 1);
    in_threads(write_and_read);
    CHECK(values->version == THREADS * 10000 && values->deaths == 0 && values->mutex == 0);
    pz_object_close(&P, &ref);
}

static void a_dead_writer_changes_nothing(void)
{
    uint64_t in[WORDS] = {1, 2, 3}, out[WORDS];
    make(sizeof in, 1);
    set(in);
    /* As it is when a writer died in the middle: the mutex is held by nobody that lives, half of the other copy is new. */
    values->mutex = PZ_OWNER(4000, 77) | PZ_LOCKED;
    memset((uint8_t *)pz_values_data(values), 0xff, 100);
    get(out);
    CHECK(memcmp(in, out, sizeof in) == 0);
    in[0] = 7;
    set(in);
    get(out);
    CHECK(memcmp(in, out, sizeof in) == 0 && values->deaths == 1);
    pz_object_close(&P, &ref);
}

static void the_lock_lives_as_long_as_the_values(void)
{
    uint64_t before = memory().blocks, offset;
    uint32_t gen;
    pz_ref lock, second;
    uint16_t kind;
    make(4, 1);
    pz_values_get_lock(&P, values, &offset, &gen);
    CHECK(offset == 0 && gen == 0);
    object(sizeof(pz_rlock), PZ_RLOCK, &lock);
    object(sizeof(pz_rlock), PZ_RLOCK, &second);
    CHECK(pz_values_set_lock(&P, values, lock.offset, lock.gen + 1) == -ESTALE);
    CHECK(pz_values_set_lock(&P, values, ref.offset, ref.gen) == -ESTALE);
    CHECK(pz_values_set_lock(&P, values, lock.offset, lock.gen) == 0);
    CHECK(pz_values_set_lock(&P, values, second.offset, second.gen) == -EEXIST);
    pz_object_close(&P, &lock);
    pz_object_close(&P, &second);
    pz_values_get_lock(&P, values, &offset, &gen);
    CHECK(offset == lock.offset && gen == lock.gen);
    CHECK(pz_object_open(&P, offset, gen, &second, &kind) == 0 && kind == PZ_RLOCK);
    pz_object_close(&P, &ref);
    CHECK(memory().blocks == before + 1);
    pz_object_close(&P, &second);
    CHECK(memory().blocks == before);
    check_valid();
}

int main(void)
{
    begin(UINT64_C(64) << 20, NULL);
    RUN(every_size_comes_back);
    RUN(arrays_are_zero_and_of_any_length);
    RUN(nothing_is_torn);
    RUN(a_dead_writer_changes_nothing);
    RUN(the_lock_lives_as_long_as_the_values);
    end();
    return 0;
}
