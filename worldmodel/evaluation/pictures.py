"""Which examples the report shows: chosen by rule, never by how well they look."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from worldmodel.evaluation import figures
from worldmodel.evaluation.depth import DepthProbe, DepthSamples, as_map
from worldmodel.evaluation.footage import Block
from worldmodel.evaluation.network import Place
from worldmodel.evaluation.objects import Decoder, ObjectSamples
from worldmodel.evaluation.surprise import BlockScores, splice_frames

NUM_FRAMES = 6
NUM_CLIPS = 4


@dataclass(frozen=True)
class Shown:
    """What pictures are made of, all from the test split.

    Attributes:
        depth: single frames; `depth_probe` reads them.
        objects: event clips; `decoders` read them, by `visible` and `hidden`.
        blocks: with `scores` in the same order.
    """

    depth: DepthSamples
    depth_probe: DepthProbe
    objects: ObjectSamples
    decoders: Mapping[str, Decoder | None]
    blocks: Sequence[Block]
    scores: BlockScores


def depth_figure(samples: DepthSamples, probe: DepthProbe) -> Figure:
    """`NUM_FRAMES` frames evenly spread over the split."""
    metres, _, _ = samples.truth()
    chosen = np.linspace(0, len(metres) - 1, NUM_FRAMES).astype(int)
    probed = probe(samples.features("model"))
    return figures.depth_strip(
        torch.cat(samples.frames)[chosen],
        as_map(metres[chosen], samples.grid),
        as_map(probed[chosen], samples.grid),
    )


def position_figure(
    objects: ObjectSamples, decoders: Mapping[str, Decoder | None]
) -> Figure | None:
    """The `NUM_CLIPS` clips in which the object is hidden longest, of equals the first."""
    decoder = decoders["hidden"] or decoders["visible"]
    if decoder is None or not objects.tracks:
        return None
    lengths = [-int(track.hidden.sum()) for track in objects.tracks]
    chosen = np.argsort(lengths, kind="stable")[:NUM_CLIPS]
    ends = objects.ends(decoder.level)
    states = objects.states("model", decoder.level)
    decoded = []
    for clip in chosen:
        shown = (objects.tracks[clip].hidden | objects.tracks[clip].visible)[ends]
        decoded.append((ends[shown], decoder.probe(states[clip][torch.from_numpy(shown)])[:, 0]))
    tracks = [objects.tracks[clip] for clip in chosen]
    # Where the object has left the image its place is nothing anyone could know.
    true = [np.where(track.inside, track.position[:, 0], np.nan) for track in tracks]
    hidden = [track.hidden for track in tracks]
    return figures.hidden_position(true, hidden, decoded, objects.fps, decoder.level)


def block_figure(
    blocks: Sequence[Block], scores: BlockScores, place: Place, span: int, fps: float
) -> Figure:
    """The first `reveal` block of the split, or else the first block, at the headline's place."""
    kinds = [block.kind for block in blocks]
    number = kinds.index("reveal") if "reveal" in kinds else 0
    block, curves = blocks[number], scores.curves[place][number]
    level, horizon = place
    steps = np.arange(curves.shape[1]) + horizon
    splices = splice_frames(block.windows, 1) or ()
    return figures.surprise_block(
        block.frames,
        curves,
        [frame / fps for frame in splices],
        ((steps + 1) * span - 1) / fps,
        f"{block.key}: level {level}, {horizon} steps ({horizon * span / fps:g} s) ahead",
    )


def write_pictures(folder: Path, report: Mapping[str, Any], shown: Shown, metrics: Path) -> None:
    """Write all pictures of a report.

    Args:
        folder: where to; made where missing.
        report: its sections.
        shown: what they are made of.
        metrics: the run's `metrics.csv`; without one there are no loss curves.
    """
    headline = report["surprise"]["overall"]
    place = headline["level"], headline["horizon"]
    spans, fps = shown.objects.spans, shown.objects.fps
    pictures = {
        "loss_curves": figures.loss_curves(metrics),
        "prediction_ratios": figures.prediction_ratios(report["prediction"]),
        "depth_strip": depth_figure(shown.depth, shown.depth_probe),
        "hidden_position": position_figure(shown.objects, shown.decoders),
        "surprise_block": block_figure(shown.blocks, shown.scores, place, spans[place[0]], fps),
        "surprise_kinds": figures.surprise_kinds(report["surprise"]),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in pictures.items():
        if figure is not None:
            # No date and no version inside: the same report gives the same bytes.
            figure.savefig(folder / f"{name}.png", metadata={"Software": None})
