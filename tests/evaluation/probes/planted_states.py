"""Clips of the squares' world whose states are what a test plants in them."""

from collections.abc import Callable

import numpy as np
import torch
from square_world import FPS, FRAMES, footage

from worldmodel.evaluation.footage import Footage
from worldmodel.evaluation.probes.objects import (
    Track,
    behind_screen,
    camera_velocity,
    is_present,
    things_in_view,
    track_of,
)
from worldmodel.evaluation.probes.observe import (
    CONTEXT,
    TOKENS,
    UNTRAINED_CONTEXT,
    UNTRAINED_TOKENS,
    Observation,
)
from worldmodel.evaluation.probes.samples import Samples
from worldmodel.evaluation.probes.states import Source, step_ends, thing_frames

SPANS = [1, 2]
Planter = Callable[[Footage, Track, np.ndarray], torch.Tensor]
"""Clip, track and frames -> features `(frames, F)`."""


def knows(clip: Footage, track: Track, frames: np.ndarray) -> torch.Tensor:
    """The place and its last change, turned and shifted."""
    place = torch.from_numpy(track.position[frames]).float()
    change = torch.from_numpy(np.diff(track.position, axis=0, prepend=track.position[:1])[frames])
    both = torch.cat([place, change.float()], dim=1)
    return both @ torch.tensor([[1.0, 2, 0, 0], [0, 1, 3, 0], [0, 0, 1, 1], [1, 0, 0, 2]]) + 3


def is_blind(clip: Footage, track: Track, frames: np.ndarray) -> torch.Tensor:
    """Noise of the clip's own."""
    generator = torch.Generator().manual_seed(int(clip.key[-3:]))
    return torch.randn(len(frames), 4, generator=generator)


def observation(
    clips: list[Footage], context: Planter, tokens: Planter = is_blind, spans: list[int] = SPANS
) -> Observation:
    """What probes see of some clips; untrained networks are blind."""
    tracks = [track_of(clip.truth) for clip in clips]
    frames = thing_frames(FRAMES, spans)
    things = things_in_view([clip.truth for clip in clips], frames)
    planters: dict[Source, Planter] = {
        CONTEXT: context,
        TOKENS: tokens,
        UNTRAINED_CONTEXT: is_blind,
        UNTRAINED_TOKENS: is_blind,
    }

    def whole(plant: Planter) -> list[torch.Tensor]:
        return [
            torch.stack(
                [
                    plant(clip, track, step_ends(FRAMES, span))
                    for clip, track in zip(clips, tracks, strict=True)
                ]
            )
            for span in spans
        ]

    def placed(plant: Planter) -> list[torch.Tensor]:
        rows = [
            plant(clips[int(clip)], tracks[int(clip)], np.array([frame]))[0]
            for clip, frame in zip(things.clip, things.frame, strict=True)
        ]
        values = torch.stack(rows) if rows else torch.zeros(0, 4)
        return [values for _ in spans]

    return Observation(
        tracks=tracks,
        behind=[behind_screen(clip) for clip in clips],
        present=[bool(clip.metadata.get("present", is_present(clip.truth))) for clip in clips],
        mirrored=[False] * len(clips),
        states={s: whole(p) for s, p in planters.items() if s != UNTRAINED_TOKENS},
        things=things,
        placed={source: placed(plant) for source, plant in planters.items()},
        patches=placed(is_blind)[0],
        camera=np.stack([camera_velocity(clip.truth, frames, FPS) for clip in clips]),
    )


def samples(count: int, first: int, context: Planter, tokens: Planter = is_blind) -> Samples:
    """Clips of which every third has no square."""
    clips = [footage(first + n, present=n % 3 != 2) for n in range(count)]
    return Samples.of(observation(clips, context, tokens), SPANS, FPS, FRAMES)
