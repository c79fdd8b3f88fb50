import math

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from worldmodel.errors import InputError
from worldmodel.losses.baselines import InfoNCE, PixelPrediction, last_patches
from worldmodel.losses.prediction import prediction_energy
from worldmodel.models.encoder import EncoderConfig
from worldmodel.models.hierarchy import Hierarchy, LevelConfig


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def contrast_by_hand(
    predicted: np.ndarray, target: np.ndarray, horizon: int, temperature: float, other_steps: bool
) -> float:
    """Every prediction's list of candidates written out, scored by scikit-learn."""
    batch, time, places, _ = target.shape
    losses = []
    for clip in range(batch):
        for step in range(time - horizon):
            for place in range(places):
                query, ahead = predicted[clip, step, place], step + horizon
                candidates = [target[clip, ahead, place]]
                candidates += [
                    target[c, ahead, p]
                    for c in range(batch)
                    for p in range(places)
                    if (c, p) != (clip, place)
                ]
                if other_steps:
                    candidates += [target[clip, t, place] for t in range(time) if t != ahead]
                scores = -np.mean((np.array(candidates) - query) ** 2, axis=1) / temperature
                chances = np.exp(scores) / np.exp(scores).sum()
                losses.append(log_loss([0], chances[None], labels=range(len(chances))))
    return float(np.mean(losses))


@pytest.mark.parametrize("other_steps", [False, True])
@pytest.mark.parametrize("temperature", [0.3, 2.0])
def test_infonce__is_the_cross_entropy_of_picking_the_target(other_steps, temperature):
    target, predicted = normal(3, 5, 2, 4), normal(3, 5, 2, 4, seed=1)
    loss = InfoNCE(temperature=temperature, other_steps=other_steps)
    for horizon in (1, 3):
        expected = contrast_by_hand(
            predicted.numpy(), target.numpy(), horizon, temperature, other_steps
        )
        assert float(loss({horizon: predicted}, target)) == pytest.approx(expected, rel=1e-10)


def test_infonce__is_the_mean_over_horizons_and_looks_only_at_steps_that_came():
    target, near, far = normal(2, 6, 3, 4), normal(2, 6, 3, 4, seed=1), normal(2, 6, 3, 4, seed=2)
    loss = InfoNCE()
    apart = [float(loss({1: near}, target)), float(loss({4: far}, target))]
    assert float(loss({1: near, 4: far}, target)) == pytest.approx(sum(apart) / 2, rel=1e-12)
    beyond = far.clone()
    beyond[:, 2:] = 100.0
    assert float(loss({4: beyond}, target)) == apart[1]
    with pytest.raises(InputError, match="a horizon of 6 steps needs clips of more steps, got 6"):
        loss({6: near}, target)


@pytest.mark.parametrize("max_negatives", [0, 3])
def test_infonce__gradient_is_that_of_finite_differences(max_negatives):
    loss = InfoNCE(temperature=0.5, max_negatives=max_negatives)
    target = normal(2, 4, 2, 3).requires_grad_()
    predicted = normal(2, 4, 2, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda p, t: loss({1: p}, t, seed=5), (predicted, target))


def test_infonce__collapse_costs_the_logarithm_of_the_candidates():
    tokens = torch.ones(3, 5, 2, 4)
    # 3 clips of 2 places; with the own clip's other 4 steps.
    assert float(InfoNCE(other_steps=False)({1: tokens}, tokens)) == pytest.approx(math.log(6))
    assert float(InfoNCE(other_steps=True)({1: tokens}, tokens)) == pytest.approx(math.log(10))


def test_infonce__what_never_changes_is_enough_without_other_steps_and_not_with_them():
    constant = 5 * normal(4, 1, 3, 8).expand(4, 6, 3, 8)
    assert float(InfoNCE(other_steps=False)({1: constant}, constant)) < 1e-6
    assert float(InfoNCE(other_steps=True)({1: constant}, constant)) == pytest.approx(math.log(6))


def test_infonce__a_lower_energy_is_a_lower_loss():
    target = normal(4, 6, 3, 8)
    right = torch.roll(target, -1, dims=1)
    losses, energies = [], []
    for noise in (0.0, 0.3, 1.0, 3.0):
        predicted = right + noise * normal(4, 6, 3, 8, seed=1)
        losses.append(float(InfoNCE()({1: predicted}, target)))
        energies.append(float(prediction_energy(predicted, target, 1).mean()))
    assert losses == sorted(losses) and energies == sorted(energies)
    assert losses[0] < 0.01 and losses[-1] > 2


