"""The report card as one picture: what the model knows, from what newborns can on down."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.transforms import blended_transform_factory

from worldmodel.evaluation.card import (
    KNOWS,
    NO_INTERVAL,
    NOT_MEASURED,
    NOT_YET,
    SOME,
    WORSE,
    unit,
)
from worldmodel.evaluation.figures import BLACK, BLUE, DPI, ORANGE, RED
from worldmodel.evaluation.section_tables import interval, number

# Shape and word say the same as the colour, so that the picture can be read without it.
LOOKS = {
    KNOWS: ("o", BLUE),
    SOME: ("s", ORANGE),
    NOT_YET: ("D", "0.45"),
    WORSE: ("v", RED),
    NO_INTERVAL: ("X", BLACK),
}
BAND, NULL_BAR, FAINT = "0.955", "0.82", "0.4"
WIDTH_INCHES, ROW_INCHES, SUB_ROW_INCHES = 13.6, 0.54, 0.36
TOP_INCHES, BOTTOM_INCHES = 1.25, 1.1
# Shares of the figure's width: the plot, where the age ends, and where other columns begin.
PLOT = (0.325, 0.63)
AGE, CONCEPT, WORD, RAW = 0.082, 0.096, 0.641, 0.788
# Nothing is drawn to scale left of this: r2 and rmse have no lower bound.
LOWEST = -1.0
OFF_SCALE = "<"
REASON_LETTERS = 72


@dataclass(frozen=True)
class Row:
    """A measure's line in the picture.

    Attributes:
        concept, measure: of the card.
        first: it is the first measure of its concept; the line is taller and names the concept.
        top, bottom: inches from the upper edge of the plot.
    """

    concept: Mapping[str, Any]
    measure: Mapping[str, Any]
    first: bool
    top: float
    bottom: float

    @property
    def middle(self) -> float:
        """Inches from the upper edge of the plot."""
        return (self.top + self.bottom) / 2


def card_figure(card: Mapping[str, Any]) -> Figure:
    """The card as rows, youngest concept on top: age, question, score on a common axis, word.

    Args:
        card: what `report_card` returned.

    Returns:
        One axes, from chance at 0 to perfect at 1. A filled marker with a bar is the model and its
        interval, a hollow circle the untrained network and its range; a grey bar reaches to the
        strongest null.
    """
    rows = _rows(card["concepts"])
    body = rows[-1].bottom
    height = body + TOP_INCHES + BOTTOM_INCHES
    figure = Figure(figsize=(WIDTH_INCHES, height), dpi=DPI)
    axes = figure.add_axes((PLOT[0], BOTTOM_INCHES / height, PLOT[1] - PLOT[0], body / height))
    left = left_end(row.measure for row in rows)
    axes.set(xlim=(left, 1.06), ylim=(body, 0))
    _frame(axes, rows)
    for row in rows:
        _write(axes, row)
        if "absent" not in row.measure:
            _draw(axes, row, left)
    _head(figure, card, height)
    return figure


def _rows(concepts: Sequence[Mapping[str, Any]]) -> list[Row]:
    rows: list[Row] = []
    top = 0.0
    for concept in concepts:
        for place, measure in enumerate(concept["measures"]):
            bottom = top + (ROW_INCHES if place == 0 else SUB_ROW_INCHES)
            rows.append(Row(concept, measure, place == 0, top, bottom))
            top = bottom
    return rows


def left_end(measures: Iterable[Mapping[str, Any]]) -> float:
    """Where the axis begins: room for everything measured, down to `LOWEST`."""
    lows = [0.0]
    for measure in measures:
        scaled = measure.get("scaled", {})
        lows += [scaled[name] for name in ("score", "untrained") if scaled.get(name) is not None]
        lows += [scaled[name][0] for name in ("interval", "untrained_range") if scaled.get(name)]
    return max(min(lows), LOWEST) - 0.08


def _frame(axes: Any, rows: Sequence[Row]) -> None:
    """Bands behind every other concept, lines at chance and perfect, and their labels."""
    axes.patch.set_visible(False)
    for side in ("left", "right", "top", "bottom"):
        axes.spines[side].set_visible(False)
    across = blended_transform_factory(axes.figure.transFigure, axes.transData)
    tops = [row.top for row in rows if row.first]
    for top, bottom in list(zip(tops, [*tops[1:], rows[-1].bottom], strict=True))[::2]:
        band = Rectangle((0.008, top), 0.984, bottom - top, color=BAND, linewidth=0, zorder=0)
        band.set(transform=across, clip_on=False)
        axes.add_patch(band)
    axes.axvline(0, color=BLACK, linewidth=1.2, zorder=2)
    axes.axvline(1, color=BLACK, linewidth=0.8, linestyle=":", zorder=2)
    axes.set_yticks([])
    axes.set_xticks([0, 0.5, 1], ["0\nchance", "0.5", "1\nperfect"], fontsize=11)
    axes.tick_params(axis="x", top=True, labeltop=True, length=3)


def _write(axes: Any, row: Row) -> None:
    """Age and concept to the left of the plot, word and raw score to its right."""
    across = blended_transform_factory(axes.figure.transFigure, axes.transData)
    concept, measure, middle = row.concept, row.measure, row.middle

    def put(x: float, text: str, **looks: Any) -> None:
        axes.text(x, middle, text, transform=across, va=looks.pop("va", "center"), **looks)

    if row.first:
        age = concept["age"].removeprefix("about ")
        put(AGE, age, ha="right", fontsize=11)
        put(CONCEPT, concept["concept"], fontsize=12, weight="bold", va="bottom")
        question = concept["question"]
        if measure.get("left_out"):
            question += " (left out of training)"
        put(CONCEPT, question, fontsize=9.5, color="0.25", va="top")
    else:
        put(CONCEPT + 0.012, measure["name"], fontsize=9.5, color="0.25")
    if "absent" in measure:
        reason = textwrap.shorten(measure["absent"], REASON_LETTERS, placeholder=" ...")
        text = f"{NOT_MEASURED}: {reason}"
        axes.text(0.03, middle, text, va="center", fontsize=9.5, color=FAINT, style="italic")
        return
    word = measure["verdict"]
    # The word of the measure that decides is the concept's.
    decides = measure["name"] == concept["decided_by"]
    looks: dict[str, Any] = {"fontsize": 11, "weight": "bold"} if decides else {"fontsize": 9.5}
    put(WORD + 0.018, word, **looks)
    marker, colour = LOOKS[word]
    sign = Line2D([WORD + 0.005], [middle], marker=marker, color=colour, linestyle="none")
    sign.set(transform=across, clip_on=False, gid="word", markersize=9 if decides else 6)
    axes.add_artist(sign)
    put(RAW, raw_text(measure), fontsize=9.5, linespacing=1.25)


def raw_text(measure: Mapping[str, Any]) -> str:
    """A measured score as the report has it, and on a second line what it has to beat."""
    strongest = measure["strongest_null"]
    spread = f" ({interval(measure['interval'])})" if measure["interval"] else ""
    best = ""
    if strongest:
        best = f", {strongest['name'].replace('_', ' ')} {number(strongest['score'])}"
    tested = measure["p_holm"].get("chance")
    p = "" if tested is None else ", p <.001" if tested < 0.001 else f", p {tested:.2g}"
    return (
        f"{unit(measure['metric'])} {number(measure['score'])}{spread}\n"
        f"chance {number(measure['chance'])}{best}{p}"
    )


def _draw(axes: Any, row: Row, left: float) -> None:
    """Strongest null, untrained network and model of one row; what lies too far left at the edge.

    The model stands above the row's middle, the untrained network below: neither hides the other.
    """
    scaled, middle = row.measure["scaled"], row.middle
    size = 1.0 if row.first else 0.7
    model, untrained = middle - 0.08 * size, middle + 0.12 * size
    edge = left + 0.03
    null = scaled["strongest_null"]
    if null is not None and null > 0:
        axes.barh(middle, min(null, 1.0), 0.36 * size, color=NULL_BAR, zorder=1)
    if scaled["untrained"] is not None:
        reach = np.clip(scaled["untrained_range"], edge, 1)
        axes.plot(reach, [untrained] * 2, color=FAINT, linewidth=1.2, zorder=3)
        (circle,) = axes.plot([max(scaled["untrained"], edge)], [untrained], color=BLACK, zorder=4)
        circle.set(marker="o" if scaled["untrained"] >= edge else OFF_SCALE, markersize=6.5 * size)
        circle.set(markerfacecolor="white", markeredgewidth=1.1, gid="untrained")
    marker, colour = LOOKS[row.measure["verdict"]]
    if scaled["interval"] is not None:
        reach = np.clip(scaled["interval"], edge, 1)
        axes.plot(reach, [model] * 2, color=colour, linewidth=3.2 * size, zorder=5)
    marker = marker if scaled["score"] >= edge else OFF_SCALE
    place = max(scaled["score"], edge)
    (sign,) = axes.plot([place], [model], marker, color=colour, zorder=6, gid="model")
    sign.set_markersize(10 * size)


def _head(figure: Figure, card: Mapping[str, Any], height: float) -> None:
    """Title, count of words, heads of columns, and the legend below."""
    counts = ", ".join(f"{word} {count}" for word, count in card["counts"].items() if count)
    title = "What the model knows, in the order in which infants come to know it"
    figure.text(0.012, 1 - 0.28 / height, title, fontsize=15, weight="bold", va="center")
    figure.text(0.012, 1 - 0.58 / height, f"Concepts: {counts}", fontsize=11, va="center")
    heads = (
        (AGE, "age, months\n(about)", "right"),
        (CONCEPT, "concept and question", "left"),
        (WORD + 0.018, "word", "left"),
        (RAW, "score as reported", "left"),
    )
    for x, text, side in heads:
        y = 1 - (TOP_INCHES - 0.08) / height
        figure.text(x, y, text, fontsize=10, color="0.25", ha=side, va="bottom")
    figure.legend(
        handles=_legend(),
        loc="lower center",
        ncols=4,
        fontsize=10,
        frameon=False,
        handletextpad=0.5,
        columnspacing=1.8,
    )


def _legend() -> list[Any]:
    meanings = {
        KNOWS: "above chance and every null",
        SOME: "above chance, not above every null",
        NOT_YET: "interval contains chance, or p too large",
        WORSE: "interval below chance",
        NO_INTERVAL: "not judged",
    }
    signs = []
    for word, meaning in meanings.items():
        marker, colour = LOOKS[word]
        sign = Line2D([], [], marker=marker, color=colour, linewidth=2.5, markersize=8)
        sign.set(label=f"{word}: {meaning}", linestyle="none" if word == NO_INTERVAL else "-")
        signs.append(sign)
    hollow = Line2D([], [], marker="o", color=FAINT, label="untrained network, its range")
    hollow.set(markerfacecolor="white", markeredgecolor=BLACK)
    off = Line2D([], [], marker=OFF_SCALE, color=BLACK, linestyle="none", label="off the scale")
    bar = Patch(color=NULL_BAR, label="as far as the strongest null")
    return [*signs, hollow, off, bar]
