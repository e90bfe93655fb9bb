"""What is told of jobs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.gateway.asking import ask
from tests.gateway.world import GOOD, TOPICS, Log, make_world, manifest_of
from worker.events.types import GenerationRequest, Priority
from worker.profiles import load_profiles


def test_a_completed_job_is_told_as_the_guide_says() -> None:
    world = make_world()
    world.log.status(
        "a", "completed", image_url="https://x/a.jpg", thumbnail_url="https://x/t.jpg", generation_time=2.34
    )
    job = ask(world, "GET", "/status/a").json()
    assert job == {
        "job_id": "a", "status": "completed", "image_url": "https://x/a.jpg", "thumbnail_url": "https://x/t.jpg",
        "generation_time": 2.34, "girl_id": "luna", "lane": "normal", "attempt": 1,
        "updated_at": "2026-02-08T12:00:00Z",
    }  # fmt: skip


def test_a_failed_job_has_its_sentence() -> None:
    world = make_world()
    world.log.status("a", "failed", error_code="expired", error_message="expires_at had passed")
    job = ask(world, "GET", "/status/a").json()
    assert (job["error_code"], job["error_message"]) == ("expired", "expires_at had passed")


def test_nothing_is_told_before_the_topics_were_read() -> None:
    world = make_world()
    world.progress.loaded, world.progress.trouble = False, "the status topic has not been read to its end yet"
    for method, path in (("GET", "/status/a"), ("GET", "/jobs"), ("GET", "/queue"), ("DELETE", "/jobs/a")):
        answer = ask(world, method, path)
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
    assert ask(world, "POST", "/generate", json=GOOD).status_code == 503
    assert ask(world, "GET", "/ready").json() == {"ready": False, "reasons": [world.progress.trouble]}
    assert ask(world, "GET", "/health").status_code == 200
    # Later troubles leave it what it knows.
    world.progress.loaded, world.progress.trouble = True, "Kafka does not answer"
    assert ask(world, "GET", "/queue").status_code == 200
    assert ask(world, "GET", "/ready").status_code == 503


def test_a_reader_that_has_died_ends_the_health() -> None:
    world = make_world()
    world.progress.alive = False
    health = ask(world, "GET", "/health")
    assert (health.status_code, health.json()["status"]) == (503, "unhealthy")
    assert ask(world, "GET", "/ready").status_code == 503


def test_a_forgotten_job_is_looked_up_in_the_store() -> None:
    world = make_world(gateway_max_jobs=1)
    request = GenerationRequest(job_id="old", girl_id="luna", user_id=1, prompt="x")
    world.store.manifests["luna", "old"] = manifest_of(request)
    without = ask(world, "GET", "/status/old")
    assert without.status_code == 404
    assert "girl_id" in without.json()["error"]
    job = ask(world, "GET", "/status/old?girl_id=luna").json()
    assert (job["status"], job["lane"], job["generation_time"]) == ("completed", "high", 2.34)
    assert job["image_url"] == "https://pictures.example/generated/luna/old.jpg"
    assert ask(world, "GET", "/status/other?girl_id=luna").status_code == 404
    assert ask(world, "GET", "/status/old?girl_id=..%2Fx").json()["field"] == "girl_id"
    world.store.away = True
    assert ask(world, "GET", "/status/old?girl_id=luna").status_code == 503


def test_looking_into_the_store_counts_against_the_rate() -> None:
    world = make_world(gateway_rate_per_s=1.0, gateway_burst=2)
    codes = [ask(world, "GET", f"/status/x{n}?girl_id=luna").status_code for n in range(3)]
    assert codes == [404, 404, 429]
    assert world.store.asked == 2


def test_jobs_are_listed_and_chosen() -> None:
    world = make_world()
    world.log.status("a", "completed", girl_id="mia")
    world.log.status("b", "failed", after_s=1, priority=Priority.URGENT)
    world.log.status("c", "running")

    def listed(query: str) -> list[str]:
        return [job["job_id"] for job in ask(world, "GET", f"/jobs{query}").json()["jobs"]]

    assert listed("") == ["c", "b", "a"]
    assert listed("?limit=2") == ["c", "b"]
    assert listed("?status=completed") == ["a"]
    assert listed("?lane=urgent") == ["b"]
    assert listed("?girl_id=mia&status=failed") == []
    for wrong in ("limit=0", "limit=501", "limit=x", "status=done", "lane=low", "girl_id=a%0Ab", "gril_id=luna"):
        answer = ask(world, "GET", f"/jobs?{wrong}")
        assert (answer.status_code, answer.json()["field"]) == (422, wrong.partition("=")[0])


def test_the_queue_is_counted_by_lane() -> None:
    world = make_world()
    ask(world, "POST", "/generate", json=GOOD | {"priority": "urgent"})
    ask(world, "POST", "/generate", json=GOOD)
    world.log.status("a", "running")
    world.log.status("b", "completed")
    assert ask(world, "GET", "/queue").json() == {
        "lanes": [
            {"lane": "urgent", "waiting": 1, "running": 0},
            {"lane": "high", "waiting": 0, "running": 0},
            {"lane": "normal", "waiting": 1, "running": 1},
        ],
        "complete": True,
    }


def test_a_request_of_another_program_is_known_to_be_queued() -> None:
    log = Log()
    world = make_world(log)
    log.append(TOPICS.high, GenerationRequest(job_id="theirs", girl_id="luna", user_id=1, prompt="x"))
    for gateway in (world, make_world(log)):
        job = ask(gateway, "GET", "/status/theirs").json()
        assert (job["status"], job["lane"]) == ("queued", "high")


def test_records_that_do_not_belong_there_change_nothing() -> None:
    log = Log()
    world = make_world(log)
    request = GenerationRequest(job_id="a", girl_id="luna", user_id=1, prompt="x")
    log.append(TOPICS.status, request)
    log.status("b", "queued")
    status_event = log.records[-1].event
    log.append(TOPICS.normal, status_event)
    log.append(TOPICS.status, None, key="never-seen")
    log.append(TOPICS.normal, None, key="b")
    strange = replace(log.records[-1].record, key=b"\xff\xfe", timestamp_ms=-(10**18))
    world.service.on_seen([replace(log.records[-1], record=strange)])
    log.append(TOPICS.normal, replace(request, job_id="../" + "x" * 200_000))
    assert [job["job_id"] for job in ask(world, "GET", "/jobs").json()["jobs"]] == ["b"]


def test_profiles_are_named(tmp_path: Path) -> None:
    (tmp_path / "mia.toml").write_text('description = "Mia, a painter"\nprompt = "woman"\n')
    (tmp_path / "default.toml").write_text('prompt = "x"\n')
    profiles = load_profiles(tmp_path, 8, 5.0)
    world = make_world(rules=lambda rules: replace(rules, profiles=profiles))
    assert ask(world, "GET", "/profiles").json() == {"profiles": [{"name": "mia", "description": "Mia, a painter"}]}
    assert ask(make_world(), "GET", "/profiles").json() == {"profiles": []}


def test_ids_in_paths_stay_in_their_place() -> None:
    world = make_world()
    for path in (
        "/status/..%2F..%2Fetc",
        "/status/.hidden",
        "/status/a%0D%0AX:y",
        f"/status/{'x' * 129}",
        "/status/%FF",
    ):
        assert ask(world, "GET", path).status_code in (404, 422)
    assert ask(world, "GET", "/..%2f..%2fsettings.py").status_code == 404
    assert ask(world, "GET", "/page/../api.py").status_code == 404
