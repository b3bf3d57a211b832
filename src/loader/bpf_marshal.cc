#include "loader/bpf_marshal.h"

#include <linux/bpf.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <climits>
#include <cstdlib>
#include <optional>
#include <span>

#include "loader/host.h"
#include "loader/user_memory.h"
#include "maps/types.h"

namespace bpftime::loader {
namespace {

// Offsets are those of union bpf_attr and the info structures in Linux 6.18's include/uapi/linux/bpf.h,
// written as numbers because the headers of the build machine may be older.

constexpr uint32_t kNone = 0xffffffff;
constexpr uint32_t kBlobMax = 32u << 20;        // no kernel takes more in one buffer
constexpr uint32_t kLogMax = 16u << 20;         // what we offer to fill of a log buffer
constexpr uint32_t kInstructionsMax = 1000000;  // BPF_COMPLEXITY_LIMIT_INSNS
constexpr uint32_t kInfoMax = 4096;
constexpr uint32_t kBtfMax = 16u << 20;  // BTF_MAX_SIZE
constexpr uint32_t kRawTracepointNameMax = 128;

enum class Length { kFixed, kField, kString, kPath };
enum class Way { kIn, kOut, kInOut };

// length = constant, or the u32 at `field` × (constant, or the u32 at `factor_field`).
struct Pointer {
  uint32_t offset;
  Way way;
  Length length;
  uint32_t field = kNone;
  uint32_t factor = 1;
  uint32_t factor_field = kNone;
};

// A descriptor number. `optional`: zero means none (Linux checks the field for zero before it looks
// the number up).
struct FdField {
  uint32_t offset;
  bool optional = false;
};

// One row per command. Commands without a row and not handled by name carry neither pointers nor descriptors.
struct Command {
  uint32_t number;
  std::span<const Pointer> pointers;
  std::span<const FdField> fds;
};

constexpr uint32_t kTokenCreate = 36;  // and later: unknown, as to a kernel before 6.9
constexpr uint32_t kTraceUprobeMulti = 48, kTraceIter = 28;

constexpr FdField kMapCreateFds[] = {{20, true}, {48, true}};
constexpr FdField kFirstField[] = {{0}};
constexpr FdField kFirstTwo[] = {{0}, {4}};
constexpr FdField kLinkUpdateFds[] = {{0}, {4}, {12, true}};
constexpr FdField kProgramAttachFds[] = {{0}, {4}, {16, true}};
constexpr FdField kObjFds[] = {{8}};
constexpr FdField kProgramLoadFds[] = {{72, true}, {112, true}};
constexpr FdField kRawTracepointFds[] = {{8}};

constexpr Pointer kProgramLoadPointers[] = {
    {8, Way::kIn, Length::kField, 4, 8},  // insns: insn_cnt × 8
    {16, Way::kIn, Length::kString, kNone, 128},  {32, Way::kOut, Length::kField, 28},
    {80, Way::kIn, Length::kField, 88, 1, 76},     // func_info_cnt × func_info_rec_size
    {96, Way::kIn, Length::kField, 104, 1, 92},    // line_info_cnt × line_info_rec_size
    {128, Way::kIn, Length::kField, 116, 1, 136},  // core_relo_cnt × core_relo_rec_size
    {152, Way::kIn, Length::kField, 160},          // signature
};
constexpr Pointer kObjPointers[] = {{0, Way::kIn, Length::kPath}};
constexpr Pointer kTestRunPointers[] = {
    {16, Way::kIn, Length::kField, 8},
    {24, Way::kOut, Length::kField, 12},
    {48, Way::kIn, Length::kField, 40},
    {56, Way::kOut, Length::kField, 44},
};
constexpr Pointer kInfoPointers[] = {{8, Way::kInOut, Length::kField, 4}};
constexpr Pointer kQueryPointers[] = {{16, Way::kOut, Length::kField, 24, 4},
                                      {32, Way::kOut, Length::kField, 24, 4}};
constexpr Pointer kRawTracepointPointers[] = {{0, Way::kIn, Length::kString, kNone, kRawTracepointNameMax}};
constexpr Pointer kBtfLoadPointers[] = {{0, Way::kIn, Length::kField, 16},
                                        {8, Way::kOut, Length::kField, 20}};
constexpr Pointer kTaskQueryPointers[] = {{16, Way::kOut, Length::kField, 12}};
constexpr Pointer kUprobeMultiPointers[] = {
    {16, Way::kIn, Length::kPath},
    {24, Way::kIn, Length::kField, 48, 8},
    {32, Way::kIn, Length::kField, 48, 8},
    {40, Way::kIn, Length::kField, 48, 8},
};
constexpr Pointer kIterPointers[] = {{16, Way::kIn, Length::kField, 24}};

constexpr Command kCommands[] = {
    {BPF_MAP_CREATE, {}, kMapCreateFds},
    {BPF_MAP_LOOKUP_ELEM, {}, kFirstField},
    {BPF_MAP_UPDATE_ELEM, {}, kFirstField},
    {BPF_MAP_DELETE_ELEM, {}, kFirstField},
    {BPF_MAP_GET_NEXT_KEY, {}, kFirstField},
    {BPF_MAP_LOOKUP_AND_DELETE_ELEM, {}, kFirstField},
    {BPF_PROG_LOAD, kProgramLoadPointers, kProgramLoadFds},
    {BPF_OBJ_PIN, kObjPointers, kObjFds},
    {BPF_OBJ_GET, kObjPointers, {}},
    {BPF_PROG_ATTACH, {}, kProgramAttachFds},
    {BPF_PROG_DETACH, {}, kProgramAttachFds},
    {BPF_PROG_TEST_RUN, kTestRunPointers, kFirstField},
    {BPF_OBJ_GET_INFO_BY_FD, kInfoPointers, kFirstField},
    {BPF_PROG_QUERY, kQueryPointers, kFirstField},
    {BPF_RAW_TRACEPOINT_OPEN, kRawTracepointPointers, kRawTracepointFds},
    {BPF_BTF_LOAD, kBtfLoadPointers, {}},
    {BPF_TASK_FD_QUERY, kTaskQueryPointers, {}},
    {BPF_MAP_FREEZE, {}, kFirstField},
    {BPF_LINK_CREATE, {}, kFirstTwo},
    {BPF_LINK_UPDATE, {}, kLinkUpdateFds},
    {BPF_LINK_DETACH, {}, kFirstField},
    {BPF_ITER_CREATE, {}, kFirstField},
    {BPF_PROG_BIND_MAP, {}, kFirstTwo},
};

// Pointers inside the info structures (out only): offset of the pointer, of its count, and the bytes per
// element (or where the record size stands).
struct Nested {
  uint32_t pointer;
  uint32_t count;
  uint32_t size;
  uint32_t size_field = kNone;
};
constexpr Nested kProgramInfo[] = {
    {24, 16, 1},        {32, 20, 1},        {56, 52, 4},        {112, 104, 8}, {120, 108, 4},
    {136, 144, 1, 132}, {152, 148, 1, 172}, {160, 168, 1, 176}, {184, 180, 8},
};
constexpr Nested kBtfInfo[] = {{0, 8, 1}, {16, 24, 1}};
constexpr Nested kLinkInfo[] = {{16, 24, 1},
                                {24, 32, 1}};  // raw tracepoint or iterator name; perf event's file name

// Paths, then offsets, counters and cookies.
constexpr Nested kUprobeMultiInfo[] = {{16, 48, 1}, {24, 52, 8}, {32, 52, 8}, {40, 52, 8}};
constexpr uint32_t kUprobeMultiLink = 12;  // BPF_LINK_TYPE_UPROBE_MULTI

std::span<const Nested> nested_of(const FdFacts& facts) {
  switch (facts.kind) {
    case wire::ObjectKind::kProgram:
      return kProgramInfo;
    case wire::ObjectKind::kBtf:
      return kBtfInfo;
    case wire::ObjectKind::kLink:
      if (facts.spec.type == kUprobeMultiLink) return kUprobeMultiInfo;
      return kLinkInfo;
    default:
      return {};
  }
}

bool is_element_command(uint32_t command) {
  return (command >= BPF_MAP_LOOKUP_ELEM && command <= BPF_MAP_GET_NEXT_KEY) ||
         command == BPF_MAP_LOOKUP_AND_DELETE_ELEM;
}

bool value_is_fd(uint32_t map_type) {
  switch (map_type) {  // those we do not have
    case BPF_MAP_TYPE_SOCKMAP:
    case BPF_MAP_TYPE_SOCKHASH:
    case BPF_MAP_TYPE_XSKMAP:
      return true;
    default:
      return maps::has_descriptors(map_type);
  }
}

uint64_t user_value_bytes(const wire::MapSpec& spec) {
  if (value_is_fd(spec.type)) return 4;
  return maps::type_facts(spec.type).per_cpu ? ((uint64_t{spec.value_size} + 7) / 8 * 8) * spec.cpu_count
                                             : spec.value_size;
}

bool is_known(uint32_t command) {
  return command < kTokenCreate && (command < BPF_MAP_LOOKUP_BATCH || command > BPF_MAP_DELETE_BATCH);
}

Error unknown(uint32_t command) {
  return Error{EINVAL, "bpf: command " + std::to_string(command) + ": not known here"};
}

Error fault(const char* what) { return Error{EFAULT, std::string("bpf: ") + what + ": not readable memory"}; }

Bytes string_bytes(const std::string& text) {  // with its NUL
  return Bytes(reinterpret_cast<const uint8_t*>(text.c_str()), text.size() + 1);
}

}  // namespace

// Fills one MarshalledCall. `attr_` is our copy; the host's is read once.
class Marshaller {
 public:
  Marshaller(uint32_t command, Bytes attr, const FdLookup& lookup)
      : command_(command), attr_(attr), lookup_(lookup), call_(command, attr) {}

