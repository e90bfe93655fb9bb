"""`python -m tests.kube`, also `make kube-test`: the documented steps on a real API server with a real KEDA."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from devtools.local.process import ProcessError
from tests.kube.control_plane import ControlPlane
from tests.kube.keda import Keda
from tests.kube.programs import BuildError, Programs, programs
from tests.kube.scaling import scale
from tests.kube.shell import CommandError, Shell
from tests.kube.steps import Steps
from tests.kube.strimzi import Strimzi
from tests.kube.transcript import Transcript

PARTS = ("steps", "scaling")


def main() -> int:
    """Exit code 1: a check failed, or a command; 2: something could not be built or started."""
    parser = argparse.ArgumentParser(prog="python -m tests.kube", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/kube-test"), help="folder of the transcript and the logs")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this part (default: all)")
    options = parser.parse_args()
    try:
        built = programs()
    except BuildError as error:
        print(error, file=sys.stderr)
        return 2
    folder: Path = options.out.absolute()
    shutil.rmtree(folder, ignore_errors=True)
    transcript = Transcript(folder / "transcript.txt")
    try:
        _run(built, folder, transcript, options.part or list(PARTS))
    except CommandError as error:
        transcript.check("the documented command succeeds", False, str(error))
    except (ProcessError, subprocess.TimeoutExpired, TimeoutError) as error:
        transcript.check("the run gets to its end", False, str(error))
    finally:
        transcript.close()
    return 1 if transcript.failures else 0


def _run(built: Programs, folder: Path, transcript: Transcript, parts: list[str]) -> None:
    with ControlPlane(built, folder / "cluster") as plane:
        shell = Shell(built, plane.kubeconfig(), folder, transcript)
        shell.fresh_copy()
        transcript.heading("kube-apiserver, etcd, kube-controller-manager; the CRDs of KEDA, Strimzi and Prometheus")
        shell.run("kubectl version")
        for crd in built.crds:
            # Some are too large for the annotation of a client-side apply.
            shell.run(f"kubectl create -f {crd}", shown=False)
        shell.run("kubectl wait --for=condition=Established --timeout=60s crd --all", shown=False)
        shell.run("kubectl get crd -o name")
        with Keda(built, plane, folder) as keda:
            transcript.note("KEDA's operator, metrics adapter and admission webhooks run")
            if "steps" in parts:
                strimzi = Strimzi(plane.api, plane.authority.file)
                strimzi.start()
                try:
                    steps = Steps(plane.api, shell, transcript)
                    steps.each_overlay_from_nothing()
                    steps.one_over_another()
                    steps.every_component()
                finally:
                    strimzi.stop()
            if "scaling" in parts:
                scale(plane, keda, shell, transcript, folder)


if __name__ == "__main__":
    sys.exit(main())
