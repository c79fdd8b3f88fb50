"""The report card as rows of a page: words, numbers, and places on the axis from 0 to 1."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from worldmodel.evaluation.card import NOT_MEASURED
from worldmodel.evaluation.card_figure import raw_text

Section = Mapping[str, Any]
# The plot of a row, in the units of an inline SVG, and where its axis ends.
WIDTH, HEIGHT, FIRST, LAST = 240, 30, 6, 234
RIGHTMOST = 1.06


@dataclass(frozen=True)
class Plot:
    """A score among its nulls, all in SVG's x.

    Attributes:
        chance, perfect: of the axis.
        null: end of the bar from chance to the strongest null; None where that is at chance.
        model, interval: of the model.
        untrained, spread: of untrained networks.
        off_scale: the model's score lies left of the axis.
    """

    chance: float
    perfect: float
    null: float | None
    model: float
    interval: tuple[float, float] | None
    untrained: float | None
    spread: tuple[float, float] | None
    off_scale: bool


@dataclass(frozen=True)
class MeasureRow:
    """One measure of a concept.

    Attributes:
        name: what is asked.
        word: its verdict.
        slug: the same as a name of a sign.
        decides: its word is that of its concept.
        numbers: score and what it has to beat, on two lines; the reason where there is none.
        left_out: events of this kind were kept out of training.
        plot: None where nothing was measured.
    """

    name: str
    word: str
    slug: str
    decides: bool
    numbers: tuple[str, ...]
    left_out: bool
    plot: Plot | None


def measure_rows(concept: Section, left: float) -> Iterator[MeasureRow]:
    """The rows of a concept of the card.

    Args:
        concept: of the card.
        left: where the axis begins, see `card_figure.left_end`.
    """
    for measure in concept["measures"]:
        absent = measure.get("absent")
        word = NOT_MEASURED if absent is not None else measure["verdict"]
        yield MeasureRow(
            name=measure["name"],
            word=word,
            slug=slug(word),
            decides=measure["name"] == concept["decided_by"],
            numbers=(absent,) if absent is not None else tuple(raw_text(measure).splitlines()),
            left_out=measure.get("left_out") is True,
            plot=None if absent is not None else _plot(measure["scaled"], left),
        )


def axis_percent(left: float) -> tuple[float, float]:
    """Where chance and perfect are, in percent of a plot's width."""
    chance, perfect = _place(0.0, left), _place(1.0, left)
    return 100 * chance / WIDTH, 100 * perfect / WIDTH


def slug(word: str) -> str:
    """A verdict as the name of its sign."""
    return word.replace(" ", "-")


def _place(value: float, left: float) -> float:
    share = (min(max(value, left), RIGHTMOST) - left) / (RIGHTMOST - left)
    return round(FIRST + (LAST - FIRST) * share, 1)


def _plot(scaled: Section, left: float) -> Plot:
    x = partial(_place, left=left)

    def ends(name: str) -> tuple[float, float] | None:
        span = scaled[name]
        return None if span is None else (x(span[0]), x(span[1]))

    null, untrained = scaled["strongest_null"], scaled["untrained"]
    return Plot(
        chance=x(0.0),
        perfect=x(1.0),
        null=x(min(null, 1.0)) if null is not None and null > 0 else None,
        model=x(scaled["score"]),
        interval=ends("interval"),
        untrained=None if untrained is None else x(untrained),
        spread=ends("untrained_range"),
        off_scale=scaled["score"] < left,
    )