  Result<MarshalledCall> run() {
    if (auto done = common(); !done) return done.error();
    Result<void> special;
    if (command_ == BPF_PROG_LOAD) special = program_descriptors();
    if (command_ == BPF_OBJ_GET_INFO_BY_FD) special = nested_info();
    if (command_ == BPF_LINK_CREATE) special = link_extras();
    if (is_element_command(command_)) special = element();
    if (!special) return special.error();
    if (total_ > wire::kMessageBodyMax / 2 || too_many_fds_) return Error{E2BIG, "bpf: call: too large"};
    return std::move(call_);
  }

 private:
  template <typename T>
  T field(uint32_t offset) const {
    // Fields past the end of a short attr are zero; one cut in half has its low bytes.
    T value{};
    if (offset < attr_.size())
      std::memcpy(&value, attr_.data() + offset, std::min(sizeof(T), attr_.size() - offset));
    return value;
  }

  Result<void> common() {
    for (const Command& row : kCommands) {
      if (row.number != command_) continue;
      for (const Pointer& pointer : row.pointers)
        if (auto done = add(pointer); !done) return done;
      for (const FdField& fd : row.fds) add_attr_fd(fd);
    }
    return {};
  }

  uint64_t length_of(const Pointer& pointer) const {
    if (pointer.length == Length::kFixed) return pointer.factor;
    uint64_t length = field<uint32_t>(pointer.field);
    return length * (pointer.factor_field == kNone ? pointer.factor : field<uint32_t>(pointer.factor_field));
  }

