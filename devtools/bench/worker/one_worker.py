"""A whole worker with a stand-in for the model, in a process of its own, on a real Kafka and a real S3."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from devtools.bench.worker.servers import Servers
from devtools.local.process import LOOPBACK, ChildProcess, free_port

STOP_GRACE_S = 20.0
_ANSWER_S = 2.0
_TELLING = ("operation", "result")


class OneWorker:
    """A worker that draws a picture in `picture_s` seconds without using the processor."""

    def __init__(self, place: Servers, name: str, picture_s: float) -> None:
        self._port = free_port()
        self.log = place.folder / f"{name}.log"
        own = {"WORKER_ID": name, "HTTP_PORT": str(self._port), "STAND_IN_S": str(picture_s)}
        command = [sys.executable, "-m", "devtools.bench.worker.stand_in"]
        self.child = ChildProcess(name, command, self.log, place.environment | own)

    def is_ready(self) -> bool:
        """Whether it says that it can work."""
        try:
            return bool(self._get("/ready"))
        except (urllib.error.URLError, OSError):
            return False

    def counters(self) -> dict[tuple[str, str], float]:
        """The samples of `/metrics`, by name and by the label that tells what was done or how it ended, if any."""
        found: dict[tuple[str, str], float] = {}
        for family in text_string_to_metric_families(self._get("/metrics").decode()):
            for sample in family.samples:
                label = next((sample.labels[name] for name in _TELLING if name in sample.labels), "")
                found[sample.name, label] = found.get((sample.name, label), 0.0) + sample.value
        return found

    def stop(self) -> None:
        """Drain and end it."""
        self.child.stop(STOP_GRACE_S)

    def _get(self, path: str) -> bytes:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(f"http://{LOOPBACK}:{self._port}{path}", timeout=_ANSWER_S) as answer:
            return bytes(answer.read())
