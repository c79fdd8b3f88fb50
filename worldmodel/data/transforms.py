"""The same crop, scale, mirror and colours for every frame of a clip.

A picture's short side is scaled to the wanted size, pixels staying square, and a square is cut out
of it. The scaling is done by the decoder, straight to the target size, so that a full-size picture
is never held as RGB.
"""

import itertools

import numpy as np

from worldmodel.errors import InputError

# Longer pictures hold little of use in a square, and scaling them up would take much memory.
MAX_ASPECT_RATIO = 16
# A clip's brightness is raised to a power from 1/1.5 to 1.5.
MAX_GAMMA = 1.5
CHANNEL_ORDERS = tuple(itertools.permutations(range(3)))


def scaled_size(width: int, height: int, size: int, pixel_aspect: float = 1.0) -> tuple[int, int]:
    """(width, height) whose short side is `size`, the aspect ratio kept to the nearest even pixel.

    Args:
        width: pixels across, at least 1.
        height: pixels down, at least 1.
        size: pixels of the short side.
        pixel_aspect: width of a stored pixel over its height as shown.

    Raises:
        InputError: the long side is more than 16 times the short one.
    """
    shown = width * pixel_aspect
    short, long = min(shown, height), max(shown, height)
    if long > MAX_ASPECT_RATIO * short:
        raise InputError(
            f"frames of {width}x{height} pixels are more than {MAX_ASPECT_RATIO} times as long as "
            "they are wide; crop the video"
        )
    # Even where it can be: to an odd width scaling takes 1.6 times as long.
    longer = max(size, 2 * round(size * long / short / 2))
    return (longer, size) if shown >= height else (size, longer)


def crop_clip(frames: np.ndarray, size: int, at: tuple[float, float], flip: bool) -> np.ndarray:
    """Cut the same square out of all frames and mirror all of them or none.

    Args:
        frames: uint8 `(T, H, W, 3)` with both sides at least `size`.
        size: pixels a side of the square.
        at: (across, down) in [0, 1]: 0 is the left or top end, 0.5 the middle.
        flip: mirror left to right.

    Returns:
        uint8 `(T, size, size, 3)`, contiguous.
    """
    height, width = frames.shape[1:3]
    left = min(int(at[0] * (width - size + 1)), width - size)
    top = min(int(at[1] * (height - size + 1)), height - size)
    square = frames[:, top : top + size, left : left + size]
    if flip:
        square = square[:, :, ::-1]
    return np.ascontiguousarray(square)


def color_clip(frames: np.ndarray, channels: int, gamma: float) -> np.ndarray:
    """Exchange red, green and blue of all frames and make all of them brighter or darker.

    Args:
        frames: uint8 `(T, H, W, 3)`.
        channels: which of the 6 orders of red, green and blue; 0 leaves them.
        gamma: in [0, 1]: values in 0 to 1 are raised to 1.5 ** (2 gamma - 1), so 0 brightens, 0.5
            leaves them and 1 darkens.

    Returns:
        uint8 `(T, H, W, 3)`, contiguous.
    """
    power = MAX_GAMMA ** (2 * gamma - 1)
    table = np.rint(255 * (np.arange(256) / 255) ** power).astype(np.uint8)
    return np.ascontiguousarray(table[frames][..., CHANNEL_ORDERS[channels]])