  Result<void> add(const Pointer& pointer) {
    const auto address = field<uint64_t>(pointer.offset);
    if (address == 0) return {};
    if (pointer.length == Length::kString || pointer.length == Length::kPath)
      return add_string(pointer, address);
    const uint64_t length = length_of(pointer);
    if (pointer.way == Way::kOut) {
      add_out(pointer.offset, address, length);
      return {};
    }
    uint32_t limit = kBlobMax;
    if (command_ == BPF_PROG_LOAD && pointer.offset == 8) limit = kInstructionsMax * 8;
    if (command_ == BPF_OBJ_GET_INFO_BY_FD) limit = kInfoMax;
    if (command_ == BPF_BTF_LOAD) limit = kBtfMax;
    if (length > limit) return Error{E2BIG, "bpf: buffer: longer than any kernel takes"};
    std::vector<uint8_t> bytes(length);
    if (!read_user(bytes.data(), address, bytes.size())) return fault("buffer");
    const auto capacity = pointer.way == Way::kInOut ? static_cast<uint32_t>(length) : 0;
    if (capacity > 0) call_.outs_.push_back({pointer.offset, address, capacity});
    add_blob(pointer.offset, bytes, capacity);
    if (command_ == BPF_PROG_LOAD && pointer.offset == 8) instructions_ = std::move(bytes);
    if (command_ == BPF_OBJ_GET_INFO_BY_FD) info_ = std::move(bytes);
    return {};
  }

  Result<void> add_string(const Pointer& pointer, uint64_t address) {
    auto text = read_user_string(address, pointer.length == Length::kPath ? PATH_MAX : pointer.factor);
    if (!text) return fault("string");
    if (pointer.length == Length::kPath) {
      if (text->size() >= PATH_MAX) return Error{ENAMETOOLONG, "bpf: path: longer than PATH_MAX"};
      text = host_path(*text);
    }
    add_blob(pointer.offset, string_bytes(*text), 0);
    return {};
  }

  void add_blob(uint32_t offset, Bytes bytes, uint32_t capacity) {
    total_ += bytes.size() + sizeof(wire::Blob) + 8;
    call_.builder_.add_blob(offset, bytes, capacity);
  }

