"""Copies the groups of alerts.yml into the PrometheusRule of k8s/base; a test says when that is due."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).resolve().parent
RULE = HERE.parents[1] / "k8s" / "base" / "prometheus-rule.yaml"
HEAD = """\
# Written by deploy/prometheus/write_rule.py from alerts.yml: change that file, not this one.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: sdxl-worker
  labels:
    # kube-prometheus-stack selects by the name of its Helm release; k8s/site.example changes it.
    release: kube-prometheus-stack
spec:
"""


def render(alerts: str) -> str:
    """The PrometheusRule as text; comments of the source stay where they are."""
    body = alerts[alerts.index("groups:\n") :]
    return HEAD + "".join(f"  {line}\n" if line else "\n" for line in body.splitlines())


if __name__ == "__main__":
    RULE.write_text(render((HERE / "alerts.yml").read_text()))
