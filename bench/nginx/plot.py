"""The plot of bench.py, written as SVG by hand: what a filter adds to a request over no filter at all. Two panels: instructions
on a logarithmic scale, CPU time on a linear one that goes below zero, because rounds differ by more than some filters cost."""
import math
from html import escape

ROW, LEFT, PANEL, GAP, TOP, RIGHT = 38, 190, 400, 124, 104, 84
INK, QUIET, GRID, BAR, OURS, AIM = "#1f2933", "#7b8794", "#e4e7eb", "#b8c4ce", "#d64545", "#1f2933"


def text(x, y, words, size=13, color=INK, anchor="start", weight="normal"):
    return (f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{color}" text-anchor="{anchor}" '
            f'font-weight="{weight}">{escape(words)}</text>')


def line(x1, y1, x2, y2, color, more=""):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}" {more}/>'


def bar(begin, end, y, ours):
    return (f'<rect x="{min(begin, end):.1f}" y="{y + 8}" width="{max(abs(end - begin), 1):.1f}" height="{ROW - 18}" rx="2" '
            f'fill="{OURS if ours else BAR}"/>')


def instructions_panel(x, rows, bare):
    """rows: (instructions added, ours)."""
    lowest, highest = 10.0, 10 ** math.ceil(math.log10(max(max(value for value, _ in rows), 1000) * 1.2))
    place = lambda value: x + PANEL * (math.log10(max(value, lowest)) - 1) / (math.log10(highest) - 1)
    bottom = TOP + ROW * len(rows)
    out = [text(x, TOP - 34, "instructions added", 14, weight="bold"), text(x + PANEL, TOP - 34, "logarithmic", 12, QUIET, "end")]
    tick = lowest
    while tick <= highest:
        out += [line(place(tick), TOP - 4, place(tick), bottom, GRID), text(place(tick), bottom + 18, f"{tick:,.0f}", 12, QUIET, "middle")]
        tick *= 10
    for number, (value, ours) in enumerate(rows):
        y = TOP + number * ROW
        out += [bar(x, place(value), y, ours),
                text(max(place(value), place(bare / 100)) + 8, y + 23, f"{value:,.0f}  ({100 * value / bare:.1f} %)", 13,
                     weight="bold" if ours else "normal")]
    out += [line(place(bare / 100), TOP - 4, place(bare / 100), bottom, AIM, 'stroke-dasharray="4 3"'),
            text(place(bare / 100), TOP - 10, "1 % of what nginx executes", 11, QUIET, "middle")]
    return out


def cpu_panel(x, rows):
    """rows: (spread of percent, ours)."""
    lowest = 10 * math.floor(min(-5, *(spread["low"] for spread, _ in rows)) / 10)
    highest = 10 * math.ceil(max(10, *(spread["high"] for spread, _ in rows)) / 10)
    place = lambda value: x + PANEL * (value - lowest) / (highest - lowest)
    bottom = TOP + ROW * len(rows)
    out = [text(x, TOP - 34, "CPU time added, %", 14, weight="bold"),
           text(x + PANEL, TOP - 34, "median and quartiles of rounds", 12, QUIET, "end")]
    step = 10 if highest - lowest <= 80 else 20
    for tick in range(math.ceil(lowest / step) * step, highest + 1, step):
        out += [line(place(tick), TOP - 4, place(tick), bottom, QUIET if tick == 0 else GRID),
                text(place(tick), bottom + 18, f"{tick:+d}" if tick else "0", 12, QUIET, "middle")]
    for number, (spread, ours) in enumerate(rows):
        y = TOP + number * ROW
        middle = y + 8 + (ROW - 18) / 2
        out += [bar(place(0), place(spread["median"]), y, ours),
                line(place(spread["low"]), middle, place(spread["high"]), middle, INK, 'stroke-opacity=".6" stroke-width="1.5"'),
                text(max(place(spread["high"]), place(0)) + 8, y + 23, f"{spread['median']:+.1f}", 13,
                     weight="bold" if ours else "normal")]
    return out


def write_svg(path, report):
    shown = [(name, result) for name, result in report["filters"].items() if name != "none"]
    shown.sort(key=lambda one: one[1]["added_instructions"])
    ours = [name in ("observe", "extension") for name, _ in shown]
    base = report["filters"]["none"]
    bare = base.get("callgrind") or base["stepped"]
    width, bottom = LEFT + 2 * PANEL + GAP + RIGHT, TOP + ROW * len(shown)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {bottom + 64}" font-family="Helvetica, Arial, sans-serif">',
           '<rect width="100%" height="100%" fill="#fff"/>',
           text(20, 32, "The same firewall in nginx: what it adds to a request", 20, weight="bold")]
    for number, ((_, result), mine) in enumerate(zip(shown, ours)):
        out.append(text(LEFT - 12, TOP + number * ROW + 23, result["label"], 13, anchor="end", weight="bold" if mine else "normal"))
    out += instructions_panel(LEFT, [(result["added_instructions"], mine) for (_, result), mine in zip(shown, ours)], bare)
    out += cpu_panel(LEFT + PANEL + GAP, [(result["added_cpu_percent"], mine) for (_, result), mine in zip(shown, ours)])
    out.append(text(20, bottom + 48, f"No filter: {bare:,.0f} instructions and {base['cpu_us']['median']:.1f} µs of CPU time per "
                    f"request. {report['nginx'].split(': ')[-1]}, {report['rounds']} interleaved rounds, commit {report['commit']}.",
                    11, QUIET))
    out.append("</svg>")
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(out) + "\n")
