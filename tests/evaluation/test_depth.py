"""Depth is asked for at the right pixels, and read from tokens that hold it."""

import numpy as np
import pytest
import torch
from square_world import footage

from worldmodel.clips import Truth
from worldmodel.evaluation.depth import (
    CAP_M,
    DepthSamples,
    as_map,
    cell_pixels,
    depth_cells,
    depth_section,
    patches,
)

GRID = (2, 2)


def test_a_cell_is_its_central_pixel() -> None:
    assert cell_pixels(64, 4).tolist() == list(range(2, 64, 4))
    assert cell_pixels(16, 4).tolist() == list(range(16))


def test_cells_go_to_their_token_and_back() -> None:
    depth = np.arange(1, 65, dtype=np.float32).reshape(1, 8, 8) / 10
    ids = np.zeros((1, 8, 8), dtype=np.uint8)
    ids[0, 0, 0], ids[0, 7, 7], ids[0, 4, 4] = 1, 101, 99
    depth[0, 4, 4] = 0
    metres, hit, objects = depth_cells(Truth(depth, ids, {}), [0], GRID)
    assert metres.shape == (1, 4, 16)
    assert np.allclose(as_map(metres, GRID), depth)
    # An object that was not hit (no depth) counts nowhere; 101 is a screen.
    assert np.flatnonzero(as_map(objects, GRID)).tolist() == [0]
    assert np.flatnonzero(~as_map(hit, GRID)).tolist() == [36]


def test_depth_ends_at_the_cap() -> None:
    far = Truth(np.full((1, 8, 8), 30, np.float32), np.zeros((1, 8, 8), np.uint8), {})
    assert depth_cells(far, [0], GRID)[0].max() == CAP_M


def test_patches_see_their_own_place_and_half_a_patch_around() -> None:
    frames = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    frames[..., 6:8, 6:8] = 255
    seen = patches(frames, GRID)
    assert seen.shape == (1, 4, 3 * 8 * 8)
    assert (seen[0].amax(1) == 1).all()
    frames[..., 6:8, 6:8] = 0
    frames[..., :2, :2] = 255
    assert patches(frames, GRID)[0].amax(1).tolist() == [1, 0, 0, 0]


def with_tokens(seeds: range) -> DepthSamples:
    """The model's tokens are the depth of their cells, turned; the untrained ones are noise."""
    samples = DepthSamples(GRID)
    generator = torch.Generator().manual_seed(seeds[0])
    turn = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(9)))[0]
    for seed in seeds:
        clip = footage(seed)
        samples.add_truth([clip])
        metres, _, _ = depth_cells(clip.truth, range(len(clip.frames)), GRID)
        samples.add_tokens("model", (torch.from_numpy(metres).float() @ turn)[None])
        samples.add_tokens("untrained", torch.randn(1, 16, 4, 16, generator=generator))
    return samples


def test_depth_is_read_from_tokens_that_hold_it_and_nulls_stand_beside_it() -> None:
    train, val, test = (
        with_tokens(range(0, 30)),
        with_tokens(range(40, 50)),
        with_tokens(range(60, 72)),
    )
    section, probe = depth_section(train, val, test)
    null = section["null"]
    assert section["rmse_m"] < 0.05 < null["mean"]["rmse_m"]
    assert section["delta1"] > 0.999
    assert section["objects"]["rmse_m"] < 0.1
    assert null["untrained"]["rmse_m"] == pytest.approx(null["mean"]["rmse_m"], rel=0.1)
    assert section["num_clips"] == 12
    assert section["num_frames"] == 24
    assert section["ci95_rmse_m"][0] <= section["rmse_m"] <= section["ci95_rmse_m"][1]
    assert probe(test.features("model")).shape == (24, 4, 16)
