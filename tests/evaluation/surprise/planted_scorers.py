"""Models and choices that tests of surprise share."""

from types import SimpleNamespace

import torch
from square_world import Planted
from torch import Tensor

from worldmodel.evaluation.footage import Block
from worldmodel.evaluation.surprise import BlockScores, Candidate, Choice, score_blocks
from worldmodel.models.encoder import EncoderConfig
from worldmodel.models.hierarchy import Hierarchy, LevelConfig, LevelPrediction

CPU = torch.device("cpu")


class Seer(Planted):
    """`Planted`, whose upper level can be had from level 0 as well."""

    def abstract(self, tokens_0: Tensor) -> list[Tensor]:
        return [tokens_0, tokens_0.unflatten(1, (-1, 2)).mean(2)]


class Foreign:
    """An encoder whose tokens depend on the whole clip, and which predicts from frames."""

    steps_are_local = False

    def __init__(self, horizons: tuple[int, ...] = (1, 2)) -> None:
        self.levels = [
            SimpleNamespace(span=1, dim=1, width=1, num_tokens=1, grid=(1, 1), horizons=horizons)
        ]
        self.seen: list[Tensor] = []

    def encode(self, frames: Tensor) -> list[Tensor]:
        shown = (frames > 200).float().flatten(2).mean(2)[:, :, None, None]
        return [shown - shown.mean(1, keepdim=True)]

    def predict(self, tokens: list[Tensor], frames: Tensor) -> list[LevelPrediction]:
        self.seen.append(frames)
        shown = (frames > 200).float().flatten(2).mean(2)[:, :, None, None]
        context = shown.cummax(1).values
        return [LevelPrediction(context, {h: 0 * tokens[0] for h in self.levels[0].horizons})]


def small_hierarchy(num_levels: int = 3, seed: int = 0) -> Hierarchy:
    torch.manual_seed(seed)
    encoder = EncoderConfig(size=16, stem_channels=(8,))
    narrow = {"dim": 16, "width": 16, "depth": 1, "num_heads": 2}
    levels = [
        LevelConfig(horizons=(1, 2), stride=1, **narrow),
        LevelConfig(horizons=(1,), stride=2, **narrow),
        LevelConfig(horizons=(1,), stride=2, **narrow),
    ]
    model = Hierarchy(encoder, levels[:num_levels]).eval().requires_grad_(False)
    model.reset_heads()
    return model


def at(place: tuple[int, int], context_frames: int = 0) -> Choice:
    return Choice(Candidate(*place, context_frames), place, {}, 1.0, 1)


def pixel_scores(blocks: list[Block]) -> BlockScores:
    """What the scorers without a network say of some blocks."""
    scores = score_blocks(Foreign(horizons=()), blocks, CPU)
    assert set(scores.curves) == {"pixels_short", "pixels_long"}
    return scores
