// The synthetic task_struct against the kernel's: the same reads of the same thread, both ways.
#include "daemon/task_facts.h"

#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <iterator>
#include <thread>

#include "compiler/testing_kernel.h"
#include "program/testing/kernel.h"

namespace bpftime::daemon {
namespace {

using namespace compiler::testing;
using program::CType;

constexpr int32_t kReadKernel = 113, kReadKernelString = 115;

program::CType structure(const char* name, std::vector<CType::Member> members, uint64_t size = 64) {
  CType type;
  type.kind = program::TypeKind::kStruct;
  type.name = name;
  type.size = size;
  type.members = std::move(members);
  return type;
}

TEST(TaskFields, AreFoundInsideAnonymousMembers) {
  program::TypeTable types;
  CType integer;
  integer.kind = program::TypeKind::kInteger;
  integer.size = 4;
  const uint32_t word = types.add(integer);
  const uint32_t inner = types.add(structure("", {{"tgid", word, 32, 0}, {"pid", word, 64, 3}}));
  types.add(structure("task_struct", {{"", inner, 128, 0}, {"loginuid", word, 8u * 70000, 0}}));
  const auto fields = task_fields(types);
  ASSERT_TRUE(fields.ok());
  ASSERT_EQ(fields->size(), 1u);  // not the bit-field, not what lies out of reach
  EXPECT_EQ((*fields)[0].offset, 20);
  EXPECT_EQ((*fields)[0].value, wire::TaskValue::kTgid);
  EXPECT_FALSE(task_fields(program::TypeTable{}).ok());
}

class TaskTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(target_.ok());
    if (kernel_task_fields().empty()) GTEST_SKIP() << "this kernel does not tell its types";
    auto process = target::Process::open(getpid());
    ASSERT_TRUE(process.ok());
    target_.context()->task = task_facts(*process, kernel_task_fields());
    *target_.identity() = identity_of(*process, static_cast<uint32_t>(getpid()));
  }
  static const wire::TaskField* field(wire::TaskObject object, wire::TaskValue value, uint8_t argument = 0) {
    for (const auto& field : kernel_task_fields())
      if (field.object == object && field.value == value && field.argument == argument) return &field;
    return nullptr;
  }
  // r8: the object's address. Reads the member to r6 + offset.
  static Sequence read(const wire::TaskField& field, int32_t offset) {
    return Sequence() << mov_reg(1, 6) << add(1, offset) << mov(2, field.size) << mov_reg(3, 8)
                      << add(3, field.offset) << call(kReadKernel);
  }
  static Sequence follow(const wire::TaskField& field) {
    return read(field, 4088) << load(BPF_DW, 8, 6, 4088);
  }

  Target target_;
};

TEST_F(TaskTest, EveryMemberEqualsTheKernels) {
  if (const std::string reason = program::testing::kernel_unusable(); !reason.empty()) GTEST_SKIP() << reason;
  using wire::TaskObject;
  using wire::TaskValue;
  // How each object is reached from the task.
  struct Step {
    TaskObject object;
    std::vector<const wire::TaskField*> path;
  };
  const auto pointer = [&](TaskObject from, TaskObject to) {
    return field(from, TaskValue::kObject, static_cast<uint8_t>(to));
  };
  std::vector<Step> steps = {{TaskObject::kTask, {}}};
  for (size_t i = 0; i < steps.size(); ++i) {
    for (uint8_t to = 1; to < static_cast<uint8_t>(TaskObject::kCount); ++to) {
      const auto* way = pointer(steps[i].object, static_cast<TaskObject>(to));
      if (way == nullptr) continue;
      Step next{static_cast<TaskObject>(to), steps[i].path};
      next.path.push_back(way);
      steps.push_back(next);
    }
  }
  size_t compared = 0;
  std::vector<const wire::TaskField*> order;
  const auto body = [&]() {
    Sequence code;
    order.clear();
    for (const Step& step : steps) {
      code << call(BPF_FUNC_get_current_task) << mov_reg(8, 0);
      for (const auto* way : step.path) code << follow(*way);
      for (const auto& member : kernel_task_fields()) {
        const bool is_pointer = member.value == TaskValue::kObject ||
                                member.value == TaskValue::kParentTask ||
                                member.value == TaskValue::kLeaderTask;
        if (member.object != step.object || is_pointer) continue;
        code << read(member, static_cast<int32_t>(order.size()) * 16);
        order.push_back(&member);
      }
    }
    return code << mov(0, 0) << exit_insn();
  };
  std::thread([&] {
    prctl(PR_SET_NAME, "task-thread");
    const auto kernel = run_in_kernel(body), here = run_here(target_, body);
    ASSERT_EQ(kernel.refused, "");
    for (size_t i = 0; i < order.size(); ++i) {
      const std::string name = "object " + std::to_string(static_cast<int>(order[i]->object)) + " value " +
                               std::to_string(static_cast<int>(order[i]->value));
      if (order[i]->value == TaskValue::kCpu) continue;
      if (order[i]->value == TaskValue::kStartTime || order[i]->value == TaskValue::kStartBoottime) {
        // /proc says the process's, in ticks; this is another thread.
        EXPECT_NE(here.at<uint64_t>(i * 16), 0u);
        EXPECT_LE(here.at<uint64_t>(i * 16), kernel.at<uint64_t>(i * 16));
        continue;
      }
      EXPECT_EQ(here.at<uint64_t>(i * 16), kernel.at<uint64_t>(i * 16)) << name;
      EXPECT_EQ(here.at<uint64_t>(i * 16 + 8), kernel.at<uint64_t>(i * 16 + 8)) << name;
      compared++;
    }
    EXPECT_EQ(here.text(0).size(), kernel.text(0).size());
  }).join();
  printf("%zu members compared\n", compared);
  EXPECT_GE(compared, 15u);
}

