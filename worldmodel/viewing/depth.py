"""Depth read from single frames, depth over time, and whether a moving camera teaches it."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure, FigureBase
from torch import Tensor

from worldmodel.errors import InputError
from worldmodel.evaluation.figures import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    as_image,
    read_metrics,
)
from worldmodel.evaluation.footage import Footage, find_samples, read_footage, read_samples
from worldmodel.evaluation.measure import evenly
from worldmodel.evaluation.network import (
    CHUNK,
    Network,
    levels_of,
    one_thread,
    pad_chunk,
    run_chunk,
)
from worldmodel.evaluation.passes import Pace, run_pass
from worldmodel.evaluation.probes.depth import (
    MEAN,
    PIXELS,
    Case,
    DepthClip,
    DepthPlan,
    DepthProbes,
    DepthSamples,
    Reading,
    fit_depth,
    take_depth,
)
from worldmodel.evaluation.probes.depth_metrics import NUM_SUMS, cell_sums
from worldmodel.evaluation.scores import bootstrap_groups
from worldmodel.models.checkpoint import ClipSpec, LoadedModel, load_model
from worldmodel.viewing.canvas import bare, canvas

CPU = torch.device("cpu")
# Of the report's 650 training and 200 validation clips. The shipped model's rmse is .4502 m with
# these and .4505 m with all of them.
NUM_CLIPS = {"train": 300, "val": 100, "test": 200}
# Shares of cameras that move in each way, as in the question `cameras` of configs/ablation.yaml.
MOVES = ("pan", "dolly", "orbit", "handheld")
CAMERAS = {"standing": 0.0, "moving": 0.25}
"""Name of a training set -> share of its cameras that move in each of four ways."""
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


# --- Reading --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WatchDepth:
    """Keeps of clips what depth probes read; may be called in any process.

    Attributes:
        networks: by name, of equal levels.
        plan: which frames are asked.
        past: context states too, which have seen the frames before.
    """

    networks: Mapping[str, Network]
    plan: DepthPlan
    past: bool = False

    def __call__(self, clips: Sequence[Footage]) -> list[DepthClip]:
        """Of at most `CHUNK` clips."""
        frames = [clip.frames for clip in clips]
        values: dict[str, dict[str, list[Tensor]]] = {}
        for name, network in self.networks.items():
            if self.past:
                tokens, context, _ = run_chunk(network, frames, CPU)
                values[name] = {"tokens": tokens[:1], "context": context[:1]}
            else:  # what is not asked for need not be predicted
                with torch.no_grad():
                    tokens = network.encode(pad_chunk(frames, CHUNK))
                values[name] = {"tokens": [tokens[0][: len(frames)]]}
        return take_depth(self.plan, clips, values)


@dataclass(frozen=True)
class DepthReadings:
    """Probes of several networks and the test clips that they are asked about.

    Attributes:
        probes: fitted on training clips, strengths chosen on validation clips.
        clips: of the test split, at the frames of the probes' plan.
        sums: per case `(num_clips, frames, 2, NUM_SUMS)`, over all cells of a frame and over those
            of objects.
    """

    probes: DepthProbes
    clips: Sequence[DepthClip]
    sums: Mapping[Case, np.ndarray]

    def rmse(
        self,
        case: Case,
        objects: bool = False,
        moving: bool | None = None,
        frame: int | None = None,
    ) -> tuple[float, list[float]]:
        """Root mean squared error in metres, and its 95 % interval over clips.

        Args:
            case: whose.
            objects: over the cells of objects alone.
            moving: of clips whose camera moves, or stands; None for all.
            frame: a place in the plan's frames; None for all of them.

        Raises:
            InputError: no such cells.
        """
        chosen = [moving is None or clip.moving_camera is moving for clip in self.clips]
        sums = self.sums[case][chosen, :, int(objects), :2]
        rows = sums.sum(1) if frame is None else sums[:, frame]
        if not rows[:, 0].sum():
            raise InputError("no test clip shows such cells; take more test clips")
        interval = bootstrap_groups(
            rows[:, 1], rows[:, 0], np.arange(len(rows)), lambda a, b: np.sqrt(a / b)
        )
        return float(np.sqrt(rows[:, 1].sum() / rows[:, 0].sum())), interval

    def gain(self, case: Case, other: Case) -> tuple[float, list[float]]:
        """By how many metres of rmse a case is better than another, on the same clips.

        Returns:
            The difference, above 0 where `case` is better, and its 95 % interval over clips.
        """
        mine, theirs = (self.sums[each][:, :, 0, :2].sum(1) for each in (case, other))
        rows = np.random.default_rng(0).integers(0, len(mine), size=(2000, len(mine)))
        rows[0] = np.arange(len(mine))

        def rmse(sums: np.ndarray) -> np.ndarray:
            return np.sqrt(sums[rows, 1].sum(1) / sums[rows, 0].sum(1))

        difference = rmse(theirs) - rmse(mine)
        low, high = np.percentile(difference[1:], [2.5, 97.5])
        return float(difference[0]), [float(low), float(high)]

    def frames(self, count: int) -> list[tuple[int, int]]:
        """Clip and frame of `count` test frames, evenly spread over all."""
        per_clip = len(self.probes.plan.frames)
        chosen = np.linspace(0, len(self.clips) * per_clip - 1, count).astype(int)
        return [divmod(int(number), per_clip) for number in chosen]


def read_depth(
    networks: Mapping[str, Network],
    clip: ClipSpec,
    root: Path,
    past: bool = False,
    conv: bool = True,
    counts: Mapping[str, int] | None = None,
    pace: Pace | None = None,
) -> DepthReadings:
    """Fit depth probes on a set's training clips and ask them about its test clips.

    Args:
        networks: by name, all of the same levels; probes of each are fitted.
        clip: the clips that they see.
        root: folder of a set of the physics world.
        past: probes of context states too.
        conv: small convolutions too, which take most of the fitting.
        counts: clips of each split, evenly spread; `NUM_CLIPS` by default.
        pace: of passes over clips; changes no number.

    Raises:
        InputError: the set lacks clips.
    """
    counts = NUM_CLIPS if counts is None else counts
    levels = levels_of(next(iter(networks.values())))
    plan = DepthPlan.of(levels, clip.num_frames)
    watch = WatchDepth(networks, plan, past)
    kept = {}
    for split in ("train", "val", "test"):
        refs = evenly(find_samples(root, split, "clips"), counts[split])
        parts = run_pass(
            refs, partial(read_footage, clip=clip), watch, CHUNK, CPU, pace or Pace(quiet=True)
        )
        kept[split] = [one for part in parts for one in part]
    learn, choose = (DepthSamples(len(kept[split])) for split in ("train", "val"))
    learn.add(kept["train"])
    choose.add(kept["val"])
    probes = fit_depth(plan, learn, choose, conv=conv)
    return DepthReadings(probes, kept["test"], _sums(probes, kept["test"]))


@one_thread()
def _sums(probes: DepthProbes, clips: Sequence[DepthClip]) -> dict[Case, np.ndarray]:
    sums = {}
    for case in (*probes.probes, MEAN):
        rows = []
        for clip in clips:
            guess = probes.maps(case, clip)
            rows.append(
                [
                    [cell_sums(guess[n], clip.metres[n], cells[n]) for cells in _cells(clip)]
                    for n in range(len(guess))
                ]
            )
        sums[case] = np.array(rows).reshape(len(clips), len(probes.plan.frames), 2, NUM_SUMS)
    return sums


def _cells(clip: DepthClip) -> tuple[np.ndarray, np.ndarray]:
    return clip.hit, clip.objects


def readers(readings: DepthReadings) -> dict[str, Case]:
    """A name for each probe that was fitted on all training clips, nulls last."""
    named = {}
    for case in readings.probes.probes:
        if case.percent == 100 and case.reading.network not in ("untrained", "pixels"):
            more = ", convolution" if case.head == "conv" else ""
            more += ", with the past" if case.reading.source == "context" else ""
            named[case.reading.network + more] = case
    return named | {"untrained": Case(Reading("untrained")), "pixels": Case(PIXELS), "mean": MEAN}


# --- A clip in which the camera moves -------------------------------------------------------------


@dataclass(frozen=True)
class DepthFilm:
    """Depth at every frame of one clip, each read from that frame's tokens alone.

    Attributes:
        key: of its sample.
        frames: uint8 `(T, C, H, W)`.
        seconds: `(T,)`.
        metres: `(T, rows, columns)`, true.
        hit: `(T, rows, columns)`, the cell shows a surface.
        guesses: by name of a reader, metres of the same shape.
        travelled: `(T,)` metres that the camera has moved since the first frame.
    """

    key: str
    frames: Tensor
    seconds: np.ndarray
    metres: np.ndarray
    hit: np.ndarray
    guesses: Mapping[str, np.ndarray]
    travelled: np.ndarray

    def rmse(self, name: str) -> np.ndarray:
        """Metres, per frame `(T,)`."""
        square = ((self.guesses[name] - self.metres) ** 2) * self.hit
        return np.sqrt(square.sum((1, 2)) / np.maximum(self.hit.sum((1, 2)), 1))


def travelled(clip: Footage) -> np.ndarray:
    """Metres that a clip's camera has moved since its first frame, `(T,)`."""
    place = clip.truth.state["camera_pose"][:, :, 3].astype(np.float64)
    steps = np.linalg.norm(np.diff(place, axis=0), axis=1)
    return np.concatenate([[0.0], steps.cumsum()])


