"""Whether the demo went as it must. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Shortfall:
    """One thing that is not as it must be."""

    what: str
    expected: str
    found: str


@dataclass(slots=True)
class Ends:
    """How each job ended, as often as it was told; `ends` holds (job id, end)."""

    ends: list[tuple[str, str]] = field(default_factory=list)

    def add(self, job_id: str, end: str) -> None:
        self.ends.append((job_id, end))

    def of(self, job_id: str) -> list[str]:
        """Every end that was told of a job."""
        return [end for job, end in self.ends if job == job_id]

    @property
    def counts(self) -> Counter[str]:
        """End -> how often it was told."""
        return Counter(end for _, end in self.ends)

    def complete(self, expected: Mapping[str, str]) -> bool:
        """Whether every expected job has ended somehow."""
        return expected.keys() <= {job for job, _ in self.ends}


def shortfalls(
    expected: Mapping[str, str],
    ends: Ends,
    *,
    missing_files: Iterable[str] = (),
    worker_exit_code: int | None = 0,
) -> list[Shortfall]:
    """All that is wrong; an empty list is success.

    Args:
        expected: job id -> `completed`, `failed` or `dead-letter`, each told exactly once.
        missing_files: pictures that an event named and the store did not have.
        worker_exit_code: None when it had to be killed.
    """
    found = [
        Shortfall(job, end, " + ".join(ends.of(job)) or "nothing")
        for job, end in expected.items()
        if ends.of(job) != [end]
    ]
    strangers = sorted({job for job, _ in ends.ends} - expected.keys())
    found += [Shortfall(job, "nothing", " + ".join(ends.of(job))) for job in strangers]
    found += [Shortfall(name, "a file in the store", "none") for name in missing_files]
    if worker_exit_code != 0:
        code = "killed after the grace period" if worker_exit_code is None else f"exit code {worker_exit_code}"
        found.append(Shortfall("the worker's end after SIGTERM", "exit code 0", code))
    return found


def exit_code(found: list[Shortfall]) -> int:
    """0 only when nothing is wrong."""
    return 1 if found else 0
