"""A study's results as pictures: key numbers of every variant, and how long tokens remember."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from worldmodel.ablation.study import Question, Study, Variant
from worldmodel.ablation.table import SPECTRUM_QUESTION, Findings, read_findings
from worldmodel.evaluation.figures import BLACK, BLUE, DPI, GREEN, LEVEL_COLOURS, ORANGE, SKY
from worldmodel.evaluation.readings import AnyMeasure, Reading, key_measures, read_group

FIGURE, SPECTRUM = "ablation.png", "spectrum.png"
DEFAULT = "default"
# Of the figure, in inches.
WIDTH, LABELS, ROW, HEAD, GAP, TOP, FOOT = 15.0, 2.2, 0.25, 0.30, 0.22, 0.85, 0.7
BAND = "0.90"
# Scales end this many times the middle deviation from the median, and a little beyond that.
FAR_OFF, MARGIN = 8, 0.04
TITLE_LETTERS, PANEL_LETTERS = 150, 30
# Autocorrelations at which a direction has forgotten to 1 / e after so many steps.
STEPS_MARKED = (1, 2, 4, 8)
SHARE_COLOURS = {"within_clips": GREEN, "between_clips": ORANGE, "between_positions": SKY}


def write_figures(
    study: Study, out: Path, measured_on: Mapping[str, Any] | None = None
) -> list[Path]:
    """Write `ablation.png`, and `spectrum.png` where the study asks about the scope.

    Arguments are as of `read_findings`.

    Returns:
        What was written; nothing without any results.
    """
    findings = read_findings(study, out, measured_on)
    figures = {
        FIGURE: ablation_figure(findings),
        SPECTRUM: spectrum_figure(findings),
    }
    written = []
    for name, figure in figures.items():
        if figure is not None:
            figure.savefig(out / name)
            written.append(out / name)
    return written


def ablation_figure(findings: Findings) -> Figure | None:
    """A row of panels for each question, a column for each key number.

    A dot is a variant with its interval, a hollow diamond its null; the grey band is the interval
    of the study's default, through all rows.
    """
    questions = [q for q in findings.study.questions if any(findings.of(v) for v in q.variants)]
    if not questions:
        return None
    measures = key_measures(findings.levels)
    halves = findings.seed_halves(measures)
    heights = [HEAD + ROW * len(question.variants) for question in questions]
    height = TOP + sum(heights) + GAP * len(questions) + FOOT
    figure = Figure(figsize=(WIDTH, height), dpi=DPI)
    for number, measure in enumerate(measures):
        half = halves[measure.name]
        rows = [[read_group(measure, findings.of(v), half) for v in q.variants] for q in questions]
        band = _default_reading(findings, measure, half)
        limits = _limits([reading for row in rows for reading in row])
        column = []
        top = height - TOP
        for question, readings, tall in zip(questions, rows, heights, strict=True):
            bottom = top - tall
            sides = (bottom / height, (tall - HEAD) / height)
            axes = _panel(figure, number, len(measures), *sides)
            _draw(axes, question, readings, limits, band, named=number == 0)
            column.append(axes)
            if number == 0:
                title = textwrap.shorten(f"{question.name}: {question.asks}", TITLE_LETTERS)
                y = (top - HEAD + 0.05) / height
                figure.text(0.012, y, title, fontsize=11, weight="bold", va="bottom")
            top = bottom - GAP
        _finish_column(figure, column, measure, 1 - 0.1 / height)
    _legend(figure)
    return figure


def _limits(readings: Sequence[Reading | None]) -> tuple[float, float]:
    """A scale for all variants of all questions; what is far from most of them is not on it.

    A model that has collapsed has r2 of -6, and beside it all others would look the same.
    """
    known = [reading for reading in readings if reading is not None]
    ends = [end for each in known for end in (each.value, each.null, each.low, each.high)]
    values = np.array([end for end in ends if end is not None])
    if not len(values):
        return 0.0, 1.0
    middle = np.median(values)
    reach = FAR_OFF * (np.median(np.abs(values - middle)) or 0.01)
    low, high = max(values.min(), middle - reach), min(values.max(), middle + reach)
    margin = MARGIN * (high - low) or 0.01
    return float(low - margin), float(high + margin)


def _default_reading(
    findings: Findings, measure: AnyMeasure, seed_half: float | None
) -> Reading | None:
    """Of the first variant of the study that is named `default` and has results."""
    for variant in findings.study.variants():
        if variant.name == DEFAULT and findings.of(variant):
            return read_group(measure, findings.of(variant), seed_half)
    return None


def _panel(figure: Figure, number: int, count: int, bottom: float, tall: float) -> Axes:
    left, gap = LABELS / WIDTH, 0.25 / WIDTH
    wide = (1 - left - 0.2 / WIDTH) / count
    return figure.add_axes((left + number * wide, bottom, wide - gap, tall))


def _draw(
    axes: Axes,
    question: Question,
    readings: Sequence[Reading | None],
    limits: tuple[float, float],
    band: Reading | None,
    *,
    named: bool,
) -> None:
    """One number of one question's variants, the first on top."""
    axes.set(xlim=limits, ylim=(len(readings) - 0.5, -0.5))
    names = [variant.name for variant in question.variants] if named else []
    axes.set_yticks(range(len(names)), names, fontsize=9.5)
    axes.grid(axis="x", color="0.93")
    axes.set_axisbelow(True)
    axes.tick_params(axis="x", labelsize=8.5, length=2)
    axes.tick_params(axis="y", length=0)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    if band is not None:
        if band.low is not None and band.high is not None:
            axes.axvspan(band.low, band.high, color=BAND, linewidth=0, zorder=0)
        axes.axvline(band.value, color="0.6", linewidth=0.9, zorder=1)
    for row, reading in enumerate(readings):
        if reading is None:
            axes.text(0.01, row, "-", transform=axes.get_yaxis_transform(), va="center")
            continue
        if reading.null is not None:
            null = _mark(axes, reading.null, row, "D", limits)
            null.set(color=BLACK, markerfacecolor="white", markersize=4.5, zorder=3, gid="null")
        if reading.low is not None and reading.high is not None:
            axes.plot([reading.low, reading.high], [row, row], color=BLUE, linewidth=2.2, zorder=4)
        score = _mark(axes, reading.value, row, "o", limits)
        score.set(color=BLUE, markersize=6, zorder=5, gid="score")


