"""One check in a process of its own: `python -m worker.doctor.child`, settings on standard input, findings as JSON out.

What hangs in a driver, or brings its process down, then costs one line and not the report.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
from collections.abc import Iterator
from dataclasses import asdict

import structlog
from confluent_kafka import KafkaError, KafkaException

from worker.doctor.checks import Check
from worker.doctor.finding import Finding, failed
from worker.doctor.secrets import secrets_of, without_secrets
from worker.settings import Settings


def findings(check: Check, settings: Settings) -> Iterator[Finding]:
    """What the check finds, without secrets; an unexpected error becomes its last finding."""
    secrets = secrets_of(settings)
    try:
        for finding in check.function()(settings):
            yield without_secrets(finding, secrets)
    except KafkaException as error:
        told = error.args[0].str() if isinstance(error.args[0], KafkaError) else str(error)
        yield without_secrets(failed(check.name, told, "see the lines about settings and broker"), secrets)
    except Exception as error:  # the last resort: a check's own bug is one line of the report
        told = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        advice = "this is a fault of the check itself; what it would have looked at is not known"
        yield without_secrets(failed(check.name, f"unexpected {told}", advice), secrets)


def main() -> None:
    """Run the check that is pickled on standard input together with the settings."""
    # What libraries print must not stand between the findings.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    check, settings = pickle.load(sys.stdin.buffer)
    for finding in findings(check, settings):
        print(json.dumps(asdict(finding)), file=out, flush=True)
    # Not through the libraries' own clean-up, which may wait or abort.
    os._exit(0)


if __name__ == "__main__":
    main()
