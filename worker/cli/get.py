"""The `get` verb: download the picture and the thumbnail of a job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from worker.cli.output import print_json
from worker.cli.pictures import Saver
from worker.cli.requests import utc_now
from worker.cli.status import latest_status
from worker.client.connection import connect
from worker.client.errors import CommandError
from worker.delivery.completed import owners_event
from worker.delivery.upload import PictureStore
from worker.settings import load_settings


def get(
    job_id: Annotated[str, typer.Argument(help="The id of the job.")],
    out: Annotated[
        Path, typer.Option("--save", metavar="DIR", help="Folder for the files (default: this one).")
    ] = Path(),
    girl_id: Annotated[
        str | None,
        typer.Option(help="girl_id of the job; it is looked up on the status topic and in the bucket otherwise."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object, with fresh URLs.")] = False,
) -> None:
    """Download the picture and the thumbnail of a job, and print where they are.

    It needs the S3 settings, and without --girl-id also Kafka.

    Exit code 1: there is no picture of that job.
    """
    store = PictureStore.from_settings(load_settings())
    store.require_bucket()
    try:
        manifest = _manifest(store, job_id, girl_id)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if manifest is None:
        raise CommandError(f"no picture of {job_id}: the job has not ended, failed, or was forgotten")
    picture = owners_event(manifest, url=store.url, completed_at=utc_now())
    saved = Saver(out, store).save(picture)
    if as_json:
        print_json(
            {
                "job_id": picture.job_id,
                "girl_id": picture.girl_id,
                "image": str(saved.image),
                "thumbnail": str(saved.thumbnail),
                "image_url": picture.image_url,
                "thumbnail_url": picture.thumbnail_url,
                "sha256": picture.sha256,
            }
        )
    else:
        print(saved.image)
        print(saved.thumbnail)


def _manifest(store: PictureStore, job_id: str, girl_id: str | None) -> dict[str, Any] | None:
    """Raises ValueError: an id that no picture can have."""
    if girl_id is not None:
        return store.fetch_manifest(girl_id, job_id)
    with connect() as connection:
        status = latest_status(connection, job_id)
    if status is not None:
        found = store.fetch_manifest(status.girl_id, job_id)
        if found is not None:
            return found
    return next(store.find_manifests(job_id), None)