def _mark(axes: Axes, value: float, row: int, marker: str, limits: tuple[float, float]) -> Line2D:
    """A point; at the edge of the scale an arrow towards one that is off it."""
    low, high = limits
    if value < low or value > high:
        value, marker = (low, "<") if value < low else (high, ">")
    (point,) = axes.plot([value], [row], marker, clip_on=False)
    return point


def _finish_column(figure: Figure, column: Sequence[Axes], measure: AnyMeasure, top: float) -> None:
    """The scale is written below the last panel, the number's name above the first."""
    for axes in column[:-1]:
        axes.tick_params(axis="x", labelbottom=False)
    arrow = {True: "higher is better", False: "lower is better", None: ""}[measure.higher_is_better]
    name = textwrap.fill(measure.name, PANEL_LETTERS)
    box = column[0].get_position()
    middle = (box.x0 + box.x1) / 2
    figure.text(middle, top, f"{name}\n{arrow}", fontsize=9.5, ha="center", va="top")


def _legend(figure: Figure) -> None:
    signs = [
        Line2D([], [], color=BLUE, marker="o", linewidth=2.2, label="variant, 95 % interval"),
        Line2D([], [], color=BLACK, marker="D", markerfacecolor="white", linestyle="none"),
        Patch(color=BAND, label="the default's interval"),
        Line2D([], [], color=BLUE, marker="<", linestyle="none", label="off the scale"),
    ]
    signs[1].set_label("its null: an untrained network, or the trivial predictor")
    figure.legend(handles=signs, loc="lower center", ncols=4, fontsize=10, frameon=False)


# --- How long tokens remember --------------------------------------------------------------------


def spectrum_figure(findings: Findings) -> Figure | None:
    """Autocorrelations of all directions, and shares of variance, of the variants of the scope.

    A column for each level; None where the study does not ask, or has no results of it yet.
    """
    variants = [
        variant
        for question in findings.study.questions
        if question.name == SPECTRUM_QUESTION
        for variant in question.variants
        if findings.of(variant)
    ]
    if not variants:
        return None
    spectra = [findings.of(variant)[0]["spectrum"] for variant in variants]
    levels = sorted({level for spectrum in spectra for level in spectrum})
    figure = Figure(figsize=(1.5 + 4.2 * len(levels), 6.4), dpi=DPI, layout="constrained")
    grid = figure.subplots(2, len(levels), squeeze=False, height_ratios=(3, 1), sharey="row")
    for number, level in enumerate(levels):
        own = [(v, s[level]) for v, s in zip(variants, spectra, strict=True) if level in s]
        _draw_autocorrelations(grid[0, number], own, level, last=number == len(levels) - 1)
        _draw_shares(grid[1, number], own)
    grid[0, 0].set_ylabel("autocorrelation at one step")
    grid[0, 0].legend(fontsize=9, frameon=False, loc="lower left")
    handles = [
        Patch(color=colour, label=name.replace("_", " ")) for name, colour in SHARE_COLOURS.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    return figure


def _draw_autocorrelations(
    axes: Axes, spectra: Sequence[tuple[Variant, Mapping[str, Any]]], level: str, last: bool
) -> None:
    """Sorted, over the share of directions; white noise and time constants are marked."""
    for number, (variant, spectrum) in enumerate(spectra):
        rho = np.array(spectrum["autocorrelations"])
        share = (np.arange(len(rho)) + 0.5) / max(len(rho), 1)
        colour = LEVEL_COLOURS[number % len(LEVEL_COLOURS)]
        axes.plot(share, rho, color=colour, linewidth=1.8, label=variant.name)
    first = spectra[0][1]
    if first["num_steps"] > 1:
        axes.axhline(-1 / (first["num_steps"] - 1), color="0.5", linestyle=":", linewidth=1)
        axes.text(0.01, -1 / (first["num_steps"] - 1), "white noise", fontsize=8, va="bottom")
    title = f"{level.replace('level', 'level ')}: steps of {first['step_seconds']:g} s"
    axes.set(title=title, xlabel="share of directions, slowest first", ylim=(-1, 1))
    axes.grid(color="0.93")
    right = axes.secondary_yaxis("right")
    marks = [float(np.exp(-1 / steps)) for steps in STEPS_MARKED]
    right.set_yticks(marks, [str(steps) for steps in STEPS_MARKED] if last else [], fontsize=8)
    if last:
        right.set_ylabel("time constant, steps", loc="top", fontsize=9)


def _draw_shares(axes: Axes, spectra: Sequence[tuple[Variant, Mapping[str, Any]]]) -> None:
    """Where the variance of tokens lies, a bar for each variant."""
    for row, (_, spectrum) in enumerate(spectra):
        left = 0.0
        for name, colour in SHARE_COLOURS.items():
            share = spectrum["variance_shares"][name]
            axes.barh(row, share, left=left, color=colour, height=0.7)
            left += share
    axes.set(xlim=(0, 1), ylim=(len(spectra) - 0.5, -0.5), xlabel="share of the tokens' variance")
    axes.set_yticks(range(len(spectra)), [variant.name for variant, _ in spectra], fontsize=9)
