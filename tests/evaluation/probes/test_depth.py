"""Depth is asked for at the right pixels, read from tokens that hold it, scored as it streams."""

import weakref
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from square_world import FRAMES, footage

from worldmodel.clips import Truth
from worldmodel.errors import InputError
from worldmodel.evaluation.probes import depth_heads
from worldmodel.evaluation.probes.depth import (
    CAP_M,
    HEADLINE,
    PATCH_PIXELS,
    Case,
    DepthClip,
    DepthPlan,
    DepthSamples,
    Reading,
    as_map,
    cell_pixels,
    depth_cells,
    fit_depth,
    patches,
    per_token,
    take_depth,
)
from worldmodel.evaluation.probes.depth_metrics import METRICS, depth_scores
from worldmodel.evaluation.probes.depth_scores import (
    DepthScores,
)
from worldmodel.evaluation.section_tables import depth_table

GRID, CELLS = (2, 2), (8, 8)


def plan_of(spans: Sequence[int], num_frames: int, grids: Sequence[tuple[int, int]]) -> DepthPlan:
    levels = [
        SimpleNamespace(
            span=span, grid=grid, num_tokens=grid[0] * grid[1], horizons=(), dim=1, width=1
        )
        for span, grid in zip(spans, grids, strict=True)
    ]
    return DepthPlan.of(levels, num_frames)


PLAN = plan_of((1, 2), FRAMES, (GRID, (1, 1)))


def test_a_cell_is_its_central_pixel() -> None:
    assert cell_pixels(64, 16).tolist() == list(range(2, 64, 4))
    assert cell_pixels(16, 16).tolist() == list(range(16))


def test_cells_go_to_their_token_and_back() -> None:
    depth = np.arange(1, 65, dtype=np.float32).reshape(1, 8, 8) / 10
    ids = np.zeros((1, 8, 8), dtype=np.uint8)
    ids[0, 0, 0], ids[0, 7, 7], ids[0, 4, 4] = 1, 101, 99
    depth[0, 4, 4] = 0
    metres, hit, objects = depth_cells(Truth(depth, ids, {}), [0], CELLS)
    assert np.array_equal(metres, depth)
    # An object that was not hit (no depth) counts nowhere; 101 is a screen.
    assert np.flatnonzero(objects).tolist() == [0]
    assert np.flatnonzero(~hit).tolist() == [36]
    own = per_token(metres, GRID)
    assert own.shape == (1, 4, 16)
    assert own[0, 1].tolist() == depth[0, :4, 4:].reshape(-1).tolist()
    for grid in (GRID, (1, 1), (4, 2)):
        assert np.array_equal(as_map(per_token(metres, grid), grid, CELLS), metres)


def test_depth_ends_at_the_cap() -> None:
    far = Truth(np.full((1, 8, 8), 30, np.float32), np.zeros((1, 8, 8), np.uint8), {})
    assert depth_cells(far, [0], CELLS)[0].max() == CAP_M


def test_patches_see_their_own_place_and_half_a_patch_around() -> None:
    frames = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    frames[..., 6:8, 6:8] = 255
    seen = patches(frames, GRID)
    assert seen.shape == (1, 4, 3 * 8 * 8)
    assert (seen[0].amax(1) == 1).all()
    frames[..., 6:8, 6:8] = 0
    frames[..., :2, :2] = 255
    assert patches(frames, GRID)[0].amax(1).tolist() == [1, 0, 0, 0]
    # However large or small a patch is.
    large = torch.zeros(1, 3, 128, 128, dtype=torch.uint8)
    assert patches(large, GRID).shape[2] == 3 * (2 * PATCH_PIXELS) ** 2
    assert patches(frames, (16, 16)).shape == (1, 256, 3 * 4)


