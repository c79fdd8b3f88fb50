"""Surprise over the time of a block as a chart of lines, in the units of an inline SVG."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

from worldmodel.evaluation.page.clips import WatchedBlock
from worldmodel.evaluation.surprise import CLIPS

# 12 units of text are 10 pixels on a phone 390 pixels wide, and 15 on a desk.
WIDTH, HEIGHT = 400, 236
LEFT, RIGHT, TOP, BOTTOM = 42, 392, 12, 196
# Clips that begin alike share a shade, impossible ones are dashed: readable without any colour.
POSSIBLE = ("AA", "BB")


@dataclass(frozen=True)
class Line:
    """One clip's curve.

    Attributes:
        name: AA, BB, AB or BA.
        points: as SVG's polyline has them.
        end: x and y of the last point.
    """

    name: str
    points: str
    end: tuple[float, float]


@dataclass(frozen=True)
class Chart:
    """A block's curves, placed.

    Attributes:
        lines: one per clip.
        hidden: x and width of each time in which both worlds look the same.
        changes: x of each change of worlds.
        violation: x of the first frame that shows it, if any does.
        still: x of the frame that stands for the video.
        ticks_x, ticks_y: places and labels.
        summary: the chart in words.
    """

    lines: tuple[Line, ...]
    hidden: tuple[tuple[float, float], ...]
    changes: tuple[float, ...]
    violation: float | None
    still: float
    ticks_x: tuple[tuple[float, str], ...]
    ticks_y: tuple[tuple[float, str], ...]
    summary: str

    @classmethod
    def of(cls, block: WatchedBlock) -> "Chart":
        """Place the curves of a block; time is that of its video, from its first frame on."""
        length = block.num_frames / block.fps
        heights = [value for curve in block.curves.values() for value in curve]
        low, high = min(heights, default=0.0), max(heights, default=1.0)
        marks = [float(mark) for mark in MaxNLocator(5, min_n_ticks=3).tick_values(low, high)]
        bottom, top = marks[0], marks[-1]

        def x(seconds: float) -> float:
            return round(LEFT + (RIGHT - LEFT) * min(max(seconds / length, 0.0), 1.0), 2)

        def y(value: float) -> float:
            return round(BOTTOM - (BOTTOM - TOP) * (value - bottom) / (top - bottom), 2)

        lines = []
        for name in CLIPS:
            places = [(x(t), y(v)) for t, v in zip(block.seconds, block.curves[name], strict=True)]
            points = " ".join(f"{place[0]:g},{place[1]:g}" for place in places)
            lines.append(Line(name, points, places[-1] if places else (LEFT, BOTTOM)))
        seconds = MaxNLocator(8, steps=[1, 2, 5, 10]).tick_values(0, length)
        violation = None if block.violation is None else block.violation / block.fps
        return cls(
            lines=tuple(lines),
            hidden=tuple(
                (x(start / block.fps), round(x(stop / block.fps) - x(start / block.fps), 2))
                for start, stop in block.windows
                if stop > start
            ),
            changes=tuple(x(frame / block.fps) for frame in block.splices),
            violation=None if violation is None else x(violation),
            still=x(block.still / block.fps),
            ticks_x=tuple((x(t), f"{t:g}") for t in seconds if 0 <= t <= length),
            ticks_y=tuple((y(mark), f"{mark:g}") for mark in marks),
            summary=_in_words(block, violation),
        )


def _in_words(block: WatchedBlock, violation: float | None) -> str:
    """Where each curve is highest, for people who do not see them."""
    peaks = [f"{name} {_peak(block, block.curves[name])}" for name in CLIPS if block.seconds]
    shown = "is never seen" if violation is None else f"can be seen from {violation:.2f} s on"
    return f"Surprise over time. Highest: {', '.join(peaks)}. The violation {shown}."


def _peak(block: WatchedBlock, curve: Sequence[float]) -> str:
    highest = max(range(len(curve)), key=lambda step: curve[step])
    return f"{curve[highest]:.2f} at {block.seconds[highest]:.2f} s"
