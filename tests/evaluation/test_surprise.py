"""Surprise finds violations by memory across the hidden interval, and by nothing else."""

import numpy as np
import pytest
import torch
from square_world import FRAMES, Planted, block

from worldmodel.evaluation.network import pad_chunk
from worldmodel.evaluation.surprise import (
    OPEN_KINDS,
    BlockScores,
    bootstrap_interval,
    choose_place,
    contrast_wins,
    kind_report,
    score_blocks,
    score_pixels,
    share_equal_steps,
    splice,
    splice_frames,
    surprise_sections,
    wins_at,
    world_states,
    worlds_by_step,
)
from worldmodel.models.encoder import EncoderConfig
from worldmodel.models.hierarchy import Hierarchy, LevelConfig
from worldmodel.world import open_blocks

CPU = torch.device("cpu")
TWO_WINDOWS = ((3, 6), (9, 12))


def wins(scores: BlockScores, place: object) -> np.ndarray:
    return contrast_wins(scores.curves[place].mean(2))


def small_hierarchy() -> Hierarchy:
    torch.manual_seed(0)
    encoder = EncoderConfig(size=16, stem_channels=(8,))
    narrow = {"dim": 16, "width": 16, "depth": 1, "num_heads": 2}
    levels = [
        LevelConfig(horizons=(1, 2), stride=1, **narrow),
        LevelConfig(horizons=(1,), stride=2, **narrow),
        LevelConfig(horizons=(1,), stride=2, **narrow),
    ]
    model = Hierarchy(encoder, levels).eval()
    model.reset_heads()
    return model


def test_a_scorer_that_remembers_is_always_right() -> None:
    blocks = [block(seed) for seed in range(9)]
    scores = score_blocks(Planted(remembers=True), blocks, CPU)
    for place in ((0, 1), (0, 2), (1, 1), (1, 2)):
        assert wins(scores, place).tolist() == [1] * 9


def test_a_scorer_without_memory_is_exactly_at_chance() -> None:
    blocks = [block(seed) for seed in range(6)]
    scores = score_blocks(Planted(remembers=False), blocks, CPU)
    for place in ((0, 1), (0, 2), (1, 1)):
        assert wins(scores, place).tolist() == [0.5] * 6
        assert wins(scores, f"copy{place[0]}.{place[1]}").tolist() == [0.5] * 6


@pytest.mark.parametrize("windows", [((5, 11),), TWO_WINDOWS])
def test_pixels_shorter_than_the_window_are_at_chance_and_longer_ones_are_not(
    windows: tuple[tuple[int, int], ...],
) -> None:
    scores = score_pixels([block(seed, windows=windows) for seed in range(5)])
    assert wins(scores, "pixels_short").tolist() == [0.5] * 5
    curves = scores.curves["pixels_long"].mean(2)
    assert (np.abs(curves @ [-1, -1, 1, 1]) > 1e-3).all()


def test_frames_equal_in_both_worlds_are_all_that_differs_from_chance() -> None:
    """The contrast of pixels is zero only because the window is equal to the bit."""
    one = block(0)
    one.frames[0, 7:9, :, 0, 0] += 1
    assert wins(score_pixels([one]), "pixels_short")[0] != 0.5


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


@pytest.mark.parametrize("windows", [((5, 11),), ((3, 6), (8, 13))])
def test_spliced_tokens_equal_the_tokens_of_the_spliced_clip(
    windows: tuple[tuple[int, int], ...],
) -> None:
    model, one = small_hierarchy(), block(2, windows=windows)
    fast = score_blocks(model, [one], CPU)
    frames = splice(one.frames, splice_frames(windows, 1))
    with torch.no_grad():
        tokens = model.encode(frames)
        predictions = model.predict(tokens)
    for level, values in enumerate(tokens):
        for horizon, guess in predictions[level].predicted.items():
            error = (guess[:, :-horizon] - values[:, horizon:]).double().square().mean((2, 3))
            assert np.allclose(fast.curves[level, horizon][0], error.numpy(), rtol=1e-4, atol=1e-7)


