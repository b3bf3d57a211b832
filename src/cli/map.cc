// bpftime map …: show, create, dump and the operations on elements, in the words and columns of bpftool.
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/event_pipe.h"
#include "cli/map_entries.h"
#include "cli/object_verbs.h"
#include "cli/trace_stream.h"
#include "wire/object.h"

namespace bpftime::cli {
namespace {

constexpr int kNotSupported = 524;  // ENOTSUPP

uint64_t address_of(const void* pointer) { return reinterpret_cast<uint64_t>(pointer); }

// The descriptor is the map's memory itself: how large it is, and whether it is frozen, stand there.
struct Memory {
  uint64_t size = 0;
  bool frozen = false;
};
Memory memory_of(const Fd& fd) {
  struct stat status {};
  wire::ObjectTrailer trailer{};
  if (::fstat(fd.get(), &status) != 0 || status.st_size < static_cast<off_t>(wire::kTrailerSize)) return {};
  const auto at = status.st_size - static_cast<off_t>(wire::kTrailerSize);
  const bool read = ::pread(fd.get(), &trailer, sizeof trailer, at) == static_cast<ssize_t>(sizeof trailer);
  return {static_cast<uint64_t>(status.st_size), read && trailer.frozen != 0};
}

void show_map(const bpf_map_info& info, const Memory& memory) {
  std::string text = fmt::format("{}: {}  ", info.id, map_type_word(info.type));
  if (info.name[0] != 0) text += "name " + printable(name_text(info.name)) + "  ";
  text += fmt::format("flags {:#x}\n\tkey {}B  value {}B  max_entries {}", info.map_flags, info.key_size,
                      info.value_size, info.max_entries);
  if (memory.size != 0) text += fmt::format("  memlock {}B", memory.size);
  if (info.btf_id != 0 || memory.frozen) text += "\n\t";
  if (info.btf_id != 0) text += fmt::format("btf_id {}", info.btf_id);
  if (memory.frozen) text += info.btf_id != 0 ? "  frozen" : "frozen";
  fmt::print("{}\n", text);
}

OrderedJson map_json(const bpf_map_info& info, const Memory& memory) {
  OrderedJson out{{"id", info.id}, {"type", map_type_word(info.type)}};
  if (info.name[0] != 0) out["name"] = name_text(info.name);
  out["flags"] = info.map_flags;
  out["bytes_key"] = info.key_size;
  out["bytes_value"] = info.value_size;
  out["max_entries"] = info.max_entries;
  if (memory.size != 0) out["bytes_memlock"] = memory.size;
  out["frozen"] = memory.frozen ? 1 : 0;
  if (info.btf_id != 0) out["btf_id"] = info.btf_id;
  return out;
}

Result<void> show(Words& words, bool json) {
  const bool all = words.done();
  auto found = all ? select_all(ObjectType::kMap) : select(ObjectType::kMap, words);
  if (!found) return found.error();
  if (auto end = words.end(); !end) return end;
  OrderedJson list = OrderedJson::array();
  for (const Selected& each : *found) {
    auto info = map_info(each.fd);
    if (!info) return info.error();
    const Memory memory = memory_of(each.fd);
    if (json) {
      list.push_back(map_json(*info, memory));
    } else {
      show_map(*info, memory);
    }
  }
  if (json) print_json_line(all || list.size() > 1 ? list : list[0]);
  return {};
}

Result<OpenMap> open_map(Words& words) {
  auto found = select_one(ObjectType::kMap, words);
  if (!found) return found.error();
  return OpenMap::of(std::move(found->fd));
}

bpf_attr element(const OpenMap& map, const std::vector<uint8_t>* key, const std::vector<uint8_t>* value) {
  bpf_attr attr{};
  attr.map_fd = static_cast<uint32_t>(map.fd.get());
  if (key != nullptr && !key->empty()) attr.key = address_of(key->data());
  if (value != nullptr) attr.value = address_of(value->data());
  return attr;
}

// What the kernel said by a number: which map it was, why, and what to try. `what`: "map update".
Error explained(const Error& error, const OpenMap& map, const std::string& what) {
  const bpf_map_info& info = map.info;
  const std::string id = std::to_string(info.id), entries = std::to_string(info.max_entries);
  const std::string type = map_type_word(info.type);
  const bool array = info.type == BPF_MAP_TYPE_ARRAY || info.type == BPF_MAP_TYPE_PERCPU_ARRAY;
  std::string why = error.message.substr(std::min(error.message.size(), what.size() + 2));  // "what: why"
  switch (error.code) {
    case E2BIG:
      why = array ? "there are " + entries + " entries, from 0 on; this index lies behind them"
                  : "full, it has " + entries + " entries; try `bpftime map delete`, or a map made with more";
      break;
    case ENOENT:
      why = array ? "there are " + entries + " entries, from 0 on; this index lies behind them"
                  : "no such key; try `bpftime map dump id " + id + "`";
      break;
    case EEXIST:
      why = "the key is there already; try `any` or `exist` instead of `noexist`";
      break;
    case EPERM:
      why = "frozen, or opened without the right to change it: only programs change it";
      break;
    case EINVAL:
      why = type + " takes no such key, value or flag, or has no such operation";
      break;
    case EBUSY:
    case EAGAIN:
      why += "; try again";
      break;
    default:
      break;
  }
  const std::string name = name_text(info.name);
  return Error{error.code, what + ": map " + id + " (" + (name.empty() ? "" : printable(name) + ", ") + type +
                               "): " + why};
}

// ---- dump ----

struct DumpFormat {
  bool json, formatted;
};

Result<void> dump_entries(const OpenMap& map, DumpFormat format, OrderedJson& list, uint64_t& count) {
  std::vector<uint8_t> key(map.info.key_size), next(map.info.key_size), value(map.user_value_size());
  bool first = true;
  // A map that changes meanwhile may give keys twice, or never end: at most what it can hold.
  for (uint64_t i = 0; i < map.info.max_entries; ++i) {
    bpf_attr attr = element(map, first ? nullptr : &key, nullptr);
    attr.next_key = address_of(next.data());
    auto more = bpf(BPF_MAP_GET_NEXT_KEY, attr, "map dump");
    if (!more && more.error().code == ENOENT) return {};
    if (!more) return explained(more.error(), map, "map dump");
    key = next;
    first = false;
    auto found = bpf(BPF_MAP_LOOKUP_ELEM, element(map, &key, &value), "map dump");
    // Slots of arrays of objects that hold nothing are passed over; so are entries deleted meanwhile.
    if (!found && found.error().code == ENOENT) continue;
    // Slots that cannot be read (of events, of cgroups) are shown as such.
    const bool unreadable = !found && found.error().code == kNotSupported;
    if (unreadable && format.json) {
      list.push_back({{"key", hex_json(key)}, {"value", {{"error", std::strerror(kNotSupported)}}}});
    } else if (unreadable) {
      fmt::print("key:\n{}\nvalue:\n{}\n", hex_text(key), std::strerror(kNotSupported));
    }
    if (unreadable) continue;
    if (!found) return explained(found.error(), map, "map dump");
    ++count;
    if (format.json) {
      list.push_back(entry_json(map, key, Bytes(value)));
    } else if (format.formatted) {
      list.push_back(formatted_json(map, key, Bytes(value)));
    } else {
      fmt::print("{}", entry_text(map, key, Bytes(value)));
    }
  }
  return {};
}

// Queues and the like have no keys to walk along.
Result<void> check_walkable(const OpenMap& map, const Words& words) {
  if (map.info.key_size != 0) return {};
  return Error{EOPNOTSUPP, words.what() + ": a " + map_type_word(map.info.type) +
                               " has no entries to walk along" +
                               (map.info.value_size != 0 ? "; try `bpftime map peek`" : "")};
}

Result<void> dump(Words& words, bool json) {
  words.take("entries");  // what this action took before it took bpftool's words
  auto found = select(ObjectType::kMap, words);
  if (!found) return found.error();
  if (auto end = words.end(); !end) return end;
  OrderedJson all = OrderedJson::array();
  const bool several = found->size() > 1;
  for (Selected& each : *found) {
    auto map = OpenMap::of(std::move(each.fd));
    if (!map) return map.error();
    if (auto fine = check_walkable(*map, words); !fine) return fine;
    const DumpFormat format{json, map->has_types()};
    OrderedJson list = OrderedJson::array();
    uint64_t count = 0;
    if (several && !json) show_map(map->info, memory_of(map->fd));
    if (auto done = dump_entries(*map, format, list, count); !done) return done;
    if (json && several) {
      OrderedJson one = map_json(map->info, memory_of(map->fd));
      one["elements"] = list;
      all.push_back(std::move(one));
    } else if (json) {
      print_json_line(list);
    } else if (format.formatted) {
      fmt::print("{}\n", list.dump(4, ' ', false, OrderedJson::error_handler_t::replace));
    } else {
      fmt::print("Found {} element{}\n", count, count == 1 ? "" : "s");
    }
  }
  if (json && several) print_json_line(all);
  return {};
}

// ---- elements ----

// `key DATA`, when it comes next.
Result<std::vector<uint8_t>> key_of(Words& words, const OpenMap& map) {
  if (!words.take("key")) {
    if (map.info.key_size == 0) return std::vector<uint8_t>();
    return words.wrong("key and its " + std::to_string(map.info.key_size) + " bytes");
  }
  return words.bytes("the key", map.info.key_size);
}

void print_entry(const OpenMap& map, const std::vector<uint8_t>& key, const std::vector<uint8_t>& value,
                 bool json) {
  if (json) return print_json_line(entry_json(map, key, Bytes(value)));
  if (map.has_types())
    return fmt::print(
        "{}\n",
        formatted_json(map, key, Bytes(value)).dump(4, ' ', false, OrderedJson::error_handler_t::replace));
  fmt::print("{}", entry_text(map, key, Bytes(value)));
}

// lookup, peek, pop and dequeue: `command` gives one value.
Result<void> take_value(Words& words, bool json, int command) {
  auto map = open_map(words);
  if (!map) return map.error();
  auto key = key_of(words, *map);
  if (!key) return key.error();
  if (auto end = words.end(); !end) return end;
  std::vector<uint8_t> value(map->user_value_size());
  auto found = bpf(command, element(*map, &*key, &value), words.what());
  if (found) {
    print_entry(*map, *key, value, json);
    return {};
  }
  if (found.error().code != ENOENT) return explained(found.error(), *map, words.what());
  if (json) {
    print_json_line(nullptr);
  } else if (key->empty() && map->info.type != BPF_MAP_TYPE_BLOOM_FILTER) {
    fmt::print("Error: empty map\n");
  } else {
    fmt::print("key:\n{}\n\nNot found\n", hex_text(*key));
  }
  return Error{ENOENT, ""};  // said already, where bpftool says it
}

Result<void> lookup(Words& words, bool json) { return take_value(words, json, BPF_MAP_LOOKUP_ELEM); }
Result<void> pop(Words& words, bool json) { return take_value(words, json, BPF_MAP_LOOKUP_AND_DELETE_ELEM); }

Result<void> getnext(Words& words, bool json) {
  auto map = open_map(words);
  if (!map) return map.error();
  if (auto fine = check_walkable(*map, words); !fine) return fine;
  std::vector<uint8_t> key;
  if (words.next_is("key")) {
    auto given = key_of(words, *map);
    if (!given) return given.error();
    key = *given;
  }
  if (auto end = words.end(); !end) return end;
  std::vector<uint8_t> next(map->info.key_size);
  bpf_attr attr = element(*map, &key, nullptr);
  attr.next_key = address_of(next.data());
  if (auto found = bpf(BPF_MAP_GET_NEXT_KEY, attr, words.what()); !found) {
    if (found.error().code != ENOENT) return explained(found.error(), *map, words.what());
    return Error{ENOENT, words.what() + ": no key follows"};
  }
  if (json) {
    print_json_line(OrderedJson{{"key", key.empty() ? OrderedJson(nullptr) : hex_json(key)},
                                {"next_key", hex_json(next)}});
  } else {
    fmt::print("key:{}\nnext key:\n{}\n", key.empty() ? " None" : "\n" + hex_text(key), hex_text(next));
  }
  return {};
}

// The value to store: bytes, or for maps of objects the object, whose descriptor it is. `held` keeps it open.
Result<std::vector<uint8_t>> value_of(Words& words, const OpenMap& map, Fd& held) {
  if (!words.take("value")) return words.wrong("value");
  const bool programs = map.info.type == BPF_MAP_TYPE_PROG_ARRAY;
  if (programs || map.of_maps()) {
    auto object = select_one(programs ? ObjectType::kProgram : ObjectType::kMap, words);
    if (!object) return object.error();
    held = std::move(object->fd);
    const uint32_t fd = static_cast<uint32_t>(held.get());
    const Bytes bytes = as_bytes(fd);
    return std::vector<uint8_t>(bytes.begin(), bytes.end());
  }
  auto one = words.bytes("the value", map.info.value_size);
  if (!one || !map.per_cpu()) return one;
  // The same for every CPU, each padded to 8 bytes.
  std::vector<uint8_t> all(map.user_value_size());
  const size_t stride = all.size() / possible_cpus();
  for (uint32_t cpu = 0; cpu < possible_cpus(); ++cpu)
    std::copy(one->begin(), one->end(), all.begin() + static_cast<ptrdiff_t>(cpu * stride));
  return all;
}

// update, push and enqueue.
Result<void> update(Words& words, bool json) {
  auto map = open_map(words);
  if (!map) return map.error();
  std::vector<uint8_t> key;
  if (map->info.key_size != 0 || words.next_is("key")) {
    auto given = key_of(words, *map);
    if (!given) return given.error();
    key = *given;
  }
  Fd held;
  auto value = value_of(words, *map, held);
  if (!value) return value.error();
  bpf_attr attr = element(*map, &key, &*value);
  attr.flags = words.take("noexist") ? BPF_NOEXIST : words.take("exist") ? BPF_EXIST : BPF_ANY;
  if (attr.flags == BPF_ANY) words.take("any");
  if (auto end = words.end(); !end) return end;
  if (auto done = bpf(BPF_MAP_UPDATE_ELEM, attr, words.what()); !done)
    return explained(done.error(), *map, words.what());
  print_done(json);
  return {};
}

Result<void> erase(Words& words, bool json) {
  auto map = open_map(words);
  if (!map) return map.error();
  auto key = key_of(words, *map);
  if (!key) return key.error();
  if (auto end = words.end(); !end) return end;
  if (auto done = bpf(BPF_MAP_DELETE_ELEM, element(*map, &*key, nullptr), words.what()); !done)
    return explained(done.error(), *map, words.what());
  print_done(json);
  return {};
}

// ---- the map itself ----

Result<void> read_create_option(Words& words, bpf_attr& attr, Fd& inner) {
  if (words.take("type")) {
    auto word = words.next("a type");
    if (!word) return word.error();
    auto type = map_type_of(*word);
    if (!type) return type.error();
    attr.map_type = *type;
    return {};
  }
  if (words.take("name")) {
    auto name = words.next("a name");
    if (!name) return name.error();
    std::strncpy(attr.map_name, name->c_str(), sizeof attr.map_name - 1);
    return {};
  }
  if (words.take("inner_map")) {
    auto map = select_one(ObjectType::kMap, words);
    if (!map) return map.error();
    inner = std::move(map->fd);
    attr.inner_map_fd = static_cast<uint32_t>(inner.get());
    return {};
  }
  const std::pair<const char*, uint32_t*> numbers[] = {{"key", &attr.key_size},
                                                       {"value", &attr.value_size},
                                                       {"entries", &attr.max_entries},
                                                       {"flags", &attr.map_flags}};
  for (const auto& [word, field] : numbers) {
    if (!words.take(word)) continue;
    auto value = words.number("a number", UINT32_MAX);
    if (!value) return value.error();
    *field = static_cast<uint32_t>(*value);
    return {};
  }
  return words.wrong("type, key, value, entries, name, flags or inner_map");
}

Result<void> create(Words& words, bool json) {
  auto path = words.next("a path below /sys/fs/bpf");
  if (!path) return path.error();
  bpf_attr attr{};
  Fd inner;
  while (!words.done())
    if (auto read = read_create_option(words, attr, inner); !read) return read;
  if (attr.map_type == BPF_MAP_TYPE_UNSPEC) return words.wrong("type TYPE");
  auto fd = bpf(BPF_MAP_CREATE, attr, words.what());
  if (!fd) return fd.error();
  // Its name is what keeps it once we have ended.
  if (auto done = pin(Fd(static_cast<int>(*fd)), *path, words.what()); !done) return done;
  print_done(json);
  return {};
}

Result<void> pin_map(Words& words, bool json) {
  auto map = select_one(ObjectType::kMap, words);
  if (!map) return map.error();
  auto path = words.next("a path below /sys/fs/bpf");
  if (!path) return path.error();
  if (auto end = words.end(); !end) return end;
  if (auto done = pin(map->fd, *path, words.what()); !done) return done;
  print_done(json);
  return {};
}

Result<void> freeze(Words& words, bool json) {
  auto map = select_one(ObjectType::kMap, words);
  if (!map) return map.error();
  if (auto end = words.end(); !end) return end;
  bpf_attr attr{};
  attr.map_fd = static_cast<uint32_t>(map->fd.get());
  if (auto done = bpf(BPF_MAP_FREEZE, attr, words.what()); !done) return done.error();
  print_done(json);
  return {};
}

Result<void> event_pipe(Words& words, bool json) {
  auto map = open_map(words);
  if (!map) return map.error();
  if (map->info.type != BPF_MAP_TYPE_PERF_EVENT_ARRAY)
    return Error{EINVAL, words.what() + ": a " + map_type_word(map->info.type) + " is no perf_event_array"};
  PipeOptions options{.json = json};
  while (!words.done()) {
    const bool cpu = words.take("cpu");
    if (!cpu && !words.take("index")) return words.wrong("cpu N or index M");
    auto value = words.number("a number", INT32_MAX);
    if (!value) return value.error();
    (cpu ? options.cpu : options.index) = static_cast<int32_t>(*value);
  }
  if ((options.cpu < 0) != (options.index < 0)) return words.wrong("cpu and index together");
  return pipe_events(map->fd, map->info.max_entries, options);
}

}  // namespace

void add_map(CLI::App& app, CommandLine& line) {
  add_object_verb(
      app, line, "map", "Maps: show, create, dump, read and change entries",
      {{"show", "[MAP]", "Show all, or those named", show},
       {"list", "[MAP]", "The same as show", show},
       {"create",
        "FILE type TYPE key KEY_SIZE value VALUE_SIZE entries MAX_ENTRIES name NAME [flags FLAGS] [inner_map "
        "MAP]",
        "Make one, kept under a name below /sys/fs/bpf", create},
       {"dump", "MAP", "Print all entries", dump},
       {"update", "MAP [key DATA] value VALUE [any|exist|noexist]", "Store an entry", update},
       {"lookup", "MAP [key DATA]", "Print one entry", lookup},
       {"getnext", "MAP [key DATA]", "Print the key that follows", getnext},
       {"delete", "MAP key DATA", "Remove an entry", erase},
       {"pin", "MAP FILE", "Keep it under a name below /sys/fs/bpf", pin_map},
       {"event_pipe", "MAP [cpu N index M]", "Print what programs send through a perf_event_array",
        event_pipe},
       {"peek", "MAP", "Print the next value of a queue or stack", lookup},
       {"push", "MAP value VALUE", "Put a value on a stack", update},
       {"pop", "MAP", "Print and remove the next value of a stack", pop},
       {"enqueue", "MAP value VALUE", "Put a value into a queue", update},
       {"dequeue", "MAP", "Print and remove the next value of a queue", pop},
       {"freeze", "MAP", "Allow no more changes through descriptors", freeze}},
      "  bpftime map show\n"
      "  bpftime map dump name calls\n"
      "  bpftime map update id 2 key 1 0 0 0 value hex ff 00 00 00 noexist\n"
      "  bpftime map lookup id 2 key 1 0 0 0\n"
      "  bpftime map getnext id 2              the first key\n"
      "  bpftime map delete id 2 key hex 01 00 00 00\n"
      "  bpftime map create /sys/fs/bpf/mine type hash key 4 value 8 entries 64 name mine\n"
      "  bpftime map pin name calls /sys/fs/bpf/calls\n"
      "  bpftime map freeze pinned /sys/fs/bpf/calls\n"
      "  bpftime map event_pipe name events\n"
      "  bpftime map enqueue name jobs value 7 0 0 0\n"
      "  bpftime map dequeue name jobs\n"
      "  bpftime map push name undo value 7 0 0 0\n"
      "  bpftime map pop name undo\n"
      "  bpftime map peek name undo\n"
      "MAP is [id] NUMBER, name NAME or pinned FILE. DATA is [hex] BYTES, as many as the key or value has.\n"
      "VALUE is DATA, in maps of maps a MAP, in a prog_array a PROG.\n");
}

}  // namespace bpftime::cli