def test_infonce__does_not_tie_predictions_to_the_scale_of_targets():
    # At a high temperature exaggerating is better than being right.
    target = normal(4, 6, 3, 8)
    right = torch.roll(target, -1, dims=1)
    loss = InfoNCE(temperature=1.0, other_steps=False)
    assert loss({1: 2 * right}, target) < loss({1: right}, target)


def test_infonce__cap_draws_that_many_tokens_by_the_seed():
    tokens = torch.ones(4, 5, 4, 2, dtype=torch.float64)  # 16 candidates a step
    loss = InfoNCE(other_steps=False, max_negatives=5)
    # Of 16 predictions 5 have their own target among the 5 drawn, and one negative less.
    expected = (5 * math.log(5) + 11 * math.log(6)) / 16
    assert float(loss({1: tokens}, tokens)) == pytest.approx(expected)
    target, predicted = normal(4, 5, 4, 2), normal(4, 5, 4, 2, seed=1)
    assert loss({1: predicted}, target, seed=1) == loss({1: predicted}, target, seed=1)
    assert loss({1: predicted}, target, seed=1) != loss({1: predicted}, target, seed=2)
    by_hand = contrast_by_hand(predicted.numpy(), target.numpy(), 1, 2.0, other_steps=False)
    for enough in (0, 16, 1000):
        whole = InfoNCE(temperature=2.0, other_steps=False, max_negatives=enough)
        assert float(whole({1: predicted}, target, seed=1)) == pytest.approx(by_hand)


def test_infonce__only_the_own_target_left_to_pick_costs_nothing():
    target = normal(1, 4, 2, 3).requires_grad_()
    loss = InfoNCE(other_steps=False, max_negatives=1)({1: target}, target, seed=0)
    loss.backward()
    assert loss.isfinite() and target.grad.isfinite().all()


def test_infonce__is_exact_for_far_tokens_and_low_temperatures():
    target = 100 * torch.randn(2, 4, 3, 8, generator=torch.Generator().manual_seed(0))
    predicted = torch.roll(target, -1, dims=1).requires_grad_()
    loss = InfoNCE(temperature=0.01)({1: predicted}, target)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    assert predicted.grad.isfinite().all()


def test_infonce__refuses_what_makes_no_sense():
    for wrong in ({"temperature": 0.0}, {"temperature": math.nan}, {"max_negatives": -1}):
        with pytest.raises(InputError, match="positive temperature and a max_negatives of 0"):
            InfoNCE(**wrong)
    one = torch.zeros(1, 4, 1, 3)
    with pytest.raises(InputError, match="one clip with one token per step at level 2; raise data"):
        InfoNCE(other_steps=False)({1: one}, one, level=2)
    assert InfoNCE(other_steps=True)({1: one}, one, level=2) > 0


@pytest.fixture
def pixels(hierarchy) -> PixelPrediction:
    torch.manual_seed(1)
    loss = PixelPrediction()
    loss.attach(hierarchy)
    return loss


def level_tokens(hierarchy, clip, level: int) -> torch.Tensor:
    return hierarchy.encode(clip.frames)[level].detach()


def test_last_patches__are_those_of_the_last_frame_of_each_step(clip):
    # Level 2 of the small hierarchy: 12 frames in 3 steps of 4, one row and column of tokens.
    patches = last_patches(clip.frames, span=4, steps=3, grid=(1, 1))
    assert patches.shape == (2, 3, 1, 3 * 32 * 32)
    for step in range(3):
        frame = clip.frames[1, 4 * step + 3].flatten().numpy()
        expected = (frame / 255 - 0.5) * 3
        np.testing.assert_allclose(patches[1, step, 0].numpy(), expected, atol=1e-6)


def test_last_patches__lie_where_their_tokens_lie(clip):
    patches = last_patches(clip.frames, span=1, steps=12, grid=(4, 4))
    assert patches.shape == (2, 12, 16, 3 * 8 * 8)
    # Token 6 is in row 1, column 2.
    frame = clip.frames[0, 5, :, 8:16, 16:24].flatten().numpy()
    np.testing.assert_allclose(patches[0, 5, 6].numpy(), (frame / 255 - 0.5) * 3, atol=1e-6)


