"""What `/metrics` shows: the metrics of one kind of process, each with the labels that tell its fleet.

All processes declare the same metrics (metrics.py). A deliverer of webhooks that showed `sdxl_worker_ready` as well
would look like a worker that never becomes ready.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from prometheus_client import REGISTRY, CollectorRegistry, Metric
from prometheus_client.samples import Sample

Role = Literal["worker", "gateway", "webhooks", "dispatch"]

# The first prefix that fits tells whose a metric is; what fits none, such as process_cpu_seconds, is everybody's.
_OWNERS: tuple[tuple[str, Role], ...] = (
    ("sdxl_gateway_", "gateway"),
    ("sdxl_worker_webhook", "webhooks"),
    ("sdxl_worker_dispatch_", "dispatch"),
    ("sdxl_worker_", "worker"),
    ("image_generation_", "worker"),
    ("kafka_consumergroup_", "worker"),
)
# Whose metrics a process shows. A dispatcher reads, commits and publishes with the worker's parts.
_SHOWN: dict[Role, tuple[Role, ...]] = {
    "worker": ("worker",),
    "gateway": ("gateway",),
    "webhooks": ("webhooks",),
    "dispatch": ("dispatch", "worker"),
}


@dataclass(frozen=True, slots=True)
class Exposition:
    """A registry as one process shows it; `generate_latest` takes it in place of a registry.

    Args:
        role: whose metrics are shown.
        group: the consumer group, shown as `consumergroup`, which is the label's name in kafka_exporter as well.
        topic_prefix: shown as `topic_prefix`. Fleets that share a Prometheus differ in one of the two.
    """

    role: Role = "worker"
    group: str = ""
    topic_prefix: str = ""
    registry: CollectorRegistry = REGISTRY

    def collect(self) -> Iterator[Metric]:
        """The metrics of this role, with the fleet's labels on every sample."""
        return self._with_fleet(self.registry.collect())

    def restricted_registry(self, names: Iterable[str]) -> Exposition:
        """As `collect`, of these names only: a scrape may ask for them with `?name[]=`."""
        return Exposition(self.role, self.group, self.topic_prefix, self.registry.restricted_registry(names))  # type: ignore[arg-type]

    def _with_fleet(self, families: Iterable[Metric]) -> Iterator[Metric]:
        fleet = {"consumergroup": self.group, "topic_prefix": self.topic_prefix}
        # An empty label is none.
        fleet = {name: value for name, value in fleet.items() if value}
        for family in families:
            if owner_of(family.name) not in (None, *_SHOWN[self.role]):
                continue
            shown = Metric(family.name, family.documentation, family.type, family.unit)
            shown.samples = [
                Sample(one.name, {**fleet, **one.labels}, one.value, one.timestamp, one.exemplar)
                for one in family.samples
            ]
            yield shown


def owner_of(name: str) -> Role | None:
    """Whose a metric is; None: every process has it."""
    return next((role for prefix, role in _OWNERS if name.startswith(prefix)), None)
