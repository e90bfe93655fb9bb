"""What alerts read of other people's programs: kafka_exporter, kube-state-metrics, KEDA. A page over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# Names and labels as the programs have them: kafka_exporter 1.9, kube-state-metrics 2, KEDA 2.21.
PAGE = """\
# TYPE kafka_consumergroup_lag gauge
kafka_consumergroup_lag{{consumergroup="{group}",topic="{prefix}generation.requests.normal",partition="0"}} 0
kafka_consumergroup_lag{{consumergroup="sdxl-dispatch",topic="{prefix}generation.requests.urgent",partition="0"}} 0
kafka_consumergroup_lag{{consumergroup="sdxl-dispatch",topic="{prefix}generation.requests.high",partition="0"}} 0
kafka_consumergroup_lag{{consumergroup="sdxl-dispatch",topic="{prefix}generation.requests.normal",partition="0"}} 3
kafka_consumergroup_lag{{consumergroup="{group}",topic="{prefix}generation.work.normal",partition="0"}} 2
kafka_consumergroup_lag{{consumergroup="sdxl-webhooks",topic="{prefix}generation.completed",partition="0"}} 0
# TYPE kube_horizontalpodautoscaler_status_current_replicas gauge
kube_horizontalpodautoscaler_status_current_replicas{{namespace="image-generation",horizontalpodautoscaler="keda-hpa-sdxl-worker"}} 2
# TYPE kube_horizontalpodautoscaler_spec_max_replicas gauge
kube_horizontalpodautoscaler_spec_max_replicas{{namespace="image-generation",horizontalpodautoscaler="keda-hpa-sdxl-worker"}} 6
# TYPE kube_horizontalpodautoscaler_spec_min_replicas gauge
kube_horizontalpodautoscaler_spec_min_replicas{{namespace="image-generation",horizontalpodautoscaler="keda-hpa-sdxl-worker"}} 1
# TYPE keda_scaler_detail_errors_total counter
keda_scaler_detail_errors_total{{namespace="image-generation",scaledObject="sdxl-worker",type="scaledobject"}} 0
"""  # noqa: E501


@contextmanager
def serving(group: str, prefix: str) -> Iterator[int]:
    """The port on which /metrics has the page."""
    body = PAGE.format(group=group, prefix=prefix).encode()
    with page(lambda: body) as port:
        yield port


@contextmanager
def page(make: Callable[[], bytes]) -> Iterator[int]:
    """The port on which /metrics has what `make` makes at that moment."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = make()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: it is asked every second."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
