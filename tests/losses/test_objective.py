import math

import pytest
import torch
from einops import rearrange
from torch import nn

from worldmodel.errors import InputError
from worldmodel.losses.baselines import InfoNCE, PixelPrediction
from worldmodel.losses.objective import LossWeights, level_losses, total_loss
from worldmodel.losses.prediction import BarlowTwins, PredictionLoss, SquaredError, VICRegL
from worldmodel.losses.regularizers import Combined, NoRegularizer, Regularizer, SIGReg, VICReg
from worldmodel.losses.scopes import SCOPES
from worldmodel.models.encoder import EncoderConfig
from worldmodel.models.hierarchy import Hierarchy, LevelConfig
from worldmodel.models.transformer import full_precision

NONE = {name: 0.0 for name in SCOPES}
ALONE = LossWeights(**NONE)


class Recorder(Regularizer):
    """Remembers what it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes, self.seeds, self.dtypes = [], [], []

    def forward(self, rows: torch.Tensor, seed: int) -> torch.Tensor:
        self.shapes.append(tuple(rows.shape))
        self.seeds.append(seed)
        self.dtypes.append(rows.dtype)
        return rows.sum()


class PredictionRecorder(PredictionLoss):
    def forward(self, predicted, target, level=0, frames=None, seed=0):
        self.seen = (predicted, target, level, frames, seed)
        return target.sum()


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randn(2, 6, 3, 4, generator=torch.Generator().manual_seed(0))


def test_level_losses__names_are_those_of_the_weights(tokens):
    weights = LossWeights(prediction=1.0, batch=2.0, within_clip=0.0)
    losses = level_losses(tokens, {1: tokens}, tokens, SIGReg(), weights, seed=0)
    assert set(losses) == {"prediction", "batch"}
    torch.testing.assert_close(
        total_loss(losses, weights), losses["prediction"] + 2 * losses["batch"]
    )
    with pytest.raises(ValueError, match="do not match the weights"):
        total_loss({"prediction": losses["prediction"]}, weights)


def test_level_losses__one_penalty_for_each_scope_with_a_weight(tokens):
    weights = LossWeights(batch=1.0, within_clip=1.0, per_step=1.0, per_token=1.0, max_rows=8)
    recorder = Recorder()
    losses = level_losses(tokens, {1: tokens}, tokens, recorder, weights, seed=0)
    assert set(losses) == {"prediction", *SCOPES} == set(weights.used())
    # 8 rows of 2 clips are 4 places; a step has 3 and a position 6.
    assert recorder.shapes == [(1, 8, 4), (1, 8, 4), (6, 6, 4), (3, 8, 4)]


def test_level_losses__nothing_random_is_drawn_twice(tokens):
    weights = LossWeights(batch=1.0, within_clip=1.0, per_step=1.0, per_token=1.0)
    seeds = []
    for step in range(20):
        recorder, prediction = Recorder(), PredictionRecorder()
        level_losses(
            tokens,
            {1: tokens},
            tokens,
            recorder,
            weights,
            seed=step,
            prediction_loss=prediction,
        )
        seeds += [*recorder.seeds, prediction.seen[4]]
    assert len(set(seeds)) == len(seeds) == 100


def test_level_losses__the_prediction_loss_gets_level_and_frames(tokens):
    prediction, frames = PredictionRecorder(), torch.zeros(2, 6, 3, 8, 8, dtype=torch.uint8)
    losses = level_losses(
        tokens,
        {2: tokens},
        tokens + 1,
        NoRegularizer(),
        ALONE,
        seed=3,
        prediction_loss=prediction,
        level=2,
        frames=frames,
    )
    predicted, target, level, given, _ = prediction.seen
    assert losses == {"prediction": target.sum()}
    assert set(predicted) == {2} and level == 2 and given is frames


def test_level_losses__squared_error_if_nothing_else_is_asked_for(tokens):
    ahead = {1: tokens.flip(1), 3: tokens + 1}
    weights = LossWeights()
    plain = level_losses(tokens, ahead, tokens, VICReg(), weights, seed=0)
    chosen = level_losses(
        tokens, ahead, tokens, VICReg(), weights, seed=0, prediction_loss=SquaredError()
    )
    assert plain == chosen


def test_level_losses__each_scope_may_have_a_regularizer_of_its_own(tokens):
    weights = LossWeights(batch=1.0, within_clip=1.0)
    both = nn.ModuleDict({"batch": VICReg(), "within_clip": SIGReg()})
    mixed = level_losses(tokens, {1: tokens}, tokens, both, weights, seed=0)
    for scope, regularizer in both.items():
        alone = level_losses(tokens, {1: tokens}, tokens, regularizer, weights, seed=0)
        assert mixed[scope] == alone[scope]
    assert mixed["batch"] != alone["batch"]


def test_loss_weights__refuses_what_makes_no_sense():
    for name in ("batch", "within_clip", "per_step", "per_token"):
        with pytest.raises(InputError, match=f"weights.{name} must be 0 or more, got -1"):
            LossWeights(**{name: -1.0})
    with pytest.raises(InputError, match=r"weights\.prediction must be positive, got 0"):
        LossWeights(prediction=0.0)
    with pytest.raises(InputError, match=r"weights\.batch must be 0 or more, got nan"):
        LossWeights(batch=math.nan)
    for rows in (1, -3):
        with pytest.raises(InputError, match=r"weights.max_rows must be 0 \(all\) or at least 2"):
            LossWeights(max_rows=rows)


def test_loss_weights__the_number_of_rows_is_no_weight():
    assert LossWeights(max_rows=64).used() == {"prediction": 1.0, "batch": 10.0, "within_clip": 5.0}


def spread_after_training(
    prediction_loss: PredictionLoss, regularizer: Regularizer, weights: LossWeights
) -> tuple[float, float]:
    """Linear encoder, linear predictor, frames that change slowly: what is left of the tokens.

    Returns:
        The greatest standard deviation of the tokens in any direction, and the smallest ÷ it.
    """
    torch.manual_seed(0)
    frames = torch.randn(8, 6, 3, 8, 8)
    for step in range(1, 6):
        frames[:, step] = 0.9 * frames[:, step - 1] + 0.4 * frames[:, step]
    patches = rearrange(frames, "b t c (h p) (w q) -> b t (h w) (c p q)", h=2, w=2)
    level = LevelConfig(stride=1, horizons=(1,), dim=4, width=4, depth=1, num_heads=1)
    prediction_loss.attach(
        Hierarchy(EncoderConfig(size=8, stem_channels=(8,), num_heads=1), [level])
    )
    encoder, head = nn.Linear(48, 4), nn.Linear(4, 4)
    parts = nn.ModuleList([encoder, head, prediction_loss])
    optimizer = torch.optim.Adam(parts.parameters(), lr=0.1)
    for step in range(60):
        tokens = encoder(patches)
        losses = level_losses(
            tokens,
            {1: tokens + head(tokens)},
            tokens,
            regularizer,
            weights,
            seed=step,
            prediction_loss=prediction_loss,
            frames=frames,
        )
        optimizer.zero_grad()
        total_loss(losses, weights).backward()
        optimizer.step()
    variances = torch.linalg.eigvalsh(torch.cov(encoder(patches).detach().flatten(0, 2).T))
    spreads = variances.clamp(min=0).sqrt()
    return float(spreads[-1]), float(spreads[0] / spreads[-1])


@pytest.mark.parametrize("prediction_loss", [SquaredError(), SquaredError(1.0), VICRegL()])
def test_collapse__comes_where_nothing_prevents_it(prediction_loss):
    greatest, _ = spread_after_training(prediction_loss, NoRegularizer(), ALONE)
    assert greatest < 0.1


@pytest.mark.parametrize(
    ("prediction_loss", "regularizer", "weights"),
    [
        *(
            (SquaredError(), SIGReg(num_directions=16), LossWeights(**{**NONE, name: 10.0}))
            for name in SCOPES
        ),
        (SquaredError(), SIGReg(num_directions=16), LossWeights(max_rows=96)),
        (SquaredError(), VICReg(), LossWeights(**{**NONE, "batch": 1.0})),
        (SquaredError(), Combined([SIGReg(), VICReg()], [1.0, 1.0]), LossWeights()),
        (VICRegL(), VICReg(), LossWeights(**{**NONE, "per_token": 1.0})),
        (BarlowTwins(), NoRegularizer(), ALONE),
        (InfoNCE(), NoRegularizer(), ALONE),
        (PixelPrediction(), NoRegularizer(), ALONE),
    ],
)
def test_collapse__is_prevented_by_what_claims_to(prediction_loss, regularizer, weights):
    greatest, ratio = spread_after_training(prediction_loss, regularizer, weights)
    assert greatest > 0.5
    assert ratio > 0.15


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_level_losses__half_precision_is_not_used_for_statistics(tokens, dtype):
    half = tokens.to(dtype)
    weights = LossWeights(batch=1.0, within_clip=1.0)
    losses = {}
    for name, given in (("half", half), ("full", half.float())):
        recorder = Recorder()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            level_losses(given, {1: given}, given, recorder, weights, seed=0)
            losses[name] = level_losses(
                given,
                {1: given.flip(1)},
                given,
                VICReg(),
                weights,
                seed=0,
                prediction_loss=InfoNCE(),
            )
        assert set(recorder.dtypes) == {torch.float32}
    assert losses["half"] == losses["full"]
    assert full_precision(tokens.double()).dtype == torch.float64
