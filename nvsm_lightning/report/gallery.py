"""Contact sheets."""

from collections.abc import Sequence

from jaxtyping import Float, Int
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor


def contact_sheet(pictures: Sequence[Image.Image], title: str, columns: int = 4, gap: int = 8) -> Image.Image:
    """Pictures in rows below a title, each at its own size in a cell as large as the largest."""
    font = ImageFont.load_default(18)
    width, height = max(p.width for p in pictures), max(p.height for p in pictures)
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    head = 34
    sheet = Image.new("RGB", (columns * (width + gap) + gap, head + rows * (height + gap)), "white")
    ImageDraw.Draw(sheet).text((gap, 7), title, "black", font)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        sheet.paste(picture, (gap + column * (width + gap), head + row * (height + gap)))
    return sheet


def worst_median_best(error: Float[Tensor, " picture"], count: int) -> dict[str, Int[Tensor, " chosen"]]:
    """Positions of the ``count`` worst, middle and best pictures by error; NaN errors are left out.

    Worst first, best first; ties by position, so that the choice is the same in every run.
    """
    known = (~error.isnan()).nonzero()[:, 0]
    order = known[error[known].argsort(stable=True)]
    count = min(count, len(order))
    start = (len(order) - count) // 2
    return {"worst": order.flip(0)[:count], "median": order[start : start + count], "best": order[:count]}
