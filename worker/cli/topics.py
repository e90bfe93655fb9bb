"""The `topics create` and `topics describe` verbs."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from worker.cli.output import print_json, result_console
from worker.client.connection import connect
from worker.client.errors import CommandError
from worker.topics import (
    DEFAULT_PARTITIONS,
    TopicDescription,
    TopicsError,
    create_topics,
    describe_topics,
)

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
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Create the topics that are missing. Existing topics are not changed."""
    with connect() as connection:
        connection.require_kafka()
        try:
            created = create_topics(connection.config(), connection.topics, partitions, replication_factor)
        except TopicsError as error:
            raise CommandError(str(error)) from error
        existed = [name for name in connection.topics.all if name not in created]
    if as_json:
        print_json({"created": created, "existed": existed})
        return
    for name in connection.topics.all:
        print(f"{'created' if name in created else 'exists ':<8} {name}")


@app.command()
def describe(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object per topic.")] = False,
) -> None:
    """Describe the topics.

    Exit code 1: a topic is missing.
    """
    with connect() as connection:
        connection.require_kafka()
        try:
            found = describe_topics(connection.config(), connection.topics)
        except TopicsError as error:
            raise CommandError(str(error)) from error
        missing = sorted(set(connection.topics.all) - {topic.name for topic in found})
    if as_json:
        for topic in found:
            print_json(_object(topic))
    else:
        result_console().print(_table(found))
    if missing:
        raise CommandError(f"missing: {', '.join(missing)}; `sdxl-worker topics create` creates them")


def _table(topics: tuple[TopicDescription, ...]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("topic", no_wrap=True)
    for heading in ("partitions", "replicas", "in sync", "records", "kept"):
        table.add_column(heading, justify="right")
    table.add_column("cleanup")
    for topic in topics:
        in_sync = min(len(partition.in_sync_replicas) for partition in topic.partitions)
        table.add_row(
            topic.name,
            str(topic.partition_count),
            str(topic.replication_factor),
            str(in_sync),
            str(_records(topic)),
            _kept(topic.config.get("retention.ms")),
            topic.config.get("cleanup.policy", "?"),
        )
    return table


def _object(topic: TopicDescription) -> dict[str, Any]:
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
        "records": _records(topic),
        "config": dict(topic.config),
        "partitions": partitions,
    }


def _records(topic: TopicDescription) -> int:
    """Return an upper bound of the number of records: transaction markers and compacted records count too."""
    return sum(partition.high - partition.low for partition in topic.partitions)


def _kept(retention_ms: str | None) -> str:
    if retention_ms is None:
        return "?"
    if retention_ms == "-1":
        return "for ever"
    return f"{int(retention_ms) / DAY_MS:g} d"
