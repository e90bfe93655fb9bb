"""The `topics create` and `topics describe` verbs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Annotated, Any

import typer
from rich.table import Table

from worker.cli.flags import between
from worker.cli.output import print_json, result_console
from worker.client.connection import Connection, connect
from worker.client.errors import CommandError
from worker.client.ranges import RangeReader
from worker.topic_admin import TopicDescription, TopicsError, create_topics, describe_topics
from worker.topics import DEFAULT_PARTITIONS

DAY_MS = 86_400_000

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Create or describe the worker's Kafka topics.")


@app.command()
def create(
    partitions: Annotated[
        int, typer.Option(metavar="N", min=1, max=100_000, help="Partitions of each request and result topic.")
    ] = DEFAULT_PARTITIONS,
    replication_factor: Annotated[
        int, typer.Option(metavar="N", min=1, max=1_000, help="Replicas of each partition.")
    ] = 1,
    dispatch: Annotated[
        bool, typer.Option("--dispatch", help="Also create those that dispatchers and INPUT=work need.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Create the topics that are missing. Existing topics are not changed."""
    with connect() as connection:
        connection.require_kafka()
        sets = [connection.topics, *([replace(connection.topics, input="work")] if dispatch else [])]
        try:
            created = [
                name
                for topics in sets
                for name in create_topics(connection.config(), topics, partitions, replication_factor)
            ]
        except TopicsError as error:
            raise CommandError(str(error)) from error
    names = dict.fromkeys(name for topics in sets for name in topics.all)
    existed = [name for name in names if name not in created]
    if as_json:
        print_json({"created": created, "existed": existed})
        return
    for name in names:
        print(f"{'created' if name in created else 'exists ':<8} {name}")


@app.command()
def describe(
    count_for: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            callback=between(0.0, 3_600.0),
            help="Longest time to read the topics for the number of their records.",
        ),
    ] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object per topic.")] = False,
) -> None:
    """Describe the topics: partitions, replicas, records and retention.

    Records are counted by reading them, since offsets count transaction markers
    and deleted records, too. A topic that cannot be read in time has ≤ before its
    number.

    Exit code 1: a topic is missing.
    """
    with connect() as connection:
        connection.require_kafka()
        try:
            found = describe_topics(connection.config(), connection.topics)
        except TopicsError as error:
            raise CommandError(str(error)) from error
        counts = count_records(connection, [topic.name for topic in found], time.monotonic() + count_for)
        missing = sorted(set(connection.topics.all) - {topic.name for topic in found})
    if as_json:
        for topic in found:
            print_json(_object(topic, counts[topic.name]))
    else:
        result_console().print(_table(found, counts))
    if missing:
        raise CommandError(f"missing: {', '.join(missing)}; `sdxl-worker topics create` creates them")


def _table(topics: tuple[TopicDescription, ...], counts: Mapping[str, int | None]) -> Table:
    # One space between the columns: with a prefix of some letters, too, all of it fits into 80 characters.
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("topic", overflow="fold")
    for heading in ("partitions", "in sync", "records", "kept", "cleanup"):
        table.add_column(heading, justify="right", no_wrap=True)
    for topic in topics:
        in_sync = min(len(partition.in_sync_replicas) for partition in topic.partitions)
        table.add_row(
            topic.name,
            str(topic.partition_count),
            f"{in_sync}/{topic.replication_factor}",
            _shown(topic, counts[topic.name]),
            _kept(topic.config.get("retention.ms")),
            topic.config.get("cleanup.policy", "?"),
        )
    return table


def _object(topic: TopicDescription, count: int | None) -> dict[str, Any]:
    partitions = [
        {
            "partition": partition.partition,
            "leader": partition.leader,
            "replicas": partition.replicas,
            "in_sync_replicas": partition.in_sync_replicas,
            "low": partition.low,
            "high": partition.high,
        }
        for partition in topic.partitions
    ]
    return {
        "topic": topic.name,
        "replication_factor": topic.replication_factor,
        "records": _offsets(topic) if count is None else count,
        "records_exact": count is not None,
        "config": dict(topic.config),
        "partitions": partitions,
    }


def count_records(connection: Connection, names: Sequence[str], deadline: float) -> dict[str, int | None]:
    """The number of committed records of each topic; None for those that could not be read before the deadline."""
    counts: dict[str, int | None] = dict.fromkeys(names)
    with closing(RangeReader(connection)) as reader:
        for name in names:
            count = 0
            for _ in reader.read(reader.ranges([name])):
                count += 1
                if count % 500 == 0 and time.monotonic() > deadline:
                    return counts
            counts[name] = count
            if time.monotonic() > deadline:
                break
    return counts


def _offsets(topic: TopicDescription) -> int:
    """Return an upper bound of the number of records: transaction markers and compacted records count too."""
    return sum(partition.high - partition.low for partition in topic.partitions)


def _shown(topic: TopicDescription, count: int | None) -> str:
    bound = _offsets(topic)
    return f"≤ {bound}" if count is None and bound else str(count or 0)


def _kept(retention_ms: str | None) -> str:
    if retention_ms is None:
        return "?"
    if retention_ms == "-1":
        return "for ever"
    return f"{int(retention_ms) / DAY_MS:g} d"
