#!/usr/bin/env python3
"""From build/bench*.json and .txt: the plot (docs/bench.svg), the README's number, and the tables of docs/benchmarks.md.

    plot.py BUILD_DIRECTORY DOCS_DIRECTORY README

So a number in the documentation is one that was measured: nobody types it.
"""
import json
import math
import os
import re
import sys
from html import escape

ROW, LEFT, WIDTH, TOP, RIGHT = 30, 268, 560, 92, 150
LOWEST, HIGHEST = 0.4, 20000.0  # ns, the scale's ends
INK, QUIET, GRID, KERNEL, OURS, AIM = "#1f2933", "#7b8794", "#e4e7eb", "#b8c4ce", "#d64545", "#1f2933"


def place(ns):
    share = (math.log10(max(ns, LOWEST)) - math.log10(LOWEST)) / (math.log10(HIGHEST) - math.log10(LOWEST))
    return LEFT + WIDTH * min(share, 1.0)


def text(x, y, words, size=13, color=INK, anchor="start", weight="normal"):
    return (f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{color}" text-anchor="{anchor}" '
            f'font-weight="{weight}">{escape(words)}</text>')


def short(ns):
    return f"{ns:.1f}" if ns < 20 else f"{ns:,.0f}"


def bar(y, height, spread, color):
    """The median's bar, and a line from the lowest round to the highest."""
    end = place(spread["median"])
    low, high, middle = place(spread["min"]), place(spread["max"]), y + height / 2
    return [f'<rect x="{LEFT}" y="{y:.1f}" width="{max(end - LEFT, 1):.1f}" height="{height}" rx="2" fill="{color}"/>',
            f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle:.1f}" y2="{middle:.1f}" stroke="{INK}" '
            f'stroke-opacity=".45"/>']


# What stands above which rows; a row that is none of them goes to the last one.
SECTIONS = (
    ("Probes", {"argument_percpu": "read an argument, count per CPU", "nop": "… on a 5-byte nop", "rotated": "… 64 functions in turn",
                "evicted": "… caches evicted", "empty_entry": "empty uprobe", "empty_return": "empty uretprobe",
                "count_return": "read the result, count per CPU", "entry_return": "entry and return, count each"}),
    ("System calls", {"call_entry": "traced where it begins", "call_both": "traced at both ends",
                      "call_untraced": "untraced, while another is", "call_by_number": "… through syscall(2)"}),
    ("Helpers and maps", {}),
)


def sectioned(rows):
    """[(title or None, row or None)]: a heading has no row."""
    left, out = {row["mode"]: row for row in rows}, []
    for title, names in SECTIONS:
        inside = [(names[mode], left.pop(mode)) for mode in names if mode in left]
        if not names:
            inside = [(row["title"], row) for row in left.values()]
        if inside:
            out += [(title, None)] + inside
    return out


def plot(report):
    rows = sectioned([row for row in report["programs"] if row["unit"] == "ns" and row["ours"]])
    bottom = TOP + ROW * len(rows)
    right = LEFT + WIDTH + RIGHT
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {right} {bottom + 64}" '
           f'font-family="Helvetica, Arial, sans-serif">',
           '<rect width="100%" height="100%" fill="#fff"/>',
           text(20, 30, "What a probe adds to a call", 20, weight="bold"),
           text(20, 52, "Nanoseconds over the bare call or per operation; the scale is logarithmic. Bar: median; line: lowest "
                "and highest round.", 12, QUIET)]
    x = 20
    for color, name in ((KERNEL, "Linux kernel"), (OURS, "bpftime")):
        out += [f'<rect x="{x}" y="64" width="11" height="11" rx="2" fill="{color}"/>', text(x + 17, 74, name, 12)]
        x += 105
    out += [f'<line x1="{x - 20}" x2="{x - 20}" y1="63" y2="76" stroke="{AIM}" stroke-width="2"/>',
            text(x - 11, 74, "aim of bpftime", 12), text(right - 16, 74, "kernel / bpftime", 12, QUIET, "end")]
    for ns in (1, 10, 100, 1000, 10000):
        at = place(ns)
        out += [f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{TOP - 4}" y2="{bottom}" stroke="{GRID}"/>',
                text(at, bottom + 18, f"{ns} ns" if ns < 1000 else f"{ns // 1000} µs", 12, QUIET, "middle")]
    for i, (title, row) in enumerate(rows):
        y = TOP + ROW * i
        if row is None:
            out += [f'<rect x="20" y="{y + 6}" width="{right - 36}" height="{ROW - 8}" fill="#f5f7fa"/>',
                    text(28, y + 22, title, 13, weight="bold")]
            continue
        ours, kernel = row["ours"]["over_bare_ns"], row["kernel"]
        out.append(text(LEFT - 12, y + 18, title, 13, anchor="end"))
        if kernel:
            spread = kernel["over_bare_ns"]
            out += bar(y + 3, 10, spread, KERNEL)
            out.append(text(max(place(spread["median"]), place(spread["max"])) + 6, y + 12, short(spread["median"]), 11, QUIET))
            if ours["median"] >= 0.5 and spread["median"] > 0:
                out.append(text(right - 16, y + 18, f'{spread["median"] / ours["median"]:,.0f} ×', 12, QUIET, "end"))
        else:
            out.append(text(LEFT + 6, y + 12, "refused", 11, QUIET))
        out += bar(y + 14, 10, ours, OURS)
        label = short(ours["median"]) if ours["median"] >= 0.5 else "nothing measurable"
        out.append(text(max(place(ours["median"]), place(ours["max"]), place(row["aim"] or 0)) + 6, y + 24, label, 11, INK,
                        weight="bold"))
        if row["aim"]:
            at = place(row["aim"])
            out.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{y + 12.5}" y2="{y + 25.5}" stroke="{AIM}" stroke-width="2"/>')
    machine = report["machine"]
    out.append(text(20, bottom + 46, f'{machine["cpu"]}, {machine["cpus"]} CPUs, Linux {machine["kernel"]}, {machine["date"]}, '
                    f'commit {machine["commit"]}, load {machine["load"]:.1f} before the run', 11, QUIET))
    return "\n".join(out + ["</svg>"]) + "\n"


