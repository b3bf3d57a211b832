// bpftime link show|pin|detach, in the words and columns of bpftool.
#include <fmt/core.h>

#include "cli/connection.h"
#include "cli/exit_codes.h"
#include "cli/object_verbs.h"
#include "cli/printers.h"
#include "cli/trace_stream.h"

namespace bpftime::cli {
namespace {

// What bpf(2) does not tell: where a link's event lies. Null when the daemon has nothing to say.
Json place_of(uint32_t id) {
  auto answer = ask_daemon(Json{{"command", "show"}, {"object", "link"}, {"id", id}});
  if (!answer || !answer->contains("links") || (*answer)["links"].empty()) return nullptr;
  return (*answer)["links"][0];
}

OrderedJson link_json(const LinkInfo& link, const Json& place) {
  OrderedJson out{
      {"id", link.info.id}, {"type", link_type_word(link.info.type)}, {"prog_id", link.info.prog_id}};
  if (link.info.type == BPF_LINK_TYPE_RAW_TRACEPOINT) {
    out["tp_name"] = link.tracepoint;
    return out;
  }
  if (!place.is_object()) return out;
  // Keys that bpftool has had since version 7.4.
  const uint64_t offset = place.value("offset", uint64_t{0});
  const bool probe = offset != 0;
  if (probe) out["retprobe"] = place.value("retprobe", false);
  out["file"] = place.value("path", "");
  if (probe) out["offset"] = offset;
  out["cookie"] = place.value("cookie", uint64_t{0});
  if (place.value("pid", -1) > 0) out["pid"] = place.value("pid", -1);
  out["enabled"] = place.value("enabled", true);
  return out;
}

void print_link(const OrderedJson& link) {
  std::string text = fmt::format("{}: {}  prog {}  ", link["id"].get<uint32_t>(),
                                 link["type"].get<std::string>(), link["prog_id"].get<uint32_t>());
  if (link.contains("tp_name")) text += "\n\ttp '" + printable(link["tp_name"].get<std::string>()) + "'  ";
  if (link.contains("file")) {
    const std::string file = printable(link["file"].get<std::string>());
    text += link.contains("offset")
                ? fmt::format("\n\t{} {}+{:#x}  ", link["retprobe"].get<bool>() ? "uretprobe" : "uprobe",
                              file, link["offset"].get<uint64_t>())
                : "\n\tevent " + file + "  ";
    if (const auto cookie = link["cookie"].get<uint64_t>(); cookie != 0)
      text += fmt::format("cookie {}  ", cookie);
    if (link.contains("pid")) text += fmt::format("pid {}  ", link["pid"].get<int>());
    if (!link["enabled"].get<bool>()) text += "disabled  ";
  }
  fmt::print("{}\n", text);
}

Result<void> show(Words& words, bool json) {
  const bool all = words.done();
  auto found = all ? select_all(ObjectType::kLink) : select(ObjectType::kLink, words);
  if (!found) return found.error();
  if (auto end = words.end(); !end) return end;
  OrderedJson list = OrderedJson::array();
  for (const Selected& each : *found) {
    auto link = link_info(each.fd);
    if (!link) return link.error();
    list.push_back(link_json(*link, place_of(link->info.id)));
    if (!json) print_link(list.back());
  }
  if (json) print_json_line(all ? list : list[0]);
  return {};
}

Result<void> pin_link(Words& words, bool json) {
  auto link = select_one(ObjectType::kLink, words);
  if (!link) return link.error();
  auto path = words.next("a path below /sys/fs/bpf");
  if (!path) return path.error();
  if (auto end = words.end(); !end) return end;
  if (auto done = pin(link->fd, *path, words.what()); !done) return done;
  print_done(json);
  return {};
}

Result<void> detach(Words& words, bool json) {
  auto link = select_one(ObjectType::kLink, words);
  if (!link) return link.error();
  if (auto end = words.end(); !end) return end;
  bpf_attr attr{};
  attr.link_detach.link_fd = static_cast<uint32_t>(link->fd.get());
  if (auto done = bpf(BPF_LINK_DETACH, attr, "link detach: " + std::to_string(link->id)); !done) {
    const bool perf = done.error().code == EOPNOTSUPP;
    return Error{
        done.error().code,
        done.error().message + (perf ? "; perf event links end with their last descriptor or pin" : "")};
  }
  print_done(json);
  return {};
}

}  // namespace

void add_link(CLI::App& app, CommandLine& line) {
  add_object_verb(app, line, "link", "Links: show, pin, detach",
                  {{"show", "[LINK]", "Show all, or one", show},
                   {"list", "[LINK]", "The same as show", show},
                   {"pin", "LINK FILE", "Keep it under a name below /sys/fs/bpf", pin_link},
                   {"detach", "LINK", "End it although descriptors are open", detach}},
                  "  bpftime link show\n"
                  "  bpftime link pin id 1 /sys/fs/bpf/mine\n"
                  "  bpftime link detach id 1\n"
                  "LINK is [id] NUMBER or pinned FILE.\n");
}

}  // namespace bpftime::cli
