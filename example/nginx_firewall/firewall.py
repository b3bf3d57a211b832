#!/usr/bin/python3
"""Runs nginx behind each filter and checks what it does: what must be blocked is, what must pass does, the counters are exact,
other rules take effect.

firewall.py [--out DIR] [--peers DIR] [--bpftime COMMAND] [FILTER…]      filters: none module observe extension lua njs wasm
                                                                         classes: the policy's other two, by `bpftime extend`

Without FILTER: none, module, observe. A filter that lacks something is skipped, and said to be; exit status 77 when all are.
"""
import argparse
import collections
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

import rules
from filters import FILTERS, rule_numbers
from nginx import HERE, Failure, require


def say(text):
    print(f"      {text}", flush=True)


def expected_status(filter_, status):
    return status if filter_.blocks else 200


def check_requests(filter_, requests):
    """Each request of the corpus and two that are too long; returns the verdicts to be expected."""
    server, numbers = filter_.server, rule_numbers()
    too_long = ["/" + "x" * 512, "/?" + "x" * 1025]
    longest = ["/" + "x" * 511, "/?" + "x" * 1024]
    asked = [*requests, *((403, "too-long", target) for target in too_long), *((200, None, target) for target in longest)]
    got = server.statuses([target for _, _, target in asked])
    require(len(got) == len(asked), f"{len(asked)} requests, {len(got)} answers")
    for (status, rule, target), answer in zip(asked, got):
        require(answer == expected_status(filter_, status),
                f"{target} ({rule or 'no rule'}): answered {answer}, not {expected_status(filter_, status)}")
    blocked = sum(status == 403 for status, _, _ in asked)
    say(f"{len(asked)} requests, {blocked} of them malicious: "
        + (f"{blocked} blocked, the others served" if filter_.blocks else "all served, none blocked"))
    return collections.Counter(numbers[rule] for _, rule, _ in asked if rule)


def check_connections(filter_):
    """A refused client keeps its connection where a served one does, and loses it where a served one does. The verdicts."""
    target = "/admin"
    kept, lost = [1, 0], [1, 1]
    cases = ((), kept), (("-d", "body"), kept), (("-H", "Connection: close"), lost), (("--http1.0",), lost)
    for options, connections in cases:
        got = filter_.server.connections([target, target], *options)
        expected = [(expected_status(filter_, 403), made) for made in connections]
        if options[:1] == ("-d",) and not filter_.blocks:
            expected = [(405, made) for made in connections]  # of a file
        require(got == expected, f"{target} twice {' '.join(options)}: (status, new connections) are {got}, not {expected}")
    say("a refused client keeps its connection, unless it wants to lose it")
    return collections.Counter({rule_numbers()["admin"]: 2 * len(cases)})


def check_load(filter_, good, bad):
    """wrk: what passes, and what does not."""
    served, refused = filter_.server.wrk(good)
    require(served > 100 and refused == 0, f"wrk {good}: {refused} of {served} refused")
    tried, refused = filter_.server.wrk(bad)
    require(tried > 100 and refused == (tried if filter_.blocks else 0), f"wrk {bad}: {refused} of {tried} refused")
    say(f"wrk: {served} harmless requests, none refused; {tried} malicious, {refused} refused")


def check_counts(filter_, expected, bad, bad_rule):
    """Against nginx's own access log, which knows nothing of the filter."""
    lines = filter_.server.settled_lines()
    expected = expected.copy()
    expected[bad_rule] += sum(f"GET {bad} " in line for line in filter_.server.log_lines())
    asks = isinstance(filter_, (FILTERS["module"],))  # reading the counters is a request of its own
    got = filter_.verdicts()
    passed = got.pop(0, None)
    require(got == dict(expected), f"counted {got}, expected {dict(expected)}")
    if passed is not None:
        expected_passed = lines + asks - sum(expected.values())
        require(passed == expected_passed, f"{passed} passed, expected {expected_passed}")
    say(f"counters: {sum(got.values())} by rule" + (f", {passed} passed" if passed is not None else "") +
        ": as the access log has it")


def changed_table(out):
    """The rules and one more: /secret. Its number, and the table's path."""
    changed, table = out / "changed.txt", out / "changed.table"
    text = (HERE / "rules.txt").read_text() + "prefix  secret  /secret\n"
    if not table.exists() or not changed.exists() or changed.read_text() != text:
        changed.write_text(text)
        subprocess.run(["/usr/bin/python3", HERE / "rules.py", "table", changed, table], check=True)
    return rule_numbers(changed)["secret"], table


