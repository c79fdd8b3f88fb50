"""What a model makes of a video as a file for the Rerun viewer, everything on one timeline.

The extra `rerun` has the package; nothing else here needs it.
"""

import importlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.errors import InputError
from worldmodel.evaluation.figures import token_colours
from worldmodel.evaluation.network import Network, Place, levels_of
from worldmodel.evaluation.videos.long_video import SurpriseCurve

RERUN_NAME = "surprise.rrd"
TIMELINE = "video"
# Of frames; they are pictures for people, and 4 to 8 times as many bytes uncompressed.
JPEG_QUALITY = 85


def import_rerun() -> Any:
    """The package `rerun`.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module("rerun")
    except ImportError as error:
        raise InputError(
            "a file for the Rerun viewer needs the package rerun-sdk (170 MB), which cannot be "
            f"imported ({error}): pip install 'worldmodel[rerun]'"
        ) from error


@torch.no_grad()
def tokens_of(
    network: Network, frames: np.ndarray, window: int, device: torch.device
) -> list[Tensor]:
    """Tokens of a whole video, window by window.

    Args:
        network: a frozen model.
        frames: uint8 `(T, size, size, 3)`.
        window: frames that it sees at once.
        device: where it is.

    Returns:
        Per level `(T // span, N_l, D_l)` on the CPU; frames that fill no step of the slowest level
        have none.
    """
    longest = max(level.span for level in levels_of(network))
    parts: list[list[Tensor]] = []
    for start in range(0, len(frames) - longest + 1, window):
        piece = frames[start : start + window]
        piece = np.array(piece[: len(piece) - len(piece) % longest])
        clip = torch.from_numpy(piece).permute(0, 3, 1, 2)[None].to(device)
        parts.append([level[0].float().cpu() for level in network.encode(clip)])
    return [torch.cat(levels) for levels in zip(*parts, strict=True)]


def write_rerun(
    path: Path,
    pictures: Iterable[np.ndarray],
    seconds: np.ndarray,
    tokens: Sequence[Tensor],
    network: Network,
    curves: Mapping[Place, SurpriseCurve],
    combined: np.ndarray,
) -> None:
    """Write frames, tokens and surprise of a video on the timeline `video`, in seconds.

    `video` has the frames; `tokens/level{l}` its tokens, their three main directions as colours,
    from the last frame of their step on; `surprise/level{l}/h{h}` and `copy/level{l}/h{h}` what the
    model and the copy predictor erred by; `surprise/combined` all places together.

    Args:
        path: of the file.
        pictures: uint8 `(H, W, 3)`, T of them.
        seconds: `(T,)`, when they are shown.
        tokens: per level `(T_l, N_l, D_l)`.
        network: whose tokens they are.
        curves: surprise of each place.
        combined: `(T,)`; NaN where there is none.

    Raises:
        InputError: rerun is not installed.
    """
    rerun = import_rerun()
    recording = rerun.RecordingStream("worldmodel")
    recording.save(str(path))

    def put(name: str, second: float, what: Any) -> None:
        recording.set_time(TIMELINE, duration=float(second))
        recording.log(name, what)

    for second, picture in zip(seconds, pictures, strict=True):
        put("video", second, rerun.Image(picture).compress(jpeg_quality=JPEG_QUALITY))
    for number, (level, values) in enumerate(zip(levels_of(network), tokens, strict=True)):
        colours = np.round(255 * token_colours(values, level.grid)).astype(np.uint8)
        ends = seconds[level.span - 1 :: level.span]
        for second, picture in zip(ends, colours, strict=False):
            put(f"tokens/level{number}", second, rerun.Image(picture))
    for (place, horizon), curve in curves.items():
        name = f"level{place}/h{horizon}"
        for frame, value, copied in zip(curve.frames, curve.values, curve.copied, strict=True):
            put(f"surprise/{name}", seconds[frame], rerun.Scalars(float(value)))
            put(f"copy/{name}", seconds[frame], rerun.Scalars(float(copied)))
    for second, value in zip(seconds, combined, strict=True):
        if np.isfinite(value):
            put("surprise/combined", second, rerun.Scalars(float(value)))
    recording.flush()
    recording.disconnect()
