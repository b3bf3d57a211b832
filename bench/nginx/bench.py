#!/usr/bin/python3
"""The firewall in different hands, side by side: same rules, same nginx, one interleaved run (`make bench-nginx`).

bench.py --out DIR --peers DIR --bpftime COMMAND --step-count PROGRAM [--rounds N] [--seconds S] [--filters a,b,…]
         [--no-callgrind] [--json FILE] [--svg FILE] [--commit TEXT]

Measured per request, of the one worker:
  instructions  in user space, by callgrind: two runs of different length, subtracted, so that start, connection and idling
                cancel out. Code patched in from outside is not in the copy that valgrind runs: for that, by single steps
                of the processor in the real process (step_count.c), and for no filter and the C module too, as a control
  CPU time      user and system, by the worker's own clock, under wrk; rounds interleaved in random order. Compared with "none"
                of the same round: what the machine does to one it does to the others
  requests/s    wrk's; shown, not judged: client and server share the machine
"""
import argparse
import json
import os
import pathlib
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "example/nginx_firewall"))
from client import TARGETS  # noqa: E402
from filters import FILTERS  # noqa: E402
from nginx import BINARY, Failure, Server, end_process  # noqa: E402
from plot import write_svg  # noqa: E402

LABELS = {
    "none": "no filter",
    "module": "C module",
    "observe": "eBPF, ours, observing",
    "extension": "eBPF, ours",
    "lua": "Lua",
    "njs": "njs",
    "wasm": "wasm2c in a module",
}
ORDER = ["none", "module", "extension", "observe", "wasm", "lua", "njs"]
WARM_UP = 4000  # requests; scripts get compiled meanwhile
STEPPED = (8, 24)  # requests; multiples of the number of targets
BY_STEPS = ("none", "module", "observe", "extension")
PATCHED = ("observe", "extension")
# Steps are slow: nginx would find another second in its clock at each event, and write the date anew. So it looks at the
# clock only when a timer asks, which is never.
NO_CLOCK = "timer_resolution 1000000s;"
UNDER_VALGRIND = (200, 1000)
CLOCK_OF_PROCESS = 2  # CPUCLOCK_SCHED, clock_getcpuclockid(3)


def progress(text):
    print(text, file=sys.stderr, flush=True)


def cpu_ns(pid):
    """User and system time of a process."""
    return time.clock_gettime_ns((~pid) << 3 | CLOCK_OF_PROCESS)


def ask(port, requests):
    subprocess.run(["/usr/bin/python3", "-B", HERE / "client.py", str(port), str(requests)], check=True)


def stepped(name, options, directory):
    """Instructions per request."""
    filter_ = make(name, options)
    where = directory / f"stepped-{name}"
    where.mkdir()
    where.chmod(0o755)
    try:
        filter_.start(where, workers=1, access_log=False, main=NO_CLOCK)
        worker, port = filter_.server.workers()[0], filter_.server.port
        ask(port, WARM_UP)
        counts = [int(subprocess.run([options.step_count, str(worker), "/usr/bin/python3", "-B", HERE / "client.py", str(port),
                                      str(requests)], check=True, stdout=subprocess.PIPE).stdout) for requests in STEPPED]
    finally:
        filter_.stop()
    return (counts[1] - counts[0]) / (STEPPED[1] - STEPPED[0])


def callgrind(name, options, directory):
    """Instructions per request, or None with the reason."""
    filter_ = make(name, options)
    if name in PATCHED:
        return None, "valgrind runs a copy of the program; what is patched into the process is not in it"
    totals = []
    for requests in UNDER_VALGRIND:
        where = directory / f"callgrind-{name}-{requests}"
        where.mkdir()
        where.chmod(0o755)
        filter_.prepare(where)
        settings = filter_.settings()
        before = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={where}/out", "--smc-check=all"]
        server = Server(where, master=False, access_log=False, main=NO_CLOCK, before=before, **settings)
        try:
            server.start(60)
            ask(server.port, requests)
            end_process(server.process)
            found = re.search(r"^(?:summary|totals): (\d+)", (where / "out").read_text(), re.MULTILINE)
            if not found:
                return None, "callgrind wrote no total"
            totals.append(int(found.group(1)))
        except (Failure, OSError, subprocess.CalledProcessError) as failure:
            return None, f"does not run under valgrind: {str(failure).splitlines()[0]}"
        finally:
            server.stop()
    return (totals[1] - totals[0]) / (UNDER_VALGRIND[1] - UNDER_VALGRIND[0]), None


