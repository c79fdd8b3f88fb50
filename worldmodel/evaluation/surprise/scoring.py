"""Run a model and untrained networks over blocks, a few blocks at a time.

Each block is scored by itself, on one thread and with shapes that depend on nothing but the block,
so that its scores are the same to the bit in whatever process and company it is scored.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.errors import InputError
from worldmodel.evaluation.footage import Block
from worldmodel.evaluation.network import (
    CHUNK,
    Network,
    Place,
    chunked,
    levels_of,
    one_thread,
    predict_level,
)
from worldmodel.evaluation.scores import token_distances
from worldmodel.evaluation.surprise.choice import COMBINED, Choice, copy_key
from worldmodel.evaluation.surprise.peaks import peak_places
from worldmodel.evaluation.surprise.scores import (
    BlockFacts,
    BlockScores,
    CurveKey,
    NetworkScores,
    Window,
    join_scores,
)
from worldmodel.evaluation.surprise.splices import (
    frame_sources,
    step_owners,
    take_from_owners,
)

CPU = torch.device("cpu")
# Half a second is shorter than nearly all hidings at 8 fps, and two seconds longer than nearly all.
CONTEXT_FRAMES = (4, 16)
# Windows end at every eighth frame. The literature slides them by two (Garrido et al. 2025, arXiv
# 2502.11831), at four times the cost.
WINDOW_STRIDE_FRAMES = 8
# Steps that the predictor sees at once in windows: as many as in four clips of 32 frames.
WINDOW_STEPS = 128


@dataclass(frozen=True)
class FourClips:
    """The clips AA, BB, AB and BA of a block."""

    block: Block

    @cached_property
    def sources(self) -> np.ndarray:
        """See `frame_sources`."""
        return frame_sources(self.block)

    @cached_property
    def frames(self) -> Tensor:
        """uint8 `(4, T, C, H, W)`."""
        return self.block.frames.flatten(0, 1)[torch.from_numpy(self.sources)]

    @cached_property
    def facts(self) -> BlockFacts:
        """See `BlockFacts`."""
        return BlockFacts.of(self.block)

    def owners(self, span: int) -> np.ndarray:
        """See `step_owners`."""
        return step_owners(self.sources, span)

    def step_names(self, span: int) -> np.ndarray:
        """`(4, T // span)` numbers that are equal where frames of the same step are."""
        owners = self.owners(span)
        return owners * owners.shape[1] + np.arange(owners.shape[1])

    def branch_start(self, span: int) -> int:
        """The first step at which AB differs from AA, or BA from BB; their number if none does."""
        names = self.step_names(span)
        differ = np.flatnonzero((names[2:] != names[:2]).any(0))
        return int(differ[0]) if len(differ) else names.shape[1]


def encode_four(network: Network, clips: FourClips, device: torch.device) -> list[Tensor]:
    """Tokens of the four clips at every level, `(4, T_l, N_l, D_l)`.

    Pictures that clips share are encoded once at level 0, and steps with the same frames have the
    same tokens to the bit, where the network's steps are local; else each clip is encoded whole.
    """
    spans = [level.span for level in levels_of(network)]
    if not network.steps_are_local:
        return network.encode(clips.frames.to(device))
    if spans[0] == 1 and hasattr(network, "abstract"):
        tokens = network.abstract(_first_tokens(network, clips, max(spans), device))
    else:
        tokens = network.encode(clips.frames.to(device))
    return [
        take_from_owners(values, clips.owners(span))
        for values, span in zip(tokens, spans, strict=True)
    ]


def _first_tokens(
    network: Network, clips: FourClips, multiple: int, device: torch.device
) -> Tensor:
    """Level 0 of the four clips; all different pictures are encoded as one clip.

    Args:
        network: whose level 0 sees single frames.
        clips: of the block.
        multiple: frames of a clip must be a multiple of this.
        device: where the network is.
    """
    both = clips.block.frames.flatten(0, 1)
    used, where = np.unique(clips.sources, return_inverse=True)
    used = np.append(used, np.full(-len(used) % multiple, used[-1]))
    tokens = network.encode(both[torch.from_numpy(used)][None].to(device))[0][0]
    return tokens[torch.from_numpy(where.reshape(clips.sources.shape))]


def token_surprise(tokens: Tensor, guess: Tensor, horizon: int) -> np.ndarray:
    """Distance of each predicted token from what came; `(B, T - horizon, N)`.

    Args:
        tokens: `(B, T, N, D)`.
        guess: `(B, T, N, D)`, entry τ for step τ + `horizon`.
        horizon: steps ahead, fewer than T.
    """
    return token_distances(guess[:, : tokens.shape[1] - horizon], tokens[:, horizon:])


def prediction_surprise(tokens: Tensor, guess: Tensor, horizon: int) -> np.ndarray:
    """Distance of predicted tokens from what came, mean over tokens; `(B, T - horizon)`.

    Args:
        tokens: `(B, T, N, D)`.
        guess: `(B, T, N, D)`, entry τ for step τ + `horizon`.
        horizon: steps ahead, fewer than T.
    """
    return token_surprise(tokens, guess, horizon).mean(2)


def window_ends(num_steps: int, window: Window, span: int) -> np.ndarray:
    """Last steps τ of the windows that see a clip with a limited past.

    Every window is full, and the step τ + h that it predicts lies within the clip.

    Args:
        num_steps: of the clip at the level.
        window: level, horizon h and frames of the past, of which whole steps are seen.
        span: frames per step.
    """
    _, horizon, frames = window
    stride = max(WINDOW_STRIDE_FRAMES // span, 1)
    return np.arange(frames // span - 1, num_steps - horizon, stride)


def window_surprise(
    network: Network, tokens: list[Tensor], clips: FourClips, level: int, frames: int
) -> dict[Window, np.ndarray]:
    """Surprise of a predictor that sees the last `frames` frames alone; `(4, windows)`.

    The predictor runs on each window by itself and its last step's prediction counts. Windows that
    show the same frames at the same time are run once.

    Args:
        network: whose steps are local.
        tokens: of the four clips at every level, on the network's device.
        clips: the four clips.
        level: whose predictor.
        frames: of the past.

    Returns:
        For each of the level's horizons, with one entry for each of `window_ends`.
    """
    shape = levels_of(network)[level]
    length, num_steps = frames // shape.span, tokens[level].shape[1]
    horizons = [h for h in shape.horizons if length - 1 + h < num_steps]
    if not horizons:
        return {}
    ends = window_ends(num_steps, (level, min(horizons), frames), shape.span)
    steps = ends[:, None] + np.arange(1 - length, 1)
    names = clips.step_names(shape.span)[:, steps].reshape(-1, length)
    _, first, where = np.unique(names, axis=0, return_index=True, return_inverse=True)
    clip, window = np.divmod(first, len(ends))
    guesses: dict[int, list[Tensor]] = {horizon: [] for horizon in horizons}
    size = max(WINDOW_STEPS // length, 1)
    for start in range(0, len(first), size):
        rows = slice(start, start + size)
        seen = tokens[level][
            torch.from_numpy(clip[rows])[:, None], torch.from_numpy(steps[window[rows]])
        ]
        given = [values[:1].expand(len(seen), *values.shape[1:]) for values in tokens]
        given[level] = seen
        predicted = predict_level(network, given, level).predicted
        for horizon in horizons:
            guesses[horizon].append(predicted[horizon][:, -1].cpu())
    found: dict[Window, np.ndarray] = {}
    for horizon in horizons:
        guess = torch.cat(guesses[horizon])[torch.from_numpy(where.reshape(4, len(ends)))]
        count = len(window_ends(num_steps, (level, horizon, frames), shape.span))
        true = tokens[level][:, torch.from_numpy(ends[:count] + horizon)].cpu()
        found[level, horizon, frames] = token_distances(guess[:, :count], true).mean(2)
    return found


def pixel_curves(clips: FourClips) -> dict[CurveKey, np.ndarray]:
    """Surprise of `pixel_surprise`'s two scorers; `(4, T - 1)` each.

    From the products of all pairs of pictures, which are whole numbers and exact in float64.
    """
    both = clips.block.frames.flatten(2).flatten(0, 1).double()
    products = (both @ both.T).numpy()
    num_pixels, steps = both.shape[1], clips.sources.shape[1]
    counts = np.arange(1, steps)
    curves: dict[CurveKey, np.ndarray] = {}
    for name in ("pixels_short", "pixels_long"):
        rows = []
        for sources in clips.sources:
            own = products[np.ix_(sources, sources)]
            power = np.diag(own)[1:]
            if name == "pixels_short":
                change = power - 2 * np.diag(own, 1) + np.diag(own)[:-1]
            else:
                sums = np.cumsum(own, axis=1)
                past = np.cumsum(np.cumsum(own, axis=0), axis=1)
                mixed = sums[counts, counts - 1] / counts
                change = power - 2 * mixed + past[counts - 1, counts - 1] / counts**2
            rows.append(np.log1p(np.maximum(change, 0) / num_pixels))
        curves[name] = np.stack(rows)
    return curves


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Where a network is to be scored.

    Attributes:
        places: with the whole past; None for all.
        windows: with a window of it.
        context_frames: or with windows of these lengths, at all places.
        copies: the copy predictor as well.
    """

    places: tuple[Place, ...] | None = None
    windows: tuple[Window, ...] = ()
    context_frames: tuple[int, ...] = ()
    copies: bool = False


