"""Pictures of surprise on a video: curves with the frames at their peaks, and the video itself.

Every function that makes a figure returns a `Figure`; nothing global is touched.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from PIL import Image, ImageDraw, ImageFont

from worldmodel.evaluation.figures import (
    BLACK,
    BLUE,
    DPI,
    LEVEL_COLOURS,
    ORANGE,
    RED,
)
from worldmodel.evaluation.network import Place
from worldmodel.evaluation.videos.long_video import SurpriseCurve

# At half its size 11 points at 110 dpi are still 8 pixels.
FONT_POINTS = 11
MAX_COLUMNS = 6  # thumbnails side by side
DENSE = 400  # steps across a figure from which on thinner lines are told apart better
CUT_STYLE: dict[str, Any] = {"color": RED, "linestyle": (0, (4, 3)), "linewidth": 1.2}
# Of the picture, where the surprise is highest: it must still be seen what is there.
MAX_TINT = 0.6
# Without the darkest third: what surprises a little must not look like a shadow.
MAP_COLOURS = ListedColormap(matplotlib.colormaps["inferno"](np.linspace(0.35, 0.97, 256)))
# Token errors at which the tint begins and is at its most, as percentiles over the video: the eye
# shall be drawn to what is unusual.
TINT_PERCENTILES = (70, 99.5)
HEADER_PX, PANEL_PX, MIN_CANVAS_PX = 34, 210, 720


@dataclass(frozen=True)
class Timeline:
    """When a video's frames are shown, as the model sees them.

    Attributes:
        seconds: `(T,)`, of each frame.
        period_seconds: usual time from one frame to the next.
        spans: frames per step of each level.
        cut_seconds: when new scenes begin.
    """

    seconds: np.ndarray
    period_seconds: float
    spans: tuple[int, ...]
    cut_seconds: tuple[float, ...]

    def ahead_seconds(self, place: Place) -> float:
        """How far a place predicts."""
        level, horizon = place
        return horizon * self.spans[level] * self.period_seconds


@dataclass(frozen=True)
class Peak:
    """A frame at which a video surprises most.

    Attributes:
        seconds: when.
        value: height of the combined curve.
        picture: uint8 `(H, W, 3)`, the frame.
        after_cut: a prediction for it reached over a scene cut.
    """

    seconds: float
    value: float
    picture: np.ndarray
    after_cut: bool


def shade(colour: str, share: float) -> tuple[float, float, float]:
    """A colour between white (0) and itself (1)."""
    red, green, blue = (1 - share * (1 - part) for part in to_rgb(colour))
    return red, green, blue


def _axes_font(axes: Any) -> None:
    axes.tick_params(labelsize=FONT_POINTS - 1)
    axes.yaxis.label.set_size(FONT_POINTS)
    axes.xaxis.label.set_size(FONT_POINTS)
    axes.grid(axis="x", color="0.9", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _mark_cuts(axes: Any, timeline: Timeline, label: str | None) -> None:
    for number, cut in enumerate(timeline.cut_seconds):
        axes.axvline(cut, label=label if number == 0 else None, **CUT_STYLE)


def surprise_over_time(
    curves: Mapping[Place, SurpriseCurve],
    combined: np.ndarray,
    timeline: Timeline,
    peaks: Sequence[Peak],
    title: str,
) -> Figure:
    """Surprise over time: all places in one curve, each level's horizons, and frames at the peaks.

    Args:
        curves: of each place; a line of its level's panel, the darker the farther it looks ahead.
        combined: `(T,)`, NaN where there is none.
        timeline: of the video.
        peaks: in order of time; numbered in the figure.
        title: above it.
    """
    levels = sorted({level for level, _ in curves})
    heights = [1.35] * bool(peaks) + [1.6] + [1.5] * len(levels)
    figure = Figure(figsize=(11.0, 1.7 * sum(heights) / 1.5 + 0.6), dpi=DPI, layout="constrained")
    grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    figure.suptitle(title, fontsize=FONT_POINTS + 2)
    if peaks:
        _draw_thumbnails(figure, grid, peaks)
    top = figure.add_subplot(grid[len(heights) - len(levels) - 1])
    width = 1.6 if len(combined) < DENSE else 0.8
    top.plot(timeline.seconds, combined, color=BLACK, linewidth=width)
    for number, peak in enumerate(peaks, 1):
        top.plot(peak.seconds, peak.value, "o", color=RED, markersize=6)
        top.annotate(
            str(number),
            (peak.seconds, peak.value),
            xytext=(0, 5),
            textcoords="offset points",
            ha="center",
            fontsize=FONT_POINTS,
            fontweight="bold",
        )
    top.set_ylabel("all levels\n(typical spreads\nabove typical)")
    _mark_cuts(top, timeline, "scene cut")
    if timeline.cut_seconds:
        top.legend(fontsize=FONT_POINTS - 1, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    top.margins(y=0.22)
    last = top
    for row, level in enumerate(levels, len(heights) - len(levels)):
        last = figure.add_subplot(grid[row], sharex=top)
        _draw_level(last, level, curves, timeline)
    for axes in figure.axes[len(peaks) :]:
        _axes_font(axes)
        axes.label_outer()
    top.set_xlim(0, float(timeline.seconds[-1]) + timeline.period_seconds)
    last.set_xlabel("time, s")
    return figure


def _draw_thumbnails(figure: Figure, grid: GridSpec, peaks: Sequence[Peak]) -> None:
    columns = max(4, len(peaks))  # few would be larger than the curves
    inner = grid[0].subgridspec(1, columns)
    for number, peak in enumerate(peaks, 1):
        axes = figure.add_subplot(inner[number - 1])
        axes.imshow(peak.picture)
        axes.set(xticks=[], yticks=[])
        cut = ", cut" if peak.after_cut else ""
        axes.set_title(f"{number}: {peak.seconds:.1f} s{cut}", fontsize=FONT_POINTS)


def _draw_level(
    axes: Any, level: int, curves: Mapping[Place, SurpriseCurve], timeline: Timeline
) -> None:
    horizons = sorted(horizon for number, horizon in curves if number == level)
    colour = LEVEL_COLOURS[level % len(LEVEL_COLOURS)]
    marker = (
        "o" if timeline.spans[level] > 1 and len(curves[level, horizons[0]].frames) < 60 else ""
    )
    longest = curves[level, horizons[-1]]
    thick = 1.0 if len(longest.frames) < DENSE else 0.5
    axes.plot(
        timeline.seconds[longest.frames],
        longest.copied,
        color="0.45",
        linestyle=":",
        linewidth=1.4 * thick,
        label=f"copy, {timeline.ahead_seconds((level, horizons[-1])):.2f} s ahead",
    )
    for number, horizon in enumerate(horizons, 1):
        curve = curves[level, horizon]
        axes.plot(
            timeline.seconds[curve.frames],
            curve.values,
            color=shade(colour, 0.25 + 0.75 * number / len(horizons)),
            linewidth=(1.0 + 0.8 * number / len(horizons)) * thick,
            marker=marker,
            markersize=3,
            label=f"{timeline.ahead_seconds((level, horizon)):.2f} s ahead",
        )
    _mark_cuts(axes, timeline, None)
    axes.set_ylabel(f"level {level}\ndistance\nof tokens")
    axes.set_ylim(0, None)
    axes.legend(fontsize=FONT_POINTS - 1, loc="upper left", bbox_to_anchor=(1.0, 1.05))


CHECK_TITLES = {
    "backwards": "played backwards",
    "shuffled_blocks": "steps shuffled in time",
    "shuffled": "frames shuffled in time",
}


MODEL_LABEL, COPY_LABEL = "model, bar: 95 % interval", "copy predictor"


def check_ratios(checks: Mapping[str, Any]) -> Figure:
    """How much more other orders of the frames surprise than the true one, by level and horizon.

    Above the model's ratio beside the copy predictor's, below the first over the second.

    Args:
        checks: a summary's `checks`.
    """
    figure = Figure(figsize=(11.0, 6.0), dpi=DPI, layout="constrained")
    grid = figure.subplots(2, len(CHECK_TITLES), sharex="col")
    for (above, below), (name, title) in zip(grid.T, CHECK_TITLES.items(), strict=True):
        places = [
            (f"{level.removeprefix('level')}.{horizon.removeprefix('h')}", entry)
            for level, entries in checks[name].items()
            for horizon, entry in entries.items()
        ]
        entries = [entry for _, entry in places]
        _draw_ratios(above, entries, "ratio", "ci95", (-0.15, BLUE, "o", MODEL_LABEL))
        _draw_ratios(above, entries, "copy_ratio", "copy_ci95", (0.15, ORANGE, "s", COPY_LABEL))
        _draw_ratios(below, entries, "over_copy", "over_copy_ci95", (0.0, BLACK, "D", ""))
        above.set_title(title, fontsize=FONT_POINTS + 1)
        below.set_xticks(np.arange(len(places)), [label for label, _ in places])
        below.set_xlabel("level.horizon")
        for axes in (above, below):
            axes.axhline(1, color=BLACK, linewidth=0.9)
            # A scale of rounding would make a difference of what is none.
            low, high = axes.get_ylim()
            axes.set_ylim(min(low, 0.98), max(high, 1.02))
            _axes_font(axes)
    grid[0, 0].set_ylabel("surprise / that\nof the true order")
    grid[1, 0].set_ylabel("model's ratio /\ncopy's ratio")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=FONT_POINTS)
    return figure


def _draw_ratios(
    axes: Any,
    entries: Sequence[Mapping[str, Any]],
    key: str,
    interval: str,
    style: tuple[float, str, str, str],
) -> None:
    shift, colour, marker, label = style
    x = np.arange(len(entries)) + shift
    # None becomes NaN, which is not drawn.
    ratios = np.array([entry[key] for entry in entries], dtype=float)
    ends = np.array([entry[interval] or (None, None) for entry in entries], dtype=float)
    axes.plot(x, ratios, marker, color=colour, markersize=6, label=label or None)
    axes.vlines(x, *ends.T, color=colour, linewidth=1.4)


def tint(picture: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Lay a map over a picture, one flat cell per token.

    Args:
        picture: uint8 `(H, W, 3)`.
        share: `(rows, columns)`, 0 (the picture as it is) to 1 (tinted most).

    Returns:
        uint8 `(H, W, 3)`.
    """
    size = (picture.shape[1], picture.shape[0])
    # In 8 bits and by Pillow: 2 ms for a frame of 854x480, against 20 with numpy's floats.
    weight = Image.fromarray(np.round(255 * MAX_TINT * share).astype(np.uint8))
    colours = Image.fromarray(np.round(MAP_COLOURS(share)[..., :3] * 255).astype(np.uint8))
    nearest = Image.Resampling.NEAREST
    tinted = Image.composite(
        colours.resize(size, nearest), Image.fromarray(picture), weight.resize(size, nearest)
    )
    return np.asarray(tinted)


