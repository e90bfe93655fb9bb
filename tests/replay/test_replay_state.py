"""The state file of a replay: what survives a kill, and what is rejected."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.client.errors import CommandError
from worker.replay.selection import Selection
from worker.replay.state import Done, State

SELECTION = Selection(since_ms=1, until_ms=2)


def state(path: Path, mode: str = "verify", selection: Selection = SELECTION) -> State:
    return State(path, "id-1", mode, selection)


def test_a_second_run_knows_the_first_ones_jobs_and_selection(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "state.jsonl"
    with state(path) as first:
        first.add(Done("a", "same"))
        first.add(Done("b", "differs", ("model: x then, y now",)))
    with state(path, selection=Selection(since_ms=5)) as second:
        assert second.selection == SELECTION
        assert {job: done.result for job, done in second.done.items()} == {"a": "same", "b": "differs"}


@pytest.mark.parametrize("torn", ['{"job_id": "b", "res', "ü", "{"])
def test_a_line_that_a_kill_cut_short_is_forgotten(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "state.jsonl"
    with state(path) as first:
        first.add(Done("ä", "same"))
    with path.open("a") as file:
        file.write(torn)
    with state(path) as second:
        assert list(second.done) == ["ä"]
        second.add(Done("b", "same"))
    with state(path) as third:
        assert list(third.done) == ["ä", "b"]


def test_a_replay_runs_once_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "state.jsonl"
    with state(path), pytest.raises(CommandError, match="is running"), state(path):
        pass


def test_the_state_of_another_kind_of_replay_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.jsonl"
    with state(path, "publish"):
        pass
    with pytest.raises(CommandError, match="--publish"), state(path, "verify"):
        pass


def test_a_file_that_is_no_state_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "state.jsonl"
    path.write_text("precious\n")
    with pytest.raises(CommandError, match="not the state file"), state(path):
        pass
    assert path.read_text() == "precious\n"


@pytest.mark.parametrize("content", [b"no line break at its end", b"\xff\xfe\x00", b"[]", b"1\n2\n3"])
def test_a_mistyped_path_costs_no_file_its_end(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(CommandError, match="is not the state file of a replay"):
        state(path).__enter__()
    assert path.read_bytes() == content


def test_a_first_line_that_a_kill_cut_short_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "state.jsonl"
    path.write_text('{"replay_id": "id-')
    with state(path) as first:
        assert first.done == {}
    with state(path) as second:
        assert second.selection == SELECTION
