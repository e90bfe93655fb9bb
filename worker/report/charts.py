"""Charts as inline SVG, with colours from the page's style sheet, so that they suit light and dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 12, 14, 30


@dataclass(frozen=True, slots=True)
class Series:
    """One line or one colour of a stack; None where there is no value."""

    name: str
    values: Sequence[float | None]


def stacked_bars(title: str, labels: Sequence[str], series: Sequence[Series]) -> str:
    """A bar for each label, made of one piece for each series."""
    sums = [sum(one.values[n] or 0 for one in series) for n in range(len(labels))]
    top = _ceiling(max(sums, default=0))
    parts, step = [_axes(labels, top)], _step(labels)
    for n, label in enumerate(labels):
        at = 0.0
        for one in series:
            value = one.values[n] or 0
            if value:
                y, height = _y(at + value, top), _y(at, top) - _y(at + value, top)
                tip = f"{label}, {one.name}: {value:g}"
                parts.append(
                    f'<rect class="s-{escape(one.name)}" x="{_LEFT + step * (n + 0.12):.1f}" y="{y:.1f}" '
                    f'width="{step * 0.76:.1f}" height="{height:.1f}"><title>{escape(tip)}</title></rect>'
                )
                at += value
    return _svg(title, parts)


def lines(title: str, labels: Sequence[str], series: Sequence[Series], bounds: Mapping[str, float]) -> str:
    """A line of points for each series, and a dashed one at the bound of each."""
    values = [value for one in series for value in one.values if value is not None]
    top = _ceiling(max([*values, *bounds.values()], default=0))
    parts, step = [_axes(labels, top, " s")], _step(labels)
    for name, bound in bounds.items():
        y = _y(bound, top)
        parts.append(
            f'<line class="bound s-{escape(name)}" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
    for one in series:
        points = [
            (_LEFT + step * (n + 0.5), _y(value, top), labels[n], value)
            for n, value in enumerate(one.values)
            if value is not None
        ]
        way = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in points)
        parts.append(f'<polyline class="s-{escape(one.name)}" points="{way}"/>')
        parts += [
            f'<circle class="s-{escape(one.name)}" cx="{x:.1f}" cy="{y:.1f}" r="3.5">'
            f"<title>{escape(f'{label}, {one.name}: {value:.2f} s')}</title></circle>"
            for x, y, label, value in points
        ]
    return _svg(title, parts)


def horizontal_bars(title: str, values: Mapping[str, float], own: str, form: str) -> str:
    """A bar for each name, the own one marked; `form` formats a value, such as `${:.4f}`."""
    top = max(values.values(), default=0) or 1.0
    row, left = 30, 170
    parts = []
    for n, (name, value) in enumerate(values.items()):
        y, length = n * row + 8, (WIDTH - left - 90) * value / top
        kind = "own" if name == own else "other"
        parts.append(
            f'<text class="name" x="{left - 8}" y="{y + 14}">{escape(_short(name, 17))}</text>'
            f'<rect class="{kind}" x="{left}" y="{y}" width="{max(length, 1):.1f}" height="18"/>'
            f'<text x="{left + length + 6:.1f}" y="{y + 14}">{escape(form.format(value))}</text>'
        )
    return _svg(title, parts, height=len(values) * row + 8)


def _svg(title: str, parts: Sequence[str], height: int = HEIGHT) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def _axes(labels: Sequence[str], top: float, unit: str = "") -> str:
    parts = []
    for quarter in range(5):
        value, y = top * quarter / 4, _y(top * quarter / 4, top)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="tick" x="{_LEFT - 6}" y="{y + 4:.1f}">{value:g}{unit}</text>'
        )
    step = _step(labels)
    every = max(1, round(len(labels) / 8))
    parts += [
        f'<text class="label" x="{_LEFT + step * (n + 0.5):.1f}" y="{HEIGHT - 10}">{escape(label[5:] or label)}</text>'
        for n, label in enumerate(labels)
        if n % every == 0
    ]
    return "".join(parts)


def _step(labels: Sequence[str]) -> float:
    return (WIDTH - _LEFT - _RIGHT) / max(len(labels), 1)


def _y(value: float, top: float) -> float:
    return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * value / top


def _ceiling(value: float) -> float:
    """The next of 1, 2, 4, 8 or 10 times a power of ten; its quarters are round, too."""
    if value <= 0:
        return 4.0
    power = 10.0 ** len(str(int(value))[1:]) if value >= 1 else 0.01 if value < 0.1 else 0.1
    return next(power * factor for factor in (1, 2, 4, 8, 10, 20, 40, 80, 100) if power * factor >= value)


def _short(text: str, chars: int) -> str:
    return text if len(text) <= chars else f"{text[: chars - 1]}…"
