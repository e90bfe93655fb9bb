"""A software bill of materials (CycloneDX 1.6) of the image's Python packages, from their lock:

python -m devtools.sbom > sbom.json
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from worker import __version__

LOCK = Path(__file__).resolve().parents[1] / "requirements" / "worker.txt"
_PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def bill(lock: str) -> dict[str, Any]:
    """The document.

    Args:
        lock: requirements with hashes, as `make lock` writes them.
    """
    components: list[dict[str, Any]] = []
    for line in lock.splitlines():
        if pin := _PIN.match(line):
            name, version = pin[1].lower().replace("_", "-").replace(".", "-"), pin[2]
            purl = f"pkg:pypi/{name}@{version}"
            components.append(
                {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl, "hashes": []}
            )
        if components:
            # One of them is the wheel that is installed; which one depends on the platform.
            components[-1]["hashes"] += [{"alg": "SHA-256", "content": found} for found in _HASH.findall(line)]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": "sdxl-worker", "version": __version__}},
        "components": components,
    }


if __name__ == "__main__":
    json.dump(bill(LOCK.read_text()), sys.stdout, indent=2)
    sys.stdout.write("\n")
