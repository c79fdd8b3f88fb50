"""Where a model believes that a thing behind a screen is: probes of its states."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.errors import InputError
from worldmodel.evaluation.footage import (
    Footage,
    find_samples,
    mirrored_too,
    read_footage,
    seen_fps,
)
from worldmodel.evaluation.measure import Effort, choose_training
from worldmodel.evaluation.network import CHUNK, Network, levels_of, one_thread
from worldmodel.evaluation.passes import Pace, run_pass
from worldmodel.evaluation.probes.linear import LinearProbe, Moments, fit_ridge
from worldmodel.evaluation.probes.objects import Track
from worldmodel.evaluation.probes.observe import (
    CONTEXT,
    MODEL,
    UNTRAINED,
    UNTRAINED_CONTEXT,
    Observation,
    observe,
)
from worldmodel.evaluation.probes.samples import PARTS, Samples
from worldmodel.evaluation.probes.states import Source
from worldmodel.evaluation.probes.whereabouts import MIN_ROWS
from worldmodel.evaluation.scores import bootstrap_groups, r2_score
from worldmodel.models.checkpoint import ClipSpec

CPU = torch.device("cpu")
# Clips that follow an object, of each split; those of training, as many as the report takes, count
# twice, mirrored as well.
NUM_CLIPS = {"train": 500, "val": 140, "test": 140}
# Probes fitted on resampled training clips, whose spread is shown.
NUM_MEMBERS = 16
NETWORKS = {MODEL: CONTEXT, UNTRAINED: UNTRAINED_CONTEXT}
LAST_SEEN, VELOCITY, CLOCK = "last seen", "constant velocity", "clock"


@dataclass(frozen=True)
class WatchTracks:
    """Runs networks over clips for the probes; may be called in any process.

    Attributes:
        networks: `model` and `untrained`.
        fps: frames per second of the clips.
        mirrored: event clips are watched in a mirror as well.
    """

    networks: Mapping[str, Network]
    fps: float
    mirrored: bool = False

    def __call__(self, clips: list[Footage]) -> Observation:
        """Of at most `CHUNK` clips."""
        if self.mirrored:
            clips = list(mirrored_too(clips))
        seen = observe(self.networks, clips, self.fps)
        seen.outputs.clear()
        return seen


@dataclass(frozen=True)
class Watched:
    """Clips that follow an object: of train and val to fit on, of test to ask about.

    Attributes:
        samples: by split.
        keys: of the test clips, as in `samples["test"]`.
        root: of the set, `clip` as they were read.
    """

    samples: Mapping[str, Samples]
    keys: Sequence[str]
    root: Path
    clip: ClipSpec

    def footage(self, number: int) -> Footage:
        """A test clip, read again."""
        refs = {ref.key: ref for ref in find_samples(self.root, "test", "clips")}
        return read_footage(refs[self.keys[number]], self.clip)


def watch_tracks(
    networks: Mapping[str, Network],
    clip: ClipSpec,
    root: Path,
    counts: Mapping[str, int] | None = None,
    pace: Pace | None = None,
) -> Watched:
    """Run `model` and `untrained` over clips that follow an object through an event.

    Args:
        networks: by name.
        clip: the clips that they see.
        root: folder of a set of the physics world.
        counts: clips of each split; `NUM_CLIPS` by default.
        pace: of passes over clips; changes no number.

    Raises:
        InputError: the set has no such clips.
    """
    counts = NUM_CLIPS if counts is None else counts
    spans = [level.span for level in levels_of(networks[MODEL])]
    read = partial(read_footage, clip=clip)
    samples, keys = {}, []
    for split in ("train", "val", "test"):
        effort = Effort(event_clips=counts[split], free_clips=0)
        refs = choose_training(find_samples(root, split, "clips"), effort)
        if not refs:
            raise InputError(f"no clip of {split} in {root} follows an object: make it anew")
        fps = seen_fps(refs[0], clip)
        samples[split] = Samples(spans, fps, clip.num_frames)
        work = WatchTracks(networks, fps, mirrored=split == "train")
        for seen in run_pass(refs, read, work, CHUNK, CPU, pace or Pace(quiet=True)):
            samples[split].add(seen)
        keys = [ref.key for ref in refs]
    return Watched(samples, keys, root, clip)


def asked(samples: Samples, level: int) -> np.ndarray:
    """Steps `(n, A_l)` at which the object has been seen before and is in the image."""
    return np.any([samples.mask(part, level) for part in PARTS], axis=0)


@dataclass(frozen=True)
class Belief:
    """Where the tracked object is in test clips, and where it is said to be.

    One probe for all steps, whether the object shows or not: nobody tells it which.

    Attributes:
        level: whose context states are read; the best on validation clips.
        ends: `(A,)` frames at which it is asked.
        fps: frames per second.
        tracks: of each test clip.
        asked: `(n, A)`, see `asked`.
        said: `(n, A, 2)` px by whom: the two networks, and rules that are given the true past.
        members: `(num_members, n, A, 2)` px by network, of probes fitted on resampled clips.
    """

    level: int
    ends: np.ndarray
    fps: float
    tracks: Sequence[Track]
    asked: np.ndarray
    said: Mapping[str, np.ndarray]
    members: Mapping[str, np.ndarray]

    @property
    def true(self) -> np.ndarray:
        """`(n, A, 2)` px."""
        return np.stack([track.position for track in self.tracks])[:, self.ends]

    def part(self, name: str) -> np.ndarray:
        """`(n, A)`: asked steps that are `visible`, `partly` or `hidden`."""
        return self.asked & np.stack([getattr(track, name) for track in self.tracks])[:, self.ends]

    @property
    def hidden_for(self) -> np.ndarray:
        """`(n, A)`, for how many frames it has been hidden."""
        return np.stack([track.hidden_for for track in self.tracks])[:, self.ends]

    def error(self, who: str, rows: np.ndarray) -> tuple[float, list[float]]:
        """Mean absolute error in px over rows `(n, A)`, and its 95 % interval over clips.

        Not a number of a single one.
        """
        off = np.abs(self.said[who] - self.true)[rows].mean(1)
        clips = np.nonzero(rows)[0]
        ends = bootstrap_groups(off, np.ones_like(off), clips, lambda total, count: total / count)
        return float(off.mean()), ends or [np.nan, np.nan]

    def r2(self, who: str, rows: np.ndarray) -> float:
        """Share of the place's spread over rows `(n, A)` that is explained."""
        return r2_score(self.said[who][rows], self.true[rows])

    def longest_hidden(self, count: int, comes_out: bool = False) -> list[int]:
        """The test clips in which the object is hidden longest, of equals the first.

        Args:
            count: how many.
            comes_out: of those alone in which it is seen again afterwards.
        """
        hidden, shown = self.part("hidden"), self.part("visible")
        # Seen at a step after the first that hides it.
        again = np.any(shown & (hidden.cumsum(1) > 0), axis=1)
        numbers = [number for number in range(len(hidden)) if again[number] or not comes_out]
        return sorted(numbers, key=lambda number: -hidden[number].sum())[:count]


