"""A log of offsets next to each worker's log: the offsets it received with each partition, and those it committed.

It shows the cause of a duplicate: which process committed what on top of which offset.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from worker.delivery.exactly_once import ExactlyOnce
from worker.delivery.transport import Encoded, Offset
from worker.intake.ledger import Ledger


def install(path: Path) -> None:
    """Write to `path` from now on; for the whole process."""
    diary = path.open("ab", buffering=0)

    def write(event: str, **facts: Any) -> None:
        diary.write((json.dumps({"at": round(time.time(), 4), "event": event, **facts}) + "\n").encode())

    assign, send = Ledger.assign, ExactlyOnce.send

    def traced_assign(
        self: Ledger, topic: str, partition: int, committed: int | None, metadata: str | None, *rest: Any, **more: Any
    ) -> int:
        epoch = assign(self, topic, partition, committed, metadata, *rest, **more)
        write("assigned", place=f"{topic}/{partition}", offset=committed, metadata=metadata, epoch=epoch)
        return epoch

    def traced_send(
        self: ExactlyOnce, records: Sequence[Encoded], offsets: Sequence[Offset], *rest: Any, **more: Any
    ) -> Mapping[int, int]:
        places = {f"{o.topic}/{o.partition}": [o.offset, o.metadata] for o in offsets}
        jobs = [f"{r.topic}:{(r.key or b'').decode()}" for r in records if not r.topic.endswith("status")]
        write("send", offsets=places, jobs=jobs)
        try:
            written = send(self, records, offsets, *rest, **more)
        except Exception as error:  # written down, whatever it is, and passed on
            write("send_failed", error=str(error))
            raise
        write("sent")
        return written

    # Not by inheritance: the worker is to be wired as it always is.
    Ledger.assign = traced_assign  # type: ignore[method-assign]
    ExactlyOnce.send = traced_send  # type: ignore[method-assign]
