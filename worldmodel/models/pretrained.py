"""A trained model as a tool: videos in, tokens, predictions and surprise out.

Nothing of training is imported, and what scales pictures only where they must be scaled. What
happens to a video is what happens to one in training: every n-th frame, scaled by its short side,
the square in the middle.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.data import sampling, transforms
from worldmodel.errors import InputError
from worldmodel.models.checkpoint import LoadedModel, find_export, load_export, name_shipped
from worldmodel.models.hierarchy import Level, LevelPrediction
from worldmodel.models.hub_files import first_line

CARD_NAME = "README.md"
# 23.976 frames a second, as film is shown on television, are taken for 24.
FPS_TOLERANCE = 0.002


@dataclass(frozen=True)
class StepSurprise:
    """Surprise at one level and horizon, one entry for each predicted step in order of time.

    Videos of a batch come first: `(B, S)` where there are B of them, `(S,)` for a single one.

    Attributes:
        seconds: float64 `(S,)`, when the last frame of the step is shown, from the video's first.
        values: float64 `(S,)`, distance of predicted tokens from what came, mean over tokens.
        maps: float64 `(S, rows, columns)`, the same for each token: mean over dimensions alone.
        copied: float64 `(S,)`, as `values` for the copy predictor, which says that the step will be
            as the one `horizon` steps before it; what `values` must be compared with.
    """

    seconds: np.ndarray
    values: np.ndarray
    maps: np.ndarray
    copied: np.ndarray


Video = np.ndarray | Tensor | Sequence[np.ndarray] | Sequence[Tensor]
"""An array, or a list of its frames."""


class WorldModel:
    """A trained hierarchy, frozen, in evaluation mode and without gradients.

    Videos are uint8 `(T, H, W, 3)`, red green blue from 0 to 255, lists of such frames, or batches
    `(B, T, H, W, 3)`; what comes back has a batch axis where the video had one. Each video is run
    by itself and in pieces of fixed length, so that no number depends on the videos beside it or,
    but for what a prediction has seen, on how long it is.

    Args:
        model: as `load_model` gives it.
        card: its model card.

    Attributes:
        network: the `Hierarchy` itself, for those who want batches at full speed.
        levels: for each its `grid`, `num_tokens`, `span` in frames, `horizons` in own steps, `dim`
            of a token and `width` of a context state.
        clip: the clips it was trained on: `num_frames`, `fps`, `size`.
        config: the content of `config.json`.
        card: text of the model card; empty where the folder has none.
    """

    def __init__(self, model: LoadedModel, card: str = "") -> None:
        self.network = model.network
        self.clip = model.clip
        self.config = model.config
        self.card = card
        self.device = torch.device("cpu")

    @classmethod
    def from_pretrained(cls, source: str | Path) -> "WorldModel":
        """The model of an export, on the CPU.

        Args:
            source: name of a model shipped with the package, a folder that `worldmodel export`
                wrote, or `hf://org/name` of one on the Hub, perhaps with `@revision`.

        Raises:
            InputError: there is none, or it is damaged or of another version.
        """
        folder = find_export(source)
        if folder is None:
            raise InputError(_no_export(source))
        try:
            card = (folder / CARD_NAME).read_text(encoding="utf-8")
        except (OSError, ValueError):
            card = ""
        return cls(load_export(folder), card)

    def __repr__(self) -> str:
        return (
            f"WorldModel({len(self.levels)} levels, {self.clip.num_frames} frames of "
            f"{self.clip.size} x {self.clip.size} pixels at {self.clip.fps:g} a second, "
            f"{self.device})"
        )

    @property
    def levels(self) -> list[Level]:
        """From the fastest to the slowest."""
        return list(self.network.levels)

    def to(self, device: torch.device | str) -> "WorldModel":
        """Move the weights, in place.

        Raises:
            InputError: there is no such device, or too little memory on it; they stay where they
                were.
        """
        try:
            wanted = torch.device(device)
            self.network.to(wanted)
        # A torch without CUDA asserts that it has it.
        except (AssertionError, RuntimeError, TypeError) as error:
            self.network.to(self.device)
            raise InputError(
                f"the model cannot be moved to {device} and stays on {self.device}: "
                f"{first_line(error)}"
            ) from error
        self.device = wanted
        return self

    def encode(self, video: Video, fps: float | Fraction | None = None) -> list[Tensor]:
        """Tokens of every level.

        Args:
            video: of any size.
            fps: frames per second of the video; by default it is taken as it is, every frame.

        Returns:
            Per level `(T // span, N_l, D_l)`, T the frames that are left at the model's rate, on
            the model's device. A step depends on its own frames alone; frames at the end that fill
            no step of a level are left out for that level.

        Raises:
            InputError: no such video, slower than the model, or shorter than one step.
        """
        frames, _, one = self._prepare(video, fps)
        tokens = [self._encode_one(clip) for clip in frames]
        stacked = [torch.stack(parts) for parts in zip(*tokens, strict=True)]
        return [level[0] for level in stacked] if one else stacked

    def predict(self, tokens: Sequence[np.ndarray | Tensor]) -> list[LevelPrediction]:
        """What every level believes and expects at every step τ, from its steps up to τ.

        Args:
            tokens: `encode`'s, or their first steps, of any floating-point type. The model was
                trained on as many steps as its clips have; it never saw more at once.

        Returns:
            Per level context states `(T_l, N_l, W_l)`, and per horizon h predicted tokens
            `(T_l, N_l, D_l)` of which entry τ is the prediction for step τ + h.

        Raises:
            InputError: these are no tokens of this model, some are not finite, or a level lacks
                steps that a faster one reads.
        """
        levels = self._check_tokens(tokens)
        one = levels[0].ndim == 3
        batches = [level[None] if one else level for level in levels]
        # Tokens may have been stored in another precision.
        dtype = next(self.network.parameters()).dtype
        predictions = []
        with torch.no_grad():
            for clip in range(len(batches[0])):
                given = [level[clip : clip + 1].to(self.device, dtype) for level in batches]
                predictions.append(self.network.predict(given))
        return [_join(parts, one) for parts in zip(*predictions, strict=True)]

    def surprise(
        self, video: Video, fps: float | Fraction | None = None
    ) -> dict[tuple[int, int], StepSurprise]:
        """How wrong the model's predictions were, at every level and horizon, step by step.

        A video longer than the model's clips is covered by windows of their length, as
        `worldmodel surprise` does it, so that the model never sees more at once than in training,
        and no value depends on what comes later. An energy in each level's own units: compare it
        over time, and with `copied`, not between levels or models.

        Args:
            video: of any size.
            fps: frames per second of the video; by default the model's.

        Returns:
            By level and horizon in own steps; those that the video is too short for are left out.

        Raises:
            InputError: as `encode`, or the video is too short for any prediction.
        """
        # Evaluation stands above the models; only this method looks up to it.
        from worldmodel.evaluation.videos.long_video import surprise_over_video

        frames, seconds, one = self._prepare(video, fps)
        curves = [
            surprise_over_video(self.network, clip, self.clip.num_frames, self.device)
            for clip in frames
        ]
        pick: Callable[[list[np.ndarray]], np.ndarray] = _first if one else np.stack
        return {
            place: StepSurprise(
                seconds=seconds[curve.frames],
                values=pick([each[place].values for each in curves]),
                maps=pick([each[place].maps for each in curves]),
                copied=pick([each[place].copied for each in curves]),
            )
            for place, curve in curves[0].items()
        }

    def _encode_one(self, frames: Tensor) -> list[Tensor]:
        """Tokens of one video uint8 `(T, 3, size, size)`, in pieces that all have one length."""
        length = piece_length(self.levels, self.clip.num_frames)
        pieces = [
            encode_piece(self.network, piece, length, self.device) for piece in frames.split(length)
        ]
        return [torch.cat(parts) for parts in zip(*pieces, strict=True)]

    def _prepare(
        self, video: Video, fps: float | Fraction | None
    ) -> tuple[list[Tensor], np.ndarray, bool]:
        """The videos as the model sees them, uint8 `(T, 3, size, size)`, and when, in seconds.

        And whether it is a single one, without a batch axis.
        """
        pixels = _check_video(video)
        stride = 1 if fps is None else frame_stride(fps, self.clip.fps)
        batch = pixels if pixels.ndim == 5 else pixels[None]
        indices = np.arange(0, batch.shape[1], stride)
        slowest = max(level.span for level in self.levels)
        if len(indices) < slowest:
            raise InputError(
                f"one step of the slowest level spans {slowest} frames at {self.clip.fps:g} a "
                f"second, but the video has {len(indices)}; give a longer one"
            )
        frames = [
            torch.from_numpy(fit_frames(clip[::stride], self.clip.size)).permute(0, 3, 1, 2)
            for clip in batch
        ]
        seconds = indices / (self.clip.fps if fps is None else float(fps))
        return frames, seconds, pixels.ndim == 4

    def _check_tokens(self, tokens: Sequence[np.ndarray | Tensor]) -> list[Tensor]:
        wanted = [(level.num_tokens, level.dim) for level in self.levels]
        takes = (
            "predict takes the tokens of `encode`, per level (steps, tokens, dim) with tokens "
            f"and dim {wanted}, perhaps with a batch axis before; got "
        )
        if not isinstance(tokens, Sequence):
            raise InputError(f"{takes}{type(tokens).__name__} instead of a list with each level's")
        levels = []
        for each in tokens:
            level = torch.as_tensor(each) if isinstance(each, np.ndarray) else each
            if not isinstance(level, Tensor) or not level.is_floating_point():
                kind = getattr(each, "dtype", type(each).__name__)
                raise InputError(f"{takes}{kind} instead of floating-point numbers")
            levels.append(level)
        found = [tuple(level.shape) for level in levels]
        fits = [shape[-2:] for shape in found] == wanted
        alike = len({shape[:-3] for shape in found}) == 1
        if not fits or not alike or any(len(s) not in (3, 4) or 0 in s for s in found):
            raise InputError(f"{takes}{found}")
        for number, level in enumerate(levels):
            if not level.isfinite().all():
                raise InputError(
                    f"tokens of level {number} have values that are not finite; what encode gives "
                    "are finite"
                )
        for number in range(len(levels) - 1):
            ratio = self.levels[number + 1].span // self.levels[number].span
            steps, slower = (level.shape[-3] for level in levels[number : number + 2])
            if self.network.reads_above(number) and slower < steps // ratio:
                raise InputError(
                    f"level {number} reads the states of level {number + 1}: its {steps} steps "
                    f"need {steps // ratio} of that one, got {slower}; give both as far as they go"
                )
        return levels


def _no_export(source: str | Path) -> str:
    """Why a source is no export, and what to do."""
    if Path(source).is_file():
        return (
            f"{source} is a file; a model is loaded from a folder: "
            f"worldmodel export --checkpoint {source} --out FOLDER"
        )
    if Path(source).is_dir() or str(source).startswith("hf:"):
        return (
            f"{source} holds no model of worldmodel (no config.json with model_type worldmodel); "
            "`worldmodel export` writes such folders"
        )
    return (
        f"there is no model {source}; give the name of a shipped one ({name_shipped()}), a folder "
        "that `worldmodel export` wrote, or hf://org/name"
    )


def piece_length(levels: Sequence[Any], num_frames: int) -> int:
    """Frames of the pieces that a video is encoded in: whole steps of every level, one clip or so.

    Args:
        levels: of the model.
        num_frames: of its clips.
    """
    slowest = max(level.span for level in levels)
    return -(-num_frames // slowest) * slowest


@torch.no_grad()
def encode_piece(network: Any, frames: Tensor, length: int, device: torch.device) -> list[Tensor]:
    """Tokens of one piece of a video, per level `(T // span, N_l, D_l)`.

    Frames are always run `length` at a time, the last ones repeated, so that no kernel rounds
    differently for a shorter piece. Steps depend on their own frames alone, so pieces fit together.

    Args:
        network: its steps are local.
        frames: uint8 `(T, 3, size, size)`, T at most `length`.
        length: as `piece_length` gives it.
        device: where the network is.
    """
    last = frames[-1:].expand(length - len(frames), *frames.shape[1:])
    whole = torch.cat([frames, last])[None].to(device)
    return [
        tokens[0, : len(frames) // level.span]
        for level, tokens in zip(network.levels, network.encode(whole), strict=True)
    ]


def _join(parts: Sequence[LevelPrediction], one: bool) -> LevelPrediction:
    """Predictions of single videos as those of a batch, or those of the only one."""

    def join(tensors: list[Tensor]) -> Tensor:
        return tensors[0][0] if one else torch.cat(tensors)

    return LevelPrediction(
        join([part.context for part in parts]),
        {h: join([part.predicted[h] for part in parts]) for h in parts[0].predicted},
    )


def _first(arrays: list[np.ndarray]) -> np.ndarray:
    return arrays[0]


def _check_video(video: Any) -> np.ndarray:
    """The video as an array.

    Raises:
        InputError: it is no uint8 `(T, H, W, 3)` or `(B, T, H, W, 3)` with frames in it.
    """
    if isinstance(video, list | tuple):  # of frames, as many readers give them
        if len({np.shape(frame) for frame in video}) > 1:
            shapes = sorted({np.shape(frame) for frame in video})
            raise InputError(f"the frames of a video must all be of one size, got {shapes[:2]}")
        if not video:
            video = np.empty(0, np.uint8)
        elif all(isinstance(frame, Tensor) for frame in video):
            video = torch.stack(list(video))
    pixels = video if isinstance(video, Tensor) else np.asarray(video)
    kind, shape = str(pixels.dtype).removeprefix("torch."), tuple(pixels.shape)
    if kind != "uint8":
        integers = kind.startswith(("int", "uint"))
        raise InputError(
            f"a video must be uint8 from 0 to 255, got {kind}; "
            + (
                "if that is its range: np.asarray(video).astype('uint8')"
                if integers
                else "scale it and round, such as "
                "(video * 255).round().astype('uint8') where it is 0 to 1"
            )
        )
    if len(shape) not in (4, 5) or shape[-1] != 3 or 0 in shape:
        order = {4: "0, 2, 3, 1", 5: "0, 1, 3, 4, 2"}.get(len(shape))
        channels_first = order is not None and shape[-3] == 3
        hint = f"; move the channels last: video.permute({order})" if channels_first else ""
        raise InputError(
            "a video must be (time, height, width, 3), perhaps with a batch axis before, got "
            f"{shape}{hint}"
        )
    return pixels.cpu().numpy() if isinstance(pixels, Tensor) else pixels


def frame_stride(fps: float | Fraction, model_fps: float) -> int:
    """Frames of a video from one that the model sees to the next, as in training.

    Args:
        fps: frames per second of the video.
        model_fps: of the model's clips.

    Raises:
        InputError: the video is slower than the model's clips: what happens between its frames is
            not known.
    """
    if not isinstance(fps, Real) or not 0 < fps < float("inf"):
        raise InputError(f"fps must be a video's frames per second, got {fps!r}")
    fps = float(fps)  # files say it as a fraction
    if fps < model_fps * (1 - FPS_TOLERANCE):
        raise InputError(
            f"the video has {fps:g} frames a second, but this model was trained on "
            f"{model_fps:g}; give a video of that rate or a higher one"
        )
    return sampling.frame_stride_for(fps, model_fps)


def fit_frames(frames: np.ndarray, size: int) -> np.ndarray:
    """Frames as the training data shows them: short side scaled, the square in the middle.

    They are scaled as a video file's are: converted to 4:2:0, as nearly every file holds them, then
    by the decoder's own filter. Against what decoding straight to 64 pixels gives, the tokens of
    five videos differed by 0.2 to 2 % of their variance, scaled as RGB by 1 to 5 %.

    Args:
        frames: uint8 `(T, H, W, 3)`.
        size: pixels a side.

    Returns:
        uint8 `(T, size, size, 3)`; pixels as they are where the short side has that size already.

    Raises:
        InputError: frames far longer than wide.
    """
    height, width = frames.shape[1:3]
    scaled = transforms.scaled_size(width, height, size)
    if scaled != (width, height):
        frames = _scale(frames, scaled)
    return transforms.crop_clip(frames, size, sampling.CENTRE.crop, flip=False)


def _scale(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Frames uint8 `(T, H, W, 3)` in another (width, height)."""
    # The decoder's library, which frames of the right size can do without.
    from av import VideoFrame
    from av.video.reformatter import VideoReformatter

    from worldmodel.data.pyav_video import to_rgb

    scaler, pictures = VideoReformatter(), []
    for frame in frames:
        rgb = VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        pictures.append(to_rgb(scaler, rgb.reformat(format="yuv420p"), size, rotation=0))
    return np.stack(pictures)
