"""The parts of `bench worker` without their servers: slow PUTs, requests, shares, and the page's tables."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from devtools.bench.peers.requests import Request
from devtools.bench.worker import figures, page
from devtools.bench.worker.contestant import as_avro, as_json, asks
from devtools.bench.worker.parts import PARTS
from devtools.bench.worker.profile import OTHER_THREADS, shares
from devtools.bench.worker.slow_puts import SlowPuts
from worker.events.single_object import SingleObjectCodec
from worker.events.types import GenerationRequest
from worker.topics import Topics

BODY = bytes(range(256)) * 1_000


class _Echo(BaseHTTPRequestHandler):
    """Answers a PUT with its body, and a GET with a text."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def do_GET(self) -> None:
        self._answer(b"got")

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""


@pytest.fixture
def proxy() -> Iterator[SlowPuts]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Echo) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with SlowPuts(server.server_address[1], delay_s=0.001) as slow:
                yield slow
        finally:
            server.shutdown()
            thread.join()


def _ask(proxy: SlowPuts, body: bytes | None) -> bytes:
    request = urllib.request.Request(f"{proxy.endpoint_url}/key", data=body, method="GET" if body is None else "PUT")
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
        found: bytes = answer.read()
    return found


def test_the_proxy_delays_each_put_and_no_get(proxy: SlowPuts) -> None:
    assert _ask(proxy, None) == b"got"
    assert proxy.delayed == 0
    assert _ask(proxy, BODY) == BODY
    assert _ask(proxy, BODY) == BODY
    assert proxy.delayed == 2


def test_both_sides_are_asked_for_the_same_picture() -> None:
    [ask] = asks("round", 1, side_px=128, steps=20)
    topic = Topics().normal
    theirs = Request.model_validate_json(as_json(ask, topic)[0])
    value, headers = as_avro()(ask, topic)
    ours = SingleObjectCodec().decode(value, topic=topic, headers=headers, expected=GenerationRequest)
    assert (ours.job_id, ours.prompt, ours.negative_prompt) == (theirs.job_id, theirs.prompt, theirs.negative_prompt)
    assert (ours.num_inference_steps, ours.guidance_scale) == (theirs.steps, theirs.guidance)
    assert (ours.width, ours.height, ours.seed) == (theirs.width, theirs.height, theirs.seed)


def test_no_prompt_is_asked_for_twice() -> None:
    prompts = [ask.prompt for name in ("a", "b") for ask in asks(name, 50, side_px=128, steps=20)]
    assert len(set(prompts)) == len(prompts)


def test_shares_are_of_the_engines_thread() -> None:
    tick = "run (x.py:1);tick (worker/engine/loop.py:9)"
    found = shares([f"{tick};step;_predict (worker/engine/denoise.py:80);f 6", f"{tick} 2", "upload (y.py:1) 4"])
    assert found["UNet"] == 0.75
    assert found["the rest of a step"] == 0.25
    assert found[OTHER_THREADS] == 0.5


def test_the_pages_tables_are_those_of_the_committed_figures() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    assert text == page.with_tables(text), "python -m devtools.bench.worker.page writes it anew"


def test_a_table_has_misses_and_what_was_not_measured(tmp_path: Path) -> None:
    figures.keep("kind", {"efficiency_over_bare": [0.8, 0.9, 0.85]}, tmp_path)
    text = page.with_tables(f"a\n{page.BEGIN}\nold\n{page.END}\nb\n", tmp_path)
    assert text.startswith("a\n")
    assert text.endswith("b\n")
    assert "old" not in text
    assert "| ≥ 0.97 | 0.850 | 0.800 to 0.900 | no |" in text
    assert "| ≤ 1.02 | not measured | | |" in text
    with pytest.raises(ValueError, match="no marks"):
        page.with_tables("a page", tmp_path)


def test_every_part_is_a_file() -> None:
    for module in PARTS.values():
        assert Path(*module.split(".")).with_suffix(".py").is_file(), module
