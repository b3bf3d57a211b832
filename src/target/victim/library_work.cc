#include "target/victim/library_work.h"

#include <dlfcn.h>
#include <errno.h>
#include <iconv.h>
#include <libintl.h>
#include <link.h>
#include <locale.h>
#include <netdb.h>
#include <pthread.h>
#include <pwd.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace bpftime::target {
namespace {

bool finishing() { return kVictimCalls.finishing(); }
void round_done() { kVictimCalls.round_done(); }
void fail(const char* what) { kVictimCalls.fail(what); }
void expect(bool right, const char* what) {
  if (!right) fail(what);
}

// errno and what dlerror is to say are the thread's own.
void keep_errors() {
  int number = 1;
  while (!finishing()) {
    (void)dlsym(RTLD_DEFAULT, "no_such_symbol");
    errno = ++number;
    for (int i = 0; i < 200'000; ++i) asm volatile("" ::: "memory");
    expect(errno == number, "errno changed");
    const char* text = dlerror();
    expect(text != nullptr && strstr(text, "no_such_symbol") != nullptr, "what dlerror was to say is gone");
    round_done();
    if (text == nullptr) continue;
    const std::string copy = text;
    for (int i = 0; i < 200'000; ++i) asm volatile("" ::: "memory");
    expect(copy == text, "what dlerror said was freed");
  }
}

void expect_status(const char* call, int status, int wanted) {
  if (status == wanted) return;
  char text[64];
  snprintf(text, sizeof(text), "%s gave status 0x%x", call, static_cast<unsigned>(status));
  fail(text);
}

void call_popen() {
  while (!finishing()) {
    FILE* pipe = popen("exit 0", "r");
    expect(pipe != nullptr, "popen");
    expect_status("pclose", pipe != nullptr ? pclose(pipe) : 0, 0);
    expect_status("system", system("exit 3"), 3 << 8);
    round_done();
  }
}

void resolve_names() {
  while (!finishing()) {
    addrinfo* found = nullptr;
    if (getaddrinfo("localhost", "80", nullptr, &found) == 0) freeaddrinfo(found);
    expect(getpwuid(0) != nullptr, "getpwuid");
    round_done();
  }
}

void convert_text() {
  while (!finishing()) {
    for (const char* charset : {"ISO-8859-15", "UTF-16", "CP1252"}) {
      const iconv_t converter = iconv_open("UTF-8", charset);
      if (converter == reinterpret_cast<iconv_t>(-1)) continue;  // its module is not installed
      char in[] = "abc", out[64], *from = in, *to = out;
      size_t in_left = 3, out_left = sizeof(out);
      (void)iconv(converter, &from, &in_left, &to, &out_left);
      iconv_close(converter);
    }
    round_done();
  }
}

void change_locale() {
  while (!finishing()) {
    for (const char* name : {"C.UTF-8", "C"}) {
      const locale_t locale = newlocale(LC_ALL_MASK, name, nullptr);
      if (locale != nullptr) freelocale(locale);
      setlocale(LC_ALL, name);
      (void)strerror(EINVAL);
      (void)dgettext("libc", "Invalid argument");
    }
    round_done();
  }
}

void flush_files() {
  while (!finishing()) {
    FILE* file = fopen("/dev/null", "w");
    expect(file != nullptr && fprintf(file, "%d %f", 7, 1.5) > 0, "fprintf");
    fflush(nullptr);
    if (file != nullptr) fclose(file);
    char* text = nullptr;
    size_t size = 0;
    FILE* stream = open_memstream(&text, &size);
    for (int i = 0; i < 300; ++i) fprintf(stream, "%d ", i);
    fclose(stream);
    free(text);
    round_done();
  }
}

void open_libraries() {
  while (!finishing()) {
    void* library = dlopen("libm.so.6", RTLD_NOW | RTLD_LOCAL);
    expect(library != nullptr && dlsym(library, "cos") != nullptr, "dlopen of libm");
    if (library != nullptr) dlclose(library);
    library = dlopen("libresolv.so.2", RTLD_LAZY);
    if (library != nullptr) dlclose(library);
    dl_iterate_phdr([](dl_phdr_info*, size_t, void*) { return 0; }, nullptr);
    round_done();
  }
}

std::atomic<uint64_t> g_timers_fired{0};

void run_timers() {
  sigevent event{};
  event.sigev_notify = SIGEV_THREAD;
  event.sigev_notify_function = [](sigval) { g_timers_fired.fetch_add(1); };
  while (!finishing()) {
    timer_t timer;
    expect(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0, "timer_create");
    const itimerspec soon{{0, 100'000}, {0, 100'000}};
    timer_settime(timer, 0, &soon, nullptr);
    const uint64_t before = g_timers_fired;
    while (g_timers_fired == before && !finishing()) usleep(50);
    timer_delete(timer);
    round_done();
  }
}

struct AtThreadsEnd {
  void* block = malloc(100);
  ~AtThreadsEnd() { free(block); }
};

void end_threads() {
  while (!finishing()) {
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([] {
        thread_local AtThreadsEnd mine;
        memset(mine.block, 1, 100);
      });
    }
    for (auto& thread : threads) thread.join();
    round_done();
  }
}

void cancel_threads() {
  while (!finishing()) {
    pthread_t thread;
    const auto wait = [](void*) -> void* {
      AtThreadsEnd mine;
      for (;;) usleep(1000);
    };
    expect(pthread_create(&thread, nullptr, wait, nullptr) == 0, "pthread_create");
    pthread_cancel(thread);
    void* result = nullptr;
    pthread_join(thread, &result);
    expect(result == PTHREAD_CANCELED, "a thread was not cancelled");
    round_done();
  }
}

// A handler that runs for most of the time, on top of an allocator that is interrupted anywhere.
void interrupt_allocator(bool own_stack) {
  static char stack[64 << 10];
  const stack_t alternate{stack, 0, sizeof(stack)};
  struct sigaction action {};
  if (own_stack) {
    sigaltstack(&alternate, nullptr);
    action.sa_flags = SA_ONSTACK;
  }
  action.sa_handler = [](int) {
    for (int i = 0; i < 6'000'000; ++i) asm volatile("" ::: "memory");
  };
  sigaction(SIGPROF, &action, nullptr);
  itimerval timer{{0, 1000}, {0, 1000}};
  setitimer(ITIMER_PROF, &timer, nullptr);
  std::vector<unsigned char*> blocks(64);
  unsigned seed = 1;
  while (!finishing()) {
    for (int i = 0; i < 1000; ++i) {
      unsigned char*& block = blocks[rand_r(&seed) % 64];
      free(block);
      const size_t size = 1 + rand_r(&seed) % 5000;
      block = static_cast<unsigned char*>(aligned_alloc(256, (size + 255) & ~255));
      *block = 7;
    }
    round_done();
  }
  timer = {};
  setitimer(ITIMER_PROF, &timer, nullptr);
  for (unsigned char* block : blocks) free(block);
}
void handle_on_own_stack() { interrupt_allocator(true); }
void handle_on_same_stack() { interrupt_allocator(false); }

// Coroutines on stacks of 16 KiB in the heap, one behind the other, each full of marks.
struct Coroutine {
  ucontext_t context{};
  std::unique_ptr<unsigned char[]> stack{new unsigned char[kStackBytes]};
  static constexpr size_t kStackBytes = 16 << 10;
};
thread_local ucontext_t t_scheduler;
thread_local Coroutine* t_running;

void coroutine_body() {
  for (;;) {
    std::string text(100 + t_running->stack[0], 'x');
    volatile unsigned char marks[512];
    for (auto& mark : marks) mark = 0x5a;
    swapcontext(&t_running->context, &t_scheduler);
    for (const auto& mark : marks)
      if (mark != 0x5a) fail("a coroutine's stack changed");
    expect(text.find_first_not_of('x') == std::string::npos, "a coroutine's string changed");
  }
}

void prepare(Coroutine& coroutine, unsigned char* stack, size_t size, void (*body)()) {
  getcontext(&coroutine.context);
  coroutine.context.uc_stack = {stack, 0, size};
  makecontext(&coroutine.context, body, 0);
}

void run_coroutines() {
  std::vector<Coroutine> coroutines(32);
  for (Coroutine& coroutine : coroutines)
    prepare(coroutine, coroutine.stack.get(), Coroutine::kStackBytes, coroutine_body);
  while (!finishing()) {
    for (Coroutine& coroutine : coroutines) {
      t_running = &coroutine;
      swapcontext(&t_scheduler, &coroutine.context);
    }
    round_done();
  }
}

// A coroutine that has nearly used up its stack; below that, another thread's data.
struct NarrowStack {
  std::atomic<uint64_t> neighbours[1024]{};
  unsigned char stack[8192];
};
NarrowStack g_narrow;

void count_in_neighbours() {
  for (uint64_t count = 0; !finishing(); ++count) {
    for (auto& word : g_narrow.neighbours) {
      expect(word.load(std::memory_order_relaxed) == count, "memory below a coroutine's stack changed");
      word.store(count + 1, std::memory_order_relaxed);
    }
    round_done();
  }
}

void spin_near_the_end() {
  unsigned char here = 0;
  const auto left = static_cast<size_t>(&here - g_narrow.stack);
  auto* used = static_cast<volatile unsigned char*>(__builtin_alloca(left - 600));
  *used = 1;  // no call of a library here: to bind it takes more stack than is left
  while (!finishing()) {
    for (int i = 0; i < 100'000; ++i) asm volatile("" ::"r"(used) : "memory");
  }
  swapcontext(&t_running->context, &t_scheduler);
}

void run_on_a_narrow_stack() {
  Coroutine coroutine;
  prepare(coroutine, g_narrow.stack, sizeof(g_narrow.stack), spin_near_the_end);
  std::thread neighbour(count_in_neighbours);
  t_running = &coroutine;
  swapcontext(&t_scheduler, &coroutine.context);
  neighbour.join();
}

void jump() {
  jmp_buf place;
  if (setjmp(place) == 0) longjmp(place, 1);
}

void throw_and_jump() {
  while (!finishing()) {
    for (int i = 0; i < 100; ++i) {
      try {
        throw std::string(200, 'y');
      } catch (const std::string& text) {
        expect(text.size() == 200, "exception changed");
      }
      jump();
    }
    round_done();
  }
}

}  // namespace

const std::map<std::string, void (*)()> kLibraryWork = {
    {"errors", keep_errors},           {"popen", call_popen},
    {"resolve", resolve_names},        {"iconv", convert_text},
    {"locale", change_locale},         {"flush", flush_files},
    {"dlopen", open_libraries},        {"timers", run_timers},
    {"endings", end_threads},          {"cancel", cancel_threads},
    {"handler", handle_on_same_stack}, {"altstack", handle_on_own_stack},
    {"coroutines", run_coroutines},    {"narrow", run_on_a_narrow_stack},
    {"throwjump", throw_and_jump}};

}  // namespace bpftime::target
