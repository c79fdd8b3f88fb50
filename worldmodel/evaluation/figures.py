"""Pictures of what was measured. Every function returns a `Figure`; nothing global is touched.

Colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), which people with any kind of
colour vision can tell apart; depth and error use perceptually even maps.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, BLACK = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#F0E442",
    "#000000",
)
LEVEL_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, RED)
DPI = 110


def as_image(frame: Tensor) -> np.ndarray:
    """uint8 `(C, H, W)` -> `(H, W, C)` for showing."""
    return frame.permute(1, 2, 0).numpy()


def _bare(axes: Any) -> None:
    axes.set_xticks([])
    axes.set_yticks([])


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def read_metrics(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A run's `metrics.csv`: per column the global steps and values of the rows that have it.

    Columns that are not numbers are left out; a file that is missing or empty gives nothing.
    """
    if not path.is_file():
        return {}
    columns: dict[str, list[tuple[float, float]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for name, text in row.items():
                try:
                    columns.setdefault(name, []).append((float(row["step"]), float(text)))
                except (KeyError, TypeError, ValueError):
                    continue
    return {
        name: (np.array(pairs)[:, 0], np.array(pairs)[:, 1])
        for name, pairs in columns.items()
        if pairs and name not in ("step", "epoch")
    }


def loss_curves(path: Path) -> Figure | None:
    """Loss, and prediction error against copying, over a run; None where it left no metrics."""
    columns = read_metrics(path)
    losses = [name for name in columns if name.endswith("/loss")]
    ratios = [name for name in columns if name.endswith(("copy_ratio", "skill_ratio"))]
    if not losses and not ratios:
        return None
    figure = _figure(10.0, 4.0)
    left, right = figure.subplots(1, 2)
    for colour, name in zip(LEVEL_COLOURS * 4, losses, strict=False):
        steps, values = columns[name]
        marker = "o" if len(values) < 20 else None
        left.plot(steps, values, color=colour, label=name, linewidth=1.2, marker=marker)
    left.set(xlabel="optimizer step", ylabel="loss", title="Loss")
    training = [name for name in ratios if name.startswith("train")] or ratios
    for name in training:
        # One colour per level; the ratio that counts is the full line.
        level = re.search(r"level(\d+)", name)
        colour = LEVEL_COLOURS[int(level[1]) % len(LEVEL_COLOURS)] if level else BLACK
        line = "-" if "skill" in name else ":"
        label = name.removeprefix("train/").removesuffix("_ratio")
        right.plot(*columns[name], line, color=colour, label=label, linewidth=1.2)
    right.axhline(1, color=BLACK, linewidth=0.8)
    right.set(xlabel="optimizer step", ylabel="error / trivial predictor's", title="Prediction")
    for axes in (left, right):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=6, ncols=2)
    return figure


def prediction_ratios(section: Mapping[str, Any]) -> Figure | None:
    """Prediction error over that of each trivial predictor, by level and horizon.

    Args:
        section: the report's `prediction`; without any level there is nothing to show.
    """
    if not section:
        return None
    names = {
        "copy_ratio": "last state",
        "running_mean_ratio": "mean so far",
        "ar1_ratio": "AR(1) + last change",
        "skill_ratio": "best of the three",
    }
    figure = _figure(10.0, 3.6)
    places = [(level, horizon) for level in section for horizon in section[level]]
    axes = figure.subplots()
    x = np.arange(len(places))
    for number, (name, label) in enumerate(names.items()):
        values = [section[level][horizon][name] for level, horizon in places]
        colour = (SKY, YELLOW, ORANGE, BLUE)[number]
        axes.bar(x + 0.2 * (number - 1.5), values, 0.2, color=colour, label=label)
    axes.axhline(1, color=BLACK, linewidth=0.8)
    labels = [
        f"{level} {horizon}\n{section[level][horizon]['horizon_frames']} frames"
        for level, horizon in places
    ]
    axes.set_xticks(x, labels, fontsize=7)
    axes.set(ylabel="error / error of", title="Prediction on test clips, below 1 is better")
    axes.set_ylim(0, 1.15 * max(1.0, axes.get_ylim()[1]))
    axes.legend(fontsize=7, ncols=4, loc="upper center")
    return figure


def depth_strip(frames: Tensor, true: np.ndarray, probed: np.ndarray) -> Figure:
    """Frames, their true depth, the depth read from their tokens, and the error.

    Args:
        frames: uint8 `(n, C, H, W)`.
        true: metres `(n, h, w)`.
        probed: metres `(n, h, w)`.
    """
    count = len(frames)
    figure = _figure(1.5 * count + 1, 6.0)
    grid = figure.subplots(4, count, squeeze=False)
    error = np.abs(probed - true)
    far, worst = float(true.max()), float(np.percentile(error, 99)) or 1.0
    rows = (
        ("frame", None, None, 0.0),
        ("true depth", true, "cividis_r", far),
        ("from tokens", probed, "cividis_r", far),
        ("|error|", error, "magma", worst),
    )
    for row, (title, maps, colours, top) in enumerate(rows):
        for column in range(count):
            axes = grid[row, column]
            _bare(axes)
            if maps is None:
                axes.imshow(as_image(frames[column]))
            else:
                shown = axes.imshow(maps[column], cmap=colours, vmin=0, vmax=top)
        grid[row, 0].set_ylabel(title)
        if maps is not None:
            figure.colorbar(shown, ax=list(grid[row]), label="m", shrink=0.8)
    return figure


def hidden_position(
    true: Sequence[np.ndarray],
    hidden: Sequence[np.ndarray],
    decoded: Sequence[tuple[np.ndarray, np.ndarray]],
    fps: float,
    level: int,
) -> Figure:
    """Horizontal position of the tracked object over time, true and decoded, hidden times shaded.

    Args:
        true: per clip `(T,)` px.
        hidden: per clip `(T,)`, the object is wholly hidden.
        decoded: per clip frames and px.
        fps: frames per second.
        level: whose context state was read.
    """
    figure = _figure(2.9 * len(true) + 0.6, 3.0)
    for number, (axes, x) in enumerate(
        zip(figure.subplots(1, len(true), squeeze=False)[0], true, strict=True)
    ):
        seconds = np.arange(len(x)) / fps
        for frame in np.flatnonzero(hidden[number]):
            axes.axvspan((frame - 0.5) / fps, (frame + 0.5) / fps, color="0.85", linewidth=0)
        axes.plot(seconds, x, color=BLACK, label="true")
        frames, px = decoded[number]
        axes.plot(frames / fps, px, "o", color=RED, markersize=4, label=f"level {level} state")
        axes.set_xlabel("time, s")
        if number == 0:
            axes.set_ylabel("x in the image, px")
            axes.legend(fontsize=7)
    figure.suptitle("Where is the object? (grey: wholly hidden)", fontsize=10)
    return figure


def surprise_block(
    worlds: Tensor,
    curves: np.ndarray,
    event_seconds: Sequence[float],
    seconds: np.ndarray,
    title: str,
) -> Figure:
    """Surprise over time of the possible and impossible clips of one block, over its frames.

    Args:
        worlds: uint8 `(2, T, C, H, W)`, A and B.
        curves: `(4, steps)`, of AA, BB, AB, BA.
        event_seconds: when the impossible clips change worlds.
        seconds: `(steps,)`, the time at which each step ends.
        title: above the picture.
    """
    count = 10
    chosen = np.linspace(0, worlds.shape[1] - 1, count).astype(int)
    figure = _figure(11.0, 5.0)
    strips, plot = np.asarray(figure.subfigures(2, 1, height_ratios=[1, 1.5]))
    grid = strips.subplots(2, count)
    for row, name in enumerate("AB"):
        for column, frame in enumerate(chosen):
            _bare(grid[row, column])
            grid[row, column].imshow(as_image(worlds[row, frame]))
        grid[row, 0].set_ylabel(f"world {name}")
    axes = plot.subplots()
    _four_curves(axes, curves, event_seconds, seconds)
    axes.set(ylabel="surprise (distance of tokens)", title=title)
    axes.legend(fontsize=7)
    return figure


def _four_curves(
    axes: Any, curves: np.ndarray, event_seconds: Sequence[float], seconds: np.ndarray
) -> None:
    """Surprise of the possible and impossible clips of a block over time."""
    styles = (
        ("AA, possible", BLUE, "-"),
        ("BB, possible", SKY, "-"),
        ("AB, impossible", RED, "--"),
        ("BA, impossible", ORANGE, "--"),
    )
    for (label, colour, line), curve in zip(styles, curves, strict=True):
        axes.plot(seconds, curve, line, color=colour, label=label)
    for number, event in enumerate(event_seconds):
        axes.axvline(
            event,
            color=BLACK,
            linewidth=0.8,
            linestyle=":",
            label="change of worlds, hidden" if number == 0 else None,
        )
    axes.set_xlabel("time, s")
    axes.set_xlim(0, None)


def surprise_levels(
    curves: Sequence[np.ndarray],
    event_seconds: Sequence[float],
    seconds: Sequence[np.ndarray],
    titles: Sequence[str],
    heading: str,
) -> Figure:
    """Surprise over time of the four clips of one block, a panel for each level.

    Args:
        curves: per level `(4, steps)`, of AA, BB, AB, BA.
        event_seconds: when the impossible clips change worlds.
        seconds: per level `(steps,)`, the time at which each step ends.
        titles: above the panels.
        heading: above all of them.
    """
    figure = _figure(3.8 * len(curves), 3.2)
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for axes, values, times, title in zip(panels, curves, seconds, titles, strict=True):
        _four_curves(axes, values, event_seconds, times)
        axes.set_title(title, fontsize=9)
        axes.set_ylim(0, None)
    panels[0].set_ylabel("surprise (distance of tokens)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    figure.suptitle(heading, fontsize=10)
    return figure


def surprise_kinds(section: Mapping[str, Any]) -> Figure | None:
    """Relative accuracy of every kind with its interval, beside untrained networks and chance.

    Args:
        section: the report's `surprise`; None where it is absent.
    """
    if "absent" in section:
        return None
    kinds = list(section)
    figure = _figure(max(9.0, 1.05 * len(kinds)), 3.8)
    axes = figure.subplots()
    x = np.arange(len(kinds))
    score = np.array([section[kind]["relative_accuracy"] for kind in kinds])
    ci95 = np.array([section[kind]["ci95"] for kind in kinds])
    untrained = [section[kind]["null"]["untrained"] for kind in kinds]
    mean = np.array([null["mean"] for null in untrained])
    span = np.array([[null["low"], null["high"]] for null in untrained])

    def reach(middle: np.ndarray, ends: np.ndarray) -> np.ndarray:
        return np.clip(np.stack([middle - ends[:, 0], ends[:, 1] - middle]), 0, None)

    axes.bar(
        x - 0.2,
        score,
        0.4,
        color=BLUE,
        yerr=reach(score, ci95),
        capsize=3,
        label="model, 95 % interval",
    )
    axes.bar(
        x + 0.2,
        mean,
        0.4,
        color="0.7",
        yerr=reach(mean, span),
        capsize=3,
        label=f"{untrained[0]['num_networks']} untrained networks, their range",
    )
    for place, null in zip(x, untrained, strict=True):
        if null["biased"]:
            axes.annotate("not at\nchance", (place + 0.2, 0.02), ha="center", fontsize=6)
    axes.axhline(0.5, color=BLACK, linewidth=0.8, linestyle=":", label="chance")
    axes.set_xticks(
        x, [f"{kind}\n{section[kind]['num_blocks']} blocks" for kind in kinds], fontsize=8
    )
    axes.set(
        ylabel="relative accuracy",
        ylim=(0, 1.25),
        title=f"Impossible more surprising: {section[kinds[0]]['place']}",
    )
    axes.legend(fontsize=7, ncols=3, loc="upper center")
    return figure


def position_ahead(section: Mapping[str, Any]) -> Figure | None:
    """How far ahead the object's place can be read from each level's predictions.

    Args:
        section: the report's `position_ahead`; without any level there is nothing to show.
    """
    if not section:
        return None
    figure = _figure(6.4, 4.0)
    axes = figure.subplots()
    for number, (level, horizons) in enumerate(section.items()):
        entries = sorted(horizons.values(), key=lambda entry: entry["horizon_frames"])
        frames = [entry["horizon_frames"] for entry in entries]
        colour = LEVEL_COLOURS[number % len(LEVEL_COLOURS)]
        for line, marker, label, values in (
            ("-", "o", "predicted", [entry["mae_px"] for entry in entries]),
            (":", "x", "copied", [entry["null"]["copy"]["mae_px"] for entry in entries]),
            ("--", None, "real tokens", [entry["real_tokens"]["mae_px"] for entry in entries]),
        ):
            axes.plot(
                frames,
                values,
                line,
                marker=marker,
                markersize=4,
                color=colour,
                label=f"{level.replace('level', 'level ')}, {label}",
            )
    axes.set(
        xlabel="frames ahead",
        ylabel="mean error of the place, px",
        title="The object's place, read from predicted tokens",
    )
    axes.set_ylim(0, None)
    axes.legend(fontsize=7, ncols=len(section))
    return figure


def main_directions(tokens: Tensor, like: np.ndarray | None = None) -> np.ndarray:
    """Where tokens lie along their three main directions.

    Args:
        tokens: `(T, N, D)` of one clip.
        like: `(T N, 3)`, such as what this returned for the same clip earlier in training. Main
            directions come in any order and sign; of all rotations and mirrorings of the three that
            one is taken which is nearest to it.

    Returns:
        `(T N, 3)`, mean 0; zero where there are fewer than three directions.
    """
    flat = tokens.double().flatten(0, 1)
    centred = (flat - flat.mean(0)).numpy()
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    along = np.zeros((len(flat), 3))
    along[:, : min(3, len(directions))] = centred @ directions[:3].T
    if like is None:
        return along
    # Orthogonal Procrustes: the rotation that brings the two together best.
    left, _, right = np.linalg.svd(along.T @ (like - like.mean(0)))
    return along @ left @ right


def token_colours(
    tokens: Tensor, grid: tuple[int, int], along: np.ndarray | None = None
) -> np.ndarray:
    """Three main directions of tokens as red, green and blue.

    Args:
        tokens: `(T, N, D)` of one clip.
        grid: rows and columns of the N tokens.
        along: of `main_directions`, where they are known already.

    Returns:
        `(T, rows, columns, 3)`, 0 to 1; fewer than three directions leave a colour at one half.
    """
    along = main_directions(tokens) if along is None else along
    low, high = np.percentile(along, [2, 98], axis=0)
    spread = high - low
    colours = np.clip((along - low) / np.maximum(spread, 1e-9), 0, 1)
    colours[:, spread <= 1e-9] = 0.5
    return colours.reshape(len(tokens), *grid, 3)


def token_strip(
    frames: Tensor,
    tokens: Sequence[Tensor],
    grids: Sequence[tuple[int, int]],
    along: Sequence[np.ndarray] | None = None,
) -> Figure:
    """Frames of a clip over the tokens of each level, coloured by their three main directions.

    Args:
        frames: uint8 `(T, C, H, W)`.
        tokens: per level `(T_l, N_l, D_l)`.
        grids: per level rows and columns.
        along: per level what `main_directions` gave, where it is known already.
    """
    count = 8
    figure = _figure(11.0, 1.45 * (len(tokens) + 1))
    axes = figure.subplots(len(tokens) + 1, count)
    chosen = np.linspace(0, len(frames) - 1, count).astype(int)
    for column, frame in enumerate(chosen):
        axes[0, column].imshow(as_image(frames[frame]))
        axes[0, column].set_title(f"frame {frame}", fontsize=8)
    axes[0, 0].set_ylabel("frames")
    for level, (values, grid) in enumerate(zip(tokens, grids, strict=True)):
        colours = token_colours(values, grid, None if along is None else along[level])
        span = len(frames) // len(values)
        for column, frame in enumerate(chosen):
            axes[level + 1, column].imshow(colours[min(frame // span, len(values) - 1)])
        axes[level + 1, 0].set_ylabel(f"level {level}")
    for each in axes.flat:
        _bare(each)
    return figure