  void add_out(uint32_t offset, uint64_t address, uint64_t length) {
    const auto capacity = static_cast<uint32_t>(std::min<uint64_t>(length, kLogMax));
    call_.outs_.push_back({offset, address, capacity});
    add_blob(offset, {}, capacity);
  }

  void add_fd(wire::FdPlace place, uint32_t offset, int fd) {
    if (fd < 0 || !lookup_(fd).open) return;
    if (!call_.builder_.add_fd(place, offset, local_fd(fd))) too_many_fds_ = true;
  }

  void add_attr_fd(const FdField& fd) {
    const auto number = field<int32_t>(fd.offset);
    // Maps of maps always have a template: descriptor 0 is one like others.
    const bool has_template =
        fd.offset == offsetof(bpf_attr, inner_map_fd) && &fd == &kMapCreateFds[0] &&
        (field<uint32_t>(0) == BPF_MAP_TYPE_ARRAY_OF_MAPS || field<uint32_t>(0) == BPF_MAP_TYPE_HASH_OF_MAPS);
    if (number == 0 && fd.optional && !has_template) return;
    if (fd.offset + 4 > attr_.size()) return;
    add_fd(wire::FdPlace::kAttr, fd.offset, number);
  }

  // Descriptors in instructions, and the part of fd_array that instructions use (its length is given
  // only since 6.14).
  Result<void> program_descriptors() {
    std::vector<uint32_t> used;
    for (uint32_t i = 0; (i + 1) * sizeof(struct bpf_insn) <= instructions_.size(); ++i) {
      const auto insn = *read_at<struct bpf_insn>(instructions_, i * sizeof(struct bpf_insn));
      if (insn.code == (BPF_LD | BPF_IMM | BPF_DW)) {
        if (insn.src_reg == BPF_PSEUDO_MAP_FD || insn.src_reg == BPF_PSEUDO_MAP_VALUE)
          add_fd(wire::FdPlace::kInstruction, i, insn.imm);
        if (insn.src_reg == BPF_PSEUDO_MAP_IDX || insn.src_reg == BPF_PSEUDO_MAP_IDX_VALUE)
          used.push_back(static_cast<uint32_t>(insn.imm));
        const auto second = read_at<struct bpf_insn>(instructions_, (i + 1) * sizeof(struct bpf_insn));
        if (insn.src_reg == BPF_PSEUDO_BTF_ID && second && second->imm != 0)
          add_fd(wire::FdPlace::kInstruction, i + 1, second->imm);  // module BTF
        ++i;
      } else if (insn.code == (BPF_JMP | BPF_CALL) && insn.src_reg == BPF_PSEUDO_KFUNC_CALL && insn.off > 0) {
        used.push_back(static_cast<uint32_t>(insn.off));
      }
    }
    const auto address = field<uint64_t>(120);
    if (address == 0) return {};
    std::sort(used.begin(), used.end());
    used.erase(std::unique(used.begin(), used.end()), used.end());
    const uint32_t given = field<uint32_t>(148);
    if (given > wire::kFdsMax) return Error{E2BIG, "bpf: fd_array: longer than any program can use"};
    for (uint32_t i = 0; i < given; ++i) used.push_back(i);
    return fd_array(address, used);
  }

  Result<void> fd_array(uint64_t address, const std::vector<uint32_t>& used) {
    if (used.empty()) return {};
    const uint32_t last = *std::max_element(used.begin(), used.end());
    // Off and idx are 16 and 31 bits of hostile input; no program uses more descriptors than
    // the protocol carries.
    if (last >= 0x8000) return Error{E2BIG, "bpf: fd_array: index too large"};
    std::vector<int32_t> array(last + 1);
    for (const uint32_t index : used)
      if (!read_user(&array[index], address + uint64_t{index} * 4, 4)) return fault("fd_array");
    add_blob(120, Bytes(reinterpret_cast<const uint8_t*>(array.data()), array.size() * 4), 0);
    std::vector<bool> sent(array.size());
    for (const uint32_t index : used) {
      if (!sent[index]) add_fd(wire::FdPlace::kFdArray, index, array[index]);
      sent[index] = true;
    }
    return {};
  }

  Result<void> nested_info() {
    const auto facts = lookup_(field<int32_t>(0));
    for (const Nested& nested : nested_of(facts)) {
      const auto address = read_at<uint64_t>(info_, nested.pointer).value_or(0);
      const auto count = read_at<uint32_t>(info_, nested.count).value_or(0);
      const uint32_t size =
          nested.size_field == kNone ? nested.size : read_at<uint32_t>(info_, nested.size_field).value_or(0);
      if (address != 0 && count != 0)
        add_out(wire::kNestedPointer + nested.pointer, address, uint64_t{count} * size);
    }
    return {};
  }

