"""The three modes of a replay: count, verify and publish."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

from rich.table import Table
from rich.text import Text

from worker import app
from worker.cli.forget.record import forgotten_digests, job_digest
from worker.cli.output import json_line, note_console, print_json, result_console
from worker.cli.replay.options import same_but_for_the_window
from worker.cli.replay.progress import ReplayProgress
from worker.client.connection import Connection
from worker.client.errors import CommandError
from worker.delivery.finish import Finisher
from worker.delivery.messages import MessageWriter
from worker.delivery.upload import PictureStore
from worker.engine.safety import make_screen
from worker.errors import StoreUnavailable
from worker.job import Lane
from worker.replay.plan import Item, Plan, items, read_history, read_plan
from worker.replay.publish import Batch, Remaker, Results, Sent, needs_model
from worker.replay.selection import Selection
from worker.replay.state import Done, State
from worker.replay.verify import BAD, Verdict, Verifier
from worker.rule_files import read_rules
from worker.telemetry import logs

VERIFY, PUBLISH = "verify", "publish"
EXIT_INTERRUPTED = 130
# Allowed difference between the clocks of the brokers and of this machine.
_SKEW_MS = 60_000

_STYLES = {
    Verdict.SAME: "green",
    Verdict.DIFFERS: "yellow",
    Verdict.SKIPPED: "dim",
    Sent.REPUBLISHED: "green",
    Sent.MADE: "green",
    Sent.FAILED: "yellow",
}
# Results that do not get a line each, since there may be thousands.
_SILENT = frozenset({Verdict.SAME, Verdict.SKIPPED, Sent.REPUBLISHED, Sent.MADE})


def count(connection: Connection, selection: Selection, *, as_json: bool) -> None:
    """Print the number of jobs by lane and standing; nothing is made or published."""
    store = _store(connection)
    plan = _read(connection, selection, None)
    _leave_out_forgotten(plan, store)
    with ThreadPoolExecutor(connection.settings.upload_threads) as pool:
        counts = Counter(
            (item.requested.lane, item.label)
            for item in _guarded(items(plan, store, read_rules(connection.settings), pool))
        )
    if as_json:
        by_lane = {lane.label: {label: n for (at, label), n in sorted(counts.items()) if at is lane} for lane in Lane}
        print_json({"jobs": len(plan.jobs), "by_lane": by_lane, "cancelled": len(plan.cancelled)} | _left_out(plan))
        return
    result_console().print(_table(counts))
    print(f"{len(plan.jobs)} jobs; nothing was made or published (that takes --verify or --publish)")
    for line in left_out_lines({"cancelled": len(plan.cancelled)} | _left_out(plan)):
        print(line)


class Replay:
    """One replay that verifies or publishes; its state file records which jobs are done."""

    def __init__(self, connection: Connection, mode: str, replay_id: str, path: Path, *, as_json: bool) -> None:
        self._connection = connection
        self._settings = connection.settings
        self._rules = read_rules(connection.settings)
        self._mode = mode
        self._id = replay_id
        self._path = path
        self._as_json = as_json
        self._notes = note_console()

    def run(self, given: Selection | None) -> int:
        """Run the replay and return the exit code.

        Raises:
            CommandError: the replay cannot continue now.
            StartupError: the model or the bucket is not usable.
        """
        logs.configure("warning", self._settings.log_format)
        self._say(f"replay {self._id}, state in {self._path}")
        store = _store(self._connection)
        with ExitStack() as stack:
            state = stack.enter_context(State(self._path, self._id, self._mode, given or Selection()))
            if given is not None and not same_but_for_the_window(given, state.selection):
                raise CommandError(f"replay {self._id} was started with another selection: leave those flags out")
            pool = ThreadPoolExecutor(self._settings.upload_threads)
            stack.callback(pool.shutdown, cancel_futures=True)
            try:
                (self._verify if self._mode == VERIFY else self._publish)(state, store, pool)
            except KeyboardInterrupt:
                self._say(
                    f"interrupted after {len(state.done)} jobs; continue with --{self._mode} --replay-id {self._id}"
                )
                return EXIT_INTERRUPTED
            except StoreUnavailable as error:
                raise CommandError(f"{error}; continue with --{self._mode} --replay-id {self._id}") from error
            return self._conclude(state)

    def _verify(self, state: State, store: PictureStore, pool: ThreadPoolExecutor) -> None:
        plan = self._plan(state, store)
        if not plan.jobs:
            return
        loaded = app.load_engine(self._settings)
        verifier = Verifier(loaded.make_engine, loaded.info, store, self._settings, pool)
        with self._progress(state, plan) as progress:
            for done in verifier.verify(items(plan, store, self._rules, pool)):
                self._finished(state, progress, done)

    def _publish(self, state: State, store: PictureStore, pool: ThreadPoolExecutor) -> None:
        started_ms = int(time.time() * 1000) - _SKEW_MS

        def answered() -> set[str]:
            return read_history(self._connection, state.selection, self._id, since_ms=started_ms).answered

        results = Results(self._connection, self._id, answered)
        results.open()
        plan = self._plan(state, store)
        todo = list(items(plan, store, self._rules, pool))
        messages = MessageWriter(self._connection.topics, self._settings.worker_id)
        remaker = Remaker(store, messages, self._rules, pool, self._id)
        if needs_model(todo):
            loaded = app.load_engine(self._settings)
            finisher = Finisher(store, loaded.info, self._settings, screen=make_screen(self._settings))
            remaker = replace(remaker, make_engine=loaded.make_engine, finisher=finisher)
        with self._progress(state, plan) as progress:
            batch = Batch(results, lambda done: self._finished(state, progress, done))
            for ready in remaker.results(iter(todo)):
                batch.add(ready)
            batch.flush()

    def _plan(self, state: State, store: PictureStore) -> Plan:
        """Return the plan without the jobs that an earlier run has finished, and those that were forgotten."""
        plan = _read(self._connection, state.selection, self._id)
        _leave_out_forgotten(plan, store)
        if plan.forgotten:
            self._say(f"{plan.forgotten} jobs were forgotten and are left out")
        for job_id in plan.history.answered - state.done.keys():
            # The earlier run was interrupted between publishing this result and recording it in the state file.
            state.add(Done(job_id, Sent.REPUBLISHED.value, ("published before an interruption",)))
        plan.jobs = [records for records in plan.jobs if records[0].job_id not in state.done]
        if state.done:
            self._say(f"{len(state.done)} jobs were done before")
        return plan

    def _progress(self, state: State, plan: Plan) -> ReplayProgress:
        done = len(state.done)
        return ReplayProgress(self._notes, self._mode, done + len(plan.jobs), done)

    def _finished(self, state: State, progress: ReplayProgress, done: Done) -> None:
        state.add(done)
        progress.advance()
        if self._as_json:
            progress.print_line(json_line(asdict(done)))
        elif done.result not in _SILENT:
            progress.print_line(_line(done))

    def _conclude(self, state: State) -> int:
        kinds = Verdict if self._mode == VERIFY else Sent
        results = Counter(done.result for done in state.done.values())
        counts = {kind.value: results[kind.value] for kind in kinds}
        if self._as_json:
            print_json({"replay_id": self._id, "jobs": len(state.done)} | counts)
        else:
            summary = ", ".join(f"{n} {name}" for name, n in counts.items())
            print(f"{len(state.done)} jobs: {summary}")
        return int(any(results[kind] for kind in (*BAD, Sent.REFUSED)))

    def _say(self, text: str) -> None:
        self._notes.print(text, markup=False, soft_wrap=True)


def _store(connection: Connection) -> PictureStore:
    store = PictureStore.from_settings(connection.settings)
    store.require_bucket()
    return store


def _read(connection: Connection, selection: Selection, replay_id: str | None) -> Plan:
    with note_console().status("reading requests and results"):
        return read_plan(connection, selection, replay_id)


def _leave_out_forgotten(plan: Plan, store: PictureStore) -> None:
    """Take out what `forget` has removed: it must not be made again.

    Raises:
        CommandError: the records of forgetting cannot be read.
    """
    try:
        digests = forgotten_digests(store.objects)
    except StoreUnavailable as error:
        raise CommandError(f"the records below forgotten/ cannot be read: {error}") from error
    kept = [records for records in plan.jobs if job_digest(records[0].job_id) not in digests]
    plan.forgotten = len(plan.jobs) - len(kept)
    plan.jobs = kept


def _guarded(found: Iterator[Item]) -> Iterator[Item]:
    try:
        yield from found
    except StoreUnavailable as error:
        raise CommandError(str(error)) from error


def _left_out(plan: Plan) -> dict[str, int]:
    counts = {"repeats": plan.repeats, "undecodable": plan.undecodable, "undated": plan.undated}
    return counts | {"forgotten": plan.forgotten}


def left_out_lines(counts: Mapping[str, int]) -> Iterator[str]:
    """What the selection names and is left out, or was met on the way: a sentence each."""
    for name, count in counts.items():
        if count:
            yield _LEFT_OUT[name].format(count)


_LEFT_OUT = {
    "cancelled": "left out, cancelled jobs: {} (--job-id or --error-code cancelled names them)",
    "repeats": "left out, further records of these jobs: {} (a job is replayed once)",
    "undecodable": "left out, records that hold no request: {} (see the dead-letter topic)",
    "undated": "left out, requests without a time that can be true: {} (name them by --offsets or --job-id)",
    "forgotten": "left out, forgotten jobs: {}",
}


def _table(counts: Counter[tuple[Lane, str]]) -> Table:
    labels = sorted({label for _, label in counts})
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("standing")
    for lane in Lane:
        table.add_column(lane.label, justify="right")
    for label in labels:
        table.add_row(label, *(str(counts[lane, label]) for lane in Lane))
    return table


def _line(done: Done) -> Text:
    return Text.assemble(
        (f"{done.result:<12}", _STYLES.get(done.result, "red")),  # type: ignore[call-overload]
        (done.job_id, "bold"),
        *((" ", "; ".join(done.why)) if done.why else ()),
    )
