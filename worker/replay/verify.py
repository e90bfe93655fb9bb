"""`replay --verify`: make stored pictures again and compare the pixels. Nothing is stored or published."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from worker.delivery.encode import encode_picture, pixel_digest
from worker.delivery.keys import object_keys
from worker.delivery.manifest import ModelInfo
from worker.delivery.upload import PictureStore
from worker.engine.safety import blurred
from worker.engine_interface import MakeEngine
from worker.errors import ErrorCode
from worker.failure import Failure
from worker.job import Job, Origin
from worker.picture import Picture
from worker.replay.compare import picture_flaws, reasons
from worker.replay.engine_driver import ROWS_AT_ONCE, job_of_manifest, make
from worker.replay.plan import Item, Standing
from worker.replay.pool import ahead, patiently
from worker.replay.state import Done
from worker.settings import Settings

_UNKNOWN = "the pixels differ, but nothing that the manifest records has changed"


class Verdict(StrEnum):
    """The result of verifying one job; `differs` is a difference with a known reason, `unexplained` one without."""

    SAME = "same"
    DIFFERS = "differs"
    UNEXPLAINED = "unexplained"
    TAMPERED = "tampered"
    MISSING = "missing"
    SKIPPED = "skipped"


# Verdicts that make the verb end with exit code 1.
BAD = frozenset({Verdict.UNEXPLAINED, Verdict.TAMPERED, Verdict.MISSING})


@dataclass(frozen=True, slots=True)
class Verifier:
    """Verifies jobs; `info` describes the model of the engine that `make_engine` returns."""

    make_engine: MakeEngine
    info: ModelInfo
    store: PictureStore
    settings: Settings
    pool: ThreadPoolExecutor

    def verify(self, items: Iterator[Item]) -> Iterator[Done]:
        """Yield the verdict on each job, in the order in which verdicts become available.

        Raises:
            StoreUnavailable: S3 did not answer for a while.
        """
        waiting: dict[Origin, Item] = {}

        def entries() -> Iterator[Job | Done]:
            for item, done in ahead(self.pool, self._look, items):
                if done is None:
                    waiting[item.requested.origin] = item
                    yield job_of_manifest(item, time.time())
                else:
                    yield done

        for result in make(self.make_engine, entries(), ROWS_AT_ONCE):
            match result:
                case Done():
                    yield result
                case Picture():
                    yield self._compare(waiting.pop(result.job.origin), result)
                case Failure():
                    yield self._explain(waiting.pop(result.origin), result)

    def _look(self, item: Item) -> tuple[Item, Done | None]:
        """Return the verdict if it can be given without making the picture, otherwise None."""
        match item.standing:
            case Standing.TAMPERED:
                return item, _done(item, Verdict.TAMPERED, *item.flaws)
            case Standing.MISSING:
                return item, _done(
                    item, Verdict.MISSING, "the job was published as completed, but its manifest is missing"
                )
            case Standing.FAILED | Standing.OPEN:
                return item, _done(item, Verdict.SKIPPED, f"{item.label}: there is no picture to compare")
        request = item.requested.request
        keys = object_keys(request.girl_id, request.job_id, request.output_format.value)
        assert item.manifest is not None
        found = picture_flaws(item.manifest, patiently(lambda: self.store.fetch(keys.image)))
        return item, _done(item, Verdict.TAMPERED, *found) if found else None

    def _compare(self, item: Item, made: Picture) -> Done:
        assert item.manifest is not None
        if item.manifest["picture"].get("blurred") is True:
            made = replace(made, pixels=blurred(made.pixels), blurred=True)
        if pixel_digest(made.pixels) == item.manifest["picture"]["pixel_sha256"]:
            return _done(item, Verdict.SAME)
        if self._encodes_to_the_stored(item.manifest, made):
            return _done(item, Verdict.TAMPERED, "picture.pixel_sha256 does not match the stored image")
        why = reasons(
            item.manifest,
            self.info,
            made.lora_fingerprints,
            reproducible=made.reproducible,
            compiled=made.compiled,
        )
        return _done(item, Verdict.DIFFERS, *why) if why else _done(item, Verdict.UNEXPLAINED, _UNKNOWN)

    def _encodes_to_the_stored(self, manifest: dict[str, Any], made: Picture) -> bool:
        """Return whether the picture encodes to the stored image, which shows that the manifest's digest is wrong."""
        encoded = encode_picture(
            made.pixels,
            output_format=manifest["picture"]["output_format"],
            jpeg_quality=self.settings.jpeg_quality,
            thumbnail_px=self.settings.thumbnail_px,
            job_id=manifest["job_id"],
        )
        return bool(encoded.sha256 == manifest["picture"]["sha256"])

    def _explain(self, item: Item, failure: Failure) -> Done:
        """Give the verdict on a picture that was made once and cannot be made now."""
        assert item.manifest is not None
        then = item.manifest["model"].get("embeddings_fingerprint")
        lacking = {
            "refiner": item.manifest["recipe"]["high_quality"] and self.info.refiner_fingerprint is None,
            "lora": failure.code is ErrorCode.UNKNOWN_LORA,
            "embeddings": failure.code is ErrorCode.INVALID_REQUEST and then != self.info.embeddings_fingerprint,
        }
        for name, lacks in lacking.items():
            if lacks:
                return _done(item, Verdict.DIFFERS, f"{name}: {failure.message}")
        return _done(item, Verdict.UNEXPLAINED, f"not made ({failure.code.value}): {failure.message}")


def _done(item: Item, verdict: Verdict, *why: str) -> Done:
    return Done(item.job_id, verdict.value, why)
