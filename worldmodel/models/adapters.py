"""Other people's frozen encoders behind the two methods of ours, `encode` and `predict`.

What is wrapped is handed in; nothing here knows where it comes from. Frames are uint8 and already
of the encoder's size: whoever reads the clips scales them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from worldmodel.errors import InputError
from worldmodel.models.hierarchy import LevelPrediction

FRAMES_AT_ONCE = 32
"""Single frames that an image encoder sees at once; bounds memory at 1369 tokens a frame too."""


@dataclass(frozen=True, kw_only=True)
class PixelScale:
    """How an encoder wants its pixels: `(value * factor - mean) / std`, values 0 to 255.

    Attributes:
        factor: usually 1/255.
        mean: of red, green and blue; `std` likewise.
    """

    factor: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, frames: Tensor) -> Tensor:
        """uint8 `(..., 3, H, W)` -> float32; always float32, for bfloat16 has no 1/255."""
        mean, std = (
            torch.tensor(values, dtype=torch.float32, device=frames.device)[:, None, None]
            for values in (self.mean, self.std)
        )
        return frames.float().mul_(self.factor).sub_(mean).div_(std)


@dataclass(frozen=True, kw_only=True)
class AdapterLevel:
    """The one level of a foreign encoder, as evaluation knows levels.

    Attributes:
        grid: rows and columns of tokens per step.
        span: frames that one step covers.
        horizons: steps predicted ahead; empty for an encoder without a predictor.
        dim: width of a token.
    """

    grid: tuple[int, int]
    span: int
    horizons: tuple[int, ...]
    dim: int

    @property
    def num_tokens(self) -> int:
        """Tokens per step."""
        return self.grid[0] * self.grid[1]

    @property
    def width(self) -> int:
        """Width of a context state, which is the token itself."""
        return self.dim


class Adapter(nn.Module):
    """What foreign encoders share: one level, a frame size and a scale of pixels.

    Args:
        backbone: the foreign network.
        level: its tokens and steps.
        size: height and width in pixels of the frames it takes.
        scale: how it wants its pixels.
    """

    steps_are_local: bool

    def __init__(
        self, backbone: nn.Module, level: AdapterLevel, size: int, scale: PixelScale
    ) -> None:
        super().__init__()
        self.backbone: Any = backbone
        self.levels = [level]
        self.size, self.scale = size, scale

    def _check(self, frames: Tensor) -> None:
        """Refuse frames of another size, and clips shorter than one step."""
        if frames.shape[-2:] != (self.size, self.size):
            raise InputError(
                f"this encoder takes frames of {self.size} x {self.size} pixels, "
                f"got {frames.shape[-2]} x {frames.shape[-1]}; scale them to its size"
            )
        if frames.shape[1] < self.levels[0].span:
            raise InputError(
                f"one step of this encoder spans {self.levels[0].span} frames, "
                f"but the clip has {frames.shape[1]}; give a longer clip"
            )


class ImageEncoder(Adapter):
    """An encoder of single images (DINOv2, DINOv3, I-JEPA, ViT): each frame alone, no prediction.

    Tokens are the patch tokens of the last layer after its final norm, without class and register
    tokens. The network's output must end with the patch tokens, row by row; what stands before them
    is dropped. The cost is one pass per frame.

    Args:
        backbone: called as `backbone(pixel_values=..., **extra)`.
        level: its tokens; `span` 1 and no horizons.
        size: height and width in pixels of the frames it takes.
        scale: how it wants its pixels.
        extra: further arguments of each call.
    """

    steps_are_local = True

    def __init__(
        self,
        backbone: nn.Module,
        level: AdapterLevel,
        size: int,
        scale: PixelScale,
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(backbone, level, size, scale)
        self.extra = dict(extra or {})

    def encode(
        self, frames: UInt8[Tensor, "batch time channel height width"]
    ) -> list[Float[Tensor, "batch time tokens dim"]]:
        """Patch tokens of every frame, `(B, T, N, D)`, as a list of one level.

        Raises:
            InputError: frames of another size than the encoder's.
        """
        self._check(frames)
        wanted = self.levels[0].num_tokens
        parts = [
            self.backbone(pixel_values=self.scale(part), **self.extra).last_hidden_state[
                :, -wanted:
            ]
            for part in frames.flatten(0, 1).split(FRAMES_AT_ONCE)
        ]
        return [torch.cat(parts).unflatten(0, frames.shape[:2])]

    def predict(self, tokens: Sequence[Tensor]) -> list[LevelPrediction]:
        """The tokens as context states; nothing is predicted."""
        return [LevelPrediction(own, {}) for own in tokens]


class VideoPredictor(Adapter):
    """V-JEPA 2 (Assran et al. 2025, https://arxiv.org/abs/2506.09985), made causal by windows.

    Its encoder attends over all frames it is given, so tokens of a whole clip would have seen the
    clip's end. Here the token of step τ is the encoder's output for the last tubelet of the window
    of at most `window` steps that ends with step τ. Windows at the start of a clip are shorter:
    positions are rotary and count from the window's first tubelet, so any number of tubelets can be
    encoded.

    For step τ and horizon h the window is the one that ends with step τ + h. The encoder sees its
    steps up to τ and nothing else, as V-JEPA's context encoder does; the predictor is asked for all
    the others, which are masked, and its answer for step τ + h is kept. The target is the token of
    that step, the last of the same window.

    Tokens are normalised over their features without weights, as V-JEPA's loss normalises its
    targets; the predictor's answer is compared with them as it is. So a difference between
    `predicted` and tokens is one in the space of its own loss. (The predictor itself reads encoder
    outputs that are not normalised.) The context state of a step is its token.

    Each different window is run once and by itself, so that no number depends on the clips beside
    it, and where two clips show the same frames in a window they have the same tokens to the bit:
    the surprise of a window shorter than the time that something is hidden cancels exactly.

    The cost of `encode` is one pass over a window per step: for a clip of S steps about
    min(S, window) / 2 times that of one pass over the clip. `predict` costs the same again, since
    it needs encoder outputs that have not seen the future, and one pass of the predictor per step
    and horizon. Where windows reach the start of the clip, horizons share the encoder's pass.

    Args:
        backbone: with `encoder(pixel_values_videos)` and, where it has horizons,
            `predictor(hidden, [context_mask], [target_mask])`.
        level: its tokens and horizons; `span` is the tubelet size.
        size: height and width in pixels of the frames it takes.
        scale: how it wants its pixels.
        window: steps that it sees at most; longer than the longest horizon.
    """

    steps_are_local = False

    def __init__(
        self, backbone: nn.Module, level: AdapterLevel, size: int, scale: PixelScale, window: int
    ) -> None:
        super().__init__(backbone, level, size, scale)
        if window < 1 or window <= max(level.horizons, default=0):
            raise InputError(
                f"a window of {window} steps has no room for a context and the longest horizon of "
                f"{list(level.horizons)} steps; lengthen it or ask for shorter horizons"
            )
        self.window = window

    def encode(
        self, frames: UInt8[Tensor, "batch time channel height width"]
    ) -> list[Float[Tensor, "batch steps tokens dim"]]:
        """Normalised tokens of every step, `(B, T // span, N, D)`, as a list of one level.

        A step's token depends on the frames of its window alone. Frames after the last whole step
        are not seen.

        Raises:
            InputError: frames of another size than the encoder's, or fewer than one step.
        """
        self._check(frames)
        level, alike = self.levels[0], equal_frames(frames)
        ends = []
        for end in range(1, frames.shape[1] // level.span + 1):
            hidden, where = self._hidden(frames, alike, max(0, end - self.window), end)
            ends.append(torch.cat([each[:, -level.num_tokens :] for each in hidden])[where])
        return [functional.layer_norm(torch.stack(ends, dim=1), (level.dim,))]

    def predict(
        self, tokens: Sequence[Tensor], frames: UInt8[Tensor, "batch time channel height width"]
    ) -> list[LevelPrediction]:
        """What is expected `h` steps after every step τ, from the frames up to τ.

        Args:
            tokens: `encode`'s, or their first steps; predictions are made after these.
            frames: what they come from.

        Raises:
            InputError: as `encode`.
        """
        self._check(frames)
        horizons, alike = self.levels[0].horizons, equal_frames(frames)
        predicted: dict[int, list[Tensor]] = {horizon: [] for horizon in horizons}
        for step in range(tokens[0].shape[1]):
            known: dict[int, tuple[list[Tensor], Tensor]] = {}
            for horizon in horizons:
                start = max(0, step + horizon + 1 - self.window)
                if start not in known:
                    known[start] = self._hidden(frames, alike, start, step + 1)
                hidden, where = known[start]
                answers = [self._expected(each, horizon) for each in hidden]
                predicted[horizon].append(torch.cat(answers)[where])
        stacked = {horizon: torch.stack(parts, dim=1) for horizon, parts in predicted.items()}
        return [LevelPrediction(tokens[0], stacked)]

    def _hidden(
        self, frames: Tensor, alike: np.ndarray, start: int, stop: int
    ) -> tuple[list[Tensor], Tensor]:
        """The encoder's output on steps `start..stop - 1` alone.

        Args:
            frames: `(B, T, 3, H, W)`.
            alike: their `equal_frames`.
            start: first step of the window.
            stop: the step after its last.

        Returns:
            Of each different window `(1, (stop - start) * N, D)`, and for each clip which is its.
        """
        window = slice(start * self.levels[0].span, stop * self.levels[0].span)
        first = alike[:, :, window].all(2).argmax(1)
        clips, where = np.unique(first, return_inverse=True)
        hidden = [
            self.backbone.encoder(self.scale(frames[clip : clip + 1, window])).last_hidden_state
            for clip in clips.tolist()
        ]
        return hidden, torch.from_numpy(where).to(frames.device)

    def _expected(self, hidden: Tensor, horizon: int) -> Tensor:
        """The predictor's answer for the last of `horizon` masked steps after those of `hidden`."""
        seen, wanted = hidden.shape[1], self.levels[0].num_tokens
        places = torch.arange(seen + horizon * wanted, device=hidden.device)[None]
        context, target = places.split([seen, horizon * wanted], dim=1)
        answer = self.backbone.predictor(hidden, [context], [target]).last_hidden_state
        return answer[:, -wanted:]


def equal_frames(frames: Tensor) -> np.ndarray:
    """Which clips show the same picture at which frame, to the bit: bool `(B, B, T)`."""
    return np.stack([(frames == clip).flatten(2).all(2).cpu().numpy() for clip in frames.unbind(0)])
