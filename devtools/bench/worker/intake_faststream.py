"""FastStream's subscriber on confluent-kafka, which decodes requests as its documentation says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from io import BytesIO
from typing import Any, cast

from fastavro import schemaless_reader
from faststream.confluent import KafkaBroker, KafkaMessage

from devtools.bench.worker.record_watch import Stopwatch
from worker.events.schemas import current
from worker.events.types import GenerationRequest
from worker.topics import Topics

# Of single-object encoding, before the record.
_PREFIX_BYTES = 10
_LOOK_S = 0.05


def run_faststream(servers: str, group: str, topics: Topics, watch: Stopwatch) -> None:
    """Read until the watch is over."""
    asyncio.run(_run(servers, group, topics.requests[-1], watch))


async def _run(servers: str, group: str, topic: str, watch: Stopwatch) -> None:
    # Without a line in its log for each record, which is its most expensive part.
    broker = KafkaBroker(servers, logger=None, allow_auto_create_topics=False)
    schema = current()[GenerationRequest].parsed

    async def decode(message: KafkaMessage, _original: Callable[[KafkaMessage], Awaitable[Any]]) -> Any:
        return schemaless_reader(BytesIO(cast("bytes", message.body)[_PREFIX_BYTES:]), schema, None)

    @broker.subscriber(topic, group_id=group, auto_offset_reset="earliest", decoder=decode)
    async def handle(request: dict[str, Any]) -> None:
        assert request["job_id"]
        watch.tick()

    await broker.start()
    try:
        while watch.wants_more():
            await asyncio.sleep(_LOOK_S)
    finally:
        await broker.stop()