def test_a_window_without_a_step_boundary_is_encoded_and_scores_alike() -> None:
    """Level 2 has no boundary in 5..7: the clip is encoded; lower levels score as if spliced."""
    model = small_hierarchy()
    narrow, wide = block(3, windows=((5, 7),)), block(3, windows=((5, 7),))
    shallow = small_hierarchy()
    shallow.levels = shallow.levels[:2]
    encoded, spliced = score_blocks(model, [narrow], CPU), score_blocks(shallow, [wide], CPU)
    for place in ((0, 1), (0, 2), (1, 1)):
        assert np.allclose(encoded.curves[place], spliced.curves[place], rtol=1e-4, atol=1e-7)
    assert encoded.curves[2, 1].shape == (1, 4, FRAMES // 4 - 1)


def test_scores_do_not_depend_on_the_neighbours_in_a_chunk() -> None:
    model = small_hierarchy()
    blocks = [block(seed) for seed in range(5)]
    together = score_blocks(model, blocks, CPU)
    alone = score_blocks(model, blocks[4:], CPU)
    assert np.array_equal(together.curves[0, 1][4:], alone.curves[0, 1])
    assert together.context[1].shape == (5, 2, FRAMES // 2, 4 * 16)
    states = world_states(model, blocks, CPU)
    assert all(
        torch.allclose(a, b, atol=1e-5) for a, b in zip(states, together.context, strict=True)
    )


@pytest.mark.parametrize("place", [(0, 2), (1, 1), (2, 1)])
def test_one_place_alone_scores_as_among_all(place: tuple[int, int]) -> None:
    model = small_hierarchy()
    blocks = [block(seed) for seed in range(5)]
    among_all = wins(score_blocks(model, blocks, CPU), place)
    assert np.array_equal(wins_at(model, blocks, CPU, place), among_all)


def test_equal_frames_get_equal_tokens() -> None:
    one = block(4)
    tokens = torch.randn(2, FRAMES, 1, 3, generator=torch.Generator().manual_seed(0))
    shared = share_equal_steps(tokens, one.frames, 1)
    assert torch.equal(shared[0], tokens[0])
    assert torch.equal(shared[1, 5:11], tokens[0, 5:11])
    assert torch.equal(shared[1, :5], tokens[1, :5])


def test_a_contrast_within_rounding_is_a_tie() -> None:
    scores = np.array([[1, 1, 1, 1 + 1e-10], [1, 1, 1, 1 + 1e-7], [1, 1, 1, 1 - 1e-7]])
    assert contrast_wins(scores).tolist() == [0.5, 1, 0]


def test_interval_holds_the_mean_and_is_the_same_every_time() -> None:
    values = np.random.default_rng(0).choice([0.0, 0.5, 1.0], 25)
    low, high = bootstrap_interval(values)
    assert low < values.mean() < high
    assert [low, high] == bootstrap_interval(values)
    assert bootstrap_interval(np.ones(4)) == [1, 1]


def made_up(curves: dict[tuple[int, int], float], count: int = 10) -> BlockScores:
    """Scores of which a given share of blocks is right."""
    made = {}
    for place, share in curves.items():
        right = np.arange(count) < share * count
        scores = np.ones((count, 4, 2))
        scores[:, 2:] += np.where(right, 1, -0.5)[:, None, None]
        made[place] = scores
        made[f"copy{place[0]}.{place[1]}"] = np.ones((count, 4, 2))
    return BlockScores([str(n) for n in range(count)], np.array(["reveal"] * count), made, [])


def test_headline_is_the_best_place_and_of_equals_the_farthest_then_the_lowest() -> None:
    assert choose_place(made_up({(0, 1): 0.6, (1, 1): 0.9}), [1, 2]) == (1, 1)
    assert choose_place(made_up({(0, 1): 0.9, (0, 2): 0.9, (1, 1): 0.9}), [1, 2]) == (0, 2)


def test_each_kind_counts_alike_in_the_choice() -> None:
    scores = made_up({(0, 1): 0.8, (0, 2): 0.3})
    scores.kinds[:] = ["reveal"] * 8 + ["support"] * 2
    # (0, 1): reveal 1, support 0. (0, 2) with both supports right beats it, with 5 of 10 blocks.
    scores.curves[0, 2][8:, 2:] = 3
    assert choose_place(scores, [1]) == (0, 2)


def test_kinds_in_open_view_are_a_tier_of_their_own() -> None:
    scores = made_up({(0, 1): 0.9, (0, 2): 0.5})
    scores.kinds = np.array(["reveal"] * 5 + ["gravity"] * 5)
    # Right about all of gravity and about two of five reveals, against one more reveal.
    scores.curves[0, 1][:, 2:] = np.where(np.arange(10) < 2, 3, 0)[:, None, None]
    scores.curves[0, 1][5:, 2:] = 3
    scores.curves[0, 2][:, 2:] = np.where(np.arange(10) < 3, 3, 0)[:, None, None]
    assert choose_place(scores, [1]) == (0, 2), "gravity has no say"
    pixels = BlockScores(
        scores.keys,
        scores.kinds,
        {n: np.ones((10, 4, 3)) for n in ("pixels_short", "pixels_long")},
        [],
    )
    headline, _ = surprise_sections(
        scores, scores, pixels, lambda place: [np.full(10, 0.5)], [1], seed=0
    )
    assert list(headline) == ["reveal", "overall", "gravity", "open_view"]
    assert headline["overall"]["relative_accuracy"] == pytest.approx(0.6)
    assert headline["open_view"]["relative_accuracy"] == 0
    assert headline["open_view"]["num_blocks"] == 5


def test_the_open_tier_is_that_of_the_world() -> None:
    """Evaluation names the kinds itself, so that it need not load the simulator."""
    assert set(OPEN_KINDS) == set(open_blocks.OPEN_KINDS)


def test_a_change_in_open_view_lies_between_two_frames() -> None:
    assert splice_frames(((8, 8),), 1) == (8,)
    assert splice_frames(((8, 8),), 4) == (8,)
    assert splice_frames(((6, 6),), 4) is None, "the slowest level's step straddles it"


def test_sections_carry_counts_intervals_and_nulls() -> None:
    val, test = made_up({(0, 1): 0.6, (0, 2): 0.9}), made_up({(0, 1): 1.0, (0, 2): 0.8})
    pixels = BlockScores(
        test.keys, test.kinds, {n: np.ones((10, 4, 3)) for n in ("pixels_short", "pixels_long")}, []
    )
    headline, by_level = surprise_sections(
        val, test, pixels, lambda place: [np.full(10, 0.4), np.full(10, 0.6)], [1], seed=0
    )
    reveal = headline["reveal"]
    assert (reveal["level"], reveal["horizon"], reveal["num_blocks"]) == (0, 2, 10)
    assert reveal["relative_accuracy"] == pytest.approx(0.8)
    assert reveal["ci95"][0] <= 0.8 <= reveal["ci95"][1]
    assert reveal["null"]["untrained"]["mean"] == pytest.approx(0.5)
    assert reveal["null"]["untrained"]["std"] == pytest.approx(0.1)
    assert reveal["null"]["untrained"]["num_networks"] == 2
    assert reveal["null"]["copy"] == reveal["null"]["pixels_short"] == 0.5
    assert headline["overall"]["num_blocks"] == 10
    assert by_level["level0"]["h1"]["reveal"]["relative_accuracy"] == 1


def test_auroc_of_single_clips_knows_possible_from_impossible() -> None:
    report = kind_report(made_up({(0, 1): 1.0}), (0, 1), np.ones(10, dtype=bool), seed=0)
    assert report["auroc"] == 1


def test_padding_repeats_the_last_clip() -> None:
    clips = [torch.zeros(2), torch.ones(2)]
    assert pad_chunk(clips, 4).tolist() == [[0, 0], [1, 1], [1, 1], [1, 1]]
