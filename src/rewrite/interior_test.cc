// Sites inside functions: everything is live there, and what jumps into the patch is caught by bytes that trap.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <ucontext.h>

#include <random>

#include "rewrite/test_patch.h"
#include "wire/target_context.h"

asm(R"(
    .text
    .align 16
    .globl interior_folds, interior_folds_site, interior_folds_end
# (flags, a, b, misalign, out): red zone, flags and registers live across the site; out[0] flags, out[1] what they fold to
interior_folds:
    push %rbx
    push %rbp
    mov %rsp, %rbp
    mov %r8, %rbx
    sub %rcx, %rsp
    mov %rsi, -8(%rsp)
    mov %rdx, -16(%rsp)
    mov %rsi, -120(%rsp)
    mov $0x5a5a5a5a, %eax
    mov %rsi, %r9
    mov %rdx, %r10
    lea (%rsi,%rdx), %r11
    mov %rsp, %r8
    lea -256(%rsp), %rsp
    push %rdi
    popfq
    mov %r8, %rsp
interior_folds_site:
    mov %rdx, %rdx
    mov %rsi, %rsi
    lea -256(%rsp), %rsp
    pushfq
    popq (%rbx)
    cld
    mov %r8, %rsp
    add -8(%rsp), %rax
    add -16(%rsp), %rax
    xor -120(%rsp), %rax
    lea (%rax,%rcx,2), %rax
    lea (%rax,%rdx,4), %rax
    xor %rsi, %rax
    xor %rdi, %rax
    rol $5, %rax
    xor %r9, %rax
    rol $5, %rax
    xor %r10, %rax
    rol $5, %rax
    xor %r11, %rax
    mov %rbp, %rsp
    pop %rbp
    pop %rbx
    ret
interior_folds_end:

    .align 16
    .globl interior_loop, interior_loop_again, interior_loop_end
interior_loop:                    # (n): a loop back into the first five bytes
    xor %eax, %eax
interior_loop_again:
    inc %eax
    inc %eax
    dec %edi
    jnz interior_loop_again
    ret
interior_loop_end:
)");

extern "C" uint64_t interior_folds(uint64_t flags, uint64_t a, uint64_t b, uint64_t misalign, uint64_t* out);
extern "C" uint64_t interior_loop(uint64_t n);
extern "C" const uint8_t interior_folds_site[], interior_folds_end[], interior_loop_again[],
    interior_loop_end[];

