"""What the worker of each card is told by its environment. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from worker.errors import SettingsError
from worker.gpus.cards import Card

# Compiled kernels. Two processes that fill one folder at once wait for each other, or read what is half written.
CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH")
MAX_PORT = 65_535


@dataclass(frozen=True, slots=True)
class Plan:
    """One worker.

    Args:
        name: its WORKER_ID.
        environment: what is added to this process's own.
        caches: folders to make.
    """

    card: Card
    name: str
    environment: Mapping[str, str]
    caches: tuple[Path, ...]


def plan_workers(
    cards: Sequence[Card], *, worker_id: str, http_port: int, device: str, environment: Mapping[str, str], home: Path
) -> list[Plan]:
    """A worker for each card.

    Args:
        worker_id: of the machine; each worker's is this, and the card's number.
        http_port: of the first card; the others follow. 0: any free one for each.
        device: DEVICE as it is set.
        environment: of this process.
        home: where caches go unless the environment says it.

    Raises:
        SettingsError: DEVICE says otherwise, or there are not enough ports.
    """
    if device not in ("auto", "cuda"):
        raise SettingsError(f"--gpus: DEVICE is {device}; leave it out, each worker sees its own card only")
    if http_port and http_port + len(cards) - 1 > MAX_PORT:
        raise SettingsError(f"HTTP_PORT: {http_port} and the {len(cards) - 1} after it are wanted, one for each card")
    return [
        _plan(card, position, f"{worker_id}-gpu{card.number}", http_port, environment, home)
        for position, card in enumerate(cards)
    ]


def _plan(card: Card, position: int, name: str, http_port: int, environment: Mapping[str, str], home: Path) -> Plan:
    roots = {cache: Path(environment[cache]) if environment.get(cache) else home / cache.lower() for cache in CACHES}
    caches = {cache: root / f"gpu{card.number}" for cache, root in roots.items()}
    told = {
        "CUDA_VISIBLE_DEVICES": card.uuid,
        "DEVICE": "cuda",
        "WORKER_ID": name,
        "HTTP_PORT": str(http_port + position if http_port else 0),
        **{cache: str(folder) for cache, folder in caches.items()},
    }
    return Plan(card, name, told, tuple(caches.values()))


def cache_home(environment: Mapping[str, str]) -> Path:
    """`$XDG_CACHE_HOME/sdxl-worker`, or what stands for it."""
    root = environment.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path(environment.get("HOME", "/tmp")) / ".cache") / "sdxl-worker"
