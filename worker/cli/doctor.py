"""The `doctor` verb: look at all that a worker needs, and say what to do about each thing that is wrong."""

from __future__ import annotations

import shutil
import sys
import textwrap
from dataclasses import asdict
from typing import Annotated

import typer
from rich.text import Text

from worker.cli.output import note_console, print_json, print_line
from worker.doctor.apart import Examination
from worker.doctor.checks import CHECKS, Check
from worker.doctor.finding import Finding, Level, failed, skipped, worst
from worker.doctor.secrets import secrets_of, without_secrets
from worker.errors import SettingsError
from worker.settings import Settings, load_settings

EXIT_CODES = {Level.OK: 0, Level.SKIPPED: 0, Level.WARNING: 3, Level.FAILED: 1}
_STYLES = {Level.OK: "green", Level.SKIPPED: "dim", Level.WARNING: "yellow", Level.FAILED: "bold red"}
_LEVEL_CHARS, _SUBJECT_CHARS = 9, 18
_MIN_CHARS, _MAX_CHARS = 60, 110


def doctor(
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="CHECK", help="Carry out only this check; may be repeated."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per finding, then one for the whole.")
    ] = False,
) -> None:
    """Look at all that a worker needs before it starts, and say what to do.

    The checks: settings, kafka, consuming, transactions, schema registry,
    credentials, bucket, clock, model, gpu, memory, disk. Each has a time limit,
    and none stops another. Nothing is left behind in Kafka or in the bucket.

    Exit code 0: all is well. 3: there are warnings. 1: something failed.
    """
    checks = _chosen(only or [])
    found: list[Finding] = []
    settings, problem = _settings()
    if problem is not None:
        _tell(found, problem, as_json=as_json)
        for check in checks:
            if not check.without_settings and check.name != "settings":
                _tell(found, skipped(check.name, "not looked at, since the settings are wrong"), as_json=as_json)
        checks = [check for check in checks if check.without_settings]
    with Examination(checks, settings) as examination, note_console().status("looking") as note:
        secrets = secrets_of(settings)
        for check, findings, _ in examination.results():
            note.update(f"looked at {check.name}")
            for finding in findings:
                _tell(found, without_secrets(finding, secrets), as_json=as_json)
    level = worst(found)
    counts = {one.value: sum(finding.level is one for finding in found) for one in Level}
    if as_json:
        print_json({"worst": level.value, **counts})
    else:
        print_line(Text(", ".join(f"{count} {name}" for name, count in counts.items())))
    raise typer.Exit(EXIT_CODES[level])


def _chosen(names: list[str]) -> list[Check]:
    known = {check.name: check for check in CHECKS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is no check; the checks are {', '.join(known)}")
    return [check for check in CHECKS if not names or check.name in names]


def _settings() -> tuple[Settings, Finding | None]:
    """The settings; where they are wrong, the default ones and what is wrong."""
    try:
        return load_settings(), None
    except SettingsError as error:
        cure = "put these variables right; docs/settings.md describes them"
        return Settings.model_construct(), failed("settings", str(error), cure)


def _tell(found: list[Finding], finding: Finding, *, as_json: bool) -> None:
    found.append(finding)
    if as_json:
        print_json(asdict(finding))
        return
    for line in _lines(finding):
        print_line(line)


def _lines(finding: Finding) -> list[Text]:
    """The finding's lines, wrapped to the terminal's width; its text and its advice stand in one column."""
    margin = _LEVEL_CHARS + _SUBJECT_CHARS
    width = min(max(shutil.get_terminal_size().columns, _MIN_CHARS), _MAX_CHARS) - margin
    subject = f"{finding.subject:<{_SUBJECT_CHARS - 1}} "
    rows = [Text(part) for part in _wrapped(finding.text, width)]
    rows += [
        Text(("→ " if not number else "  ") + part, style="cyan" if sys.stdout.isatty() else "")
        for number, part in enumerate(_wrapped(finding.advice, width - 2))
        if finding.advice
    ]
    first, *rest = rows
    head = Text.assemble((f"{finding.level.value:<{_LEVEL_CHARS}}", _STYLES[finding.level]), subject, first)
    return [head, *(Text.assemble(" " * margin, row) for row in rest)]


def _wrapped(text: str, width: int) -> list[str]:
    """Words that are longer than a line, such as URLs, are left whole."""
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]