def check_rule_change(filter_, directory):
    """Rules that are none change nothing; a rule more is effective while it serves."""
    server, target = filter_.server, "/secret/plans"
    number, table = changed_table(filter_.out)
    require(server.get(target)[0] == 200, f"{target}: refused before there is a rule")
    before, workers = filter_.verdicts(), server.workers()
    require(number not in before, "the new rule's counter is not 0")
    broken = directory / "broken.table"
    broken.write_bytes(table.read_bytes()[:-1])
    filter_.refuse_rules(broken)
    require(server.workers() == workers and server.get("/admin")[0] == expected_status(filter_, 403), "broken rules did harm")
    filter_.change_rules(table)
    status = server.get(target)[0]
    require(status == expected_status(filter_, 403), f"{target}: answered {status} after the change")
    after = filter_.verdicts()
    require(after.get(number, 0) == 1, f"the new rule's counter is {after.get(number, 0)}, not 1")
    same = server.workers() == workers
    require(same == filter_.edits, "the workers are the same or not against expectation")
    say("a broken table is refused; a rule more is effective at the next request; workers: "
        + ("the same" if same else "new ones (configuration reloaded)"))


def last_modified(server):
    done = subprocess.run(["curl", "-sI", "-m", "10", server.url("/")], stdout=subprocess.PIPE, check=True)
    found = re.search(r"^Last-Modified: (.*?)\r$", done.stdout.decode(), re.MULTILINE)
    require(found is not None, f"no Last-Modified: {done.stdout.decode()}")
    return found[1]


def run_classes(filter_, directory):
    """All of the policy's classes in a running nginx, by the command; the third one's header field is what curl gets."""
    filter_.start(directory, workers=2)
    server, expected = filter_.server, "Sun, 09 Sep 2001 01:46:40 GMT"
    before = last_modified(server)
    require(before != expected, "the page is as old as the extension says, without it")
    refused = filter_.bpftime_run("eim", "check", str(filter_.out / "wrong.bpf.o"), "--class", "lastModified", "--policy", filter_.policy())
    said = refused.stdout.decode()
    require(refused.returncode == 4 and "EIM002" in said and 'add "write(r.headers_out.status)" to class "lastModified"' in said,
            f"another header field could be set: {said}")
    say("setting another field is refused at load, with the line that would allow it")
    filter_.extend()
    for _ in range(20):
        got = last_modified(server)
        require(got == expected, f"Last-Modified: {got}, expected {expected}")
    filter_.end_extend("set_last_modified 20")
    require("count_bytes 20" in filter_.said.read_text(), f"hits of the class that observes: {filter_.said.read_text()}")
    require(last_modified(server) == before, "the extension is still there")
    say(f"20 answers with Last-Modified: {expected}; 20 requests observed; without the extension {before} again")


WHAT = {
    "none": "nginx alone, to compare with",
    "module": "the firewall as a native C module",
    "observe": "the firewall as eBPF that only observes: it counts, and cannot block",
    "extension": "the firewall as eBPF that may block, because a policy says so",
    "classes": "the policy's other classes, in a running nginx: each may do what it is granted",
    "lua": "the firewall as a Lua script",
    "njs": "the firewall as a JavaScript",
    "wasm": "the firewall's C as WebAssembly, in a module",
}


def run(filter_, directory, requests):
    if isinstance(filter_, FILTERS["classes"]):
        return run_classes(filter_, directory)

    server = filter_.start(directory, workers=2)
    workers = server.workers()
    expected = check_requests(filter_, requests)
    bad, bad_rule = "/search?q=1+UNION+SELECT+password&n=1", rule_numbers()["union-select"]
    expected += check_connections(filter_)
    check_load(filter_, "/products/42?color=red&size=xl&sort=price", bad)
    if filter_.counts:
        check_counts(filter_, expected, bad, bad_rule)
    require(server.workers() == workers, f"a worker died: {server.last_words()}")
    if filter_.edits is not None:
        check_rule_change(filter_, directory)


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--out", default=os.environ.get("OUT", HERE / ".output"))
    parser.add_argument("--peers")
    parser.add_argument("--bpftime", default=shutil.which("bpftime"))
    parser.add_argument("filters", nargs="*", metavar="FILTER")
    options = parser.parse_args()
    for name in options.filters:
        if name not in FILTERS:
            parser.error(f"{name}: no such filter")
    requests = list(rules.read_requests(HERE / "requests.txt"))
    ran = failed = 0
    began = time.monotonic()
    for name in options.filters or ["none", "module", "observe"]:
        filter_ = FILTERS[name](options.out, options.peers, options.bpftime)
        print(f"==> {name}: {WHAT[name]}", flush=True)
        lacks = filter_.lacks()
        if lacks:
            say(f"SKIPPED: needs {lacks}")
            continue
        ran += 1
        with tempfile.TemporaryDirectory(prefix="firewall-") as directory:
            pathlib.Path(directory).chmod(0o755)  # workers are www-data
            try:
                run(filter_, pathlib.Path(directory), requests)
            except Failure as failure:
                failed += 1
                print(f"error: {name}: {failure}", file=sys.stderr)
            finally:
                filter_.stop()
    if failed == 0 and ran:
        print(f"==> done: {ran} filters, all as they should be ({time.monotonic() - began:.0f} s)")
    return 1 if failed else 0 if ran else 77


if __name__ == "__main__":
    sys.exit(main())
