"""Which tests need a server and which are slow, so that `make quick` can leave both out.

A test gets the marker `server` by itself when its own code, or the code of a fixture that it asks for, names something
that starts one; where a helper function does so, the file says `pytestmark = pytest.mark.server`. A test without the
marker that starts a server all the same fails, so the marker cannot be forgotten. `slow` is written beside the test,
or as the `pytestmark` of a file that takes five seconds of a core or more as a whole; `make quick` has a short timeout
per test, so that it cannot be forgotten for long either.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from devtools.local.embedded import EmbeddedBroker
from devtools.local.process import ChildProcess

STARTERS = frozenset(
    {
        "KafkaCluster",
        "SeaweedFS",
        "EmbeddedBroker",
        "ChildProcess",
        "ForkedProcess",
        "WorkerProcess",
        "require_java",
        "running_services",
    }
)
# Each has a method `start`; KafkaCluster, SeaweedFS and WorkerProcess are made of the first.
WATCHED: tuple[Any, ...] = (ChildProcess, EmbeddedBroker)


def names_a_server(function: Callable[..., Any]) -> bool:
    """Whether the code of a test or fixture names something that starts a server."""
    return not STARTERS.isdisjoint(function.__code__.co_names)


def needs_a_server(item: pytest.Item) -> bool:
    """Whether a test, or a fixture that it asks for, directly or through others, starts a server."""
    if not isinstance(item, pytest.Function):
        return False
    fixtures = [definition.func for found in item._fixtureinfo.name2fixturedefs.values() for definition in found[-1:]]
    functions = [getattr(function, "__func__", function) for function in (item.function, *fixtures)]
    return any(names_a_server(function) for function in functions if hasattr(function, "__code__"))


def sort_heavy_files_first(items: list[pytest.Item]) -> None:
    """Order the files: a heavy one that begins last would keep one core waiting for the other."""
    heavy = {item.path for item in items if is_heavy(item)}
    items.sort(key=lambda item: item.path not in heavy)


def is_heavy(item: pytest.Item) -> bool:
    """Whether `make quick` leaves the test out."""
    return any(item.get_closest_marker(name) for name in ("server", "slow"))


class ServerGuard:
    """Refuses to start a server during a test that is not marked so."""

    def __init__(self) -> None:
        self.test: pytest.Item | None = None

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Watch every way in which the tests start a server."""
        for kind in WATCHED:
            patch.setattr(kind, "start", self._watched(kind.start))

    def _watched(self, start: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(start)
        def watched(server: Any) -> None:
            if self.test is not None and self.test.get_closest_marker("server") is None:
                pytest.fail(f"{self.test.nodeid} starts a server: give it `@pytest.mark.server`, see tests/kinds.py")
            start(server)

        return watched
