"""What every depth benchmark gives: pictures, measured depth, and which part of it is scored."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from worldmodel.errors import InputError

Split = Literal["train", "test"]

# 8K; no depth benchmark comes near, and a forged header must not fill the memory.
MAX_PIXELS = 1 << 26


@dataclass(frozen=True)
class DepthImage:
    """One picture and how far away what it shows is.

    Attributes:
        key: its name within the benchmark.
        rgb: uint8 `(H, W, 3)`.
        depth_m: float32 `(H, W)`, metres along the optical axis; 0 where nothing was measured.

    Raises:
        InputError: picture and depth have other sizes.
    """

    key: str
    rgb: np.ndarray
    depth_m: np.ndarray

    def __post_init__(self) -> None:
        if self.rgb.shape != (*self.depth_m.shape, 3) or self.depth_m.ndim != 2:
            raise InputError(
                f"{self.key}: the picture is {self.rgb.shape} but the depth {self.depth_m.shape}; "
                "take both from the same release"
            )


class DepthSet(ABC):
    """A depth benchmark on disk.

    Attributes:
        name: of the benchmark.
        nearest_m: cells at or below this depth are not scored.
        cap_m: nor are cells at or above this one.
        source: in words, which files the depth and the splits come from.
        num_left_out: test pictures of the list for which there is no measured depth.
    """

    name: str
    nearest_m: float = 1e-3
    cap_m: float
    source: str
    num_left_out: int = 0

    @abstractmethod
    def keys(self, split: Split) -> list[str]:
        """Names of a split's pictures, those of one scene or drive side by side."""

    @abstractmethod
    def read(self, key: str) -> DepthImage:
        """One picture with its depth.

        Raises:
            InputError: a file is missing, broken, or of another kind.
        """

    @abstractmethod
    def crop(self, height: int, width: int) -> np.ndarray:
        """The part of a picture that is scored, bool `(height, width)`."""

    def valid(self, image: DepthImage) -> np.ndarray:
        """Cells that are scored: inside the crop and measured within the range."""
        depth = image.depth_m
        inside = (depth > self.nearest_m) & (depth < self.cap_m)
        return inside & self.crop(*depth.shape)


def read_picture(path: Path) -> np.ndarray:
    """A picture file as uint8 `(H, W, 3)`.

    Raises:
        InputError: it is missing, broken, or too large.
    """
    return np.asarray(_open(path, "RGB"))


def read_depth_png(path: Path, units_per_m: float) -> np.ndarray:
    """A 16-bit PNG as float32 metres `(H, W)`.

    Args:
        path: of the file.
        units_per_m: stored value of 1 m: 1000 for millimetres, 256 for KITTI.

    Raises:
        InputError: it is missing, broken, too large, or not of 16 bits.
    """
    stored = np.asarray(_open(path, None))
    # Pillow gives int32 for some 16-bit files.
    if stored.ndim != 2 or stored.dtype not in (np.uint16, np.int32):
        raise InputError(
            f"{path} should be a PNG of one channel with 16 bits, found {stored.dtype} "
            f"{stored.shape}; it has been converted on the way, take the original"
        )
    return stored.astype(np.float32) / np.float32(units_per_m)


def _open(path: Path, mode: str | None) -> Image.Image:
    if not path.is_file():
        raise InputError(f"there is no {path}; the benchmark is not complete, unpack it again")
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise InputError(f"{path} has {picture.width}x{picture.height} pixels: too large")
            picture.load()
            return picture.convert(mode) if mode else picture
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read as a picture; unpack it again") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{path} claims to be too large for a picture") from error
