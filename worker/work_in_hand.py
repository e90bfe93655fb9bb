"""What a worker has not drawn yet, and how fast it draws; for its reports to dispatchers."""

from __future__ import annotations

import threading

from worker.dispatch.work import lora_set, pictures
from worker.job import Job, Lane, Origin
from worker.picture import Picture

# Before the first picture: a 4090's time for a standard picture.
FIRST_GUESS_S = 3.0
# The share of the newest picture in the mean.
_NEWEST = 0.2


class WorkInHand:
    """Any thread may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[Origin, Job] = {}
        self._picture_s: float | None = None
        self._loras = ""

    @property
    def picture_s(self) -> float:
        """Seconds of the device for a standard picture."""
        return FIRST_GUESS_S if self._picture_s is None else self._picture_s

    @property
    def loras(self) -> str:
        """The LoRA set that is merged when all of this is drawn: that of the lowest lane's last, else the last one."""
        with self._lock:
            jobs = list(self._jobs.values())
        last, lowest = self._loras, Lane.URGENT
        for job in jobs:
            if job.lane >= lowest and (loras := lora_set(job)):
                last, lowest = loras, job.lane
        return last

    def by_lane(self) -> dict[Lane, tuple[int, float]]:
        """Requests and seconds of work of each lane that are not drawn."""
        with self._lock:
            jobs = list(self._jobs.values())
        found = dict.fromkeys(Lane, (0, 0.0))
        for job in jobs:
            requests, seconds = found[job.lane]
            found[job.lane] = requests + 1, seconds + pictures(job) * self.picture_s
        return found

    def on_admitted(self, job: Job) -> None:
        """A request was admitted."""
        with self._lock:
            self._jobs[job.origin] = job

    def on_started(self, job: Job) -> None:
        """It goes to the device."""
        self._loras = lora_set(job) or self._loras

    def on_pixels(self, picture: Picture) -> None:
        """It has left the device."""
        self.on_gone(picture.job.origin)
        seconds = picture.timing.gpu / pictures(picture.job)
        before = seconds if self._picture_s is None else self._picture_s
        self._picture_s = before + _NEWEST * (seconds - before)

    def on_gone(self, origin: Origin) -> None:
        """It has an outcome, or was released."""
        with self._lock:
            self._jobs.pop(origin, None)
