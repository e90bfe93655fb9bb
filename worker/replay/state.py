"""State file of a replay: one line per finished job, from which an interrupted replay continues."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from worker.client.errors import CommandError
from worker.replay.selection import Selection

# What the first line begins with.
_HEAD = '{"replay_id": '


@dataclass(frozen=True, slots=True)
class Done:
    """The result of a replayed job, and the reasons in words."""

    job_id: str
    result: str
    why: Sequence[str] = ()


class State:
    """The state file of one replay; once open, `selection` and `done` are those of the earlier run, if there was one.

    The file is locked while it is open, so that only one process runs the replay at a time.
    """

    def __init__(self, path: Path, replay_id: str, mode: str, selection: Selection) -> None:
        self.path = path
        self.replay_id = replay_id
        self.mode = mode
        self.selection = selection
        self.done: dict[str, Done] = {}
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a+", encoding="utf-8")
        try:
            self._begin(self._file)
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, done: Done) -> None:
        """Record a finished job; its line has been handed to the operating system when this returns."""
        self.done[done.job_id] = done
        self._write(asdict(done))

    def _begin(self, file: IO[str]) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CommandError(f"replay {self.replay_id} is running: {self.path} is locked") from None
        file.seek(0)
        try:
            *lines, cut_short = file.read().split("\n")
        except UnicodeDecodeError:
            raise CommandError(f"{self.path} is not the state file of a replay: it is not UTF-8 text") from None
        if lines:
            self._resume(lines)
        elif not _HEAD.startswith(cut_short[: len(_HEAD)]):
            raise CommandError(f"{self.path} is not the state file of a replay")
        if cut_short:
            # Remove an incomplete last line, left by a process that was killed while it wrote. Only once the file is
            # known to be a state file: the path may be mistyped.
            file.truncate(sum(len(line.encode()) + 1 for line in lines))
        if not lines:
            self._write({"replay_id": self.replay_id, "mode": self.mode, "selection": self.selection.to_json()})

    def _write(self, record: dict[str, Any]) -> None:
        assert self._file is not None
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def _resume(self, lines: list[str]) -> None:
        try:
            head, *rest = [json.loads(line) for line in lines]
            same = (head["replay_id"], head["mode"]) == (self.replay_id, self.mode)
            selection = Selection.from_json(head["selection"])
            self.done = {record["job_id"]: Done(**record) for record in rest}
        except (ValueError, KeyError, TypeError) as error:
            raise CommandError(f"{self.path} is not the state file of a replay: {error}") from None
        if not same:
            raise CommandError(
                f"{self.path} belongs to replay {head['replay_id']}, which was started with --{head['mode']}"
            )
        self.selection = selection
