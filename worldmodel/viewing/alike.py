"""What is said in the place of a picture where a level has collapsed.

What is left of its tokens' differences may be rounding, of which a picture would make a pattern.
"""

from collections.abc import Iterable
from typing import Any

from worldmodel.evaluation.collapse import has_collapsed
from worldmodel.viewing.canvas import FONT

REMEDY = "train longer, or take another checkpoint"


def collapse_words(level: int, effective_rank: float, dim: int) -> str | None:
    """That a level has collapsed, and how far; None where it has not.

    Args:
        level: its number.
        effective_rank: of its tokens, 1 to D.
        dim: width D of a token.
    """
    if not has_collapsed(effective_rank, dim):
        return None
    return f"level {level} has collapsed: its tokens use {effective_rank:.1f} of {dim} directions"


def say_in(axes: Any, words: str) -> None:
    """A sentence in the place of what an axes would have shown."""
    axes.text(
        0.5,
        0.5,
        words,
        ha="center",
        va="center",
        fontsize=FONT,
        transform=axes.transAxes,
        wrap=True,
    )
    axes.set_axis_off()


def first_handles(panels: Iterable[Any]) -> tuple[list[Any], list[str]]:
    """What a legend of some panels holds: that of the first in which anything is drawn."""
    found = [axes.get_legend_handles_labels() for axes in panels]
    return next((each for each in found if each[0]), ([], []))
