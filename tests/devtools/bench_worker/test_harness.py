"""`bench worker`: medians, noise, committed figures, and the verb with a stand-in part. No timing is asserted."""

from __future__ import annotations

import io
import itertools
import json
import random
import sys
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from devtools.bench.worker import figures, parts, show
from devtools.bench.worker.aims import AIMS
from devtools.bench.worker.noise import Summary, chance, moved
from devtools.bench.worker.report import run
from devtools.cli.bench import app
from worker.client.errors import CommandError

HERE = __name__
STEADY = [0.95, 0.96, 0.97, 0.98, 0.99]


def measure(repeats: int) -> dict[str, list[float]]:
    """The stand-in part."""
    return {"efficiency_over_bare": STEADY[:repeats], "device_idle_share": [0.02] * repeats, "more": [1234.5] * repeats}


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Two parts, of which the second is not there; the folder of committed figures."""
    monkeypatch.setattr(parts, "PARTS", {"small": HERE, "broken": f"{HERE}.missing"})
    monkeypatch.setattr(parts, "import_module", lambda name: sys.modules[name])
    monkeypatch.setattr(figures, "FOLDER", tmp_path / "figures")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the verb sets it for the process, which here is the tests'
    return tmp_path / "figures"


def test_a_summary_is_median_and_range() -> None:
    assert Summary.of([3.0, 1.0, 2.0]) == Summary(2.0, 1.0, 3.0)
    with pytest.raises(ValueError, match="median of nothing"):
        Summary.of([])


def test_the_chance_is_that_of_all_orders() -> None:
    """Against the definition: every way in which the pooled values could have fallen to the two runs."""
    draw = random.Random(3)
    for _ in range(20):
        before = [draw.randint(0, 6) / 2 for _ in range(4)]
        after = [draw.randint(0, 8) / 2 for _ in range(3)]
        pooled = [*before, *after]
        ranks = [sum(o < v for o in pooled) + (sum(o == v for o in pooled) + 1) / 2 for v in pooled]
        middle = 3 * (len(pooled) + 1) / 2
        ways = [sum(ranks[i] for i in some) for some in itertools.combinations(range(7), 3)]
        far = abs(sum(ranks[4:]) - middle)
        assert chance(before, after) == pytest.approx(sum(abs(way - middle) >= far for way in ways) / len(ways))


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (STEADY, False),
        ([value * 0.9 for value in STEADY], True),
        ([value * 1.1 for value in STEADY], True),
        ([value * 0.98 for value in STEADY], False),  # within the noise
        ([1.0001, 1.0002, 1.0003, 1.0004, 1.0005], True),
        (STEADY[:4], None),
    ],
)
def test_what_has_moved(after: list[float], expected: bool | None) -> None:
    assert moved(STEADY, after) is expected


def test_a_change_below_that_between_two_runs_is_none() -> None:
    assert moved([1.0] * 5, [1.02] * 5) is False
    assert moved([1.0] * 5, [1.05] * 5) is True
    assert moved([3.0] * 5, [4.0] * 5) is True
    assert moved([0.0] * 5, [0.0] * 5) is False


def test_aims_are_kept_from_the_right_side() -> None:
    assert AIMS["efficiency_over_bare"].met(0.97)
    assert AIMS["efficiency_over_bare"].met(0.96) is False
    assert AIMS["device_idle_share"].met(0.01)
    assert AIMS["device_idle_share"].met(0.02) is False
    assert AIMS["efficiency_over_plain"].met(1.0) is None


def test_a_kind_of_machine_names_no_host() -> None:
    assert figures.kind_of("Intel(R) Xeon(R) CPU @ 2.20GHz", 4, 15.6) == "intel-r-xeon-r-cpu-2-20ghz-4-cores-16-gb"
    assert figures.kind_of("AMD EPYC", 2, 23.4) == "amd-epyc-2-cores-32-gb"


def test_kept_figures_replace_those_of_the_same_keys(tmp_path: Path) -> None:
    figures.keep("kind", {"a": [1.0], "b": [2.0]}, tmp_path)
    figures.keep("kind", {"b": [3.0, 4.0]}, tmp_path)
    assert figures.load("kind", tmp_path) == {"a": [1.0], "b": [3.0, 4.0]}
    assert figures.load("other", tmp_path) == {}


def test_the_verb_reports_keeps_and_compares(stand_in: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "worker.json"
    result = CliRunner().invoke(app, ["worker", "--repeats", "5", "--keep", "--json", "--out", str(out)])
    assert result.exit_code == 1, result.output  # one part is not there
    report = json.loads(out.read_text())
    assert report["efficiency_over_bare"] == 0.97
    assert report["figures"]["efficiency_over_bare"] | {"values": None} == {
        "median": 0.97, "low": 0.95, "high": 0.99, "aim": 0.97, "met": True,
        "committed": None, "moved": None, "values": None,
    }  # fmt: skip
    assert list(report["failed"]) == ["broken"]
    assert figures.load(figures.machine_kind(), stand_in)["more"] == [1234.5] * 5

    committed = {"efficiency_over_bare": [value * 1.2 for value in STEADY], "device_idle_share": [0.02] * 5}
    again = run({"small": HERE}, 5, "kind", committed, lambda _name, _report: None)
    told = list(show.lines(again))
    assert told == ["efficiency_over_bare moved by more than its noise: 1.16 → 0.970, worse"]
    assert list(show.lines(run({"small": HERE}, 3, "kind", committed, lambda *_: None))) == [
        "2 of 2 figures have too few pairs to be compared"
    ]
    console = Console(file=io.StringIO(), width=show.WIDTH)
    console.print(show.table(again))
    assert isinstance(console.file, io.StringIO)
    lines = [line.split() for line in console.file.getvalue().splitlines()]
    assert ["efficiency_over_bare", "0.970", "0.950–0.990", "≥", "0.97", "yes"] in lines
    assert ["device_idle_share", "0.0200", "0.0200–0.0200", "≤", "0.01", "no"] in lines


def test_one_part_alone(stand_in: Path, tmp_path: Path) -> None:
    del stand_in
    out = str(tmp_path / "worker.json")
    result = CliRunner().invoke(app, ["worker", "--only", "small", "--repeats", "2", "--out", out])
    assert result.exit_code == 0, result.output
    assert "nothing to compare with" in result.output


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [(["--only", "speed"], "known: small, broken"), (["--keep", "--repeats", "4"], "fewer than 5 pairs")],
)
def test_mistakes_are_one_line(stand_in: Path, arguments: list[str], complaint: str) -> None:
    del stand_in
    result = CliRunner().invoke(app, ["worker", *arguments])
    assert isinstance(result.exception, CommandError)
    assert complaint in str(result.exception)
