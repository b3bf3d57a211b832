// What `bpftime extend` says while it runs: a line for each thing that changes, as text or JSON.
#pragma once

#include <cstdint>
#include <cstdio>
#include <map>
#include <set>
#include <string>

#include "cli/connection.h"

namespace bpftime::cli {

class ExtendReport {
 public:
  // `out`: stdout, or stderr when stdout is a command's.
  ExtendReport(std::FILE* out, bool json) : out_(out), json_(json) {}

  // An event of a session (extend_session.h), or one of ours with "event" and "text".
  void event(const Json& event);
  void note(const std::string& kind, const std::string& text, Json more = Json::object());
  // The programs whose fate is followed from now on.
  void follow(const Json& loaded);
  void forget_programs();
  // The daemon's answers to `list` and `show prog`: prints what is new in them.
  void look(const Json& list, const Json& programs);
  // Whether a probe of the programs followed was seen in the process, in place or skipped.
  bool knows(int pid) const;
  // Whether one was in place in a process of this lineage (the pid first attached): of what prints, only that is known.
  bool ran_in(uint64_t lineage) const { return lineages_.contains(lineage); }
  // Hits of every program followed, unless that is what was said last.
  void totals();

 private:
  struct Program {
    std::string name;
    uint64_t hits = 0, hits_told = 0;
    uint64_t broken = 0;  // promises of the host, as told last
    bool relied = false;  // on what, has been told
  };
  void line(const Json& event, const std::string& text);
  void look_at_target(const Json& target);
  void look_at_promises(Program& known, const Json& program);

  std::FILE* out_;
  bool json_;
  std::map<uint64_t, Program> programs_;  // by id
  std::string totals_told_;
  std::map<std::string, std::string> states_;  // of "pid/offset", as told last
  std::map<std::string, uint64_t> faults_;     // by pid
  std::set<uint64_t> lineages_;
};

}  // namespace bpftime::cli
