// The protocol between loaders, targets, CLI and daemon: a Unix stream socket in the runtime directory.
// A message is a MessageHeader, `length` bytes of body, and up to kFdsMax descriptors sent with the header's first byte.
// Requests are answered in order, one reply each; after that of kTraceSubscribe comes a stream of kTraceLine.
#pragma once

#include "wire/abi.h"

namespace bpftime::wire {

inline constexpr uint32_t kMessageBodyMax = 64u << 20;
inline constexpr uint32_t kFdsMax = 250;  // SCM_MAX_FD is 253

enum class MessageType : uint32_t {
  kReply = 1,          // body: Reply, then type-specific bytes
  kHello = 2,          // body: Hello. First message of every connection
  kBpf = 3,            // body: BpfCall …: one bpf(2) call
  kPerfEventOpen = 4,  // body: PerfEventOpen, then the path, then the path as given
  kPerfIoctl = 5,      // body: PerfIoctl; fds: the event [, the program]
  kPerfMmap = 6,       // body: PerfMmap; fds: the event. Sizes the ring before the client maps it
  kReadiness =
      7,         // fds: a ring buffer map or a perf event. Reply carries an eventfd written when data arrives
  kCommand = 8,  // body: JSON request of the CLI. Reply body: Reply, then JSON
  kTargetHello = 9,      // agent, before main: "I am here"; reply when probes are in place
  kTraceSubscribe = 10,  // body: TraceSubscribe
  kTraceLine = 11,       // body: TraceLine, then text
  kPolicy = 12,          // body: PolicyRequest, then path, host, class. For the connection's later kBpf
};

struct MessageHeader {
  uint32_t magic;
  uint16_t abi_version;
  uint16_t arch;
  MessageType type;
  uint32_t length;  // bytes of body
  uint32_t fd_count;
  uint32_t sequence;  // echoed in the reply
};
static_assert(sizeof(MessageHeader) == 24);

struct Reply {
  int64_t result;        // >= 0: the call's result; < 0: -errno
  uint32_t text_length;  // bytes of a human-readable message following (why it failed, next step); no NUL
  uint32_t blob_count;   // kBpf: that many OutBlob + bytes follow the text
};
static_assert(sizeof(Reply) == 16);

enum class ClientKind : uint32_t { kLoader = 1, kCli = 2, kTarget = 3, kKeeper = 4 };
// `load --kernel-verifier=off|require`; neither: its opinion is asked for and only noted.
inline constexpr uint32_t kHelloKernelVerifierOff = 2;
inline constexpr uint32_t kHelloKernelVerifierRequire = 4;

struct Hello {
  ClientKind kind;
  uint32_t flags;
};
static_assert(sizeof(Hello) == 8);

// What the programs of this connection may do. Each part may be empty: no path, the policy stays and only the class is
// chosen; no host, the policy or manifest must name it; no class, the policy says which program is in which.
struct PolicyRequest {
  uint32_t path_length, host_length, class_length;  // bytes, no NUL; absolute paths
  uint32_t flags;
};
static_assert(sizeof(PolicyRequest) == 16);
inline constexpr uint32_t kPolicyCountRuns = 1;   // of the programs
inline constexpr uint32_t kPolicyTextMax = 4096;  // of each

// One bpf(2) call, its pointers replaced by the bytes they point to (see loader/bpf_marshal; read with wire/bpf_call.h).
// Layout: BpfCall, attr[attr_size] padded to 8, blob_count × (Blob, bytes[in_length] padded to 8), fd_count × FdRef.
struct BpfCall {
  uint32_t command;     // enum bpf_cmd
  uint32_t attr_size;   // bytes of attr as the caller gave them, <= kAttrMax
  uint32_t blob_count;  // <= kBlobsMax
  uint32_t fd_count;    // FdRefs, <= kFdRefsMax; several may name one descriptor
};
static_assert(sizeof(BpfCall) == 16);
inline constexpr uint32_t kAttrMax = 4096;
inline constexpr uint32_t kBlobsMax = 64;
inline constexpr uint32_t kFdRefsMax = 1u << 20;

// Memory behind a pointer field of attr. A null pointer has no blob. An empty blob (in_length 0, out_length 0) means
// that the caller gave a pointer but a length of zero.
struct Blob {
  uint32_t attr_offset;  // of the pointer field
  uint32_t in_length;    // bytes sent
  uint32_t out_length;   // bytes the daemon may send back to that address
  uint32_t reserved;
};
static_assert(sizeof(Blob) == 16);

// BPF_OBJ_GET_INFO_BY_FD: the info structure is the blob of attr's field `info` (in and out). Pointers inside it are
// addressed as kNestedPointer + their offset in the structure (one level; out only). The loader offers every field
// that may be a pointer for the object's kind, so link infos offer both the raw tracepoint's and the perf event's name.
inline constexpr uint32_t kNestedPointer = 0x10000;

// Where a descriptor number occurs, so that the daemon can tell which object it means. A number that is no open
// descriptor of the caller has no FdRef: the daemon answers EBADF where it needs one.
enum class FdPlace : uint32_t { kAttr = 0, kInstruction = 1, kFdArray = 2, kValue = 3 };
struct FdRef {
  FdPlace place;
  uint32_t
      offset;  // kAttr: byte offset in attr; kInstruction: instruction index; kFdArray: index; kValue: byte offset in the value blob
  uint32_t index;  // of the descriptor among those sent with the message
  uint32_t reserved;
};
static_assert(sizeof(FdRef) == 16);

// In replies to kBpf: bytes (padded to 8) to store at the pointer field `attr_offset`; kAttrItself: over attr itself.
// The first OutBlob starts at the next multiple of 8 after Reply and its text.
struct OutBlob {
  uint32_t attr_offset;
  uint32_t length;
};
static_assert(sizeof(OutBlob) == 8);
inline constexpr uint32_t kAttrItself = 0xffffffff;

// type == kUprobePmuType, whatever number the caller found in sysfs: a uprobe.
inline constexpr uint32_t kUprobePmuType = 0x6270;

struct PerfEventOpen {
  uint8_t attr[144];   // struct perf_event_attr, zero-extended
  uint32_t attr_size;  // as given by the caller
  int32_t pid;
  int32_t cpu;
  int32_t group_fd;
  uint64_t flags;
  uint32_t path_length;   // uprobe: bytes of path following (absolute, as the caller sees it)
  uint32_t given_length;  // bytes behind that: the path as it was given, if it was another; else 0
};
static_assert(sizeof(PerfEventOpen) == 176);

// ID: the reply's result is the id. QUERY_BPF: argument is the room for ids, result their number, the ids (u32 each)
// follow the reply. PERIOD: argument is the period itself. SET_BPF, SET_OUTPUT: the second descriptor, when one was open
// under the number given; argument is that number (-1: none).
struct PerfIoctl {
  uint64_t command;  // PERF_EVENT_IOC_*
  uint64_t argument;
};

struct PerfMmap {
  uint64_t size;  // bytes the client will map: (1 + 2^n) pages
};

struct TraceSubscribe {
  uint32_t lineage;  // only lines of this lineage; 0: all
  uint32_t flags;
};
inline constexpr uint32_t kTraceFollow = 1;  // else: what is buffered, then end
// Instead of a stream the reply carries a descriptor: a pipe of all lines not read yet (the kernel's trace_pipe), or a file of
// them that reads nothing away (its `trace`). kTraceClear: neither; nothing printed until now is to be read any more.
inline constexpr uint32_t kTracePipe = 2, kTraceSnapshot = 4, kTraceClear = 8;

struct TraceLine {
  uint32_t lineage;
  uint32_t text_length;  // 0: end of stream
};

}  // namespace bpftime::wire
