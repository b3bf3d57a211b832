// Loads and unloads a library as a script says, one letter per step:
//   o dlopen   c call plugin_work   x dlclose   w print "waiting", wait for SIGUSR1
//   m map memory where the library was, filled with 0x5a   v check that nobody has written there
//   f go on in a child, whose end the parent waits for
//   plugin_host LIBRARY SCRIPT
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAPPED_BYTES 0x4000  // no more than the library has

static const char* step_failed(const char* why) {
  printf("failed: %s\n", why);
  fflush(stdout);
  return why;
}

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  sigset_t wanted;
  sigemptyset(&wanted);
  sigaddset(&wanted, SIGUSR1);
  sigprocmask(SIG_BLOCK, &wanted, NULL);
  void* library = NULL;
  unsigned char* place = NULL;
  int got;
  for (const char* step = argv[2]; *step; ++step) {
    switch (*step) {
      case 'o':
        library = dlopen(argv[1], RTLD_NOW);
        if (!library) return step_failed(dlerror()) != NULL;
        place = (unsigned char*)((struct link_map*)library)->l_addr;
        break;
      case 'c': {
        int (*work)(int) = (int (*)(int))dlsym(library, "plugin_work");
        if (!work) return step_failed("no plugin_work") != NULL;
        work(1);
        break;
      }
      case 'x':
        dlclose(library);
        break;
      case 'm': {
        void* at = mmap(place, MAPPED_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        if (at != place) return step_failed("the library is still there") != NULL;
        memset(at, 0x5a, MAPPED_BYTES);
        break;
      }
      case 'v':
        for (int i = 0; i < MAPPED_BYTES; ++i)
          if (place[i] != 0x5a) return step_failed("somebody wrote where the library was") != NULL;
        munmap(place, MAPPED_BYTES);
        break;
      case 'w':
        printf("waiting\n");
        fflush(stdout);
        sigwait(&wanted, &got);
        break;
      case 'f': {
        pid_t child = fork();
        if (child > 0) {
          int status;
          waitpid(child, &status, 0);
          return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
        }
        break;
      }
    }
  }
  printf("done\n");
  fflush(stdout);
  return 0;
}
