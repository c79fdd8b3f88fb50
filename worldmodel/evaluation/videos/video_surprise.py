"""Surprise over time on anybody's videos: numbers, curves, and the video with a map over it.

A video is read at the rate of the model's clips and each frame is scaled, whole, to the square that
the model sees; a wide picture is squeezed. What surprises is compared with the same frames in
other orders: backwards, shuffled, and shuffled in blocks of one step of the slowest level, so that
what every step shows stays possible. A copy predictor finds shuffled frames surprising as well, so
its ratios stand beside the model's; only where the model's ratio exceeds the copy's (`over_copy`)
does it rest on how things go on more than copying does. Below 1, what the model gains over copying
it gains in any order, as by predicting something near the mean.

Scene cuts surprise every predictor. They are marked, not taken out.
"""

import contextlib
import csv
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import av
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from worldmodel.data.journal import Source, read_json, write_json
from worldmodel.data.sources import find_sources
from worldmodel.errors import InputError
from worldmodel.evaluation.collapse import all_alike
from worldmodel.evaluation.network import Network, Place, levels_of
from worldmodel.evaluation.videos.long_video import (
    SurpriseCurve,
    join_curves,
    plan_windows,
    stream_surprise,
)
from worldmodel.evaluation.videos.recorder import Recorder
from worldmodel.evaluation.videos.rerun_file import RERUN_NAME, import_rerun
from worldmodel.evaluation.videos.sampled_video import SampledVideo, read_video, walk_pictures
from worldmodel.evaluation.videos.video_figures import (
    CHECK_TITLES,
    MAX_COLUMNS,
    Annotator,
    Peak,
    Timeline,
    check_ratios,
    surprise_over_time,
)
from worldmodel.models.checkpoint import LoadedModel, load_model

SUMMARY_NAME = "summary.json"
NUM_RESAMPLES = 2000
# Fewer segments say nothing about how much they differ.
MIN_SEGMENTS = 3
# Quartiles of a normal distribution are 1.349 standard deviations apart.
QUARTILES_PER_SIGMA = 1.349
# A peak is a frame at least this many typical spreads above typical.
PEAK_HEIGHT = 1.0
PEAKS_APART_SECONDS = 1.0


def combined_surprise(
    curves: Mapping[Place, SurpriseCurve], spans: Sequence[int], num_frames: int
) -> np.ndarray:
    """One curve for all places, `(num_frames,)`; NaN where a place has no prediction.

    Errors of different levels have different units and sizes. Each curve is therefore measured from
    its median over the video in units of its own spread, the distance of its quartiles as standard
    deviations of a normal distribution; a few great surprises, such as cuts, change neither. Then
    come the mean over each level's horizons and the mean over levels, so that none counts more for
    having more of them. What is typical of this video is 0: values of two videos do not compare.

    Args:
        curves: of each place.
        spans: frames per step of each level; a step's value holds for all of its frames.
        num_frames: frames T of the video.
    """
    by_level: dict[int, list[np.ndarray]] = {}
    for (level, _), curve in curves.items():
        low, middle, high = np.percentile(curve.values, [25, 50, 75])
        spread = (high - low) / QUARTILES_PER_SIGMA or curve.values.std() or 1.0
        if all_alike(curve.values[:, None]):  # rounding would look like surprise
            spread = np.inf
        held = np.full(num_frames, np.nan)
        for back in range(spans[level]):
            held[curve.frames - back] = (curve.values - middle) / spread
        by_level.setdefault(level, []).append(held)
    return np.mean([np.mean(held, axis=0) for held in by_level.values()], axis=0)


def find_peaks(values: np.ndarray, apart: int, count: int) -> list[int]:
    """The highest local maxima above `PEAK_HEIGHT`, in order of time.

    The first value is none: what comes down from the start has little past to be predicted from.

    Args:
        values: `(T,)`; NaN where there is none.
        apart: entries that lie at least between two of them.
        count: at most so many.
    """
    known = np.where(np.isnan(values), -np.inf, values)
    before, after = np.roll(known, 1), np.roll(known, -1)
    before[np.isneginf(before)], after[-1:] = np.inf, -np.inf
    before[:1] = np.inf
    is_top = (known >= before) & (known >= after) & (known >= PEAK_HEIGHT)
    chosen: list[int] = []
    for number in sorted(np.flatnonzero(is_top).tolist(), key=lambda i: (-known[i], i)):
        if len(chosen) < count and all(abs(number - other) >= apart for other in chosen):
            chosen.append(number)
    return sorted(chosen)


