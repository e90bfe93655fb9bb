"""What the processes of a run are, by their names."""

from __future__ import annotations

WORKER, DISPATCHER = "worker", "dispatcher"


def role_of(name: str) -> str:
    """What a process of this name is."""
    return DISPATCHER if name.startswith(DISPATCHER) else WORKER
