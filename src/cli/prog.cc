// bpftime prog show|dump|pin|run, in the words and columns of bpftool.
#include <fmt/core.h>

#include <cstdio>
#include <ctime>
#include <fstream>
#include <iterator>

#include "base/memfd.h"
#include "cli/connection.h"
#include "cli/exit_codes.h"
#include "cli/object_verbs.h"
#include "cli/program_text.h"
#include "cli/trace_stream.h"

namespace bpftime::cli {
namespace {

constexpr size_t kRunBytesMax = 1u << 20;  // of data and context

std::string tag_text(const bpf_prog_info& info) {
  std::string out;
  for (const uint8_t byte : info.tag) out += fmt::format("{:02x}", byte);
  return out;
}

// Seconds since 1970 of a time on the boot clock.
int64_t wall_time(uint64_t load_time_ns) {
  timespec boot{}, real{};
  ::clock_gettime(CLOCK_BOOTTIME, &boot);
  ::clock_gettime(CLOCK_REALTIME, &real);
  constexpr int64_t kSecond = 1'000'000'000;
  const int64_t since = (real.tv_sec - boot.tv_sec) * kSecond + (real.tv_nsec - boot.tv_nsec);
  return (since + static_cast<int64_t>(load_time_ns)) / kSecond;
}

std::string date_text(int64_t seconds) {
  const time_t time = seconds;
  tm parts{};
  char text[64];
  ::localtime_r(&time, &parts);
  return std::strftime(text, sizeof text, "%FT%T%z", &parts) != 0 ? std::string(text)
                                                                  : std::to_string(seconds);
}

// What only our daemon knows: by whom it was verified, in which class it is. Null when it does not say.
Json ours(uint32_t id) {
  auto answer = ask_daemon(Json{{"command", "show"}, {"object", "prog"}, {"id", id}});
  if (!answer || !answer->contains("programs") || (*answer)["programs"].empty()) return nullptr;
  return (*answer)["programs"][0];
}

// As Linux counts it: the pages that hold its instructions.
uint64_t memory_of(const bpf_prog_info& info) { return round_up(info.xlated_prog_len, kPageSize); }

OrderedJson program_json(const ProgramInfo& program) {
  const bpf_prog_info& info = program.info;
  OrderedJson out{{"id", info.id}, {"type", program_type_word(info.type)}};
  if (info.name[0] != 0) out["name"] = name_text(info.name);
  out["tag"] = tag_text(info);
  out["gpl_compatible"] = info.gpl_compatible != 0;
  // Theirs tells the count only with the time. Extensions have a count without (Prog::runs).
  if (info.run_time_ns != 0) out["run_time_ns"] = info.run_time_ns;
  if (info.run_cnt != 0) out["run_cnt"] = info.run_cnt;
  if (info.recursion_misses != 0) out["recursion_misses"] = info.recursion_misses;
  if (info.load_time != 0) {
    out["loaded_at"] = wall_time(info.load_time);
    out["uid"] = info.created_by_uid;
  }
  out["bytes_xlated"] = info.xlated_prog_len;
  out["jited"] = info.jited_prog_len != 0;
  if (info.jited_prog_len != 0) out["bytes_jited"] = info.jited_prog_len;
  out["bytes_memlock"] = memory_of(info);
  if (!program.map_ids.empty()) out["map_ids"] = program.map_ids;
  if (info.btf_id != 0) out["btf_id"] = info.btf_id;
  const Json more = ours(info.id);
  if (more.is_object()) {
    if (more.contains("verified_by")) out["verified_by"] = more["verified_by"].get<std::string>();
    if (more.contains("class")) out["class"] = more["class"].get<std::string>();
  }
  return out;
}

void print_program(const ProgramInfo& program, const OrderedJson& json) {
  const bpf_prog_info& info = program.info;
  std::string text = fmt::format("{}: {}  ", info.id, program_type_word(info.type));
  if (info.name[0] != 0) text += "name " + printable(name_text(info.name)) + "  ";
  text += "tag " + tag_text(info) + (info.gpl_compatible != 0 ? "  gpl" : "");
  if (info.run_time_ns != 0) text += fmt::format(" run_time_ns {}", info.run_time_ns);
  if (info.run_cnt != 0) text += fmt::format(" run_cnt {}", info.run_cnt);
  if (info.recursion_misses != 0) text += fmt::format(" recursion_misses {}", info.recursion_misses);
  text += "\n";
  if (info.load_time != 0)
    text += fmt::format("\tloaded_at {}  uid {}\n", date_text(json["loaded_at"].get<int64_t>()),
                        info.created_by_uid);
  text += fmt::format("\txlated {}B", info.xlated_prog_len);
  text += info.jited_prog_len != 0 ? fmt::format("  jited {}B", info.jited_prog_len) : "  not jited";
  text += fmt::format("  memlock {}B", memory_of(info));
  for (size_t i = 0; i < program.map_ids.size(); ++i)
    text += (i == 0 ? "  map_ids " : ",") + std::to_string(program.map_ids[i]);
  if (info.btf_id != 0) text += fmt::format("\n\tbtf_id {}", info.btf_id);
  if (json.contains("verified_by"))
    text += "\n\tverified_by " + printable(json["verified_by"].get<std::string>());
  if (json.contains("class")) text += "  class " + printable(json["class"].get<std::string>());
  fmt::print("{}\n", text);
}

Result<void> show(Words& words, bool json) {
  const bool all = words.done();
  auto found = all ? select_all(ObjectType::kProgram) : select(ObjectType::kProgram, words);
  if (!found) return found.error();
  if (auto end = words.end(); !end) return end;
  OrderedJson list = OrderedJson::array();
  for (const Selected& each : *found) {
    auto program = program_info(each.fd);
    if (!program) return program.error();
    list.push_back(program_json(*program));
    if (!json) print_program(*program, list.back());
  }
  if (json) print_json_line(all || list.size() > 1 ? list : list[0]);
  return {};
}

Result<void> write_file(const std::string& path, const std::vector<uint8_t>& bytes, const std::string& what) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  file.close();
  if (!file) return Error{errno != 0 ? errno : EIO, what + ": " + path + ": cannot be written"};
  return {};
}

Result<void> dump(Words& words, bool json) {
  // bpftool wants to be told; the default is what most want.
  const bool jited = words.take("jited");
  if (!jited) words.take("xlated");
  auto program = select_one(ObjectType::kProgram, words);
  if (!program) return program.error();
  DumpOptions options{.json = json};
  std::string file;
  if (words.take("file")) {
    auto path = words.next("a file");
    if (!path) return path.error();
    file = *path;
  } else {
    // In any order, together or alone.
    for (bool more = true; more;) {
      const bool opcodes = words.take("opcodes"), numbers = words.take("linum");
      options.opcodes |= opcodes;
      options.line_numbers |= numbers;
      more = opcodes || numbers;
    }
  }
  if (auto end = words.end(); !end) return end;
  auto info = program_info(program->fd);
  if (!info) return info.error();
  if (!file.empty()) {
    auto bytes = jited ? jited_bytes(program->fd, info->info) : xlated_bytes(program->fd);
    if (!bytes) return bytes.error();
    if (auto written = write_file(file, *bytes, words.what()); !written) return written;
    print_done(json);
    return {};
  }
  return jited ? dump_jited(program->fd, info->info, options) : dump_xlated(program->fd, info->info, options);
}

Result<void> pin_program(Words& words, bool json) {
  auto program = select_one(ObjectType::kProgram, words);
  if (!program) return program.error();
  auto path = words.next("a path below /sys/fs/bpf");
  if (!path) return path.error();
  if (auto end = words.end(); !end) return end;
  if (auto done = pin(program->fd, *path, words.what()); !done) return done;
  print_done(json);
  return {};
}

struct RunOptions {
  std::vector<uint8_t> data_in, context_in;
  std::string data_out, context_out;
  uint32_t data_out_size = 0, context_out_size = 0, repeat = 0;
};

Result<std::vector<uint8_t>> read_input(const std::string& path, const std::string& what) {
  std::vector<uint8_t> bytes;
  std::FILE* file = path == "-" ? stdin : std::fopen(path.c_str(), "re");
  if (file == nullptr) return Error{errno, what + ": " + path + ": " + std::strerror(errno)};
  uint8_t part[4096];
  for (size_t got; bytes.size() <= kRunBytesMax && (got = std::fread(part, 1, sizeof part, file)) > 0;)
    bytes.insert(bytes.end(), part, part + got);
  const int error = std::ferror(file) != 0 ? errno : 0;
  if (file != stdin) std::fclose(file);
  if (error != 0) return Error{error, what + ": " + path + ": " + std::strerror(error)};
  if (bytes.size() > kRunBytesMax) return Error{E2BIG, what + ": " + path + ": more than 1 MiB"};
  return bytes;
}

Result<RunOptions> run_options(Words& words) {
  RunOptions out;
  while (!words.done()) {
    auto option = words.next("an option");
    if (*option == "repeat" || *option == "data_size_out" || *option == "ctx_size_out") {
      auto value = words.number("a number", *option == "repeat" ? UINT32_MAX : kRunBytesMax);
      if (!value) return value.error();
      (*option == "repeat"          ? out.repeat
       : *option == "data_size_out" ? out.data_out_size
                                    : out.context_out_size) = static_cast<uint32_t>(*value);
      continue;
    }
    if (*option != "data_in" && *option != "ctx_in" && *option != "data_out" && *option != "ctx_out")
      return words.misread(
          *option, {"data_in", "data_out", "data_size_out", "ctx_in", "ctx_out", "ctx_size_out", "repeat"});
    auto path = words.next("a file, or - for standard input");
    if (!path) return path.error();
    if (*option == "data_out") out.data_out = *path;
    if (*option == "ctx_out") out.context_out = *path;
    if (!option->ends_with("_in")) continue;
    auto bytes = read_input(*path, words.what());
    if (!bytes) return bytes.error();
    (*option == "data_in" ? out.data_in : out.context_in) = std::move(*bytes);
  }
  return out;
}

// What a run wrote: to a file, or shown. `key`: data_out or ctx_out.
Result<void> give_output(const std::string& path, const std::vector<uint8_t>& bytes, const char* key,
                         bool json, OrderedJson& answer, const std::string& what) {
  if (!path.empty() && path != "-") return write_file(path, bytes, what);
  if (bytes.empty()) return {};
  if (json) {
    answer[key] = hex_json(bytes);
  } else {
    fmt::print("{}:\n{}\n", std::string(key) == "data_out" ? "Data" : "Context", hex_text(bytes));
  }
  return {};
}

Result<void> run_program(Words& words, bool json) {
  auto program = select_one(ObjectType::kProgram, words);
  if (!program) return program.error();
  auto options = run_options(words);
  if (!options) return options.error();
  const uint32_t slack = 4096;  // a program may make its packet longer
  std::vector<uint8_t> data_out(options->data_in.empty()      ? 0
                                : options->data_out_size != 0 ? options->data_out_size
                                                              : options->data_in.size() + slack);
  std::vector<uint8_t> context_out(
      options->context_out.empty() && options->context_out_size == 0
          ? 0
          : std::max<size_t>(options->context_out_size, options->context_in.size()));
  bpf_attr attr{};
  attr.test.prog_fd = static_cast<uint32_t>(program->fd.get());
  attr.test.repeat = options->repeat;
  const auto give = [](auto& pointer, auto& size, std::vector<uint8_t>& bytes) {
    size = static_cast<uint32_t>(bytes.size());
    if (!bytes.empty()) pointer = reinterpret_cast<uint64_t>(bytes.data());
  };
  give(attr.test.data_in, attr.test.data_size_in, options->data_in);
  give(attr.test.ctx_in, attr.test.ctx_size_in, options->context_in);
  give(attr.test.data_out, attr.test.data_size_out, data_out);
  give(attr.test.ctx_out, attr.test.ctx_size_out, context_out);
  if (auto done = bpf_in_out(BPF_PROG_TEST_RUN, attr, words.what()); !done)
    return Error{done.error().code,
                 done.error().message + "; not every type of program can be run on demand"};
  data_out.resize(std::min<size_t>(data_out.size(), attr.test.data_size_out));
  context_out.resize(std::min<size_t>(context_out.size(), attr.test.ctx_size_out));
  OrderedJson answer = OrderedJson::object();
  if (auto out = give_output(options->data_out, data_out, "data_out", json, answer, words.what()); !out)
    return out;
  if (auto out = give_output(options->context_out, context_out, "ctx_out", json, answer, words.what()); !out)
    return out;
  answer["retval"] = attr.test.retval;
  answer["duration"] = attr.test.duration;
  if (json) {
    print_json_line(answer);
  } else {
    fmt::print("Return value: {}, duration{}: {}ns\n", attr.test.retval,
               options->repeat > 1 ? " (average)" : "", attr.test.duration);
  }
  return {};
}

}  // namespace

void add_prog(CLI::App& app, CommandLine& line) {
  add_object_verb(
      app, line, "prog", "Programs: show, dump, pin, run",
      {{"show", "[PROG]", "Show all, or those named", show},
       {"list", "[PROG]", "The same as show", show},
       {"dump", "[xlated|jited] PROG [file FILE|opcodes|linum]",
        "Print its instructions, or its machine code", dump},
       {"pin", "PROG FILE", "Keep it under a name below /sys/fs/bpf", pin_program},
       {"run",
        "PROG [data_in FILE] [data_out FILE [data_size_out N]] [ctx_in FILE] [ctx_out FILE [ctx_size_out N]] "
        "[repeat N]",
        "Run it once, or N times (BPF_PROG_TEST_RUN)", run_program}},
      "  bpftime prog show\n"
      "  bpftime prog dump xlated id 3 linum\n"
      "  bpftime prog dump jited name count_calls\n"
      "  bpftime prog pin id 3 /sys/fs/bpf/mine\n"
      "  bpftime prog run id 3 ctx_in ./arguments repeat 1000\n"
      "PROG is [id] NUMBER, name NAME, tag TAG or pinned FILE.\n");
}

}  // namespace bpftime::cli
