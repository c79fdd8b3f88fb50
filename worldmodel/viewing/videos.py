"""Somebody's own video through a model: surprise, tokens and states, and what they are worth.

The numbers are those of `worldmodel surprise` and `worldmodel encode`, whose functions are called.
Beside them stand what untrained networks and the pixels alone would have said.
"""

import contextlib
import io
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from worldmodel.data.encode import encode_video
from worldmodel.data.shards import read_members, read_metadata
from worldmodel.data.video import open_video
from worldmodel.errors import InputError
from worldmodel.evaluation import figures
from worldmodel.evaluation.collapse import all_alike
from worldmodel.evaluation.figures import BLACK, BLUE, GREEN, RED
from worldmodel.evaluation.footage import find_samples
from worldmodel.evaluation.network import Network, Place, levels_of
from worldmodel.evaluation.videos.long_video import SurpriseCurve, surprise_over_video
from worldmodel.evaluation.videos.sampled_video import read_video
from worldmodel.evaluation.videos.video_figures import CUT_STYLE, tint
from worldmodel.evaluation.videos.video_surprise import (
    PEAKS_APART_SECONDS,
    QUARTILES_PER_SIGMA,
    combined_surprise,
    find_peaks,
    surprise_videos,
)
from worldmodel.evaluation.videos.video_tokens import EncodedVideo, encode_videos, load_tokens
from worldmodel.models.checkpoint import load_model
from worldmodel.viewing.canvas import FONT, canvas, plain
from worldmodel.viewing.folders import find_physics, project_folder

KIND = "reveal"
"""Of the block that the example is made of: the kind whose memory nothing else can stand in for."""
NUM_UNTRAINED = 5
MAX_PEAKS = 5
ENLARGED_PX = 256
"""Side of a peak's picture: a frame of 64 pixels would be tinted in cells too small to see."""
TINT_PERCENTILES = (60, 99.5)
SPLICE_STYLE: dict[str, Any] = {"color": BLACK, "linestyle": ":", "linewidth": 1.6}


@dataclass(frozen=True)
class Film:
    """A video to look at, and what is known of it.

    Attributes:
        path: the file.
        again_seconds: when the same scene begins for the second time; None of one's own video.
        splice_seconds: when the second time becomes impossible; None of one's own video.
    """

    path: Path
    again_seconds: float | None = None
    splice_seconds: float | None = None


def results_folder(start: Path | None = None) -> Path:
    """`runs/your-video` in the folder of the project, or here where there is none above.

    Args:
        start: folder to look from; the current one by default.
    """
    try:
        return project_folder(start) / "runs" / "your-video"
    except InputError:
        return (start or Path.cwd()).resolve() / "your-video"


def open_film(video: str | Path | None, out: Path) -> Film:
    """One's own video, or the example.

    Args:
        video: a file; None for a film of the physics world.
        out: where the example is written.

    Raises:
        InputError: there is no such file, or no set to make the example from.
    """
    if video is None:
        return example_film(find_physics(), out)
    if not Path(video).is_file():
        raise InputError(f"there is no video {video}; give the path of one, or None")
    return Film(Path(video))


def example_film(root: Path, out: Path) -> Film:
    """The same scene twice, as it can be and as it cannot: the first test block of `reveal`.

    World A from its beginning to its end; a cut; then A again, but world B from the moment on at
    which both show the same frames to the bit while the thing is hidden.

    Args:
        root: folder of a set of the physics world.
        out: folder for `twice.mp4`; made where missing.

    Raises:
        InputError: the set has no such block.
    """
    refs = [ref for ref in find_samples(root, "test", "blocks") if KIND in ref.key]
    if not refs:
        raise InputError(f"{root} has no {KIND} among its test blocks; `make data` makes some")
    metadata = read_metadata(refs[0])
    members = read_members(refs[0], ("a.mp4", "b.mp4"))
    worlds = []
    for world in "ab":
        video = open_video(members[f"{world}.mp4"])
        worlds.append(video.get_frames(list(range(int(metadata["num_frames"])))))
    splice, fps = int(metadata["splice_frames"][0]), float(metadata["fps"])
    first, second = worlds
    frames = np.concatenate([first, first[:splice], second[splice:]])
    out.mkdir(parents=True, exist_ok=True)
    path = out / "twice.mp4"
    content = encode_video(frames, fps)
    # Left alone where it is there: a file that is older than its tokens is not encoded again.
    if not path.is_file() or path.read_bytes() != content:
        path.write_bytes(content)
    return Film(path, len(first) / fps, (len(first) + splice) / fps)


