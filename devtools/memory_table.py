"""The table of cards in docs/memory.md, as `sdxl-worker memory --all --markdown` prints it with the default settings.

`python -m devtools.memory_table` writes it.
"""

from __future__ import annotations

from pathlib import Path

from worker.memory_plan import show
from worker.memory_plan.cards import known_cards
from worker.memory_plan.plan import Models, Wishes
from worker.memory_plan.weights import SDXL_BASE, SDXL_REFINER
from worker.memory_plan.working import LATENTS_1024

PAGE = Path(__file__).resolve().parents[1] / "docs" / "memory.md"
_BEGIN, _END = "<!-- made by python -m devtools.memory_table -->\n", "<!-- end -->\n"


def with_table(page: str) -> str:
    """Return the page with the table as it is now.

    Raises:
        ValueError: the page has no place for it.
    """
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError("the page has lost the marks around its table")
    wishes = Wishes(dtype="bfloat16", compiled=(LATENTS_1024,))
    table = show.cards(Models(SDXL_BASE, SDXL_REFINER), wishes, known_cards(), dtype=None)
    return "".join((before, begin, *(f"{line}\n" for line in show.markdown(table)), end, after))


def main() -> None:
    """Write the page."""
    PAGE.write_text(with_table(PAGE.read_text()))


if __name__ == "__main__":
    main()
