/* Secrets that are kept for as long as a login or a session lasts: in pages of their own, which are not swapped out where the
 * limit allows that (RLIMIT_MEMLOCK), are in no core dump, and are empty in a forked child, whoever forked. */

#include "secret.h"

#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "hash.h"

#define PLACES 16 /* in an area, which is a page where that has 4 KiB */
#define AREAS 1024

static struct {
    _Atomic(uint8_t *) start; /* once it is there it stays */
    atomic_uint taken;        /* a bit for each place */
} areas[AREAS];

static uint8_t *map_area(void)
{
    uint8_t *start = mmap(NULL, PLACES * SECRET_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED)
        return NULL;
    (void)mlock(start, PLACES * SECRET_SIZE);
    madvise(start, PLACES * SECRET_SIZE, MADV_DONTDUMP);
    madvise(start, PLACES * SECRET_SIZE, MADV_WIPEONFORK);
    return start;
}

/* The area's memory, which whoever comes first maps. NULL: no memory. */
static uint8_t *area(size_t i)
{
    uint8_t *start = areas[i].start, *nothing = NULL;
    if (start || !(start = map_area()))
        return start;
    if (atomic_compare_exchange_strong(&areas[i].start, &nothing, start))
        return start;
    munmap(start, PLACES * SECRET_SIZE);
    return nothing;
}

uint8_t *secret_new(void)
{
    for (size_t i = 0; i < AREAS; i++) {
        uint8_t *start = area(i);
        unsigned taken = areas[i].taken;
        while (start && taken != (1u << PLACES) - 1) {
            int place = __builtin_ctz(~taken);
            if (atomic_compare_exchange_weak(&areas[i].taken, &taken, taken | 1u << place))
                return start + place * SECRET_SIZE;
        }
    }
    return NULL;
}

void secret_free(uint8_t *secret)
{
    size_t i = 0;
    while (secret < areas[i].start || secret >= areas[i].start + PLACES * SECRET_SIZE)
        i++;
    explicit_bzero(secret, SECRET_SIZE);
    atomic_fetch_and(&areas[i].taken, ~(1u << (secret - areas[i].start) / SECRET_SIZE));
}

/* ---- what is computed with them */

#define DIGEST SHA256_DIGEST_LENGTH

void secret_mask(const uint8_t *secret, size_t secret_size, const uint8_t *fixed, size_t fixed_size, uint8_t *bytes, size_t size)
{
    hmac begun;
    uint8_t mask[DIGEST];
    hmac_begin(&begun, DIGEST, secret, secret_size);
    for (size_t at = 0; at < size; at++) {
        uint32_t number = (uint32_t)(at / DIGEST) + 1;
        uint8_t counter[] = { (uint8_t)(number >> 24), (uint8_t)(number >> 16), (uint8_t)(number >> 8), (uint8_t)number };
        if (at % DIGEST == 0)
            hmac_end(&begun, counter, sizeof counter, fixed, fixed_size, mask);
        bytes[at] ^= mask[at % DIGEST];
    }
    explicit_bzero(mask, sizeof mask);
    explicit_bzero(&begun, sizeof begun);
}
