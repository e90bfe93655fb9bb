"""Schemas of producers that have one of their own and no registry: files that an operator gives the worker."""

from __future__ import annotations

from pathlib import Path

from fastavro.schema import SchemaParseException

from worker.errors import SettingsError
from worker.events.avro_binary import AvroError
from worker.events.schemas import parse
from worker.events.writers import Writer

_SETTING = "WRITER_SCHEMAS_PATH"
_MAX_REASON = 300


def writer_files(folder: Path | None) -> tuple[str, ...]:
    """The JSON texts of the `.avsc` files in `folder`.

    Raises:
        SettingsError: the folder or a file cannot be read, or a file's schema can not be read as one of our events.
    """
    if folder is None:
        return ()
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix == ".avsc")
        texts = [(path, path.read_text("utf-8-sig")) for path in files]
    except OSError as error:
        raise SettingsError(f"{_SETTING}: {error.filename or folder} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{_SETTING}: a file of {folder} is not UTF-8 text") from None
    if not texts:
        raise SettingsError(f"{_SETTING}: {folder} holds no .avsc file")
    for path, text in texts:
        problem = _problem(text)
        if problem is not None:
            raise SettingsError(f"{_SETTING}: {path}: {problem}")
    return tuple(text for _, text in texts)


def _problem(text: str) -> str | None:
    """Why a schema's records could never be read; None where they can be."""
    try:
        parse(text)
        return Writer(text).unreadable
    except (ValueError, TypeError, KeyError, RecursionError, SchemaParseException, AvroError) as error:
        return f"no schema of a record: {type(error).__name__}: {' '.join(str(error).split())[:_MAX_REASON]}"
