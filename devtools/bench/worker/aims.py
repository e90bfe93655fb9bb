"""What the figures of `bench worker` should be. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Aim:
    """One figure's aim.

    Attributes:
        what: the figure, in the words of the table.
        bound: the value that it should keep; None: it is told for comparison only.
        at_least: whether more is better.
    """

    what: str
    bound: float | None
    at_least: bool = False

    def met(self, value: float) -> bool | None:
        """Return whether `value` keeps the bound; None where there is none."""
        if self.bound is None:
            return None
        return value >= self.bound if self.at_least else value <= self.bound

    def text(self) -> str:
        """Return the bound as the table shows it."""
        return "–" if self.bound is None else f"{'≥' if self.at_least else '≤'} {self.bound:g}"


AIMS: Mapping[str, Aim] = {
    "efficiency_over_bare": Aim("pictures/s of a bare diffusers loop at its best batch", 0.97, at_least=True),
    "efficiency_over_faststream": Aim("pictures/s of a FastStream worker", None, at_least=True),
    "efficiency_over_plain": Aim("pictures/s of a confluent-kafka and boto3 worker", None, at_least=True),
    "device_idle_share": Aim("idle share of a device that sleeps 0.44 s a picture", 0.01),
    "intake_over_raw": Aim("consume, decode and admit a record, of a bare poll", 1.5),
    "intake_over_faststream": Aim("consume, decode and admit a record, of FastStream's", 0.5),
    "urgent_p99_over_faststream": Aim("p99 of urgent jobs in a burst, of FastStream's", 0.1),
    "urgent_p99_over_faststream_lanes": Aim("the same, of FastStream's with a subscriber for each lane", None),
    "s3_requests_per_picture": Aim("requests to S3 for a picture", None),
    "s3_puts_per_picture": Aim("PUTs to S3 for a picture", 3.0),
    "transactions_per_picture": Aim("Kafka transactions for a picture under load", 0.99),
    "memory_growth": Aim("memory after 10,000 jobs, of that after 500", 1.02),
    "startup_s": Aim("seconds until ready, without the loading of a model", 2.0),
    "step_cost_growth": Aim("time of a choice of rows at 100,000 waiting jobs, of that at 10", 1.2),
    "poll_cost_growth": Aim("time of a poll at 100,000 waiting jobs, of that at 10", 1.2),
}