TEST_F(TaskTest, ParentLeaderNameAndStartTime) {
  using wire::TaskObject;
  using wire::TaskValue;
  const auto& tgid = *field(TaskObject::kTask, TaskValue::kTgid);
  const auto& pid = *field(TaskObject::kTask, TaskValue::kTid);
  const auto& comm = *field(TaskObject::kTask, TaskValue::kComm);
  const auto body = [&]() {
    return Sequence() << call(BPF_FUNC_get_current_task) << mov_reg(9, 0) << mov_reg(8, 9)
                      << follow(*field(TaskObject::kTask, TaskValue::kParentTask)) << read(tgid, 0)
                      << read(pid, 4) << mov_reg(8, 9)
                      << follow(*field(TaskObject::kTask, TaskValue::kLeaderTask)) << read(tgid, 8)
                      << read(pid, 12) << mov_reg(8, 9) << read(pid, 16) << mov_reg(1, 6) << add(1, 32)
                      << mov(2, 16) << mov_reg(3, 9) << add(3, comm.offset) << call(kReadKernelString)
                      << store(BPF_DW, 6, 24, 0)
                      << read(*field(TaskObject::kTask, TaskValue::kStartBoottime), 48) << mov(0, 0)
                      << exit_insn();
  };
  const auto check = [&](const RunResult& run) {
    ASSERT_EQ(run.refused, "");
    EXPECT_EQ(run.at<uint32_t>(0), static_cast<uint32_t>(getppid()));
    EXPECT_EQ(run.at<uint32_t>(8), static_cast<uint32_t>(getpid()));
    EXPECT_EQ(run.at<uint32_t>(12), static_cast<uint32_t>(getpid()));
    EXPECT_EQ(run.at<uint32_t>(16), static_cast<uint32_t>(gettid()));
    EXPECT_EQ(run.at<uint64_t>(24), 5u);
    EXPECT_EQ(run.text(32), "name");
  };
  std::thread([&] {
    prctl(PR_SET_NAME, "name");
    const auto here = run_here(target_, body);
    check(here);
    if (program::testing::kernel_unusable().empty()) check(run_in_kernel(body));
  }).join();
  // The process itself: to the tick.
  prctl(PR_SET_NAME, "name");
  const auto here = run_here(target_, body);
  check(here);
  if (!program::testing::kernel_unusable().empty()) return;
  const uint64_t exact = run_in_kernel(body).at<uint64_t>(48), ours = here.at<uint64_t>(48);
  EXPECT_LE(ours, exact);
  EXPECT_LT(exact - ours, 20'000'000u);
}

TEST_F(TaskTest, AForkIsItsOwnTask) {
  using wire::TaskObject;
  using wire::TaskValue;
  const auto body = [&]() {
    return Sequence() << call(BPF_FUNC_get_current_task) << mov_reg(8, 0)
                      << read(*field(TaskObject::kTask, TaskValue::kTgid), 0)
                      << read(*field(TaskObject::kTask, TaskValue::kStartTime), 8)
                      << follow(*field(TaskObject::kTask, TaskValue::kParentTask))
                      << read(*field(TaskObject::kTask, TaskValue::kTgid), 4) << mov(0, 0) << exit_insn();
  };
  const pid_t child = fork();
  if (child == 0) {
    const auto run = run_here(target_, body);
    _exit(run.at<uint32_t>(0) == static_cast<uint32_t>(getpid()) && run.at<uint64_t>(8) == 0 &&
                  run.at<uint32_t>(4) == static_cast<uint32_t>(getppid())
              ? 0
              : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST_F(TaskTest, BadReadsAreErrorsOrZero) {
  const auto error_of = [&](uint64_t address, int32_t size) {
    const auto body = [&]() {
      return Sequence() << store_imm(BPF_DW, 6, 0, -1) << mov_reg(1, 6) << mov(2, size)
                        << load_imm(3, address) << call(kReadKernel) << exit_insn();
    };
    const auto run = run_here(target_, body);
    EXPECT_EQ(run.at<uint64_t>(0) & (size < 8 ? (1u << size * 8) - 1 : ~uint64_t{0}), 0u)
        << std::hex << address;
    return static_cast<int32_t>(run.result);
  };
  const uint64_t task = wire::task_address(static_cast<uint64_t>(gettid()));
  EXPECT_EQ(error_of(task + 60000, 8), 0);  // nobody knows what is there
  EXPECT_EQ(error_of(task + 65530, 8), -EFAULT);
  EXPECT_EQ(error_of(task + 31 * wire::kTaskObjectStride, 8), -EFAULT);
  EXPECT_EQ(error_of(wire::task_address(wire::kTaskIdMax), 8), -EFAULT);
  EXPECT_EQ(error_of(~uint64_t{0}, 8), -EFAULT);
  EXPECT_EQ(error_of(0, 4), -EFAULT);
  target_.context()->task.field_count = ~0u;  // a target may write what it likes there
  EXPECT_EQ(error_of(task, 8), 0);
  target_.context()->task.field_count = 0;
  EXPECT_EQ(error_of(task, 8), -EFAULT);
}

}  // namespace
}  // namespace bpftime::daemon
