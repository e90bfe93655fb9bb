"""Every numeric flag of every verb, found by itself, refuses what is no number of a sensible size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer

from tests.cli.conftest import sdxl
from worker.cli import app

HUGE = ("9" * 30, "-" + "9" * 30)
NO_NUMBERS = ("nan", "inf", "-inf", "1e300", "-1e300")


def flags(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The verb and the flag of every numeric option below a command."""
    for parameter in command.params:
        if getattr(parameter, "type_descriptor", None) and parameter.type_descriptor.annotation in (int, float):
            yield *path, next(name for name in parameter.opts if name.startswith("--"))
    context = typer.Context(command)
    for name in command.list_commands(context) if hasattr(command, "list_commands") else ():
        _, found, _ = command.resolve_command(context, [name])
        yield from flags(found, (*path, name))


FOUND = sorted(flags(typer.main.get_command(app)))


def test_the_flags_are_found() -> None:
    assert {("submit", "--expires-in"), ("submit", "--steps"), ("watch", "--count")} <= set(FOUND)
    assert ("topics", "create", "--partitions") in FOUND


@pytest.mark.parametrize("value", [*HUGE, *NO_NUMBERS])
@pytest.mark.parametrize("path", FOUND, ids=" ".join)
def test_a_numeric_flag_has_both_bounds(path: tuple[str, ...], value: str) -> None:
    result = sdxl(*path[:-1], f"{path[-1]}={value}")
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert line.startswith(f"error: Invalid value for '{path[-1]}'")