def farthest_camera(clip: ClipSpec, root: Path) -> Footage:
    """The test clip whose camera travels farthest: chosen without asking any network.

    Raises:
        InputError: the set has no test clips.
    """
    clips = read_samples(find_samples(root, "test", "clips"), clip, blocks=False)
    return max(clips, key=lambda each: float(travelled(each)[-1]))


def film_depth(
    readings: DepthReadings, networks: Mapping[str, Network], clip: Footage, fps: float
) -> DepthFilm:
    """Ask the probes about every frame of one clip.

    Args:
        readings: with probes of `networks`.
        networks: by name.
        clip: any.
        fps: frames per second of the clip.
    """
    count = len(clip.frames)
    span = levels_of(next(iter(networks.values())))[0].span
    ends = range(span - 1, count, span)
    steps = (tuple(range(len(ends))), *(() for _ in readings.probes.plan.steps[1:]))
    plan = replace(readings.probes.plan, frames=tuple(ends), steps=steps)
    (taken,) = WatchDepth(networks, plan)([clip])
    chosen = {
        name: case
        for name, case in readers(readings).items()
        if case.head == "linear" and case.reading.source != "context"
    }
    return DepthFilm(
        clip.key,
        clip.frames[list(ends)],
        np.array(ends) / fps,
        taken.metres.astype(np.float64),
        taken.hit,
        {name: readings.probes.maps(case, taken) for name, case in chosen.items()},
        travelled(clip)[list(ends)],
    )


