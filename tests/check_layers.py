#!/usr/bin/env python3
"""Checks what no compiler does: includes point one way (the order of add_subdirectory in CMakeLists.txt), each third-party
library is included by the folders it belongs to, no file mentions a machine's own paths, and the documentation's links
lead somewhere."""
import pathlib
import re
import sys

ROOT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else __file__ + "/../..").resolve()

# Header prefix -> folders that may include it. Tests beside the code count as their folder.
THIRD_PARTY = {
    "llvm": {"compiler"},
    "llvm-c": {"compiler"},
    "lld": {"compiler"},
    "libelf.h": {"symbols"},
    "gelf.h": {"symbols"},
    "elfutils": {"symbols"},
    "dwarf.h": {"symbols"},
    "Zydis": {"rewrite"},
    "Zycore": {"rewrite"},
    "asmjit": {"rewrite"},
    "yaml-cpp": {"eim"},
    "CLI": {"cli"},
    "fmt": {"cli"},
    "nlohmann": {"daemon", "cli"},
    "bpf": {"cli"},  # libbpf opens objects for `bpftime verify`; else tests, benchmarks and examples only
}
# Includes against the order of the layers that are allowed, each with its reason.
EXCEPTIONS = {
    # The core of maps and helpers is compiled into bitcode by helpers/runtime: see src/helpers/CMakeLists.txt.
}
TEST_ONLY = {"gtest", "gmock", "benchmark"}
FORBIDDEN = [re.compile(p) for p in (r"/work/", r"\b/root/")]
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.M)
SOURCES = {".h", ".cc", ".c", ".S", ".def", ".inc"}


# Programs that tests run; not named _test themselves.
TEST_PROGRAMS = {"src/loader/preload_probe.cc"}


def layers():
    text = (ROOT / "CMakeLists.txt").read_text()
    return re.findall(r"^add_subdirectory\(src/(\w+)\)", text, re.M)


def is_test(path):
    if str(path.relative_to(ROOT)) in TEST_PROGRAMS:
        return True
    return re.search(r"(_test|_fuzz|_bench)\.\w+$", path.name) or {"testing", "victim"} & set(path.parts) or "test" in path.stem


def check_file(path, order, problems):
    folder = path.relative_to(ROOT / "src").parts[0]
    text = path.read_text(errors="replace")
    for _, name in INCLUDE.findall(text):
        first = name.split("/")[0]
        where = f"{path.relative_to(ROOT)}: includes {name}"
        if first in order and "/" in name:
            if order.index(first) > order.index(folder) and (folder, first) not in EXCEPTIONS:
                problems.append(f"{where}: {first} lies above {folder} (order in CMakeLists.txt)")
        elif first in THIRD_PARTY and folder not in THIRD_PARTY[first] and not is_test(path):
            owners = ", ".join(sorted(THIRD_PARTY[first])) or "tests and examples"
            problems.append(f"{where}: only {owners} may")
        elif first in TEST_ONLY and not is_test(path):
            problems.append(f"{where}: only tests may")


def check_words(problems):
    for path in sorted(ROOT.rglob("*")):
        relative = path.relative_to(ROOT)
        if not path.is_file() or relative.parts[0] in (".git", "build") or ".output" in relative.parts or path.name == "check_layers.py":
            continue
        if path.suffix not in SOURCES | {".md", ".txt", ".cmake", ".sh", ".py", ".json"} and path.name != "Makefile":
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            for pattern in FORBIDDEN:
                if pattern.search(line):
                    problems.append(f"{relative}:{number}: mentions a path of one machine: {line.strip()[:80]}")


def check_links(problems):
    """Relative links of the documentation lead somewhere."""
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "example").rglob("*.md"))]:
        if not path.exists():
            continue
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text()):
            if "://" not in target and not (path.parent / target).exists():
                problems.append(f"{path.relative_to(ROOT)}: link to {target}: leads nowhere")


def main():
    order = layers()
    problems = []
    files = [p for p in sorted((ROOT / "src").rglob("*")) if p.suffix in SOURCES]
    if not files or len(order) < 10:
        sys.exit("check_layers: found no sources or no layers: is this the right tree?")
    for path in files:
        folder = path.relative_to(ROOT / "src").parts[0]
        if folder not in order:
            problems.append(f"src/{folder}: not a layer in CMakeLists.txt")
            continue
        check_file(path, order, problems)
    check_words(problems)
    check_links(problems)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if problems:
        sys.exit(1)
    print(f"{len(files)} files, {len(order)} layers: in order")


if __name__ == "__main__":
    main()
