"""A typer group whose verbs are imported when they are called: listing them stays quick."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import typer
from confluent_kafka import KafkaException
from typer.core import TyperCommand, TyperGroup

from worker.client.errors import CommandError
from worker.errors import RegistryUnavailable, StartupError

EXIT_FAILED = 1
EXIT_NOT_STARTED = 2


# The developer's verbs come with a checkout of the repository; the wheel does not hold them. Looked up by its place,
# since another distribution of that name may be installed.
_DEVTOOLS = Path(__file__).resolve().parents[2] / "devtools" / "cli"


class VerbGroup(TyperGroup):
    """A group of lazily imported verbs.

    `verbs` maps a name to ("module:attribute" of a function or a Typer, the line in the list); `developer_verbs` are
    listed only where the developer's tools are present.
    """

    verbs: ClassVar[Mapping[str, tuple[str, str]]] = {}
    developer_verbs: ClassVar[Mapping[str, tuple[str, str]]] = {}

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self._table = {**self.verbs, **(self.developer_verbs if _DEVTOOLS.is_dir() else {})}
        for name, (_, line) in self._table.items():
            self.add_command(TyperCommand(name, help=line))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Put the real command in the place of the one that only stood in the list."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, None if name is None else _load(name, self._table[name][0]), rest

    def invoke(self, ctx: Any) -> Any:
        """Run a verb; what a person can put right becomes one line and an exit code."""
        try:
            return super().invoke(ctx)
        except StartupError as error:
            _complain(error, EXIT_NOT_STARTED)
        except (CommandError, RegistryUnavailable) as error:
            _complain(error, EXIT_FAILED)
        except KafkaException as error:
            _complain(f"Kafka: {error.args[0].str()}", EXIT_FAILED)


def _load(name: str, place: str) -> Any:
    module, _, attribute = place.partition(":")
    target = getattr(importlib.import_module(module), attribute)
    if not isinstance(target, typer.Typer):
        function, target = target, typer.Typer(add_completion=False)
        target.command(name)(function)
    command = typer.main.get_command(target)
    command.name = name
    return command


def _complain(problem: Exception | str, code: int) -> None:
    print(f"error: {problem}", file=sys.stderr)
    raise typer.Exit(code)