def curve_panel(
    curve: SurpriseCurve, timeline: Timeline, limits: tuple[float, float], width_px: int
) -> Figure:
    """The curve below the video, with what the tint means at its right.

    Args:
        curve: of the place that is shown.
        timeline: of the video.
        limits: token errors without tint and with the most.
        width_px: of the panel; `PANEL_PX` high.
    """
    figure = Figure(figsize=(width_px / 100, PANEL_PX / 100), dpi=100, layout="constrained")
    axes = figure.subplots()
    seconds = timeline.seconds[curve.frames]
    axes.plot(seconds, curve.copied, color="0.45", linestyle=":", linewidth=1.4, label="copy")
    axes.plot(seconds, curve.values, color=BLUE, linewidth=1.8, label="model")
    _mark_cuts(axes, timeline, "scene cut")
    # Room for the legend above the curves.
    top = 1.4 * max(float(curve.values.max()), float(curve.copied.max()), 1e-12)
    axes.set(xlabel="time, s", ylabel="surprise", ylim=(0, top))
    axes.set_xlim(0, float(timeline.seconds[-1]) + timeline.period_seconds)
    axes.legend(fontsize=FONT_POINTS - 1, ncols=3, loc="upper right", framealpha=0.7)
    # As the tint looks on white, where nothing of it is nothing.
    white = np.full((1, 256, 3), 255, np.uint8)
    scale = ScalarMappable(
        Normalize(*limits), ListedColormap(tint(white, np.linspace(0, 1, 256)[None])[0] / 255)
    )
    bar = figure.colorbar(scale, ax=axes, pad=0.015, aspect=12)
    bar.set_label("per token", fontsize=FONT_POINTS)
    bar.ax.tick_params(labelsize=FONT_POINTS - 2)
    _axes_font(axes)
    return figure


