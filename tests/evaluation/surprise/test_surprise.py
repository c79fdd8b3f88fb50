"""Surprise finds violations by memory across the hidden interval, and by nothing else."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from planted_scorers import CPU, Foreign, Seer, at, pixel_scores, small_hierarchy
from square_world import FRAMES, block
from torch.utils.data import DataLoader

from worldmodel.errors import InputError
from worldmodel.evaluation.network import pad_chunk
from worldmodel.evaluation.nulls import pixel_surprise
from worldmodel.evaluation.surprise import (
    COMBINED,
    BlockScores,
    Choice,
    ScoreBlocks,
    choose,
    contrast_wins,
    join_scores,
    score_blocks,
    splice,
    splice_frames,
    worlds_by_step,
)
from worldmodel.evaluation.surprise.scoring import (
    FourClips,
    encode_four,
    window_ends,
    window_surprise,
)
from worldmodel.evaluation.surprise.splices import (
    frame_sources,
    step_owners,
    take_from_owners,
    violation_frame,
)
from worldmodel.models.hierarchy import Hierarchy

# Lengths of past that leave room in clips of 16 frames.
SHORT = (4, 8)

TWO_WINDOWS = ((3, 6), (9, 12))
SPANS = (1, 2, 4)


def wins(scores: BlockScores, place: object) -> np.ndarray:
    return contrast_wins(scores.curves[place].mean(2))


def assert_same_bits(first: BlockScores, second: BlockScores) -> None:
    assert first.keys == second.keys
    assert first.facts == second.facts
    assert first.curves.keys() == second.curves.keys()
    pairs = [(first.curves, second.curves), (first.space, second.space)]
    for one, other in zip(first.untrained, second.untrained, strict=True):
        pairs += [(one.curves, other.curves), (one.space, other.space)]
    for mine, yours in pairs:
        assert all(np.array_equal(mine[key], yours[key], equal_nan=True) for key in mine)


def test_a_scorer_that_remembers_is_always_right() -> None:
    blocks = [block(seed) for seed in range(9)]
    scores = score_blocks(Seer(remembers=True), blocks, CPU)
    for place in ((0, 1), (0, 2), (1, 1), (1, 2)):
        assert wins(scores, place).tolist() == [1] * 9


def test_a_scorer_without_memory_is_exactly_at_chance() -> None:
    blocks = [block(seed) for seed in range(6)]
    scores = score_blocks(Seer(remembers=False), blocks, CPU)
    for place in ((0, 1), (0, 2), (1, 1)):
        assert wins(scores, place).tolist() == [0.5] * 6
        assert wins(scores, f"copy{place[0]}.{place[1]}").tolist() == [0.5] * 6


@pytest.mark.parametrize("windows", [((5, 11),), TWO_WINDOWS])
def test_pixels_shorter_than_the_window_are_at_chance_and_longer_ones_are_not(
    windows: tuple[tuple[int, int], ...],
) -> None:
    scores = pixel_scores([block(seed, windows=windows) for seed in range(5)])
    assert wins(scores, "pixels_short").tolist() == [0.5] * 5
    curves = scores.curves["pixels_long"].mean(2)
    assert (np.abs(curves @ [-1, -1, 1, 1]) > 1e-3).all()


@pytest.mark.parametrize("long", [False, True])
def test_pixel_curves_equal_those_of_the_pictures_themselves(long: bool) -> None:
    one = block(3, windows=TWO_WINDOWS)
    frames = splice(one.frames, splice_frames(TWO_WINDOWS, 1)).flatten(2).double().numpy()
    curve = pixel_scores([one]).curves[f"pixels_{'long' if long else 'short'}"][0]
    assert np.allclose(curve, pixel_surprise(frames, long), rtol=1e-9, atol=1e-9)


def test_frames_equal_in_both_worlds_are_all_that_differs_from_chance() -> None:
    """The contrast of pixels is zero only because the window is equal to the bit."""
    one = block(0)
    one.frames[0, 7:9, :, 0, 0] += 1
    assert wins(pixel_scores([one]), "pixels_short")[0] != 0.5


def test_four_clips_of_a_block_with_two_changes() -> None:
    a, b = torch.zeros(9), torch.ones(9)
    clips = splice(torch.stack([a, b]), (3, 6))
    assert clips[2].tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0]
    assert torch.equal(clips[3], 1 - clips[2])
    assert worlds_by_step((4,), 6)[2].tolist() == [0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("windows", "span", "expected"),
    [
        (((5, 11),), 1, (8,)),
        (((5, 11),), 4, (8,)),
        (((5, 7),), 4, None),
        (((5, 8),), 4, (8,)),
        (((4, 4),), 2, (4,)),
        (((3, 6), (9, 12)), 4, (4, 12)),
        (((3, 6), (9, 11)), 4, None),
        (((8, 8),), 1, (8,)),
    ],
)
def test_change_of_worlds_straddles_no_step(
    windows: tuple[tuple[int, int], ...], span: int, expected: tuple[int, ...] | None
) -> None:
    assert splice_frames(windows, span) == expected


def test_any_change_within_the_window_gives_the_same_clip() -> None:
    frames = block(1).frames
    first = splice(frames, (5,))
    assert all(torch.equal(first, splice(frames, (at,))) for at in range(6, 12))
    assert torch.equal(FourClips(block(1)).frames, first)


@pytest.mark.parametrize("windows", [((5, 11),), ((3, 6), (8, 13)), ((5, 7),), ((7, 7),)])
def test_scores_are_those_of_the_spliced_clips(windows: tuple[tuple[int, int], ...]) -> None:
    """Also where a step of a slow level straddles the change, as in the last two."""
    model, one = small_hierarchy(), block(2, windows=windows)
    fast = score_blocks(model, [one], CPU)
    frames = splice(one.frames, splice_frames(windows, 1))
    tokens = model.encode(frames)
    predictions = model.predict(tokens)
    for level, values in enumerate(tokens):
        for horizon, guess in predictions[level].predicted.items():
            error = (
                (guess[:, :-horizon] - values[:, horizon:]).double().square().mean(3).sqrt().mean(2)
            )
            assert np.allclose(fast.curves[level, horizon][0], error.numpy(), rtol=1e-4, atol=1e-7)
    assert fast.curves[2, 1].shape == (1, 4, FRAMES // 4 - 1)


@pytest.mark.parametrize("with_abstract", [True, False])
def test_steps_with_the_same_frames_have_the_same_tokens_to_the_bit(with_abstract: bool) -> None:
    model, one = small_hierarchy(), block(4, windows=((5, 7),))
    network = model
    if not with_abstract:
        network = SimpleNamespace(
            levels=model.levels, steps_are_local=True, encode=model.encode, predict=model.predict
        )
    clips = FourClips(one)
    tokens = encode_four(network, clips, CPU)
    for values, span in zip(tokens, SPANS, strict=True):
        shown = clips.frames.unflatten(1, (-1, span)).flatten(2)
        same = (shown[:, None] == shown[None]).all(-1)
        assert same.sum() > 4 * same.shape[-1], "clips share steps"
        for first, second, step in same.nonzero().tolist():
            assert torch.equal(values[first, step], values[second, step])
    direct = model.encode(clips.frames)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(tokens, direct, strict=True))


def test_the_first_clip_that_shows_a_step_owns_it() -> None:
    one = block(4, windows=((5, 7),))
    one.frames[:] = torch.arange(2 * FRAMES).view(2, FRAMES, 1, 1, 1)
    one.frames[1, 5:7] = one.frames[0, 5:7]
    sources = frame_sources(one)
    assert sources[2].tolist() == [*range(7), *range(FRAMES + 7, 2 * FRAMES)]
    assert step_owners(sources, 1)[1].tolist() == [1] * 5 + [0] * 2 + [1] * 9
    # Frames 4 to 7 of AB are A's first three and B's last: its own.
    assert step_owners(sources, 4)[2].tolist() == [0, 2, 1, 1]
    tokens = torch.arange(16).view(4, 4, 1, 1)
    assert take_from_owners(tokens, step_owners(sources, 4))[2].flatten().tolist() == [0, 9, 6, 7]


def test_encoding_is_level_zero_and_abstraction() -> None:
    model = small_hierarchy()
    frames = block(0).frames
    tokens = model.encode(frames)
    again = model.abstract(tokens[0])
    assert again[0] is tokens[0]
    assert all(torch.equal(a, b) for a, b in zip(tokens, again, strict=True))


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 1)])
def test_scores_are_the_same_to_the_bit_in_any_company(sizes: tuple[int, ...]) -> None:
    blocks = [block(seed, windows=((5, 6 + seed),)) for seed in range(3)]
    score = ScoreBlocks(
        small_hierarchy(),
        (small_hierarchy(seed=1),),
        at((1, 1)),
        context_frames=(4,),
    )
    together = score(blocks)
    ends = np.cumsum(sizes)
    parts = [score(blocks[end - size : end]) for size, end in zip(sizes, ends, strict=True)]
    assert_same_bits(join_scores(parts), together)
    copy = pickle.loads(pickle.dumps(score))
    assert_same_bits(join_scores([copy(blocks[:1]), copy(blocks[1:])]), together)


def test_scores_are_the_same_to_the_bit_in_another_process() -> None:
    blocks = [block(seed) for seed in range(3)]
    score = ScoreBlocks(small_hierarchy(), context_frames=(4,))
    loader = DataLoader(blocks, batch_size=2, num_workers=1, collate_fn=score)
    assert_same_bits(join_scores(loader), score(blocks))


@pytest.mark.parametrize("place", [(0, 2), (1, 1), (2, 1)])
def test_one_place_alone_scores_as_among_all(place: tuple[int, int]) -> None:
    model = small_hierarchy()
    blocks = [block(seed) for seed in range(2)]
    among_all = wins(score_blocks(model, blocks, CPU), place)
    alone = score_blocks(model, blocks, CPU, choice=at(place), everywhere=False)
    assert alone.places == [place]
    assert np.array_equal(wins(alone, place), among_all)


@pytest.mark.parametrize(
    "choice", [at((0, 2)), at((1, 1), 8), Choice(COMBINED, (2, 1), {}, 1.0, 1)]
)
def test_an_untrained_network_scores_as_if_it_were_the_model(choice: Choice) -> None:
    blocks = [block(seed) for seed in range(3)]
    model, other = small_hierarchy(), small_hierarchy(seed=1)
    scores = score_blocks(
        model, blocks, CPU, untrained=(model, other), choice=choice, context_frames=SHORT
    )
    alone = score_blocks(other, blocks, CPU, context_frames=SHORT)
    expected = set(scores.places) if choice.candidate == COMBINED else {choice.place}
    expected |= {choice.candidate.key} if choice.candidate.context_frames else set()
    for network, own in zip(scores.untrained, (scores, alone), strict=True):
        assert set(network.curves) == expected
        assert all(np.array_equal(network.curves[key], own.curves[key]) for key in expected)


def test_the_model_can_be_scored_where_the_headline_is_alone() -> None:
    blocks = [block(seed) for seed in range(2)]
    model, choice = small_hierarchy(), at((1, 1), 8)
    few = score_blocks(model, blocks, CPU, choice=choice, everywhere=False, context_frames=SHORT)
    assert (few.places, few.windows) == ([(1, 1)], [(1, 1, 8)])
    every = score_blocks(model, blocks, CPU, context_frames=SHORT)
    assert np.array_equal(few.curves[1, 1, 8], every.curves[1, 1, 8])
    with pytest.raises(ValueError, match="must be chosen before"):
        ScoreBlocks(model, everywhere=False)


@pytest.mark.parametrize(
    ("level", "horizon", "frames"), [(0, 1, 4), (0, 2, 8), (1, 1, 8), (2, 1, 4)]
)
def test_a_window_of_the_past_scores_as_a_clip_cut_to_it(
    level: int, horizon: int, frames: int
) -> None:
    model, one = small_hierarchy(), block(2, windows=((5, 9),))
    window, span = (level, horizon, frames), SPANS[level]
    curve = score_blocks(model, [one], CPU, context_frames=SHORT).curves[window][0]
    spliced = FourClips(one).frames
    true = model.encode(spliced)[level]
    ends = window_ends(FRAMES // span, window, span)
    assert curve.shape == (4, len(ends))
    for number, end in enumerate(ends.tolist()):
        seen = spliced[:, (end + 1) * span - frames : (end + 1) * span]
        assert seen.shape[1] == frames
        levels = model.levels[: level + 1]
        cut = SimpleNamespace(levels=levels)
        tokens = Hierarchy.abstract(cut, model.levels[0].encoder(model.normalize(seen)))
        guess = levels[level].predictor(tokens[level])[1][horizon][:, -1]
        error = (guess - true[:, end + horizon]).double().square().mean(2).sqrt().mean(1)
        assert np.allclose(curve[:, number], error.numpy(), rtol=1e-4, atol=1e-8)


def test_windows_that_clips_share_are_run_once() -> None:
    """Where nothing differs, the four clips need no more windows than one."""
    model, one = small_hierarchy(1), block(2)
    one.frames[1] = one.frames[0]
    clips = FourClips(one)
    runs: list[int] = []
    network = SimpleNamespace(
        levels=model.levels,
        steps_are_local=True,
        encode=model.encode,
        predict=lambda tokens: runs.append(len(tokens[0])) or model.predict(tokens),
    )
    tokens = encode_four(network, clips, CPU)
    curves = window_surprise(network, tokens, clips, 0, 4)
    assert runs == [len(window_ends(FRAMES, (0, 1, 4), 1))]
    for curve in curves.values():
        assert all(np.array_equal(curve[0], other) for other in curve)


def test_windows_end_every_eighth_frame_and_what_they_predict_is_within_the_clip() -> None:
    assert window_ends(32, (0, 8, 16), 1).tolist() == [15, 23]
    assert window_ends(32, (0, 1, 4), 1).tolist() == [3, 11, 19, 27]
    assert window_ends(16, (1, 4, 8), 2).tolist() == [3, 7, 11]
    assert window_ends(8, (2, 2, 4), 4).tolist() == [0, 2, 4]
    assert not len(window_ends(4, (2, 2, 16), 4))


def test_a_past_shorter_than_the_hiding_is_exactly_at_chance() -> None:
    """Whatever the network; with all the past it is not."""
    blocks = [block(seed, windows=((4, 12),)) for seed in range(4)]
    scores = score_blocks(small_hierarchy(), blocks, CPU, context_frames=SHORT)
    assert scores.windows
    for level, horizon, frames in scores.windows:
        if frames + horizon * SPANS[level] <= 8:
            assert wins(scores, (level, horizon, frames)).tolist() == [0.5] * 4
    assert {frames for *_, frames in scores.windows} == {4, 8}
    assert (wins(scores, (0, 1)) != 0.5).any()


def test_a_network_whose_steps_are_not_local_sees_the_four_clips_themselves() -> None:
    network, one = Foreign(), block(1)
    scores = score_blocks(network, [one], CPU)
    assert torch.equal(network.seen[0], FourClips(one).frames)
    assert scores.places == [(0, 1), (0, 2)]
    assert scores.windows == []
    tokens = network.encode(FourClips(one).frames)[0]
    error = tokens[:, 1:].double().square().mean(3).sqrt().mean(2).numpy()
    assert np.allclose(scores.curves[0, 1][0], error)


def test_a_network_that_predicts_nothing_has_no_places() -> None:
    scores = score_blocks(Foreign(horizons=()), [block(0), block(1)], CPU)
    assert (scores.places, scores.windows) == ([], [])
    assert choose(scores, [1]) is None


def test_a_network_of_one_level_is_scored_at_its_horizons() -> None:
    scores = score_blocks(small_hierarchy(1), [block(0)], CPU)
    assert scores.places == [(0, 1), (0, 2)]


def test_a_horizon_beyond_the_clip_is_no_place() -> None:
    model = Foreign(horizons=(1, FRAMES))
    assert score_blocks(model, [block(0)], CPU).places == [(0, 1)]


def test_a_surprise_that_is_no_number_is_refused_by_name() -> None:
    model = small_hierarchy(1)
    model.levels[0].predictor.heads["2"].bias.fill_(float("nan"))
    with pytest.raises(InputError, match=r"\(0, 2\) of block reveal-000 is not a finite number"):
        score_blocks(model, [block(0)], CPU)


def test_no_blocks_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(InputError, match="no blocks to score; make a set"):
        score_blocks(small_hierarchy(1), [], CPU)


def test_a_violation_shows_in_the_first_frame_that_differs_after_the_hiding() -> None:
    one = block(0)
    assert violation_frame(one) == 11
    one.frames[1, 11:13] = one.frames[0, 11:13]
    assert violation_frame(one) == 13
    one.frames[1] = one.frames[0]
    assert violation_frame(one) is None
    assert violation_frame(block(0, windows=TWO_WINDOWS)) == 6


def test_padding_repeats_the_last_clip() -> None:
    clips = [torch.zeros(2), torch.ones(2)]
    assert pad_chunk(clips, 4).tolist() == [[0, 0], [1, 1], [1, 1], [1, 1]]
