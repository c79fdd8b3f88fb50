"""Figures of depth, and of the trainings with standing and with moving cameras."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure, FigureBase
from torch import Tensor

from worldmodel.evaluation.collapse import all_alike
from worldmodel.evaluation.figures import BLACK, BLUE, GREEN, ORANGE, PURPLE, RED, SKY, as_image
from worldmodel.evaluation.footage import find_samples, read_samples
from worldmodel.evaluation.probes.depth import Case
from worldmodel.models.checkpoint import ClipSpec, LoadedModel
from worldmodel.viewing.canvas import bare, canvas
from worldmodel.viewing.depth.cameras import learned
from worldmodel.viewing.depth.readings import DepthFilm, DepthReadings, readers

COLOURS = {
    "model": BLUE,
    "model, convolution": SKY,
    "model, with the past": GREEN,
    "standing": BLUE,
    "moving": RED,
    "untrained": ORANGE,
    "pixels": PURPLE,
    "mean": "0.45",
}
FILM_COLUMNS = 8


def _map_rows(
    figure: FigureBase,
    pictures: Tensor,
    titles: Sequence[str],
    rows: Sequence[tuple[str, np.ndarray, bool]],
    tops: tuple[float, float],
) -> None:
    """Frames over rows of maps; maps of depth share one scale and bar, those of error another.

    Args:
        figure: or a part of one.
        pictures: uint8 `(n, C, H, W)`.
        titles: of the n columns.
        rows: label, `(n, rows, columns)` metres, and whether they are errors; the first is true.
        tops: metres at the end of both scales; that of depth begins at the nearest true one.
    """
    grid = figure.subplots(len(rows) + 1, len(pictures), squeeze=False)
    for axes in grid.flat:
        bare(axes)
    for column, title in enumerate(titles):
        grid[0, column].imshow(as_image(pictures[column]), interpolation="nearest")
        grid[0, column].set_title(title, fontsize=8)
    grid[0, 0].set_ylabel("frame", fontsize=8)
    shown: dict[bool, tuple[Any, list[Any]]] = {}
    nearest = float(rows[0][1].min())
    for row, (label, maps, is_error) in enumerate(rows, start=1):
        grid[row, 0].set_ylabel(label, fontsize=8)
        for column, values in enumerate(maps):
            image = grid[row, column].imshow(
                values,
                cmap="magma" if is_error else "cividis_r",
                vmin=0 if is_error else nearest,
                vmax=tops[is_error],
            )
        shown.setdefault(is_error, (image, []))[1].extend(grid[row])
    for is_error, (image, axes) in shown.items():
        label = "|error|, m" if is_error else "depth, m"
        bar = figure.colorbar(image, ax=axes, label=label, shrink=0.7, aspect=30, pad=0.01)
        bar.ax.tick_params(labelsize=8)


def depth_maps(readings: DepthReadings, names: Sequence[str], count: int = 7) -> Figure:
    """Test frames, their true depth, what each reader says, and by how much it errs.

    Args:
        readings: with readers of these names.
        names: of `readers`.
        count: frames, evenly spread over the test clips.
    """
    places, cases = readings.frames(count), readers(readings)
    true = np.stack([readings.clips[clip].metres[frame] for clip, frame in places])
    pictures = np.stack([readings.clips[clip].frames[frame] for clip, frame in places])
    guesses = {
        name: np.stack(
            [readings.probes.maps(cases[name], readings.clips[clip])[f] for clip, f in places]
        )
        for name in names
    }
    rows = [("true depth", true, False)]
    rows += [(f"from {name}" if name != "mean" else name, guesses[name], False) for name in names]
    rows += [
        (f"{name}:\n{readings.rmse(cases[name])[0]:.3f} m", np.abs(guesses[name] - true), True)
        for name in names
    ]
    worst = float(np.percentile(np.stack([np.abs(each - true) for each in guesses.values()]), 99))
    figure = canvas(1.15 * count + 1.2, 1.13 * (len(rows) + 1) + 0.5)
    titles = [f"clip {clip}, frame {readings.probes.plan.frames[f]}" for clip, f in places]
    _map_rows(
        figure, torch.from_numpy(pictures), titles, rows, (float(true.max()), max(worst, 1e-9))
    )
    blind = [
        name
        for name, maps in guesses.items()
        if name != "mean" and all_alike(maps.reshape(count, -1))
    ]
    words = [f"Depth of single test frames, and rmse over all {len(readings.clips)} test clips"]
    words += [f"{name} says the same of every frame: its tokens have collapsed" for name in blind]
    figure.suptitle("\n".join(words), fontsize=10)
    return figure


def _dots(
    axes: Any, entries: Sequence[tuple[str, float, Sequence[float]]], colours: Mapping[str, Any]
) -> None:
    """One row for each entry, first on top: its value and interval."""
    for row, (name, value, (low, high)) in enumerate(entries):
        colour = colours.get(name, BLACK)
        axes.plot([low, high], [row, row], color=colour, linewidth=2)
        axes.plot([value], [row], "o", color=colour, markersize=6)
        axes.annotate(
            f"{value:.3f}",
            (value, row),
            (0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=7,
        )
    axes.set_yticks(range(len(entries)), [name for name, _, _ in entries], fontsize=8)
    axes.set_ylim(len(entries) - 0.5, -0.7)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)


def depth_scores(readings: DepthReadings) -> Figure:
    """Error of every reader with its interval: over all cells, and over those of objects."""
    cases = readers(readings)
    figure = canvas(8.6, 0.42 * len(cases) + 1.2)
    parts = (("all cells", False), ("cells of objects", True))
    for axes, (title, objects) in zip(figure.subplots(1, 2, sharey=True), parts, strict=True):
        _dots(
            axes,
            [(name, *readings.rmse(case, objects=objects)) for name, case in cases.items()],
            COLOURS,
        )
        axes.set(xlabel="rmse, m (95 % over clips)", title=title)
    return figure


def depth_film(film: DepthFilm, name: str = "model") -> Figure:
    """Depth over time as a camera moves: maps of some frames, and every frame's error.

    Args:
        film: of one clip.
        name: the reader whose maps are shown; curves are of all.
    """
    chosen = np.linspace(0, len(film.frames) - 1, FILM_COLUMNS).astype(int)
    figure = canvas(10.2, 7.4)
    top, bottom = np.asarray(figure.subfigures(2, 1, height_ratios=[1.75, 1]))
    true, guess = film.metres[chosen], film.guesses[name][chosen]
    error = np.abs(guess - true)
    rows = [("true depth", true, False), (f"from {name}", guess, False), ("|error|", error, True)]
    titles = [f"{film.seconds[frame]:.2f} s" for frame in chosen]
    tops = (float(film.metres.max()), float(np.percentile(error, 99)) or 1.0)
    _map_rows(top, film.frames[torch.from_numpy(chosen)], titles, rows, tops)
    axes = bottom.subplots()
    for label in film.guesses:
        axes.plot(
            film.seconds,
            film.rmse(label),
            color=COLOURS.get(label, BLACK),
            label=label,
            linewidth=2 if label == name else 1.2,
        )
    axes.set(xlabel="time, s", ylabel="rmse of the frame, m", ylim=(0, None))
    axes.set_title(f"{film.key}: the camera travels {film.travelled[-1]:.1f} m", fontsize=9)
    axes.legend(fontsize=8, ncols=4, loc="lower left")
    return figure


def depth_by_frame(readings: DepthReadings, fps: float) -> Figure:
    """Does depth get better the longer a moving camera has been watched?

    Args:
        readings: with probes of context states, which have seen the past.
        fps: frames per second of the clips.
    """
    cases = readers(readings)
    names = [name for name in cases if name not in ("model, convolution", "pixels")]
    seconds = (np.array(readings.probes.plan.frames) + 1) / fps
    figure = canvas(8.8, 3.4)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (title, moving) in zip(
        panels, (("the camera moves", True), ("it stands", False)), strict=True
    ):
        number = sum(clip.moving_camera is moving for clip in readings.clips)
        for name in names if number else []:
            found = [
                readings.rmse(cases[name], moving=moving, frame=frame)
                for frame in range(len(seconds))
            ]
            axes.plot(seconds, [value for value, _ in found], "o-", color=COLOURS[name], label=name)
            if name in ("model", "model, with the past"):
                ends = np.array([interval for _, interval in found])
                axes.fill_between(
                    seconds, ends[:, 0], ends[:, 1], color=COLOURS[name], alpha=0.12, linewidth=0
                )
        axes.set(xlabel="seconds watched", title=f"{title} ({number} test clips)")
    panels[0].set_ylabel("rmse, m (95 % over clips)")
    figure.legend(*panels[1].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    return figure


def camera_frames(sets: Mapping[str, Path], clip: ClipSpec, per_set: int = 2) -> Figure:
    """The first training clips of each set, in time: what each of the networks is shown."""
    figure = canvas(10.2, 1.2 * per_set * len(sets) + 0.4)
    grid = figure.subplots(per_set * len(sets), FILM_COLUMNS, squeeze=False)
    for number, (name, folder) in enumerate(sets.items()):
        refs = find_samples(folder, "train", "clips")[:per_set]
        for row, footage in enumerate(read_samples(refs, clip, blocks=False), number * per_set):
            chosen = np.linspace(0, len(footage.frames) - 1, FILM_COLUMNS).astype(int)
            for column, frame in enumerate(chosen):
                bare(grid[row, column])
                grid[row, column].imshow(as_image(footage.frames[frame]), interpolation="nearest")
                if row == 0:
                    grid[row, column].set_title(f"{frame / clip.fps:.1f} s", fontsize=8)
            grid[row, 0].set_ylabel(f"{name}\ncamera", fontsize=8)
    return figure


def camera_learning(models: Mapping[str, LoadedModel]) -> Figure:
    """Loss of each run, and how much better than a copy each of its levels predicts in the end.

    Args:
        models: of `train_cameras`.
    """
    figure = canvas(8.6, 3.0)
    left, right = figure.subplots(1, 2)
    for number, (name, model) in enumerate(models.items()):
        run, label = learned(model), f"{name} cameras"
        left.plot(run.steps, run.loss, "o-", markersize=3, color=COLOURS[name], label=label)
        x = np.arange(len(run.copy_ratio))
        width = 0.8 / len(models)
        place = x + width * (number - (len(models) - 1) / 2)
        right.bar(place, run.copy_ratio, width, color=COLOURS[name], label=label)
        right.set_xticks(x, [f"level {level}" for level in x])
    right.axhline(1, color=BLACK, linewidth=0.8, linestyle=":", label="copy")
    left.set(xlabel="optimizer step", ylabel="loss", ylim=(0, None))
    right.set(ylabel="error / error of a copy", title="one second ahead, in the end")
    right.set_ylim(0, 1.45)
    for axes in (left, right):
        axes.legend(fontsize=8, loc="upper right", ncols=1 if axes is left else 3)
    return figure


def camera_scores(readings: DepthReadings, study: Mapping[str, float]) -> Figure:
    """Depth after both trainings, on clips with standing and moving cameras, beside the study's.

    Args:
        readings: of the networks `standing`, `moving` and `untrained`.
        study: of `study_depths`.
    """
    cases = readers(readings)
    figure = canvas(10.2, 3.2)
    panels = figure.subplots(1, 3, sharex=True)
    parts: tuple[tuple[str, Callable[[Case], tuple[float, list[float]]]], ...] = (
        ("here, test cameras that stand", lambda case: readings.rmse(case, moving=False)),
        ("here, test cameras that move", lambda case: readings.rmse(case, moving=True)),
    )
    for axes, (title, score) in zip(panels, parts, strict=False):
        _dots(axes, [(name, *score(case)) for name, case in cases.items()], COLOURS)
        axes.set(xlabel="rmse, m (95 % over clips)")
        axes.set_title(title, fontsize=9)
    entries = [(name, value, (value, value)) for name, value in study.items()]
    _dots(panels[2], entries, COLOURS)
    panels[2].set(xlabel="rmse, m")
    panels[2].margins(x=0.1)  # room for the figures at the ends
    panels[2].set_title("the study: 800 steps, 2000 clips", fontsize=9)
    return figure
