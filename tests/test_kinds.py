"""The markers that `make quick` goes by cannot be forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from devtools.local.seaweedfs import SeaweedFS
from tests import kinds
from tests.kinds import ServerGuard, names_a_server


def test_a_function_that_names_a_server_is_told_from_one_that_does_not() -> None:
    def starts(folder: Path) -> Iterator[SeaweedFS]:
        with SeaweedFS(folder, "bucket") as store:
            yield store

    def reads(folder: Path) -> str:
        return (folder / "SeaweedFS").read_text()

    assert names_a_server(starts)
    assert not names_a_server(reads)


@pytest.mark.parametrize(("marked", "starts"), [(True, 1), (False, 0)])
def test_only_a_marked_test_may_start_a_server(monkeypatch: pytest.MonkeyPatch, marked: bool, starts: int) -> None:
    class Server:
        started = 0

        def start(self) -> None:
            self.started += 1

    monkeypatch.setattr(kinds, "WATCHED", (Server,))
    guard = ServerGuard()
    guard.install(monkeypatch)
    test = SimpleNamespace(nodeid="test_x", get_closest_marker=lambda name: name if marked else None)
    guard.test = cast("Any", test)
    server = Server()
    if marked:
        server.start()
    else:
        with pytest.raises(pytest.fail.Exception, match="test_x starts a server"):
            server.start()
    assert server.started == starts