def make(name, options):
    return FILTERS[name](options.out, options.peers, options.bpftime)


def write_wrk_script(path):
    """wrk asks for the same targets as client.py."""
    targets = ", ".join(json.dumps(target) for target in TARGETS)
    path.write_text(f"local targets = {{{targets}}}\nlocal n = 0\n"
                    "request = function()\n  n = n % #targets + 1\n  return wrk.format('GET', targets[n])\nend\n")


def one_round(filter_, script, seconds):
    """(CPU ns per request, requests per second)."""
    worker = filter_.server.workers()[0]
    before, began = cpu_ns(worker), time.monotonic()
    done = subprocess.run(["wrk", "-t1", "-c16", f"-d{seconds}s", "-s", script, filter_.server.url()], check=True,
                          stdout=subprocess.PIPE)
    used, took = cpu_ns(worker) - before, time.monotonic() - began
    text = done.stdout.decode()
    if "Non-2xx" in text or "Socket errors" in text:
        raise Failure(f"{filter_.name}: {text}")
    requests = int(re.search(r"(\d+) requests in", text).group(1))
    return used / requests, requests / took


def spread(values):
    """Median and quartiles."""
    if len(values) < 2:
        return {"median": values[0], "low": values[0], "high": values[0]}
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": middle, "low": low, "high": high}


def measure(options, directory):
    running, skipped = {}, {}
    for name in options.filters:
        filter_ = make(name, options)
        lacks = filter_.lacks()
        if lacks:
            skipped[name] = f"needs {lacks}"
            progress(f"      {name}: SKIPPED: needs {lacks}")
            continue
        where = directory / name
        where.mkdir()
        where.chmod(0o755)
        running[name] = filter_
        filter_.start(where, workers=1, access_log=False)
    results = {name: {"label": LABELS[name], "cpu_ns": [], "requests_per_s": []} for name in running}
    try:
        progress(f"==> {len(running)} servers; warming up")
        for filter_ in running.values():
            ask(filter_.server.port, WARM_UP)
        script = directory / "targets.lua"
        write_wrk_script(script)
        for number in range(1, options.rounds + 1):
            names = list(running)
            random.shuffle(names)
            for name in names:
                cpu, rate = one_round(running[name], script, options.seconds)
                results[name]["cpu_ns"].append(cpu)
                results[name]["requests_per_s"].append(rate)
            progress(f"      round {number} of {options.rounds}")
    finally:
        for filter_ in running.values():
            filter_.stop()
    if options.callgrind:
        progress("==> instructions per request, by callgrind")
        for name in results:
            results[name]["callgrind"], why = callgrind(name, options, directory)
            if why:
                results[name]["callgrind_missing"] = why
            progress(f"      {name}: {why or round(results[name]['callgrind'])}")
    progress("==> instructions per request, by single steps (slow)")
    for name in results:
        if not options.callgrind or name in BY_STEPS or results[name]["callgrind"] is None:
            results[name]["stepped"] = stepped(name, options, directory)
            progress(f"      {name}: {results[name]['stepped']:.0f}")
    return results, skipped


def compare(results):
    """Adds what each costs more than no filter: CPU by pairs of the same round."""
    base = results["none"]
    for result in results.values():
        result["cpu_us"] = spread([value / 1000 for value in result["cpu_ns"]])
        result["rate"] = spread(result["requests_per_s"])
        how = "callgrind" if result.get("callgrind") is not None and base.get("callgrind") is not None else "stepped"
        result["added_instructions"], result["counted_by"] = result[how] - base[how], how
        result["added_cpu_percent"] = spread([100 * (mine / bare - 1) for mine, bare in zip(result["cpu_ns"], base["cpu_ns"])])


def bare_instructions(results):
    return results["none"].get("callgrind") or results["none"]["stepped"]


