"""Carry out the plan of a run: each fault at its time, and then its repair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from tests.chaos.crew import Crew
from tests.chaos.plan import Fault, Kind
from tests.chaos.site import Site

Say = Callable[[str], None]


@dataclass(slots=True)
class Director:
    """`tick` is called again and again; a fault of brokers or S3 takes seconds and happens beside it."""

    plan: Sequence[Fault]
    crew: Crew
    site: Site
    say: Say
    _next: int = 0
    _site_fault: Future[None] | None = None
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "site-fault"))

    def tick(self, elapsed_s: float) -> None:
        """Do what is due; a fault that finds no victim now waits, and those after it too."""
        self.crew.mend()
        while not self.done and self.plan[self._next].at <= elapsed_s and self._inflict(self.plan[self._next]):
            fault = self.plan[self._next]
            self.say(f"{fault.kind}, for {fault.lasts_s:.1f} s")
            self._next += 1

    @property
    def done(self) -> bool:
        """Whether every fault has been inflicted."""
        return self._next == len(self.plan)

    @property
    def mended(self) -> bool:
        """Whether everything is back. Raises what went wrong with a broker or S3."""
        if self._site_fault is not None and self._site_fault.done():
            self._site_fault.result()
            self._site_fault = None
        return self._site_fault is None and self.crew.all_up

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _inflict(self, fault: Fault) -> bool:
        match fault.kind:
            case Kind.KILL:
                return self.crew.kill(fault.lasts_s, fault.new_name)
            case Kind.STALL:
                return self.crew.stall(fault.lasts_s)
            case Kind.DRAIN:
                return self.crew.drain(fault.lasts_s)
            case _:
                return self._at_the_site(lambda: self.site.inflict(fault.kind, fault.lasts_s))

    def _at_the_site(self, fault: Callable[[], None]) -> bool:
        if self._site_fault is not None and not self._site_fault.done():
            return False
        if self._site_fault is not None:
            self._site_fault.result()
        self._site_fault = self._pool.submit(fault)
        return True
