/* Random numbers from a seed (splitmix64): a round is the same each time. */

typedef struct { uint64_t state; } dice;

static uint64_t roll(dice *d)
{
    uint64_t z = d->state += UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}

/* A number below `limit`. */
static size_t below(dice *d, size_t limit)
{
    return (size_t)(roll(d) % limit);
}

static bool chance(dice *d, unsigned percent)
{
    return below(d, 100) < percent;
}

#define PICK(d, array) ((array)[below((d), sizeof(array) / sizeof *(array))])
