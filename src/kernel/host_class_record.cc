// Extension classes as bytes. Field by field in the order of verifier/constraints.h: what is added there is added here, and
// kernel_test.cc compares all of it.
#include "kernel/record.h"

namespace bpftime::kernel {

namespace {

using verifier::Argument;
using verifier::Constraints;
using verifier::HostFunction;
using verifier::HostGlobal;
using verifier::Scalar;
using verifier::View;

// One function describes each structure for both directions.
struct Save {
  Writer& out;
  template <typename T>
  void operator()(const T& value) {
    out.put(value);
  }
};
struct Load {
  Reader& in;
  template <typename T>
  void operator()(T& value) {
    value = in.get<T>();
  }
  void operator()(std::string& value) { value = in.text(); }
};

constexpr uint32_t kItemsMax = 1u << 20;

template <typename Item, typename Each>
void list(Save& io, const std::vector<Item>& items, Each each) {
  io(static_cast<uint32_t>(items.size()));
  for (const Item& item : items) each(io, item);
}
template <typename Item, typename Each>
void list(Load& io, std::vector<Item>& items, Each each) {
  const auto count = io.in.get<uint32_t>();
  for (uint32_t i = 0; io.in.ok && i < count && i < kItemsMax; ++i) each(io, items.emplace_back());
}

const auto plain = [](auto& io, auto& value) { io(value); };

void scalar(Save& io, const Scalar& value) { io(value); }
void scalar(Load& io, Scalar& value) { io(value); }

template <typename Io, typename T>
void member(Io& io, T& m) {
  io(m.name), io(m.offset), io(m.size), io(m.element_size), io(m.read), io(m.write), io(m.bit_field),
      io(m.gives);
  scalar(io, m.number);
  io(m.view), io(m.buffer_length_member), io(m.bits);
}

template <typename Io, typename T>
void view(Io& io, T& v) {
  io(v.type), io(v.size), io(v.path);
  list(io, v.members, [](Io& each, auto& m) { member(each, m); });
}

template <typename Io, typename T>
void argument(Io& io, T& a) {
  io(a.name), io(a.kind), io(a.bytes), io(a.is_signed);
  scalar(io, a.number);
  list(io, a.values, plain);
  io(a.less_than), io(a.view), io(a.may_be_null), io(a.granted), io(a.length_argument), io(a.length),
      io(a.in), io(a.out), io(a.releases);
}

template <typename Io, typename T>
void function(Io& io, T& f) {
  io(f.name), io(f.id), io(f.granted);
  list(io, f.arguments, [](Io& each, auto& a) { argument(each, a); });
  argument(io, f.result);
  io(f.acquires), io(f.cost), io(f.may_block);
}

template <typename Io, typename T>
void constraints(Io& io, T& c) {
  io(c.class_name);
  list(io, c.views, [](Io& each, auto& v) { view(each, v); });
  io(c.typed_entry);
  list(io, c.entry, [](Io& each, auto& a) { argument(each, a); });
  io(c.may_return), io(c.return_is_void);
  list(io, c.return_values, plain);
  list(io, c.functions, [](Io& each, auto& f) { function(each, f); });
  list(io, c.globals, [](Io& each, auto& g) { each(g.name), each(g.id), each(g.granted), each(g.view); });
  list(io, c.helpers_denied, plain);
  list(io, c.helpers_granted, plain);
  io(c.instructions_below), io(c.memory_below);
}

template <typename Io, typename T>
void symbol(Io& io, T& s) {
  io(s.name), io(s.offset), io(s.address), io(s.btf_id);
}

template <typename Io, typename T>
void host_class(Io& io, T& host) {
  constraints(io, host.constraints);
  list(io, host.symbols, [](Io& each, auto& s) { symbol(each, s); });
  io(host.result_in_xmm0), io(host.at_system_call), io(host.host);
  symbol(io, host.entry);
  io(host.build_id);
  list(io, host.shared_maps, plain);
  io(host.policy), io(host.owner), io(host.session), io(host.check_promises), io(host.policy_place),
      io(host.entry_place);
}

}  // namespace

void put_host_class(Writer& out, const HostClass& host) {
  Save io{out};
  host_class(io, host);
}

HostClass get_host_class(Reader& in) {
  HostClass host;
  Load io{in};
  host_class(io, host);
  return host;
}

}  // namespace bpftime::kernel