namespace bpftime::rewrite {
namespace {

using ::testing::HasSubstr;

wire::PtRegs seen;
uint64_t runs;
bool aligned;

extern "C" __attribute__((target("general-regs-only"), noinline)) uint64_t interior_program(
    void* ctx, const wire::Invocation*) {
  // Word by word: DF may be set, so no string instruction, as for every program.
  const auto* from = static_cast<const volatile uint64_t*>(ctx);
  auto* to = reinterpret_cast<volatile uint64_t*>(&seen);
  for (size_t i = 0; i < sizeof seen / 8; ++i) to[i] = from[i];
  aligned = reinterpret_cast<uint64_t>(__builtin_frame_address(0)) % 16 == 0;
  ++runs;
  asm volatile(
      "mov $-1, %%rax; mov %%rax, %%rcx; mov %%rax, %%rdx; mov %%rax, %%rsi; mov %%rax, %%rdi;"
      "mov %%rax, %%r8; mov %%rax, %%r9; mov %%rax, %%r10; mov %%rax, %%r11; add %%rax, %%rax" ::
          : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory", "cc");
  return 0;
}

const uint8_t* folds_start() { return reinterpret_cast<const uint8_t*>(interior_folds); }

SiteRequest folds_request(PatchMethod method, ContextSlots slots = kAllContextSlots) {
  SiteRequest request;
  request.address = reinterpret_cast<uint64_t>(interior_folds_site);
  request.code = Bytes(interior_folds_site, interior_folds_end - interior_folds_site);
  request.function_size = request.code.size();
  request.before = Bytes(folds_start(), interior_folds_site - folds_start());
  request.interior = true;
  request.method = method;
  ProgramCall call{reinterpret_cast<uint64_t>(interior_program), {}, 0};
  call.context_slots_read = slots;
  request.on_entry = {call};
  return request;
}

TEST(Interior, NothingOfTheHostChanges) {
  constexpr uint32_t kSeed = 7;
  std::mt19937_64 random(kSeed);
  TestArena arena(reinterpret_cast<void*>(interior_folds));
  constexpr uint64_t kArithmetic = 0x8d5, kDirection = 0x400;  // CF PF AF ZF SF OF
  for (int round = 0; round < 500; ++round) {
    const uint64_t flags = 0x202 | (random() & (kArithmetic | kDirection));
    const uint64_t a = random(), b = random(), misalign = random() % 2 * 8;
    uint64_t plain_flags = 0, probed_flags = 0;
    const uint64_t plain = interior_folds(flags, a, b, misalign, &plain_flags);
    SiteRequest request =
        folds_request(PatchMethod::kJump, static_cast<ContextSlots>(round % 2 ? kAllContextSlots : random()));
    request.trampoline_address = arena.next();
    auto plan = plan_probe(request);
    ASSERT_TRUE(plan.ok()) << plan.error().message;
    runs = 0;
    uint64_t probed;
    {
      LivePatch live(arena, request.address, std::move(*plan));
      probed = interior_folds(flags, a, b, misalign, &probed_flags);
    }
    ASSERT_EQ(probed, plain) << "seed " << kSeed << " round " << round;
    ASSERT_EQ(probed_flags, plain_flags);
    ASSERT_EQ(runs, 1u);
    EXPECT_TRUE(aligned);
    if (round % 2 == 0) continue;
    EXPECT_EQ(seen.eflags & (kArithmetic | kDirection), flags & (kArithmetic | kDirection));
    EXPECT_EQ(seen.rip, request.address);
    EXPECT_EQ(seen.rax, 0x5a5a5a5au);
    EXPECT_EQ(seen.rsi, a);
    EXPECT_EQ(seen.rdx, b);
    EXPECT_EQ(seen.rcx, misalign);
    EXPECT_EQ(seen.r8, seen.rsp) << "the function keeps its rsp in r8";
    EXPECT_EQ(seen.rbp, seen.rsp + misalign);
    EXPECT_EQ(seen.rbx, reinterpret_cast<uint64_t>(&probed_flags));
    EXPECT_EQ(seen.r11, a + b);
    EXPECT_EQ(seen.orig_rax, ~uint64_t{0});
  }
}

TEST(Interior, RefusesWhatBelongsToEntriesAndWhatIsNoBoundary) {
  SiteRequest request = folds_request(PatchMethod::kJump);
  request.on_return = request.on_entry;
  request.return_path.slot = 1;
  EXPECT_THAT(inspect_site(request).error().message, HasSubstr("at a function's entry"));
  request = folds_request(PatchMethod::kJump);
  request.on_entry[0].ends = ProgramCall::Ends::kResultInRax;
  EXPECT_THAT(inspect_site(request).error().message, HasSubstr("at its entry only"));
  request = folds_request(PatchMethod::kJump);
  request.before = Bytes(folds_start(), request.before.size() - 1);
  request.code = Bytes(interior_folds_site - 1, request.code.size() + 1);
  --request.address;
  EXPECT_THAT(inspect_site(request).error().message, HasSubstr("inside the instruction 2 bytes before it"));
}

// --- jumps into the patch -----------------------------------------------------------------------------------------

struct Redirected {
  uint64_t site;
  uint64_t trampoline;
  std::vector<PcFixup> fixups;
  uint64_t traps;
} redirected;

// As the agent does it.
void redirect(int signal, siginfo_t*, void* context) {
  auto& rip = static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP];
  const uint64_t at = static_cast<uint64_t>(rip) - (signal == SIGTRAP ? 1 : 0);
  ++redirected.traps;
  if (at == redirected.site) {
    rip = static_cast<greg_t>(redirected.trampoline);
    return;
  }
  for (const PcFixup& fixup : redirected.fixups)
    if (at == redirected.site + fixup.site_offset) {
      rip = static_cast<greg_t>(redirected.trampoline + fixup.trampoline_offset);
      return;
    }
  ::signal(signal, SIG_DFL);
}

class TrappingPatch {
 public:
  TrappingPatch(SiteRequest request, uint64_t window_size = uint64_t{64} << 20) {
    struct sigaction action {};
    action.sa_sigaction = redirect;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGTRAP, &action, &before_[0]);
    sigaction(SIGILL, &action, &before_[1]);
    auto shape = inspect_site(request);
    if (!shape.ok()) throw std::runtime_error(shape.error().message);
    // Pages appear when written.
    uint64_t at = 0;
    for (int step = 0x34; step > 2 && at == 0; --step) {
      const uint64_t start = (request.address & ~uint64_t{0xffffff}) - (uint64_t(step) << 24);
      void* mapped = mmap(reinterpret_cast<void*>(start), window_size, PROT_READ | PROT_WRITE | PROT_EXEC,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | MAP_NORESERVE, -1, 0);
      if (mapped == MAP_FAILED) continue;
      area_ = mapped;
      size_ = window_size;
      if (const auto found = shape->rule.next(start, start + window_size - 4096)) {
        at = *found;
      } else {
        munmap(area_, size_);
        area_ = nullptr;
      }
    }
    request.trampoline_address = at;
    auto plan = plan_probe(request);
    if (!plan.ok()) throw std::runtime_error(plan.error().message);
    plan_ = std::move(*plan);
    std::memcpy(reinterpret_cast<void*>(at), plan_.trampoline.data(), plan_.trampoline.size());
    redirected = {request.address, at, plan_.fixups, 0};
    write_text(request.address, plan_.patched);
  }
  ~TrappingPatch() {
    write_text(redirected.site, plan_.original);
    munmap(area_, size_);
    sigaction(SIGTRAP, &before_[0], nullptr);
    sigaction(SIGILL, &before_[1], nullptr);
  }
  const SitePlan& plan() const { return plan_; }

