/* An allocator of the program's own, as large programs have: one lock that is not recursive, its work in a nameless inner function
   reached by a tail call. Linked into target_victim_own_malloc, which is stripped. */
#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#define EXPORT __attribute__((visibility("default")))
enum { kClasses = 28, kHeader = 16 };

static atomic_int lock;
static char *arena, *arena_end;
static void* free_lists[kClasses]; /* blocks of 32 << class bytes */

static int class_of(size_t size) {
  int class = 0;
  while (((size_t)32 << class) < size) ++class;
  return class;
}

/* Holds the lock for most of the time that the program spends here. */
static void take_lock(void) {
  int none = 0;
  while (!atomic_compare_exchange_weak(&lock, &none, 1)) {
    none = 0;
    sched_yield();
  }
  for (int i = 0; i < 300; ++i) __asm__ volatile("" ::: "memory");
}

static __attribute__((noinline)) void* inner_malloc(size_t size) {
  if (size > ((size_t)1 << 30)) return NULL;
  const int class = class_of(size + kHeader);
  const size_t bytes = (size_t)32 << class;
  take_lock();
  char* block = free_lists[class];
  if (block != NULL) {
    free_lists[class] = *(void**)(block + kHeader);
  } else {
    if ((size_t)(arena_end - arena) < bytes) {
      const size_t more = bytes > (16u << 20) ? bytes : (16u << 20);
      arena = mmap(NULL, more, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      arena_end = arena + more;
    }
    block = arena;
    arena += bytes;
    *(size_t*)block = (size_t) class;
  }
  atomic_store(&lock, 0);
  return block + kHeader;
}

static __attribute__((noinline)) void inner_free(void* pointer) {
  char* block = (char*)pointer - kHeader;
  take_lock();
  const size_t class = *(size_t*)block;
  *(void**)pointer = free_lists[class];
  free_lists[class] = block;
  atomic_store(&lock, 0);
}

EXPORT void* malloc(size_t size) { return inner_malloc(size); }
EXPORT void free(void* pointer) {
  if (pointer != NULL) inner_free(pointer);
}
EXPORT void* calloc(size_t count, size_t size) {
  if (size != 0 && count > SIZE_MAX / size) return NULL;
  void* block = malloc(count * size);
  return block != NULL ? memset(block, 0, count * size) : NULL;
}
EXPORT void* realloc(void* pointer, size_t size) {
  void* block = malloc(size);
  if (block == NULL || pointer == NULL) return block;
  const size_t old = ((size_t)32 << *(size_t*)((char*)pointer - kHeader)) - kHeader;
  memcpy(block, pointer, old < size ? old : size);
  free(pointer);
  return block;
}
static void* inner_aligned(size_t alignment, size_t size) {
  if (alignment <= 16) return malloc(size);
  char* block = malloc(size + alignment + kHeader);
  char* aligned = (char*)(((uintptr_t)block + alignment - 1) & ~(uintptr_t)(alignment - 1));
  if (aligned != block && aligned - block < kHeader) aligned += alignment;
  /* Never used again: the header says the smallest class, and the block before it is leaked. */
  if (aligned != block) *(size_t*)(aligned - kHeader) = 0;
  return aligned;
}
EXPORT void* aligned_alloc(size_t alignment, size_t size) { return inner_aligned(alignment, size); }
EXPORT void* memalign(size_t alignment, size_t size) { return inner_aligned(alignment, size); }
EXPORT int posix_memalign(void** result, size_t alignment, size_t size) {
  *result = inner_aligned(alignment, size);
  return 0;
}
