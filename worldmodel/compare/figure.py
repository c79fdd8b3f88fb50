"""A comparison as a picture: scores of all configurations, and what lies between them."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from worldmodel.compare.differences import BETTER, NOT_JUDGED, WORSE, Comparison, Difference
from worldmodel.evaluation.figures import BLACK, DPI, GREEN, LEVEL_COLOURS, RED

GREY = "0.55"
# In inches: a row, what stands above and below the panels, names, and panels.
ROW, TOP, FOOT, NAMES, SCORES, DIFFERENCES = 0.27, 0.75, 0.95, 3.9, 4.6, 3.4
# Scores beyond these ends are drawn as arrows at the edge.
LOWEST, HIGHEST = -0.25, 1.2
# Differences further out than so many times the middle half-width are drawn as arrows.
FAR_OFF = 6.0


def comparison_figure(comparison: Comparison) -> Figure:
    """A panel of scores and one of differences for each further configuration; a row a number.

    Differences point to the right where the configuration is better than the first, whichever
    direction that is; filled where the interval leaves out 0.
    """
    rows, groups = comparison.rows, comparison.groups
    count = max(len(groups) - 1, 0)
    height = TOP + ROW * (len(rows) + 0.4) + FOOT
    width = NAMES + SCORES + count * DIFFERENCES + 0.2
    figure = Figure(figsize=(width, height), dpi=DPI)
    tall, bottom = ROW * (len(rows) + 0.4) / height, FOOT / height
    axes = figure.add_axes((NAMES / width, bottom, (SCORES - 0.2) / width, tall))
    _draw_scores(axes, comparison)
    for number in range(count):
        left = (NAMES + SCORES + number * DIFFERENCES) / width
        panel = figure.add_axes((left, bottom, (DIFFERENCES - 0.25) / width, tall))
        _draw_differences(panel, comparison, number)
    return figure


def _prepare(axes: Axes, comparison: Comparison) -> None:
    """A row for each number, the first on top, with a line between areas."""
    rows = comparison.rows
    axes.set_ylim(len(rows) - 0.3, -0.7)
    axes.set_yticks([])
    axes.grid(axis="x", color="0.92")
    axes.set_axisbelow(True)
    axes.tick_params(axis="x", labelsize=9)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    for place in range(1, len(rows)):
        if rows[place].area != rows[place - 1].area:
            axes.axhline(place - 0.5, color="0.75", linewidth=0.8)


def _draw_scores(axes: Axes, comparison: Comparison) -> None:
    _prepare(axes, comparison)
    rows, groups = comparison.rows, comparison.groups
    axes.set_yticks(range(len(rows)), [row.measure.name for row in rows], fontsize=9.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(LOWEST, HIGHEST)
    offsets = np.linspace(-0.22, 0.22, len(groups)) if len(groups) > 1 else np.zeros(1)
    for place, row in enumerate(rows):
        nulls = [each.reading.null for each in row.scores if each and each.reading.null is not None]
        for null in nulls:
            _point(axes, null, float(place), "|", "0.6", 9.0, (LOWEST, HIGHEST)).set_gid("null")
        for number, score in enumerate(row.scores):
            if score is None:
                continue
            colour, y = LEVEL_COLOURS[number % len(LEVEL_COLOURS)], place + offsets[number]
            reading = score.reading
            if reading.low is not None and reading.high is not None:
                ends = np.clip([reading.low, reading.high], LOWEST, HIGHEST)
                axes.plot(ends, [y, y], color=colour, linewidth=1.8)
            if len(score.values) > 1:
                seeds = np.clip(score.values, LOWEST, HIGHEST)
                axes.plot(seeds, [y] * len(seeds), "|", color=BLACK, markersize=5, gid="seeds")
            _point(axes, reading.value, y, "o", colour, 5.5, (LOWEST, HIGHEST)).set_gid("score")
    axes.set_xlabel("score, each in its own unit; ↑ higher, ↓ lower is better", fontsize=9.5)
    for place, row in enumerate(rows):
        arrow = {True: "↑", False: "↓", None: ""}[row.measure.higher_is_better]
        beside = axes.get_yaxis_transform()
        axes.text(1.01, place, arrow, fontsize=9, va="center", color="0.35", transform=beside)
    axes.set_title("Scores, 95 % intervals", fontsize=11, loc="left")
    handles = [
        Line2D([], [], marker="o", color=LEVEL_COLOURS[n % len(LEVEL_COLOURS)], label=group.name)
        for n, group in enumerate(groups)
    ]
    marks = [("null", "0.6", 9)] + [("single seeds", BLACK, 5)] * comparison.seeds_known
    for label, colour, size in marks:
        handles.append(Line2D([], [], marker="|", color=colour, linestyle="", markersize=size))
        handles[-1].set_label(label)
    _legend(axes, handles)


def _draw_differences(axes: Axes, comparison: Comparison, number: int) -> None:
    _prepare(axes, comparison)
    found = [
        (place, _towards_better(row.differences[number], row.measure.higher_is_better))
        for place, row in enumerate(comparison.rows)
    ]
    shown = [(place, each) for place, each in found if each is not None]
    reach = _reach([each for _, each in shown])
    axes.set_xlim(-reach, reach)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.axvline(0, color=BLACK, linewidth=0.9)
    for place, each in shown:
        decided = each.word in (BETTER, WORSE)
        colour = {BETTER: GREEN, WORSE: RED, NOT_JUDGED: "0.75"}.get(each.word, GREY)
        if each.low is not None and each.high is not None:
            ends = np.clip([each.low, each.high], -reach, reach)
            axes.plot(ends, [place, place], color=colour, linewidth=2.4 if decided else 1.6)
        point = _point(axes, each.value, float(place), "o", colour, 6.5, (-reach, reach))
        point.set(markerfacecolor=colour if decided else "white", gid=each.word)
        if each.holds:
            axes.text(reach, place, "holds", fontsize=8.5, ha="right", va="center", color=colour)
    base, other = comparison.groups[0].name, comparison.groups[number + 1].name
    axes.set_title(f"{other} − {base}", fontsize=11, loc="left")
    axes.set_xlabel("← worse        better →", fontsize=9.5)
    words = (
        ("better", GREEN, GREEN),
        ("worse", RED, RED),
        ("undecided, no interval", GREY, "white"),
    )
    handles = []
    for label, colour, face in words:
        handles.append(Line2D([], [], marker="o", color=colour, markerfacecolor=face, label=label))
    _legend(axes, handles)


def _towards_better(found: Difference | None, higher: bool | None) -> Difference | None:
    """A difference that is above 0 where it is for the better; None where there is no better."""
    if found is None or higher is None:
        return None
    if higher:
        return found
    low = None if found.high is None else -found.high
    high = None if found.low is None else -found.low
    return Difference(-found.value, low, high, found.p, found.p_holm, found.paired, found.word)


def _reach(found: Sequence[Difference]) -> float:
    """A scale on which all but what is far from most can be seen."""
    ends = [
        max(abs(end) for end in (each.value, each.low, each.high) if end is not None)
        for each in found
    ]
    if not ends:
        return 1.0
    return float(min(max(ends), FAR_OFF * (np.median(ends) or max(ends))) * 1.12) or 1.0


def _point(
    axes: Axes,
    value: float,
    y: float,
    marker: str,
    colour: str,
    size: float,
    limits: tuple[float, float],
) -> Line2D:
    """A point; at the edge of the scale an arrow towards one that is off it."""
    if value < limits[0]:
        value, marker = limits[0], "<"
    elif value > limits[1]:
        value, marker = limits[1], ">"
    (point,) = axes.plot([value], [y], marker, color=colour, markersize=size, zorder=4)
    point.set_clip_on(False)
    return point


def _legend(axes: Axes, handles: Sequence[Line2D]) -> None:
    """Below the panel, under the name of its axis."""
    low, high = axes.get_ylim()
    tall = ROW * abs(high - low)  # in inches
    axes.legend(
        handles=list(handles),
        loc="upper left",
        bbox_to_anchor=(0, -0.45 / tall),
        fontsize=9,
        ncols=3,
        frameon=False,
        handlelength=1.5,
        borderaxespad=0.0,
    )
