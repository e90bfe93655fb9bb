"""Node packages in a cached folder: npm runs once per content of a `package.json`, and never in the checkout."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from devtools.local.kafka_jars import CACHE_VARIABLE, PROJECT_ROOT
from devtools.local.process import ProcessError

NPM_TIMEOUT_S = 300.0


def cache() -> Path:
    """The folder of what is downloaded: `$SDXL_WORKER_CACHE`, or `.cache` of the project."""
    return Path(os.environ.get(CACHE_VARIABLE) or PROJECT_ROOT / ".cache").absolute()


def node_project(folder: Path) -> Path:
    """A copy of `folder`, which holds a `package.json`, with its packages installed beside it.

    The packages' install scripts do not run. Two processes may do this at the same time; the first one to end wins.

    Raises:
        ProcessError: npm failed; the message has its output.
    """
    package = folder / "package.json"
    digest = hashlib.sha256(package.read_bytes()).hexdigest()[:8]
    home = cache() / f"node-{folder.name}-{digest}"
    if not home.is_dir():
        cache().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache(), prefix="node-partial-") as partial:
            made = Path(partial) / "project"
            made.mkdir()
            shutil.copy(package, made)
            _install(made)
            try:
                made.rename(home)
            except OSError:  # another process was faster
                if not home.is_dir():
                    raise
    for path in folder.iterdir():
        if path.is_file():
            shutil.copy(path, home)
    return home


def _install(folder: Path) -> None:
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=NPM_TIMEOUT_S)
    if done.returncode != 0:
        raise ProcessError(f"npm could not install {folder.name}'s packages:\n{(done.stdout + done.stderr)[-4000:]}")
