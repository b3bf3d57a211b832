/* The library that load_library_test brings into victims: it allocates, uses vector registers and remembers that it ran. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

volatile int guest_constructed = 0;

__attribute__((constructor)) static void construct(void) {
  char text[256];
  volatile double x = 1.5;
  for (int i = 0; i < 100; ++i) {
    char* block = malloc(100 + i * 50);
    if (block != NULL) memset(block, i, 100);
    free(block);
    x = x * 1.0001;
  }
  snprintf(text, sizeof(text), "%f", x);
  guest_constructed = 0x6e57 + (text[0] == 0);
}

long guest_add(long a, long b, long c) { return a + b + c; }
