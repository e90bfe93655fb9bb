"""An OTLP collector: it answers the exporter's POSTs and keeps the spans, decoded with the exporter's own protobuf."""

from __future__ import annotations

import gzip
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


class Collector:
    """Listens on a free port of 127.0.0.1 while it is entered."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.paths: set[str] = set()
        self.tokens: set[str | None] = set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.bodies.append(gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body)
                outer.paths.add(self.path)
                outer.tokens.add(self.headers["x-token"])
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.end_headers()
                self.wfile.write(ExportTraceServiceResponse().SerializeToString())

            def log_message(self, *_: object) -> None:
                """Not worth a line."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Collector:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def resources(self) -> list[dict[str, Any]]:
        """The attributes of every batch's resource."""
        return [_plain(batch.resource.attributes) for batch in self._batches()]

    @property
    def spans(self) -> list[Any]:
        """Every span that came."""
        return [span for batch in self._batches() for scope in batch.scope_spans for span in scope.spans]

    def _batches(self) -> list[Any]:
        return [batch for body in self.bodies for batch in ExportTraceServiceRequest.FromString(body).resource_spans]


def attributes(span: Any) -> dict[str, Any]:
    """A span's attributes as plain values."""
    return _plain(span.attributes)


def _plain(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
