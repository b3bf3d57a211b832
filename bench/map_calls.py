#!/usr/bin/env python3
"""Map operations of loaders: build/…/bin/map_calls by turns as it is (the kernel answers) and under `bpftime load`.

    map_calls.py BIN_DIRECTORY JSON [ROUNDS]

Prints a table of medians, ns per operation; asserts nothing.
"""
import json
import os
import statistics
import subprocess
import sys
import tempfile


def once(command):
    """{operation: ns}, or why there is none."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        return (done.stderr.strip().splitlines() or ["failed"])[-1]
    return {name: float(ns) for name, ns in (line.split("\t") for line in done.stdout.splitlines())}


def spread(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "values": values}


def main(binaries, path, rounds=15):
    program = f"{binaries}/map_calls"
    variants = {"kernel": [program], "ours": [f"{binaries}/bpftime", "load", program]}
    taken = {name: {} for name in variants}
    with tempfile.TemporaryDirectory(prefix="bpftime-bench.") as runtime:
        os.environ["BPFTIME_RUNTIME_DIR"] = runtime
        try:
            for turn in range(int(rounds)):
                for name in sorted(variants, reverse=turn % 2 == 1):
                    answer = once(variants[name])
                    if isinstance(answer, str):
                        if name == "ours" or turn > 0:
                            sys.exit(f"error: map_calls.py: {name}: {answer}")
                        print(f"The kernel is not measured: {answer}")
                        variants = {"ours": variants["ours"]}
                        break
                    for operation, ns in answer.items():
                        taken[name].setdefault(operation, []).append(ns)
        finally:
            subprocess.run([f"{binaries}/bpftime", "daemon", "stop"], capture_output=True)
    print(f"\nMap operations called by loaders, ns each: median (min–max) of {rounds} interleaved rounds.\n")
    print(f"| {'operation':<38} | {'ours':<22} | {'kernel':<22} | kernel/ours |\n|---|---|---|---|")
    report = []
    for operation, values in taken["ours"].items():
        ours, theirs = spread(values), spread(taken["kernel"][operation]) if operation in taken["kernel"] else None
        text = lambda s: f"{s['median']:.1f} ({s['min']:.1f}–{s['max']:.1f})" if s else "–"
        ratio = f"{theirs['median'] / ours['median']:.1f}" if theirs else "–"
        print(f"| {operation:<38} | {text(ours):<22} | {text(theirs):<22} | {ratio:<11} |")
        report.append({"what": operation, "ours": ours, "kernel": theirs})
    with open(path, "w") as file:
        json.dump({"operations": report}, file, indent=2)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    main(*sys.argv[1:])