def between(document, start, end, replacement):
    pattern = re.compile(re.escape(start) + ".*?" + re.escape(end), re.S)
    if not pattern.search(document):
        sys.exit(f"plot.py: no {start!r} … {end!r}")
    return pattern.sub(lambda _: start + replacement + end, document, count=1)


def sentence(report):
    row = next(row for row in report["programs"] if row["mode"] == "argument_percpu")
    ours = row["ours"]["over_bare_ns"]["median"]
    if not row["kernel"]:
        return f"adds {ours:.0f} ns to a call"
    kernel = row["kernel"]["over_bare_ns"]["median"]
    return f"adds {ours:.0f} ns to a call; the same BPF object in the kernel adds {round(kernel, -1):.0f} ns"


def aim_line(title, aim, unit, ours):
    reached = "reached" if ours["median"] <= aim else "**missed**"
    return f'| {title} | ≤ {aim:g} {unit} | {ours["median"]:.1f} ({ours["min"]:.1f}) | {reached} |'


def aims(report):
    """What was to be reached, and whether it was."""
    lines = ["| over the bare call | aim | ours, median (min) | |", "|---|---|---|---|"]
    for row in report["programs"]:
        if row["aim"] is None or not row["ours"]:
            continue
        ours, title = row["ours"]["over_bare_ns"], row["title"]
        if row["ours"].get("change_us"):  # what the tool waits for besides is its own, and the scheduler's
            ours, title = row["ours"]["change_us"], "attach one probe, victim busy: the change of the victim"
        lines.append(aim_line(title, row["aim"], "µs" if row["unit"] == "us" else "ns", ours))
    if report.get("many_probes"):
        lines.append(aim_line("1,000 probes in one process, with one change", 200, "ms", report["many_probes"]["at_once_ms"]))
    return "\n".join(lines) + "\n"


def table_of(path):
    """The lines of a table in a program's output."""
    with open(path) as file:
        return "".join(line for line in file if line.startswith("|"))


def main(build, docs, readme):
    with open(f"{build}/bench.json") as file:
        report = json.load(file)
    with open(f"{build}/bench.txt") as file:
        tables = file.read()
    if any(row["mode"] == "argument_percpu" for row in report["programs"]):
        with open(readme) as file:
            page = file.read()
        with open(readme, "w") as file:
            file.write(between(page, "<!-- bench -->", "<!-- /bench -->", sentence(report)))
    with open(f"{docs}/bench.svg", "w") as file:
        file.write(plot(report))
    with open(f"{docs}/benchmarks.md") as file:
        page = file.read()
    parts = [("bench: the output of `make bench`, otherwise unchanged", "/bench", tables), ("aims", "/aims", aims(report))]
    for name in ("maps", "map-calls"):
        path = f"{build}/bench-{name}.txt"
        if os.path.exists(path):
            parts.append((name, f"/{name}", table_of(path)))
    for start, end, text in parts:
        page = between(page, f"<!-- {start} -->\n", f"<!-- {end} -->", text)
    with open(f"{docs}/benchmarks.md", "w") as file:
        file.write(page)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
