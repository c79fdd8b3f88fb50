import dataclasses

import pytest
import torch

from worldmodel.errors import InputError
from worldmodel.models.encoder import EncoderConfig
from worldmodel.models.hierarchy import Hierarchy, LevelConfig


def test_encode__shapes_follow_strides_and_pools(hierarchy, clip):
    tokens = hierarchy.encode(clip.frames)
    assert [tuple(t.shape) for t in tokens] == [(2, 12, 16, 16), (2, 6, 4, 16), (2, 3, 1, 16)]
    assert [level.span for level in hierarchy.levels] == [1, 2, 4]
    assert [level.num_tokens for level in hierarchy.levels] == [16, 4, 1]
    assert hierarchy.min_frames == 12


def test_encode__steps_that_do_not_fill_one_are_left_out(hierarchy, clip):
    assert [t.shape[1] for t in hierarchy.encode(clip.frames[:, :11])] == [11, 5, 2]


@pytest.mark.parametrize("changed", [3, 7, 10])
def test_encode_and_predict__nothing_leaks_from_the_future(hierarchy, clip, changed):
    hierarchy.reset_heads()
    other = clip.frames.clone()
    other[:, changed:] = 255 - other[:, changed:]
    for level, before, after in zip(
        hierarchy.levels,
        zip(
            hierarchy.encode(clip.frames),
            hierarchy.predict(hierarchy.encode(clip.frames)),
            strict=True,
        ),
        zip(hierarchy.encode(other), hierarchy.predict(hierarchy.encode(other)), strict=True),
        strict=True,
    ):
        safe = changed // level.span
        assert torch.equal(before[0][:, :safe], after[0][:, :safe])
        torch.testing.assert_close(
            before[1].context[:, :safe], after[1].context[:, :safe], rtol=0, atol=1e-5
        )
        assert not torch.equal(before[0][:, safe:], after[0][:, safe:])
        assert not torch.allclose(before[1].context[:, safe:], after[1].context[:, safe:])


def test_predict__untrained_is_exactly_the_copy_baseline(hierarchy, clip):
    tokens = hierarchy.encode(clip.frames)
    for level_tokens, prediction in zip(tokens, hierarchy.predict(tokens), strict=True):
        for predicted in prediction.predicted.values():
            assert torch.equal(predicted, level_tokens)


def test_reset_heads__predictions_leave_the_copy_baseline(hierarchy, clip):
    hierarchy.reset_heads()
    tokens = hierarchy.encode(clip.frames)
    predicted = hierarchy.predict(tokens)[0].predicted
    assert all((p - tokens[0]).abs().max() > 1e-2 for p in predicted.values())


def test_predict__depends_on_how_far_apart_steps_are_not_on_their_number(hierarchy, clip):
    tokens = hierarchy.encode(clip.frames)[0]
    level = hierarchy.levels[0]
    context, _ = level.predictor(tokens[:, :6])
    # The same six steps, seen as the only ones there are.
    again, _ = level.predictor(tokens[:, :6].clone())
    assert torch.equal(context, again)
    longer, _ = level.predictor(tokens)
    torch.testing.assert_close(longer[:, :6], context, rtol=0, atol=1e-5)


def test_encode__uint8_and_normalised_floats_are_the_same(hierarchy, clip):
    floats = hierarchy.normalize(clip.frames)
    assert floats.min() >= -1.5 and floats.max() <= 1.5
    assert torch.equal(hierarchy.encode(clip.frames)[0], hierarchy.encode(floats)[0])


def test_encode__each_frame_alone(hierarchy, clip):
    whole = hierarchy.encode(clip.frames)[0]
    single = hierarchy.encode(clip.frames[:, 5:6])[0]
    torch.testing.assert_close(whole[:, 5:6], single, rtol=0, atol=1e-5)


def test_encode__frames_of_another_size(hierarchy, clip):
    with pytest.raises(InputError, match="built for frames of 32 x 32 pixels, got 32 x 16"):
        hierarchy.encode(clip.frames[..., :16])


