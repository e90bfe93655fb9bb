"""A copy of the deployment files, and a shell in it: `kubectl` is the real one, `docker` a stand-in."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.deploy.tools import ROOT
from tests.kube.programs import Programs
from tests.kube.transcript import Transcript

COMMAND_TIMEOUT_S = 300.0
DOCKER = "#!/bin/sh\necho '(stand-in: no image is built or pushed)'\n"


class CommandError(RuntimeError):
    """A documented command failed."""


class Shell:
    """Runs commands as docs/deploy.md says, and writes them and their output into the transcript."""

    def __init__(self, programs: Programs, kubeconfig: Path, folder: Path, transcript: Transcript) -> None:
        self.copy = folder / "copy"
        self._transcript = transcript
        stand_ins = folder / "bin"
        stand_ins.mkdir(parents=True, exist_ok=True)
        for name, script in {"docker": DOCKER, "kubectl": f'#!/bin/sh\nexec {programs.cluster} kubectl "$@"\n'}.items():
            (stand_ins / name).write_text(script)
            (stand_ins / name).chmod(0o755)
        path = f"{stand_ins}{os.pathsep}{os.environ['PATH']}"
        # Its cache of what the server serves would be that of an earlier run.
        self._environment = os.environ | {"PATH": path, "KUBECONFIG": str(kubeconfig), "HOME": str(folder / "home")}

    def fresh_copy(self) -> None:
        """The repository's files as a person finds them."""
        shutil.rmtree(self.copy, ignore_errors=True)
        self.copy.mkdir()
        for name in ("k8s", "deploy"):
            shutil.copytree(ROOT / name, self.copy / name, ignore=shutil.ignore_patterns("site"))

    def run(self, command: str, *, expected: int = 0, shown: bool = True) -> str:
        """The output of a command.

        Raises:
            CommandError: its exit code was another than `expected`.
        """
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {command}"],
            cwd=self.copy,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=COMMAND_TIMEOUT_S,
        )
        if shown or done.returncode != expected:
            self._transcript.command(command, done.stdout)
        if done.returncode != expected:
            raise CommandError(f"exit code {done.returncode} of: {command}\n{done.stdout}")
        return done.stdout
