"""Videos to measure on, made on the spot: textures under a moving camera, with sensor noise.

Every picture bears its number as a row of black and white squares, so that a decoder that gives
another frame than the one it was asked for is found out, whichever way it scales.
"""

import io
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np

FPS = 30
CRF = 23  # x264's own default
# Of 255. At crf 23 it makes 0.5 MB of 10 seconds of 320x240 with a keyframe in every 12th frame.
NOISE = 6.0
_NUM_NOISES = 16  # pictures of noise in turn; more than the 3 an encoder refers to
_STAMP_BITS = 10
_STAMP_SHARE = 16  # a square is this part of the picture's width
_BRIGHTEST, _DARKEST = 215, 40


def make_footage(width: int, height: int, num_frames: int, seed: int) -> np.ndarray:
    """Frames of a camera that swings over a textured wall behind a moving textured card.

    Returns:
        uint8 `(T, height, width, 3)`, the same for the same arguments.
    """
    rng = np.random.default_rng(seed)
    wall = 118 + 45 * _texture(rng, 2 * width, 2 * height)
    card = 130 + 50 * _texture(rng, width // 4, height // 4)
    noise = rng.standard_normal((_NUM_NOISES, height, width, 3), dtype=np.float32) * NOISE
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    for number in range(num_frames):
        left = int(width * (0.5 + np.sin(number / 61 + 2 * seed) / 3))
        top = int(height * (0.5 + np.sin(number / 47 + seed) / 3))
        picture = wall[top : top + height, left : left + width].copy()
        across = int(width * 0.375 * (1 + np.cos(number / 23)))
        down = int(height * 0.375 * (1 + np.sin(number / 31)))
        picture[down : down + height // 4, across : across + width // 4] = card
        # Squares of the number, so that the order of the noises does not repeat soon.
        picture += noise[(7 * number * number) % _NUM_NOISES]
        frames[number] = np.clip(picture, 0, 255)
        _stamp(frames[number], number)
    return frames


def _texture(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Float32 `(height, width, 3)` of mean 0 and deviation 1, coarse and fine."""
    total = np.zeros((height, width, 3), np.float32)
    for cells in (4, 8, 16, 32, 64, 128):
        grid = rng.standard_normal((cells, cells, 3), dtype=np.float32)
        rows = _stretch(grid, height, cells)
        total += _stretch(rows.swapaxes(0, 1), width, cells).swapaxes(0, 1) / np.sqrt(cells)
    total -= total.mean()
    return total / total.std()


def _stretch(grid: np.ndarray, length: int, cells: int) -> np.ndarray:
    """The first axis drawn out to `length`, linearly and all the way round."""
    place = np.arange(length) * (cells / length)
    first = place.astype(np.int64)
    share = (place - first).astype(np.float32)[:, None, None]
    return grid[first] * (1 - share) + grid[(first + 1) % cells] * share


def _stamp(picture: np.ndarray, number: int) -> None:
    side_x, side_y = _sides(picture)
    for bit in range(_STAMP_BITS):
        bright = number >> bit & 1
        square = picture[:side_y, bit * side_x : (bit + 1) * side_x]
        square[:] = _BRIGHTEST if bright else _DARKEST


def _sides(picture: np.ndarray) -> tuple[int, int]:
    return picture.shape[1] // _STAMP_SHARE, max(2, picture.shape[0] // _STAMP_SHARE)


def read_stamps(frames: np.ndarray) -> list[int]:
    """The number that each of some frames bears, also after scaling.

    Args:
        frames: uint8 `(n, H, W, 3)`.
    """
    height, width = frames.shape[1:3]
    middle = (_BRIGHTEST + _DARKEST) / 2
    numbers = np.zeros(len(frames), np.int64)
    for bit in range(_STAMP_BITS):
        left, right = ((bit + share) * width / _STAMP_SHARE for share in (0.3, 0.7))
        patch = frames[:, : max(1, height // _STAMP_SHARE // 2), int(left) : int(right) + 1]
        numbers |= (patch.mean(axis=(1, 2, 3)) > middle).astype(np.int64) << bit
    return numbers.tolist()


def encode_as_found(frames: np.ndarray, gop: int) -> bytes:
    """An mp4 as videos are found: x264 at its defaults, at most `gop` frames between keyframes."""
    buffer = io.BytesIO()
    options = {
        "preset": "medium",
        "crf": str(CRF),
        # One thread, else the bytes depend on the machine.
        "x264-params": f"threads=1:bframes=3:keyint={gop}",
    }
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", FPS, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def windows(
    rng: np.random.Generator, num_frames: int, clip_frames: int, strides: Sequence[int]
) -> list[int]:
    """Frames of clips at some strides from one start drawn among all possible, ascending.

    Args:
        rng: draws the start.
        num_frames: of the video.
        clip_frames: of each clip.
        strides: one clip for each.
    """
    span = (clip_frames - 1) * max(strides) + 1
    start = int(rng.integers(0, num_frames - span + 1))
    wanted = {start + stride * place for stride in strides for place in range(clip_frames)}
    return sorted(wanted)
