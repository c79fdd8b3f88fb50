"""What is kept of a chunk of clips: features of every network where probes ask, and the truth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from worldmodel.evaluation.footage import Footage
from worldmodel.evaluation.network import CHUNK, Network, levels_of, run_chunk
from worldmodel.evaluation.probes.depth import patches
from worldmodel.evaluation.probes.objects import (
    Things,
    Track,
    behind_screen,
    camera_velocity,
    is_present,
    things_in_view,
    track_of,
)
from worldmodel.evaluation.probes.states import (
    Source,
    asked_steps,
    flat_states,
    thing_frames,
)

Outputs = tuple[list[Tensor], list[Tensor], list[dict[int, Tensor]]]
"""Of some clips, per level: tokens, context states, and per horizon the predicted tokens."""

MODEL, UNTRAINED = "model", "untrained"
CONTEXT, TOKENS = Source(MODEL, "context"), Source(MODEL, "tokens")
UNTRAINED_CONTEXT, UNTRAINED_TOKENS = Source(UNTRAINED, "context"), Source(UNTRAINED, "tokens")
# Whole steps of an untrained network's tokens are a null of nothing that is reported.
WHOLE_SOURCES = (CONTEXT, TOKENS, UNTRAINED_CONTEXT)
PLACED_SOURCES = (CONTEXT, TOKENS, UNTRAINED_CONTEXT, UNTRAINED_TOKENS)


@dataclass
class Observation:
    """Clips of the physics world as probes see them.

    Attributes:
        tracks: of each clip's tracked object.
        behind: per clip `(T,)`, see `behind_screen`.
        present: per clip: its tracked object exists.
        mirrored: per clip: it is a mirror image.
        states: whole steps, per source and level `(n, A_l, F_l)`.
        things: objects in view; `placed` per source and level the token `(R, D_l)` that shows each,
            `patches` the pixels `(R, P)` around it.
        camera: `(n, C, 6)`, the camera's velocity at `thing_frames`.
        outputs: of each network, unless they were dropped.
    """

    tracks: list[Track]
    behind: list[np.ndarray]
    present: list[bool]
    mirrored: list[bool]
    states: dict[Source, list[Tensor]]
    things: Things
    placed: dict[Source, list[Tensor]]
    patches: Tensor
    camera: np.ndarray
    outputs: dict[str, Outputs] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tracks)


def observe(networks: Mapping[str, Network], clips: Sequence[Footage], fps: float) -> Observation:
    """Run the networks `model` and `untrained` over some clips, `CHUNK` at a time.

    Args:
        networks: by name; all on the same device.
        clips: of equal length.
        fps: frames per second of the clips.
    """
    outputs = {name: _run(network, clips) for name, network in networks.items()}
    levels = levels_of(networks[MODEL])
    spans = [level.span for level in levels]
    num_frames = len(clips[0].frames)
    frames = thing_frames(num_frames, spans)
    truths = [clip.truth for clip in clips]
    things = things_in_view(truths, frames)

    def values(source: Source) -> list[Tensor]:
        tokens, context, _ = outputs[source.network]
        return tokens if source.kind == "tokens" else context

    def whole(source: Source) -> list[Tensor]:
        return [
            flat_states(each, level.grid, asked_steps(num_frames, level.span))
            for each, level in zip(values(source), levels, strict=True)
        ]

    def placed(source: Source) -> list[Tensor]:
        clip = torch.from_numpy(things.clip)
        return [
            each[
                clip,
                torch.from_numpy((things.frame + 1) // level.span - 1),
                torch.from_numpy(things.tokens(level.grid)),
            ].float()
            for each, level in zip(values(source), levels, strict=True)
        ]

    return Observation(
        tracks=[track_of(truth) for truth in truths],
        behind=[behind_screen(clip) for clip in clips],
        present=[bool(c.metadata.get("present", is_present(c.truth))) for c in clips],
        mirrored=[bool(clip.metadata.get("mirrored", False)) for clip in clips],
        states={source: whole(source) for source in WHOLE_SOURCES},
        things=things,
        placed={source: placed(source) for source in PLACED_SOURCES},
        patches=_patches(clips, things, levels[0].grid),
        camera=np.stack([camera_velocity(truth, frames, fps) for truth in truths]),
        outputs=outputs,
    )


def _run(network: Network, clips: Sequence[Footage]) -> Outputs:
    device = device_of(network)
    parts = [
        run_chunk(network, [clip.frames for clip in clips[start : start + CHUNK]], device)
        for start in range(0, len(clips), CHUNK)
    ]
    if len(parts) == 1:
        return parts[0]
    tokens, context, predicted = zip(*parts, strict=True)
    return (
        [torch.cat(level) for level in zip(*tokens, strict=True)],
        [torch.cat(level) for level in zip(*context, strict=True)],
        [
            {horizon: torch.cat([part[horizon] for part in level]) for horizon in level[0]}
            for level in zip(*predicted, strict=True)
        ],
    )


def device_of(network: Network) -> torch.device:
    """Where a network is; one without parameters is on the CPU."""
    parameters = getattr(network, "parameters", None)
    first = None if parameters is None else next(iter(parameters()), None)
    return torch.device("cpu") if first is None else first.device


def _patches(clips: Sequence[Footage], things: Things, grid: tuple[int, int]) -> Tensor:
    """Pixels of level 0's token, and half a token around it, of each thing: `(R, P)`."""
    size = clips[0].frames.shape[-1]
    # Larger grids have patches too small to show a thing: the pixels are then of a 4 x 4 grid.
    grid = grid if max(grid) <= size // 8 else (4, 4)
    numbers, which = np.unique(
        np.stack([things.clip, things.frame], axis=1), axis=0, return_inverse=True
    )
    if not len(numbers):
        return patches(clips[0].frames[:1], grid)[:0, 0]
    shown = torch.stack([clips[int(clip)].frames[int(frame)] for clip, frame in numbers])
    return patches(shown, grid)[torch.from_numpy(which), torch.from_numpy(things.tokens(grid))]
