// For tests only: plays the daemon inside the test process. Patches functions of this very binary.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <stdexcept>

#include "rewrite/rewrite.h"

namespace bpftime::rewrite {

// Executable memory within reach of this binary's code.
class TestArena {
 public:
  explicit TestArena(const void* near, size_t size = 1 << 20) : size_(size) {
    const uint64_t base = reinterpret_cast<uint64_t>(near) & ~uint64_t{0xfffff};
    for (uint64_t distance = 1 << 24; distance < (uint64_t{1} << 30); distance += 1 << 22) {
      void* at = mmap(reinterpret_cast<void*>(base - distance), size, PROT_READ | PROT_WRITE | PROT_EXEC,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
      if (at == MAP_FAILED) continue;
      base_ = static_cast<uint8_t*>(at);
      return;
    }
    throw std::runtime_error("no free address space near the test binary");
  }
  ~TestArena() { munmap(base_, size_); }
  TestArena(const TestArena&) = delete;
  TestArena& operator=(const TestArena&) = delete;

  uint64_t next() const { return reinterpret_cast<uint64_t>(base_) + used_; }
  void put(const std::vector<uint8_t>& bytes) {
    if (used_ + bytes.size() > size_) throw std::runtime_error("test arena full");
    std::memcpy(base_ + used_, bytes.data(), bytes.size());
    used_ = (used_ + bytes.size() + 15) / 16 * 16;
  }

 private:
  uint8_t* base_ = nullptr;
  size_t size_;
  size_t used_ = 0;
};

inline void write_text(uint64_t address, const std::vector<uint8_t>& bytes) {
  const uint64_t page = address & ~uint64_t{4095};
  const size_t size = address + bytes.size() - page;
  mprotect(reinterpret_cast<void*>(page), size, PROT_READ | PROT_WRITE | PROT_EXEC);
  std::memcpy(reinterpret_cast<void*>(address), bytes.data(), bytes.size());
  mprotect(reinterpret_cast<void*>(page), size, PROT_READ | PROT_EXEC);
}

// A probe on a function of this process while it lives.
class LivePatch {
 public:
  LivePatch(TestArena& arena, const void* function, size_t size, SiteRequest request) {
    request.address = reinterpret_cast<uint64_t>(function);
    request.code = Bytes(static_cast<const uint8_t*>(function), size);
    request.function_size = size;
    request.trampoline_address = arena.next();
    auto plan = plan_probe(request);
    if (!plan.ok()) throw std::runtime_error(plan.error().message);
    install(arena, request.address, std::move(*plan));
  }
  LivePatch(TestArena& arena, uint64_t site, SitePlan plan) { install(arena, site, std::move(plan)); }
  ~LivePatch() { write_text(address_, plan_.original); }
  LivePatch(const LivePatch&) = delete;
  LivePatch& operator=(const LivePatch&) = delete;

  const SitePlan& plan() const { return plan_; }

 private:
  void install(TestArena& arena, uint64_t site, SitePlan plan) {
    plan_ = std::move(plan);
    address_ = site;
    arena.put(plan_.trampoline);
    write_text(address_, plan_.patched);
  }

  uint64_t address_ = 0;
  SitePlan plan_;
};

}  // namespace bpftime::rewrite
