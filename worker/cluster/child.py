"""Asks the cluster in a process of its own, so that a crash of librdkafka's admin client costs an answer and no worker.

librdkafka 2.16 may abort the process with "eonce->refcnt > 0" when a broker goes away while the admin client waits for
it (found by the chaos run: three of about a hundred starts beside bouncing brokers).
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from confluent_kafka.admin import AdminClient

from worker.cluster.facts import DETAILS_TIMEOUT_S, ClusterFacts, ClusterUnavailable, ask

# Starting an interpreter on a busy machine, and the answers after the first one.
_ALLOWANCE_S = 30.0 + 3 * DETAILS_TIMEOUT_S

_ROOT = Path(__file__).resolve().parents[2]


def ask_apart(config: Mapping[str, Any], topics: Iterable[str], group: str, timeout_s: float) -> ClusterFacts:
    """`facts.ask` in a child process.

    Args:
        config: of the admin client; plain values only.

    Raises:
        ClusterUnavailable: no broker has answered in time, or the child gave no answer.
    """
    path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        child = subprocess.run(
            [sys.executable, "-m", "worker.cluster.child"],
            input=pickle.dumps((dict(config), tuple(topics), group, timeout_s)),
            capture_output=True,
            env=os.environ | {"PYTHONPATH": path},
            timeout=timeout_s + _ALLOWANCE_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ClusterUnavailable("the cluster check gave no answer") from error
    if child.returncode:
        raise ClusterUnavailable(f"the cluster check ended with exit code {child.returncode}")
    answer = pickle.loads(child.stdout)  # our own child's
    if isinstance(answer, ClusterFacts):
        return answer
    raise ClusterUnavailable(answer)


def main() -> None:
    """Answer the question on standard input: the facts, or the reason for having none."""
    config, topics, group, timeout_s = pickle.load(sys.stdin.buffer)
    answer: ClusterFacts | str
    try:
        answer = ask(lambda on_error: AdminClient(config | {"error_cb": on_error}), topics, group, timeout_s)
    except ClusterUnavailable as error:
        answer = str(error)
    sys.stdout.buffer.write(pickle.dumps(answer))
    sys.stdout.buffer.flush()
    # Not through librdkafka's own clean-up, which may abort.
    os._exit(0)


if __name__ == "__main__":
    main()
