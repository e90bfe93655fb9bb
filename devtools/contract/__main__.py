"""`python -m devtools.contract` writes docs/contract.md and docs/asyncapi.yaml; `--check` has Node read the second."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from devtools.contract import asyncapi, page
from devtools.local.npm import node_project


def main(arguments: list[str]) -> int:
    """The exit code."""
    page.PAGE.write_text(page.page())
    asyncapi.DOCUMENT.write_text(asyncapi.document_text())
    if "--check" not in arguments:
        return 0
    checker = node_project(Path(__file__).with_name("asyncapi_check"))
    return subprocess.run(["node", "check.js", str(asyncapi.DOCUMENT)], cwd=checker, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
