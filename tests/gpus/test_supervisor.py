"""Starts, restarts and signals: with children that are told what to do, and with real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from worker.gpus.cards import Card
from worker.gpus.plan import Plan
from worker.gpus.restarts import FIRST_PAUSE_S, MAX_PAUSE_S, WELL_AFTER_S, Restarts
from worker.gpus.supervisor import Supervisor, make_caches

DRAIN_S = 0.2


def plan(number: int) -> Plan:
    return Plan(Card(f"GPU-{number}", "x", number), f"box-gpu{number}", {}, ())


def test_a_cache_that_cannot_be_made_stops_nobody(tmp_path: Path) -> None:
    """A container with a read-only root and no volume for kernels: its workers keep them elsewhere."""
    (tmp_path / "file").write_text("")
    refused, made = tmp_path / "file/gpu0", tmp_path / "kernels/gpu0"
    make_caches([Plan(Card("GPU-0", "x", 0), "box-gpu0", {}, (refused, made))])
    assert made.is_dir()
    assert not refused.exists()


class Child:
    """A process that ends when it is told to."""

    pid = 1

    def __init__(self) -> None:
        self.code: int | None = None
        self.signals: list[int] = []

    def poll(self) -> int | None:
        return self.code

    def send_signal(self, number: int) -> None:
        self.signals.append(number)


class World:
    """A supervisor and the children that it has started, by the worker's name."""

    def __init__(self, count: int = 2) -> None:
        self.started: dict[str, list[Child]] = {}
        self.supervisor = Supervisor([plan(number) for number in range(count)], self._start)

    def _start(self, plan: Plan) -> Child:
        child = Child()
        self.started.setdefault(plan.name, []).append(child)
        return child

    def of(self, number: int) -> list[Child]:
        return self.started[f"box-gpu{number}"]

    def tick(self, now: float, signals: int = 0) -> int | None:
        return self.supervisor.tick(signals, now)


def test_one_that_dies_is_started_again_and_the_others_are_left_alone() -> None:
    world = World()
    world.tick(0)
    world.of(0)[0].code = -9
    world.tick(100)
    assert len(world.of(0)) == 1
    world.tick(100 + FIRST_PAUSE_S)
    assert (len(world.of(0)), len(world.of(1))) == (2, 1)


def test_pauses_double_to_a_limit_and_begin_anew_after_a_good_while() -> None:
    restarts = Restarts()
    pauses = []
    for _ in range(10):
        at = restarts.after(1, 0.0)
        assert at is not None
        pauses.append(at)
    assert pauses[:4] == [1, 2, 4, 8]
    assert pauses[-1] == MAX_PAUSE_S
    assert restarts.after(1, WELL_AFTER_S) == WELL_AFTER_S + FIRST_PAUSE_S


def test_wrong_settings_are_not_tried_again_and_are_the_exit_code_in_the_end() -> None:
    world = World()
    world.tick(0)
    world.of(0)[0].code = 2
    assert world.tick(1) is None
    world.tick(1_000)
    assert len(world.of(0)) == 1
    world.of(1)[0].code = 2
    assert world.tick(1_001) == 2


def test_a_worker_that_was_told_to_stop_stays_stopped() -> None:
    world = World(1)
    world.tick(0)
    world.of(0)[0].code = 0
    assert world.tick(1) == 0


def test_the_first_signal_drains_all_at_once_and_the_second_is_passed_on() -> None:
    world = World()
    world.tick(0)
    for now in (1, 2):
        assert world.tick(now, signals=1) is None
        assert [child.signals for child in (world.of(0)[0], world.of(1)[0])] == [[signal.SIGTERM]] * 2
    for now in (3, 4):
        world.tick(now, signals=2)
        assert world.of(0)[0].signals == [signal.SIGTERM] * 2
    world.of(0)[0].code = world.of(1)[0].code = -signal.SIGTERM
    assert world.tick(5, signals=2) == 1


def test_while_it_stops_nothing_is_started_again() -> None:
    world = World()
    world.tick(0)
    world.of(0)[0].code = 1
    world.tick(1)  # a restart is due at 2
    assert world.tick(1.5, signals=1) is None
    world.of(1)[0].code = 0
    assert world.tick(100, signals=1) == 1
    assert len(world.of(0)) == 1


def test_a_drain_of_all_is_success() -> None:
    world = World()
    world.tick(0)
    world.tick(1, signals=1)
    world.of(0)[0].code, world.of(1)[0].code = 0, -signal.SIGTERM  # the second one was still importing
    assert world.tick(2, signals=1) == 0


