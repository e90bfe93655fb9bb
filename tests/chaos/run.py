"""A complete chaos run, from starting the servers to the verdict."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError

from tests.chaos import plan, report, verdict, worklog
from tests.chaos.counting import Follower, Reader, ends
from tests.chaos.crew import Crew
from tests.chaos.director import Director
from tests.chaos.offsets import OffsetWatch
from tests.chaos.options import BUCKET, DISPATCH_GROUP, GROUP, PARTITIONS, Options
from tests.chaos.site import Site
from tests.chaos.stage import Stage, remove_data, staged
from tests.chaos.tally import Tally
from tests.chaos.traffic import Ending, Sender, ending_of, girl_of, name_of
from tests.rights import Rights
from worker.delivery.keys import object_keys

TICK_S = 0.05
JOIN_S = 90.0
PROGRESS_EVERY_S = 5.0
# After the last request and the last repair: the backlog, at the slowest that a run should ever be.
CATCH_UP_S = 120.0
CATCH_UP_PER_JOB_S = 0.1
# A duplicate would come within the time that a stalled transaction or a zombie has left.
SETTLE_S = 3.0
PICTURES_LOOKED_UP = 300


def run(options: Options) -> dict[str, Any]:
    """Run, judge, write the report; returns it."""
    began = time.monotonic()
    with staged(options) as stage:
        say(f"servers are up after {time.monotonic() - began:.0f} s")
        crew = Crew(stage.hire, stage.names(), random.Random(options.seed))
        rights = Rights.at(stage.kafka.bootstrap_servers)
        site = Site(stage.kafka, stage.s3, stage.proxy, stage.topics, rights, stage.losable_rights())
        director = Director(plan.draw(options.seed, options.send_s), crew, site, say)
        try:
            evidence, seconds = _act(stage, director)
        finally:
            director.close()
            crew.kill_all()
    kills = "".join(f"{life.log.stem} {at:.3f}\n" for at, life in crew.kills)
    (options.folder / "kills.txt").write_text(kills)
    made = worklog.read_made(sorted(stage.work.glob("*.log")))
    changes = worklog.read_changes(sorted(stage.logs.glob("*.log")))
    seconds["wall_s"] = time.monotonic() - began
    facts = report.report(options, director, evidence, changes, made, verdict.complaints(evidence), seconds)
    report.write(options, facts)
    if facts["passed"]:
        remove_data(options)
    return facts


def _act(stage: Stage, director: Director) -> tuple[verdict.Evidence, dict[str, float]]:
    servers, topics, options = stage.kafka.bootstrap_servers, stage.topics, stage.options
    follower, sender = Follower(servers, topics, options.jobs), Sender(servers, topics, options)
    watches = _offset_watches(stage, director.site)
    parts: list[Sender | Follower | OffsetWatch] = [sender, follower, *watches]
    director.crew.start()
    _await_group(director)
    for part in parts:
        part.start()
    try:
        began = time.monotonic()
        _play(director, sender, follower.tally)
        sender.finish(CATCH_UP_S)
        caught_up = _catch_up(
            director, follower.tally, options.jobs, lambda: not any(watch.behind() for watch in watches)
        )
        seconds = {"chaos_s": options.send_s, "until_all_ended_s": time.monotonic() - began}
        if not caught_up:
            say("gave up waiting for the rest")
        time.sleep(SETTLE_S)
        director.crew.dismiss()
        evidence = _evidence(stage, director, follower, sender, watches)
    finally:
        for part in parts:
            part.stop()
    return evidence, seconds


def _offset_watches(stage: Stage, site: Site) -> list[OffsetWatch]:
    """One for each group in the way of a request, the first one first."""
    groups = [(GROUP, stage.work_topics)]
    if stage.options.dispatchers:
        groups.insert(0, (DISPATCH_GROUP, stage.topics))
    servers = stage.kafka.bootstrap_servers
    return [
        OffsetWatch(servers, group, topics.requests, PARTITIONS, site.lost_ends, lambda: site.offsets_are_stale)
        for group, topics in groups
    ]


def _await_group(director: Director) -> None:
    """Until every worker holds partitions: what comes before is no test of anything."""
    deadline = time.monotonic() + JOIN_S
    while not all('"assigned"' in post.life.log.read_text() for post in director.crew.posts):
        if time.monotonic() > deadline:
            raise TimeoutError(f"the workers did not join the group in {JOIN_S:g} s")
        time.sleep(TICK_S)


def _play(director: Director, sender: Sender, seen: Tally) -> None:
    """Until everything is sent, every fault inflicted and everything mended."""
    began = told = time.monotonic()
    while sender.running or not director.done or not director.mended:
        director.tick(time.monotonic() - began)
        if time.monotonic() - told > PROGRESS_EVERY_S:
            told = time.monotonic()
            say(f"sent {sender.tally.total}, ended {seen.total}, killed {len(director.crew.kills)}")
        time.sleep(TICK_S)


def _catch_up(director: Director, seen: Tally, jobs: int, all_committed: Callable[[], bool]) -> bool:
    """Until all that is in the topics has ended."""
    deadline = time.monotonic() + CATCH_UP_S + jobs * CATCH_UP_PER_JOB_S
    told = time.monotonic()
    while True:
        if time.monotonic() > deadline:
            return False
        director.crew.mend()
        if time.monotonic() - told > PROGRESS_EVERY_S:
            told = time.monotonic()
            say(f"ended {seen.total}")
            if all_committed():
                return True
        time.sleep(TICK_S)


def _evidence(
    stage: Stage, director: Director, follower: Follower, sender: Sender, watches: list[OffsetWatch]
) -> verdict.Evidence:
    servers, topics, jobs = stage.kafka.bootstrap_servers, stage.topics, stage.options.jobs
    behind = {place: lag for watch in watches for place, lag in watch.finish().items()}
    work = Reader(servers, stage.work_topics.requests, jobs, {}).read_all() if stage.options.dispatchers else None
    requests = Reader(servers, topics.requests, jobs, {}).read_all()
    fresh = Reader(servers, list(ends(topics)), jobs, ends(topics)).read_all()
    follower.stop()
    return verdict.Evidence(
        jobs=jobs,
        sent=sender.tally,
        requests=requests,
        work=work,
        shortened=director.site.shortened,
        live=follower.tally,
        fresh=fresh,
        regressed=[text for watch in watches for text in watch.regressed],
        behind=behind,
        crashes=director.crew.crashes,
        missing_pictures=_missing_pictures(stage, fresh),
        send_errors=sender.errors,
    )


def _missing_pictures(stage: Stage, fresh: Tally) -> list[str]:
    """Of a sample of the completed jobs, those without all three objects."""
    done = [n for n, count in enumerate(fresh.counts) if count and ending_of(n) is Ending.COMPLETED]
    sample = random.Random(stage.options.seed).sample(done, min(PICTURES_LOOKED_UP, len(done)))
    client = stage.s3.client()
    missing = []
    for number in sample:
        keys = object_keys(girl_of(number), name_of(number), "jpeg")
        for key in (keys.image, keys.thumbnail, keys.manifest):
            try:
                client.head_object(Bucket=BUCKET, Key=key)
            except ClientError:
                missing.append(key)
    return missing


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)
