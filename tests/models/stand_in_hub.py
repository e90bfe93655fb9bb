"""A stand-in for the hub: one repository of one commit over HTTP, with connections that drop on request.

As the real one does, it redirects to another place for weights.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

COMMIT = "c" * 40
REPOSITORY = "someone/some-model"


class Hub:
    """What the repository holds, and what was asked of it.

    `drops` maps a file to the sizes at which its next transfers end early; `ranges` lists the Range headers seen.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(files)
        self.drops: dict[str, list[int]] = {}
        self.ranges: list[tuple[str, str]] = []
        self.url = ""

    @classmethod
    def of(cls, folder: Path) -> Hub:
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return cls({path.relative_to(folder).as_posix(): path.read_bytes() for path in paths})

    def oid(self, name: str) -> str:
        """The name of a file in git: weights are large files, which LFS names by their SHA-256."""
        data = self.files[name]
        if name.endswith(".safetensors"):
            return hashlib.sha256(data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()

    def tree(self) -> list[dict[str, Any]]:
        entries = []
        for name, data in self.files.items():
            entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": self.oid(name)}
            if name.endswith(".safetensors"):
                entry["lfs"] = {"oid": self.oid(name), "size": len(data), "pointerSize": 134}
            entries.append(entry)
        return entries


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Serve `hub` on a port of this machine inside the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            path = urlsplit(self.path).path
            revisions = ("main", COMMIT)
            if path in {f"/api/models/{REPOSITORY}/revision/{revision}" for revision in revisions}:
                self._json({"id": REPOSITORY, "sha": COMMIT, "siblings": [{"rfilename": n} for n in hub.files]})
            elif path == f"/api/models/{REPOSITORY}/tree/{COMMIT}":
                self._json(hub.tree())
            elif path.startswith(f"/{REPOSITORY}/resolve/"):
                self._resolve(path.split("/", 5)[5], body)
            elif path.startswith("/cdn/"):
                self._file(path.removeprefix("/cdn/"), body)
            else:
                code = "RevisionNotFound" if path.startswith(f"/api/models/{REPOSITORY}/") else "RepoNotFound"
                self._head(404, {"X-Error-Code": code, "Content-Length": "0"})

        def _resolve(self, name: str, body: bool) -> None:
            if not name.endswith(".safetensors"):
                self._file(name, body)
                return
            linked = {"X-Linked-Etag": f'"{hub.oid(name)}"', "X-Linked-Size": str(len(hub.files[name]))}
            place = {"Location": f"{hub.url}/cdn/{name}", "X-Repo-Commit": COMMIT, "Content-Length": "0"}
            self._head(302, linked | place)

        def _file(self, name: str, body: bool) -> None:
            data, first = hub.files[name], 0
            if body and (wanted := self.headers.get("Range")):
                hub.ranges.append((name, wanted))
                first = int(wanted.removeprefix("bytes=").split("-")[0])
            headers = {"ETag": f'"{hub.oid(name)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            headers |= {"Content-Length": str(len(data) - first)}
            if first:
                headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
            self._head(206 if first else 200, headers)
            if not body:
                return
            drops = hub.drops.get(name)
            last = drops.pop(0) if drops else len(data)
            self.wfile.write(data[first:last])
            self.close_connection = last < len(data)

        def _json(self, content: object) -> None:
            data = json.dumps(content).encode()
            self._head(200, {"Content-Type": "application/json", "Content-Length": str(len(data))})
            self.wfile.write(data)

        def _head(self, status: int, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