@dataclass(frozen=True)
class Results:
    """What the two commands gave.

    Attributes:
        summary: of `worldmodel surprise`.
        folder: of its files.
        tokens: the file of `worldmodel encode`; `encoded` its content.
    """

    summary: dict[str, Any]
    folder: Path
    tokens: Path
    encoded: EncodedVideo


def run_commands(film: Film, checkpoint: str | Path, out: Path) -> Results:
    """`worldmodel surprise` and `worldmodel encode` on a film, without their progress bars.

    Both see whole frames, squeezed, so that their results are about the same pictures.

    Args:
        film: the video.
        checkpoint: of a model, or a shipped model's name.
        out: gets `surprise/`, and a folder for the tokens that is named after the model's hash, as
            tokens of two models do not lie in one folder.

    Raises:
        InputError: the video cannot be used.
    """
    tokens = out / f"tokens-{load_model(checkpoint).sha256[:8]}"
    with contextlib.redirect_stderr(io.StringIO()):
        (summary,) = surprise_videos(checkpoint, [str(film.path)], out / "surprise")
        (row,) = encode_videos(checkpoint, [str(film.path)], tokens, whole=True)
    file = tokens / row["file"]
    return Results(summary, Path(summary["folder"]), file, load_tokens(file))


@dataclass(frozen=True)
class Watched:
    """A film as a model, untrained networks and the pixels saw it.

    Attributes:
        film: the video.
        frames: uint8 `(T, size, size, 3)`, as the model saw them.
        seconds: `(T,)`, when they are shown; `fps` of them a second.
        cut_seconds: when new scenes begin.
        spans: frames per step of each level.
        curves: the model's surprise at each place.
        combined: `(T,)`, of all places, in typical spreads above typical; NaN where there is none.
        untrained: `(NUM_UNTRAINED, T)`, combined likewise, of networks with fresh weights.
        pixels: `(T,)`, mean change of a pixel since the frame before, on the same scale.
        halves: of the model and then of each untrained network: surprise at each place the first
            and the second time, each seen by itself; empty of one's own video.
    """

    film: Film
    frames: np.ndarray
    seconds: np.ndarray
    fps: float
    cut_seconds: list[float]
    spans: tuple[int, ...]
    curves: dict[Place, SurpriseCurve]
    combined: np.ndarray
    untrained: np.ndarray
    pixels: np.ndarray
    halves: list[tuple[dict[Place, SurpriseCurve], dict[Place, SurpriseCurve]]]


def watch(film: Film, checkpoint: str | Path, num_untrained: int = NUM_UNTRAINED) -> Watched:
    """Show a film to a model and to untrained networks of its architecture, on the CPU.

    The frames that it sees are held in memory: 350 MB for an hour at 8 a second of 64 pixels.

    Args:
        film: the video.
        checkpoint: of a model, or a shipped model's name.
        num_untrained: networks with fresh weights.

    Raises:
        InputError: the video cannot be used.
    """
    model, device = load_model(checkpoint), torch.device("cpu")
    with tempfile.TemporaryFile() as store, tqdm(disable=True) as bar:
        video = read_video(film.path, model.clip, store, bar)
        frames = np.array(video.frames)
    pictures = torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous()
    networks = [model.network, *(model.untrained(seed) for seed in range(num_untrained))]

    def see(network: Network, some: Tensor) -> dict[Place, SurpriseCurve]:
        return surprise_over_video(network, some, model.clip.num_frames, device)

    curves = [see(network, pictures) for network in networks]
    halves = []
    if film.again_seconds is not None:
        begins = int(np.searchsorted(video.seconds, film.again_seconds - 1e-6))
        halves = [(see(each, pictures[:begins]), see(each, pictures[begins:])) for each in networks]
    spans = tuple(level.span for level in levels_of(model.network))
    own, *others = (combined_surprise(each, spans, len(frames)) for each in curves)
    change = np.abs(np.diff(frames.astype(np.float32), axis=0)).mean((1, 2, 3))
    return Watched(
        film=film,
        frames=frames,
        seconds=video.seconds,
        fps=video.fps,
        cut_seconds=[float(video.seconds[cut]) for cut in video.cut_frames()],
        spans=spans,
        curves=curves[0],
        combined=own,
        untrained=np.array(others).reshape(num_untrained, len(frames)),
        pixels=np.r_[np.nan, in_spreads(change)],
        halves=halves,
    )


