"""The options of a chaos run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# Kafka's default is 45 s; here the brokers notice a dead member sooner, so that a run has room for many deaths.
SESSION_TIMEOUT_S = 6.0
PARTITIONS = 6
BUCKET = "chaos"
MIN_WORKERS = 4
GROUP = "chaos"
DISPATCH_GROUP = "chaos-dispatch"
# Two cores carry no more beside three brokers; and the kills of a small run need their time.
MAX_RATE, MIN_SEND_S = 30.0, 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to do: `jobs` request records at `rate` per second (0: what suits their number), faults drawn from `seed`.

    `toy` of the workers run the real engine on a toy model. `members`: a group member for each `lane`, or `one`.
    `dispatchers`: so many pass the requests on to the workers; with none, the workers read them themselves.
    """

    jobs: int = 2000
    workers: int = 5
    dispatchers: int = 0
    seed: int = 1
    rate: float = 0.0
    picture_s: float = 0.02
    toy: int = 0
    protocol: str = "consumer"
    members: str = "lane"
    out: Path = Path("out")

    def __post_init__(self) -> None:
        if self.workers < MIN_WORKERS:
            raise ValueError(f"at least {MIN_WORKERS} workers, not {self.workers}")
        if not self.rate:
            object.__setattr__(self, "rate", min(MAX_RATE, self.jobs / MIN_SEND_S))

    @property
    def send_s(self) -> float:
        """How long the producers take, and so the faults go on."""
        return self.jobs / self.rate

    @property
    def folder(self) -> Path:
        """Where the run leaves its logs."""
        return self.out / "chaos"