def test_last_patches__frames_that_fill_no_step_are_left_out(clip):
    whole = last_patches(clip.frames, span=4, steps=2, grid=(1, 1))
    cut = last_patches(clip.frames[:, :11], span=4, steps=2, grid=(1, 1))
    assert torch.equal(whole, cut)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_pixels__is_the_error_of_decoded_tokens(hierarchy, clip, pixels, level):
    tokens = level_tokens(hierarchy, clip, level)
    predicted = {h: torch.randn_like(tokens) for h in hierarchy.levels[level].horizons}
    span, rows = hierarchy.levels[level].span, hierarchy.levels[level].grid[0]
    side = 32 // rows
    weight, bias = (p.detach().numpy() for p in pixels.decoders[level].parameters())

    def decode(token: torch.Tensor) -> np.ndarray:
        return (weight @ token.numpy() + bias).reshape(3, side, side)

    def error(values: torch.Tensor, ahead: int) -> float:
        squares = []
        for b in range(2):
            for step in range(tokens.shape[1] - ahead):
                frame = clip.frames[b, (step + ahead) * span + span - 1].numpy()
                for place in range(rows * rows):
                    top, left = place // rows * side, place % rows * side
                    patch = (frame[:, top : top + side, left : left + side] / 255 - 0.5) * 3
                    squares.append(np.mean((decode(values[b, step, place]) - patch) ** 2))
        return float(np.mean(squares))

    ahead = np.mean([error(values, h) for h, values in predicted.items()])
    found = pixels(predicted, tokens, level, clip.frames)
    assert float(found.detach()) == pytest.approx(ahead + error(tokens, 0), rel=1e-4)


def test_pixels__weight_of_the_present(hierarchy, clip):
    tokens, losses = level_tokens(hierarchy, clip, 0), {}
    predicted = {1: tokens + 1}
    for present in (0.0, 1.0, 3.0):
        torch.manual_seed(1)
        loss = PixelPrediction(present=present)
        loss.attach(hierarchy)
        losses[present] = float(loss(predicted, tokens, 0, clip.frames).detach())
    reconstruction = losses[1.0] - losses[0.0]
    assert reconstruction > 0.1
    assert losses[3.0] == pytest.approx(losses[0.0] + 3 * reconstruction, rel=1e-5)


def test_pixels__frames_already_normalised_are_taken_as_they_are(hierarchy, clip, pixels):
    tokens = level_tokens(hierarchy, clip, 0)
    uint8 = pixels({1: tokens}, tokens, 0, clip.frames)
    floats = pixels({1: tokens}, tokens, 0, hierarchy.normalize(clip.frames))
    assert torch.equal(uint8, floats)


def test_pixels__decoders_are_learned_with_the_model(hierarchy, clip, pixels):
    assert {name for name, _ in pixels.named_parameters()} == {
        f"decoders.{level}.{kind}" for level in range(3) for kind in ("weight", "bias")
    }
    tokens = hierarchy.encode(clip.frames)
    for level, prediction in enumerate(hierarchy.predict(tokens)):
        pixels(prediction.predicted, tokens[level], level, clip.frames).backward(retain_graph=True)
    assert all(p.grad.abs().sum() > 0 for p in pixels.parameters())
    assert hierarchy.levels[0].encoder.head[1].weight.grad.abs().sum() > 0


def test_pixels__learns_to_show_what_tokens_hold():
    # Tokens that are the colour of their patch: a linear decoder can learn to paint it.
    level = LevelConfig(stride=1, horizons=(1,), dim=4, width=4, depth=1, num_heads=1)
    encoder = EncoderConfig(size=8, stem_channels=(8,), num_heads=1)
    torch.manual_seed(0)
    loss = PixelPrediction()
    loss.attach(Hierarchy(encoder, [level]))
    colours = torch.rand(4, 6, 4, 4)
    frames = torch.zeros(4, 6, 3, 8, 8)
    for place in range(4):
        top, left = place // 2 * 4, place % 2 * 4
        frames[..., top : top + 4, left : left + 4] = colours[:, :, place, :3, None, None]
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        value = loss({1: torch.roll(colours, -1, dims=1)}, colours, 0, frames)
        value.backward()
        optimizer.step()
    assert float(value.detach()) < 1e-3


def test_pixels__two_layers_and_what_makes_no_sense(hierarchy):
    loss = PixelPrediction(hidden=5)
    loss.attach(hierarchy)
    assert [p.shape for p in loss.decoders[0].parameters()] == [
        (5, 16),
        (5,),
        (192, 5),
        (192,),
    ]
    for wrong in ({"present": -1.0}, {"present": math.nan}, {"hidden": -1}):
        with pytest.raises(InputError, match="present and a hidden width of 0 or more"):
            PixelPrediction(**wrong)
    hierarchy.size = 30
    with pytest.raises(InputError, match="30 x 30 pixels into 4 x 4 equal patches; set encoder"):
        PixelPrediction().attach(hierarchy)
