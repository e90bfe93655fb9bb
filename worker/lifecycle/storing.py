"""In the pool, after a job was drawn or released: encode and upload its picture, or store its checkpoint."""

from __future__ import annotations

import structlog

from worker.delivery.finish import Finisher, IdReused
from worker.delivery.retry_queue import RetryQueue
from worker.errors import RequestRejected, StoreUnavailable
from worker.failure import Failure
from worker.job import Job
from worker.lifecycle.endings import Endings
from worker.lifecycle.ownership import Ownership
from worker.picture import Picture
from worker.telemetry import logs
from worker.threads import Threads

_log = structlog.get_logger()


class Storing:
    """Any thread may call it; S3 is asked in the pool, again and again while it does not answer."""

    def __init__(
        self,
        retry_queue: RetryQueue,
        finisher: Finisher,
        ownership: Ownership,
        endings: Endings,
        threads: Threads,
    ) -> None:
        self._retry_queue = retry_queue
        self._finisher = finisher
        self._ownership = ownership
        self._endings = endings
        self._threads = threads

    def picture(self, picture: Picture) -> None:
        """Make a picture durable."""
        job = picture.job
        self._retry_queue.add(job.lane, lambda: self._store(picture), logs.about(job), writes=True)

    def checkpoint(self, job: Job) -> None:
        """Leave the checkpoint for the next owner, who begins the job anew without one."""
        self._retry_queue.add(job.lane, lambda: self._store_checkpoint(job), logs.about(job), writes=True)

    # In the pool.

    def _store(self, picture: Picture) -> bool:
        """False where S3 may not have been asked."""
        job = picture.job
        if not self._ownership.is_owned(job.origin):
            self._endings.release(job.origin)
            return False
        try:
            event = self._finisher.finish(picture, self._threads.now())
        except IdReused as error:
            # Another worker completed a picture under this id meanwhile.
            self._endings.refuse(Failure.of(job, error.code, error.message), error.picture)
            return True
        except RequestRejected as error:
            self._endings.fail(Failure.of(job, error.code, error.message))
            return False
        self._endings.complete(job, event)
        return True

    def _store_checkpoint(self, job: Job) -> bool:
        """False where S3 took none."""
        try:
            self._finisher.store_checkpoint(job)
        except StoreUnavailable as error:
            _log.warning("checkpoint_lost", error=str(error))
            return False
        finally:
            self._endings.release(job.origin)
        return True