def in_spreads(values: np.ndarray) -> np.ndarray:
    """Values from their median, in units of their own typical spread, as `combined_surprise`."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return (values - middle) / ((high - low) / QUARTILES_PER_SIGMA or values.std() or 1.0)


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's, over the entries that both have; 0 where one of them never changes."""
    both = np.isfinite(one) & np.isfinite(other)
    if both.sum() < 2:
        return 0.0
    first, second = _ranks(one[both]), _ranks(other[both])
    if not first.std() or not second.std():
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0; equal values share the middle of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[place]


# --- What is drawn -------------------------------------------------------------------------------


def _mark(axes: Axes, watched: Watched) -> None:
    """Cuts, and where the example becomes impossible."""
    for number, cut in enumerate(watched.cut_seconds):
        axes.axvline(cut, label="scene cut" if number == 0 else None, **CUT_STYLE)
    if watched.film.again_seconds is not None:
        axes.axvline(watched.film.again_seconds, label="the scene once more", **CUT_STYLE)
    if watched.film.splice_seconds is not None:
        axes.axvline(watched.film.splice_seconds, label="worlds change, hidden", **SPLICE_STYLE)


def _top(watched: Watched, values: Sequence[np.ndarray]) -> float:
    """Upper end of an axis for curves of which the second around each cut may leave it."""
    calm = np.ones(len(watched.seconds), dtype=bool)
    for cut in watched.cut_seconds:
        calm &= np.abs(watched.seconds - cut - 0.4) > 0.6
    known = np.concatenate([each[..., calm].reshape(-1) for each in values])
    known = known[np.isfinite(known)]
    return 1.15 * float(known.max()) if len(known) else 1.0


def beside_nulls(watched: Watched) -> Figure:
    """The model's surprise over time, over that of untrained networks and the change of pixels."""
    figure = canvas(11.0, 4.6)
    axes = figure.subplots()
    seconds, own = watched.seconds, watched.combined
    if len(watched.untrained):
        middle = np.median(watched.untrained, axis=0)
        shared = np.median([rank_correlation(own, each) for each in watched.untrained])
        axes.fill_between(
            seconds,
            watched.untrained.min(0),
            watched.untrained.max(0),
            color="0.82",
            linewidth=0,
            label=f"{len(watched.untrained)} untrained networks, their range",
        )
        axes.plot(
            seconds,
            middle,
            color="0.45",
            linewidth=1.3,
            label=f"their median (rank correlation with the model {shared:.2f})",
        )
    shared = rank_correlation(own, watched.pixels)
    axes.plot(
        seconds,
        watched.pixels,
        "--",
        color=GREEN,
        linewidth=1.4,
        label=f"change of pixels (rank correlation {shared:.2f})",
    )
    axes.plot(seconds, own, color=BLUE, linewidth=2.2, label="model, all levels and horizons")
    _mark(axes, watched)
    lows = [each[np.isfinite(each)] for each in (own, watched.untrained, watched.pixels)]
    low = min((float(each.min()) for each in lows if each.size), default=0.0)
    axes.set_ylim(1.1 * min(low, 0), _top(watched, [own, watched.untrained, watched.pixels]))
    axes.set_xlim(0, float(seconds[-1]) + 1 / watched.fps)
    axes.set_xlabel("time, s", fontsize=FONT)
    axes.set_ylabel("typical spreads above typical", fontsize=FONT)
    plain(axes)
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=2,
        fontsize=FONT - 1,
        frameon=False,
    )
    return figure


