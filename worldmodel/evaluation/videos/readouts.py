"""What stored probes read from a model on a video: how far each place is, where the object is.

Depth comes from a step's own tokens. Where the object is comes from context states, which depend on
all that came before; windows are those of `worldmodel encode`, so that neither what comes later nor
the length of the video changes an answer. On a clip as long as the model's own they are the
report's answers.

Every probe answers at every step, whatever the video shows: nothing in the model says whether there
is an object at all, or whether it can be seen.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from worldmodel.evaluation.network import CHUNK, Network, chunked, levels_of, one_thread, run_chunk
from worldmodel.evaluation.probes.stored import StoredProbes
from worldmodel.evaluation.videos.long_video import StateWindows


@dataclass(frozen=True)
class DepthMaps:
    """Depth of a video.

    Attributes:
        frames: int64 `(S,)`, last frame of each step, counted from the video's first.
        metres: float64 `(S, rows, columns)`.
        rmse_m: the probe's error on the test split it was measured on.
    """

    frames: np.ndarray
    metres: np.ndarray
    rmse_m: float


@dataclass(frozen=True)
class Belief:
    """Where one probe says that the object is.

    Attributes:
        frames: int64 `(S,)`, last frame of each step, counted from the video's first.
        places: float64 `(S, 2)`, shares of the picture's width from the left and of its height from
            the top; outside of 0 to 1 it lies outside of the picture.
        half: (horizontal, vertical), how far from an answer half of the true places lay on the test
            split, as shares of width and height.
    """

    frames: np.ndarray
    places: np.ndarray
    half: tuple[float, float]


@dataclass(frozen=True)
class Readouts:
    """Everything that was read.

    Attributes:
        depth: None where there is no probe of it.
        beliefs: by how much of the object showed where the probe was fitted.
    """

    depth: DepthMaps | None
    beliefs: Mapping[str, Belief]


@one_thread()
def read_video_out(
    network: Network,
    frames: np.ndarray,
    window: int,
    device: torch.device,
    probes: StoredProbes,
) -> Readouts:
    """Ask every probe at every step of a video.

    Args:
        network: the model whose probes they are.
        frames: uint8 `(T, size, size, 3)`, at the rate of the model's clips; they may lie on disk.
        window: frames of these clips.
        device: where the model is.
        probes: of `read_probes`.
    """
    levels = levels_of(network)
    windows = StateWindows.of(levels, window)
    depth = probes.depth
    maps: list[np.ndarray] = []
    places: dict[str, list[np.ndarray]] = {part: [] for part in probes.position}
    for starts in chunked(windows.starts(len(frames)), CHUNK):
        pieces = [frames[start : start + windows.window] for start in starts]
        tokens, context, _ = run_chunk(network, [_whole(each, windows) for each in pieces], device)
        for number, (start, piece) in enumerate(zip(starts, pieces, strict=True)):
            # What no window before this one holds, and no step that repeats the last frame.
            known = windows.window - windows.hop if start else 0
            new = [slice(known // level.span, len(piece) // level.span) for level in levels]
            if depth is not None:
                maps.append(depth(tokens[depth.level][number][new[depth.level]]))
            for part, place in probes.position.items():
                places[part].append(place(context[place.level][number][new[place.level]]))
    return Readouts(
        None
        if depth is None
        else DepthMaps(
            _ends(len(frames), levels[depth.level].span), np.concatenate(maps), depth.rmse_m
        ),
        {
            part: Belief(
                _ends(len(frames), levels[place.level].span),
                np.concatenate(places[part]) / place.picture,
                (place.half_px / place.picture[0], place.half_px / place.picture[1]),
            )
            for part, place in probes.position.items()
        },
    )


def _whole(piece: np.ndarray, windows: StateWindows) -> torch.Tensor:
    """A window's frames as uint8 `(window, 3, H, W)`, the last one repeated where it is short."""
    missing = windows.window - len(piece)
    whole = np.concatenate([piece, np.repeat(piece[-1:], missing, axis=0)])
    return torch.from_numpy(whole).permute(0, 3, 1, 2).contiguous()


def _ends(num_frames: int, span: int) -> np.ndarray:
    return np.arange(1, num_frames // span + 1, dtype=np.int64) * span - 1
