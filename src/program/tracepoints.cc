#include "program/tracepoints.h"

#include <algorithm>
#include <array>

namespace bpftime::program {
namespace {

struct SystemCall {
  int32_t number;
  std::string_view name, arguments;
};
constexpr SystemCall kSystemCalls[] = {
#define BPFTIME_SYSTEM_CALL(number, name, arguments) {number, #name, arguments},
#include "program/system_calls.def"
#undef BPFTIME_SYSTEM_CALL
};

constexpr std::string_view kSignal = "signal", kSignalName = "signal_generate";
constexpr uint32_t kSignalRecord = 48;
constexpr std::string_view kSyscalls = "syscalls", kRawSyscalls = "raw_syscalls";
constexpr std::string_view kEnter = "sys_enter", kExit = "sys_exit";
constexpr uint32_t kFirstField = 16, kFieldSize = 8;  // behind trace_entry and the number
constexpr uint32_t kRawIds = 4096;                    // distance of raw_syscalls' ids, above every number
constexpr uint32_t kSignalId = kFirstTracepointId + kRawIds + 2;

const SystemCall* find_number(int32_t number) {
  const auto* found = std::lower_bound(std::begin(kSystemCalls), std::end(kSystemCalls), number,
                                       [](const SystemCall& call, int32_t n) { return call.number < n; });
  return found != std::end(kSystemCalls) && found->number == number ? found : nullptr;
}

std::vector<std::string_view> arguments_of(const SystemCall& call) {
  std::vector<std::string_view> out;
  for (std::string_view rest = call.arguments; !rest.empty();) {
    const size_t end = std::min(rest.find(';'), rest.size());
    out.push_back(rest.substr(0, end));
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return out;
}

std::string field(std::string_view declaration, uint32_t offset, uint32_t size, bool is_signed) {
  return "\tfield:" + std::string(declaration) + ";\toffset:" + std::to_string(offset) +
         ";\tsize:" + std::to_string(size) + ";\tsigned:" + (is_signed ? "1" : "0") + ";\n";
}

}  // namespace

uint32_t Tracepoint::id() const {
  if (signal()) return kSignalId;
  return kFirstTracepointId + (raw() ? kRawIds : 2 * static_cast<uint32_t>(number)) + (on_exit ? 1 : 0);
}

std::string Tracepoint::category() const {
  return std::string(signal() ? kSignal : raw() ? kRawSyscalls : kSyscalls);
}

std::string Tracepoint::name() const {
  if (signal()) return std::string(kSignalName);
  std::string out(on_exit ? kExit : kEnter);
  return raw() ? out : out + "_" + std::string(system_call_name(number));
}

uint32_t Tracepoint::record_size() const {
  if (signal()) return kSignalRecord;
  if (on_exit) return kFirstField + kFieldSize;
  if (raw()) return kFirstField + 6 * kFieldSize;
  const SystemCall* call = find_number(number);
  return kFirstField + kFieldSize * (call == nullptr ? 0 : static_cast<uint32_t>(arguments_of(*call).size()));
}

// Known are sig, errno and pid. What becomes of the signal is decided in the kernel, and the receiver's name is not the
// sender's to know.
uint64_t Tracepoint::unknown_slots() const {
  constexpr uint64_t kCodeAndComm = 1u << 2, kComm = 1u << 3, kGroupAndResult = 1u << 5;
  return signal() ? kCodeAndComm | kComm | kGroupAndResult : 0;
}

std::string Tracepoint::format(uint32_t id) const {
  std::string out = "name: " + name() + "\nID: " + std::to_string(id) + "\nformat:\n";
  out += field("unsigned short common_type", 0, 2, false) + field("unsigned char common_flags", 2, 1, false) +
         field("unsigned char common_preempt_count", 3, 1, false) + field("int common_pid", 4, 4, true) +
         "\n";
  if (signal())
    return out + field("int sig", 8, 4, true) + field("int errno", 12, 4, true) +
           field("int code", 16, 4, true) + field("char comm[16]", 20, 16, false) +
           field("pid_t pid", 36, 4, true) + field("int group", 40, 4, true) +
           field("int result", 44, 4, true) +
           "\nprint fmt: \"sig=%d errno=%d code=%d comm=%s pid=%d grp=%d res=%d\", REC->sig, REC->errno, "
           "REC->code, REC->comm, REC->pid, REC->group, REC->result\n";
  out += raw() ? field("long id", 8, 8, true) : field("int __syscall_nr", 8, 4, true);
  if (on_exit) {
    out += field("long ret", kFirstField, kFieldSize, true) + "\nprint fmt: ";
    return out + (raw() ? "\"NR %ld = %ld\", REC->id, REC->ret\n" : "\"0x%lx\", REC->ret\n");
  }
  if (raw()) {
    out += field("unsigned long args[6]", kFirstField, 6 * kFieldSize, false);
    out += "\nprint fmt: \"NR %ld (%lx, %lx, %lx, %lx, %lx, %lx)\", REC->id";
    for (int i = 0; i < 6; ++i) out += ", REC->args[" + std::to_string(i) + "]";
    return out + "\n";
  }
  std::string text, values;
  uint32_t offset = kFirstField;
  for (const std::string_view declaration : arguments_of(*find_number(number))) {
    const std::string argument(declaration.substr(declaration.rfind(' ') + 1));
    out += field(declaration, offset, kFieldSize, false);
    text += (text.empty() ? "" : ", ") + argument + ": 0x%08lx";
    values += ", ((unsigned long)(REC->" + argument + "))";
    offset += kFieldSize;
  }
  return out + "\nprint fmt: \"" + text + "\"" + values + "\n";
}

std::string_view system_call_name(int32_t number) {
  const SystemCall* call = find_number(number);
  return call == nullptr ? std::string_view() : call->name;
}

std::optional<Tracepoint> find_tracepoint(std::string_view category, std::string_view name) {
  if (category == kSignal && name == kSignalName) return Tracepoint{false, kSignalGenerate};
  const bool on_exit = name.starts_with(kExit);
  if (!on_exit && !name.starts_with(kEnter)) return std::nullopt;
  name.remove_prefix(on_exit ? kExit.size() : kEnter.size());
  if (category == kRawSyscalls) return name.empty() ? std::optional(Tracepoint{on_exit, -1}) : std::nullopt;
  if (category != kSyscalls || !name.starts_with('_')) return std::nullopt;
  name.remove_prefix(1);
  for (const SystemCall& call : kSystemCalls)
    if (call.name == name) return Tracepoint{on_exit, call.number};
  return std::nullopt;
}

std::optional<Tracepoint> tracepoint_of_id(uint64_t id) {
  if (id == kSignalId) return Tracepoint{false, kSignalGenerate};
  if (id < kFirstTracepointId || id > kFirstTracepointId + kRawIds + 1) return std::nullopt;
  const auto distance = static_cast<uint32_t>(id) - kFirstTracepointId;
  const Tracepoint point{(distance & 1) != 0, distance >= kRawIds ? -1 : static_cast<int32_t>(distance / 2)};
  return point.raw() || find_number(point.number) != nullptr ? std::optional(point) : std::nullopt;
}

std::vector<std::string_view> tracepoint_categories() { return {kRawSyscalls, kSignal, kSyscalls}; }

std::vector<Tracepoint> tracepoints_of(std::string_view category) {
  std::vector<Tracepoint> out;
  if (category == kSignal) out = {{false, kSignalGenerate}};
  if (category == kRawSyscalls) out = {{false, -1}, {true, -1}};
  if (category == kSyscalls)
    for (const SystemCall& call : kSystemCalls)
      for (const bool on_exit : {false, true}) out.push_back({on_exit, call.number});
  std::sort(out.begin(), out.end(),
            [](const Tracepoint& a, const Tracepoint& b) { return a.name() < b.name(); });
  return out;
}

}  // namespace bpftime::program
