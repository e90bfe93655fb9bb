"""`python -m devtools.bench.peers.faststream_worker`: FastStream on confluent-kafka, with boto3 in threads.

One subscriber for the three topics, as its documentation does it. With SUBSCRIBER_PER_LANE=1 each topic has its own
and the pipeline a lock, so that an urgent request only waits for those that are being drawn or wait for the lock.
"""

from __future__ import annotations

import asyncio
import os
import time

from faststream import AckPolicy, FastStream
from faststream.confluent import KafkaBroker

from devtools.bench.peers.pictures import Studio
from devtools.bench.peers.requests import Completed, Request, from_environment, topics


def make_app() -> FastStream:
    """Return the application, with the pipeline loaded."""
    servers, prefix = from_environment()
    requests, completed = topics(prefix)
    studio = Studio()
    device = asyncio.Lock()
    broker = KafkaBroker(servers)

    async def handle(request: Request) -> None:
        began = time.time()
        async with device:
            picture = await asyncio.to_thread(studio.draw, request)
        done: Completed = await asyncio.to_thread(studio.store, request, picture, began)
        await broker.publish(done, completed, key=request.job_id.encode())

    together = "SUBSCRIBER_PER_LANE" not in os.environ
    for group in [requests] if together else [[topic] for topic in requests]:
        broker.subscriber(
            *group,
            group_id=f"{prefix}worker",
            auto_offset_reset="earliest",
            ack_policy=AckPolicy.NACK_ON_ERROR,
        )(handle)
    return FastStream(broker)


if __name__ == "__main__":
    asyncio.run(make_app().run())
