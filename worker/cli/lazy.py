"""A typer group whose verbs are imported when they are called: listing them stays quick."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

from worker.cli.exits import exit_code

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

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,  # noqa: ARG002
        **extra: Any,
    ) -> Any:
        """Run the command line and end the process; whatever goes wrong becomes one line and an exit code.

        A shell that asks for completions (an environment variable of typer's says so) gets them instead.

        Typer's own would end some errors in a box of many lines, and a closed standard output like a failed verb.
        """

        self._main_shell_completion(extra, prog_name or "sdxl-worker", complete_var)

        def run() -> Any:
            given = sys.argv[1:] if args is None else list(args)
            with self.make_context(prog_name or "sdxl-worker", given, **extra) as context:
                return self.invoke(context)

        if not standalone_mode:
            return run()
        sys.exit(exit_code(run))


def _load(name: str, place: str) -> Any:
    module, _, attribute = place.partition(":")
    target = getattr(importlib.import_module(module), attribute)
    if not isinstance(target, typer.Typer):
        function, target = target, typer.Typer(add_completion=False)
        target.command(name)(function)
    command = typer.main.get_command(target)
    command.name = name
    return command
