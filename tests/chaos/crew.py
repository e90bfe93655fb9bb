"""The processes of workers and dispatchers in a run, and the faults that are applied to them."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from devtools.local.process import ChildProcess
from tests.chaos.roles import DISPATCHER, role_of
from tests.chaos.worker_main import EXIT_CANNOT_START
from worker.threads import EXIT_CRASHED

# As Kubernetes would: a worker that ended by itself comes again.
RESTART_PAUSE_S = 1.0
# The default of DRAIN_TIMEOUT_S, and as much more as `k8s/base` grants: with all brokers away, each wait for a commit
# and for leaving the group lasts until its end.
DRAIN_LIMIT_S = 30.0 + 120.0
AT_WORK_SHARE = 0.8
LAST_WORDS = 4000
# How `faulthandler` begins where librdkafka froze the interpreter while a member left (`SystemThreads.call`): the
# process is ended, by design, and nothing may be lost by that either.
_FROZEN = "Timeout (0:00:"


@dataclass(frozen=True, slots=True)
class Life:
    """One process of a worker or dispatcher: `log` and `work` are its files, named alike."""

    name: str
    process: ChildProcess
    log: Path
    work: Path


@dataclass(slots=True)
class Post:
    """A place for a worker or a dispatcher.

    `since`: when a drain began, in the monotonic clock's seconds; `until`: when what was done to it is over.
    """

    name: str
    life: Life
    state: str = "up"
    until: float = 0.0
    since: float = 0.0


@dataclass(slots=True)
class Crew:
    """Keeps `posts` filled; `hire(name)` starts a process."""

    hire: Callable[[str], Life]
    names: list[str]
    rng: random.Random
    posts: list[Post] = field(default_factory=list)
    kills: list[tuple[float, Life]] = field(default_factory=list)
    stalls: int = 0
    drains: int = 0
    longest_drain_s: float = 0.0
    refused_starts: int = 0
    frozen_drains: int = 0
    crashes: list[str] = field(default_factory=list)

    def start(self) -> None:
        self.posts = [Post(name, self.hire(name)) for name in self.names]

    def kill(self, lasts_s: float, new_name: bool) -> bool:
        """SIGKILL one; False while too few are up."""
        post = self._victim()
        if post is None:
            return False
        post.life.process.kill()
        self.kills.append((time.time(), post.life))
        if new_name:
            post.name += "x"
        post.state, post.until = "down", time.monotonic() + lasts_s
        return True

    def stall(self, lasts_s: float) -> bool:
        """SIGSTOP one until `mend` lets it go on; False while too few are up."""
        post = self._victim()
        if post is None:
            return False
        post.life.process.suspend()
        self.stalls += 1
        post.state, post.until = "stalled", time.monotonic() + lasts_s
        return True

    def drain(self, pause_s: float) -> bool:
        """SIGTERM one; it comes again after its end and a pause. False while too few are up."""
        post = self._victim()
        if post is None:
            return False
        post.life.process.terminate()
        self.drains += 1
        post.since = time.monotonic()
        post.state, post.until = "draining", post.since + DRAIN_LIMIT_S + pause_s
        return True

    def mend(self) -> None:
        """Bring back those whose time is over, and those that ended by themselves."""
        now = time.monotonic()
        for post in self.posts:
            running = post.life.process.running
            if post.state == "stalled" and now >= post.until:
                post.life.process.resume()
                post.state = "up"
            elif post.state == "down" and now >= post.until:
                post.life, post.state = self.hire(post.name), "up"
            elif not running and post.state in ("up", "draining"):
                if post.state == "draining":
                    self.longest_drain_s = max(self.longest_drain_s, now - post.since)
                self._note_end(post)
                post.state, post.until = "down", now + RESTART_PAUSE_S
            elif post.state == "draining" and now >= post.until:
                self._note_end(post)
                post.life.process.kill()

    @property
    def all_up(self) -> bool:
        return all(post.state == "up" for post in self.posts)

    def dismiss(self) -> None:
        """Drain all, once all are up."""
        for post in self.posts:
            post.state = "draining"
            post.life.process.terminate()
        for post in self.posts:
            post.until = time.monotonic() + DRAIN_LIMIT_S
            while post.life.process.running and time.monotonic() < post.until:
                time.sleep(0.05)
            self._note_end(post)

    def kill_all(self) -> None:
        for post in self.posts:
            post.life.process.kill()

    def _note_end(self, post: Post) -> None:
        code = post.life.process.exit_code
        if code == EXIT_CANNOT_START:
            # S3 was down when it started: by contract one message and this code.
            self.refused_starts += 1
        elif code == -signal.SIGTERM and post.state == "draining":
            return  # it was told to drain before it could listen: it had not begun anything
        elif code == EXIT_CRASHED and post.state == "draining" and _FROZEN in post.life.log.read_text():
            self.frozen_drains += 1
        elif code is None:
            self._note_crash(post.life, f"did not end its drain in {DRAIN_LIMIT_S:g} s")
        elif code or post.state != "draining":
            self._note_crash(post.life, f"ended with exit code {code}")

    def _note_crash(self, life: Life, what: str) -> None:
        # With the end of the log: where CI runs, the file is gone with the machine.
        self.crashes.append(f"{life.name} {what}: {life.log}\n{life.log.read_text()[-LAST_WORDS:]}")

    def _victim(self) -> Post | None:
        up = [post for post in self.posts if post.state == "up" and post.life.process.running]
        # One of a role is always left, so that there is somebody to take over.
        roles = Counter(role_of(post.name) for post in up)
        up = [post for post in up if roles[role_of(post.name)] > 1]
        if not up:
            return None
        # Mostly one that has work to lose; now and then one that is about to join.
        at_work = [post for post in up if _is_at_work(post.life)]
        return self.rng.choice(at_work if at_work and self.rng.random() < AT_WORK_SHARE else up)


def _is_at_work(life: Life) -> bool:
    """Whether it has begun: a worker writes down its pictures; a dispatcher has partitions from its first second on."""
    if role_of(life.name) == DISPATCHER:
        return '"assigned"' in life.log.read_text()
    return life.work.exists() and life.work.stat().st_size > 0
