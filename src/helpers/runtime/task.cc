// Reads of the synthetic task_struct. Values that may change, or differ between threads, are asked for at each read;
// nothing is cached, so nothing can be stale after fork, prctl or set*id.
#include "helpers/runtime/task.h"

namespace bpftime::runtime {
namespace {

using wire::TaskObject;
using wire::TaskValue;

struct TaskReference {
  uint32_t tid;
  TaskObject object;
  bool current;  // the thread that runs the program
};

inline uint64_t ask(int64_t number) {
  return may_call_system() ? static_cast<uint32_t>(system_call(number)) : 0;
}

uint64_t identity_of(const TaskReference& task, TaskValue value) {
  constexpr int64_t kSysGetppid = 110;
  if (task.object == TaskObject::kParent) return task.tid;  // a process is known by its first thread
  switch (value) {
    case TaskValue::kTid:
      return task.tid;
    case TaskValue::kTgid:
      return current_tgid();
    case TaskValue::kParentTask:
      return wire::task_address(ask(kSysGetppid), TaskObject::kParent);
    default:
      return wire::task_address(current_tgid());
  }
}

// Of the current process; other processes and their credentials are not to be seen from here.
uint64_t word_of(const TaskReference& task, const wire::TaskField& field) {
  constexpr int64_t kSysGeteuid = 107, kSysGetegid = 108;
  const wire::TaskFacts& facts = context()->task;
  switch (field.value) {
    case TaskValue::kTid:
    case TaskValue::kTgid:
      return identity_of(task, field.value);
    case TaskValue::kParentTask:
    case TaskValue::kLeaderTask:
      return task.object == TaskObject::kParent ? wire::task_address(task.tid, TaskObject::kParent)
                                                : identity_of(task, field.value);
    default:
      break;
  }
  if (task.object == TaskObject::kParent) return 0;
  switch (field.value) {
    case TaskValue::kObject:
      return wire::task_address(task.tid, static_cast<TaskObject>(field.argument));
    case TaskValue::kUid:
      return ask(kSysGetuid);
    case TaskValue::kGid:
      return ask(kSysGetgid);
    case TaskValue::kEffectiveUid:
      return ask(kSysGeteuid);
    case TaskValue::kEffectiveGid:
      return ask(kSysGetegid);
    case TaskValue::kCpu:
      return task.current ? current_cpu() : 0;
    case TaskValue::kStartTime:
      return identity()->start_time_ns;
    case TaskValue::kStartBoottime:
      return identity()->start_boottime_ns;
    case TaskValue::kNamespaceId:
      return field.argument < wire::kNamespaceKinds ? facts.namespace_ids[field.argument] : 0;
    case TaskValue::kCgroupId:
      return facts.cgroup_level < wire::kCgroupLevelsMax ? facts.cgroup_ids[facts.cgroup_level] : 0;
    case TaskValue::kCgroupLevel:
      return facts.cgroup_level;
    case TaskValue::kLoginUid:
      return facts.login_uid;
    case TaskValue::kSessionId:
      return facts.session_id;
    default:
      return 0;
  }
}

// The part of one member that lies in [offset, offset + size).
void put_field(const TaskReference& task, const wire::TaskField& field, uint8_t* destination, uint64_t offset,
               uint64_t size) {
  union {
    uint64_t word;
    char bytes[wire::kTaskFieldMax];
  } value;
  for (char& byte : value.bytes) byte = 0;
  if (field.value == TaskValue::kComm) {
    if (task.current) current_comm(value.bytes);
  } else {
    value.word = word_of(task, field);
  }
  const uint64_t length = field.size < wire::kTaskFieldMax ? field.size : wire::kTaskFieldMax;
  for (uint64_t i = 0; i < length; i++) {
    const uint64_t at = field.offset + i - offset;
    if (at < size) destination[at] = static_cast<uint8_t>(value.bytes[i]);
  }
}

}  // namespace

extern "C" {

int64_t bpftime_read_task(void* destination, uint64_t size, uint64_t address) {
  auto* bytes = static_cast<uint8_t*>(destination);
  bpftime_memset(bytes, 0, size);
  const wire::TaskFacts& facts = context()->task;
  const uint64_t place = address - wire::kTaskBase, offset = place % wire::kTaskObjectStride;
  const uint64_t object = place % wire::kTaskStride / wire::kTaskObjectStride;
  const uint32_t count = facts.field_count < wire::kTaskFieldsMax ? facts.field_count : wire::kTaskFieldsMax;
  if (!is_task_address(address) || count == 0 || object >= static_cast<uint64_t>(TaskObject::kCount) ||
      size > wire::kTaskObjectStride - offset)
    return -kEfault;
  TaskReference task{};
  task.tid = static_cast<uint32_t>(place / wire::kTaskStride);
  task.object = static_cast<TaskObject>(object);
  task.current = task.object != TaskObject::kParent && task.tid == current_tid();
  // Parents are tasks.
  const TaskObject layout = task.object == TaskObject::kParent ? TaskObject::kTask : task.object;
  for (uint32_t i = 0; i < count; i++) {
    const wire::TaskField& field = facts.fields[i];
    if (field.object == layout && field.offset < offset + size &&
        offset < uint64_t{field.offset} + field.size)
      put_field(task, field, bytes, offset, size);
  }
  return 0;
}

int64_t bpftime_read_task_string(char* destination, uint64_t size, uint64_t address) {
  if (size == 0) return 0;
  // Past a name's 16 bytes there is nothing that could be a string.
  const uint64_t read = size < 2 * wire::kTaskFieldMax ? size : 2 * wire::kTaskFieldMax;
  bpftime_memset(destination, 0, size);
  const int64_t error = bpftime_read_task(destination, read, address);
  if (error != 0) return error;
  for (uint64_t i = 0; i < read; i++) {
    if (destination[i] != '\0') continue;
    bpftime_memset(destination + i, 0, read - i);
    return static_cast<int64_t>(i + 1);
  }
  destination[read - 1] = '\0';
  return static_cast<int64_t>(read);
}

}  // extern "C"

}  // namespace bpftime::runtime
