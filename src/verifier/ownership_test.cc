// What calls own and end: references, locks, dynptrs, callbacks; errno and words as the kernel's.
#include "verifier/testing/call_cases.h"

namespace bpftime::verifier {
namespace {

using namespace testing;

// ---- ownership ----

TEST_F(Calls, References) {
  constexpr const char* kLeak = "BPF_EXIT instruction in main prog would lead to reference leak";
  const Case cases[] = {
      {"submitted", kSocket, 0, nullptr,
       [](Builder& b) {
         reserve(b);
         need_r0(b);
         b.store_imm(BPF_DW, kR0, 0, 1);
         submit(b, kR0);
         finish(b);
       }},
      {"untested leak", kSocket, EINVAL, kLeak,
       [](Builder& b) {
         reserve(b);
         finish(b);
       }},
      {"leak", kSocket, EINVAL, kLeak,
       [](Builder& b) {
         reserve(b);
         need_r0(b);
         finish(b);
       }},
      {"used afterwards", kSocket, EACCES, "R6 invalid mem access 'scalar'",
       [](Builder& b) {
         reserve(b);
         need_r0(b);
         b.mov(kR6, kR0);
         submit(b, kR0);
         b.load(BPF_DW, kR0, kR6, 0);
         b.exit();
       }},
      {"spilled copy used afterwards", kSocket, EACCES, "R6 invalid mem access 'scalar'",
       [](Builder& b) {
         reserve(b);
         need_r0(b);
         b.store(BPF_DW, kFp, -8, kR0);
         submit(b, kR0);
         b.load(BPF_DW, kR6, kFp, -8);
         b.load(BPF_DW, kR0, kR6, 0);
         b.exit();
       }},
      {"twice", kSocket, EACCES, "R1 type=scalar expected=ringbuf_mem",
       [](Builder& b) {
         reserve(b);
         need_r0(b);
         b.mov(kR6, kR0);
         submit(b, kR0);
         submit(b, kR6);
         finish(b);
       }},
      {"untested", kSocket, EACCES, "R1 type=ringbuf_mem_or_null expected=ringbuf_mem",
       [](Builder& b) {
         reserve(b);
         submit(b, kR0);
         finish(b);
       }},
      {"into the record", kSocket, EINVAL,
       "R1 must have zero offset when passed to release func or trusted arg to kfunc",
       [](Builder& b) {
         reserve(b);
         need_r0(b);
         b.alu_imm(BPF_ADD, kR0, 4);
         submit(b, kR0);
         finish(b);
       }},
      {"into the record, unknown", kSocket, EACCES,
       "variable ringbuf_mem access var_off=(0x0; 0x4) disallowed",
       [](Builder& b) {
         reserve(b);
         need_r0(b);
         b.load(BPF_B, kR2, kR0, 0);
         b.alu_imm(BPF_AND, kR2, 4);
         b.alu(BPF_ADD, kR0, kR2);
         submit(b, kR0);
         finish(b);
       }},
      {"not a record", kSocket, EACCES, "R1 type=fp expected=ringbuf_mem",
       [](Builder& b) {
         submit(b, kFp);
         finish(b);
       }},
      {"unknown size", kSocket, EACCES, "R2 is not a known constant'",
       [](Builder& b) {
         b.call(BPF_FUNC_get_prandom_u32);
         b.mov(kR2, kR0);
         b.load_map(kR1, kRing);
         b.mov_imm(kR3, 0);
         b.call(BPF_FUNC_ringbuf_reserve);
         finish(b);
       }},
      {"beyond the record", kSocket, EACCES, "R0 min value is outside of the allowed memory range",
       [](Builder& b) {
         reserve(b);
         need_r0(b);
         b.store_imm(BPF_DW, kR0, 8, 1);
         submit(b, kR0);
         finish(b);
       }},
      {"across a tail call", kSocket, EINVAL, "tail_call would lead to reference leak",
       [](Builder& b) {
         b.mov(kR7, kR1);
         reserve(b);
         need_r0(b);
         b.mov(kR6, kR0);
         b.mov(kR1, kR7);
         b.load_map(kR2, kPrograms);
         b.mov_imm(kR3, 0);
         b.call(BPF_FUNC_tail_call);
         submit(b, kR6);
         finish(b);
       }},
      {"two records, one released", kSocket, EINVAL, kLeak,
       [](Builder& b) {
         reserve(b);
         need_r0(b);
         b.mov(kR6, kR0);
         reserve(b);
         const auto second = b.label();
         b.jump_imm(BPF_JNE, kR0, 0, second);
         submit(b, kR6);
         finish(b);
         b.place(second);
         submit(b, kR0);
         finish(b);
       }},
  };
  for (const Case& test : cases) judge(test);
}

TEST_F(Calls, Locks) {
  constexpr const char* kHeld =
      "BPF_EXIT instruction in main prog cannot be used inside bpf_spin_lock-ed region";
  // r6: the value, r1: the lock in it.
  const auto locked = [](const Body& inside) {
    return [=](Builder& b) {
      b.store_imm(BPF_W, kFp, -8, 0);
      b.load_map(kR1, kLocked);
      stack_pointer(b, kR2, -8);
      b.call(BPF_FUNC_map_lookup_elem);
      need_r0(b);
      b.mov(kR6, kR0);
      b.mov(kR1, kR6);
      b.alu_imm(BPF_ADD, kR1, 4);
      b.call(BPF_FUNC_spin_lock);
      inside(b);
    };
  };
  const auto unlock = [](Builder& b) {
    b.mov(kR1, kR6);
    b.alu_imm(BPF_ADD, kR1, 4);
    b.call(BPF_FUNC_spin_unlock);
  };
  const Case cases[] = {
      {"lock, write, unlock", kClassifier, 0, nullptr, locked([=](Builder& b) {
         b.store_imm(BPF_W, kR6, 0, 1);
         unlock(b);
         finish(b);
       })},
      {"never unlocked", kClassifier, EINVAL, kHeld, locked([](Builder& b) { finish(b); })},
      {"call inside", kClassifier, EINVAL, "function calls are not allowed while holding a lock",
       locked([=](Builder& b) {
         b.call(BPF_FUNC_ktime_get_ns);
         unlock(b);
         finish(b);
       })},
      {"locked twice", kClassifier, EINVAL, "function calls are not allowed while holding a lock",
       locked([=](Builder& b) {
         b.mov(kR1, kR6);
         b.alu_imm(BPF_ADD, kR1, 4);
         b.call(BPF_FUNC_spin_lock);
         unlock(b);
         finish(b);
       })},
      {"unlocked twice", kClassifier, EINVAL, "bpf_spin_unlock without taking a lock",
       locked([=](Builder& b) {
         unlock(b);
         unlock(b);
         finish(b);
       })},
      {"not the lock", kClassifier, EINVAL, "off 0 doesn't point to 'struct bpf_spin_lock' that is at 4",
       locked([=](Builder& b) {
         b.mov(kR1, kR6);
         b.call(BPF_FUNC_spin_unlock);
         finish(b);
       })},
      {"the lock is written", kClassifier, EACCES, nullptr, locked([=](Builder& b) {
         b.store_imm(BPF_W, kR6, 4, 1);
         unlock(b);
         finish(b);
       })},
      {"another value's lock", kClassifier, EINVAL, "bpf_spin_unlock of different lock",
       [](Builder& b) {
         for (const uint8_t keep : {kR6, kR7}) {
           b.store_imm(BPF_W, kFp, -8, 0);
           look_up(b, kLocked, -8);
           need_r0(b);
           b.mov(keep, kR0);
         }
         b.mov(kR1, kR6);
         b.alu_imm(BPF_ADD, kR1, 4);
         b.call(BPF_FUNC_spin_lock);
         b.mov(kR1, kR7);
         b.alu_imm(BPF_ADD, kR1, 4);
         b.call(BPF_FUNC_spin_unlock);
         finish(b);
       }},
      {"map without a lock", kClassifier, EINVAL, nullptr,
       [](Builder& b) {
         b.load_map_value(kR1, kValue, 0);
         b.call(BPF_FUNC_spin_lock);
         finish(b);
       }},
      {"socket filter", kSocket, EINVAL, "socket filter progs cannot use bpf_spin_lock yet",
       [](Builder& b) {
         b.load_map(kR1, kLocked);
         finish(b);
       }},
      {"tracing", kUprobe, EINVAL, "tracing progs cannot use bpf_spin_lock yet",
       [](Builder& b) {
         b.load_map(kR1, kLocked);
         finish(b);
       }},
  };
  for (const Case& test : cases) judge(test);
}

// ---- dynptrs ----

TEST_F(Calls, Dynptrs) {
  constexpr const char* kNone = "Expected an initialized dynptr as arg #0";
  const Case cases[] = {
      {"made", kSocket, 0, nullptr,
       [](Builder& b) {
         make_dynptr(b, -16);
         finish(b);
       }},
      {"made again", kSocket, 0, nullptr,
       [](Builder& b) {
         make_dynptr(b, -16);
         make_dynptr(b, -16);
         finish(b);
       }},
      {"misaligned", kSocket, EINVAL, "Dynptr has to be an uninitialized dynptr",
       [](Builder& b) {
         make_dynptr(b, -20);
         finish(b);
       }},
      {"half outside", kSocket, EINVAL, "Dynptr has to be an uninitialized dynptr",
       [](Builder& b) {
         make_dynptr(b, -8);
         finish(b);
       }},
      {"below the frame", kSocket, EACCES, "invalid write to stack R4 off=-520 size=8",
       [](Builder& b) {
         make_dynptr(b, -520);
         finish(b);
       }},
      {"more than the value", kSocket, EACCES, "R1 min value is outside of the allowed memory range",
       [](Builder& b) {
         make_dynptr(b, -16, 65);
         finish(b);
       }},
      {"of the stack", kSocket, EACCES, "Unsupported reg type fp for bpf_dynptr_from_mem data",
       [](Builder& b) {
         stack_pointer(b, kR1, -32);
         b.mov_imm(kR2, 8);
         b.mov_imm(kR3, 0);
         stack_pointer(b, kR4, -16);
         b.call(BPF_FUNC_dynptr_from_mem);
         finish(b);
       }},
      {"slice", kSocket, 0, nullptr,
       [](Builder& b) {
         make_dynptr(b, -16);
         dynptr_data(b, -16);
         need_r0(b);
         b.load(BPF_DW, kR0, kR0, 0);
         finish(b);
       }},
      {"slice of nothing", kSocket, EINVAL, kNone,
       [](Builder& b) {
         dynptr_data(b, -16);
         finish(b);
       }},
      {"slice through the middle", kSocket, EINVAL, kNone,
       [](Builder& b) {
         make_dynptr(b, -16);
         dynptr_data(b, -8);
         finish(b);
       }},
      {"beyond the slice", kSocket, EACCES, "R0 min value is outside of the allowed memory range",
       [](Builder& b) {
         make_dynptr(b, -16);
         dynptr_data(b, -16);
         need_r0(b);
         b.load(BPF_DW, kR0, kR0, 1);
         finish(b);
       }},
      {"slice untested", kSocket, EACCES, "R0 invalid mem access 'mem_or_null'",
       [](Builder& b) {
         make_dynptr(b, -16);
         dynptr_data(b, -16);
         b.load(BPF_DW, kR0, kR0, 0);
         finish(b);
       }},
      {"overwritten, slice used", kSocket, EACCES, "R0 invalid mem access 'scalar'",
       [](Builder& b) {
         make_dynptr(b, -16);
         dynptr_data(b, -16);
         need_r0(b);
         b.store_imm(BPF_B, kFp, -1, 0);
         b.load(BPF_DW, kR0, kR0, 0);
         finish(b);
       }},
      {"overwritten, used", kSocket, EINVAL, kNone,
       [](Builder& b) {
         make_dynptr(b, -16);
         b.store_imm(BPF_DW, kFp, -16, 0);
         dynptr_data(b, -16);
         finish(b);
       }},
      {"made again, slice used", kSocket, EACCES, "R7 invalid mem access 'scalar'",
       [](Builder& b) {
         make_dynptr(b, -16);
         dynptr_data(b, -16);
         need_r0(b);
         b.mov(kR7, kR0);
         make_dynptr(b, -16);
         b.load(BPF_DW, kR0, kR7, 0);
         finish(b);
       }},
      {"overlap ends the older", kSocket, EINVAL, kNone,
       [](Builder& b) {
         make_dynptr(b, -16);
         make_dynptr(b, -24);
         dynptr_data(b, -16);
         finish(b);
       }},
      {"bytes are read", kSocket, EACCES, "invalid read from stack off -16+0 size 8",
       [](Builder& b) {
         make_dynptr(b, -16);
         b.load(BPF_DW, kR0, kFp, -16);
         b.exit();
       }},
      {"helper writes over it", kSocket, EACCES, "potential write to dynptr at off=-16 disallowed",
       [](Builder& b) {
         make_dynptr(b, -16);
         read_user(b, -16, 16, BPF_FUNC_probe_read_kernel);
         finish(b);
       }},
      {"record submitted", kSocket, 0, nullptr,
       [](Builder& b) {
         reserve_dynptr(b, -16);
         submit_dynptr(b, -16);
         finish(b);
       }},
      {"record leaked", kSocket, EINVAL, "BPF_EXIT instruction in main prog would lead to reference leak",
       [](Builder& b) {
         reserve_dynptr(b, -16);
         finish(b);
       }},
      {"record submitted twice", kSocket, EINVAL, "arg 1 is an unacquired reference",
       [](Builder& b) {
         reserve_dynptr(b, -16);
         submit_dynptr(b, -16);
         submit_dynptr(b, -16);
         finish(b);
       }},
      {"submit what is no record", kSocket, EINVAL, "arg 1 is an unacquired reference",
       [](Builder& b) {
         make_dynptr(b, -16);
         submit_dynptr(b, -16);
         finish(b);
       }},
      {"record overwritten", kSocket, EINVAL, "cannot overwrite referenced dynptr",
       [](Builder& b) {
         reserve_dynptr(b, -16);
         b.store_imm(BPF_DW, kFp, -16, 0);
         finish(b);
       }},
      {"record reserved over", kSocket, EINVAL, "cannot overwrite referenced dynptr",
       [](Builder& b) {
         reserve_dynptr(b, -16);
         reserve_dynptr(b, -24);
         submit_dynptr(b, -24);
         finish(b);
       }},
      {"slice after submit", kSocket, EACCES, "R7 invalid mem access 'scalar'",
       [](Builder& b) {
         reserve_dynptr(b, -16);
         dynptr_data(b, -16);
         b.mov(kR7, kR0);
         const auto have = b.label();
         b.jump_imm(BPF_JNE, kR0, 0, have);
         submit_dynptr(b, -16);
         finish(b);
         b.place(have);
         submit_dynptr(b, -16);
         b.load(BPF_DW, kR0, kR7, 0);
         finish(b);
       }},
      {"slice to ringbuf_submit", kSocket, EACCES, "R1 type=mem expected=ringbuf_mem",
       [](Builder& b) {
         reserve_dynptr(b, -16);
         dynptr_data(b, -16);
         const auto null = b.label();
         b.jump_imm(BPF_JEQ, kR0, 0, null);
         submit(b, kR0);
         b.place(null);
         submit_dynptr(b, -16);
         finish(b);
       }},
  };
  for (const Case& test : cases) judge(test);
}

TEST_F(Calls, MapsAreJudgedBeforeAnythingElse) {
  // In dead code, and before the uninitialised register that comes first.
  const auto value_at = [](Map map, int32_t offset) {
    return [=](Builder& b) {
      const auto end = b.label();
      b.mov_imm(kR6, 0);
      b.jump_imm(BPF_JEQ, kR6, 0, end);
      b.load_map_value(kR1, map, offset);
      b.place(end);
      finish(b);
    };
  };
  const Case cases[] = {
      {"inside", kSocket, 0, nullptr, value_at(kValue, 63)},
      {"beyond the value", kSocket, EINVAL, "invalid access to map value pointer, value_size=64 off=64",
       value_at(kValue, 64)},
      {"far beyond", kSocket, EINVAL, "direct value offset of 536870912 is not allowed",
       value_at(kValue, 1 << 29)},
      {"many values", kSocket, 524, "invalid access to map value pointer, value_size=48 off=0",
       value_at(kArray, 0)},
      {"of a hash", kSocket, EINVAL, "no direct value access support for this map type", value_at(kHash, 0)},
  };
  for (const Case& test : cases) judge(test);
}

// ---- callbacks ----

class Callbacks : public Calls {
 protected:
  // The main program calls `helper`; the callback's body follows. r6 holds what `before` left.
  void judge_loop(const char* name, int error, const char* words, const Body& before, const Body& callback,
                  const Body& after, uint32_t type = kSocket) {
    Builder b;
    const auto function = b.label();
    before(b);
    b.mov_imm(kR1, 4);
    b.load_function(kR2, function);
    stack_pointer(b, kR3, -8);
    b.mov_imm(kR4, 0);
    b.call(BPF_FUNC_loop);
    after(b);
    b.place(function);
    callback(b);
    Request request = make_request(type, b);
    describe_functions(request, {0, b.target(function)});
    judge(request, name, error, words);
  }
};

TEST_F(Callbacks, Loops) {
  const Body nothing = [](Builder&) {};
  judge_loop("empty", 0, nullptr, nothing, finish, finish);
  judge_loop(
      "writes to the caller's stack", 0, nullptr, [](Builder& b) { b.store_imm(BPF_DW, kFp, -8, 0); },
      [](Builder& b) {
        b.load(BPF_DW, kR3, kR2, 0);
        b.alu_imm(BPF_ADD, kR3, 1);
        b.store(BPF_DW, kR2, 0, kR3);
        finish(b);
      },
      finish);
  judge_loop(
      "result out of range", EINVAL, nullptr, nothing,
      [](Builder& b) {
        b.mov_imm(kR0, 2);
        b.exit();
      },
      finish);
  judge_loop(
      "third argument has no value", EACCES, "R3 !read_ok", nothing,
      [](Builder& b) {
        b.mov(kR0, kR3);
        b.exit();
      },
      finish);
  judge_loop(
      "leak in the callback", EINVAL, nullptr, nothing,
      [](Builder& b) {
        reserve(b);
        finish(b);
      },
      finish);
  judge_loop(
      "record taken and given in the callback", 0, nullptr, nothing,
      [](Builder& b) {
        reserve(b);
        need_r0(b);
        submit(b, kR0);
        finish(b);
      },
      finish);
  judge_loop(
      "outer record released in the callback", EINVAL,
      "BPF_EXIT instruction in main prog would lead to reference leak",
      [](Builder& b) {
        reserve(b);
        need_r0(b);
        b.store(BPF_DW, kFp, -8, kR0);
      },
      [](Builder& b) {
        b.load(BPF_DW, kR1, kR2, 0);
        b.mov_imm(kR2, 0);
        b.call(BPF_FUNC_ringbuf_submit);
        finish(b);
      },
      [](Builder& b) { finish(b); });
}

TEST_F(Callbacks, ElementsOfMaps) {
  const auto for_each = [&](const char* name, int error, const char* words, Map map, const Body& callback) {
    Builder b;
    const auto function = b.label();
    b.load_map(kR1, map);
    b.load_function(kR2, function);
    b.mov_imm(kR3, 0);
    b.mov_imm(kR4, 0);
    b.call(BPF_FUNC_for_each_map_elem);
    finish(b);
    b.place(function);
    callback(b);
    Request request = make_request(kSocket, b);
    describe_functions(request, {0, b.target(function)});
    judge(request, name, error, words);
  };
  for_each("reads key and value", 0, nullptr, kHash, [](Builder& b) {
    b.load(BPF_DW, kR0, kR2, 0);
    b.load(BPF_DW, kR0, kR3, 0);
    finish(b);
  });
  for_each("writes the value", 0, nullptr, kHash, [](Builder& b) {
    b.store_imm(BPF_DW, kR3, 0, 1);
    finish(b);
  });
  for_each("beyond the key", EACCES, "R2 min value is outside of the allowed memory range", kHash,
           [](Builder& b) {
             b.load(BPF_DW, kR0, kR2, 8);
             finish(b);
           });
  for_each("beyond the value", EACCES, "R3 min value is outside of the allowed memory range", kHash,
           [](Builder& b) {
             b.load(BPF_DW, kR0, kR3, 8);
             finish(b);
           });
  for_each("writes the key", EACCES, nullptr, kHash, [](Builder& b) {
    b.store_imm(BPF_DW, kR2, 0, 1);
    finish(b);
  });
  for_each("looks up in the map", 0, nullptr, kHash, [](Builder& b) {
    b.call(BPF_FUNC_map_lookup_elem);
    finish(b);
  });
  for_each("of a queue", 524, "callback function not allowed for map", kQueue, finish);
}

}  // namespace
}  // namespace bpftime::verifier
