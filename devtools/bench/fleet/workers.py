"""`python -m devtools.bench.fleet.workers COUNT LOG PICTURE_S`: real workers in one process, on real Kafka clients.

Only the GPU and S3 are stand-ins. The settings come from the environment; each worker adds its number to `WORKER_ID`.
`LOG` gets a line for each job when it is drawn for the first time: its id, the time, 1 where that changed the LoRAs.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import cast

from devtools.bench.fleet import device
from devtools.bench.fleet.memory_store import MemoryStore
from worker.app import build, make_spans
from worker.cluster.check import Problem
from worker.cluster.checker import ClusterChecker
from worker.cluster.contact import Contact
from worker.connections import RealConnections
from worker.delivery.upload import PictureStore
from worker.intake.admit import AdmissionRules
from worker.job import Job
from worker.settings import Settings, load_settings
from worker.telemetry import logs
from worker.telemetry.health import Health
from worker.threads import SystemThreads


class SoundCluster:
    """A cluster that nobody needs to ask about, which takes a process for each question."""

    def __init__(self, servers: str) -> None:
        self.servers = servers
        self.contact = Contact(time.monotonic)

    def check(self, timeout_s: float) -> list[Problem]:
        del timeout_s
        return []


def serve(settings: Settings, number: int, picture_s: float, on_begun: device.OnBegun) -> None:
    """Run one worker for ever."""
    settings = settings.model_copy(update={"worker_id": f"{settings.worker_id}-{number}"})
    cluster = cast("ClusterChecker", SoundCluster(settings.kafka_bootstrap_servers))
    connections = RealConnections(settings, cast("PictureStore", MemoryStore()), cluster)
    loaded = device.loaded(picture_s, on_begun)
    worker = build(
        settings,
        AdmissionRules(settings),
        loaded,
        connections,
        SystemThreads(),
        Health(time.monotonic),
        make_spans(settings),
    )
    worker.start()
    while True:
        worker.poll()


def main(count: int, log: Path, picture_s: float) -> None:
    """Run the workers until the process is killed."""
    settings = load_settings()
    logs.configure(settings.log_level, settings.log_format)
    with log.open("a", buffering=1) as out:

        def on_begun(job: Job, at: float, changed: bool) -> None:
            out.write(f"{job.job_id} {at:.6f} {int(changed)}\n")

        threads = [
            threading.Thread(target=serve, args=(settings, number, picture_s, on_begun), daemon=True)
            for number in range(count)
        ]
        for thread in threads:
            thread.start()
        # One that ends has failed, and so has the bench.
        while all(thread.is_alive() for thread in threads):
            time.sleep(0.2)
    raise SystemExit("a worker has ended; see above")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