def test_frames_are_the_last_of_a_step_of_every_level() -> None:
    plan = plan_of((1, 2, 4), 32, ((4, 4), (2, 2), (1, 1)))
    assert plan.frames == (7, 15, 23, 31)
    assert plan.steps == ((7, 15, 23, 31), (3, 7, 11, 15), (1, 3, 5, 7))
    assert plan.cells == (16, 16)
    # Short clips: fewer frames, and a level without a whole step is not asked.
    short = plan_of((1, 4, 16), 9, ((4, 4), (2, 2), (1, 1)))
    assert short.frames == (3, 7)
    assert short.steps == ((3, 7), (0, 1), ())
    # Steps that do not nest: the last step before the frame's end.
    assert plan_of((2, 3), 6, (GRID, GRID)).steps == ((0, 2), (0, 1))


def test_clips_shorter_than_a_step_are_refused() -> None:
    with pytest.raises(InputError, match=r"level 0 covers 2 frames and a clip has 1; .*longer"):
        plan_of((2,), 1, (GRID,))


def test_features_come_from_the_step_of_the_frame_and_grids_are_laid_on_cells() -> None:
    plan = plan_of((1, 2), 4, ((2, 2), (3, 3)))
    assert plan.frames == (1, 3)
    steps = torch.arange(2.0).view(1, 2, 1, 1) + torch.arange(9).view(1, 1, 9, 1) * 10
    # 3 x 3 tokens do not divide 8 x 8 cells: a quarter's middle lies in the token of its corner.
    assert plan.answering(1) == (2, 2)
    assert plan.features(1, steps)[0, 1, :, 0].tolist() == [1, 21, 61, 81]
    assert plan.features(0, torch.arange(4.0).view(1, 4, 1, 1))[0, :, 0, 0].tolist() == [1, 3]


