"""The list of checks, in the order in which they are told. A new one is a function and a line here."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

from worker.doctor.finding import Finding
from worker.settings import Settings

CheckFunction = Callable[[Settings], Iterator[Finding]]


@dataclass(frozen=True, slots=True)
class Check:
    """One check, which may tell several lines.

    Args:
        name: what it is called when it cannot be carried out.
        place: "module:function"; imported where it runs.
        timeout_s: from its first line of code on, imports included. Past that its process is killed.
        without_settings: it is also of use with the default settings, when the real ones are wrong.
    """

    name: str
    place: str
    timeout_s: float
    without_settings: bool = False

    def function(self) -> CheckFunction:
        """The function itself."""
        module, _, name = self.place.partition(":")
        return cast(CheckFunction, getattr(importlib.import_module(module), name))


CHECKS: tuple[Check, ...] = (
    Check("settings", "worker.doctor.settings:check", 20.0),
    Check("kafka", "worker.doctor.kafka:check", 40.0),
    Check("consuming", "worker.doctor.consuming:check", 40.0),
    Check("transactions", "worker.doctor.transactions:check", 40.0),
    Check("schema registry", "worker.doctor.schema_registry:check", 30.0),
    Check("credentials", "worker.doctor.credentials:check", 30.0),
    Check("bucket", "worker.doctor.bucket:check", 60.0),
    Check("clock", "worker.doctor.clock:check", 30.0, without_settings=True),
    Check("model", "worker.doctor.model:check", 60.0),
    Check("gpu", "worker.doctor.gpu:check", 90.0, without_settings=True),
    Check("memory", "worker.doctor.machine:check_memory", 30.0, without_settings=True),
    Check("disk", "worker.doctor.machine:check_disk", 30.0, without_settings=True),
)
