"""A request that crashes the process fails after its third start; the jobs beside it complete."""

from __future__ import annotations

from pathlib import Path

from tests.harness import Client, Site, WorkerProcess
from tests.path.poisoned_worker import POISON
from worker.errors import ErrorCode
from worker.events.types import GenerationCompleted, GenerationFailed

COMMAND = ("-m", "tests.path.poisoned_worker", "run")


def test_a_request_that_aborts_the_process_ends_as_a_crash_loop(apache_site: Site, tmp_path: Path) -> None:
    client = Client(apache_site)
    # Slots for all, so that the neighbours are on the GPU when the process dies.
    neighbours = [client.request(job_id=f"neighbour-{n}", num_inference_steps=20).job_id for n in range(3)]
    client.request(job_id="killer", prompt=POISON)
    ends = []
    for _ in range(6):
        environment = apache_site.worker("fragile").environment
        worker = WorkerProcess("fragile", environment, tmp_path / "log", COMMAND).start()
        while worker.running and not client.of("killer"):
            client.poll(0.1)
        if client.of("killer"):
            client.wait_for(lambda _: all(client.of(job) for job in neighbours))
            assert worker.terminate() == 0
            break
        ends.append(worker.wait())
    event = client.one("killer").event
    assert isinstance(event, GenerationFailed)
    assert (event.error_code, event.attempt) == (ErrorCode.CRASH_LOOP, 3)
    assert len(ends) == 3
    for job_id in neighbours:
        assert [type(result.event) for result in client.of(job_id)] == [GenerationCompleted]
    client.close()
