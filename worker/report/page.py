"""The report as one HTML file: no scripts, nothing fetched, light and dark, narrow and wide."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from html import escape

from worker.report.charts import Series, horizontal_bars, lines, stacked_bars
from worker.report.guide import BOUNDS_S, OUTSIDE_USD
from worker.report.read import Reading
from worker.report.rows import LANES, Row, all_rows, notes
from worker.report.tally import Tally

TOP = 20
OWN = "this service"
_HEADINGS = ("pictures", "failures", "within bound", "wait p50", "wait p95", "GPU-hours", "cost", "per picture")


def page(reading: Reading, until: datetime) -> str:
    """The whole page."""
    tally = reading.tally
    since = "the beginning" if tally.since is None else _moment(tally.since)
    window = f"{since} to {_moment(tally.until or until)}, days in UTC"
    rows = list(all_rows(tally))
    parts = [
        f"<h1>Pictures</h1><p class=sub>{escape(window)}</p>",
        _cards(tally, rows[-1]),
        '<div class="charts">',
        *_charts(tally),
        "</div>",
        *(_table(name, title, rows) for name, title in _TABLES.items()),
        "<section><h2>What the figures leave out</h2><ul>",
        *(f"<li>{escape(text)}</li>" for text in notes(reading)),
        f"<li>{tally.records} records of results were read. Prompts are not part of a report.</li></ul></section>",
    ]
    return _FRAME.format(style=_STYLE, body="\n".join(parts))


_TABLES = {"lane": "Lanes", "day": "Days", "girl": "Girls", "user": "Users"}


def _cards(tally: Tally, total: Row) -> str:
    ended = total.pictures + total.failures
    share = f"{total.failures / ended:.1%} of {ended}" if ended else "of none"
    own = "unknown" if total.usd_per_picture is None else f"${total.usd_per_picture:.5f}"
    cards = (
        ("Pictures", f"{total.pictures}", f"{total.gpu_seconds / 3600:.2f} GPU-hours"),
        ("Failures", f"{total.failures}", share),
        ("Waits within bounds", _percent(total.within_bound), "2, 5 and 10 s: urgent, high, normal"),
        ("Per picture", own, _saving(tally)),
    )
    return (
        '<div class="cards">'
        + "".join(
            f'<div class="card"><span>{escape(name)}</span><b>{escape(value)}</b><small>{escape(text)}</small></div>'
            for name, value, text in cards
        )
        + "</div>"
    )


def _saving(tally: Tally) -> str:
    own = tally.total.usd_per_picture
    if own is None:
        return "no price of the GPU is known"
    name, least = min(OUTSIDE_USD.items(), key=lambda pair: pair[1])
    return f"{1 - own / least:.0%} below {name}'s ${least:g}" if own < least else f"above {name}'s ${least:g}"


def _charts(tally: Tally) -> Iterable[str]:
    days = sorted(tally.cells["day"])
    lanes = [lane for lane in LANES if lane in tally.cells["lane"]]
    pictures = [
        Series(lane, [cell.pictures if (cell := tally.day_lane.get((day, lane))) else None for day in days])
        for lane in lanes
    ]
    yield _figure("Pictures a day", _legend(lanes), stacked_bars("Pictures a day by lane", days, pictures))
    waits = [
        Series(lane, [found.quantile(0.95) if (found := tally.day_waits.get((day, lane))) else None for day in days])
        for lane in lanes
    ]
    bounds = {lane: BOUNDS_S[lane] for lane in lanes}
    yield _figure(
        "Waits, 95 of 100", f"{_legend(lanes)} <i>dashed: the lane's bound</i>",
        lines("The wait that 95 of 100 pictures of a lane did not exceed, by day", days, waits, bounds),
    )  # fmt: skip
    own = tally.total.usd_per_picture
    if own is not None:
        yield _figure(
            "Dollars per picture", "", horizontal_bars("Dollars per picture", {OWN: own, **OUTSIDE_USD}, OWN, "${:.4f}")
        )
    if tally.codes:
        codes = {name: float(count) for name, count in tally.codes.most_common(8)}
        yield _figure("Failures by code", "", horizontal_bars("Failures by error code", codes, "", "{:.0f}"))


def _figure(title: str, legend: str, chart: str) -> str:
    told = f"<p class=legend>{legend}</p>" if legend else ""
    return f"<figure><h2>{escape(title)}</h2>{told}{chart}</figure>"


def _legend(lanes: Iterable[str]) -> str:
    return " ".join(f'<span class="key s-{lane}"></span>{lane}' for lane in lanes)


def _table(dimension: str, title: str, rows: Iterable[Row]) -> str:
    own = [row for row in rows if row.dimension == dimension]
    shown = own if dimension in ("day", "lane") else own[:TOP]
    columns = [n for n, name in enumerate(_HEADINGS) if dimension == "lane" or not name.startswith("wait")]
    head = "".join(f"<th>{_HEADINGS[n]}</th>" for n in columns)
    body = "".join(
        f"<tr><th scope=row>{escape(row.key)}</th>{''.join(f'<td>{_values(row)[n]}</td>' for n in columns)}</tr>"
        for row in shown
    )
    more = f"<p class=sub>{len(own) - len(shown)} more; --csv has all</p>" if len(own) > len(shown) else ""
    return (
        f'<section><h2>{title}</h2><div class="scroll"><table><thead><tr><th>{dimension}</th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>{more}</section>"
    )


def _values(row: Row) -> tuple[str, ...]:
    return (
        f"{row.pictures}",
        f"{row.failures}",
        _percent(row.within_bound),
        _seconds(row.wait_p50_s),
        _seconds(row.wait_p95_s),
        f"{row.gpu_seconds / 3600:.3f}",
        "–" if row.cost_usd is None else f"${row.cost_usd:.4f}",
        "–" if row.usd_per_picture is None else f"${row.usd_per_picture:.6f}",
    )


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} s"


def _moment(at: datetime) -> str:
    return at.isoformat(sep=" ", timespec="minutes")


_STYLE = """
:root { color-scheme: light dark; --bg: #fbfbfa; --fg: #1c1d1f; --dim: #63666b; --line: #dcdcd8; --card: #fff;
  --urgent: #c8402f; --high: #c98a10; --normal: #2f6fb3; --own: #1f8a5b; --other: #9a9da3; }
@media (prefers-color-scheme: dark) { :root { --bg: #151618; --fg: #e8e8e6; --dim: #a0a3a8; --line: #35373b;
  --card: #1d1f22; --urgent: #f07a68; --high: #e6b04a; --normal: #7ab0ea; --own: #58c495; --other: #74777d; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 24px 16px; max-width: 1120px; background: var(--bg); color: var(--fg);
  font: 15px/1.45 system-ui, sans-serif; }
h1 { margin: 0; font-size: 26px; } h2 { margin: 0 0 6px; font-size: 16px; }
.sub, small, .legend, .card span { color: var(--dim); } .sub { margin: 2px 0 16px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(210px, 1fr)); gap: 12px; }
.card, figure, section { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 14px; }
.card b { display: block; font-size: 26px; font-variant-numeric: tabular-nums; } .card small { display: block; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 12px;
  margin: 12px 0; }
figure { margin: 0; } section { margin: 12px 0; } .legend { margin: 0 0 6px; min-height: 1.4em; font-size: 13px; }
.key { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin: 0 4px 0 8px; }
.key.s-urgent { background: var(--urgent); } .key.s-high { background: var(--high); }
.key.s-normal { background: var(--normal); }
svg { display: block; width: 100%; height: auto; } svg text { fill: var(--dim); font: 12px system-ui, sans-serif; }
svg .tick, svg .name { text-anchor: end; } svg .label { text-anchor: middle; } svg .grid { stroke: var(--line); }
rect.s-urgent, circle.s-urgent { fill: var(--urgent); } rect.s-high, circle.s-high { fill: var(--high); }
rect.s-normal, circle.s-normal { fill: var(--normal); }
rect.own { fill: var(--own); } rect.other { fill: var(--other); }
polyline { fill: none; stroke-width: 2; } polyline.s-urgent, .bound.s-urgent { stroke: var(--urgent); }
polyline.s-high, .bound.s-high { stroke: var(--high); } polyline.s-normal, .bound.s-normal { stroke: var(--normal); }
.bound { stroke-dasharray: 5 4; opacity: .7; }
@media (max-width: 560px) { svg text { font-size: 19px; } }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 10px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child { text-align: left; } thead th { color: var(--dim); font-weight: 500; } tbody th { font-weight: 500; }
ul { margin: 0; padding-left: 20px; }
"""

_FRAME = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Pictures: report</title><style>{style}</style></head><body>
{body}
</body></html>
"""
