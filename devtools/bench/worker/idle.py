"""`python -m devtools.bench.worker.idle`: how long a device waits for its worker, and urgent jobs for a burst.

The device sleeps 0.44 s a picture, about an H100's floor (docs/gpu-bench.md), and costs no processor time. All
else is real: Kafka, S3 with PUTs delayed by 100 ms, encoding. FastStream's worker has a device of the same speed.

The idle share is what is missing to a picture every 0.44 s while there are jobs to draw. In a burst, normal jobs are
sent at once and urgent ones one after another while those wait; an urgent job's time is from sending its request to
reading its completed event.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from pathlib import Path

from devtools.bench.worker.alone import run_alone
from devtools.bench.worker.contestant import Ask, Contestant, asks
from devtools.bench.worker.site import Site, site
from worker.job import Lane

PICTURE_S = 0.44
SIDE_PX, STEPS = 512, 30
# Jobs of a backlog; those whose beginnings are compared are away from both ends.
BACKLOG, FIRST, LAST = 20, 3, 17
# Normal jobs of a burst, urgent ones, and the seconds from one of these to the next.
NORMAL, URGENT, EVERY_S = 20, 6, 1.0

_numbers = count()


def measure(repeats: int) -> dict[str, list[float]]:
    """Return the idle share, and the p99 of urgent jobs, of FastStream's with one subscriber and with one a lane."""
    with site() as place:
        log = place.folder / "begun.log"
        device = {"STAND_IN_S": str(PICTURE_S)}
        ours = place.worker("ours", "devtools.bench.worker.stand_in", device | {"STAND_IN_LOG": str(log)})
        peers = {
            "urgent_p99_over_faststream": faststream(place, "together", device),
            "urgent_p99_over_faststream_lanes": faststream(place, "apart", device | {"SUBSCRIBER_PER_LANE": "1"}),
        }
        for each in (ours, *peers.values()):
            each.warm(pictures(1))
            each.warm(pictures(1, Lane.URGENT))
        found: dict[str, list[float]] = {}
        for _ in range(repeats):
            found.setdefault("device_idle_share", []).append(idle_share(ours, log))
            urgent_s = urgent_p99_s(ours)
            found.setdefault("urgent_p99_s", []).append(urgent_s)
            for key, peer in peers.items():
                found.setdefault(key, []).append(urgent_s / urgent_p99_s(peer))
        return found


def faststream(place: Site, name: str, settings: dict[str, str]) -> Contestant:
    """Start a FastStream worker."""
    return place.peer(f"faststream-{name}", "devtools.bench.peers.faststream_worker", settings)


def pictures(number: int, lane: Lane = Lane.NORMAL) -> list[Ask]:
    """Return so many pictures that were not asked for before."""
    return asks(f"stand-in-{next(_numbers)}", number, side_px=SIDE_PX, steps=STEPS, lane=lane)


def idle_share(worker: Contestant, log: Path) -> float:
    """Draw a backlog; return the share of the time in which the device drew nothing."""
    log.write_text("")
    worker.play(pictures(BACKLOG))
    begun = [float(line.split()[1]) for line in log.read_text().splitlines()]
    return 1 - (LAST - FIRST) * PICTURE_S / (begun[LAST] - begun[FIRST])


def urgent_p99_s(worker: Contestant) -> float:
    """Send a burst; return the p99 of the seconds that an urgent job takes: of so few, the longest."""
    asked = enumerate(pictures(URGENT, Lane.URGENT), 1)
    urgent = [replace(ask, due_s=EVERY_S * number) for number, ask in asked]
    done = worker.play([*pictures(NORMAL), *urgent])
    return max(one.done_at - one.sent_at for one in done if one.lane is Lane.URGENT)


if __name__ == "__main__":
    run_alone(measure)