def wanted_for(choice: Choice) -> Wanted:
    """What the headline and its peaks need."""
    if choice.candidate == COMBINED:
        return Wanted()
    windows = (choice.candidate.key,) if choice.candidate.context_frames else ()
    return Wanted(places=(choice.place,), windows=windows)  # type: ignore[arg-type]


@dataclass(frozen=True)
class ScoreBlocks:
    """Scores lists of blocks; may be called in any process, for instance as a collate function.

    Attributes:
        model: scored at all levels, horizons and context lengths.
        untrained: networks of its architecture with fresh weights, scored where the headline is.
        choice: the headline's, of `choose`; None while it is still to be chosen.
        device: where the networks are; one other than the CPU only in the main process.
        context_frames: lengths of past that are tried beside the whole; empty where steps are not
            local.
        everywhere: False scores the model, too, only where the headline is.
    """

    model: Network
    untrained: tuple[Network, ...] = ()
    choice: Choice | None = None
    device: torch.device = CPU
    context_frames: tuple[int, ...] = CONTEXT_FRAMES
    everywhere: bool = True

    def __post_init__(self) -> None:
        if self.choice is None and (self.untrained or not self.everywhere):
            raise ValueError("where the headline is must be chosen before it can be scored there")

    def __call__(self, blocks: list[Block]) -> BlockScores:
        """Scores of some blocks, at least one, in their order.

        Raises:
            InputError: a surprise is not a finite number.
        """
        with one_thread(), torch.no_grad():
            return join_scores([self._score(block) for block in blocks])

    def _score(self, block: Block) -> BlockScores:
        clips = FourClips(block)
        wanted = Wanted(context_frames=self.context_frames)
        if not self.everywhere and self.choice is not None:
            wanted = wanted_for(self.choice)
        own = score_network(self.model, clips, replace(wanted, copies=True), self.device)
        others = []
        if self.choice is not None:
            at_headline = wanted_for(self.choice)
            others = [
                score_network(network, clips, at_headline, self.device)
                for network in self.untrained
            ]
        return BlockScores(
            keys=[block.key],
            kinds=np.array([block.kind]),
            curves={key: curve[None] for key, curve in (own.curves | pixel_curves(clips)).items()},
            facts=[clips.facts],
            space={place: hits[None] for place, hits in own.space.items()},
            untrained=[
                NetworkScores(
                    {key: curve[None] for key, curve in other.curves.items()},
                    {place: hits[None] for place, hits in other.space.items()},
                )
                for other in others
            ],
        )


