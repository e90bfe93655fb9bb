"""Jobs whose LoRAs are looked up and read apart from the engine's thread, before they can be planned.

Reading, hashing and converting a LoRA of some hundred megabytes takes as long as many steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from worker.engine.lora.cache import LoraCache
from worker.engine.lora.reader import Found
from worker.errors import RequestRejected
from worker.job import Job, Origin


class Arrivals:
    """All of it but the reading belongs to the engine's thread.

    Args:
        apart: runs a task that belongs to a job, in a thread of its own or at once.
        post: hands a call to the engine's thread.
        accept: gets a job whose LoRAs are pinned.
        refuse: gets a job and why its LoRAs cannot be used.
    """

    def __init__(
        self,
        cache: LoraCache,
        *,
        apart: Callable[[Job, Callable[[], None]], None],
        post: Callable[[Callable[[], None]], None],
        accept: Callable[[Job], None],
        refuse: Callable[[Job, RequestRejected], None],
    ) -> None:
        self._cache = cache
        self._reader = cache.reader()
        self._apart = apart
        self._post = post
        self._accept = accept
        self._refuse = refuse
        self._waiting: dict[Origin, Job] = {}
        self._sent: set[Origin] = set()
        self._being_read: set[str] = set()

    @property
    def jobs(self) -> list[Job]:
        """The jobs that wait for their LoRAs, in the order in which they came."""
        return list(self._waiting.values())

    def add(self, job: Job) -> None:
        """Accept a job once its LoRAs are there."""
        self._waiting[job.origin] = job
        self._send()

    def remove(self, origin: Origin) -> None:
        """Forget a job that waits; what is being read for it may serve others."""
        self._waiting.pop(origin, None)

    def ahead(self, jobs: Iterable[Job]) -> None:
        """Read the files that jobs will need, as far as they are not in the cache."""
        for job in jobs:
            missing = [name for name, weight in job.loras if weight and self._cache.known_stamp(name) is None]
            if missing and self._being_read.isdisjoint(missing):
                self._read(job, missing, self._on_read_ahead)

    def _send(self) -> None:
        """Begin what can be begun; a file that is being read already is waited for."""
        for job in self._waiting.values():
            names = [name for name, _ in job.loras]
            if job.origin not in self._sent and self._being_read.isdisjoint(names):
                self._sent.add(job.origin)
                self._read(job, names, self._on_read)

    def _read(self, job: Job, names: Sequence[str], done: Callable[[Job, list[Found] | RequestRejected], None]) -> None:
        self._being_read.update(names)

        def finish(found: list[Found] | RequestRejected) -> None:
            self._being_read.difference_update(names)
            done(job, found)
            self._send()

        def task() -> None:
            found = self._found(names)
            self._post(lambda: finish(found))

        self._apart(job, task)

    def _found(self, names: Sequence[str]) -> list[Found] | RequestRejected:
        """Apart from the engine's thread."""
        found = []
        try:
            for name in names:
                path, stamp = self._reader.locate(name)
                is_known = self._cache.known_stamp(name) == stamp
                found.append(Found(name, stamp) if is_known else self._reader.read(name, path, stamp))
        except RequestRejected as error:
            return error
        return found

    def _on_read(self, job: Job, found: list[Found] | RequestRejected) -> None:
        self._sent.discard(job.origin)
        if self._waiting.get(job.origin) is not job:
            self._on_read_ahead(job, found)
        elif isinstance(found, RequestRejected):
            del self._waiting[job.origin]
            self._refuse(job, found)
        elif self._cache.pin_found(found):
            del self._waiting[job.origin]
            self._accept(job)
        # Else one that was known has been unloaded meanwhile, and is looked for again.

    def _on_read_ahead(self, _: Job, found: list[Found] | RequestRejected) -> None:
        if not isinstance(found, RequestRejected):
            for each in found:
                self._cache.offer(each)
