"""Fetch a model's files from the Hugging Face hub, or find them in its cache."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
from httpx2 import HTTPError
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    DryRunError,
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from worker.errors import ModelLoadError
from worker.models.resume import fetch_large

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Source:
    """A model on the hub; `revision` None is its main branch."""

    model_id: str
    repository: str
    revision: str | None
    cache_dir: Path | None


def fetch(source: Source, select: Callable[[list[str]], list[str]], *, progress: bool) -> Path:
    """Download the files of a hub model that are not cached yet, and return its snapshot folder.

    Args:
        select: picks the files to download from the repository's.
        progress: show bars on stderr.

    Raises:
        ModelLoadError: the hub refuses, does not answer, or the connection drops.
    """
    model_id, cache_dir = source.model_id, source.cache_dir
    try:
        with _quiet():
            # A dry run lists the repository's files with their sizes, and whether each is cached.
            with _progress_bars(shown=False):
                listing = snapshot_download(
                    source.repository, revision=source.revision, cache_dir=cache_dir, dry_run=True
                )
            wanted = select([file.filename for file in listing])
            missing = [file for file in listing if file.filename in wanted and file.will_download]
            if missing:
                size = sum(file.file_size or 0 for file in missing)
                log.info("model_download", model_id=model_id, files=len(missing), size_bytes=size)
            # The commit that was listed, even if the branch moves on meanwhile.
            commit = listing[0].commit_hash if listing else source.revision
            with _progress_bars(shown=progress and bool(missing)):
                for file in missing:
                    fetch_large(model_id, source.repository, file)
                folder = snapshot_download(
                    source.repository, revision=commit, cache_dir=cache_dir, allow_patterns=wanted
                )
            return Path(folder)
    except DryRunError as error:
        if (refusal := _refusal(source, error.__cause__)) is not None:
            raise refusal from error
        return _cached_snapshot(source, error.__cause__)
    except (HTTPError, OSError, RuntimeError) as error:
        # Of hf_xet, which downloads from the hub's own store, all errors are RuntimeErrors.
        raise _refusal(source, error) or ModelLoadError(
            f"{model_id} could not be downloaded: {_first_line(error)}; what has arrived is kept, so that models pull"
            " goes on from there."
        ) from error


def _refusal(source: Source, error: BaseException | None) -> ModelLoadError | None:
    """Return what to tell of an answer of the hub that will stay the same."""
    if isinstance(error, GatedRepoError):
        return ModelLoadError(f"{source.model_id} is gated: accept its licence on the hub and set HF_TOKEN.")
    if isinstance(error, RevisionNotFoundError):
        return ModelLoadError(f"{source.repository} has no revision {source.revision}.")
    if isinstance(error, RepositoryNotFoundError):
        return ModelLoadError(
            f"{source.model_id} is neither a folder here nor a model on the hub (private ones need HF_TOKEN)."
        )
    return None


def _cached_snapshot(source: Source, refusal: BaseException | None) -> Path:
    try:
        # Only the index is asked for here; `pull.locate` then decides which other files must exist.
        folder = snapshot_download(
            source.repository,
            revision=source.revision,
            cache_dir=source.cache_dir,
            local_files_only=True,
            allow_patterns=["model_index.json"],
        )
    except LocalEntryNotFoundError as error:
        why = f"the hub cannot be reached ({_first_line(refusal)})" if refusal else "the hub cannot be reached"
        raise ModelLoadError(f"{source.model_id} is not on this machine, and {why}.") from error
    return Path(folder)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the client's warnings of each try: the last one becomes an error, which is told in one line."""
    logger = logging.getLogger("huggingface_hub.file_download")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _progress_bars(*, shown: bool) -> Iterator[None]:
    if shown or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _first_line(error: BaseException | None) -> str:
    return str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
