// What the bridge needs of C++: which state to save, and how an exception that reaches it ends.
#include "agent/arch/x86_64/system_call.h"
#include "agent/thread.h"
#include "wire/target_context.h"

// The host's C++ runtime, if it has one: without it nobody throws. Weak: nothing is needed to load the agent.
extern "C" {
struct _Unwind_Context;
__attribute__((weak)) void _Unwind_SetIP(_Unwind_Context*, uint64_t);
__attribute__((weak)) void _Unwind_SetGR(_Unwind_Context*, int, uint64_t);
__attribute__((weak)) void* __cxa_begin_catch(void*);
__attribute__((weak)) void __cxa_end_catch();

extern __attribute__((visibility("hidden"))) const char bpftime_host_call_caught[];
// The XSAVE mask, low half; 0: FXSAVE is all there is.
__attribute__((visibility("hidden"))) uint32_t bpftime_host_call_state = 0;
}

namespace bpftime::agent {
namespace {

// x87, SSE, AVX, AVX-512 (three parts). AMX tiles are never live at a call.
constexpr uint32_t kState = 0xe7;

constexpr int kSearchPhase = 1, kHandlerFrame = 4, kForceUnwind = 8;        // _Unwind_Action
constexpr int kHandlerFound = 6, kInstallContext = 7, kContinueUnwind = 8;  // _Unwind_Reason_Code
constexpr int kForeignExceptionCaught = 1;
constexpr int kRax = 0;  // DWARF's number

// struct _Unwind_Exception, as far as all unwinders agree.
struct Exception {
  uint64_t exception_class;
  void (*cleanup)(int reason, Exception* exception);
};

}  // namespace

extern "C" {

// Called when the library is loaded: cpuid is slow where a hypervisor answers it.
__attribute__((constructor, visibility("hidden"))) void bpftime_host_call_prepare() {
  uint32_t eax = 1, ebx = 0, ecx = 0, edx = 0;
  asm volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
  constexpr uint32_t kOsXsave = 1u << 27;
  if ((ecx & kOsXsave) == 0) return;
  asm volatile("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
  bpftime_host_call_state = eax & kState;
}

__attribute__((visibility("hidden"))) int bpftime_host_call_personality(int, int actions, uint64_t,
                                                                        Exception* exception,
                                                                        _Unwind_Context* context) {
  if ((actions & kForceUnwind) != 0 || &_Unwind_SetIP == nullptr || &_Unwind_SetGR == nullptr)
    return kContinueUnwind;
  if ((actions & kSearchPhase) != 0) return kHandlerFound;
  if ((actions & kHandlerFrame) == 0) return kContinueUnwind;
  _Unwind_SetGR(context, kRax, reinterpret_cast<uint64_t>(exception));
  _Unwind_SetIP(context, reinterpret_cast<uint64_t>(bpftime_host_call_caught));
  return kInstallContext;
}

__attribute__((visibility("hidden"))) void bpftime_host_call_end_exception(Exception* exception) {
  if (bpftime_agent_context != nullptr) ++bpftime_agent_context->host_calls_aborted;
  if (&__cxa_begin_catch != nullptr && &__cxa_end_catch != nullptr) {
    __cxa_begin_catch(exception);  // also tells std::uncaught_exceptions()
    __cxa_end_catch();
  } else if (exception->cleanup != nullptr) {
    exception->cleanup(kForeignExceptionCaught, exception);
  }
}

}  // extern "C"

}  // namespace bpftime::agent
