// What the compiler makes of programs beside what clang makes of the same C (bench/engine/workloads.c), and how long it takes:
// per workload, and for small programs in a process that never compiled before. `--json FILE` writes the numbers too.
#include <elf.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/bytes.h"
#include "compiler/testing_target.h"
#include "engine/workloads.h"

extern "C" {
#define DECLARE(name, size, what)                    \
  uint64_t native_##name(const engine_input* input); \
  uint64_t general_##name(const engine_input* input);
ENGINE_WORKLOADS(DECLARE)
#undef DECLARE
}

namespace bpftime::bench {
namespace {

using namespace compiler::testing;
using Function = uint64_t (*)(const engine_input*);

struct Workload {
  const char* name;
  uint64_t size;
  const char* what;
  Function native, general;  // clang -O2, and -O2 -mgeneral-regs-only
};
constexpr Workload kWorkloads[] = {
#define ROW(name, size, what) {#name, size, what, native_##name, general_##name},
    ENGINE_WORKLOADS(ROW)
#undef ROW
};

constexpr int kRounds = 60;
constexpr uint64_t kBatchNs = 400'000;
constexpr int kColdProcesses = 9;

// Of this thread: what others do meanwhile is not counted.
uint64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(t.tv_nsec);
}

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// ---- the BPF build ----

std::vector<uint8_t> read_file(const char* path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// The instructions of section "NAME/entry"; the one reference outside, to the array, becomes map 0.
std::optional<program::Program> find_program(Bytes object, const std::string& name) {
  const auto header = read_at<Elf64_Ehdr>(object, 0);
  if (!header) return std::nullopt;
  const auto section_at = [&](uint64_t i) {
    return read_at<Elf64_Shdr>(object, header->e_shoff + i * sizeof(Elf64_Shdr));
  };
  const auto names = section_at(header->e_shstrndx);
  for (uint64_t i = 0; names && i < header->e_shnum; i++) {
    const auto section = section_at(i);
    if (!section || string_at(object, names->sh_offset + section->sh_name) != name + "/entry") continue;
    program::Program program;
    program.name = name;
    program.type = BPF_PROG_TYPE_KPROBE;
    for (uint64_t at = 0; at < section->sh_size; at += sizeof(program::Insn)) {
      const auto insn = read_at<program::Insn>(object, section->sh_offset + at);
      if (!insn) return std::nullopt;
      program.insns.push_back(*insn);
      auto& added = program.insns.back();
      if (name == "helper_calls" && added.code == (BPF_LD | BPF_IMM | BPF_DW))
        added.src_reg = BPF_PSEUDO_MAP_FD;
    }
    return program;
  }
  return std::nullopt;
}

// As a verified program comes: everything reached, no stack read before it is written, every call with the one map there is.
verifier::Facts plain_facts(const program::Program& program) {
  verifier::Facts facts;
  verifier::InsnFacts reached;
  reached.reached = true;
  reached.same_map = true;
  facts.insns.assign(program.insns.size(), reached);
  facts.zeroed_bytes.assign(program::subprogram_starts(program).size(), 0);
  return facts;
}

Result<Code> compile(Target& target, const program::Program& program) {
  std::vector<compiler::MapBinding> maps;
  for (uint32_t i = 0; i < target.map_count(); i++) maps.push_back(target.binding(i));
  const verifier::Facts facts = plain_facts(program);
  compiler::CompileOptions options;
  options.context_address = target.address();
  options.facts = &facts;
  return Code::compile(program, maps, options);
}

// ---- speed ----

// Bytes as text and machine data have them, the same in every run; the second half repeats the first.
void fill(uint8_t* memory) {
  uint64_t state = 88172645463325252u;
  for (uint64_t i = 0; i < ENGINE_MEMORY_SIZE / 2; i++) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    memory[i] = static_cast<uint8_t>(state);
  }
  memcpy(memory + ENGINE_MEMORY_SIZE / 2, memory, ENGINE_MEMORY_SIZE / 2);
}
void prepare(const Workload& workload, uint8_t* memory) {
  fill(memory);
  if (strcmp(workload.name, "binary_search") != 0) return;
  for (uint32_t i = 0; i < 1024; i++) {
    const uint32_t key = i * (UINT32_MAX / 1024);
    memcpy(memory + i * sizeof(key), &key, sizeof(key));
  }
}

template <typename Run>
double nanoseconds(Run run, uint64_t times) {
  const uint64_t start = now_ns();
  for (uint64_t i = 0; i < times; i++) run();
  return static_cast<double>(now_ns() - start) / static_cast<double>(times);
}
double least(const std::vector<double>& values) { return *std::min_element(values.begin(), values.end()); }

struct Measured {
  const Workload* workload = nullptr;
  double native_ns = 0, general_ns = 0, ours_ns = 0;  // per run, the best round's
  double compile_ms = 0;
  uint32_t insns = 0, text_bytes = 0;
  bool agrees = true;
  double ratio() const { return ours_ns / native_ns; }
};

std::optional<Measured> measure(const Workload& workload, Bytes object) {
  const auto program = find_program(object, workload.name);
  if (!program) return std::nullopt;
  Target target;
  target.add_map(BPF_MAP_TYPE_ARRAY, 4, 8, ENGINE_MEMORY_SIZE / 8);
  const uint64_t start = now_ns();
  const auto code = compile(target, *program);
  Measured measured{&workload};
  measured.compile_ms = static_cast<double>(now_ns() - start) / 1e6;
  if (!code) {
    fprintf(stderr, "%s\n", code.error().message.c_str());
    return std::nullopt;
  }
  measured.insns = static_cast<uint32_t>(program->insns.size());
  measured.text_bytes = code->machine_code().text_size;

  alignas(64) static uint8_t memory[ENGINE_MEMORY_SIZE];
  const engine_input input{memory, workload.size};
  wire::Invocation invocation{};
  const auto ours = [&] {
    return code->run(reinterpret_cast<uint64_t>(&input), reinterpret_cast<uint64_t>(&invocation));
  };
  const auto native = [&] { return workload.native(&input); };
  const auto general = [&] { return workload.general(&input); };
  prepare(workload, memory);
  const bool own_memory = strcmp(workload.name, "helper_calls") != 0;  // its map starts as zeroes
  if (!own_memory) memset(memory, 0, sizeof memory);
  const uint64_t expected = native();
  prepare(workload, memory);
  if (!own_memory) memset(memory, 0, sizeof memory);
  measured.agrees = general() == expected && ours() == expected;
  prepare(workload, memory);

  const uint64_t times = 1 + static_cast<uint64_t>(static_cast<double>(kBatchNs) / nanoseconds(native, 20));
  std::vector<double> natives, generals, ours_times;
  for (int round = 0; round < kRounds; round++) {
    natives.push_back(nanoseconds(native, times));
    generals.push_back(nanoseconds(general, times));
    ours_times.push_back(nanoseconds(ours, times));
  }
  measured.native_ns = least(natives);
  measured.general_ns = least(generals);
  measured.ours_ns = least(ours_times);
  return measured;
}

// ---- compile latency of small programs ----

struct SmallProgram {
  const char* name;
  uint32_t map_type;
  std::vector<program::Insn> insns;
};

std::vector<SmallProgram> small_programs() {
  const std::vector<program::Insn> one_key = Sequence() << store_imm(BPF_W, 10, -4, 0) << load_map(1, 0)
                                                        << mov_reg(2, 10) << add(2, -4);
  const std::vector<program::Insn> count = Sequence() << call(BPF_FUNC_map_lookup_elem) << jump_eq(0, 0, 3)
                                                      << load(BPF_DW, 1, 0, 0) << add(1, 1)
                                                      << store(BPF_DW, 0, 0, 1) << mov(0, 0) << exit_insn();
  return {
      {"count per CPU", BPF_MAP_TYPE_PERCPU_ARRAY, Sequence() << one_key << count},
      {"hash look-up, add", BPF_MAP_TYPE_HASH, Sequence() << one_key << count},
      {"hash update", BPF_MAP_TYPE_HASH,
       Sequence() << one_key << store_imm(BPF_DW, 10, -16, 7) << mov_reg(3, 10) << add(3, -16) << mov(4, 0)
                  << call(BPF_FUNC_map_update_elem) << mov(0, 0) << exit_insn()},
      {"pid, ktime, ring buffer", BPF_MAP_TYPE_RINGBUF,
       Sequence() << load_map(1, 0) << mov(2, 16) << mov(3, 0) << call(BPF_FUNC_ringbuf_reserve)
                  << jump_eq(0, 0, 8) << mov_reg(6, 0) << call(BPF_FUNC_get_current_pid_tgid)
                  << store(BPF_DW, 6, 0, 0) << call(BPF_FUNC_ktime_get_ns) << store(BPF_DW, 6, 8, 0)
                  << mov_reg(1, 6) << mov(2, 0) << call(BPF_FUNC_ringbuf_submit) << mov(0, 0) << exit_insn()},
  };
}

double compile_small(const SmallProgram& small) {
  Target target;
  const bool ring = small.map_type == BPF_MAP_TYPE_RINGBUF;
  target.add_map(small.map_type, ring ? 0 : 4, ring ? 0 : 8, ring ? 4096 : 16);
  program::Program program;
  program.name = small.name;
  program.insns = small.insns;
  const uint64_t start = now_ns();
  const auto code = compile(target, program);
  if (!code) fprintf(stderr, "%s: %s\n", small.name, code.error().message.c_str());
  return static_cast<double>(now_ns() - start) / 1e6;
}

// In a process of its own: milliseconds of warming up (or none), of program `first`, and of the same again with another
// constant, so that it is not remembered.
int cold_child(size_t first, bool warm) {
  auto programs = small_programs();
  const uint64_t start = now_ns();
  if (warm) compiler::warm_up();
  const double warming = static_cast<double>(now_ns() - start) / 1e6;
  const double cold = compile_small(programs[first]);
  std::vector<double> following;
  for (int i = 0; i < 7; i++) {
    auto again = programs[first];
    again.insns.insert(again.insns.begin(), mov(0, 100 + i));
    following.push_back(compile_small(again));
  }
  printf("%f %f %f\n", warming, cold, median(following));
  return 0;
}

struct Latency {
  double warming_ms = 0, cold_ms = 0, warmed_ms = 0, following_ms = 0;
};

std::array<double, 3> run_child(size_t first, bool warm) {
  char self[4096], command[4200];
  const ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
  self[std::max<ssize_t>(length, 0)] = '\0';
  snprintf(command, sizeof command, "'%s' --cold-child %zu %d", self, first, warm);
  std::array<double, 3> out{};
  FILE* pipe = popen(command, "r");
  if (pipe == nullptr || fscanf(pipe, "%lf %lf %lf", &out[0], &out[1], &out[2]) != 3)
    fprintf(stderr, "%s: no answer\n", command);
  if (pipe != nullptr) pclose(pipe);
  return out;
}

Latency measure_latency(size_t program) {
  std::vector<double> warming, cold, warmed, following;
  for (int i = 0; i < kColdProcesses; i++) {
    const auto without = run_child(program, false), with = run_child(program, true);
    cold.push_back(without[1]);
    following.push_back(without[2]);
    warming.push_back(with[0]);
    warmed.push_back(with[1]);
  }
  return {median(warming), median(cold), median(warmed), median(following)};
}

// ---- the report ----

nlohmann::json report_speed(const std::vector<Measured>& all) {
  printf(
      "\nGenerated code beside clang's of the same C, CPU nanoseconds a run, best of %d interleaved "
      "rounds.\n\n",
      kRounds);
  printf(
      "| workload                                          | clang -O2 | general regs |      ours | ours/-O2 "
      "| ours/general | compile, ms |\n|---|---|---|---|---|---|---|\n");
  nlohmann::json json;
  double logs = 0, general_logs = 0;
  for (const Measured& m : all) {
    printf("| %-49s | %9.0f | %12.0f | %9.0f | %8.2f | %12.2f | %11.1f |%s\n", m.workload->what, m.native_ns,
           m.general_ns, m.ours_ns, m.ratio(), m.ours_ns / m.general_ns, m.compile_ms,
           m.agrees ? "" : " WRONG RESULT");
    logs += std::log(m.ratio());
    general_logs += std::log(m.ours_ns / m.general_ns);
    json["workloads"].push_back({{"name", m.workload->name},
                                 {"what", m.workload->what},
                                 {"native_ns", m.native_ns},
                                 {"native_general_registers_ns", m.general_ns},
                                 {"ours_ns", m.ours_ns},
                                 {"ratio", m.ratio()},
                                 {"compile_ms", m.compile_ms},
                                 {"insns", m.insns},
                                 {"text_bytes", m.text_bytes},
                                 {"agrees", m.agrees}});
  }
  const auto count = static_cast<double>(std::max<size_t>(all.size(), 1));
  json["geometric_mean"] = std::exp(logs / count);
  json["geometric_mean_general_registers"] = std::exp(general_logs / count);
  printf("\nGeometric mean: %.2f times clang -O2, %.2f times clang -O2 -mgeneral-regs-only.\n",
         std::exp(logs / count), std::exp(general_logs / count));
  return json;
}

nlohmann::json report_latency() {
  printf("\nCompiling a small program, CPU milliseconds, median of %d fresh processes.\n\n", kColdProcesses);
  printf(
      "| program                 | first in a process | warming up | first after it | following "
      "|\n|---|---|---|---|---|\n");
  nlohmann::json json;
  const auto programs = small_programs();
  for (size_t i = 0; i < programs.size(); i++) {
    const Latency latency = measure_latency(i);
    printf("| %-23s | %18.1f | %10.1f | %14.1f | %9.1f |\n", programs[i].name, latency.cold_ms,
           latency.warming_ms, latency.warmed_ms, latency.following_ms);
    json.push_back({{"program", programs[i].name},
                    {"first_ms", latency.cold_ms},
                    {"warming_ms", latency.warming_ms},
                    {"first_after_warming_ms", latency.warmed_ms},
                    {"following_ms", latency.following_ms}});
  }
  return json;
}

int run(int argc, char** argv) {
  std::string path;
  std::string only;
  for (int i = 1; i + 1 < argc; i++) {
    if (strcmp(argv[i], "--json") == 0) path = argv[i + 1];
    if (strcmp(argv[i], "--only") == 0) only = argv[i + 1];
    if (strcmp(argv[i], "--cold-child") == 0 && i + 2 < argc) {
      const auto first = static_cast<size_t>(atoi(argv[i + 1]));
      return first < small_programs().size() ? cold_child(first, atoi(argv[i + 2]) != 0) : 1;
    }
  }
  nlohmann::json json;
  if (only.empty()) json["compile_latency"] = report_latency();
  const auto object = read_file(BPFTIME_WORKLOADS_OBJECT);
  std::vector<Measured> all;
  for (const Workload& workload : kWorkloads) {
    if (!only.empty() && only != workload.name) continue;
    const auto measured = measure(workload, object);
    if (!measured) return fprintf(stderr, "%s: cannot be measured\n", workload.name), 1;
    all.push_back(*measured);
  }
  json["speed"] = report_speed(all);
  if (!path.empty()) std::ofstream(path) << json.dump(2) << "\n";
  return 0;
}

}  // namespace
}  // namespace bpftime::bench

int main(int argc, char** argv) { return bpftime::bench::run(argc, argv); }
