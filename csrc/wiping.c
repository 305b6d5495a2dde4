/*
 * Memory that Python frees is overwritten, and so is the stack that it has used: a PIN or a key that no value holds any more is
 * nowhere.
 *
 * A block has its size in front of it, which Python's own allocators, that still do the work, do not tell. Only a Python that
 * starts here can be told to do so (PyMem_SetAllocator): in a Python program the memory is that program's own.
 */

#include "wiping.h"

#include <Python.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum {
    IN_FRONT = 16,   /* as much as an allocator aligns to */
    DEPTH = 32 << 10, /* the first calls, which load code, go 23 KiB deep, others 3 to 8 */
};

static atomic_bool wiping; /* not while Python starts, for there are no secrets yet */
static PyMemAllocatorEx beneath[] = { [PYMEM_DOMAIN_MEM] = { 0 }, [PYMEM_DOMAIN_OBJ] = { 0 } };

static size_t *size_of(void *block)
{
    return (size_t *)((char *)block - IN_FRONT);
}

static void *with_size(size_t *start, size_t size)
{
    if (!start)
        return NULL;
    *start = size;
    return (char *)start + IN_FRONT;
}

static void *wiping_malloc(void *context, size_t size)
{
    PyMemAllocatorEx *under = context;
    return size > SIZE_MAX - IN_FRONT ? NULL : with_size(under->malloc(under->ctx, size + IN_FRONT), size);
}

static void *wiping_calloc(void *context, size_t count, size_t size)
{
    PyMemAllocatorEx *under = context;
    if (size && count > (SIZE_MAX - IN_FRONT) / size)
        return NULL;
    return with_size(under->calloc(under->ctx, 1, count * size + IN_FRONT), count * size);
}

static void wiping_free(void *context, void *block)
{
    PyMemAllocatorEx *under = context;
    if (!block)
        return;
    if (wiping)
        explicit_bzero(block, *size_of(block));
    under->free(under->ctx, size_of(block));
}

static void *wiping_realloc(void *context, void *block, size_t size)
{
    if (!block)
        return wiping_malloc(context, size);
    size_t old = *size_of(block);
    if (size <= old && size > old / 2) { /* it may stay where it is */
        explicit_bzero((char *)block + size, old - size);
        *size_of(block) = size;
        return block;
    }
    void *moved = wiping_malloc(context, size);
    if (moved) {
        memcpy(moved, block, size < old ? size : old);
        wiping_free(context, block);
    }
    return moved;
}

void prepare_wiping(void)
{
    for (PyMemAllocatorDomain domain = PYMEM_DOMAIN_MEM; domain <= PYMEM_DOMAIN_OBJ; domain++) {
        PyMemAllocatorEx over = { &beneath[domain], wiping_malloc, wiping_calloc, wiping_realloc, wiping_free };
        PyMem_GetAllocator(domain, &beneath[domain]);
        PyMem_SetAllocator(domain, &over);
    }
}

void wipe_what_is_freed(void)
{
    wiping = true;
}

#if __has_attribute(zero_call_used_regs)
#define ZEROING __attribute__((noinline, zero_call_used_regs("all")))
#else
#define ZEROING __attribute__((noinline))
#endif

/* What the compiler's attribute leaves out: the upper halves of registers, and those that glibc's memcpy uses where there are any. */
#ifdef __x86_64__
#define ZERO(n) __asm__ volatile("vpxorq %%zmm" #n ", %%zmm" #n ", %%zmm" #n ::: "xmm" #n)

__attribute__((noinline, target("avx512f"))) static void zero_more_registers(void)
{
    ZERO(16); ZERO(17); ZERO(18); ZERO(19); ZERO(20); ZERO(21); ZERO(22); ZERO(23);
    ZERO(24); ZERO(25); ZERO(26); ZERO(27); ZERO(28); ZERO(29); ZERO(30); ZERO(31);
}

__attribute__((noinline, target("avx"))) static void zero_upper_halves(void)
{
    __builtin_ia32_vzeroall();
}

static void zero_wide_registers(void)
{
    if (__builtin_cpu_supports("avx512f"))
        zero_more_registers();
    if (__builtin_cpu_supports("avx"))
        zero_upper_halves();
}
#else
static void zero_wide_registers(void)
{
}
#endif

ZEROING void wipe_stack(void)
{
    char left[DEPTH];
    explicit_bzero(left, sizeof left);
    zero_wide_registers();
}