def test_level_config__refuses_what_makes_no_sense():
    with pytest.raises(InputError, match="stride and pool must be at least 1, got 0 and 2"):
        LevelConfig(stride=0, horizons=(1,))
    with pytest.raises(InputError, match=r"strictly increasing steps .* got \[2, 1\]"):
        LevelConfig(horizons=(2, 1))
    with pytest.raises(InputError, match="strictly increasing"):
        LevelConfig(horizons=())


def test_hierarchy__refuses_what_does_not_fit(encoder_config, level_configs):
    with pytest.raises(InputError, match="at least one level"):
        Hierarchy(encoder_config, [])
    with pytest.raises(InputError, match="its stride must be 1, got 2"):
        Hierarchy(encoder_config, level_configs[1:])
    three = [level_configs[0], dataclasses.replace(level_configs[1], pool=3)]
    with pytest.raises(InputError, match=r"level 1 merges 3 x 3 tokens.*4 x 4"):
        Hierarchy(encoder_config, three)
    with pytest.raises(InputError, match="multiple of 16 pixels"):
        EncoderConfig(size=40)


def test_hierarchy__any_number_of_levels(encoder_config, level_configs, clip):
    flat = Hierarchy(encoder_config, level_configs[:1])
    assert len(flat.predict(flat.encode(clip.frames))) == 1


def test_predict_branches__equals_whole_clips_and_shares_what_they_share(hierarchy, clip):
    tokens = hierarchy.encode(clip.frames)
    generator = torch.Generator().manual_seed(1)
    starts = [values.shape[1] // 2 for values in tokens]
    clips = []
    for values, start in zip(tokens, starts, strict=True):
        branches = values.clone()
        branches[:, start:] = torch.randn(branches[:, start:].shape, generator=generator)
        clips.append(torch.cat([values, branches]))
    hierarchy.reset_heads()
    with torch.no_grad():
        whole = hierarchy.predict(clips)
        shared = hierarchy.predict_branches(clips, starts)
        some = hierarchy.predict_branches(clips, starts, levels=[1])
    assert list(some) == [1] and torch.equal(some[1].context, shared[1].context)
    for level, prediction in enumerate(whole):
        own, start = shared[level], starts[level]
        assert torch.allclose(own.context, prediction.context, atol=1e-5)
        assert torch.equal(own.context[:2, :start], own.context[2:, :start])
        for horizon, values in prediction.predicted.items():
            assert torch.allclose(own.predicted[horizon], values, atol=1e-5)
    # Clips that never part.
    same = [torch.cat([values[:2], values[:2]]) for values in clips]
    ends = [values.shape[1] for values in same]
    with torch.no_grad():
        alike = hierarchy.predict_branches(same, ends)
    assert torch.equal(alike[0].context[:2], alike[0].context[2:])


def test_predict_on__piece_by_piece_equals_all_at_once(hierarchy, clip):
    hierarchy.reset_heads()
    with torch.no_grad():
        tokens = hierarchy.encode(clip.frames)
        whole = hierarchy.predict(tokens)
        for level, values in enumerate(tokens):
            memory = []
            pieces = [hierarchy.predict_on(piece, level, memory) for piece in values.split(2, 1)]
            context = torch.cat([piece.context for piece in pieces], 1)
            assert torch.allclose(context, whole[level].context, atol=1e-5)
            for horizon, expected in whole[level].predicted.items():
                found = torch.cat([piece.predicted[horizon] for piece in pieces], 1)
                assert torch.allclose(found, expected, atol=1e-5)


def test_predict__whole_tokens_are_predicted_from_the_context_alone(
    encoder_config, level_configs, clip
):
    whole = [dataclasses.replace(level, residual=False) for level in level_configs]
    made = Hierarchy(encoder_config, whole)
    tokens = made.encode(clip.frames)
    for level, prediction in zip(made.levels, made.predict(tokens), strict=True):
        for horizon, predicted in prediction.predicted.items():
            head = level.predictor.heads[str(horizon)]
            torch.testing.assert_close(predicted, head(prediction.context))
            assert predicted.std() > 0.1


@pytest.fixture
def top_down(encoder_config, level_configs):
    """A hierarchy whose paths from above have learned something."""
    torch.manual_seed(0)
    made = Hierarchy(encoder_config, level_configs, top_down=True)
    made.reset_heads()
    for level in made.levels[:-1]:
        torch.nn.init.normal_(level.predictor.from_above.weight)
    return made.eval().requires_grad_(False)


def test_top_down__changes_nothing_before_it_is_trained(encoder_config, level_configs, clip):
    torch.manual_seed(0)
    made = Hierarchy(encoder_config, level_configs, top_down=True)
    made.reset_heads()
    tokens = made.encode(clip.frames)
    for level, prediction in enumerate(made.predict(tokens)):
        alone = made.levels[level].predictor(tokens[level])[0]
        assert torch.equal(prediction.context, alone)
    assert [made.reads_above(level) for level in range(3)] == [True, True, False]


def test_top_down__a_step_reads_the_last_slower_step_that_has_ended(top_down, clip):
    tokens = top_down.encode(clip.frames)
    before = top_down.predict(tokens)[0].context
    changed = [level.clone() for level in tokens]
    # Level 1's third step, of frames 4 and 5, and its upper right token: known from frame 5 on,
    # first where it lies.
    changed[1][:, 2, 1] += 1
    after = top_down.predict(changed)[0].context
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5], after[:, 5])
    spread = top_down._from_above(0, torch.eye(4).expand(1, 6, 4, 4), tokens[0][:1])
    assert (spread[0, :1] == 0).all()
    assert spread[0, 1].argmax(-1).reshape(4, 4).tolist() == [[0, 0, 1, 1]] * 2 + [[2, 2, 3, 3]] * 2


