// Shared by both halves of task_stat.
#pragma once

#define STACK_WORDS 16

struct report {
  unsigned int on_return, pid, tgid, task_pid, task_tgid, parent_tgid, leader_pid, mount_ns, uid;
  int name_length, comm_error, stack_bytes, kernel_stack_bytes, stack_id, kernel_stack_id, other_stack_id;
  unsigned long long start_boottime_ns, cgroup_id;
  char name[16];
  char text[32];
  int text_length;
  unsigned long long stack[STACK_WORDS];
};
