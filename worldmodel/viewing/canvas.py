"""What the notebooks' pictures share: their canvas, and PNGs small enough for a code host."""

import io
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from worldmodel.evaluation.figures import DPI

FONT = 10  # points; at half of 110 dpi still 7 pixels high
COLOURS = 255


def canvas(width: float, height: float) -> Figure:
    """An empty figure of so many inches that belongs to no window."""
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def bare(axes: Any) -> None:
    """No ticks: a picture is no plot."""
    axes.set_xticks([])
    axes.set_yticks([])


def plain(axes: Any) -> None:
    """A light grid below, no frame above and to the right."""
    axes.grid(color="0.92", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=FONT - 1)


def framed(axes: Any, colour: str = "0.8", width: float = 0.6) -> None:
    """No ticks, and a border of this colour and width in points."""
    bare(axes)
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=width)


def small_png(figure: Figure) -> bytes:
    """A figure as a PNG of 255 colours: a fifth of the bytes, and no difference that an eye finds.

    A notebook of a dozen sheets of frames has less than 1 MB by that instead of 3. Colours cover
    what there is: on a sheet of 64 frames no pixel is off by more than 20 of 255, and one in a
    thousand by more than 12. Median cut, Pillow's own choice, is off by 64 where colours are rare,
    and what moves here is small.
    """
    whole = io.BytesIO()
    figure.savefig(whole, format="png", bbox_inches="tight", metadata={"Software": None})
    small = io.BytesIO()
    with Image.open(whole) as image:
        few = image.convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=1)
        few.save(small, format="PNG", optimize=True)
    return small.getvalue()


def show_small(shell: Any) -> None:
    """Let a notebook show every `Figure` that a cell ends with as `small_png`.

    Takes the place of `%matplotlib inline`.

    Args:
        shell: of IPython.
    """
    if shell.display_formatter is not None:
        shell.display_formatter.formatters["image/png"].for_type(Figure, small_png)
