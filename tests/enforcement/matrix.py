#!/usr/bin/env python3
"""matrix.py BPFTIME CLANG CC SOURCE [--write]: every cell of cells.py through the real command, and docs/eim-enforcement.md
compared with what they say (or written). Exit code 77: nothing could be judged, with the reason."""
import concurrent.futures
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile

import cells

# What a program at a system call is given.
RECORD = "struct record { unsigned long long common; long number; unsigned long arguments[6]; };\n"
DOCUMENT = "docs/eim-enforcement.md"


def run(*command, **options):
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


class Bench:
    """One host, and a folder per cell."""

    def __init__(self, bpftime, clang, cc, source, base):
        self.bpftime, self.clang, self.base = bpftime, clang, base
        host = base / "host"
        built = run(cc, "-g", "-O1", "-I", str(source / "include"), str(source / "tests/enforcement/host.c"), "-o", str(host))
        if built.returncode != 0:
            sys.exit("error: the host cannot be built: " + built.stderr)
        header = run(bpftime, "eim", "header", str(host))
        if header.returncode != 0:
            sys.exit("error: no header of the host: " + header.stderr)
        (base / "host.ext.h").write_text(header.stdout)

    def judge(self, number, cell):
        """The verdict: "allowed", a rule, or "policy"; and all that was said."""
        folder = self.base / str(number)
        folder.mkdir()
        policy = folder / "p.yaml"
        lines = ["version: 1", "manifest: ../host", "classes:", "  - name: cell", "    extension_entry: " + cell.entry]
        if cell.isolation:
            lines.append("    isolation: " + cell.isolation)
        lines.append("    allowed: [" + cell.granted + "]")
        policy.write_text("\n".join(lines) + "\n")
        source = folder / "cell.bpf.c"
        event = cell.entry.replace("syscalls:", "tracepoint/syscalls/")
        head = "host__" + cell.entry + "(cell)" if event == cell.entry else RECORD + 'SEC("%s") int cell(struct record *ctx)' % event
        source.write_text('#include "../host.ext.h"\n' + cells.VALUE + cell.extra + head + " { " + cell.body +
                          ' }\nchar LICENSE[] SEC("license") = "GPL";\n')
        compiled = run(self.clang, "-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wno-unused-value", "-Wno-array-bounds", "-Werror",
                       "-I/usr/include/%s-linux-gnu" % platform.machine(), "-c", str(source), "-o", str(folder / "cell.bpf.o"))
        if compiled.returncode != 0:
            return "the compiler refuses", compiled.stderr
        checked = run(self.bpftime, "--json", "eim", "check", str(folder / "cell.bpf.o"), "--class", "cell", "--policy", str(policy))
        try:
            answer = json.loads(checked.stdout)
        except ValueError:
            return "no answer", checked.stdout + checked.stderr
        if answer["accepted"]:
            return cells.ALLOWED, ""
        if "error" in answer:
            return cells.POLICY, answer["error"]
        said = json.dumps(answer)
        for judged in answer["objects"]:
            for program in judged["programs"]:
                for diagnosis in program.get("diagnoses", []):
                    return diagnosis["rule"], said
        return "refused without a rule", said


def is_as_expected(cell, verdict, said):
    same = verdict == cell.verdict
    return same and cell.says in said.replace('\\"', '"')


def code(text):
    return "`` " + text.replace("|", "\\|") + " ``" if "`" in text else "`" + text.replace("|", "\\|") + "`"


def verdict_text(cell):
    if cell.verdict == cells.ALLOWED:
        return "allowed"
    if cell.verdict == cells.POLICY:
        return "the policy is refused" + (": “…%s…”" % cell.says.replace("|", "\\|") if cell.says else "")
    hint = "; names `%s`" % cell.says if cell.says else ""
    return "refused: [%s](verifier-rules.md)%s" % (cell.verdict, hint)


def document():
    all_cells = [cell for _, _, listed in cells.SECTIONS for cell in listed]
    allowed = sum(cell.verdict == cells.ALLOWED for cell in all_cells)
    out = ["# What extension classes are held to", "",
           "Made from `tests/enforcement/cells.py`, whose every cell the test `eim_enforcement` runs: the extension is compiled, and",
           "judged by `bpftime eim check` against a class with exactly these grants, on the host `tests/enforcement/host.c`. Change the",
           "cells, then `make matrix`. %d cells: %d allowed, %d refused." % (len(all_cells), allowed, len(all_cells) - allowed), ""]
    for capability, about, listed in cells.SECTIONS:
        out += ["## " + code(capability), "", about, "", "| level | extension | granted | verdict |", "|---|---|---|---|"]
        for cell in listed:
            body = cell.body if cell.entry == "processBegin" else "%s: %s" % (cell.entry, cell.body)
            granted = cell.granted if not cell.isolation else "%s; isolation: %s" % (cell.granted, cell.isolation)
            out.append("| %s | %s | %s | %s |" % (cell.level, code(body), code(granted) if granted else "nothing", verdict_text(cell)))
        out.append("")
    return "\n".join(out)


def check_coverage(source):
    """Every row of docs/eim.md's capability table has an allowed and a refused cell."""
    rows = [line for line in (source / "docs/eim.md").read_text().splitlines() if line.startswith("| `")]
    missing = []
    sections = {name: {cell.verdict == cells.ALLOWED for cell in listed} for name, _, listed in cells.SECTIONS}
    for name, kinds in sections.items():
        if name != "isolation: mpk" and kinds != {True, False}:
            missing.append("section %s has not both allowed and refused cells" % name)
    for word in ("read(", "write(", "return(", "instructions <", "memory <", "shared(", "in values"):
        if not any(word in row for row in rows):
            missing.append("docs/eim.md has no row for %s" % word)
        if not any(word in name for name in sections):
            missing.append("no section for %s" % word)
    return missing


def main():
    write = "--write" in sys.argv
    bpftime, clang, cc, source = [argument for argument in sys.argv[1:] if argument != "--write"]
    source = pathlib.Path(source)
    wrong = check_coverage(source)
    with tempfile.TemporaryDirectory() as base:
        bench = Bench(bpftime, clang, cc, source, pathlib.Path(base))
        listed = [(section[0], cell) for section in cells.SECTIONS for cell in section[2]]
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            verdicts = list(pool.map(lambda numbered: bench.judge(numbered[0], numbered[1][1]), enumerate(listed)))
        for (section, cell), (verdict, said) in zip(listed, verdicts):
            if not is_as_expected(cell, verdict, said):
                wrong.append("%s: %s: [%s] %s\n    expected %s %s, got %s %s" %
                             (section, cell.level, cell.granted, cell.body, cell.verdict, cell.says, verdict, said[:600]))
    path = source / DOCUMENT
    if write and not wrong:
        path.write_text(document())
    elif not path.exists() or path.read_text() != document():
        wrong.append("%s differs from the cells; try `make matrix`" % DOCUMENT)
    print("%d cells, %d problems" % (len(listed), len(wrong)))
    for problem in wrong:
        print("error: " + problem)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
