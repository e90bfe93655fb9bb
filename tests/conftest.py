"""Real servers for the tests, one Kafka broker and one S3 store for a whole run; and the markers of tests."""

from __future__ import annotations

import gc
import os
import threading
import uuid
from collections.abc import Generator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import structlog

from devtools.local.kafka import KafkaCluster
from devtools.local.kafka_jars import JavaMissingError, check_java
from devtools.local.seaweedfs import SeaweedFS
from tests.boto_models import parse_once
from tests.kinds import ServerGuard, needs_a_server, sort_heavy_files_first
from tests.shared_servers import BUCKET, Desk, SharedServers, ask, start_kafka, start_s3
from worker.topics import Topics

NOT_RUN = "real Kafka was not run"

_GUARD = ServerGuard()
_SERVERS = SharedServers({"kafka": start_kafka, "s3": start_s3})
_DESK = pytest.StashKey[Desk]()

# How long an example takes says nothing on a machine that is shared. `.ci/run` tries the same examples each time, so
# that it fails for what was changed; everybody else's runs look for new ones.
hypothesis.settings.register_profile(
    "shared-machine",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    derandomize="SAME_EXAMPLES" in os.environ,
)
hypothesis.settings.load_profile("shared-machine")


def pytest_configure(config: pytest.Config) -> None:
    """Watch for servers that start in tests which are not marked so, and let no logger keep a test's configuration."""
    patch = pytest.MonkeyPatch()
    _GUARD.install(patch)
    parse_once(patch)
    configure = structlog.configure
    patch.setattr(structlog, "configure", lambda **how: configure(**{**how, "cache_logger_on_first_use": False}))
    config.add_cleanup(patch.undo)
    config.add_cleanup(_SERVERS.stop)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a new process of xdist where to ask for servers."""
    stash = node.config.stash
    if _DESK not in stash:
        stash[_DESK] = Desk(_SERVERS)
        node.config.add_cleanup(stash[_DESK].close)
    node.workerinput["servers"] = stash[_DESK].address


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:  # noqa: ARG001 - pytest's name
    """Keep what is imported out of Python's garbage collection, which else goes through it again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.hookimpl(tryfirst=True)  # the expression after `-m` must find the markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need a server."""
    for item in items:
        if needs_a_server(item):
            item.add_marker("server")
    sort_heavy_files_first(items)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Tell the guard which test runs, from its fixtures' setup to their end; what it does to logging ends with it."""
    _GUARD.test = item
    logging, hook = structlog.get_config(), threading.excepthook
    try:
        return (yield)
    finally:
        _GUARD.test = None
        structlog.configure(**logging)
        threading.excepthook = hook


def require_java() -> None:
    """Skip the calling test, loudly, where Java or Maven is missing; in CI, fail it."""
    try:
        check_java()
    except JavaMissingError as error:
        if os.environ.get("CI"):
            pytest.fail(f"CI must run the Kafka tests, but {error}")
        pytest.skip(f"{NOT_RUN}: {error}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say at the end what did not run: a skipped test is easily read as a green one."""
    not_run = [report for report in terminalreporter.stats.get("skipped", []) if NOT_RUN in str(report.longrepr)]
    if not_run:
        terminalreporter.section(f"{len(not_run)} TESTS ON REAL KAFKA DID NOT RUN", red=True, bold=True)
        terminalreporter.line("They need Java 17 or newer and Maven; nothing else checks transactions.", red=True)


@pytest.fixture(scope="session")
def java() -> None:
    """Need Java and Maven (see `require_java`)."""
    require_java()


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> KafkaCluster:
    """One real Kafka broker for the run: all processes use it, so leave it running, with topics and groups of your own.

    The object only knows its address: it was not started here, and can't be stopped.
    """
    require_java()
    return KafkaCluster(1, tmp_path_factory.mktemp("kafka"), ports=[_port(request.config, "kafka")])


@pytest.fixture(scope="session")
def s3(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SeaweedFS:
    """One S3 store with one bucket for the run: all processes use it, so leave it running, with keys of your own."""
    return SeaweedFS(tmp_path_factory.mktemp("s3"), BUCKET, port=_port(request.config, "s3"))


def _port(config: pytest.Config, name: str) -> int:
    """The port of the run's server: asked of the process that hands out the tests, where there is one."""
    workerinput = getattr(config, "workerinput", None)
    return _SERVERS.port(name) if workerinput is None else ask(workerinput["servers"], name)


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy SDXL for the session, a folder with `base` and `refiner`: nobody writes into it."""
    from devtools.models.tiny import write_tiny  # imports torch, which most tests do not need

    directory = tmp_path_factory.mktemp("toy-sdxl")
    write_tiny(directory)
    return directory


@pytest.fixture
def topics() -> Topics:
    """Names of topics that no other test uses; nothing is created."""
    return Topics(prefix=f"t{uuid.uuid4().hex[:12]}.")
