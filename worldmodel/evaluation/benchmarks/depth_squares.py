"""A picture as squares, and depth as cells of their tokens' patches: arithmetic only.

A picture is wider than high and models take squares, so it is covered with the fewest squares of
full height, evenly spaced. Pixels stay square.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

# Cells along each side of a token's patch.
CELLS = 4


def squares_of(height: int, width: int) -> list[int]:
    """Left edges of the squares of side `height` that cover a picture.

    Raises:
        ValueError: the picture is higher than wide.
    """
    if height > width:
        raise ValueError(f"pictures must be at least as wide as high, got {width}x{height}")
    count = -(-width // height)
    return [round(index * (width - height) / max(count - 1, 1)) for index in range(count)]


def cut_squares(rgb: np.ndarray, size: int) -> Tensor:
    """The squares of a picture uint8 `(H, W, 3)`, scaled: uint8 `(S, 3, size, size)`."""
    picture, side = Image.fromarray(rgb), rgb.shape[0]
    scaled = [
        np.asarray(
            picture.resize((size, size), Image.Resampling.BILINEAR, (left, 0, left + side, side))
        )
        for left in squares_of(*rgb.shape[:2])
    ]
    return torch.from_numpy(np.stack(scaled)).permute(0, 3, 1, 2).contiguous()


def cell_medians(depth: np.ndarray, valid: np.ndarray, cells: tuple[int, int]) -> np.ndarray:
    """Median depth of each cell's valid pixels.

    The lower of two middle ones: their mean may be a depth that nothing has.

    Args:
        depth: metres `(H, W)`.
        valid: bool `(H, W)`.
        cells: rows and columns of cells.

    Returns:
        float64 `cells`, 0 where no pixel is valid.
    """
    rows, columns = (
        np.arange(length) * count // length
        for length, count in zip(depth.shape, cells, strict=True)
    )
    cell = (rows[:, None] * cells[1] + columns)[valid]
    metres = depth[valid].astype(np.float64)
    metres = metres[np.lexsort((metres, cell))]
    count = np.bincount(cell, minlength=cells[0] * cells[1])
    median = np.zeros(len(count))
    filled = count > 0
    median[filled] = metres[(np.cumsum(count) - count + (count - 1) // 2)[filled]]
    return median.reshape(cells)


def depth_rows(depth: np.ndarray, valid: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Depth of the cells of all squares of a picture, metres `(P, CELLS * CELLS)`."""
    side = depth.shape[0]
    rows = []
    for left in squares_of(*depth.shape):
        part = np.s_[:, left : left + side]
        cells = cell_medians(depth[part], valid[part], (grid[0] * CELLS, grid[1] * CELLS))
        split = cells.reshape(grid[0], CELLS, grid[1], CELLS).transpose(0, 2, 1, 3)
        rows.append(split.reshape(-1, CELLS**2))
    return np.concatenate(rows)


def depth_map(cells: np.ndarray, grid: tuple[int, int], shape: tuple[int, int]) -> np.ndarray:
    """A picture's depth from its cells: the way back from `depth_rows`.

    Args:
        cells: metres `(P, CELLS * CELLS)`.
        grid: rows and columns of tokens of a square.
        shape: height and width of the picture.

    Returns:
        float64 `shape`.
    """
    height = shape[0]
    edges = squares_of(*shape)
    split = cells.reshape(len(edges), grid[0], grid[1], CELLS, CELLS).transpose(0, 1, 3, 2, 4)
    maps = torch.from_numpy(
        np.ascontiguousarray(split.reshape(len(edges), 1, grid[0] * CELLS, grid[1] * CELLS))
    )
    large = nn.functional.interpolate(maps, (height, height), mode="bilinear", align_corners=False)
    total, count = np.zeros(shape), np.zeros(shape)
    for left, square in zip(edges, large[:, 0].numpy(), strict=True):
        total[:, left : left + height] += square
        count[:, left : left + height] += 1
    return total / count
