"""Observed clips of one split as the rows of probes: features, targets, and whose row it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.evaluation.nulls import Sightings, clock_features, sightings
from worldmodel.evaluation.probes.objects import Things, Track
from worldmodel.evaluation.probes.observe import Observation
from worldmodel.evaluation.probes.states import Source, step_ends, thing_frames

MAX_SCREENS = 2
PARTS = ("visible", "partly", "hidden")
"""How much of the tracked object shows when its position is asked."""
Rows = tuple[Tensor, np.ndarray, np.ndarray]
"""Features `(n, F)`, targets `(n, K)`, clip of each row `(n,)`."""


def extend(lists: dict[Any, list[Any]], later: Mapping[Any, list[Any]]) -> None:
    """Lengthen each list by the one of the same name, in place."""
    for key, items in later.items():
        lists.setdefault(key, []).extend(items)


@dataclass
class Samples:
    """Clips of one split, or of a part of it.

    Attributes:
        spans: frames per step of each level.
        fps: frames per second of the clips.
        num_frames: per clip.
        tracks, behind, present, mirrored: see `Observation`.
    """

    spans: Sequence[int]
    fps: float
    num_frames: int
    tracks: list[Track] = field(default_factory=list)
    behind: list[np.ndarray] = field(default_factory=list)
    present: list[bool] = field(default_factory=list)
    mirrored: list[bool] = field(default_factory=list)
    _states: dict[tuple[Source, int], list[Tensor]] = field(default_factory=dict)
    _things: list[Things] = field(default_factory=list)
    _clips: list[int] = field(default_factory=list)
    _placed: dict[tuple[Source, int], list[Tensor]] = field(default_factory=dict)
    _patches: list[Tensor] = field(default_factory=list)
    _camera: list[np.ndarray] = field(default_factory=list)
    _known: dict[int, list[Sightings]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, observation: Observation, spans: Sequence[int], fps: float, num_frames: int
    ) -> "Samples":
        """The clips of one chunk."""
        samples = cls(spans, fps, num_frames)
        samples.add(observation)
        return samples

    def add(self, observation: Observation) -> None:
        """Take in a chunk of clips; what its networks put out is not kept.

        Tensors are copied: one that came from another process holds an open file while it lives.
        """
        self.tracks += observation.tracks
        self.behind += observation.behind
        self.present += observation.present
        self.mirrored += observation.mirrored
        for source, levels in observation.states.items():
            for level, values in enumerate(levels):
                self._states.setdefault((source, level), []).append(values.clone())
        for source, levels in observation.placed.items():
            for level, values in enumerate(levels):
                self._placed.setdefault((source, level), []).append(values.clone())
        self._things.append(observation.things)
        self._clips.append(len(observation))
        self._patches.append(observation.patches.clone())
        self._camera.append(observation.camera)

    def __len__(self) -> int:
        return len(self.tracks)

    def states(self, source: Source, level: int) -> Tensor:
        """Whole steps `(n, A_l, F_l)` of all clips, joined once."""
        parts = self._states[source, level]
        if len(parts) > 1:
            parts = self._states[source, level] = [torch.cat(parts)]
        return parts[0]

    def placed(self, source: Source, level: int) -> Tensor:
        """The token `(R, D_l)` that shows each of `things`."""
        return torch.cat(self._placed[source, level])

    @property
    def things(self) -> Things:
        """Objects in view at some frames; their clips are numbered as in `tracks`."""
        return Things.join(self._things, self._clips)

    @property
    def patches(self) -> Tensor:
        """Pixels `(R, P)` around each of `things`."""
        return torch.cat(self._patches)

    def ends(self, level: int) -> np.ndarray:
        """The last frame of each asked step of a level."""
        return step_ends(self.num_frames, self.spans[level])

    def sightings(self, level: int) -> list[Sightings]:
        """What could be written down of each clip's object without a model."""
        if len(self._known.get(level, [])) != len(self.tracks):
            span = self.spans[level]
            self._known[level] = [
                sightings(track.position, track.visible | track.partly, span)
                for track in self.tracks
            ]
        return self._known[level]

    def mask(self, part: str, level: int) -> np.ndarray:
        """Asked steps `(n, A_l)` that count as `visible`, `partly`, `hidden` or `behind`.

        The first three only where the object was seen before, so that every null has a place to
        start from.
        """
        if not self.tracks:
            return np.zeros((0, len(self.ends(level))), dtype=bool)
        if part == "behind":
            wanted = np.stack(self.behind)
        else:
            seen = np.stack([known.seen for known in self.sightings(level)])
            wanted = seen & np.stack([getattr(track, part) for track in self.tracks])
        return wanted[:, self.ends(level)]

    def positions(self, level: int) -> np.ndarray:
        """The object's centre at each asked step, px, `(n, A_l, 2)`."""
        return np.stack([track.position for track in self.tracks])[:, self.ends(level)]

    def velocities(self, level: int) -> np.ndarray:
        """How fast it moves in the image since the frame before, px/s, `(n, A_l, 2)`."""
        position = np.stack([track.position for track in self.tracks])
        change = np.diff(position, axis=1, prepend=position[:, :1]) * self.fps
        return change[:, self.ends(level)]

    def rows(self, source: Source, level: int, mask: np.ndarray, targets: np.ndarray) -> Rows:
        """Features, targets and clips of the asked steps in a mask `(n, A_l)`."""
        clips, steps = np.nonzero(mask)
        states = self.states(source, level)[torch.from_numpy(mask)]
        return states, targets[clips, steps], clips

    def clock(self, level: int, mask: np.ndarray) -> Tensor:
        """What the frame's number and the screens tell, at the asked steps in a mask."""
        ends = self.ends(level)
        features = [
            clock_features(self.num_frames, track.screens, MAX_SCREENS)[ends]
            for track in self.tracks
        ]
        return torch.from_numpy(np.stack(features)[mask])

    def camera_rows(self, source: Source, level: int) -> Rows:
        """Features and the camera's velocity; mirror images do not count."""
        frames = thing_frames(self.num_frames, self.spans)
        columns = np.flatnonzero(np.isin(self.ends(level), frames))
        kept = np.flatnonzero(~np.array(self.mirrored, dtype=bool))
        states = self.states(source, level)[torch.from_numpy(kept)][:, torch.from_numpy(columns)]
        targets = np.concatenate(self._camera)[kept]
        clips = np.repeat(kept, len(frames))
        return states.flatten(0, 1), targets.reshape(-1, targets.shape[-1]), clips
