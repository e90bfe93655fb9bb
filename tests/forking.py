"""Worker processes by fork from one process that has imported everything: a worker's imports take 5 s of a core.

What a test starts is a process of its own all the same, with its own environment, log and exit code, that runs
`python -m MODULE` from the first line. The demo (`tests/devtools/test_demo.py`) and the command line's tests execute
Python anew, as production does.

Run as a module, this file is the parent of those processes: it reads one order a line on stdin, and answers on stdout.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from devtools.local.process import ChildProcess, die_with_parent

POLL_S = 0.02
# What each module imports, sooner or later; names after a colon are attributes that a package imports when asked.
IMPORTS = {
    "worker": (
        "worker.cli.run",
        "worker.app",
        "worker.models.load",
        "worker.engine.pipeline",
        "worker.engine.trial",
        "worker.engine.embeddings",
        "diffusers:StableDiffusionXLPipeline",
        "diffusers:StableDiffusionXLImg2ImgPipeline",
        "transformers:CLIPTextModelWithProjection",
        "transformers:CLIPTokenizer",
    ),
    "tests.chaos.worker_main": ("worker.app", "tests.chaos.stand_in", "tests.chaos.trace"),
}
# Workers with something changed: their imports are `worker`'s, and so is the process that forks them.
CHANGED_WORKERS = ("tests.deploy.stand_in_gpu", "tests.path.poisoned_worker")


class ForkedProcess(ChildProcess):
    """A `ChildProcess` that runs `python -m MODULE ARGUMENTS…` without importing again what many workers import."""

    def __init__(self, name: str, command: Sequence[str], log_path: Path, env: Mapping[str, str]) -> None:
        """Describe it: `command` is the module and its arguments."""
        super().__init__(name, command, log_path, env)

    def _spawn(self) -> Any:
        # As for any child: the log is there once the start has returned, and one that can't be written is told at once.
        self.log_path.touch()
        return _PARENTS[self._command[0]].fork(self._command, os.environ | self._env, self.log_path)


class _Forked:
    """What `ChildProcess` needs of a `subprocess.Popen`, for a process that is a child of the forking one."""

    def __init__(self, parent: _Parent, pid: int) -> None:
        self._parent, self.pid = parent, pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._parent.ask({"code_of": self.pid})
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("a forked worker", timeout or 0)
            time.sleep(POLL_S)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        # Until `poll` has told its end, the process keeps its id.
        if self.poll() is None:
            os.kill(self.pid, number)


class _Parent:
    """The forking process for a module, started with the first of its workers; it ends with this process."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def fork(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> _Forked:
        """Start a process; called on the spawner's thread, which lives as long as this process."""
        return _Forked(self, self.ask({"run": list(command), "environment": dict(environment), "log": str(log)}))

    def ask(self, order: Mapping[str, Any]) -> Any:
        with self._lock:
            if self._process is None:
                self._process = _start(self._module)
                atexit.register(_end, self._process)
            orders, answers = _pipes(self._process)
            print(json.dumps(order), file=orders, flush=True)
            return json.loads(answers.readline())


def _start(module: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", __name__, module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"},
        text=True,
        start_new_session=True,
        preexec_fn=die_with_parent(),
    )


def _end(process: subprocess.Popen[str]) -> None:
    orders, answers = _pipes(process)
    for pipe in (orders, answers):
        pipe.close()
    process.wait()


def _pipes(process: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout


def serve(module: str) -> list[str]:
    """Import what `module` needs, and obey orders until stdin ends.

    Returns in every forked child, with the module that it is to run and its arguments.
    """
    _import_all(module)
    arm = die_with_parent()
    for line in sys.stdin:
        order = json.loads(line)
        if "code_of" in order:
            answer = _code_of(order["code_of"])
        else:
            answer = os.fork()
            if not answer:
                if arm is not None:
                    arm()
                _become(order)
                return list(order["run"])
        print(json.dumps(answer), flush=True)
    os._exit(0)


def _import_all(module: str) -> None:
    for entry in IMPORTS[module]:
        name, _, attribute = entry.partition(":")
        imported = importlib.import_module(name)
        if attribute:
            getattr(imported, attribute)


def _code_of(pid: int) -> int | None:
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def _become(order: Mapping[str, Any]) -> None:
    os.setsid()
    log = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    null = os.open(os.devnull, os.O_RDONLY)
    for number, file in enumerate((null, log, log)):
        os.dup2(file, number)
    os.close(log)
    os.close(null)
    os.environ.clear()
    os.environ.update(order["environment"])
    time.tzset()


_PARENTS = {module: _Parent(module) for module in IMPORTS}
_PARENTS |= dict.fromkeys(CHANGED_WORKERS, _PARENTS["worker"])
# The modules that can be run so.
FORKED = frozenset(_PARENTS)

if __name__ == "__main__":
    arguments = serve(sys.argv[1])
    sys.argv = arguments
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
