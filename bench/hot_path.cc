#include "hot_path.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <fstream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "probes.h"

namespace bpftime::bench {
namespace {

// Of a batch, the kernel's and ours.
constexpr uint64_t kFew = 3'000, kMany = 100'000;
// Over half a second: what slows the machine's cores lasts for tenths of one.
constexpr int kBatches = 25;
constexpr long kBatchPauseMs = 20;
// Records of one pass fit into the ring (16 bytes each): none is lost however late the tool wakes.
constexpr uint64_t kRingPass = 100'000;
static_assert(kRingPass * 16 * 2 < RING_BYTES);
constexpr long kRingPauseMs = 50;   // between passes: the tool empties the ring
constexpr int kRingWarmPasses = 3;  // once around, so that its pages are there
constexpr int kRingPasses = 10;
constexpr uint64_t kSiteDeadlineNs = 5'000'000'000;
constexpr size_t kSiteBytes = 5;
constexpr uint64_t kSystemCalls = 500'000;
constexpr int kSystemCallBatches =
    25;                            // what a system call takes differs by more between some than ours adds
constexpr uint64_t kEvicted = 40;  // calls, some milliseconds each
constexpr uint64_t kSpinMs = 700;  // the tool needs less to start and to attach

// libbpf looks up tracepoints in tracefs, which need not be mounted: for the tool alone it is.
const char* const kWithTracefs[] = {
    "unshare", "--mount", "sh", "-c", R"(mount -t tracefs none /sys/kernel/tracing 2>/dev/null; exec "$@")",
    "sh"};

using SiteBytes = std::array<unsigned char, kSiteBytes>;

void pause_ms(long ms) {
  const timespec time{0, ms * 1'000'000};
  ::nanosleep(&time, nullptr);
}

class Bench {
 public:
  Bench(Process& victim, const HotPathOptions& options) : victim_(victim), options_(options) {
    // "pid PID probed ADDRESS probed_nop ADDRESS"
    std::istringstream words(options.greeting);
    std::string word, address;
    words >> word >> word;
    while (words >> word >> address) sites_[word] = std::stoull(address, nullptr, 16);
    memory_ = ::open(("/proc/" + std::to_string(victim.pid()) + "/mem").c_str(), O_RDONLY | O_CLOEXEC);
    if (memory_ < 0) throw Trouble("cannot read the victim's memory");
  }
  ~Bench() { ::close(memory_); }

  double calls(const Mode& mode, uint64_t count) {
    victim_.write_line((mode.way.empty() ? mode.function : mode.way) + " " + std::to_string(count));
    return std::stod(victim_.read_line()) / count;
  }

  // The fastest of the mode's batches, after those that warm up.
  double timed(const Mode& mode, uint64_t count) {
    const bool ring = mode.name.starts_with("ringbuf");
    double fastest = std::numeric_limits<double>::infinity();
    for (int batch = -mode.warm_batches; batch < mode.batches; ++batch) {
      const double ns = calls(mode, count);
      if (batch >= 0) fastest = std::min(fastest, ns);
      if (mode.batches > 1) pause_ms(ring ? kRingPauseMs : kBatchPauseMs);
    }
    return fastest;
  }

  double bare(const Mode& mode) { return timed(mode, mode.calls_ours); }

  // One measurement with a probe of the kernel's or ours; `label` for reports.
  double probed(const Mode& mode, bool ours, int round, Variant& into) {
    const SiteBytes before = site(mode);
    Arguments tool = {options_.bin + "/probes", mode.granted && ours ? granted_name(mode) : mode.name,
                      std::to_string(victim_.pid()), options_.bin + "/bench_victim", mode.function};
    if (mode.attach_only) tool.push_back("again");
    if (ours) {
      Arguments load = {options_.bin + "/bpftime", "load"};
      if (mode.granted) load.insert(load.end(), {"--policy", policy(), "--class", "writer"});
      tool.insert(tool.begin(), load.begin(), load.end());
    } else if (mode.system_call) {
      tool.insert(tool.begin(), std::begin(kWithTracefs), std::end(kWithTracefs));
    }
    // Calling all the while, in both columns.
    if (mode.attach_only) victim_.write_line("spin " + std::to_string(kSpinMs));
    Process running(tool, options_.work + "/probes.err");
    const std::string ready = running.read_line();
    if (!ready.starts_with("ready ")) throw Trouble("probes says " + ready);
    await_site(mode, before, false);
    into.attach_us.push_back(std::stod(ready.substr(6)));
    if (mode.attach_only) {
      if (ours) into.change_us.push_back(last_change_us());
      victim_.read_line();
      running.finish(true);
      await_site(mode, before, true);
      return into.attach_us.back();
    }

    const uint64_t count = ours ? mode.calls_ours : mode.calls_kernel;
    const double ns = timed(mode, count);
    const auto said = nlohmann::json::parse(running.finish(true), nullptr, false);
    await_site(mode, before, true);
    check(mode, count * (mode.warm_batches + mode.batches), said, round, into);
    return ns;
  }

