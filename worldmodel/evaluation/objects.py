"""Where is the object, how does it move, is it still there? Probes on context states.

A step's context state has seen everything up to the last frame of the step; the truth it is asked
for is that of this frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from worldmodel.clips import Truth
from worldmodel.evaluation.footage import Block, Footage
from worldmodel.evaluation.nulls import Sightings, clock_features, sightings
from worldmodel.evaluation.probes import (
    LinearProbe,
    MlpProbe,
    auroc,
    bootstrap_groups,
    fit_ridge,
    mean_distance,
    r2_interval,
    r2_score,
)

VISIBLE_FRACTION = 0.3
MAX_SCREENS = 2
# Fewer rows than this say nothing, and a probe cannot be fitted to them.
MIN_ROWS = 20
PERMANENCE_KINDS = ("permanence", "reveal", "continuity")
Rows = tuple[Tensor, np.ndarray, np.ndarray]
"""Features `(n, F)`, targets `(n, K)`, clip of each row `(n,)`."""


@dataclass(frozen=True)
class Track:
    """The tracked object of one clip, frame by frame.

    Attributes:
        position: `(T, 2)` px, x and y of its centre, also when hidden.
        inside: `(T,)` it exists and its centre is in the image.
        visible: `(T,)` more than `VISIBLE_FRACTION` of it can be seen and its centre is in the
            image.
        hidden: `(T,)` none of it can be seen, though its centre is in the image.
        screens: `(T, S, 4)` boxes of the screens as shares of the frame.
    """

    position: np.ndarray
    inside: np.ndarray
    visible: np.ndarray
    hidden: np.ndarray
    screens: np.ndarray


def is_present(truth: Truth) -> bool:
    """Whether the tracked object exists in this world."""
    tracked = int(truth.state["tracked"])
    return tracked >= 0 and bool(truth.state["present"][tracked] > 0)


def track_of(truth: Truth) -> Track:
    """Follow the tracked object; never visible or hidden where there is none."""
    frames, height, width = truth.depth.shape
    state = truth.state
    screens = state["slab_box"] / np.array([width, height, width, height])
    # What stands behind a screen, such as a stopper, would tell where the object is.
    screens = screens[:, state["slab_screen"] > 0]
    if not is_present(truth):
        nowhere = np.zeros(frames, dtype=bool)
        return Track(np.zeros((frames, 2)), nowhere, nowhere, nowhere, screens)
    tracked = int(state["tracked"])
    position = state["image_position"][:, tracked].astype(np.float64)
    inside = np.all((position >= 0) & (position < [width, height]), axis=1)
    fraction, area = state["visible_fraction"][:, tracked], state["amodal_area"][:, tracked]
    return Track(
        position,
        inside,
        inside & (fraction > VISIBLE_FRACTION),
        inside & (fraction == 0) & (area > 0),
        screens,
    )


@dataclass
class ObjectSamples:
    """Event clips of one split: truth of the tracked object and context states of several networks.

    Attributes:
        spans: frames per step of each level.
        fps: frames per second of the clips.
        tracks: per clip.
        behind: per clip `(T,)`: the tracked object, where it exists, is wholly behind the screen.
        present: per clip: it exists.
        context: per network and level `(n, T_l, N_l * W_l)`.
    """

    spans: Sequence[int]
    fps: float
    tracks: list[Track] = field(default_factory=list)
    behind: list[np.ndarray] = field(default_factory=list)
    present: list[bool] = field(default_factory=list)
    context: dict[str, list[list[Tensor]]] = field(default_factory=dict)
    _known: dict[int, list[Sightings]] = field(default_factory=dict)

    def add_truth(self, clips: Sequence[Footage]) -> list[int]:
        """Take in the event clips among some clips and return their places there."""
        places = [n for n, clip in enumerate(clips) if int(clip.truth.state["tracked"]) >= 0]
        for place in places:
            clip = clips[place]
            self.tracks.append(track_of(clip.truth))
            self.present.append(bool(clip.metadata.get("present", is_present(clip.truth))))
            behind = np.zeros(len(clip.frames), dtype=bool)
            if clip.metadata["kind"] in PERMANENCE_KINDS and "hidden_frames" in clip.metadata:
                start, stop = clip.metadata["hidden_frames"]
                source = np.arange(len(clip.frames)) * clip.frame_stride
                behind = (source >= start) & (source < stop)
            self.behind.append(behind)
        return places

    def add_context(self, network: str, context: Sequence[Tensor], places: Sequence[int]) -> None:
        """Take in a network's context states `(n, T_l, N_l, W_l)` of the clips at `places`."""
        levels = self.context.setdefault(network, [[] for _ in self.spans])
        for level, states in enumerate(context):
            if places:
                levels[level].append(states[list(places)].flatten(2))

    def states(self, network: str, level: int) -> Tensor:
        """All context states of a level, `(n, T_l, N_l * W_l)`."""
        levels = self.context[network]
        # Joined once: level 0 of a few hundred clips is some 200 MB.
        levels[level] = [torch.cat(levels[level])]
        return levels[level][0]

    def ends(self, level: int) -> np.ndarray:
        """The last frame of each step of a level."""
        span = self.spans[level]
        return np.arange(len(self.behind[0]) // span) * span + span - 1

    def sightings(self, level: int) -> list[Sightings]:
        """What could be written down of each clip's object without a model."""
        if len(self._known.get(level, [])) != len(self.tracks):
            span = self.spans[level]
            self._known[level] = [
                sightings(track.position, track.visible, span) for track in self.tracks
            ]
        return self._known[level]

    def mask(self, part: str, level: int) -> np.ndarray:
        """Steps `(n, T_l)` that count as `visible`, `hidden`, `moving` or `behind`.

        Visible and hidden only where the object was seen before, so that all nulls have a place to
        start from; moving where it is visible now and one frame before.
        """
        if not self.tracks:
            return np.zeros((0, 0), dtype=bool)
        if part == "behind":
            wanted = np.stack(self.behind)
        elif part == "moving":
            visible = np.stack([track.visible for track in self.tracks])
            wanted = np.zeros_like(visible)
            wanted[:, 1:] = visible[:, 1:] & visible[:, :-1]
        else:
            seen = np.stack([known.seen for known in self.sightings(level)])
            wanted = seen & np.stack([getattr(track, part) for track in self.tracks])
        return wanted[:, self.ends(level)]

    def targets(self, part: str, level: int) -> np.ndarray:
        """What the probe of a part must say at each step, `(n, T_l, K)`."""
        if part == "behind":
            sign = np.where(self.present, 1.0, -1.0)[:, None, None]
            return np.broadcast_to(sign, (len(sign), len(self.ends(level)), 1))
        position = np.stack([track.position for track in self.tracks])
        if part == "moving":
            position = np.diff(position, axis=1, prepend=position[:, :1]) * self.fps
        return position[:, self.ends(level)]

    def rows(self, network: str, part: str, level: int) -> Rows:
        """Features, targets and clips of all steps of a part."""
        mask = self.mask(part, level)
        clips, steps = np.nonzero(mask)
        if not len(clips):
            return torch.zeros(0, 1), np.zeros((0, 1)), clips
        states = self.states(network, level)[torch.from_numpy(mask)]
        return states, self.targets(part, level)[clips, steps], clips

    def clock(self, part: str, level: int) -> tuple[Tensor, np.ndarray]:
        """Clock features and targets of all steps of a part."""
        mask = self.mask(part, level)
        frames, ends = len(self.behind[0]), self.ends(level)
        features = np.stack(
            [clock_features(frames, track.screens, MAX_SCREENS)[ends] for track in self.tracks]
        )
        return torch.from_numpy(features[mask]), self.targets(part, level)[mask]


Splits = tuple[ObjectSamples, ObjectSamples, ObjectSamples]
"""Training, validation and test clips."""


@dataclass(frozen=True)
class Decoder:
    """The linear probe that validation chose, and the level it reads."""

    level: int
    probe: LinearProbe


def choose_decoder(
    splits: Splits, network: str, part: str, levels: Sequence[int]
) -> Decoder | None:
    """Fit a probe on every level and keep the one with the best r2 on validation clips.

    None where a split has too few rows to fit or to choose.
    """
    best, chosen = -np.inf, None
    for level in levels:
        train, val, test = (split.rows(network, part, level) for split in splits)
        if min(len(train[1]), len(val[1]), len(test[1])) < MIN_ROWS:
            continue
        probe, _ = fit_ridge(train[:2], val[:2])
        score = r2_score(probe(val[0]), val[1])
        if score > best:
            best, chosen = score, Decoder(level, probe)
    return chosen


def absent(reason: str) -> dict[str, str]:
    """A section that could not be measured, and why."""
    return {"absent": reason}


def position_section(splits: Splits, part: str, seed: int) -> tuple[dict, Decoder | None]:
    """`position.visible` or `position.hidden`, and the decoder behind it.

    Args:
        splits: with the context states of the networks `model` and `untrained`.
        part: visible or hidden.
        seed: of the small MLP.
    """
    test = splits[2]
    decoder = choose_decoder(splits, "model", part, range(len(test.spans)))
    if decoder is None:
        return absent(f"fewer than {MIN_ROWS} steps with the tracked object {part}"), None
    level = decoder.level
    states, true, clips = test.rows("model", part, level)
    train, val = (split.rows("model", part, level)[:2] for split in splits[:2])

    def scores(predicted: np.ndarray) -> dict[str, float]:
        return {"r2": r2_score(predicted, true), "mae_px": mean_distance(predicted, true)}

    predicted = decoder.probe(states)
    mask, ends = test.mask(part, level), test.ends(level)
    known = test.sightings(level)
    untrained = choose_decoder(splits, "untrained", part, [level])
    assert untrained is not None, "the untrained network has the same rows as the model"
    clock = fit_ridge(splits[0].clock(part, level), splits[1].clock(part, level))[0]
    section = {
        **scores(predicted),
        "ci95_r2": r2_interval(predicted, true, clips),
        "num_frames": len(true),
        "num_clips": len(np.unique(clips)),
        "level": level,
        "mlp": scores(MlpProbe(train, val, hidden=64, seed=seed)(states)),
        "null": {
            "untrained": scores(untrained.probe(test.rows("untrained", part, level)[0])),
            "copy_last_seen": scores(np.stack([each.last for each in known])[:, ends][mask]),
            "constant_velocity": scores(
                np.stack([each.extrapolated for each in known])[:, ends][mask]
            ),
            "clock": scores(clock(test.clock(part, level)[0])),
        },
    }
    return section, decoder


def velocity_section(splits: Splits) -> dict:
    """`velocity`: px/s of the visible tracked object in the image, over the last two frames."""
    decoder = choose_decoder(splits, "model", "moving", range(len(splits[2].spans)))
    if decoder is None:
        return absent(f"fewer than {MIN_ROWS} steps with the tracked object visible")
    level = decoder.level
    states, true, clips = splits[2].rows("model", "moving", level)
    predicted = decoder.probe(states)
    untrained = choose_decoder(splits, "untrained", "moving", [level])
    assert untrained is not None, "the untrained network has the same rows as the model"
    guess = untrained.probe(splits[2].rows("untrained", "moving", level)[0])
    return {
        "r2": r2_score(predicted, true),
        "mae_px_per_second": mean_distance(predicted, true),
        "ci95_r2": r2_interval(predicted, true, clips),
        "num_frames": len(true),
        "num_clips": len(np.unique(clips)),
        "level": level,
        "null": {
            "untrained": {
                "r2": r2_score(guess, true),
                "mae_px_per_second": mean_distance(guess, true),
            }
        },
    }


@dataclass(frozen=True)
class HiddenWorlds:
    """Pairs of worlds, one with and one without the object, while their frames are equal.

    Attributes:
        present: per block, whether the object exists in A and in B.
        windows: per block `(T,)`, frames equal to the bit in both.
        context: per network and level `(num_blocks, 2, T_l, F)`.
        spans: frames per step of each level.
    """

    present: np.ndarray
    windows: np.ndarray
    context: dict[str, list[Tensor]]
    spans: Sequence[int]

    def rows(self, network: str, level: int) -> Rows:
        """Context states of both worlds at the steps that end in a window; targets +1 and -1."""
        span = self.spans[level]
        states = self.context[network][level]
        ends = np.arange(states.shape[2]) * span + span - 1
        differ = self.present[:, 0] != self.present[:, 1]
        blocks, steps = np.nonzero(self.windows[:, ends] & differ[:, None])
        pairs = states[blocks, :, steps]
        sign = np.where(self.present[blocks], 1.0, -1.0)
        return pairs.flatten(0, 1), sign.reshape(-1, 1), np.repeat(blocks, 2)


def hidden_windows(block: Block) -> np.ndarray:
    """`(T,)`, frames of a block that lie in one of its windows."""
    inside = np.zeros(block.frames.shape[1], dtype=bool)
    for start, stop in block.windows:
        inside[start:stop] = True
    return inside


def permanence_section(train: ObjectSamples, val: HiddenWorlds, test: HiddenWorlds) -> dict:
    """`permanence`: is the object behind the screen? Asked where no frame can tell.

    Args:
        train: training clips of single worlds, with and without the object.
        val: blocks that choose strength and level.
        test: blocks that are reported on.
    """

    def fit(network: str, levels: Sequence[int]) -> Decoder | None:
        best, chosen = -np.inf, None
        for level in levels:
            rows = train.rows(network, "behind", level)[:2]
            held = val.rows(network, level)[:2]
            if min(len(rows[1]), len(held[1])) < MIN_ROWS or len(np.unique(rows[1])) < 2:
                continue
            probe, _ = fit_ridge(rows, held)
            score = float((probe(held[0]) * held[1] > 0).mean())
            if score > best:
                best, chosen = score, Decoder(level, probe)
        return chosen

    def scores(network: str, decoder: Decoder) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
        states, sign, blocks = test.rows(network, decoder.level)
        guess = decoder.probe(states)
        right = (guess * sign > 0)[:, 0].astype(np.float64)
        values = {"accuracy": float(right.mean()), "auroc": auroc(guess[:, 0], sign[:, 0] > 0)}
        return values, right, blocks

    decoder = fit("model", range(len(train.spans)))
    if decoder is None or len(test.rows("model", decoder.level)[1]) < MIN_ROWS:
        return absent(f"fewer than {MIN_ROWS} steps with the object's whereabouts hidden")
    values, right, blocks = scores("model", decoder)
    null = fit("untrained", [decoder.level])
    assert null is not None, "the untrained network has the same rows as the model"
    return {
        **values,
        "ci95_accuracy": bootstrap_groups(
            right, np.ones_like(right), blocks, lambda total, count: total / count
        ),
        "num_steps": len(right),
        "num_blocks": len(np.unique(blocks)),
        "level": decoder.level,
        "null": {"untrained": scores("untrained", null)[0]},
    }
