#!/usr/bin/env python3
"""From build/bench.json: the plot (docs/bench.svg), the README's number, and the tables of docs/benchmarks.md.

    plot.py JSON TABLES DOCS_DIRECTORY README     TABLES is what probes_bench printed.

So a number in the documentation is one that was measured: nobody types it.
"""
import json
import math
import re
import sys
from html import escape

ROW, LEFT, WIDTH, TOP, RIGHT = 30, 268, 560, 92, 92
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


def plot(report):
    rows = [row for row in report["programs"] if row["unit"] == "ns" and row["ours"]]
    bottom = TOP + ROW * len(rows)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + RIGHT} {bottom + 64}" '
           f'font-family="Helvetica, Arial, sans-serif">',
           '<rect width="100%" height="100%" fill="#fff"/>',
           text(20, 30, "What a probe adds to a call", 20, weight="bold"),
           text(20, 52, "Nanoseconds over the bare call or per operation, logarithmic. Bar: median; line: lowest and "
                "highest round.", 12, QUIET)]
    x = 20
    for color, name in ((KERNEL, "kernel"), (OURS, "bpftime")):
        out += [f'<rect x="{x}" y="64" width="11" height="11" rx="2" fill="{color}"/>', text(x + 17, 74, name, 12)]
        x += 75
    out += [f'<line x1="{x + 5}" x2="{x + 5}" y1="63" y2="76" stroke="{AIM}" stroke-width="2"/>', text(x + 14, 74, "aim", 12)]
    for ns in (1, 10, 100, 1000, 10000):
        at = place(ns)
        out += [f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{TOP - 4}" y2="{bottom}" stroke="{GRID}"/>',
                text(at, bottom + 18, f"{ns} ns" if ns < 1000 else f"{ns // 1000} µs", 12, QUIET, "middle")]
    for i, row in enumerate(rows):
        y, ours, kernel = TOP + ROW * i, row["ours"]["over_bare_ns"], row["kernel"]
        out.append(text(LEFT - 12, y + 18, row["title"], 13, anchor="end"))
        if kernel:
            spread = kernel["over_bare_ns"]
            out += bar(y + 3, 10, spread, KERNEL)
            out.append(text(max(place(spread["median"]), place(spread["max"])) + 6, y + 12, short(spread["median"]), 11, QUIET))
        out += bar(y + 14, 10, ours, OURS)
        out.append(text(max(place(ours["median"]), place(ours["max"]), place(row["aim"] or 0)) + 6, y + 24,
                        short(ours["median"]), 11, INK, weight="bold"))
        if row["aim"]:
            at = place(row["aim"])
            out.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{y + 12.5}" y2="{y + 25.5}" stroke="{AIM}" stroke-width="2"/>')
    machine = report["machine"]
    out.append(text(20, bottom + 46, f'{machine["cpu"]}, {machine["cpus"]} CPUs, Linux {machine["kernel"]}, {machine["date"]}, '
                    f'commit {machine["commit"]}', 11, QUIET))
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


def main(json_path, tables_path, docs, readme):
    with open(json_path) as file:
        report = json.load(file)
    with open(tables_path) as file:
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
    with open(f"{docs}/benchmarks.md", "w") as file:
        file.write(between(page, "<!-- bench: the output of `make bench`, otherwise unchanged -->\n", "<!-- /bench -->", tables))


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