def score_network(
    network: Network, clips: FourClips, wanted: Wanted, device: torch.device
) -> NetworkScores:
    """Scores of one network on one block, without a leading axis.

    Raises:
        InputError: a surprise is not a finite number.
    """
    levels = levels_of(network)
    tokens = encode_four(network, clips, device)
    found = NetworkScores({})
    predictions = _predict(network, tokens, clips, wanted, device)
    for level, prediction in predictions.items():
        own = tokens[level].cpu()
        for horizon, guess in prediction.predicted.items():
            place = (level, horizon)
            if horizon < own.shape[1] and (wanted.places is None or place in wanted.places):
                surprise = token_surprise(own, guess.cpu(), horizon)
                _keep(found, place, surprise, clips, levels[level])
                if wanted.copies:
                    found.curves[copy_key(place)] = prediction_surprise(own, own, horizon)
    for level, frames in _window_lengths(network, wanted):
        for window, curve in window_surprise(network, tokens, clips, level, frames).items():
            if not wanted.windows or window in wanted.windows:
                found.curves[window] = _finite(curve, window, clips.block)
                if wanted.copies:
                    own = tokens[level].cpu()
                    copied = prediction_surprise(own, own, window[1])
                    ends = window_ends(own.shape[1], window, levels[level].span)
                    found.curves[copy_key(window)] = copied[:, ends]
    return found


