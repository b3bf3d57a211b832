#include "daemon/task_facts.h"

#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <iterator>
#include <optional>
#include <sstream>
#include <string_view>

#include "base/log.h"

namespace bpftime::daemon {
namespace {

using program::CType;
using program::TypeKind;
using program::TypeTable;
using wire::TaskObject;
using wire::TaskValue;

constexpr std::string_view kKernelTypes = "/sys/kernel/btf/vmlinux";

struct Wanted {
  TaskObject object;
  std::string_view type;  // of the object: "task_struct"
  std::string_view path;  // "thread_info.cpu"
  uint8_t size;
  TaskValue value;
  uint8_t argument = 0;
};

constexpr uint8_t number(TaskObject object) { return static_cast<uint8_t>(object); }

// One row per member that programs are known to read. Older kernels' names stand beside today's.
constexpr Wanted kWanted[] = {
    {TaskObject::kTask, "task_struct", "pid", 4, TaskValue::kTid},
    {TaskObject::kTask, "task_struct", "tgid", 4, TaskValue::kTgid},
    {TaskObject::kTask, "task_struct", "comm", 16, TaskValue::kComm},
    {TaskObject::kTask, "task_struct", "real_parent", 8, TaskValue::kParentTask},
    {TaskObject::kTask, "task_struct", "parent", 8, TaskValue::kParentTask},
    {TaskObject::kTask, "task_struct", "group_leader", 8, TaskValue::kLeaderTask},
    {TaskObject::kTask, "task_struct", "start_time", 8, TaskValue::kStartTime},
    {TaskObject::kTask, "task_struct", "start_boottime", 8, TaskValue::kStartBoottime},
    {TaskObject::kTask, "task_struct", "real_start_time", 8, TaskValue::kStartBoottime},
    {TaskObject::kTask, "task_struct", "thread_info.cpu", 4, TaskValue::kCpu},
    {TaskObject::kTask, "task_struct", "loginuid", 4, TaskValue::kLoginUid},
    {TaskObject::kTask, "task_struct", "sessionid", 4, TaskValue::kSessionId},
    {TaskObject::kTask, "task_struct", "cred", 8, TaskValue::kObject, number(TaskObject::kCredentials)},
    {TaskObject::kTask, "task_struct", "real_cred", 8, TaskValue::kObject, number(TaskObject::kCredentials)},
    {TaskObject::kTask, "task_struct", "thread_pid", 8, TaskValue::kObject, number(TaskObject::kThreadPid)},
    {TaskObject::kTask, "task_struct", "nsproxy", 8, TaskValue::kObject, number(TaskObject::kNsproxy)},
    {TaskObject::kTask, "task_struct", "cgroups", 8, TaskValue::kObject, number(TaskObject::kCssSet)},
    {TaskObject::kCredentials, "cred", "uid", 4, TaskValue::kUid},
    {TaskObject::kCredentials, "cred", "gid", 4, TaskValue::kGid},
    {TaskObject::kCredentials, "cred", "euid", 4, TaskValue::kEffectiveUid},
    {TaskObject::kCredentials, "cred", "egid", 4, TaskValue::kEffectiveGid},
    {TaskObject::kCredentials, "cred", "fsuid", 4, TaskValue::kEffectiveUid},
    {TaskObject::kCredentials, "cred", "fsgid", 4, TaskValue::kEffectiveGid},
    {TaskObject::kCredentials, "cred", "user_ns", 8, TaskValue::kObject, number(TaskObject::kUserNamespace)},
    {TaskObject::kThreadPid, "pid", "numbers", 4, TaskValue::kTid},
    {TaskObject::kNsproxy, "nsproxy", "uts_ns", 8, TaskValue::kObject, number(TaskObject::kUtsNamespace)},
    {TaskObject::kNsproxy, "nsproxy", "ipc_ns", 8, TaskValue::kObject, number(TaskObject::kIpcNamespace)},
    {TaskObject::kNsproxy, "nsproxy", "mnt_ns", 8, TaskValue::kObject, number(TaskObject::kMountNamespace)},
    {TaskObject::kNsproxy, "nsproxy", "pid_ns_for_children", 8, TaskValue::kObject,
     number(TaskObject::kPidNamespace)},
    {TaskObject::kNsproxy, "nsproxy", "net_ns", 8, TaskValue::kObject, number(TaskObject::kNetNamespace)},
    {TaskObject::kNsproxy, "nsproxy", "cgroup_ns", 8, TaskValue::kObject,
     number(TaskObject::kCgroupNamespace)},
    {TaskObject::kMountNamespace, "mnt_namespace", "ns.inum", 4, TaskValue::kNamespaceId, wire::kMountNs},
    {TaskObject::kPidNamespace, "pid_namespace", "ns.inum", 4, TaskValue::kNamespaceId, wire::kPidNs},
    {TaskObject::kUtsNamespace, "uts_namespace", "ns.inum", 4, TaskValue::kNamespaceId, wire::kUtsNs},
    {TaskObject::kIpcNamespace, "ipc_namespace", "ns.inum", 4, TaskValue::kNamespaceId, wire::kIpcNs},
    {TaskObject::kNetNamespace, "net", "ns.inum", 4, TaskValue::kNamespaceId, wire::kNetNs},
    {TaskObject::kCgroupNamespace, "cgroup_namespace", "ns.inum", 4, TaskValue::kNamespaceId,
     wire::kCgroupNs},
    {TaskObject::kUserNamespace, "user_namespace", "ns.inum", 4, TaskValue::kNamespaceId, wire::kUserNs},
    {TaskObject::kCssSet, "css_set", "dfl_cgrp", 8, TaskValue::kObject, number(TaskObject::kCgroup)},
    {TaskObject::kCgroup, "cgroup", "kn", 8, TaskValue::kObject, number(TaskObject::kCgroupNode)},
    {TaskObject::kCgroup, "cgroup", "level", 4, TaskValue::kCgroupLevel},
    {TaskObject::kCgroupNode, "kernfs_node", "id", 8, TaskValue::kCgroupId},
};
static_assert(std::size(kWanted) <= wire::kTaskFieldsMax);

constexpr const char* kNamespaceNames[wire::kNamespaceKinds] = {"mnt", "pid",    "uts", "ipc",
                                                                "net", "cgroup", "user"};

// A member by name, looking through anonymous structs and unions.
const CType::Member* find_member(const TypeTable& types, const CType& type, std::string_view name,
                                 uint64_t& bit_offset, uint32_t depth = 0) {
  if (depth > program::kTypeDepthMax) return nullptr;
  for (const auto& member : type.members) {
    if (member.name == name) {
      bit_offset += member.bit_offset;
      return &member;
    }
    const CType& inner = types.resolved(member.type);
    const bool anonymous = member.name.empty();
    if (!anonymous || (inner.kind != TypeKind::kStruct && inner.kind != TypeKind::kUnion)) continue;
    uint64_t inside = bit_offset + member.bit_offset;
    if (const auto* found = find_member(types, inner, name, inside, depth + 1)) {
      bit_offset = inside;
      return found;
    }
  }
  return nullptr;
}

// In bytes.
std::optional<uint64_t> offset_of(const TypeTable& types, uint32_t type, std::string_view path) {
  uint64_t bits = 0;
  while (!path.empty()) {
    const std::string_view name = path.substr(0, path.find('.'));
    path.remove_prefix(std::min(path.size(), name.size() + 1));
    const auto* member = find_member(types, types.resolved(type), name, bits);
    if (member == nullptr || member->bit_size != 0) return std::nullopt;
    type = member->type;
  }
  return bits / 8;
}

std::string read_proc(pid_t pid, const char* name) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/" + name);
  return {std::istreambuf_iterator<char>(file), {}};
}

uint32_t read_number(pid_t pid, const char* name) {
  const std::string text = read_proc(pid, name);
  return static_cast<uint32_t>(std::strtoul(text.c_str(), nullptr, 10));
}

void find_namespaces(pid_t pid, wire::TaskFacts& facts) {
  for (uint32_t i = 0; i < wire::kNamespaceKinds; ++i) {
    struct stat status {};
    const std::string path = "/proc/" + std::to_string(pid) + "/ns/" + kNamespaceNames[i];
    if (::stat(path.c_str(), &status) != 0) continue;
    facts.namespace_ids[i] = static_cast<uint32_t>(status.st_ino);
    facts.namespace_device = status.st_dev;
  }
}

// Where the one hierarchy of cgroup2 is mounted; empty: nowhere.
std::string cgroup_root() {
  constexpr long kCgroup2Magic = 0x63677270;  // CGROUP2_SUPER_MAGIC
  for (const char* path : {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"}) {
    struct statfs status {};
    if (::statfs(path, &status) == 0 && status.f_type == kCgroup2Magic) return path;
  }
  return "";
}

// A cgroup's id is its directory's inode number.
void find_cgroups(pid_t pid, wire::TaskFacts& facts) {
  std::string directory = cgroup_root();
  std::istringstream lines(read_proc(pid, "cgroup"));
  std::string line;
  while (std::getline(lines, line) && !line.starts_with("0::/")) {
  }
  if (directory.empty() || !line.starts_with("0::/")) return;
  std::istringstream path(line.substr(4));
  for (uint32_t level = 0; level < wire::kCgroupLevelsMax; ++level) {
    struct stat status {};
    if (::stat(directory.c_str(), &status) != 0) return;
    facts.cgroup_ids[level] = status.st_ino;
    facts.cgroup_level = level;
    std::string component;
    if (!std::getline(path, component, '/') || component.empty()) return;
    directory += "/" + component;
  }
}

}  // namespace

Result<std::vector<wire::TaskField>> task_fields(const TypeTable& types) {
  std::vector<wire::TaskField> out;
  for (const Wanted& wanted : kWanted) {
    const uint32_t type = types.find("struct " + std::string(wanted.type));
    if (type == 0 && wanted.object == TaskObject::kTask)
      return Error{EINVAL, "kernel types: no struct task_struct"};
    const auto offset = type == 0 ? std::nullopt : offset_of(types, type, wanted.path);
    if (!offset || *offset + wanted.size > UINT16_MAX) continue;
    out.push_back(
        {static_cast<uint16_t>(*offset), wanted.size, wanted.object, wanted.value, wanted.argument});
  }
  return out;
}

const std::vector<wire::TaskField>& kernel_task_fields() {
  static const std::vector<wire::TaskField> fields = [] {
    std::vector<wire::TaskField> none;
    std::ifstream file{std::string(kKernelTypes), std::ios::binary};
    const std::vector<uint8_t> bytes((std::istreambuf_iterator<char>(file)), {});
    auto types = bytes.empty() ? Result<program::BtfContents>(Error{ENOENT, "cannot be read"})
                               : program::read_btf(bytes);
    auto found = types ? task_fields(types->table) : Result<std::vector<wire::TaskField>>(types.error());
    if (found) return *found;
    log_warning("bpf_get_current_task: " + std::string(kKernelTypes) + ": " + found.error().message +
                ": fields of the task read as zero");
    return none;
  }();
  return fields;
}

wire::TaskFacts task_facts(const target::Process& process, const std::vector<wire::TaskField>& fields) {
  wire::TaskFacts facts{};
  facts.field_count = static_cast<uint32_t>(std::min<size_t>(fields.size(), wire::kTaskFieldsMax));
  std::copy_n(fields.begin(), facts.field_count, facts.fields);
  find_namespaces(process.pid(), facts);
  find_cgroups(process.pid(), facts);
  timespec tick{};
  if (::clock_getres(CLOCK_MONOTONIC_COARSE, &tick) == 0) facts.tick_ns = static_cast<uint32_t>(tick.tv_nsec);
  facts.login_uid = read_number(process.pid(), "loginuid");
  facts.session_id = read_number(process.pid(), "sessionid");
  return facts;
}

wire::TargetIdentity identity_of(const target::Process& process, uint32_t tgid) {
  const auto now = [](clockid_t clock) {
    timespec time{};
    ::clock_gettime(clock, &time);
    return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(time.tv_nsec);
  };
  const long ticks_per_second = std::max(1L, ::sysconf(_SC_CLK_TCK));
  wire::TargetIdentity identity{};
  identity.tgid = tgid;
  identity.start_boottime_ns =
      process.start_time() * (1'000'000'000u / static_cast<uint64_t>(ticks_per_second));
  const uint64_t monotonic = now(CLOCK_MONOTONIC);  // first: the difference must not be negative
  const uint64_t suspended = (now(CLOCK_BOOTTIME) - monotonic) / 1'000'000 * 1'000'000;
  identity.start_time_ns =
      identity.start_boottime_ns > suspended ? identity.start_boottime_ns - suspended : 0;
  return identity;
}

}  // namespace bpftime::daemon
