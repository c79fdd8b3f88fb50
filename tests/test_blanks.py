import pytest
import torch

from worldmodel.blanks import BlankConfig, draw_blanks
from worldmodel.clips import ClipBatch
from worldmodel.errors import InputError
from worldmodel.models.encoder import EncoderConfig
from worldmodel.models.hierarchy import Hierarchy, LevelConfig
from worldmodel.task import WorldModelTask

SMALL = {"dim": 8, "width": 8, "depth": 1, "num_heads": 2}


@pytest.fixture
def hierarchy() -> Hierarchy:
    torch.manual_seed(0)
    levels = [LevelConfig(stride=1, horizons=(1, 2), **SMALL), LevelConfig(horizons=(1,), **SMALL)]
    made = Hierarchy(EncoderConfig(size=16, stem_channels=(8,), num_heads=2), levels)
    made.reset_heads()
    return made


@pytest.fixture
def tokens(hierarchy) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return hierarchy.encode(torch.randn(6, 12, 3, 16, 16, generator=generator))


def test_blanks__the_first_step_is_always_shown_and_boxes_end(hierarchy, tokens):
    config = BlankConfig(share=1.0, num_frames=4)
    drawn = [draw_blanks(config, hierarchy, tokens, seed) for seed in range(50)]
    for level, span in enumerate((1, 2)):
        blank = torch.cat([each[level] for each in drawn])
        assert blank.shape[1:] == tokens[level].shape[1:3]
        assert not blank[:, 0].any()
        assert blank.flatten(1).any(1).all(), "every clip has a box"
        # Two boxes of at most four frames each: never more than eight frames at one place.
        assert blank.sum(1).max() <= 8 // span
        assert 0.05 < blank.float().mean() < 0.5


def test_blanks__share_is_the_chance_of_a_box(hierarchy, tokens):
    config = BlankConfig(share=0.3)
    drawn = [draw_blanks(config, hierarchy, tokens, seed)[0] for seed in range(200)]
    some = torch.cat(drawn).flatten(1).any(1).float().mean()
    assert float(some) == pytest.approx(1 - 0.7**2, abs=0.04)


def test_blanks__same_seed_same_boxes(hierarchy, tokens):
    config = BlankConfig(share=0.5)
    first, again, other = (draw_blanks(config, hierarchy, tokens, seed) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("top_down", [False, True])
def test_blanks__no_level_sees_what_is_hidden_from_the_fastest(top_down):
    torch.manual_seed(0)
    levels = [LevelConfig(stride=1, horizons=(1, 2), **SMALL), LevelConfig(horizons=(1,), **SMALL)]
    encoder = EncoderConfig(size=32, stem_channels=(8,), num_heads=2)
    hierarchy = Hierarchy(encoder, levels, top_down)
    for parameter in hierarchy.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    own = torch.randn(4, 12, *hierarchy.levels[0].encoder.position.shape)
    for seed in range(5):
        blanks = draw_blanks(
            BlankConfig(share=0.8, num_frames=4), hierarchy, hierarchy.abstract(own), seed
        )
        assert blanks[0].any() and blanks[1].any()
        assert not any(blank[:, 0].any() for blank in blanks)
        changed = own + blanks[0][..., None]
        predicted, other = (
            hierarchy.predict(hierarchy.abstract(tokens), blanks)[0] for tokens in (own, changed)
        )
        assert torch.equal(predicted.context, other.context)
        assert all(torch.equal(each, other.predicted[h]) for h, each in predicted.predicted.items())


def test_blanks__reach_the_last_step_that_a_prediction_is_made_from(hierarchy, tokens):
    config = BlankConfig(share=1.0, num_frames=4)
    drawn = [draw_blanks(config, hierarchy, tokens, seed) for seed in range(50)]
    for level in (0, 1):
        by_step = torch.cat([each[level] for each in drawn]).flatten(2).any(2).any(0)
        assert by_step[1:-1].all() and not by_step[0] and not by_step[-1]


def test_predictor__does_not_see_what_is_blank(hierarchy, tokens):
    blank = torch.zeros(tokens[0].shape[:3], dtype=torch.bool)
    blank[:, 3:6, 2:7] = True
    changed = torch.where(blank[..., None], tokens[0] + 1, tokens[0])
    predictor = hierarchy.levels[0].predictor
    context, ahead = predictor(tokens[0], blank=blank)
    other_context, other_ahead = predictor(changed, blank=blank)
    assert torch.equal(context, other_context)
    assert all(torch.equal(ahead[h], other_ahead[h]) for h in ahead)
    assert not torch.equal(context, predictor(tokens[0])[0])


def test_predictor__predicts_from_the_last_token_it_saw(hierarchy, tokens):
    predictor = hierarchy.levels[0].predictor
    for head in predictor.heads.parameters():
        torch.nn.init.zeros_(head)
    blank = torch.zeros(tokens[0].shape[:3], dtype=torch.bool)
    blank[0, 3:5, 1] = True
    ahead = predictor(tokens[0], blank=blank)[1][1]
    expected = tokens[0].clone()
    expected[0, 3:5, 1] = tokens[0][0, 2, 1]
    assert torch.equal(ahead, expected)


def test_encode__apart_no_level_trains_the_one_below(hierarchy):
    frames = torch.randn(2, 4, 3, 16, 16)
    for joint in (True, False):
        hierarchy.zero_grad()
        hierarchy.encode(frames, joint=joint)[1].square().sum().backward()
        first = hierarchy.levels[0].encoder.position.grad
        assert (first is not None and bool(first.abs().sum() > 0)) is joint


def test_task__blanks_change_training_and_not_validation():
    torch.manual_seed(0)
    levels = [LevelConfig(stride=1, horizons=(1,), **SMALL)]
    encoder = EncoderConfig(size=16, stem_channels=(8,), num_heads=2)
    frames = torch.randint(0, 256, (2, 8, 3, 16, 16), dtype=torch.uint8)
    batch = ClipBatch(frames=frames, pts_seconds=torch.zeros(2, 8), keys=("a", "b"))
    task = WorldModelTask(levels, encoder, blanks=BlankConfig(share=1.0))
    task.hierarchy.reset_heads()
    losses = {}
    for mode in (True, False):
        losses[mode] = float(task.train(mode).objective(batch)[0][0]["prediction"])
    task.blanks = BlankConfig()
    shown = float(task.train(True).objective(batch)[0][0]["prediction"])
    assert losses[False] == shown
    assert losses[True] != shown


@pytest.mark.parametrize("wrong", [{"share": 1.5}, {"share": -0.1}, {"num_frames": 0}])
def test_blanks__cannot_be(wrong):
    with pytest.raises(InputError, match=r"blanks\.share must be from 0 to 1"):
        BlankConfig(**wrong)


def test_task__a_scope_that_is_none():
    from worldmodel.losses.regularizers import VICReg

    with pytest.raises(InputError, match="names sideways, which is no scope; there are"):
        WorldModelTask(
            [LevelConfig(stride=1, horizons=(1,))], scope_regularizers={"sideways": VICReg()}
        )