# --- Does motion teach depth? ---------------------------------------------------------------------


def make_cameras(
    root: Path, num_clips: int = 240, size: int = 64, seed: int = 5
) -> dict[str, Path]:
    """Two sets of clips that differ in their cameras alone; what is there already stays.

    Args:
        root: folder in which they are made, as `physics-standing` and `physics-moving`.
        num_clips: training clips of each.
        size: pixels a side.
        seed: other than that of any set that is measured on.

    Returns:
        Their folders by name: `standing`, all cameras stand; `moving`, all move.
    """
    from worldmodel.world.generate import generate  # a renderer that most viewers never need
    from worldmodel.world.style import Mix

    folders = {}
    for name, share in CAMERAS.items():
        folders[name] = root / f"physics-{name}"
        mix = Mix(**dict.fromkeys(MOVES, share))
        # A notebook would keep every step of the progress bar.
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            generate(folders[name], num_clips, num_blocks=0, size=size, seed=seed, mix=mix)
    return folders


def fit_command(config: Path, shards: Path, name: str, num_steps: int, out: Path) -> list[str]:
    """The command that trains on one set: `worldmodel fit`, shorter than the configuration says.

    Args:
        config: YAML of a run.
        shards: folder of the set.
        name: of the run.
        num_steps: optimizer steps.
        out: folder of `runs/`.
    """
    return [
        *(sys.executable, "-m", "worldmodel", "fit", "--config", str(config), "--name", name),
        *("--data.shards", str(shards / "train" / "clips-*.tar")),
        *("--trainer.max_steps", str(num_steps), "--trainer.default_root_dir", str(out)),
        *("--trainer.enable_progress_bar", "false"),
    ]


