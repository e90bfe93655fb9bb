"""Looks at a Deployment and at three accounts of its lag, several times a second."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.kube.api import Api
from tests.kube.kafka import Upstream
from tests.kube.keda import Keda
from tests.kube.kubelet import Kubelet
from tests.kube.steps import DEPLOYMENT, SCALED_OBJECT

PERIOD_S = 0.25
# KEDA polls and the worker measures every second; after this long both must have seen a lag that does not change.
SETTLED_S = 4.0
_LAG = re.compile(r'^kafka_consumergroup_lag\{[^}]*topic="([^"]*)"[^}]*\} (\S+)$', re.MULTILINE)
_ASSIGNED = re.compile(r"^sdxl_worker_assigned_partitions\{[^}]*\} (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Reading:
    """Lags by topic. `worker` is None while no worker is ready, or a partition is on its way between two."""

    ledger: dict[str, int]
    keda: dict[str, int]
    worker: dict[str, int] | None

    def __str__(self) -> str:
        told = "no worker" if self.worker is None else f"workers {_short(self.worker)}"
        return f"Kafka's offsets {_short(self.ledger)}, KEDA {_short(self.keda)}, {told}"

    @property
    def agrees(self) -> bool:
        return self.keda == self.ledger and self.worker in (None, self.ledger)


@dataclass(slots=True)
class Watch:
    """`replicas`: each number that the Deployment had, and when, in seconds. `readings`: of lags that stood still."""

    api: Api
    keda: Keda
    kubelet: Kubelet
    upstream: Upstream
    partitions: int
    replicas: list[tuple[float, int]] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    error: Exception | None = None
    # Not while KEDA is paused: then it reads nothing.
    comparing: bool = True
    _began: float = field(default_factory=time.monotonic)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._loop, name="watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(30)

    @property
    def now(self) -> int:
        """The number of replicas that the Deployment asks for."""
        return self.replicas[-1][1] if self.replicas else -1

    def since(self, index: int) -> list[int]:
        """The numbers of replicas from the `index`th change on."""
        return [count for _, count in self.replicas[index:]]

    def path(self, index: int) -> str:
        """The same for a person."""
        first = self.replicas[index][0] if index < len(self.replicas) else 0.0
        return " -> ".join(f"{count} ({at - first:.0f} s)" for at, count in self.replicas[index:])

    def read(self) -> Reading:
        """The three accounts, now."""
        ledger = self.upstream.lag()
        triggers = self.api.get(SCALED_OBJECT)["spec"]["triggers"]
        values = self.keda.read_lag()
        keda = {}
        for index, trigger in enumerate(triggers):
            topic = trigger["metadata"]["topic"]
            keda[topic] = int(values.get(f"s{index}-kafka-{topic.replace('.', '-')}", -1))
        return Reading(ledger, keda, self._workers_lag(ledger))

    def _workers_lag(self, topics: Iterable[str]) -> dict[str, int] | None:
        """What the workers' metrics say together."""
        found, assigned = dict.fromkeys(topics, 0), 0
        for worker in self.kubelet.workers():
            text = worker.get("/metrics") if worker.ready else None
            for topic, value in _LAG.findall(text or ""):
                found[topic] += int(float(value))
            assigned += sum(int(float(value)) for value in _ASSIGNED.findall(text or ""))
        return found if assigned == self.partitions * len(found) else None

    def _loop(self) -> None:
        settled: tuple[dict[str, int], int, float] | None = None
        while not self._stop.wait(PERIOD_S):
            try:
                count = self.api.get(DEPLOYMENT)["spec"]["replicas"]
                now = time.monotonic()
                if count != self.now:
                    self.replicas.append((now - self._began, count))
                ready = sum(worker.ready for worker in self.kubelet.workers())
                state = (self.upstream.lag(), ready)
                if settled is None or settled[:2] != state or not self.comparing:
                    settled = (*state, now)
                elif now - settled[2] > SETTLED_S:
                    reading = self.read()
                    if self.upstream.lag() == reading.ledger == state[0]:
                        self.readings.append(reading)
                    settled = (*state, now)
            except Exception as error:  # the run ends with it
                self.error = error
                return


def _short(lags: dict[str, int]) -> str:
    """urgent/high/normal."""
    return "/".join(str(value) for value in lags.values())