class Annotator:
    """Draws a video's frames with the surprise of one place over and below them.

    Args:
        curve: of the place.
        place: level and horizon.
        timeline: of the video.
        size: (width, height) of the frames, even.
        title: of the video.
    """

    def __init__(
        self,
        curve: SurpriseCurve,
        place: Place,
        timeline: Timeline,
        size: tuple[int, int],
        title: str,
    ) -> None:
        self.curve, self.timeline, self.size, self.title = curve, timeline, size, title
        self.width = max(size[0], MIN_CANVAS_PX)
        self.ahead = f"level {place[0]}, predicted {timeline.ahead_seconds(place):.2f} s ahead"
        low, high = np.percentile(curve.maps, TINT_PERCENTILES)
        self.limits = (float(low), float(max(high, low + 1e-12)))
        self.step_of_frame = np.full(len(timeline.seconds), -1)
        for back in range(timeline.spans[place[0]]):
            self.step_of_frame[curve.frames - back] = np.arange(len(curve.frames))
        panel = curve_panel(curve, timeline, self.limits, self.width)
        canvas = FigureCanvasAgg(panel)
        canvas.draw()
        self.panel = np.asarray(canvas.buffer_rgba())[..., :3].copy()
        axes = panel.axes[0]
        self.cursor_px = [round(axes.transData.transform((t, 0))[0]) for t in timeline.seconds]
        box = axes.get_window_extent()
        self.cursor_rows = slice(PANEL_PX - round(box.y1), PANEL_PX - round(box.y0))
        self.font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), 17)

    def draw(self, picture: np.ndarray, number: int) -> np.ndarray:
        """Frame `number` as uint8 `(HEADER_PX + H + PANEL_PX, W, 3)`."""
        step = int(self.step_of_frame[number])
        if step >= 0:
            low, high = self.limits
            picture = tint(picture, np.clip((self.curve.maps[step] - low) / (high - low), 0, 1))
        left = (self.width - self.size[0]) // 2
        middle = np.zeros((self.size[1], self.width, 3), np.uint8)
        middle[:, left : left + self.size[0]] = picture
        panel = self.panel.copy()
        x = self.cursor_px[number]
        panel[self.cursor_rows, max(x - 1, 0) : x + 2] = np.array(to_rgb(RED)) * 255
        return np.concatenate([self._header(number, step >= 0), middle, panel])

    def _header(self, number: int, is_scored: bool) -> np.ndarray:
        strip = Image.new("RGB", (self.width, HEADER_PX))
        draw = ImageDraw.Draw(strip)
        draw.text((10, 7), f"{self.timeline.seconds[number]:6.2f} s", "white", self.font)
        right = self.ahead if is_scored else "no prediction for this frame"
        start = self.width - 10 - draw.textlength(right, self.font)
        draw.text((start, 7), right, "white", self.font)
        title = self.title
        while title and draw.textlength(title, self.font) > start - 140:
            title = title[:-1]
        draw.text((110, 7), title, "#BBBBBB", self.font)
        return np.asarray(strip)
