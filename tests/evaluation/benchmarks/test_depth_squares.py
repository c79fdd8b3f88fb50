"""Squares cover a picture evenly, and cells of depth become the map they came from."""

import numpy as np
import pytest
import torch

from worldmodel.evaluation.benchmarks.depth_squares import (
    CELLS,
    cell_medians,
    cut_squares,
    depth_map,
    depth_rows,
    squares_of,
)

GRID = (2, 2)


def test_cells_are_the_lower_medians_of_their_valid_pixels() -> None:
    generator = np.random.default_rng(0)
    depth = generator.uniform(1, 9, (13, 17))
    valid = generator.random(depth.shape) < 0.5
    valid[:5, :5] = False
    found = cell_medians(depth, valid, (3, 4))
    rows, columns = np.arange(13) * 3 // 13, np.arange(17) * 4 // 17
    for row in range(3):
        for column in range(4):
            inside = np.ix_(rows == row, columns == column)
            values = np.sort(depth[inside][valid[inside]])
            expected = values[(len(values) - 1) // 2] if len(values) else 0
            assert found[row, column] == expected
    assert found[0, 0] == 0


def test_squares_cover_a_picture_evenly() -> None:
    assert squares_of(480, 640) == [0, 160]
    assert squares_of(375, 1242) == [0, 289, 578, 867]
    assert squares_of(64, 64) == [0]
    with pytest.raises(ValueError, match="at least as wide as high"):
        squares_of(640, 480)


def test_squares_are_scaled_and_keep_their_place() -> None:
    rgb = np.zeros((8, 12, 3), np.uint8)
    rgb[:, 4:8, 1] = 200
    left, right = cut_squares(rgb, 4)
    assert (left.shape, left.dtype) == ((3, 4, 4), torch.uint8)
    assert left[1, 0].tolist() == right[1, 0].flip(0).tolist()
    assert left[1, 0, 3] > 150
    assert left[1, 0, 0] == 0
    assert left[0].max() == 0


def test_cells_become_the_map_they_came_from() -> None:
    y, x = np.mgrid[:48, :64] / 48
    depth = 5 + 1.3 * np.sin(2 * x - 1.5 * y)
    rows = depth_rows(depth, depth > 0, GRID)
    assert rows.shape == (2 * 4, CELLS**2)
    found = depth_map(rows, GRID, (48, 64))
    assert np.abs(found - depth).max() < 0.6
    assert np.abs(found - depth).mean() < 0.1
    flat = np.full((24, 32), 4.0)
    assert depth_map(depth_rows(flat, flat > 0, GRID), GRID, (24, 32)) == pytest.approx(4)