def print_table(results):
    base = bare_instructions(results)
    count = lambda result, how: f"{result[how]:.0f}" if result.get(how) is not None else "-"
    print(f"{'per request':28}{'callgrind':>10}{'steps':>8}{'added':>8}{'':>8}{'CPU us':>9}{'(quartiles)':>16}"
          f"{'added CPU (quartiles)':>26}{'requests/s':>12}{'(quartiles)':>16}")
    for result in results.values():
        cpu, added, rate = result["cpu_us"], result["added_cpu_percent"], result["rate"]
        cpu_range, rate_range = f"{cpu['low']:.2f}..{cpu['high']:.2f}", f"{rate['low']:.0f}..{rate['high']:.0f}"
        added_text = f"{added['median']:+.1f}% ({added['low']:+.1f}..{added['high']:+.1f})"
        print(f"{result['label']:28}{count(result, 'callgrind'):>10}{count(result, 'stepped'):>8}"
              f"{result['added_instructions']:8.0f}{100 * result['added_instructions'] / base:7.2f}%"
              f"{cpu['median']:9.2f}{cpu_range:>16}{added_text:>26}{rate['median']:12.0f}{rate_range:>16}")


def print_aims(results):
    """What is aimed at, and whether it is reached: said, never asserted."""
    ours = results.get("extension") or results.get("observe")
    if ours is None:
        return
    base, added = bare_instructions(results), ours["added_instructions"]
    says = lambda holds: "reached" if holds else "NOT reached"
    print(f"aims, for \"{ours['label']}\", by instructions:")
    print(f"  at most 1 % over no filter:           {100 * added / base:.2f} %: {says(added <= base / 100)}")
    if "module" in results:
        module = results["module"]["added_instructions"]
        over = 100 * ((base + added) / (base + module) - 1)
        print(f"  within 0.5 % of the C module:         {over:+.2f} %: {says(over <= 0.5)}")
    others = {name: results[name]["added_instructions"] for name in ("lua", "njs", "wasm") if name in results}
    if others:
        best = min(others, key=others.get)
        print(f"  ten times less added than the best of the others ({best}): {others[best] / added:.1f} times: "
              f"{says(others[best] >= 10 * added)}")


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--out", required=True)
    parser.add_argument("--peers")
    parser.add_argument("--bpftime")
    parser.add_argument("--step-count", required=True)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--filters", type=lambda text: text.split(","), default=ORDER)
    parser.add_argument("--no-callgrind", dest="callgrind", action="store_false")
    parser.add_argument("--json")
    parser.add_argument("--svg")
    parser.add_argument("--commit", default="unknown")
    options = parser.parse_args()
    if "none" not in options.filters or not set(options.filters) <= set(ORDER):
        parser.error(f"filters are some of {','.join(ORDER)}, none among them")
    seed, load = time.time_ns() % 1000000, os.getloadavg()[0]
    began = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    random.seed(seed)
    progress(f"==> bench-nginx, {options.rounds} rounds of {options.seconds} s each, seed {seed}")
    with tempfile.TemporaryDirectory(prefix="bench-nginx-") as directory:
        pathlib.Path(directory).chmod(0o755)
        results, skipped = measure(options, pathlib.Path(directory))
    compare(results)
    print(f"{os.cpu_count()} CPUs, Linux {os.uname().release}, {began}, commit {options.commit}, load before the run {load:.1f}, "
          f"{options.rounds} rounds of {options.seconds} s")
    print_table(results)
    for name, why in skipped.items():
        print(f"{LABELS[name]:28}SKIPPED: {why}")
    print_aims(results)
    version = subprocess.run([BINARY, "-v"], stderr=subprocess.PIPE, check=True).stderr.decode().strip()
    report = {"when": began, "load": load, "commit": options.commit, "kernel": os.uname().release, "nginx": version, "cpus": os.cpu_count(),
              "rounds": options.rounds, "seconds": options.seconds, "seed": seed, "filters": results, "skipped": skipped}
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(report, indent=2) + "\n")
    if options.svg:
        write_svg(options.svg, report)


if __name__ == "__main__":
    main()
