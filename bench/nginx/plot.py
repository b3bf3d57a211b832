"""The plot of bench.py, written as SVG by hand: two panels of bars, what a filter adds to a request over no filter at all."""
from html import escape

ROW, LEFT, PANEL, GAP, TOP = 34, 210, 320, 90, 70
INK, QUIET, BAR, OURS = "#222", "#777", "#9db4c0", "#c8553d"


def text(x, y, content, size=13, anchor="start", colour=INK):
    return (f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{colour}">'
            f'{escape(content)}</text>')


def panel(x, title, rows, unit):
    """rows: (value, low, high, ours). Whiskers where low and high differ."""
    largest = max([max(value, high) for value, _, high, _ in rows] + [1e-9])
    scale = lambda value: PANEL * max(value, 0) / largest
    out = [text(x, TOP - 18, title, 14)]
    for number, (value, low, high, ours) in enumerate(rows):
        y = TOP + number * ROW
        out.append(f'<rect x="{x}" y="{y}" width="{max(scale(value), 1):.1f}" height="{ROW - 14}" '
                   f'fill="{OURS if ours else BAR}"/>')
        if low != high:
            middle = y + (ROW - 14) / 2
            out.append(f'<path d="M{x + scale(low):.1f} {middle}H{x + scale(high):.1f}" stroke="{INK}" stroke-width="1.5"/>')
        out.append(text(x + scale(max(value, high)) + 6, y + 15, unit(value), 12, colour=INK))
    return out


def write_svg(path, report):
    shown = [(name, result) for name, result in report["filters"].items() if name != "none"]
    ours = [name in ("observe", "extension") for name, _ in shown]
    height = TOP + len(shown) * ROW + 50
    width = LEFT + 2 * PANEL + 2 * GAP
    base = report["filters"]["none"]
    bare = base.get("callgrind") or base["stepped"]
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
           f'viewBox="0 0 {width} {height}" font-family="sans-serif">', '<rect width="100%" height="100%" fill="white"/>',
           text(16, 26, "A firewall in nginx: what it adds to a request", 17)]
    for number, (_, result) in enumerate(shown):
        out.append(text(LEFT - 12, TOP + number * ROW + 15, result["label"], 13, "end"))
    out += panel(LEFT, "instructions added",
                 [(result["added_instructions"],) * 3 + (mine,) for (_, result), mine in zip(shown, ours)],
                 lambda value: f"{value:.0f} ({100 * value / bare:.1f} %)")
    added = [result["added_cpu_percent"] for _, result in shown]
    out += panel(LEFT + PANEL + GAP, "CPU time added, % (line: quartiles of rounds)",
                 [(each["median"], each["low"], each["high"], mine) for each, mine in zip(added, ours)],
                 lambda value: f"{value:+.1f} %")
    out.append(text(16, height - 16, f"no filter: {bare:.0f} instructions, {base['cpu_us']['median']:.1f} us CPU; "
                    f"{report['nginx'].split(': ')[-1]}, {report['rounds']} interleaved rounds, commit {report['commit']}", 11,
                    colour=QUIET))
    out.append("</svg>")
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(out) + "\n")
