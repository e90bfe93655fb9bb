"""Contact sheets: pictures in rows, with a text below each."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

_MARGIN_PX, _LINE_PX, _LINES = 8, 13, 3
_CHARS = 24


def contact_sheet(pictures: Sequence[tuple[Image.Image, str]], columns: int = 8) -> Image.Image:
    """Draw all `pictures`, which must have the same size, with their texts on one sheet."""
    width, height = pictures[0][0].size
    cell = (width + _MARGIN_PX, height + _MARGIN_PX + _LINES * _LINE_PX)
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * cell[0] + _MARGIN_PX, rows * cell[1] + _MARGIN_PX), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    for number, (picture, words) in enumerate(pictures):
        x, y = (number % columns) * cell[0] + _MARGIN_PX, (number // columns) * cell[1] + _MARGIN_PX
        sheet.paste(picture, (x, y))
        for line, text in enumerate(textwrap.wrap(words, _CHARS)[:_LINES]):
            pen.text((x, y + height + line * _LINE_PX), text, fill="black", font=font)
    return sheet