 private:
  struct sigaction before_[2];
  void* area_ = nullptr;
  uint64_t size_ = 0;
  SitePlan plan_;
};

SiteRequest loop_request(PatchMethod method) {
  const auto* start = reinterpret_cast<const uint8_t*>(interior_loop);
  SiteRequest request;
  request.address = reinterpret_cast<uint64_t>(start);
  request.code = Bytes(start, interior_loop_end - start);
  request.function_size = request.code.size();
  request.method = method;
  ProgramCall call{reinterpret_cast<uint64_t>(interior_program), {}, 0};
  request.on_entry = {call};
  return request;
}

TEST(PunnedJump, JumpsIntoThePatchGoOnInTheTrampoline) {
  uint64_t (*volatile function)(uint64_t) = interior_loop;
  auto shape = inspect_site(loop_request(PatchMethod::kPunnedJump));
  ASSERT_TRUE(shape.ok()) << shape.error().message;
  EXPECT_TRUE(shape->punned_jump);
  EXPECT_FALSE(shape->jump);
  EXPECT_THAT(shape->why_no_jump, HasSubstr("leads into the first 6 bytes"));
  EXPECT_EQ(shape->rule.boundaries, 1u << 2 | 1u << 4);
  {
    TrappingPatch live(loop_request(PatchMethod::kPunnedJump));
    EXPECT_EQ(live.plan().method, PatchMethod::kPunnedJump);
    runs = 0;
    EXPECT_EQ(function(5), 10u);
    EXPECT_EQ(runs, 1u);
    EXPECT_EQ(redirected.traps, 4u) << "each time round the loop";
  }
  EXPECT_EQ(function(5), 10u);
}

TEST(PunnedJump, NeedsAnAddressThatTraps) {
  SiteRequest request = loop_request(PatchMethod::kPunnedJump);
  request.trampoline_address = request.address - 0x1000000;
  auto plan = plan_probe(request);
  ASSERT_FALSE(plan.ok());
  EXPECT_THAT(plan.error().message, HasSubstr("no byte that traps at +2"));
}

TEST(Trap, OneByteWherever) {
  uint64_t (*volatile function)(uint64_t) = interior_loop;
  for (const bool inside : {false, true}) {
    SiteRequest request = loop_request(PatchMethod::kTrap);
    if (inside) {
      request.before = request.code.first(2);
      request.code = request.code.subspan(2);
      request.function_size -= 2;
      request.address += 2;
      request.interior = true;
    }
    TrappingPatch live(request);
    EXPECT_EQ(live.plan().method, PatchMethod::kTrap);
    EXPECT_EQ(live.plan().patched, std::vector<uint8_t>{0xcc});
    runs = 0;
    EXPECT_EQ(function(5), 10u);
    EXPECT_EQ(runs, inside ? 5u : 1u);
  }
  EXPECT_EQ(function(5), 10u);
}

TEST(SiteShape, ATrapWhereNoJumpFits) {
  const std::vector<uint8_t> code = {0x31, 0xc0, 0xc3,
                                     0x31, 0xc0, 0xc3};  // xor %eax,%eax; ret; another function
  SiteRequest request;
  request.address = 0x401000;
  request.code = code;
  request.function_size = 3;
  auto shape = inspect_site(request);
  ASSERT_TRUE(shape.ok());
  EXPECT_FALSE(shape->jump || shape->punned_jump);
  EXPECT_THAT(shape->why_no_jump, HasSubstr("function is 3 bytes"));
  const std::vector<uint8_t> moves = {0x89, 0xf8, 0x89, 0xf0, 0x31, 0xc9, 0xc3};
  request.code = moves;
  request.function_size = 7;
  EXPECT_TRUE(inspect_site(request)->jump);
  request.room = 2;
  EXPECT_THAT(inspect_site(request)->why_no_jump, HasSubstr("another probe is 2 bytes behind"));
  const std::vector<uint8_t> broken = {0x06, 0x90};
  request.code = broken;
  EXPECT_THAT(inspect_site(request).error().message, HasSubstr("unknown instruction"));
}

}  // namespace
}  // namespace bpftime::rewrite
