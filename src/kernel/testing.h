// For tests of this folder: a kernel with an observer that remembers, and bpf(2) calls without a socket in between.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <unistd.h>

#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "kernel/kernel.h"

namespace bpftime::kernel {

struct Remembering : Observer {
  int changes = 0, gone = 0, probe_changes = 0;
  std::map<uint64_t, std::vector<uint8_t>> records;  // as the keeper would hold them
  std::map<uint64_t, std::vector<Fd>> fds;

  void object_changed(const Object& object) override {
    ++changes;
    const uint64_t key = Kernel::record_key(object);
    records[key] = Kernel::serialize(object);
    fds[key].clear();
    for (int fd : Kernel::descriptors(object)) fds[key].push_back(Fd(::fcntl(fd, F_DUPFD_CLOEXEC, 0)));
  }
  void object_gone(const Object& object) override {
    ++gone;
    records.erase(Kernel::record_key(object));
    fds.erase(Kernel::record_key(object));
  }
  void probes_changed() override { ++probe_changes; }
  void readiness_wanted(const std::shared_ptr<Object>&) override {}
};

// Collects until nothing is owed, as the worker's loop does: one pass may rest after a long one, and the kernel reports a
// close a moment before it counts it.
inline void settle(Kernel& kernel) {
  for (kernel.collect(); kernel.objects().suspects(); kernel.collect()) ::usleep(100);
}

// One bpf(2) call. Pointers and descriptors are given beside attr, as the protocol carries them.
struct Call {
  bpf_attr attr{};
  std::map<uint32_t, std::vector<uint8_t>> in;
  std::map<uint32_t, uint32_t> out_room;
  std::map<std::pair<wire::FdPlace, uint32_t>, int> fds;
  BpfReply run(Kernel& kernel, uint32_t command) {
    BpfRequest request;
    request.command = command;
    request.attr_size = sizeof attr;
    request.attr = &attr;
    request.in = [this](uint32_t offset) { return in.contains(offset) ? Bytes(in[offset]) : Bytes(); };
    request.out_size = [this](uint32_t offset) { return out_room.contains(offset) ? out_room[offset] : 0; };
    request.fd = [this](wire::FdPlace place, uint32_t offset) {
      auto it = fds.find({place, offset});
      return it == fds.end() ? -1 : it->second;
    };
    return kernel.bpf(request);
  }
};

inline BpfReply create_map(Kernel& kernel, uint32_t type, uint32_t key, uint32_t value, uint32_t entries,
                           uint32_t flags = 0, const char* name = "m") {
  Call call;
  call.attr.map_type = type;
  call.attr.key_size = key;
  call.attr.value_size = value;
  call.attr.max_entries = entries;
  call.attr.map_flags = flags;
  std::strncpy(call.attr.map_name, name, sizeof call.attr.map_name - 1);
  return call.run(kernel, BPF_MAP_CREATE);
}

inline BpfReply load_program(Kernel& kernel, const std::vector<bpf_insn>& insns,
                             std::map<uint32_t, int> map_fds = {}, uint32_t type = BPF_PROG_TYPE_KPROBE) {
  Call call;
  call.attr.prog_type = type;
  call.attr.insn_cnt = insns.size();
  const auto* bytes = reinterpret_cast<const uint8_t*>(insns.data());
  call.in[offsetof(bpf_attr, insns)] = {bytes, bytes + insns.size() * sizeof(bpf_insn)};
  call.in[offsetof(bpf_attr, license)] = {'G', 'P', 'L', 0};
  for (const auto& [index, fd] : map_fds) call.fds[{wire::FdPlace::kInstruction, index}] = fd;
  return call.run(kernel, BPF_PROG_LOAD);
}

inline const std::vector<bpf_insn> kReturnZero = {{BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0},
                                                  {BPF_JMP | BPF_EXIT, 0, 0, 0, 0}};
// r1 = map at instruction 0; return 0
inline const std::vector<bpf_insn> kUsesMap = {{BPF_LD | BPF_IMM | BPF_DW, 1, BPF_PSEUDO_MAP_FD, 0, 0},
                                               {0, 0, 0, 0, 0},
                                               {BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0},
                                               {BPF_JMP | BPF_EXIT, 0, 0, 0, 0}};

inline BpfReply open_uprobe(Kernel& kernel, const std::string& path, uint64_t offset, int32_t pid = -1,
                            int32_t cpu = 0) {
  wire::PerfEventOpen request{};
  perf_event_attr attr{};
  attr.size = sizeof attr;
  attr.type = wire::kUprobePmuType;
  attr.config2 = offset;
  std::memcpy(request.attr, &attr, sizeof attr);
  request.pid = pid;
  request.cpu = cpu;
  return kernel.perf_event_open(request, path);
}

inline BpfReply create_link(Kernel& kernel, int prog_fd, int target_fd, uint64_t cookie = 0) {
  Call call;
  call.attr.link_create.perf_event.bpf_cookie = cookie;
  call.attr.link_create.attach_type = BPF_PERF_EVENT;
  call.fds[{wire::FdPlace::kAttr, offsetof(bpf_attr, link_create.prog_fd)}] = prog_fd;
  if (target_fd >= 0) call.fds[{wire::FdPlace::kAttr, offsetof(bpf_attr, link_create.target_fd)}] = target_fd;
  return call.run(kernel, BPF_LINK_CREATE);
}

}  // namespace bpftime::kernel
