"""`run --gpus`: settings and cards in, an exit code out. No torch here, which would take memory of the first card."""

from __future__ import annotations

import os
import sys

import structlog

from worker import __version__
from worker.gpus.cards import choose, list_cards
from worker.gpus.plan import cache_home, plan_workers
from worker.gpus.supervisor import supervise
from worker.settings import Settings

_log = structlog.get_logger()


def run(settings: Settings, wanted: str) -> int:
    """Run a worker on each card until stopped.

    Args:
        wanted: as `cards.choose` takes it.

    Raises:
        SettingsError: a card is not there, or a setting does not fit.
    """
    cards = list_cards()
    chosen = choose(cards, wanted, os.environ.get("CUDA_VISIBLE_DEVICES"))
    plans = plan_workers(
        chosen,
        worker_id=settings.worker_id,
        http_port=settings.http_port,
        device=settings.device,
        environment=os.environ,
        home=cache_home(os.environ),
    )
    _log.info("starting", version=__version__, workers=len(plans), gpus=len(cards), unused=len(cards) - len(chosen))
    return supervise(plans, (sys.executable, "-m", "worker", "run"))