def _keep(
    found: NetworkScores, place: Place, surprise: np.ndarray, clips: FourClips, level: Any
) -> None:
    """Enter a place's surprise `(4, steps, N)`: the mean over tokens, and where it peaks."""
    found.curves[place] = _finite(surprise.mean(2), place, clips.block)
    if surprise.shape[2] > 1:
        frame = clips.facts.violation_frame
        found.space[place] = peak_places(
            surprise, clips.block.truth, frame, place, level.span, tuple(level.grid)
        )


def _finite(curve: np.ndarray, key: CurveKey, block: Block) -> np.ndarray:
    if not np.isfinite(curve).all():
        raise InputError(
            f"the surprise at {key} of block {block.key} is not a finite number: the network's "
            "output holds nan or inf; its training may have diverged, evaluate an earlier "
            "checkpoint"
        )
    return curve


def _predict(
    network: Network, tokens: list[Tensor], clips: FourClips, wanted: Wanted, device: torch.device
) -> dict[int, Any]:
    """Predictions of the levels that are needed; what clips share is predicted once."""
    if not network.steps_are_local:
        frames = clips.frames.to(device)
        return dict(enumerate(network.predict(tokens, frames)))  # type: ignore[call-arg]
    needed = list(range(len(tokens)))
    if wanted.places is not None:
        needed = sorted({level for level, _ in wanted.places})
    if hasattr(network, "predict_branches"):
        starts = [clips.branch_start(level.span) for level in levels_of(network)]
        return network.predict_branches(tokens, starts, needed)
    return {level: predict_level(network, tokens, level) for level in needed}


def _window_lengths(network: Network, wanted: Wanted) -> list[tuple[int, int]]:
    """Levels and context lengths in frames at which windows are to be run."""
    if not network.steps_are_local:
        return []
    if wanted.windows:
        return sorted({(level, frames) for level, _, frames in wanted.windows})
    return [
        (level, frames)
        for level, shape in enumerate(levels_of(network))
        for frames in wanted.context_frames
        if shape.horizons and frames >= shape.span
    ]


def score_blocks(
    model: Network, blocks: Iterable[Block], device: torch.device, **options: Any
) -> BlockScores:
    """Scores of a model on many blocks, in this process.

    Args:
        model: what is scored.
        blocks: in the order of their keys; read one chunk at a time.
        device: where the model is.
        **options: of `ScoreBlocks`.

    Raises:
        InputError: there are no blocks, or a surprise is not a finite number.
    """
    score = ScoreBlocks(model, device=device, **options)
    parts = [score(chunk) for chunk in chunked(blocks, CHUNK // 2)]
    if not parts:
        raise InputError(
            "there are no blocks to score; make a set with blocks by "
            "`worldmodel generate --num_blocks 20`"
        )
    return join_scores(parts)
