// A library that is loaded later; its constructor already calls what tools probe.
static volatile int worked;

__attribute__((noinline)) int plugin_work(int amount) {
  worked += amount;
  return worked;
}

__attribute__((constructor)) static void start(void) { plugin_work(1); }
