"""Shell completion of the root command, whose verbs are imported only when they are needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.people import call


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("sdxl-worker re", {"rehearsal", "replay", "report"}),
        ("sdxl-worker topics d", {"describe"}),
        ("sdxl-worker watch --girl", {"--girl-id"}),
        ("sdxl-worker submit --lane u", {"urgent"}),
    ],
)
def test_what_bash_is_offered(tmp_path: Path, line: str, words: set[str]) -> None:
    number = str(len(line.split(" ")) - 1)
    done = call([], tmp_path, COMP_WORDS=line, COMP_CWORD=number, _SDXL_WORKER_COMPLETE="complete_bash")
    assert set(done.stdout.decode().split()) == words, done.stderr.decode()