@one_thread()
def believe(watched: Watched, num_members: int = NUM_MEMBERS, seed: int = 0) -> Belief:
    """Fit probes of place to training clips, choose on validation, ask about test clips.

    Args:
        watched: clips of all splits.
        num_members: of each ensemble.
        seed: of the resampling.

    Raises:
        InputError: too few steps show where the object is.
    """
    train, val, test = (watched.samples[split] for split in ("train", "val", "test"))
    fitted: dict[tuple[str, int], tuple[LinearProbe, float]] = {}
    for level in range(len(train.spans)):
        for name, source in NETWORKS.items():
            rows, held = (_place_rows(part, source, level) for part in (train, val))
            if min(len(rows[1]), len(held[1]), int(asked(test, level).sum())) < MIN_ROWS:
                continue
            probe, _ = fit_ridge(rows[:2], held[:2])
            fitted[name, level] = probe, r2_score(probe(held[0]), held[1])
    if not fitted:
        raise InputError(f"fewer than {MIN_ROWS} steps follow an object: take more clips")
    level = max((key[1] for key in fitted), key=lambda each: (fitted[MODEL, each][1], -each))
    mask, ends = asked(test, level), test.ends(level)
    said = {
        LAST_SEEN: np.stack([each.last for each in test.sightings(level)])[:, ends],
        VELOCITY: np.stack([each.extrapolated for each in test.sightings(level)])[:, ends],
        CLOCK: _clock(train, val, test, level),
    }
    members = {}
    for name, source in NETWORKS.items():
        probe, states = fitted[name, level][0], test.states(source, level)
        said[name] = _ask(probe, states)
        ensemble = list(_resampled(train, source, level, probe.strength, num_members, seed))
        members[name] = np.stack([_ask(member, states) for member in ensemble])
    return Belief(level, ends, test.fps, test.tracks, mask, said, members)


def _place_rows(samples: Samples, source: Source, level: int) -> tuple[Tensor, np.ndarray, Any]:
    return samples.rows(source, level, asked(samples, level), samples.positions(level))


def _ask(probe: LinearProbe, states: Tensor) -> np.ndarray:
    """`(n, A, F)` -> `(n, A, K)`."""
    return probe(states.flatten(0, 1)).reshape(*states.shape[:2], -1)


def _clock(train: Samples, val: Samples, test: Samples, level: int) -> np.ndarray:
    """What the frame's number and the screens tell of the place, `(n, A, 2)`."""
    rows = []
    for samples in (train, val):
        mask = asked(samples, level)
        rows.append((samples.clock(level, mask), samples.positions(level)[mask]))
    probe, _ = fit_ridge(rows[0], rows[1])
    everywhere = np.ones((len(test), len(test.ends(level))), dtype=bool)
    return probe(test.clock(level, everywhere)).reshape(*everywhere.shape, 2)


def _resampled(
    train: Samples, source: Source, level: int, strength: float, count: int, seed: int
) -> Iterator[LinearProbe]:
    """Probes fitted on clips drawn with replacement; a clip and its mirror image go together."""
    features, places, clips = _place_rows(train, source, level)
    scene = np.cumsum(~np.array(train.mirrored, dtype=bool)) - 1
    generator, num_scenes = np.random.default_rng(seed), int(scene.max()) + 1
    for _ in range(count):
        drawn = generator.multinomial(num_scenes, [1 / num_scenes] * num_scenes)
        weights = drawn[scene[clips]]
        kept = np.flatnonzero(weights)
        moments = Moments(features.shape[1], places.shape[1])
        moments.add(features[torch.from_numpy(kept)], places[kept], weights[kept])
        yield moments.solve([strength])[0]
