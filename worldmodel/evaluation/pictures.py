"""Which examples the report shows: chosen by rule, never by how well they look."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from worldmodel.evaluation import figures
from worldmodel.evaluation.card_figure import card_figure
from worldmodel.evaluation.footage import Block
from worldmodel.evaluation.network import Place
from worldmodel.evaluation.probes.depth_scores import (
    DepthPictures,
)
from worldmodel.evaluation.probes.observe import CONTEXT
from worldmodel.evaluation.probes.samples import Samples
from worldmodel.evaluation.probes.stored import StoredProbes
from worldmodel.evaluation.probes.whereabouts import Whereabouts
from worldmodel.evaluation.surprise import BlockScores, Choice, splice_frames

NUM_CLIPS = 4


@dataclass(frozen=True)
class HiddenClip:
    """A clip whose tracked object is hidden for a time, and where a probe says that it is.

    Attributes:
        key: of its sample.
        true: `(T,)` px, x of its centre, NaN outside of the image: nothing anyone could know.
        hidden: `(T,)`.
        frames: at which the probe was asked, `decoded` what it said, px.
        level: whose context state it read.
    """

    key: str
    true: np.ndarray
    hidden: np.ndarray
    frames: np.ndarray
    decoded: np.ndarray
    level: int

    @classmethod
    def of(cls, key: str, samples: Samples, number: int, found: Whereabouts) -> "HiddenClip":
        """One of some clips; nothing is decoded where there is no probe."""
        track = samples.tracks[number]
        true = np.where(track.inside, track.position[:, 0], np.nan)
        name = "hidden" if "hidden" in found.levels else "visible"
        level = found.levels.get(name, 0)
        ends = samples.ends(level)
        shown = (track.hidden | track.visible | track.partly)[ends]
        decoded = np.zeros(0)
        if name in found.levels:
            states = samples.states(CONTEXT, level)[number][torch.from_numpy(shown)]
            decoded = found.probes[name, CONTEXT, level](states)[:, 0]
        return cls(key, true, track.hidden, ends[shown][: len(decoded)], decoded, level)

    @classmethod
    def longest(cls, clips: Sequence["HiddenClip"]) -> list["HiddenClip"]:
        """The `NUM_CLIPS` in which the object is hidden longest, of equals the first."""
        return sorted(clips, key=lambda clip: -int(clip.hidden.sum()))[:NUM_CLIPS]


@dataclass(frozen=True)
class Shown:
    """What pictures are made of, all from the test split.

    Attributes:
        depth: single frames with true and probed maps.
        hidden: clips of `HiddenClip.longest`.
        blocks: the one to show, if any; `scores` of all blocks.
        choice: where the headline is; None where nothing is predicted.
        spans: frames per step of each level.
        fps: frames per second.
        probes: those of the headlines, with which other videos can be read; None where there are
            none.
    """

    depth: DepthPictures
    hidden: Sequence[HiddenClip]
    blocks: Sequence[Block]
    scores: BlockScores
    choice: Choice | None
    spans: Sequence[int]
    fps: float
    probes: StoredProbes | None = None


def position_figure(shown: Shown) -> Figure | None:
    """Where the object is said to be while nothing of it can be seen."""
    clips = [clip for clip in shown.hidden if len(clip.decoded)]
    if not clips:
        return None
    return figures.hidden_position(
        [clip.true for clip in clips],
        [clip.hidden for clip in clips],
        [(clip.frames, clip.decoded) for clip in clips],
        shown.fps,
        clips[0].level,
    )


def block_figure(block: Block, scores: BlockScores, place: Place, span: int, fps: float) -> Figure:
    """Surprise over time on the four clips of a block.

    Args:
        block: one of those that were scored.
        scores: of a model on some blocks.
        place: level and horizon.
        span: frames per step of that level.
        fps: frames per second.
    """
    level, horizon = place
    curves = scores.curves[place][scores.keys.index(block.key)]
    steps = np.arange(curves.shape[1]) + horizon
    splices = splice_frames(block.windows, 1) or ()
    return figures.surprise_block(
        block.frames,
        curves,
        [frame / fps for frame in splices],
        ((steps + 1) * span - 1) / fps,
        f"{block.key}: level {level}, {horizon} steps ({horizon * span / fps:g} s) ahead",
    )


def shown_block(shown: Shown) -> Figure | None:
    """The block of the report, at the single place that did best on validation."""
    if not shown.blocks or shown.choice is None:
        return None
    place = shown.choice.place
    return block_figure(shown.blocks[0], shown.scores, place, shown.spans[place[0]], shown.fps)


def write_pictures(folder: Path, report: Mapping[str, Any], shown: Shown, metrics: Path) -> None:
    """Write all pictures of a report.

    Args:
        folder: where to; made where missing.
        report: its sections.
        shown: what they are made of.
        metrics: the run's `metrics.csv`; without one there are no loss curves.
    """
    depth = shown.depth
    pictures = {
        "report_card": card_figure(report["card"]),
        "loss_curves": figures.loss_curves(metrics),
        "prediction_ratios": figures.prediction_ratios(report.get("prediction", {})),
        "depth_strip": figures.depth_strip(depth.frames, depth.true, depth.probed),
        "hidden_position": position_figure(shown),
        "surprise_block": shown_block(shown),
        "surprise_kinds": figures.surprise_kinds(report["surprise"]),
        "position_ahead": figures.position_ahead(report.get("position_ahead", {})),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in pictures.items():
        path = folder / f"{name}.png"
        if figure is None:
            # One of an earlier report would pass for one of this.
            path.unlink(missing_ok=True)
        else:
            # No date and no version inside: the same report gives the same bytes.
            figure.savefig(path, metadata={"Software": None})
