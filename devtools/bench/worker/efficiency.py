"""`python -m devtools.bench.worker.efficiency`: pictures a second through Kafka and S3, of what others draw.

The demo model on one torch thread, PUTs delayed by 100 ms. Others: a bare diffusers loop at the batch that is its
best here, and two workers that call the pipeline for a request at a time (`devtools/bench/peers`). All of them are
loaded and warm, and draw in turns; this project's worker draws as many rows a call as the loop does.

A worker's rate is taken while there is more to do, from the end of one picture to the end of another: how it begins and
ends a backlog is not part of it.
"""

from __future__ import annotations

from contextlib import ExitStack
from itertools import count

from devtools.bench.worker.alone import run_alone
from devtools.bench.worker.bare import BareLoop
from devtools.bench.worker.contestant import Ask, Contestant, asks
from devtools.bench.worker.site import Site, site
from devtools.demo.stage import DEMO_MODEL
from devtools.rehearsal.play import cpu_seconds

SIDE_PX, STEPS = 128, 20
BATCHES = (1, 2, 4, 8)
# Pictures before those that are counted, those, and pictures after them: whole calls of the largest batch.
WORKER = (8, 16, 8)
PEER = (1, 4, 1)

_numbers = count()


def measure(repeats: int) -> dict[str, list[float]]:
    """Return the ratios of this worker's pictures a second to the others', and of its processor time to the loop's."""
    with site() as place, ExitStack() as stack:
        bare = stack.enter_context(BareLoop({**place.environment, **DEMO_MODEL}, place.folder / "bare.log"))
        batch = best_batch(bare)
        ours = start(place, batch)
        peers = {
            "faststream": place.peer("faststream", "devtools.bench.peers.faststream_worker", DEMO_MODEL),
            "plain": place.peer("plain", "devtools.bench.peers.plain_worker", DEMO_MODEL),
        }
        for each in (ours, *peers.values()):
            each.warm(fresh(batch))
        found: dict[str, list[float]] = {"bare_batch": [batch]}
        for _ in range(repeats):
            # Half of the loop's pictures before the worker's and half after, so that a trend counts for neither.
            loop = bare.draw(fresh(max(BATCHES)), batch)
            before = cpu_seconds(ours.child.pid) or 0.0
            ours_per_s = rate(ours, *WORKER)
            cpu = (cpu_seconds(ours.child.pid) or 0.0) - before
            loop += bare.draw(fresh(max(BATCHES)), batch)
            add(found, "efficiency_over_bare", ours_per_s * loop.seconds / loop.pictures)
            add(found, "processor_time_over_bare", cpu / sum(WORKER) * loop.pictures / loop.cpu_s)
            add(found, "pictures_per_s", ours_per_s)
            for name, peer in peers.items():
                add(found, f"efficiency_over_{name}", ours_per_s / rate(peer, *PEER))
        return found


def start(place: Site, rows: int) -> Contestant:
    """Start this project's worker, with as many rows a call."""
    return place.worker("ours", settings={**DEMO_MODEL, "SLOTS": str(rows)})


def best_batch(bare: BareLoop) -> int:
    """Draw once to warm up, then once with each batch size; return the one with the least processor time a picture."""
    pictures = max(BATCHES)
    bare.draw(fresh(pictures), pictures)
    return min(BATCHES, key=lambda batch: bare.draw(fresh(pictures), batch).cpu_s)


def rate(worker: Contestant, lead: int, counted: int, tail: int) -> float:
    """Return the pictures a second of a worker, from the end of picture `lead` to that of the last counted one."""
    ends = [done.done_at for done in worker.play(fresh(lead + counted + tail))]
    return counted / (ends[lead + counted - 1] - ends[lead - 1])


def fresh(pictures: int) -> list[Ask]:
    """Return so many pictures that were not asked for before."""
    return asks(f"picture-{next(_numbers)}", pictures, side_px=SIDE_PX, steps=STEPS)


def add(found: dict[str, list[float]], key: str, value: float) -> None:
    """Append a value."""
    found.setdefault(key, []).append(value)


if __name__ == "__main__":
    run_alone(measure)
