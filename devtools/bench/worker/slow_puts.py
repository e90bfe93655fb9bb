"""A store whose answer to each PUT comes late: what a store in the cloud takes."""

from __future__ import annotations

import time

from devtools.local.store_proxy import StoreProxy

PUT_DELAY_S = 0.1


class SlowPuts(StoreProxy):
    """Delays the answer to each PUT."""

    def __init__(self, store_port: int, delay_s: float = PUT_DELAY_S) -> None:
        super().__init__(store_port)
        self.delayed = 0
        self._delay_s = delay_s

    def before_answer(self, begin: bytes) -> None:
        """Wait, where it is a PUT."""
        if begin.startswith(b"PUT "):
            self.delayed += 1
            time.sleep(self._delay_s)
