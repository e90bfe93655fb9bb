"""`python -m devtools.bench.worker.page`: the tables of docs/performance.md, from the committed figures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from devtools.bench.worker import figures
from devtools.bench.worker.aims import AIMS
from devtools.bench.worker.noise import Summary
from devtools.bench.worker.show import MET, number

PAGE = Path(__file__).parents[3] / "docs" / "performance.md"
BEGIN, END = "<!-- figures: python -m devtools.bench.worker.page -->", "<!-- end of figures -->"


def with_tables(text: str, folder: Path | None = None) -> str:
    """Return the page with the tables between its two marks written anew. Raises ValueError without marks."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError("the page has no marks for its tables")
    return "\n".join([head + BEGIN, "", *_tables(folder or figures.FOLDER), END]) + tail


def _tables(folder: Path) -> Iterator[str]:
    for file in sorted(folder.glob("*.json")):
        yield f"Machine: `{file.stem}`."
        yield ""
        yield "| figure | what | aim | median | lowest to highest | met |"
        yield "| --- | --- | --- | --- | --- | --- |"
        found = figures.load(file.stem, folder)
        for key, aim in AIMS.items():
            yield f"| `{key}` | {aim.what} | {aim.text()} | {_measured(key, found)} |"
        yield ""


def _measured(key: str, found: figures.Figures) -> str:
    if key not in found:
        return "not measured | |"
    summary = Summary.of(found[key])
    met = MET[AIMS[key].met(summary.median)]
    return f"{number(summary.median)} | {number(summary.low)} to {number(summary.high)} | {met}"


def main() -> None:
    """Write the page."""
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