def peak_frames(watched: Watched, place: Place | None = None) -> Figure:
    """The frames at the highest peaks, those they were predicted from, and where they surprise.

    Args:
        watched: the film.
        place: level and horizon; by default the farthest horizon of level 0.
    """
    place = place or max(found for found in watched.curves if found[0] == 0)
    curve = watched.curves[place]
    level, horizon = place
    reach = horizon * watched.spans[level]
    peaks = [
        int(np.argmin(np.abs(curve.frames - peak)))
        for peak in find_peaks(
            watched.combined, max(1, round(PEAKS_APART_SECONDS * watched.fps)), MAX_PEAKS
        )
    ]
    if not peaks:
        figure = canvas(11.0, 0.8)
        figure.text(0.5, 0.5, "no peak: nothing stands out in this video", ha="center")
        return figure
    figure = canvas(11.0, 6.4)
    low, high = np.percentile(curve.maps, TINT_PERCENTILES)
    columns = max(3, len(peaks))  # few would be larger than they are worth
    grid = figure.subplots(3, columns)
    for column, step in enumerate(peaks):
        frame = int(curve.frames[step])
        before, now = (_enlarged(watched.frames[n]) for n in (max(frame - reach, 0), frame))
        share = np.clip((curve.maps[step] - low) / max(high - low, 1e-12), 0, 1)
        for row, picture in enumerate((before, now, tint(now, share))):
            grid[row, column].imshow(picture)
        starts = [*watched.cut_seconds, watched.film.again_seconds]
        near = [
            cut for cut in starts if cut is not None and 0 <= watched.seconds[frame] - cut < 1.5
        ]
        grid[0, column].set_title(
            f"{watched.seconds[frame]:.2f} s" + (", after a cut" if near else ""),
            fontsize=FONT,
        )
    for row, label in enumerate(("predicted from", "what came", "where it surprised")):
        grid[row, 0].set_ylabel(label, fontsize=FONT)
    for number, axes in enumerate(grid.flat):
        axes.set(xticks=[], yticks=[])
        if number % columns >= len(peaks):
            axes.set_visible(False)
    figure.suptitle(f"level {level}, {reach / watched.fps:.2f} s ahead", fontsize=FONT + 1)
    return figure