 private:
  // To plan, write and synchronize the daemon's last change of a running process.
  double last_change_us() const {
    const auto said = nlohmann::json::parse(
        output_of({options_.bin + "/bpftime", "daemon", "status", "--json"}, options_.work + "/status.err"));
    return said.at("changes").at("last_us").get<double>();
  }

  // write_user is write_granted under a policy, and so on.
  static std::string granted_name(const Mode& mode) {
    return mode.name.substr(0, mode.name.find('_')) + "_granted";
  }

  // What lets a program write to the victim's memory: the path of the file.
  std::string policy() const {
    std::string path = options_.work + "/writer.policy.yaml";
    std::ofstream(path) << "version: 1\nmanifest: " << options_.bin << "/bench_victim\nbuild: any\nclasses:\n"
                        << "  - name: writer\n    extension_entry: probedCall\n"
                        << "    allowed: [bpf_probe_write_user, memory < 16MiB, read(b)]\n";
    return path;
  }

  Process& victim_;
  const HotPathOptions& options_;
  std::map<std::string, uint64_t> sites_;
  int memory_;

  SiteBytes site(const Mode& mode) const {
    SiteBytes bytes{};
    if (::pread(memory_, bytes.data(), bytes.size(), static_cast<off_t>(sites_.at(mode.function))) < 0) {
      throw Trouble("cannot read the victim's memory");
    }
    return bytes;
  }

  // A number measured without its probe would be a lie: the text must differ while attached, and be back
  // afterwards.
  void await_site(const Mode& mode, const SiteBytes& original, bool same) const {
    if (mode.system_call) return;  // its events are counted
    for (const uint64_t start = now_ns(); (site(mode) == original) != same; pause_ms(1)) {
      if (now_ns() - start < kSiteDeadlineNs) continue;
      throw Trouble(mode.name + (same ? ": the site is not restored" : ": the site is not patched"));
    }
  }

