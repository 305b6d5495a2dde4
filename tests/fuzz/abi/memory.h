/* The memory that calls are given: each piece ends, or begins, at a page that cannot be touched, and what lies around it in
 * its own pages is known. Nothing but the outputs of a call may be different after it. */

enum { SMALL = 4096, LARGE = 131072, SMALL_PIECES = 96, LARGE_PIECES = 8, FILL = 0xA5 };

typedef struct {
    uint8_t *base, *before; /* the pages, and what was in them before the call */
    size_t span;
    uint8_t *start;
    size_t size;
    size_t writable; /* bytes from `start` that the call may write */
} piece;

typedef struct {
    piece small[SMALL_PIECES], large[LARGE_PIECES];
    size_t smalls, larges;
    uint8_t *forbidden; /* a page that nobody may touch */
} memory;

static uint8_t *pages(size_t span)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uint8_t *all = mmap(NULL, span + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED || (span && mprotect(all + page, span, PROT_READ | PROT_WRITE)))
        _exit(3);
    return all + page;
}

static void make_pieces(piece *pieces, size_t count, size_t span)
{
    for (size_t i = 0; i < count; i++)
        pieces[i] = (piece){ .base = pages(span), .before = malloc(span), .span = span };
}

static void make_memory(memory *m)
{
    make_pieces(m->small, SMALL_PIECES, SMALL);
    make_pieces(m->large, LARGE_PIECES, LARGE);
    m->forbidden = pages(0);
}

/* `size` bytes that a call may read, `writable` of which it may write. */
static uint8_t *get(memory *m, dice *d, size_t size, size_t writable)
{
    piece *p = size <= SMALL && m->smalls < SMALL_PIECES ? &m->small[m->smalls++] : &m->large[m->larges++];
    if (size > p->span || m->larges > LARGE_PIECES)
        _exit(3);
    memset(p->base, FILL, p->span);
    p->start = chance(d, 75) ? p->base + p->span - size : p->base;
    p->size = size;
    p->writable = writable;
    return p->start;
}

/* The same for structures, whose addresses C wants to be multiples of 8. */
static void *get_aligned(memory *m, dice *d, size_t size, size_t writable)
{
    return get(m, d, (size + 7) & ~(size_t)7, writable);
}

static void remember(memory *m)
{
    for (size_t i = 0; i < m->smalls; i++)
        memcpy(m->small[i].before, m->small[i].base, m->small[i].span);
    for (size_t i = 0; i < m->larges; i++)
        memcpy(m->large[i].before, m->large[i].base, m->large[i].span);
}

static bool is_as_before(const piece *p)
{
    size_t front = (size_t)(p->start - p->base), end = front + p->writable;
    return !memcmp(p->base, p->before, front) && !memcmp(p->base + end, p->before + end, p->span - end);
}

/* The first piece in which something was written that was not to be; NULL if there is none. */
static const piece *spoilt_piece(const memory *m)
{
    for (size_t i = 0; i < m->smalls; i++)
        if (!is_as_before(&m->small[i]))
            return &m->small[i];
    for (size_t i = 0; i < m->larges; i++)
        if (!is_as_before(&m->large[i]))
            return &m->large[i];
    return NULL;
}

static void forget_pieces(memory *m)
{
    m->smalls = m->larges = 0;
}
