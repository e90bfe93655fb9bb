"""`python -m worker`, also installed as `sdxl-worker`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; the process ends with its exit code."""
    try:
        # The import alone takes a while, in which Ctrl-C is Ctrl-C as well.
        from worker.cli.entry import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
