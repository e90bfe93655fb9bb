"""`sdxl-worker webhooks`: settings in, a running sender, an exit code out. No torch here."""

from __future__ import annotations

import asyncio
import time

import structlog
from confluent_kafka import Consumer, KafkaException

from worker import __version__, kafka_config, startup
from worker.errors import SettingsError
from worker.events.codec import make_codec
from worker.settings import Settings
from worker.settings_checks import signing_secret
from worker.signals import Signals, StoppedEarly
from worker.telemetry import logs, metrics
from worker.telemetry.exposition import Exposition
from worker.telemetry.health import Health, serve
from worker.topics import Topics
from worker.webhooks.sender import Sender
from worker.webhooks.service import Webhooks

_log = structlog.get_logger()


def run(settings: Settings) -> int:
    """Send webhooks until SIGTERM or SIGINT; a second signal ends at once.

    Returns:
        0 after a signal, or as `StoppedEarly` says where it came while Kafka was waited for.

    Raises:
        SettingsError: the receiver's URL or the secret is not set, or a setting is wrong.
        KafkaException: reading cannot go on.
    """
    logs.configure(settings.log_level, settings.log_format)
    url, keys = receiver(settings)
    signals = Signals(settings.webhook_timeout_s)
    signals.starting = True
    try:
        consumer = _consumer(settings)
        health = Health(time.monotonic, {"webhook_group_id": settings.webhook_group_id})
        metrics.WEBHOOKS_READY.set_function(lambda: not health.not_ready())
        exposition = Exposition("webhooks", settings.webhook_group_id, settings.kafka_topic_prefix)
        server, port = serve(health, settings.http_host, settings.http_port, exposition)
        _log.info("starting", version=__version__, group_id=settings.webhook_group_id, http_port=port)
        try:
            startup.wait_for_kafka(settings)
            signals.starting = False
            asyncio.run(_deliver(settings, url, keys, consumer, health, signals))
        finally:
            server.shutdown()
    except StoppedEarly as stop:
        return stop.exit_code
    _log.info("stopped")
    return 0


def receiver(settings: Settings) -> tuple[str, tuple[bytes, ...]]:
    """The receiver's URL, and the keys to sign with. Raises SettingsError: they are not set."""
    if settings.webhook_url is None:
        raise SettingsError("WEBHOOK_URL is not set: it is where results are sent to")
    if settings.webhook_secret is None:
        raise SettingsError("WEBHOOK_SECRET is not set: echo whsec_$(openssl rand -base64 32) makes one")
    given = (settings.webhook_secret, settings.webhook_secret_previous)
    return settings.webhook_url.get_secret_value(), tuple(signing_secret(s.get_secret_value()) for s in given if s)


def _consumer(settings: Settings) -> Consumer:
    try:
        return Consumer(kafka_config.webhooks_config(settings))
    except KafkaException as error:
        raise SettingsError(f"Kafka settings: {error.args[0].str()}") from None
    except (TypeError, ValueError) as error:
        raise SettingsError(f"Kafka settings: {error}") from None


async def _deliver(
    settings: Settings, url: str, keys: tuple[bytes, ...], consumer: Consumer, health: Health, signals: Signals
) -> None:
    topics = Topics(settings.kafka_topic_prefix)
    codec = make_codec(settings, waits=False)
    try:
        async with Sender(url, keys, settings.webhook_timeout_s, settings.webhook_concurrency) as sender:
            webhooks = Webhooks(
                consumer,
                (topics.completed, topics.failed),
                codec,
                sender,
                concurrency=settings.webhook_concurrency,
                max_pause_s=settings.webhook_max_pause_s,
                drain_s=settings.webhook_timeout_s,
                health=health,
            )
            health.watch(webhooks)
            await webhooks.run(lambda: signals.count > 0)
    finally:
        codec.close()