def other_orders(num_frames: int, block: int, seed: int) -> dict[str, np.ndarray]:
    """Orders in which the frames of a video are shown for comparison.

    Args:
        num_frames: frames T of the video.
        block: frames that stay together in `shuffled_blocks`; what fills none stays at the end.
        seed: of the shuffling.

    Returns:
        Name -> `(T,)`, which frame comes at each place.
    """
    generator = np.random.default_rng(seed)
    frames = np.arange(num_frames)
    whole = num_frames - num_frames % block
    blocks = frames[:whole].reshape(-1, block)
    mixed = blocks[generator.permutation(len(blocks))].reshape(-1)
    return {
        "backwards": frames[::-1].copy(),
        "shuffled_blocks": np.concatenate([mixed, frames[whole:]]),
        "shuffled": generator.permutation(num_frames),
    }


@dataclass(frozen=True)
class _Sums:
    """Sums over the steps that end in each segment of the video, `(num_segments,)`."""

    model: np.ndarray
    copy: np.ndarray
    steps: np.ndarray

    @classmethod
    def of(cls, curve: SurpriseCurve, order: np.ndarray, segment: int) -> "_Sums":
        """Sums for frames shown in some order; steps count where their last frame comes from."""
        where = order[curve.frames] // segment
        count = (len(order) - 1) // segment + 1

        def total(values: np.ndarray | None) -> np.ndarray:
            return np.bincount(where, values, count).astype(np.float64)

        return cls(total(curve.values), total(curve.copied), total(None))

    def means(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean over the steps of some segments, `(R, n)` -> `(R,)`: model's and copy's."""
        steps = self.steps[rows].sum(1)
        return self.model[rows].sum(1) / steps, self.copy[rows].sum(1) / steps


_RATIO_KEYS = (("ratio", "ci95"), ("copy_ratio", "copy_ci95"), ("over_copy", "over_copy_ci95"))


def compare_orders(
    forward: SurpriseCurve, other: SurpriseCurve, order: np.ndarray, segment: int, seed: int
) -> dict[str, Any]:
    """Mean surprise of frames shown in another order over that of the true one.

    Args:
        forward: of the video as it is.
        other: of its frames in `order`.
        order: `(T,)`, which frame comes at each place.
        segment: frames of the consecutive stretches of the video that are resampled.
        seed: of the resampling.

    Returns:
        `ratio` of the model, `copy_ratio` of the copy predictor and `over_copy`, the first over the
        second, each with the percentile interval of a bootstrap over segments; None where there is
        nothing to divide by or there are fewer than `MIN_SEGMENTS` segments.
    """
    sums = (
        _Sums.of(other, order, segment),
        _Sums.of(forward, np.arange(len(order)), segment),
    )
    segments = np.flatnonzero(sums[0].steps + sums[1].steps)
    generator = np.random.default_rng(seed)
    rows = segments[generator.integers(0, len(segments), size=(NUM_RESAMPLES, len(segments)))]
    with np.errstate(divide="ignore", invalid="ignore"):
        once, resampled = (_ratios(*sums, chosen) for chosen in (segments[None], rows))
    result: dict[str, Any] = {}
    for (name, interval), one, many in zip(_RATIO_KEYS, once, resampled, strict=True):
        found = many[np.isfinite(many)]
        known = bool(np.isfinite(one[0]))
        enough = known and len(segments) >= MIN_SEGMENTS and len(found) > 0
        result[name] = float(one[0]) if known else None
        result[interval] = np.percentile(found, [2.5, 97.5]).tolist() if enough else None
    return result | {"num_steps": len(other.frames), "num_segments": len(segments)}


def _ratios(other: _Sums, forward: _Sums, rows: np.ndarray) -> tuple[np.ndarray, ...]:
    (model, copy), (model_forward, copy_forward) = other.means(rows), forward.means(rows)
    ratio, copied = model / model_forward, copy / copy_forward
    return ratio, copied, ratio / copied


def choose_shown(places: Iterable[Place], place: Place | None) -> Place:
    """The place whose map is shown: the one that was asked for, by default the farthest of level 0.

    The lowest level has the finest map, and its farthest prediction is the least about how much
    moves at all.

    Raises:
        InputError: the one that was asked for is not among them.
    """
    known = sorted(places)
    if place is None:
        return max(found for found in known if found[0] == known[0][0])
    if place not in known:
        listed = ", ".join(f"{level}.{horizon}" for level, horizon in known)
        raise InputError(
            f"there is no prediction at level {place[0]}, horizon {place[1]}; level.horizon may be "
            f"{listed}"
        )
    return place


def write_mp4(path: Path, pictures: Iterator[np.ndarray], fps: float) -> None:
    """Encode pictures uint8 `(H, W, 3)` of even sides as H.264, one at a time.

    The file appears whole or not at all.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with av.open(str(partial), "w", format="mp4", options={"movflags": "faststart"}) as out:
            rate = Fraction(fps).limit_denominator(1001)
            stream = out.add_stream("libx264", rate, options={"preset": "veryfast", "crf": "20"})
            stream.pix_fmt = "yuv420p"
            stream.codec_context.thread_count = 1  # with more, the bytes depend on the machine
            for number, picture in enumerate(pictures):
                if number == 0:
                    stream.height, stream.width = picture.shape[:2]
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = number, 1 / rate
                out.mux(stream.encode(frame))
            out.mux(stream.encode())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A csv file, whole or not at all."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    os.replace(partial, path)


def _table_rows(
    curves: Mapping[Place, SurpriseCurve], video: SampledVideo
) -> Iterator[Sequence[Any]]:
    for (level, horizon), curve in curves.items():
        for frame, value, copied in zip(curve.frames, curve.values, curve.copied, strict=True):
            seconds = round(float(video.seconds[frame]), 6)
            yield seconds, int(video.indices[frame]), level, horizon, float(value), float(copied)


def _combined_rows(combined: np.ndarray, video: SampledVideo) -> Iterator[Sequence[Any]]:
    for frame in np.flatnonzero(~np.isnan(combined)):
        seconds = round(float(video.seconds[frame]), 6)
        yield seconds, int(video.indices[frame]), float(combined[frame])


def _by_place(entries: Mapping[Place, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """`level0` -> `h1` -> what is known of that place."""
    nested: dict[str, dict[str, Any]] = {}
    for (level, horizon), entry in entries.items():
        nested.setdefault(f"level{level}", {})[f"h{horizon}"] = entry
    return nested


def _mean_surprise(
    curves: Mapping[Place, SurpriseCurve], timeline: Timeline
) -> dict[str, dict[str, Any]]:
    entries: dict[Place, dict[str, Any]] = {}
    for place, curve in curves.items():
        copied = float(curve.copied.mean())
        entries[place] = {
            "ahead_seconds": timeline.ahead_seconds(place),
            "mean": float(curve.values.mean()),
            "copy_mean": copied,
            "copy_ratio": float(curve.values.mean()) / copied if copied > 0 else None,
            "num_steps": len(curve.frames),
        }
    return _by_place(entries)


@dataclass(frozen=True)
class Measured:
    """What is known of a video once the model has seen it.

    Attributes:
        video: as the model saw it.
        timeline: of it.
        curves: surprise of each place.
        combined: of all places, `(T,)`; `peaks` are frames among these.
        shown: the place whose map is shown.
        checks: other orders of the frames against the true one.
    """

    video: SampledVideo
    timeline: Timeline
    curves: dict[Place, SurpriseCurve]
    combined: np.ndarray
    peaks: list[int]
    shown: Place
    checks: dict[str, dict[str, Any]]

    def is_after_cut(self, frame: int) -> bool:
        """Whether a prediction for this frame reached over a cut."""
        reach = max((horizon + 1) * self.timeline.spans[level] for level, horizon in self.curves)
        return any(0 <= frame - cut < reach for cut in self.video.cut_frames())


class _Job:
    """One model on one video after another."""

    def __init__(
        self,
        model: LoadedModel,
        device: torch.device,
        place: Place | None,
        seed: int,
        recorder: Recorder | None = None,
    ) -> None:
        self.network: Network = model.network
        self.clip, self.sha256 = model.clip, model.sha256
        self.device, self.place, self.seed = device, place, seed
        self.recorder = recorder
        levels = levels_of(model.network)
        self.spans = tuple(level.span for level in levels)
        self.plan = plan_windows(levels, self.clip.num_frames)

    def run(self, source: Source, folder: Path, bar: Any) -> dict[str, Any]:
        """Measure a video and write everything into its folder; returns the summary."""
        started = time.monotonic()
        with tempfile.TemporaryFile(dir=folder) as store:
            measured = self.measure(source.path, store, bar)
            if self.recorder is not None:
                self.recorder.record(
                    source,
                    measured.video,
                    measured.curves,
                    measured.combined,
                    folder / RERUN_NAME,
                )
        pictures = draw_video(folder / "annotated.mp4", source, measured, bar)
        write_curves(folder, source, measured, pictures)
        seconds = round(time.monotonic() - started, 2)
        summary = self.describe(source, measured) | {"folder": str(folder), "seconds": seconds}
        write_json(folder / SUMMARY_NAME, summary)
        return summary

    def measure(self, path: Path, store: IO[bytes], bar: Any) -> Measured:
        """Everything that is computed."""
        video = read_video(path, self.clip, store, bar, passes=len(CHECK_TITLES) + 2)
        num_frames = len(video.indices)
        curves = self.score(video, np.arange(num_frames), bar)
        shown = choose_shown(curves, self.place)
        cuts = tuple(float(video.seconds[cut]) for cut in video.cut_frames())
        combined = combined_surprise(curves, self.spans, num_frames)
        apart_seconds = max(PEAKS_APART_SECONDS, float(video.seconds[-1]) / 20)
        peaks = find_peaks(combined, max(1, round(apart_seconds * video.fps)), MAX_COLUMNS)
        timeline = Timeline(video.seconds, 1 / video.fps, self.spans, cuts)
        checks = self.check(curves, video, bar)
        return Measured(video, timeline, curves, combined, peaks, shown, checks)

    def score(self, video: SampledVideo, order: np.ndarray, bar: Any) -> dict[Place, SurpriseCurve]:
        """Surprise at every place over the video's frames in some order."""

        def counted() -> Iterator[Tensor]:
            for frame in video.in_order(order):
                bar.update()
                yield frame

        return join_curves(
            stream_surprise(self.network, counted(), self.clip.num_frames, self.device)
        )

    def check(
        self, forward: Mapping[Place, SurpriseCurve], video: SampledVideo, bar: Any
    ) -> dict[str, dict[str, Any]]:
        """Each other order of the frames against the true one, by place."""
        segment = max(1, self.plan.window // 2)
        checks = {}
        for name, order in other_orders(len(video.indices), max(self.spans), self.seed).items():
            curves = self.score(video, order, bar)
            checks[name] = _by_place(
                {
                    place: compare_orders(forward[place], curves[place], order, segment, self.seed)
                    for place in forward
                }
            )
        return checks

    def describe(self, source: Source, measured: Measured) -> dict[str, Any]:
        """The summary of one video."""
        video = measured.video
        return {
            "video": str(source.path),
            "name": source.name,
            "checkpoint_sha256": self.sha256,
            "seed": self.seed,
            "source": {
                "fps": video.source_fps,
                "num_frames": video.num_source_frames,
                "cut_seconds": list(measured.timeline.cut_seconds),
            },
            "seen": {
                "fps": video.fps,
                "model_fps": self.clip.fps,
                "num_frames": len(video.indices),
                "size": self.clip.size,
                "window_frames": self.plan.window,
            },
            "shown": {"level": measured.shown[0], "horizon": measured.shown[1]},
            "surprise": _mean_surprise(measured.curves, measured.timeline),
            "peaks": [
                {
                    "time_seconds": float(video.seconds[peak]),
                    "combined": float(measured.combined[peak]),
                    "after_cut": measured.is_after_cut(peak),
                }
                for peak in measured.peaks
            ],
            "checks": measured.checks,
        }


def draw_video(path: Path, source: Source, measured: Measured, bar: Any) -> dict[int, np.ndarray]:
    """Write the annotated video; returns the frames at the peaks as they are, by number."""
    video, shown = measured.video, measured.shown
    annotator = Annotator(measured.curves[shown], shown, measured.timeline, video.size, source.name)
    kept: dict[int, np.ndarray] = {}

    def pictures() -> Iterator[np.ndarray]:
        for number, picture in enumerate(walk_pictures(source.path, video)):
            if number in measured.peaks:
                kept[number] = picture
            bar.update()
            yield annotator.draw(picture, number)

    write_mp4(path, pictures(), video.fps)
    return kept


def write_curves(
    folder: Path, source: Source, measured: Measured, pictures: Mapping[int, np.ndarray]
) -> None:
    """Write the tables and figures of one video."""
    video, curves, combined = measured.video, measured.curves, measured.combined
    peaks = [
        Peak(
            float(video.seconds[peak]),
            float(combined[peak]),
            pictures[peak],
            measured.is_after_cut(peak),
        )
        for peak in measured.peaks
    ]
    title = f"Surprise over time: {source.name}"
    figures = {
        "surprise.png": surprise_over_time(curves, combined, measured.timeline, peaks, title),
        "checks.png": check_ratios(measured.checks),
    }
    for name, figure in figures.items():
        figure.savefig(folder / name)
    time_and_frame = ("time_seconds", "frame")
    header = (*time_and_frame, "level", "horizon", "surprise", "copy")
    write_table(folder / "surprise.csv", header, _table_rows(curves, video))
    combined_header = (*time_and_frame, "combined")
    write_table(folder / "combined.csv", combined_header, _combined_rows(combined, video))


def surprise_videos(
    checkpoint: str | Path,
    videos: Sequence[str],
    out: Path,
    place: Place | None = None,
    device: torch.device | None = None,
    seed: int = 0,
    rerun: bool = False,
    probes: str | Path | None = None,
) -> list[dict[str, Any]]:
    """Measure a model's surprise over time on videos; results go to a folder for each.

    Videos that cannot be used are named and passed over.

    Args:
        checkpoint: a checkpoint of `worldmodel fit`.
        videos: folders (searched to the bottom), files or globs.
        out: `OUT/<name of the video>/` gets `surprise.csv`, `combined.csv`, `surprise.png`,
            `checks.png`, `annotated.mp4` and `summary.json`.
        place: level and horizon whose map is shown; by default the farthest horizon of level 0.
        device: where the model runs; a GPU where there is one by default.
        seed: of shuffling and bootstrap.
        rerun: write `surprise.rrd` as well, for the Rerun viewer.
        probes: `probes.safetensors` of the model's report, or the folder it lies in, from which the
            recording has depth and belief; by default the one beside the model, if there is any.

    Returns:
        The summaries of the videos that could be used, by name.

    Raises:
        InputError: no such checkpoint, video or place, probes that cannot be read or are another
            model's, `out` cannot be written, a file that was named by itself cannot be used, or
            none can. Results of the others are there.
    """
    if rerun:
        import_rerun()  # before anything is computed
    elif probes is not None:
        raise InputError("probes are read for the Rerun viewer alone: add --rerun")
    model = load_model(checkpoint)
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.network.to(device)
    sources, named = find_sources(videos)
    recorder = Recorder.of(model, device, probes) if rerun else None
    job = _Job(model, device, place, seed, recorder)
    choose_shown(job.plan.places, place)
    if recorder is not None and recorder.probes is None:
        tqdm.write(f"no depth and no belief: {recorder.missing}", file=sys.stderr)
    summaries, failed = [], {}
    for source in sources:
        folder = folder_for(Path(out), source)
        with tqdm(unit="frame", desc=source.key[-30:], dynamic_ncols=True) as bar:
            try:
                summaries.append(job.run(source, folder, bar))
            except InputError as error:
                failed[source.path] = str(error)
                bar.write(f"skipped {source.name}: {error}")
                with contextlib.suppress(OSError):  # earlier results lie there
                    folder.rmdir()
            except OSError as error:
                raise InputError(f"cannot write to {folder}: {error.strerror or error}") from error
    check_failed(failed, named, len(sources))
    return summaries


def check_failed(failed: Mapping[Path, str], named: Sequence[Path], num_videos: int) -> None:
    """Refuse where no video could be used, or one that was named by itself could not.

    Args:
        failed: why, by absolute path.
        named: files that were given one by one.
        num_videos: of all that were meant.

    Raises:
        InputError: so it is.
    """
    if failed and len(failed) == num_videos:
        first, reason = next(iter(failed.items()))
        raise InputError(f"none of {num_videos} videos could be used; first {first.name}: {reason}")
    for path in named:
        if path.resolve() in failed:
            raise InputError(
                f"{path} could not be used: {failed[path.resolve()]}; "
                f"{num_videos - len(failed)} of {num_videos} videos could"
            )


def folder_for(out: Path, source: Source) -> Path:
    """Where a video's results go, made where missing; never where another video's are.

    Raises:
        InputError: it cannot be made.
    """
    folder, number = out / source.key, 1
    try:
        out.mkdir(parents=True, exist_ok=True)
        while (summary := read_json(folder / SUMMARY_NAME)) is not None:
            if summary.get("video") == str(source.path):
                break
            number += 1
            folder = out / f"{source.key}_{number}"
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror or error}") from error
    return folder