def clips_of(seeds: range) -> list[DepthClip]:
    """The model's tokens hold the depth of their cells, the untrained network's are noise.

    The model's context states hold it too, those of level 1 for all cells in one token.
    """
    taken = []
    turn = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(9)))[0]
    for seed in seeds:
        clip = footage(seed)
        clip = replace(clip, metadata={**clip.metadata, "moving_camera": seed % 3 == 0})
        metres = depth_cells(clip.truth, range(FRAMES), CELLS)[0]
        fine = torch.from_numpy(per_token(metres, GRID)) @ turn[:16, :16]
        coarse = torch.from_numpy(per_token(metres, (1, 1)))[1::2] @ turn
        noise = torch.Generator().manual_seed(seed)
        blind = torch.randn(1, FRAMES, 4, 16, generator=noise)
        values = {
            "model": {
                "tokens": [fine[None], torch.randn(1, FRAMES // 2, 1, 64, generator=noise)],
                "context": [fine[None], coarse[None]],
            },
            "untrained": {"tokens": [blind]},
        }
        taken += take_depth(PLAN, [clip], values)
    return taken


@pytest.fixture(scope="module")
def splits() -> dict[str, list[DepthClip]]:
    return {
        "train": clips_of(range(0, 40)),
        "val": clips_of(range(40, 50)),
        "test": clips_of(range(60, 72)),
    }


def samples(clips: Sequence[DepthClip], max_clips: int = 100) -> DepthSamples:
    kept = DepthSamples(max_clips)
    kept.add(clips)
    return kept


@pytest.fixture(scope="module")
def scores(splits: dict[str, list[DepthClip]]) -> DepthScores:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(depth_heads, "NUM_STEPS", 96)
        probes = fit_depth(PLAN, samples(splits["train"]), samples(splits["val"]))
    found = DepthScores(probes, len(splits["test"]))
    found.add(splits["test"])
    return found


def joined(clips: Sequence[DepthClip], name: str) -> np.ndarray:
    return np.concatenate([getattr(clip, name) for clip in clips])


def test_depth_is_read_from_tokens_that_hold_it_and_nulls_stand_beside_it(
    scores: DepthScores,
) -> None:
    section = scores.section()
    null = section["null"]
    assert section["rmse_m"] < 0.02 < null["mean"]["rmse_m"]
    assert section["delta1"] > 0.999
    assert section["objects"]["rmse_m"] < 0.1
    assert null["untrained"]["rmse_m"] == pytest.approx(null["mean"]["rmse_m"], rel=0.1)
    assert section["conv"]["rmse_m"] < 0.05
    assert section["conv"]["null"]["untrained"]["rmse_m"] > 0.1
    for part in (section, section["objects"], section["conv"], section["conv"]["objects"]):
        assert part["ci95_rmse_m"][0] < part["rmse_m"] < part["ci95_rmse_m"][1]
    gain = null["untrained"]["rmse_m"] - section["rmse_m"]
    assert section["ci95_gain_over_untrained_m"][0] <= gain
    assert gain <= section["ci95_gain_over_untrained_m"][1]
    counts = {
        "num_clips": 12,
        "num_frames": 48,
        "cells_per_frame": 64,
        "num_train_clips": 40,
        "num_val_clips": 10,
        "level": 0,
    }
    assert {name: section[name] for name in counts} == counts


def test_all_metrics_of_all_cells_and_of_objects_are_those_of_the_maps(
    scores: DepthScores, splits: dict[str, list[DepthClip]]
) -> None:
    section, test = scores.section(), splits["test"]
    for found, case in (
        (section, HEADLINE),
        (section["conv"], Case(HEADLINE.reading, "conv")),
        (section["null"]["untrained"], Case(Reading("untrained"))),
        (section["null"]["pixels"], Case(Reading("pixels", 0, "pixels"))),
    ):
        maps = np.concatenate([scores.probes.maps(case, clip) for clip in test])
        metres = joined(test, "metres").astype(np.float64)
        for part, cells in ((found, "hit"), (found["objects"], "objects")):
            expected = depth_scores(maps, metres, joined(test, cells))
            assert {name: part[name] for name in METRICS} == pytest.approx(expected, abs=1e-9)


def test_the_mean_null_is_the_mean_map_of_training(
    scores: DepthScores, splits: dict[str, list[DepthClip]]
) -> None:
    mean = joined(splits["train"], "metres").astype(np.float64).mean(0)
    error = joined(splits["test"], "metres") - mean
    found = scores.section()["null"]["mean"]
    assert found["rmse_m"] == pytest.approx(float(np.sqrt(np.mean(error**2))), rel=1e-6)


def test_a_single_clip_has_no_interval(
    scores: DepthScores, splits: dict[str, list[DepthClip]]
) -> None:
    found = DepthScores(scores.probes, 1)
    found.add(splits["test"][:1])
    section = found.section()
    assert section["ci95_rmse_m"] is None
    assert section["ci95_gain_over_untrained_m"] is None
    assert "interval of the rmse -" in depth_table(section)


def test_the_mean_map_is_a_depth_where_training_saw_nothing(
    splits: dict[str, list[DepthClip]],
) -> None:
    def without(clips: Sequence[DepthClip]) -> DepthSamples:
        hit = np.ones_like(clips[0].hit)
        hit[:, 0, 0] = False
        return samples([replace(clip, hit=hit) for clip in clips])

    probes = fit_depth(PLAN, without(splits["train"][:4]), without(splits["val"][:2]), conv=False)
    assert probes.mean[0, 0] == depth_heads.NEAREST_M


def test_pixels_tell_something_of_a_bright_square(scores: DepthScores) -> None:
    null = scores.section()["null"]
    assert null["pixels"]["objects"]["rmse_m"] < 0.7 * null["mean"]["objects"]["rmse_m"]


def test_levels_and_sources_stand_side_by_side(scores: DepthScores) -> None:
    levels = scores.section()["by_level"]
    assert list(levels) == ["level0", "level1"]
    assert [list(level) for level in levels.values()] == [["tokens", "context"]] * 2
    assert levels["level0"]["tokens"]["rmse_m"] == scores.section()["rmse_m"]
    # One token that holds all 64 cells, against one that holds nothing.
    assert levels["level1"]["context"]["rmse_m"] < 0.1 < levels["level1"]["tokens"]["rmse_m"]
    assert set(levels["level0"]["tokens"]["null"]) == {"untrained"}
    # The untrained network was not asked for its context.
    assert levels["level0"]["context"]["null"] == {}


def test_moving_and_standing_cameras_are_scored_apart(
    scores: DepthScores, splits: dict[str, list[DepthClip]]
) -> None:
    section = scores.section()
    for name, clips in (
        ("moving", splits["test"][::3]),
        ("standing", [clip for n, clip in enumerate(splits["test"]) if n % 3]),
    ):
        found = section["by_camera"][name]
        assert found["num_clips"] == len(clips)
        for scored, case in (
            (found, HEADLINE),
            (found["null"]["untrained"], Case(Reading("untrained"))),
        ):
            maps = np.concatenate([scores.probes.maps(case, clip) for clip in clips])
            expected = np.sqrt(np.mean((maps - joined(clips, "metres")) ** 2))
            assert scored["rmse_m"] == pytest.approx(float(expected), rel=1e-6)
        assert section["by_level"]["level1"]["context"]["by_camera"][name]["rmse_m"] < 0.1


def test_unknown_cameras_and_missing_objects_leave_their_parts_out(
    scores: DepthScores, splits: dict[str, list[DepthClip]]
) -> None:
    found = DepthScores(scores.probes, 2)
    bare = [
        replace(clip, moving_camera=None, objects=np.zeros_like(clip.objects))
        for clip in splits["test"][:2]
    ]
    found.add(bare)
    section = found.section()
    assert "by_camera" not in section
    assert "objects" not in section
    assert section["rmse_m"] > 0


def test_more_training_clips_read_more_and_all_of_them_are_the_headline(
    scores: DepthScores,
) -> None:
    section = scores.section()
    shares = section["data_efficiency"]
    assert {name: share["num_clips"] for name, share in shares.items()} == {
        "percent1": 1,
        "percent10": 4,
        "percent100": 40,
    }
    rmse = [share["rmse_m"] for share in shares.values()]
    assert rmse[0] > rmse[1] > rmse[2] == section["rmse_m"]
    assert shares["percent100"]["null"]["untrained"] == {
        name: section["null"]["untrained"][name] for name in ("rmse_m", "delta1")
    }


def test_a_smaller_share_lies_within_a_larger_one_and_keeps_the_order(
    splits: dict[str, list[DepthClip]],
) -> None:
    kept = samples(splits["train"], 25)
    everything = kept.clips()
    places = [[id(clip) for clip in splits["train"]].index(id(clip)) for clip in everything]
    assert places == sorted(places)
    assert len(everything) == len(kept) == 25
    few = kept.clips(10)
    assert len(few) == 2
    assert {id(clip) for clip in few} < {id(clip) for clip in everything}
    other = DepthSamples(25, seed=1)
    other.add(splits["train"])
    assert [id(clip) for clip in other.clips()] != [id(clip) for clip in everything]


def test_without_convolutions_everything_else_is_as_it_was(
    splits: dict[str, list[DepthClip]], scores: DepthScores
) -> None:
    train, val = samples(splits["train"]), samples(splits["val"])
    found = fit_depth(PLAN, train, val, conv=False)
    assert found.probes.keys() == {case for case in scores.probes.probes if case.head == "linear"}
    clip = splits["test"][0]
    assert np.array_equal(found.maps(HEADLINE, clip), scores.probes.maps(HEADLINE, clip))


@pytest.mark.parametrize("size", [1, 5, 40])
def test_chunks_change_no_bit(
    size: int,
    scores: DepthScores,
    splits: dict[str, list[DepthClip]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(depth_heads, "NUM_STEPS", 16)

    def in_chunks(size: int) -> dict[str, object]:
        train, val = DepthSamples(20), DepthSamples(20)
        for part, clips in ((train, splits["train"]), (val, splits["val"])):
            for start in range(0, len(clips), size):
                part.add(clips[start : start + size])
        found = DepthScores(fit_depth(PLAN, train, val), 12)
        for start in range(0, 12, size):
            found.add(splits["test"][start : start + size])
        return found.section()

    whole = DepthScores(
        fit_depth(PLAN, samples(splits["train"], 20), samples(splits["val"], 20)), 12
    )
    whole.add(splits["test"])
    assert in_chunks(size) == whole.section()


def watched(clips: Sequence[DepthClip]) -> list[list[weakref.ref]]:
    """Per clip, references to everything large that do not keep it alive."""
    return [
        [weakref.ref(thing) for thing in (clip.frames, clip.metres, *clip.features.values())]
        for clip in clips
    ]


def num_alive(clips: Sequence[Sequence[weakref.ref]]) -> int:
    return sum(any(thing() is not None for thing in clip) for clip in clips)


def test_more_clips_to_learn_from_keep_no_more_memory(
    splits: dict[str, list[DepthClip]],
) -> None:
    kept = DepthSamples(5)
    clips = []
    for seed in range(12):
        one = clips_of(range(seed, seed + 1))
        clips += watched(one)
        kept.add(one)
        del one
        assert num_alive(clips) == len(kept) == min(seed + 1, 5)
    assert kept.num_seen == 12
    # By bytes as well; never none.
    for limit, count in ((3 * splits["train"][0].num_bytes + 1, 3), (1, 1)):
        few = DepthSamples(100, max_bytes=limit)
        few.add(splits["train"])
        assert len(few) == count


def test_of_a_test_clip_only_sums_stay(scores: DepthScores) -> None:
    found = DepthScores(scores.probes, 6)
    clips = clips_of(range(60, 66))
    alive = watched(clips)
    found.add(clips)
    del clips
    assert num_alive(alive) == 0
    for rows in found._sums.values():
        assert [sums.nbytes for sums in rows] == [160] * 6
    assert len(found.pictures().frames) == 6


def test_what_both_networks_find_hard_cancels_in_the_gain(
    scores: DepthScores, splits: dict[str, list[DepthClip]]
) -> None:
    model, untrained = HEADLINE.reading, Reading("untrained")
    mean = scores.probes.probes[Case(untrained)]
    same = replace(
        scores.probes, probes={**scores.probes.probes, HEADLINE: mean, Case(untrained): mean}
    )
    found = DepthScores(same, 12)
    found.add(
        replace(clip, features={**clip.features, model: clip.features[untrained]})
        for clip in splits["test"]
    )
    section = found.section()
    assert section["ci95_gain_over_untrained_m"] == [0.0, 0.0]
    assert section["ci95_rmse_m"][0] < section["ci95_rmse_m"][1]


def test_what_is_kept_holds_on_to_nothing_else() -> None:
    (clip,) = clips_of(range(1))
    arrays = (clip.frames, clip.metres, clip.hit, clip.objects, *clip.features.values())
    assert all(array.base is None for array in arrays)
    assert clip.num_bytes == sum(array.nbytes for array in arrays)
    # A tensor would go to another process as an open file.
    assert all(isinstance(array, np.ndarray) for array in arrays)


def test_pictures_are_spread_evenly_over_the_test_frames(
    scores: DepthScores, splits: dict[str, list[DepthClip]]
) -> None:
    pictures = scores.pictures()
    chosen = np.linspace(0, 47, 6).astype(int)
    assert np.array_equal(pictures.true, joined(splits["test"], "metres")[chosen])
    assert np.array_equal(pictures.frames.numpy(), joined(splits["test"], "frames")[chosen])
    maps = np.concatenate([scores.probes.maps(HEADLINE, clip) for clip in splits["test"]])
    assert np.array_equal(pictures.probed, maps[chosen])


def test_values_that_are_not_finite_are_refused_by_name() -> None:
    clips = [footage(0), footage(1)]
    broken = torch.zeros(2, FRAMES, 4, 3)
    broken[1, 7, 2, 1] = torch.nan
    with pytest.raises(InputError, match=r"tokens of level 0 .* model .* on clip-001: .*diverged"):
        take_depth(PLAN, clips, {"model": {"tokens": [broken]}})


def test_empty_splits_are_refused(scores: DepthScores, splits: dict[str, list[DepthClip]]) -> None:
    with pytest.raises(InputError, match="training and validation clips, got 0 and 10"):
        fit_depth(PLAN, DepthSamples(5), samples(splits["val"]))
    with pytest.raises(InputError, match="none of 0 test clips shows a surface"):
        DepthScores(scores.probes, 0).section()
