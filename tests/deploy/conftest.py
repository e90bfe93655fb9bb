"""List at the end which files no program has checked, because skipped tests are easily overlooked."""

from __future__ import annotations

import pytest

from tests.deploy.tools import NOT_VALIDATED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = [r for r in terminalreporter.stats.get("skipped", []) if NOT_VALIDATED in str(r.longrepr)]
    if skipped:
        terminalreporter.section(f"{len(skipped)} VALIDATIONS OF DEPLOYMENT FILES DID NOT RUN", red=True, bold=True)
