#!/usr/bin/env python3
"""Runs `bpftime verify` on every executable of a Debian package (default libbpf-tools) and prints what is not accepted.
Usage: verify_installed_tools.py BPFTIME [--package NAME] [--kernel] [FILE…]. Exit status 1 when our verdict and the kernel's
differ (with --kernel), or when something the kernel was not asked about is refused; 77 when the package is missing."""
import argparse
import collections
import json
import os
import subprocess
import sys


def executables(package):
    listing = subprocess.run(["dpkg", "-L", package], capture_output=True, text=True)
    if listing.returncode != 0:
        print(f"skipped: package {package} is not installed")
        sys.exit(77)  # CTest: skipped
    return [path for path in listing.stdout.splitlines() if "bin/" in path and os.access(path, os.X_OK) and os.path.isfile(path)]


def programs(command, path, kernel):
    arguments = [command, "verify", "--json", "--all", path]
    if kernel:
        arguments += ["--kernel-verifier", "advise"]
    run = subprocess.run(arguments, capture_output=True, text=True)
    if not run.stdout:
        print(f"{path}: {run.stderr.strip()}")
        return
    for entry in json.loads(run.stdout)["objects"]:
        if "error" in entry:
            print(f"{entry['object']}: not loaded: {entry['error']}")
        for program in entry["programs"]:
            yield entry["object"], program


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command")
    parser.add_argument("--package", default="libbpf-tools")
    parser.add_argument("--kernel", action="store_true", help="compare with the kernel's verifier")
    parser.add_argument("files", nargs="*")
    options = parser.parse_args()
    counts = collections.Counter()
    bad = 0
    for path in options.files or executables(options.package):
        for name, program in programs(options.command, path, options.kernel):
            verdict, linux = program["verdict"], program.get("kernel", {}).get("errno")
            if verdict == "not judged":
                counts["not judged: " + program["reason"]] += 1
                continue
            counts[verdict + ("" if linux is None else ", Linux accepts" if linux == 0 else ", Linux refuses")] += 1
            differs = (verdict == "refused") != (linux is not None and linux != 0)
            first = (program.get("diagnoses") or [{}])[0]
            # Nobody else was asked: what needs another kernel's types is refused on every kernel like this one.
            if linux is None and (verdict == "accepted" or "CO-RE relocation" in first.get("message", "")):
                differs = False
            bad += differs
            if verdict == "refused" or differs:
                place = first.get("place", {})
                print(f"{name}: {program['name']} ({program['section']}): {verdict}: {first.get('rule')} "
                      f"{first.get('message')} at insn {place.get('insn')} line {place.get('line')}"
                      + ("" if linux is None else f"; Linux: {os.strerror(linux) if linux else 'accepted'}"))
    for what, count in sorted(counts.items()):
        print(f"{count:5} {what}")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