  static void check(const Mode& mode, uint64_t calls, const nlohmann::json& said, int round, Variant& into) {
    if (!said.is_object()) throw Trouble("probes printed no JSON");
    const bool hash = mode.name.starts_with("hash_");
    const uint64_t expected = hash ? HASH_KEYS : calls * mode.events_per_call;
    const uint64_t counted = hash ? said.value("keys", 0u) : said.value("events", uint64_t{0});
    if (counted == expected) return;
    into.losses.push_back("round " + std::to_string(round) + ": " + std::to_string(counted) + " of " +
                          std::to_string(expected) + (hash ? " keys" : " events"));
  }
};

}  // namespace

const std::vector<Mode>& modes() {
  static const std::vector<Mode> kModes = [] {
    std::vector<Mode> list;
    const auto add = [&list](std::string id, std::string name, std::string title, int events,
                             std::optional<double> aim) -> Mode& {
      list.push_back({std::move(id), std::move(name), std::move(title), "probed", events, kFew, kMany});
      list.back().aim_ns = aim;
      list.back().batches = kBatches;
      return list.back();
    };
    add("argument_percpu", "argument_percpu", "read an argument, count per CPU", 1, 4);
    Mode& evicted = add("evicted", "argument_percpu", "the same, caches evicted", 1, std::nullopt);
    evicted.way = "evicted";
    evicted.calls_kernel = evicted.calls_ours = kEvicted;
    evicted.warm_batches = 0;
    evicted.batches = 1;
    Mode& rotated = add("rotated", "argument_percpu", "the same, 64 functions in turn", 1, std::nullopt);
    rotated.function = "rotated_0";
    rotated.way = "rotated";
    add("nop", "argument_percpu", "the same, on a 5-byte nop", 1, 4).function = "probed_nop";
    add("empty_entry", "empty_entry", "empty uprobe", 0, 3);
    add("array_atomic", "array_atomic", "atomic add in an array", 1, 9);
    add("hash_update", "hash_update", "hash update, 1,024 keys", 0, 15);
    add("empty_return", "empty_return", "empty uretprobe", 0, 4);
    add("count_return", "count_return", "read the result, count per CPU", 1, 4);
    add("entry_return", "entry_return", "entry and return, count per CPU each", 2, 7);
    add("probe_read", "probe_read", "probe_read of 8 bytes, and a count", 1, std::nullopt);
    add("one_probe_read", "probe_reads", "one probe_read of 8, 8 bytes each", 1, 3).operations = OPERATIONS;
    add("write_user", "write_user", "probe_write_user of 8 bytes, and a count", 1, std::nullopt).granted =
        true;
    Mode& writes = add("one_write_user", "writes_user", "one probe_write_user of 8, 8 bytes each", 1, 3);
    writes.operations = OPERATIONS;
    writes.granted = true;
    add("ktime", "ktime", "ktime_get_ns", 1, 12);
    const std::pair<const char*, double> kPerOperation[] = {{"hash_lookup", 5}, {"hash_update", 12}};
    for (const auto& [name, aim] : kPerOperation) {
      const std::string what = name == std::string("hash_lookup") ? "one look-up of 8" : "one update of 8";
      for (const bool two : {false, true}) {
        Mode& mode = add(std::string(name) + (two ? "_2_threads" : "_1_thread"), std::string(name) + "s",
                         what + (two ? ", 2 threads" : ", 1 thread"), 0, aim);
        mode.operations = OPERATIONS;
        if (two) mode.way = "two_threads";
      }
    }
    const auto add_ring = [&](const char* name, const char* title) {
      Mode& ring = add(name, name, title, 1, 10);
      ring.calls_kernel = ring.calls_ours = kRingPass;
      ring.warm_batches = kRingWarmPasses;
      ring.batches = kRingPasses;
    };
    add_ring("ringbuf", "ring buffer reserve and submit");
    add_ring("ringbuf_woken", "the same, the reader woken");
    const auto add_call = [&](const char* id, const char* name, const char* way, const char* title,
                              int events, double aim) {
      Mode& mode = add(id, name, title, events, aim);
      mode.way = way;
      mode.system_call = true;
      mode.calls_kernel = mode.calls_ours = kSystemCalls;
    };
    add_call("call_entry", "call_entry", "call_max", "system call, traced where it begins", 1, 10);
    add_call("call_both", "call_both", "call_max", "system call, traced at both ends", 2, 10);
    add_call("call_untraced", "call_entry", "call_min", "untraced, while another is traced", 0, 1);
    add_call("call_by_number", "call_entry", "call_by_number", "the same, through syscall(2)", 0, 1);
    Mode& attach = add("attach_busy", "argument_percpu", "attach, compiled, victim busy (µs)", 0, 150);
    attach.attach_only = true;
    return list;
  }();
  return kModes;
}

HotPath measure_hot_path(Process& victim, const HotPathOptions& options) {
  Bench bench(victim, options);
  HotPath out;
  for (const Mode& mode : modes()) {
    if (!options.only || *options.only == mode.id) out.results.push_back({mode, {}, {}, {}, {}});
  }
  for (int round = 0; round < options.rounds; ++round) {
    const uint64_t start = now_ns();
    for (ModeResult& result : out.results) {
      double bare = 0, kernel = 0, ours = 0;
      for (int turn = 0; turn < 3; ++turn) {  // every variant comes first, second and last equally often
        switch ((turn + round) % 3) {
          case 0:
            if (!result.mode.attach_only) bare = bench.bare(result.mode);
            break;
          case 1:
            if (!result.no_kernel.empty()) break;
            try {
              kernel = bench.probed(result.mode, false, round, result.kernel);
            } catch (const Trouble& trouble) {
              if (round > 0) throw;
              result.no_kernel = trouble.what();
            }
            break;
          case 2:
            ours = bench.probed(result.mode, true, round, result.ours);
            break;
        }
      }
      result.bare_ns.push_back(bare);
      const double operations = result.mode.operations;
      if (result.no_kernel.empty()) result.kernel.over_bare_ns.push_back((kernel - bare) / operations);
      result.ours.over_bare_ns.push_back((ours - bare) / operations);
    }
    std::fprintf(stderr, "      round %d of %d: %.1f s\n", round + 1, options.rounds,
                 (now_ns() - start) / 1e9);
  }
  return out;
}

}  // namespace bpftime::bench
