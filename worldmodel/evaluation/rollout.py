"""Does a slow level see farther? One coarse step against many fine ones.

The tracked object's place is read from predicted tokens by a linear probe fitted on real ones,
after the level-0 predictor has run on its own predictions frame by frame, and after a slow level
has predicted the same moment directly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldmodel.evaluation.network import CHUNK, levels_of, predict_level
from worldmodel.evaluation.objects import Decoder, Splits, Track, choose_decoder
from worldmodel.evaluation.probes import mean_distance
from worldmodel.models.hierarchy import Hierarchy

STARTS_PER_CLIP = 2
MIN_GAP_FRAMES = 4


def direct_routes(
    spans: Sequence[int], horizons: Sequence[Sequence[int]]
) -> dict[int, tuple[int, int]]:
    """For each gap in frames that a slow level spans in one prediction: the slowest such level.

    Returns:
        gap -> (level, horizon), for gaps of at least `MIN_GAP_FRAMES`, levels above 0.
    """
    routes = {}
    for level in range(1, len(spans)):
        for horizon in horizons[level]:
            if horizon * spans[level] >= MIN_GAP_FRAMES:
                routes[horizon * spans[level]] = (level, horizon)
    return dict(sorted(routes.items()))


def start_frames(num_frames: int, span: int, gap: int) -> list[int]:
    """The last `STARTS_PER_CLIP` ends of steps of `span` with `gap` frames after them."""
    ends = range(span - 1, num_frames - gap, span)
    return list(ends)[-STARTS_PER_CLIP:]


@torch.no_grad()
def roll_out(model: Hierarchy, tokens: Sequence[Tensor], start: int, gap: int) -> Tensor:
    """Level-0 tokens of the frames after `start`, the predictor run on its own predictions.

    Args:
        model: a `Hierarchy` whose level 0 predicts one step ahead.
        tokens: per level `(B, T_l, N_l, D_l)`; nothing after frame `start` of level 0 is used.
        start: last real frame.
        gap: frames to go.

    Returns:
        `(B, gap, N_0, D_0)`.
    """
    known = tokens[0][:, : start + 1]
    for _ in range(gap):
        following = predict_level(model, [known, *tokens[1:]], 0).predicted[1][:, -1:]
        known = torch.cat([known, following], dim=1)
    return known[:, start + 1 :]


@dataclass
class Guesses:
    """Decoded and true places, px, of all clips and starts at one gap."""

    by_route: dict[str, list[np.ndarray]]
    true: list[np.ndarray]

    def report(self, level: int, horizon: int) -> dict[str, float]:
        """Mean absolute error of each route."""
        true = np.concatenate(self.true)
        errors = {
            name: mean_distance(np.concatenate(guesses), true)
            for name, guesses in self.by_route.items()
        }
        return errors | {"num_frames": len(true), "level": level, "horizon": horizon}


def rollout_section(
    model: Hierarchy, splits: Splits, device: torch.device
) -> dict[str, dict[str, float]]:
    """The section `rollout`: mean absolute error of the object's place in px, for each gap.

    Args:
        model: a `Hierarchy`.
        splits: with `tokens` of every level besides the context states of the model.
        device: where the model is.

    Returns:
        Empty where level 0 does not predict one step ahead, no slow level spans a gap, or too few
        frames show the object.
    """
    levels = levels_of(model)
    routes = direct_routes([each.span for each in levels], [each.horizons for each in levels])
    needed = {0} | {level for level, _ in routes.values()}
    decoders = {
        level: decoder
        for level in sorted(needed)
        if (decoder := choose_decoder(splits, "tokens", "visible", [level])) is not None
    }
    if 1 not in levels[0].horizons or not routes or needed != set(decoders):
        return {}
    found = {
        gap: Guesses({"fine_rollout": [], "coarse_direct": [], "copy": []}, []) for gap in routes
    }
    test = splits[2]
    shapes = [(each.num_tokens, each.dim) for each in levels]
    states = [
        test.states("tokens", number).unflatten(2, shape) for number, shape in enumerate(shapes)
    ]
    for first in range(0, len(test.tracks), CHUNK):
        part = slice(first, first + CHUNK)
        own = [torch.cat([s[part], s[-1:].expand(CHUNK, -1, -1, -1)])[:CHUNK] for s in states]
        tokens = [values.to(device) for values in own]
        _follow(model, tokens, test.tracks[part], routes, decoders, found)
    return {
        f"gap{gap}": guesses.report(*routes[gap]) for gap, guesses in found.items() if guesses.true
    }


def _follow(
    model: Hierarchy,
    tokens: list[Tensor],
    tracks: Sequence[Track],
    routes: Mapping[int, tuple[int, int]],
    decoders: Mapping[int, Decoder],
    found: Mapping[int, Guesses],
) -> None:
    """Take in the guesses of one chunk of clips at every start and gap."""
    spans = [level.span for level in levels_of(model)]
    farthest = max(routes)
    with torch.no_grad():
        ahead = model.predict(tokens)

    def decode(level: int, values: Tensor) -> np.ndarray:
        return decoders[level].probe(values.cpu().flatten(1))

    for start in start_frames(len(tracks[0].visible), max(spans), farthest):
        rolled = roll_out(model, tokens, start, farthest)
        for gap, (level, horizon) in routes.items():
            end = start + gap
            use = [n for n, track in enumerate(tracks) if track.visible[start] & track.visible[end]]
            if not use:
                continue
            coarse = ahead[level].predicted[horizon][use, (start + 1) // spans[level] - 1]
            guesses = found[gap]
            guesses.by_route["fine_rollout"].append(decode(0, rolled[use, gap - 1]))
            guesses.by_route["coarse_direct"].append(decode(level, coarse))
            guesses.by_route["copy"].append(decode(0, tokens[0][use, start]))
            guesses.true.append(np.stack([tracks[n].position[end] for n in use]))
