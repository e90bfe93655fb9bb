"""Download a hub model's large files so that an interrupted download goes on where it ended.

The hub's client throws away what has arrived of a file when its process ends or its tries are used up (tried with
huggingface_hub 2.4), which is 5 GB for a UNet. So large files are downloaded here, into the place in the hub's cache
where the client finds them: by the same requests, but into a file that stays.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from huggingface_hub import DryRunFileInfo, get_hf_file_metadata, hf_hub_url
from huggingface_hub.file_download import http_get
from huggingface_hub.utils._fixes import WeakFileLock
from huggingface_hub.utils._headers import build_hf_headers

from worker.errors import ModelLoadError

# Smaller files are fetched again as quickly as they are looked at.
LARGE_BYTES = 10_000_000

_SHA256 = re.compile(r"[0-9a-f]{64}")


def fetch_large(model_id: str, repository: str, file: DryRunFileInfo) -> None:
    """Put a large file that is missing into the hub's cache; does nothing for a small one.

    Raises:
        ModelLoadError: what arrived is not what the hub says it is; it is deleted.
        HTTPError, OSError: the connection dropped too often, or the disk is full; what has arrived is kept.
    """
    if (file.file_size or 0) < LARGE_BYTES:
        return
    url = hf_hub_url(repository, file.filename, revision=file.commit_hash)
    told = get_hf_file_metadata(url)
    if told.etag is None or not _SHA256.fullmatch(told.etag):
        return
    # <repository>/snapshots/<commit>/<name>
    depth = len(Path(file.filename).parts) + 1
    blob = Path(file.local_path).parents[depth] / "blobs" / told.etag
    blob.parent.mkdir(parents=True, exist_ok=True)
    part = blob.with_name(f"{told.etag}.part")
    with WeakFileLock(blob.with_name(f"{told.etag}.part.lock")):
        if blob.exists():
            return
        with part.open("r+b" if part.exists() else "w+b") as stream:
            had = stream.seek(0, 2)
            if had < (told.size or 0):
                http_get(url, stream, resume_size=had, headers=build_hf_headers(), expected_size=told.size)
            stream.seek(0)
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != told.etag:
            part.unlink()
            raise ModelLoadError(f"{model_id}: {file.filename} arrived damaged and is deleted: run models pull again.")
        part.replace(blob)
