"""A server is started once for all processes of a run, when the first of them asks, and ends with the run."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.shared_servers import Desk, SharedServers, ask

PORT = 4711


class Starts:
    """Counts the starts and ends of a server that is none."""

    def __init__(self) -> None:
        self.started = self.ended = 0

    def __call__(self, stack: ExitStack) -> int:
        self.started += 1
        stack.callback(self._end)
        return PORT

    def _end(self) -> None:
        self.ended += 1


def fail(_: ExitStack) -> int:
    raise OSError("no such program")


@pytest.fixture
def good() -> Starts:
    return Starts()


@pytest.fixture
def servers(good: Starts) -> SharedServers:
    return SharedServers({"good": good, "bad": fail})


@pytest.fixture
def desk(servers: SharedServers) -> Iterator[Desk]:
    desk = Desk(servers)
    yield desk
    desk.close()


def test_all_who_ask_get_one_server(good: Starts, servers: SharedServers, desk: Desk) -> None:
    assert good.started == 0
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: ask(desk.address, "good"), range(16))) == {PORT}
    assert (good.started, good.ended) == (1, 0)
    servers.stop()
    assert (good.started, good.ended) == (1, 1)


def test_who_asks_is_told_why_there_is_none_and_others_are_answered(desk: Desk) -> None:
    with pytest.raises(RuntimeError, match=r"bad was not started: OSError: no such program"):
        ask(desk.address, "bad")
    assert ask(desk.address, "good") == PORT
