"""Compare the results of the demo with the expected ones. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Shortfall:
    """One result that differs from the expected one."""

    what: str
    expected: str
    found: str


@dataclass(slots=True)
class Ends:
    """The results of all jobs, including repeated ones; `ends` holds (job id, end)."""

    ends: list[tuple[str, str]] = field(default_factory=list)

    def add(self, job_id: str, end: str) -> None:
        self.ends.append((job_id, end))

    def of(self, job_id: str) -> list[str]:
        """Return every result that was published for a job."""
        return [end for job, end in self.ends if job == job_id]

    @property
    def counts(self) -> Counter[str]:
        """The number of results of each kind."""
        return Counter(end for _, end in self.ends)

    def complete(self, expected: Mapping[str, str]) -> bool:
        """Return whether every expected job has a result of any kind."""
        return expected.keys() <= {job for job, _ in self.ends}


def shortfalls(
    expected: Mapping[str, str],
    ends: Ends,
    *,
    missing_files: Iterable[str] = (),
    worker_exit_code: int | None = 0,
) -> list[Shortfall]:
    """List everything that differs from what is expected; an empty list means success.

    Args:
        expected: for each job id, `completed`, `failed` or `dead-letter`; each must be published exactly once.
        missing_files: files that an event names and the store does not have.
        worker_exit_code: exit code of the worker; None if it had to be killed.
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
    """Return 0 if there are no shortfalls, otherwise 1."""
    return 1 if found else 0