def train_beside(commands: Mapping[str, Sequence[str]], folder: Path, out: Path) -> dict[str, Path]:
    """Run trainings at the same time, each with its share of the cores.

    Args:
        commands: of `fit_command`, by name of the run.
        folder: in which they run: where the configuration's relative paths lead.
        out: the folder of their `runs/`; a log of each goes there.

    Returns:
        The last checkpoint of each.

    Raises:
        InputError: a training failed; with the end of what it said.
    """
    out.mkdir(parents=True, exist_ok=True)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = str(max(1, (cores or 1) // len(commands)))
    environment = os.environ | {"OMP_NUM_THREADS": threads}
    running = {}
    for name, command in commands.items():
        with (out / f"{name}.log").open("w", encoding="utf-8") as log:
            running[name] = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
    codes = {name: process.wait() for name, process in running.items()}
    found = {}
    for name, code in codes.items():
        log_path = out / f"{name}.log"
        checkpoints = sorted(
            out.glob(f"runs/{name}/*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime
        )
        if code or not checkpoints:
            said = log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise InputError(
                f"the training {name} ended with {code}: {' '.join(said[-2:])[-400:]}; all that it "
                f"said is in {log_path}"
            )
        found[name] = checkpoints[-1]
    return found


def train_cameras(
    sets: Mapping[str, Path], project: Path, num_steps: int = 120
) -> dict[str, LoadedModel]:
    """Train the same configuration for as many steps on each set, all at the same time.

    Args:
        sets: folders by name.
        project: of `project_folder`; runs go to its `build/cameras/`, where nothing takes them for
            the newest run.
        num_steps: optimizer steps of each.

    Returns:
        The trained models by name.

    Raises:
        InputError: a training failed.
    """
    out = project / "build" / "cameras"
    commands = {
        name: fit_command(project / "configs" / "tiny.yaml", folder, name, num_steps, out)
        for name, folder in sets.items()
    }
    checkpoints = train_beside(commands, project, out)
    return {name: load_model(path) for name, path in checkpoints.items()}


@dataclass(frozen=True)
class Learned:
    """How a training went.

    Attributes:
        steps, loss: `(n,)`, optimizer steps and the loss of their batches.
        copy_ratio: per level the error at its longest horizon over that of a copy, when it was last
            measured on a training batch.
    """

    steps: np.ndarray
    loss: np.ndarray
    copy_ratio: Sequence[float]


def learned(model: LoadedModel) -> Learned:
    """Read a run's `metrics.csv`.

    Args:
        model: loaded from a checkpoint of `worldmodel fit`, beside whose folder the file lies.

    Raises:
        InputError: the run left no metrics.
    """
    path = model.file.parent.parent / "metrics.csv"
    columns = read_metrics(path)
    ratios = [f"train/level{number}/copy_ratio" for number in range(len(model.network.levels))]
    lacking = [column for column in ("train/loss", *ratios) if column not in columns]
    if lacking:
        raise InputError(f"{path} has no {', '.join(lacking)}: train longer")
    steps, loss = columns["train/loss"]
    return Learned(steps + 1, loss, [float(columns[column][1][-1]) for column in ratios])


def study_depths(page: Path) -> dict[str, float]:
    """What the study of the recipe found, from its table in `docs/recipe.md`.

    Returns:
        rmse in metres: `standing`, `moving`, `one in five moves` (the default) and `untrained`.

    Raises:
        InputError: the page has no such table.
    """
    wanted = {
        "all training cameras stand": "standing",
        "all training cameras move": "moving",
        "**default**, three seeds": "one in five moves",
        "untrained network, or trivial predictor": "untrained",
    }
    found: dict[str, float] = {}
    column = None
    for line in page.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if "depth, rmse m" in cells:
            column = cells.index("depth, rmse m")
        elif column is not None and len(cells) > column and cells[0] in wanted:
            found[wanted[cells[0]]] = float(cells[column].split()[0])
    if len(found) < len(wanted):
        lacking = sorted(set(wanted.values()) - found.keys())
        raise InputError(f"{page} has no table with depth of {', '.join(lacking)}")
    return {name: found[name] for name in wanted.values()}


# --- Figures --------------------------------------------------------------------------------------


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
    figure.suptitle(
        f"Depth of single test frames, and rmse over all {len(readings.clips)} test clips",
        fontsize=10,
    )
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