@pytest.mark.parametrize("changed", [3, 7, 10])
def test_top_down__nothing_leaks_from_the_future(top_down, clip, changed):
    other = clip.frames.clone()
    other[:, changed:] = 255 - other[:, changed:]
    found = zip(
        top_down.levels,
        top_down.predict(top_down.encode(clip.frames)),
        top_down.predict(top_down.encode(other)),
        strict=True,
    )
    for level, before, after in found:
        safe = changed // level.span
        torch.testing.assert_close(
            before.context[:, :safe], after.context[:, :safe], rtol=0, atol=1e-5
        )


def test_top_down__one_level_and_branches_equal_the_whole(top_down, clip):
    tokens = top_down.encode(clip.frames)
    tokens = [torch.cat([level, level]) for level in tokens]
    starts = [8, 4, 2]
    for level, start in zip(tokens, starts, strict=True):
        level[2:, start:] += 1
    # Of frames that a level abstracts itself the upper tokens follow.
    tokens = top_down.abstract(tokens[0])
    whole = top_down.predict(tokens)
    branches = top_down.predict_branches(tokens, starts, [0, 1])
    assert set(branches) == {0, 1}
    for level in (0, 1, 2):
        one = top_down.predict_level(tokens[level], level)
        assert torch.allclose(one.context, whole[level].context, atol=1e-5)
        if level in branches:
            assert torch.allclose(branches[level].context, whole[level].context, atol=1e-4)
    # Too few steps for the slower level to have said anything.
    first = top_down.predict_level(tokens[0][:, :1], 0)
    assert torch.allclose(first.context, whole[0].context[:, :1], atol=1e-5)


def test_top_down__levels_trained_apart_get_no_gradient_from_below(
    encoder_config, level_configs, clip
):
    for joint in (True, False):
        made = Hierarchy(encoder_config, level_configs, top_down=True)
        torch.nn.init.ones_(made.levels[0].predictor.from_above.weight)
        made.predict(made.encode(clip.frames), joint=joint)[0].context.square().sum().backward()
        gradient = made.levels[1].predictor.embed.weight.grad
        assert (gradient is not None) is joint
