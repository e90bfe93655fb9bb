"""Values on a page of metrics, whatever other labels their samples carry."""

from __future__ import annotations

import re

from prometheus_client.parser import text_string_to_metric_families


def value(page: str, selector: str) -> float | None:
    """The sum of the samples that a selector fits; None where there is none.

    Args:
        selector: a name, with labels and their values if need be: `sdxl_worker_uploads_total{result="stored"}`.
    """
    name, _, matchers = selector.partition("{")
    wanted = set(re.findall(r'(\w+)="([^"]*)"', matchers))
    found = [
        sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == name and wanted <= set(sample.labels.items())
    ]
    return sum(found) if found else None
