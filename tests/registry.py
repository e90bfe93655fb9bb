"""A schema registry for the tests: in memory, on 127.0.0.1, one thread per connection.

It implements the REST calls that confluent-kafka's client makes (registering, looking up by id, GUID or version,
`/config`) as the Confluent registry documents them. It does not check compatibility and stores nothing on disk.
"""

from __future__ import annotations

import base64
import json
import re
import ssl
import threading
import uuid
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.loopback import LoopbackServer

Answer = tuple[int, Any]
_CONTENT_TYPE = "application/vnd.schemaregistry.v1+json"


class RegistryServer(LoopbackServer):
    """Use as a context manager; `url` is where it listens, `requests` what it was asked.

    `by_subject`: an id is known only under its own subject, or where none is asked for. `without_subject`: the status
    for an id that is asked for without one. `subjects_asked`: the subject of each look-up by id.

    Args:
        user_info: `user:password` to insist on.
        bearer: token to insist on.
        prefix: the path that all others begin with, such as that of Apicurio's `ccompat` interface.
        tls: what the server speaks instead of plain HTTP.
    """

    def __init__(
        self,
        user_info: str | None = None,
        *,
        bearer: str | None = None,
        prefix: str = "",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.user_info = user_info
        self.bearer = bearer
        self.prefix = prefix
        self.requests: list[str] = []
        self.forced_answer: tuple[int, bytes] | None = None
        self.compatibility = "FULL_TRANSITIVE"
        self.subjects_asked: list[str | None] = []
        self.by_subject = False
        self.without_subject: int | None = None
        self._schemas: list[dict[str, Any]] = []
        self._subjects: dict[str, list[int]] = {}
        self._lock = threading.Lock()
        super().__init__(type("Handler", (_Handler,), {"registry": self}), tls)
        self.url = self.origin + prefix

    def add(self, subject: str, schema: str, **more: Any) -> tuple[int, uuid.UUID]:
        """Register from within a test; the id and the GUID."""
        answer = self.register(subject, {"schema": schema, **more})[1]
        return answer["id"], uuid.UUID(answer["guid"])

    def subjects(self) -> list[str]:
        return sorted(self._subjects)

    def answer(self, method: str, path: str, body: dict[str, Any]) -> Answer:
        with self._lock:
            for verb, pattern, name in _ROUTES:
                match = re.fullmatch(pattern, path)
                if verb == method and match:
                    call = getattr(self, name)
                    parts = [unquote(part) for part in match.groups()]
                    answer: Answer = call(*parts, body) if method in ("POST", "PUT") else call(*parts)
                    return answer
        return 404, {"error_code": 404, "message": "HTTP 404 Not Found"}

    def register(self, subject: str, body: dict[str, Any]) -> Answer:
        index = self._index(body)
        if index is None:
            index = len(self._schemas)
            text = json.dumps(_content(body), sort_keys=True)
            self._schemas.append(_content(body) | {"guid": str(uuid.uuid5(uuid.NAMESPACE_OID, text))})
        versions = self._subjects.setdefault(subject, [])
        if index not in versions:
            versions.append(index)
        return 200, self._registered(subject, index)

    def look_up(self, subject: str, body: dict[str, Any]) -> Answer:
        index = self._index(body)
        if subject not in self._subjects:
            return 404, {"error_code": 40401, "message": f"Subject '{subject}' not found."}
        if index is None or index not in self._subjects[subject]:
            return 404, {"error_code": 40403, "message": "Schema not found"}
        return 200, self._registered(subject, index)

    def by_id(self, schema_id: str) -> Answer:
        index = int(schema_id) - 1
        if not 0 <= index < len(self._schemas):
            return 404, {"error_code": 40403, "message": f"Schema {schema_id} not found"}
        return 200, self._schemas[index]

    def refusal(self, path: str, query: str) -> Answer | None:
        """What an id is answered with that is asked for with a subject that it has not, or without one."""
        match = re.fullmatch(r"/schemas/ids/(\d+)", path)
        if match is None:
            return None
        subject = next(iter(parse_qs(query).get("subject", [])), None)
        self.subjects_asked.append(subject)
        if subject is None and self.without_subject is not None:
            return self.without_subject, {"error_code": self.without_subject * 100 + 3, "message": "no subject"}
        if subject is not None and self.by_subject and int(match[1]) - 1 not in self._subjects.get(subject, []):
            return 404, {"error_code": 40403, "message": "Schema not found"}
        return None

    def by_guid(self, guid: str) -> Answer:
        found = [schema for schema in self._schemas if schema["guid"] == guid]
        return (200, found[0]) if found else (404, {"error_code": 40403, "message": f"Schema {guid} not found"})

    def by_version(self, subject: str, version: str) -> Answer:
        versions = self._subjects.get(subject, [])
        number = len(versions) if version == "latest" else int(version)
        if not 1 <= number <= len(versions):
            return 404, {"error_code": 40402, "message": f"Version {version} not found."}
        return 200, self._registered(subject, versions[number - 1])

    def get_config(self) -> Answer:
        return 200, {"compatibilityLevel": self.compatibility}

    def put_config(self, body: dict[str, Any]) -> Answer:
        self.compatibility = body["compatibility"]
        return 200, {"compatibility": self.compatibility}

    def _index(self, body: dict[str, Any]) -> int | None:
        known = [{k: v for k, v in schema.items() if k != "guid"} for schema in self._schemas]
        return known.index(_content(body)) if _content(body) in known else None

    def _registered(self, subject: str, index: int) -> dict[str, Any]:
        version = self._subjects[subject].index(index) + 1
        return self._schemas[index] | {"id": index + 1, "subject": subject, "version": version}


_ROUTES = (
    ("POST", r"/subjects/([^/]+)/versions", "register"),
    ("POST", r"/subjects/([^/]+)", "look_up"),
    ("GET", r"/subjects/([^/]+)/versions/(\d+|latest)", "by_version"),
    ("GET", r"/schemas/ids/(\d+)", "by_id"),
    ("GET", r"/schemas/guids/([0-9a-f-]+)", "by_guid"),
    ("GET", r"/config", "get_config"),
    ("PUT", r"/config", "put_config"),
)


def _content(body: dict[str, Any]) -> dict[str, Any]:
    try:
        text = json.dumps(json.loads(body["schema"]))  # whitespace makes no other schema
    except (ValueError, RecursionError):
        text = body["schema"]
    return {
        "schema": text,
        "schemaType": body.get("schemaType", "AVRO"),
        "references": body.get("references") or [],
    } | ({"ruleSet": body["ruleSet"]} if "ruleSet" in body else {})


class _Handler(BaseHTTPRequestHandler):
    registry: RegistryServer
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet an answer, or delayed acknowledgements cost 40 ms each

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, query = urlsplit(self.path)[2:4]
        path = path.removeprefix(self.registry.prefix) if path.startswith(self.registry.prefix) else "/elsewhere"
        self.registry.requests.append(f"{self.command} {path}")
        if self.registry.forced_answer is not None:
            self._send(*self.registry.forced_answer)
        elif not self._authorized():
            self._send(401, json.dumps({"error_code": 40101, "message": "Unauthorized"}).encode())
        else:
            refusal = self.registry.refusal(path, query)
            status, answer = refusal or self.registry.answer(self.command, path, json.loads(body or b"{}"))
            self._send(status, json.dumps(answer).encode())

    do_GET = do_POST = do_PUT = _handle

    def _authorized(self) -> bool:
        if self.registry.bearer is not None:
            return self.headers.get("Authorization") == f"Bearer {self.registry.bearer}"
        if self.registry.user_info is None:
            return True
        expected = base64.b64encode(self.registry.user_info.encode()).decode()
        return self.headers.get("Authorization") == f"Basic {expected}"

    def _send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", _CONTENT_TYPE)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Stay quiet: the test's own output matters."""
