"""Who may ask, from where, and what every answer carries."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.gateway.asking import ask
from tests.gateway.world import GOOD, TOKEN, World, make_world
from worker.errors import SettingsError
from worker.gateway.tokens import Tokens


@pytest.fixture(scope="module")
def open_world() -> World:
    return make_world()


@pytest.fixture(scope="module")
def closed_world() -> World:
    return make_world(tokens=f"web:{TOKEN}", gateway_cors_origins="https://app.example, https://b.example/")


@pytest.mark.parametrize("path", ["/jobs", "/queue", "/status/a", "/events", "/profiles", "/nothing"])
def test_without_a_token_nothing_is_told(closed_world: World, path: str) -> None:
    for token in (None, "another-token-of-16", TOKEN[:-1], f"{TOKEN}x", ""):
        answer = ask(closed_world, "GET", path, token)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert TOKEN not in answer.text


def test_a_token_opens_the_paths_and_only_the_probes_need_none(closed_world: World) -> None:
    assert ask(closed_world, "GET", "/jobs", TOKEN).status_code == 200
    assert ask(closed_world, "POST", "/generate", TOKEN, json=GOOD).status_code == 202
    assert ask(closed_world, "POST", "/generate", json=GOOD).status_code == 401
    for path in ("/health", "/ready", "/openapi.json", "/", "/app.js", "/style.css"):
        assert ask(closed_world, "GET", path).status_code == 200
    basic = ask(closed_world, "GET", "/jobs", headers={"Authorization": f"Basic {TOKEN}"})
    assert basic.status_code == 401
    strange = ask(closed_world, "GET", "/jobs", headers={"Authorization": b"Bearer \xff\xfe"})
    assert strange.status_code == 401


@pytest.mark.parametrize("name", ["token", "access_token", "Token", "api_key"])
def test_a_token_in_the_query_is_refused(closed_world: World, name: str) -> None:
    answer = ask(closed_world, "GET", f"/jobs?{name}={TOKEN}", TOKEN)
    assert answer.status_code == 400
    assert TOKEN not in answer.text


def test_a_parameter_that_stands_there_twice_is_refused(open_world: World) -> None:
    answer = ask(open_world, "GET", "/jobs?limit=1&limit=2")
    assert (answer.status_code, answer.json()["field"]) == (400, "limit")


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8007", "127.0.0.1:8007", "[::1]:8007", "127.8.8.8", "LOCALHOST"]
)
def test_this_machine_is_served_without_tokens(open_world: World, host: str) -> None:
    assert ask(open_world, "GET", "/queue", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "10.0.0.1", "127.0.0.1.evil.example:80", "", "[", "a:b:c"]
)
def test_a_name_of_a_stranger_that_means_this_machine_is_not(open_world: World, closed_world: World, host: str) -> None:
    assert ask(open_world, "GET", "/queue", headers={"Host": host}).status_code == 421
    assert ask(closed_world, "GET", "/queue", TOKEN, headers={"Host": host}).status_code == 200


def test_pages_of_chosen_origins_may_call(closed_world: World) -> None:
    def preflight(origin: str, method: str = "POST") -> Any:
        asked = {
            "Origin": origin,
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": "authorization,content-type,idempotency-key",
        }
        return ask(closed_world, "OPTIONS", "/generate", headers=asked)

    allowed = preflight("https://app.example")
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == "https://app.example"
    assert preflight("https://b.example", "DELETE").status_code == 200
    for origin in ("https://evil.example", "null", "https://app.example.evil"):
        assert "access-control-allow-origin" not in preflight(origin).headers
    # Refusals can be read too, or a page would only see that something failed.
    answer = ask(closed_world, "GET", "/jobs", headers={"Origin": "https://app.example"})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (401, "https://app.example")
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize("text", ["app.example", "https://app.example/path", "https://*.example", "https://a b"])
def test_an_origin_that_is_none_ends_the_start(text: str) -> None:
    with pytest.raises(SettingsError, match="GATEWAY_CORS_ORIGINS"):
        make_world(gateway_cors_origins=text)


def test_without_the_setting_no_page_may(open_world: World) -> None:
    answer = ask(open_world, "GET", "/queue", headers={"Origin": "https://app.example"})
    assert "access-control-allow-origin" not in answer.headers
    assert ask(open_world, "OPTIONS", "/generate").status_code == 405


def test_every_answer_carries_the_policy(open_world: World) -> None:
    for path in ("/", "/app.js", "/queue", "/nothing", "/status/unknown"):
        headers = ask(open_world, "GET", path).headers
        assert headers["x-content-type-options"] == "nosniff"
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'self';")
        assert "img-src 'self' data: blob: https://pictures.example;" in policy
    assert ask(open_world, "GET", "/queue").headers["cache-control"] == "no-store"


def test_the_page_is_cached_by_its_content(open_world: World) -> None:
    page = ask(open_world, "GET", "/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    again = ask(open_world, "GET", "/", headers={"If-None-Match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_the_page_loads_nothing_from_elsewhere(open_world: World) -> None:
    for path in ("/", "/app.js", "/style.css"):
        text = ask(open_world, "GET", path).text.replace("http://www.w3.org/", "")
        assert "http://" not in text
        assert "https://" not in text


def test_methods_that_a_path_does_not_know(open_world: World) -> None:
    for method, path in (("PUT", "/generate"), ("GET", "/generate"), ("DELETE", "/queue"), ("PATCH", "/status/a")):
        answer = ask(open_world, method, path)
        assert answer.status_code == 405
        assert answer.headers["allow"]
        assert answer.json()["error"]
    assert ask(open_world, "TRACE", "/queue").status_code == 405
    assert ask(open_world, "HEAD", "/queue").status_code == 200
    assert ask(open_world, "HEAD", "/events").status_code == 405
    assert ask(open_world, "GET", "/docs").status_code == 404


def test_a_bug_costs_one_answer_and_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world()
    monkeypatch.setattr(world.service.board, "counts", lambda _: 1 // 0)
    with capture_logs() as lines:
        answer = ask(world, "GET", "/queue")
    assert [line["event"] for line in lines] == ["request_failed"]
    assert answer.status_code == 500
    assert "ZeroDivision" not in answer.text
    assert ask(world, "GET", "/jobs").status_code == 200


@pytest.mark.parametrize(
    "text",
    ["no-name-0123456789abcdef", "a:short", "a:0123456789abcdef,a:0123456789abcdeg", "a b:0123456789abcdef",
     "a:0123456789abcdef,b:0123456789abcdef", ":0123456789abcdef", "a:0123456789abcde\xe9"],
)  # fmt: skip
def test_tokens_that_are_none_end_the_start_without_being_printed(text: str) -> None:
    with pytest.raises(SettingsError, match="GATEWAY_TOKENS") as caught:
        Tokens(text)
    assert "0123456789abcde" not in str(caught.value)


def test_tokens_are_separated_by_commas_or_lines() -> None:
    tokens = Tokens("web:0123456789abcdef,app:fedcba9876543210\nold:0000000000000000\n")
    assert tokens.name("Bearer fedcba9876543210") == "app"
    assert tokens.name("bearer  0000000000000000") == "old"
    assert not Tokens(None)
