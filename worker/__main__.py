"""`python -m worker`, also installed as `sdxl-worker`."""

from __future__ import annotations

from worker.cli import app


def main() -> None:
    """Run the command line; the process ends with its exit code."""
    app(prog_name="sdxl-worker")


if __name__ == "__main__":
    main()
