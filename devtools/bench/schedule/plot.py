"""Plot the waits per policy and lane. Only this module imports matplotlib, which is a development dependency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path

from devtools.bench.schedule.policies import FIFO, OURS, PRIORITY, STEP
from worker.job import Lane

Waits = Mapping[str, Mapping[str, Sequence[float]]]

# Okabe and Ito's colours, which are safe for colour-blind readers, and line styles that differ without colours.
_LOOKS = {
    FIFO: ("#999999", ":", 1.6),
    PRIORITY: ("#E69F00", "--", 1.6),
    STEP: ("#56B4E9", "-.", 1.6),
    OURS: ("#D55E00", "-", 2.4),
}
_LEAST_STEPS = 0.1


def draw(waits: Waits, title: str, path: Path) -> None:
    """Write a PNG that shows, for each lane, the share of jobs whose first step ran within a number of step times."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, PercentFormatter

    figure, axes = pyplot.subplots(1, len(Lane), figsize=(11, 3.9), sharey=True, layout="constrained")
    longest = max(wait for by_class in waits.values() for some in by_class.values() for wait in some)
    for axis, lane in zip(axes, Lane, strict=True):
        for name, by_class in waits.items():
            some = sorted(by_class.get(lane.label, []))
            if not some:
                continue
            colour, style, width = _LOOKS[name]
            shares = [(i + 1) / len(some) for i in range(len(some))]
            shown = [max(wait, _LEAST_STEPS) for wait in some]
            axis.step(shown, shares, where="post", color=colour, linestyle=style, linewidth=width, label=name)
            rank = ceil(0.99 * len(some)) - 1
            axis.plot(shown[rank], shares[rank], "o", color=colour, markersize=5)
        axis.set_xscale("log")
        axis.set_xlim(_LEAST_STEPS, longest * 1.3)
        axis.set_title(lane.label, fontsize=11, fontweight="bold")
        axis.set_xlabel("wait for the first step, in UNet steps")
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.grid(color="#dddddd", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("share of jobs started")
    axes[0].yaxis.set_major_formatter(PercentFormatter(1.0))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(waits), frameon=False)
    figure.suptitle(title, fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
