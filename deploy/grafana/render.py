"""Draws a dashboard from a Prometheus, for a look without Grafana: the same panels and queries, plainer.

python deploy/grafana/render.py http://localhost:9090 overview overview.png --minutes 60
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

BOARDS = Path(__file__).resolve().parent / "dashboards"
Series = tuple[str, list[float], list[float]]
# Grafana's names in its colours, near enough.
COLOURS = {"green": "#2f9e44", "orange": "#f08c00", "red": "#e03131", "blue": "#1971c2", "gray": "#868e96"}


def draw(address: str, board: str, file: Path, *, seconds: float, rate_interval: str) -> int:
    """Write a PNG; returns how many panels had data."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    content = json.loads((BOARDS / f"{board}.json").read_text())
    panels = content["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = plt.figure(figsize=(18, rows * 0.42), facecolor="#f4f5f7")
    figure.suptitle(content["title"], x=0.012, y=1 - 0.12 / (rows * 0.42), ha="left", va="top", weight="bold")
    grid = figure.add_gridspec(rows, 24, left=0.03, right=0.985, top=1 - 0.55 / (rows * 0.42), bottom=0.02)
    with_data = 0
    for panel in panels:
        place = panel["gridPos"]
        # A row of cells is left free for the legend.
        cell = grid[place["y"] : place["y"] + place["h"] - 1, place["x"] : place["x"] + place["w"] - 1]
        axes = figure.add_subplot(cell)
        series = [one for target in panel["targets"] for one in _series(address, target, seconds, rate_interval)]
        with_data += bool(series)
        _panel(axes, panel, series)
    figure.savefig(file, dpi=80)
    plt.close(figure)
    return with_data


def _panel(axes: Any, panel: dict[str, Any], series: list[Series]) -> None:
    unit = panel["fieldConfig"]["defaults"]["unit"]
    axes.set_title(panel["title"], fontsize=9, loc="left", weight="bold")
    axes.tick_params(labelsize=7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if panel["type"] == "stat":
        _stat(axes, panel, series)
        return
    for label, times, values in series:
        style = "--" if label.startswith("bound") else "-"
        shown = f"{label}: {_shown(values[-1], unit)}"[:48]
        axes.plot(times, values, style, linewidth=1.2, label=shown, color=_colour(panel, label))
    axes.set_ylim(bottom=0)
    began = [times[0] for label, times, _ in series if not label.startswith("bound")]
    if began:
        axes.set_xlim(left=min(began))
    axes.yaxis.set_major_formatter(lambda value, _: _shown(value, unit))
    axes.grid(alpha=0.25)
    axes.xaxis.set_major_formatter(lambda value, _: time.strftime("%H:%M:%S", time.gmtime(value)))
    axes.xaxis.set_major_locator(_locator())
    if series:
        axes.legend(fontsize=6, loc="upper left", framealpha=0.7, ncols=1 if len(series) < 7 else 2)


def _stat(axes: Any, panel: dict[str, Any], series: list[Series]) -> None:
    """A number, or names, on the colour of the panel's thresholds."""
    defaults = panel["fieldConfig"]["defaults"]
    axes.axis("off")
    if panel["options"]["textMode"] == "name":
        now = max((times[-1] for _, times, _ in series), default=0.0)
        shown = sorted(label for label, times, _ in series if times[-1] == now) or [defaults["noValue"]]
        colour = COLOURS["red"] if series else COLOURS["green"]
        text, size = "\n".join(shown), 9
    else:
        value = series[0][2][-1] if series else None
        text, size = defaults["noValue"] if value is None else _shown(value, defaults["unit"]), 18
        colour = COLOURS["gray"] if value is None else _threshold(defaults, value)
    axes.add_patch(_rectangle(axes, colour))
    axes.text(0.03, 0.45, text, fontsize=size, color="white", transform=axes.transAxes, va="center", weight="bold")


def _rectangle(axes: Any, colour: str) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((0, 0), 1, 0.9, transform=axes.transAxes, facecolor=colour)


def _threshold(defaults: dict[str, Any], value: float) -> str:
    steps = defaults.get("thresholds", {}).get("steps", [{"value": None, "color": "green"}])
    return COLOURS[[step["color"] for step in steps if step["value"] is None or value >= step["value"]][-1]]


def _colour(panel: dict[str, Any], label: str) -> str | None:
    """The colour of an override, which is how a lane keeps its own."""
    for override in panel["fieldConfig"]["overrides"]:
        if re.search(override["matcher"]["options"].strip("/"), label):
            for one in override["properties"]:
                if one["id"] == "color":
                    return COLOURS[one["value"]["fixedColor"]]
    return None


def _locator() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(4)


def _shown(value: float, unit: str) -> str:
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "bytes":
        return f"{value / 1e9:.3g} GB"
    if unit == "currencyUSD":
        return f"${value:,.2f}"
    if unit == "s" and value >= 120:
        return f"{value / 60:.0f} min"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}{' s' if unit == 's' else ''}"


def _series(address: str, target: dict[str, Any], seconds: float, rate_interval: str) -> list[Series]:
    expression = (
        target["expr"].replace("$__rate_interval", rate_interval).replace("$instance", ".*").replace("$group", ".*")
    )
    now = time.time()
    arguments = {"query": expression, "start": now - seconds, "end": now, "step": max(1.0, seconds / 300)}
    url = f"{address}/api/v1/query_range?{urllib.parse.urlencode(arguments)}"
    with urllib.request.urlopen(url, timeout=30) as answer:
        found = json.load(answer)["data"]["result"]
    series = []
    for one in found:
        labels = one["metric"]
        points = [(at, float(value)) for at, value in one["values"] if not math.isnan(float(value))]
        if points:
            label = _legend(target["legendFormat"], labels)
            series.append((label, [at for at, _ in points], [value for _, value in points]))
    return series


def _legend(template: str, labels: dict[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], ""), template)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("address")
    parser.add_argument("board", choices=sorted(path.stem for path in BOARDS.glob("*.json")))
    parser.add_argument("file", type=Path)
    parser.add_argument("--minutes", type=float, default=60)
    options = parser.parse_args()
    print(draw(options.address, options.board, options.file, seconds=60 * options.minutes, rate_interval="1m"))