TOY = textwrap.dedent(
    f"""\
    import json, os, pathlib, signal, sys, time
    me = pathlib.Path(sys.argv[1]) / os.environ["WORKER_ID"]
    asked = []
    def on_signal(*_):
        if asked:
            os._exit(15)
        asked.append(1)
        me.with_suffix(".asked").touch()
    signal.signal(signal.SIGTERM, on_signal)
    told = {{name: os.environ[name] for name in ("CUDA_VISIBLE_DEVICES", "HTTP_PORT", "WORKER_ID")}}
    starts = me.with_suffix(".starts")
    starts.write_text(starts.read_text() + "x" if starts.exists() else "x")
    me.with_suffix(".json").write_text(json.dumps(told | {{"pid": os.getpid()}}))
    while not asked:
        time.sleep(0.01)
    time.sleep({DRAIN_S} if os.environ.get("SLOW") is None else 60)
    me.with_suffix(".drained").touch()
    """
)
SUPERVISOR = textwrap.dedent(
    """\
    import os, sys
    from pathlib import Path
    from worker.gpus.cards import Card
    from worker.gpus.plan import plan_workers
    from worker.gpus.supervisor import supervise
    folder = Path(sys.argv[1])
    cards = [Card(f"GPU-{letter}", "x", number) for number, letter in enumerate("abc")]
    plans = plan_workers(cards, worker_id="box", http_port=8100, device="auto", environment={}, home=folder / "cache")
    sys.exit(supervise(plans, (sys.executable, str(folder / "toy.py"), str(folder))))
    """
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "toy.py").write_text(TOY)
    return tmp_path


@pytest.fixture
def box(folder: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    """A real supervisor with three toy workers that have all begun."""
    environment = {**os.environ, **getattr(request, "param", {})}
    process = subprocess.Popen([sys.executable, "-c", SUPERVISOR, str(folder)], env=environment)
    try:
        wait_for(lambda: len(list(folder.glob("*.json"))) == 3 and all(map(pid_of, folder.glob("*.json"))))
        yield process
    finally:
        process.kill()
        process.wait()
        pids = [pid_of(file) for file in folder.glob("*.json")]
        wait_for(lambda: not any(map(alive, pids)), last=lambda: kill(pids))


def kill(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def pid_of(file: Path) -> int:
    text = file.read_text()
    return int(json.loads(text)["pid"]) if text else 0


def alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def wait_for(done: Callable[[], bool], within_s: float = 30.0, last: Callable[[], object] | None = None) -> None:
    deadline = time.monotonic() + within_s
    while not done():
        if time.monotonic() > deadline:
            if last is not None:
                last()
                return
            raise AssertionError("it did not come to that")
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux'")
class TestRealProcesses:
    def test_each_is_told_its_card_and_one_signal_drains_all(self, box: subprocess.Popen[bytes], folder: Path) -> None:
        told = {file.stem: json.loads(file.read_text()) for file in folder.glob("*.json")}
        assert {name: (one["CUDA_VISIBLE_DEVICES"], one["HTTP_PORT"]) for name, one in told.items()} == {
            "box-gpu0": ("GPU-a", "8100"), "box-gpu1": ("GPU-b", "8101"), "box-gpu2": ("GPU-c", "8102"),
        }  # fmt: skip
        box.terminate()
        assert box.wait(30) == 0
        assert len(list(folder.glob("*.drained"))) == 3

    def test_one_that_is_killed_comes_back(self, box: subprocess.Popen[bytes], folder: Path) -> None:
        os.kill(pid_of(folder / "box-gpu1.json"), signal.SIGKILL)
        wait_for(lambda: (folder / "box-gpu1.starts").read_text() == "xx")
        assert (folder / "box-gpu0.starts").read_text() == "x"
        assert box.poll() is None

    @pytest.mark.parametrize("box", [{"SLOW": "1"}], indirect=True)
    def test_a_second_signal_ends_a_drain_that_takes_long(self, box: subprocess.Popen[bytes], folder: Path) -> None:
        box.terminate()
        wait_for(lambda: len(list(folder.glob("*.asked"))) == 3)
        assert box.poll() is None
        box.terminate()
        assert box.wait(30) == 1
        assert list(folder.glob("*.drained")) == []

    def test_workers_do_not_outlive_a_supervisor_that_is_killed(
        self, box: subprocess.Popen[bytes], folder: Path
    ) -> None:
        pids = [pid_of(file) for file in folder.glob("*.json")]
        box.kill()
        wait_for(lambda: not any(map(alive, pids)))
        assert len(list(folder.glob("*.drained"))) == 3