def _enlarged(frame: np.ndarray) -> np.ndarray:
    times = max(1, ENLARGED_PX // frame.shape[0])
    return frame.repeat(times, 0).repeat(times, 1)


def same_twice(watched: Watched) -> Figure | None:
    """The example's two halves over each other, and their difference beside untrained networks'.

    Each half is seen by itself, so that nothing but the frames makes a difference. Above, surprise
    of each level at its farthest horizon, both times. Below, how much more the second time
    surprises, summed from the beginning, over all surprise of the first time: the last value says
    which of the two surprised more. None for one's own video.
    """
    again, splice = watched.film.again_seconds, watched.film.splice_seconds
    if again is None or splice is None:
        return None
    own, *others = watched.halves
    figure = canvas(11.0, 6.0)
    grid = figure.subplots(2, len(watched.spans), squeeze=False, sharex=True, sharey="row")
    for level in range(len(watched.spans)):
        above, below = grid[:, level]
        place = max(found for found in own[0] if found[0] == level)
        first, second = own[0][place], own[1][place]
        seconds = watched.seconds[first.frames]
        above.plot(seconds, first.values, "o-", markersize=4, color=BLUE, label="as it can be")
        above.plot(seconds, second.values, "s-", markersize=4, color=RED, label="as it cannot")
        for number, (one, other) in enumerate(others):
            label = "untrained networks" if number == 0 else None
            below.plot(seconds, summed_gain(one[place], other[place]), color="0.7", label=label)
        gain = summed_gain(first, second)
        below.plot(seconds, gain, "o-", markersize=4, color=BLUE, linewidth=2, label="model")
        below.axhline(0, color="0.3", linewidth=0.9)
        for axes in (above, below):
            axes.axvline(splice - again, label="worlds change, hidden", **SPLICE_STYLE)
            plain(axes)
        ahead = place[1] * watched.spans[level] / watched.fps
        above.set_title(f"level {level}, {ahead:g} s ahead", fontsize=FONT + 1)
        below.set_xlabel("time in the scene, s", fontsize=FONT)
    grid[0, 0].set_ylim(0, None)
    grid[0, 0].set_ylabel("surprise\n(distance of tokens)", fontsize=FONT)
    grid[1, 0].set_ylabel("second minus first time, summed\n÷ sum of the first", fontsize=FONT)
    for row in grid:
        row[-1].legend(fontsize=FONT - 1, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def summed_gain(first: SurpriseCurve, second: SurpriseCurve) -> np.ndarray:
    """How much more the second surprised up to each step, over all surprise of the first."""
    total = float(first.values.sum())
    return np.cumsum(second.values - first.values) / (total or 1.0)


def token_strip(watched: Watched, encoded: EncodedVideo, grids: Sequence[Any]) -> Figure:
    """Eight moments of the film over the tokens of each level, their main directions as colours.

    Args:
        watched: the film.
        encoded: what `worldmodel encode` wrote of it.
        grids: rows and columns of each level's tokens.
    """
    frames = torch.from_numpy(watched.frames).permute(0, 3, 1, 2)
    tokens = [torch.from_numpy(level) for level in encoded.tokens]
    figure = figures.token_strip(frames, tokens, [tuple(grid) for grid in grids])
    count = len(figure.axes) // (len(tokens) + 1)
    for column in range(count):
        number = round(column * (len(frames) - 1) / (count - 1))
        figure.axes[column].set_title(f"{watched.seconds[number]:.1f} s", fontsize=FONT)
    return figure


def similarity(watched: Watched, encoded: EncodedVideo) -> Figure:
    """Which moments are alike: cosines of all pairs of moments, of pixels and of each level.

    Above tokens, which see their own step alone, below context states, which remember. Each is
    measured from its mean over the film.

    Args:
        watched: the film.
        encoded: what `worldmodel encode` wrote of it.
    """
    count = len(encoded.tokens)
    figure = canvas(11.0, 5.6)
    grid = figure.subplots(2, count + 1)
    flat = watched.frames.reshape(len(watched.frames), -1)
    panels = [("pixels", grid[0, 0], flat, watched.seconds)]
    for level in range(count):
        for row, name in enumerate(("tokens", "context")):
            values = getattr(encoded, name)[level]
            label = "tokens" if name == "tokens" else "states"
            panels.append(
                (f"level {level} {label}", grid[row, level + 1], values, encoded.seconds[level])
            )
    shown: Any = None
    end = float(watched.seconds[-1])
    for title, axes, values, seconds in panels:
        rows = values.reshape(len(values), -1)
        shown = axes.imshow(
            cosines(rows),
            cmap="RdBu_r",
            vmin=-1,
            vmax=1,
            extent=(0, end, end, 0),
            interpolation="nearest",
        )
        axes.set_title(title + (": all equal" if all_alike(rows) else ""), fontsize=FONT)
        for cut in (*watched.cut_seconds, watched.film.again_seconds):
            if cut is not None:
                axes.axvline(cut, color=BLACK, linewidth=0.9, linestyle="--")
                axes.axhline(cut, color=BLACK, linewidth=0.9, linestyle="--")
        axes.tick_params(labelsize=FONT - 2)
        assert len(seconds) == len(values)
    grid[1, 0].set_visible(False)
    for axes in grid[1, 1:]:
        axes.set_xlabel("time, s", fontsize=FONT)
    for axes in (grid[0, 0], grid[1, 1]):
        axes.set_ylabel("time, s", fontsize=FONT)
    grid[0, 0].set_xlabel("time, s", fontsize=FONT)
    figure.colorbar(shown, ax=list(grid.flat), shrink=0.7, label="cosine")
    return figure


def cosines(rows: np.ndarray) -> np.ndarray:
    """Cosines between all pairs of rows, each from the rows' mean; 0 where a row is the mean.

    All are 0 where rows differ by no more than rounding.

    Args:
        rows: `(T, F)`.

    Returns:
        float64 `(T, T)`.
    """
    if all_alike(rows):
        return np.zeros((len(rows), len(rows)))
    centred = rows.astype(np.float64) - rows.mean(0, dtype=np.float64)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = np.divide(centred, norms, out=np.zeros_like(centred), where=norms > 0)
    return np.clip(unit @ unit.T, -1, 1)
