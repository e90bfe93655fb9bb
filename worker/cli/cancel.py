"""The `cancel` verb: send a cancellation event."""

from __future__ import annotations

from typing import Annotated

import typer

from worker.cli.output import print_json
from worker.cli.requests import utc_now
from worker.client.connection import SOURCE, Sender, connect
from worker.events.types import GenerationCancellation


def cancel(
    job_id: Annotated[str, typer.Argument(help="The id of the job to cancel.")],
    reason: Annotated[str | None, typer.Option(help="Why it is cancelled; the job's failed event says it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Ask every worker to stop a job. A job that has already ended is not affected."""
    event = GenerationCancellation(job_id=job_id, reason=reason, requested_by=SOURCE, requested_at=utc_now())
    with connect() as connection:
        sender = Sender(connection)
        try:
            sender.send(connection.topics.cancellations, event)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
        sender.flush()
    if as_json:
        print_json({"job_id": job_id, "status": "cancellation_requested", "reason": reason})
    else:
        print(f"cancellation of {job_id} sent")
