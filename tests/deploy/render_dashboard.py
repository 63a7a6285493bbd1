"""A dashboard as one HTML page, its panels drawn from a Prometheus: what Grafana would show, to look at
without one. Usage: render_dashboard.py PROMETHEUS_URL DASHBOARD SECONDS >page.html"""

import html
import json
import math
import sys
import time
import urllib.parse
import urllib.request

import rules

COLORS = ("#3274d9", "#e0852c", "#56a64b", "#c4162a", "#8f3bb8", "#1f9e9e", "#b8860b", "#777")
CELL, ROW = 50, 30  # pixels of Grafana's grid
STEPS = 120


class Source:
    """A Prometheus, over some time."""

    def __init__(self, url, start, end):
        self.url, self.start, self.end = url, start, end

    def range(self, query):
        """[(labels, [(time, value)])]"""
        parameters = {"query": rules.filled(query), "start": self.start, "end": self.end,
                      "step": max(1, (self.end - self.start) / STEPS)}
        with urllib.request.urlopen(
                f"{self.url}/api/v1/query_range?{urllib.parse.urlencode(parameters)}", timeout=30) as answer:
            result = json.load(answer)["data"]["result"]
        return [(series["metric"], [(t, float(v)) for t, v in series["values"] if math.isfinite(float(v))])
                for series in result]


def text(value, unit):
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "s":
        return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"
    if unit == "bytes":
        return f"{value / 2**20:.4g} MiB"
    return f"{value:.4g}"


def legend(target, labels):
    words = target["legendFormat"]
    if words == "__auto":
        return ", ".join(v for k, v in labels.items() if k not in ("__name__", "namespace", "job")) or "value"
    for name, value in labels.items():
        words = words.replace("{{%s}}" % name, value)
    return words


def lines(panel, source, width, height):
    series = [(legend(target, labels), points) for target in panel["targets"]
              for labels, points in source.range(target["expr"]) if points]
    unit = panel["fieldConfig"]["defaults"].get("unit", "short")
    top = max((v for _, points in series for _, v in points), default=0) or 1
    out, left, bottom = [], 58, 22

    def place(t, v):
        x = left + (t - source.start) / max(1, source.end - source.start) * (width - left - 8)
        return f"{x:.1f},{height - bottom - v / top * (height - bottom - 10):.1f}"
    for part in (0, 0.5, 1):
        y = place(source.start, part * top).split(",")[1]
        out.append(f'<line x1="{left}" x2="{width - 8}" y1="{y}" y2="{y}" class="grid"/>'
                   f'<text x="{left - 5}" y="{float(y) + 4}" text-anchor="end">{text(part * top, unit)}</text>')
    for number, (name, points) in enumerate(series):
        color = COLORS[number % len(COLORS)]
        out.append(f'<polyline fill="none" stroke="{color}" stroke-width="1.5" '
                   f'points="{" ".join(place(t, v) for t, v in points)}"><title>{html.escape(name)}</title></polyline>')
    names = "".join(f'<i style="background:{COLORS[n % len(COLORS)]}"></i>{html.escape(name)} '
                    for n, (name, _) in list(enumerate(series))[:6])
    return f'<svg width="{width}" height="{height - 18}" viewBox="0 0 {width} {height}">{"".join(out)}</svg>' \
           f'<p>{names or "no data"}</p>'


def heat(panel, source, width, height):
    """Buckets over time; darker where more fell into one."""
    found = [(float(labels["le"].replace("+Inf", "inf")), dict(points))
             for labels, points in source.range(panel["targets"][0]["expr"]) if "le" in labels]
    found.sort(key=lambda bucket: bucket[0])
    times = sorted({t for _, points in found for t in points})
    rows = []  # cumulative buckets to each one's own
    for i, (le, points) in enumerate(found):
        below = found[i - 1][1] if i else {}
        rows.append((le, {t: max(0, v - below.get(t, 0)) for t, v in points.items()}))
    used = [i for i, (_, row) in enumerate(rows) if any(v > 0 for v in row.values())]
    if not used:
        return "<p>no data</p>"
    rows = rows[used[0]:used[-1] + 1]
    top = max(max(row.values()) for _, row in rows)
    cell_w, cell_h = (width - 66) / len(times), (height - 24) / len(rows)
    out = []
    for i, (le, row) in enumerate(rows):
        y = height - 24 - (i + 1) * cell_h
        out.append(f'<text x="53" y="{y + cell_h / 2 + 4:.1f}" text-anchor="end">{le:g}</text>')
        out += [f'<rect x="{58 + times.index(t) * cell_w:.1f}" y="{y:.1f}" width="{cell_w + .3:.1f}" '
                f'height="{cell_h:.1f}" fill="#e0852c" fill-opacity="{v / top:.2f}"/>'
                for t, v in row.items() if v > 0]
    return f'<svg width="{width}" height="{height - 18}" viewBox="0 0 {width} {height}">{"".join(out)}</svg>'


def last(panel, source):
    unit = panel["fieldConfig"]["defaults"].get("unit", "short")
    values = [points[-1][1] for _, points in source.range(panel["targets"][0]["expr"]) if points]
    return f'<b>{text(values[0], unit) if values else "no data"}</b>'


def table(panel, source):
    rows = [labels for labels, _ in source.range(panel["targets"][0]["expr"])]
    return "".join(f'<p>{html.escape(", ".join(f"{k}={v}" for k, v in labels.items() if k != "__name__"))}</p>'
                   for labels in rows) or "<p>no data</p>"


def page(board, source):
    out = []
    for panel in board["panels"]:
        place = panel["gridPos"]
        width, height = place["w"] * CELL - 8, place["h"] * ROW - 8
        title = html.escape(panel["title"])
        if panel["type"] == "row":
            body = f"<h2>{title}</h2>"
        else:
            inside = {"timeseries": lambda: lines(panel, source, width, height - 30),
                      "heatmap": lambda: heat(panel, source, width, height - 30),
                      "stat": lambda: last(panel, source), "table": lambda: table(panel, source)}
            body = f'<div class="panel"><h3>{title}</h3>{inside[panel["type"]]()}</div>'
        out.append(f'<section style="left:{place["x"] * CELL}px;top:{place["y"] * ROW + 50}px;'
                   f'width:{width}px;height:{height}px">{body}</section>')
    bottom = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in board["panels"]) * ROW + 60
    return f"""<!doctype html><meta charset="utf-8"><title>{html.escape(board["title"])}</title>
<style>body{{font:12px sans-serif;background:#f4f5f5;color:#24292e;margin:8px;height:{bottom}px;position:relative}}
section{{position:absolute;overflow:hidden}} .panel{{background:#fff;border:1px solid #dde;height:100%;padding:4px;
box-sizing:border-box}} h1{{font-size:18px;margin:4px}} h2{{font-size:14px;margin:8px 0 0}} h3{{font-size:12px;margin:0}}
p{{margin:0;font-size:11px;white-space:nowrap}} b{{font-size:26px}} i{{display:inline-block;width:9px;height:9px;margin:0 3px 0 8px}}
.grid{{stroke:#dde}} text{{font-size:11px;fill:#666}}</style><h1>{html.escape(board["title"])}</h1>
{"".join(out)}"""


def main():
    url, name, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    now = time.time()
    print(page(rules.dashboards()[name], Source(url, now - seconds, now)))


if __name__ == "__main__":
    main()
