/* Counts what a program asks of the C library: loaded before it (LD_PRELOAD), says so when it ends.
 *
 * In C, because these are the functions of the C library themselves, which safe Rust cannot replace. */

#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>

void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);

static atomic_ulong allocations, copies, bytes;

#define COUNT(counter, n) atomic_fetch_add_explicit(&(counter), (n), memory_order_relaxed)

void *malloc(size_t size) {
    COUNT(allocations, 1);
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size) {
    COUNT(allocations, 1);
    return __libc_calloc(count, size);
}

void *realloc(void *memory, size_t size) {
    COUNT(allocations, 1);
    return __libc_realloc(memory, size);
}

int posix_memalign(void **memory, size_t alignment, size_t size) {
    COUNT(allocations, 1);
    *memory = __libc_memalign(alignment, size);
    return *memory ? 0 : 12; /* ENOMEM */
}

/* By the processor's own instruction, which the compiler does not turn into a call of this. */
static void *copy(void *to, const void *from, size_t n) {
    void *end = to;
    COUNT(copies, 1);
    COUNT(bytes, n);
    __asm__ volatile("rep movsb" : "+D"(end), "+S"(from), "+c"(n) : : "memory");
    return to;
}

void *memcpy(void *to, const void *from, size_t n) { return copy(to, from, n); }

void *memmove(void *to, const void *from, size_t n) {
    if ((char *)to <= (const char *)from || (char *)to >= (const char *)from + n)
        return copy(to, from, n);
    COUNT(copies, 1);
    COUNT(bytes, n);
    while (n--) ((volatile char *)to)[n] = ((const char *)from)[n];
    return to;
}

__attribute__((destructor)) static void say(void) {
    fprintf(stderr, "COUNTED %lu %lu %lu\n", allocations, copies, bytes);
}
