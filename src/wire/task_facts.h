// The synthetic task_struct: what bpf_get_current_task returns is an address that looks like the kernel's, and the
// helpers that read kernel memory answer for it field by field. Nothing is mapped there.
//
//   address = kTaskBase + tid * kTaskStride + object * kTaskObjectStride + offset of the member
//
// Every thread has its own task, so that programs can use the address as a key; objects a task points to lie in the same
// stride. Where members lie is the running kernel's BTF's to say: the daemon reads it (daemon/task_facts.h), the target has
// it in its context. Freestanding.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace bpftime::wire {

inline constexpr uint64_t kTaskBase = 0xffff888000000000;  // where the kernel maps all memory
inline constexpr uint64_t kTaskObjectStride = 1u << 16;
inline constexpr uint64_t kTaskStride = kTaskObjectStride << 5;
inline constexpr uint64_t kTaskIdMax = 1u << 22;  // PID_MAX_LIMIT

enum class TaskObject : uint8_t {
  kTask = 0,
  kParent,  // a task, too: that of the parent process
  kCredentials,
  kThreadPid,  // struct pid
  kNsproxy,
  kMountNamespace,
  kPidNamespace,
  kUtsNamespace,
  kIpcNamespace,
  kNetNamespace,
  kCgroupNamespace,
  kUserNamespace,
  kCssSet,
  kCgroup,
  kCgroupNode,  // struct kernfs_node
  kCount,
};
static_assert(static_cast<uint64_t>(TaskObject::kCount) * kTaskObjectStride <= kTaskStride);

// What a member reads as.
enum class TaskValue : uint8_t {
  kTid = 0,
  kTgid,
  kComm,
  kParentTask,  // pointers
  kLeaderTask,
  kObject,  // the object `argument` of the same task
  kUid,
  kGid,
  kEffectiveUid,
  kEffectiveGid,
  kCpu,
  kStartTime,
  kStartBoottime,
  kNamespaceId,  // namespace_ids[argument]
  kCgroupId,
  kCgroupLevel,
  kLoginUid,
  kSessionId,
};

struct TaskField {
  uint16_t offset;
  uint8_t size;  // at most kTaskFieldMax
  TaskObject object;
  TaskValue value;
  uint8_t argument;
};
static_assert(sizeof(TaskField) == 6);

inline constexpr uint32_t kTaskFieldMax = 16;
inline constexpr uint32_t kTaskFieldsMax = 64;
inline constexpr uint32_t kCgroupLevelsMax = 16;
// Order of namespace_ids.
enum NamespaceKind : uint8_t {
  kMountNs,
  kPidNs,
  kUtsNs,
  kIpcNs,
  kNetNs,
  kCgroupNs,
  kUserNs,
  kNamespaceKinds,
};

// Part of TargetContext: what no instruction can tell a program about its process. Inherited by forks, as what it describes
// is. All zero: not known (yet).
struct TaskFacts {
  uint32_t field_count;  // <= kTaskFieldsMax
  uint32_t cgroup_level;
  uint64_t namespace_device;  // st_dev of /proc/PID/ns/*
  uint32_t namespace_ids[kNamespaceKinds];
  uint32_t login_uid, session_id;
  uint32_t tick_ns;                       // between two jiffies
  uint64_t cgroup_ids[kCgroupLevelsMax];  // [0] root … [cgroup_level] the process's own
  TaskField fields[kTaskFieldsMax];       // parents and their threads look like any task
};
static_assert(sizeof(TaskFacts) == 16 + 40 + 8 * kCgroupLevelsMax + 6 * kTaskFieldsMax);

constexpr uint64_t task_address(uint64_t tid, TaskObject object = TaskObject::kTask) {
  return kTaskBase + tid * kTaskStride + static_cast<uint64_t>(object) * kTaskObjectStride;
}

}  // namespace bpftime::wire