  Result<void> link_extras() {
    const auto type = field<uint32_t>(8);
    std::span<const Pointer> pointers;
    // What Linux refuses before it follows a pointer is the daemon's to refuse without following any.
    constexpr uint32_t kPlacesMax = 1u << 20;
    const auto count = field<uint32_t>(48);
    const bool refused = field<uint32_t>(12) != 0 || field<uint64_t>(16) == 0 || field<uint64_t>(24) == 0 ||
                         count == 0 || count > kPlacesMax || field<uint32_t>(52) > 1 ||
                         field<int32_t>(56) < 0;
    if (type == kTraceUprobeMulti && !refused) pointers = kUprobeMultiPointers;
    if (type == kTraceIter) pointers = kIterPointers;
    for (const Pointer& pointer : pointers)
      if (auto done = add(pointer); !done) return done;
    return {};
  }

  // Element commands that could not be done in this process (see map_commands.h).
  Result<void> element() {
    const auto facts = lookup_(field<int32_t>(0));
    if (facts.kind != wire::ObjectKind::kMap) return {};
    const wire::MapSpec& spec = facts.spec;
    const uint64_t value_size = user_value_bytes(spec);
    if (value_size > kBlobMax || spec.key_size > kInfoMax) return Error{E2BIG, "bpf: value: too large"};
    if (const auto key = field<uint64_t>(8); key != 0 && spec.key_size != 0) {
      std::vector<uint8_t> bytes(spec.key_size);
      if (!read_user(bytes.data(), key, bytes.size())) return fault("key");
      add_blob(8, bytes, 0);
    }
    const auto value = field<uint64_t>(16);
    if (value == 0 && command_ == BPF_MAP_UPDATE_ELEM) return fault("value");
    if (value == 0 || command_ == BPF_MAP_DELETE_ELEM) return {};
    if (command_ == BPF_MAP_GET_NEXT_KEY) {
      add_out(16, value, spec.key_size);
    } else if (command_ != BPF_MAP_UPDATE_ELEM) {
      add_out(16, value, value_size);
    } else {
      std::vector<uint8_t> bytes(value_size);
      if (!read_user(bytes.data(), value, bytes.size())) return fault("value");
      add_blob(16, bytes, 0);
      if (value_is_fd(spec.type)) add_fd(wire::FdPlace::kValue, 0, *read_at<int32_t>(bytes, 0));
    }
    return {};
  }

  uint32_t command_;
  Bytes attr_;
  const FdLookup& lookup_;
  MarshalledCall call_;
  std::vector<uint8_t> instructions_, info_;
  uint64_t total_ = 0;
  bool too_many_fds_ = false;
};

Result<MarshalledCall> MarshalledCall::make(uint32_t command, uint64_t attr_address, uint32_t attr_size,
                                            const FdLookup& lookup) {
  if (!is_known(command)) return unknown(command);
  if (attr_size > wire::kAttrMax) return Error{E2BIG, "bpf: attr: longer than a page"};
  std::vector<uint8_t> attr(attr_size);
  if (!read_user(attr.data(), attr_address, attr_size)) return fault("attr");
  return make(command, attr, attr_address, lookup);
}

Result<MarshalledCall> MarshalledCall::make(uint32_t command, Bytes attr, uint64_t attr_address,
                                            const FdLookup& lookup) {
  if (!is_known(command)) return unknown(command);
  auto call = Marshaller(command, attr, lookup).run();
  if (call) call->outs_.push_back({wire::kAttrItself, attr_address, static_cast<uint32_t>(attr.size())});
  return call;
}

Result<void> MarshalledCall::store(Bytes reply_body) const {
  auto blobs = wire::decode_out_blobs(reply_body);
  if (!blobs) return blobs.error();
  const auto target_of = [&](const wire::OutBlobView& blob) {
    return std::find_if(outs_.begin(), outs_.end(),
                        [&](const Out& out) { return out.attr_offset == blob.attr_offset; });
  };
  for (const wire::OutBlobView& blob : *blobs) {
    const auto out = target_of(blob);
    if (out == outs_.end() || blob.bytes.size() > out->capacity)
      return Error{EPROTO, "store a reply: blob: not asked for"};
  }
  for (const wire::OutBlobView& blob : *blobs)
    if (!write_user(target_of(blob)->address, blob.bytes.data(), blob.bytes.size()))
      return fault("out buffer");
  return {};
}

}  // namespace bpftime::loader
