"""NYU Depth v2: 1,449 indoor pictures of 640 x 480 with a Kinect's depth (Silberman et al. 2012).

Either as published, two files in one folder:

    nyu_depth_v2_labeled.mat   images, rawDepths, depths (MATLAB 7.3, which is HDF5)
    splits.mat                 trainNdxs (795), testNdxs (654), counted from 1 (MATLAB 5)

or as a tree of pictures in the manner of BTS (https://arxiv.org/abs/1907.10326), depth in
millimetres:

    official_splits/train/<scene>/{rgb,sync_depth}_NNNNN.{jpg,png}   or train/, or sync/
    official_splits/test/<scene>/{rgb,sync_depth}_NNNNN.{jpg,png}    or test/

MATLAB stores columns first, so HDF5 shows images as `(n, 3, 640, 480)` and depths as
`(n, 640, 480)`. `rawDepths` is what the sensor measured, with holes of 0, and what BTS and its
successors score; `depths` has the holes filled in.
"""

from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np

from worldmodel.data.benchmarks.depth_images import (
    MAX_PIXELS,
    DepthImage,
    DepthSet,
    Split,
    read_depth_png,
    read_picture,
)
from worldmodel.errors import InputError

LABELED = "nyu_depth_v2_labeled.mat"
SPLITS = "splits.mat"
CAP_M = 10.0
# Eigen et al. 2014: rows 45:471 and columns 41:601 of 480 x 640.
CROP_ROWS, CROP_COLUMNS = (45, 471), (41, 601)
FULL_HEIGHT, FULL_WIDTH = 480, 640
MILLIMETRES = 1000.0
PICTURES = (".jpg", ".png", ".jpeg")
FOLDERS: dict[Split, tuple[str, ...]] = {
    "train": ("official_splits/train", "train", "sync"),
    "test": ("official_splits/test", "test"),
}

Depth = Literal["auto", "raw", "filled"]


class _NyuSet(DepthSet):
    name = "nyuv2"
    cap_m = CAP_M

    def crop(self, height: int, width: int) -> np.ndarray:
        """Eigen's crop, in proportion where pictures have another size than 640 x 480."""
        top, bottom = (row * height // FULL_HEIGHT for row in CROP_ROWS)
        left, right = (column * width // FULL_WIDTH for column in CROP_COLUMNS)
        mask = np.zeros((height, width), bool)
        mask[top:bottom, left:right] = True
        return mask


class NyuMat(_NyuSet):
    """The published MATLAB files; pictures are read one by one.

    Args:
        root: folder of both files.
        depth: `raw` scores what was measured, `filled` the completed maps; `auto` is raw where the
            file has it.

    Raises:
        InputError: a file or an array in it is missing or of another shape, or h5py is.
    """

    def __init__(self, root: Path, depth: Depth = "auto") -> None:
        self._h5py = import_h5py()
        self.path = root / LABELED
        missing = [name for name in (LABELED, SPLITS) if not (root / name).is_file()]
        if missing:
            raise InputError(
                f"{root} has no {' and no '.join(missing)}; both come from the page of NYU Depth v2"
            )
        with _opened(self._h5py, self.path) as file:
            self._depths = "depths" if depth == "filled" else "rawDepths"
            if depth == "auto" and self._depths not in file:
                self._depths = "depths"
            shapes = [_array(file, name, self.path).shape for name in ("images", self._depths)]
        count, channels, width, height = shapes[0] if len(shapes[0]) == 4 else (0, 0, 0, 0)
        if channels != 3 or shapes[1] != (count, width, height) or width * height > MAX_PIXELS:
            raise InputError(
                f"{self.path} should hold images (n, 3, width, height) and {self._depths} "
                f"(n, width, height), found {shapes[0]} and {shapes[1]}"
            )
        self._numbers = _read_splits(root / SPLITS, count)
        self.source = f"{LABELED}, {self._depths}, split by {SPLITS}"

    def keys(self, split: Split) -> list[str]:
        return [f"{number:05d}" for number in self._numbers[split]]

    def read(self, key: str) -> DepthImage:
        with _opened(self._h5py, self.path) as file:
            try:
                picture = _array(file, "images", self.path)[int(key)]
                depth = _array(file, self._depths, self.path)[int(key)]
            except (OSError, RuntimeError) as error:
                raise InputError(
                    f"{self.path}: picture {key} cannot be read; fetch the file again"
                ) from error
        if picture.dtype != np.uint8 or depth.dtype.kind != "f":
            raise InputError(
                f"{self.path} should hold uint8 images and float depths, found {picture.dtype} and "
                f"{depth.dtype}"
            )
        rgb = np.ascontiguousarray(picture.transpose(2, 1, 0))
        metres = np.nan_to_num(depth.T.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
        return DepthImage(key, rgb, np.ascontiguousarray(metres))


class NyuFolder(_NyuSet):
    """A tree of pictures in the manner of BTS.

    Args:
        root: folder that holds `official_splits/` or `train/` and `test/`.

    Raises:
        InputError: a split is missing or empty, or a picture has no depth.
    """

    def __init__(self, root: Path) -> None:
        self._folders = {split: _first_folder(root, split) for split in FOLDERS}
        self._pairs: dict[str, tuple[Path, Path]] = {}
        self._keys: dict[Split, list[str]] = {}
        for split, folder in self._folders.items():
            pairs = _pairs(folder, split)
            self._pairs |= pairs
            self._keys[split] = list(pairs)
        used = " and ".join(str(folder.relative_to(root)) for folder in self._folders.values())
        self.source = f"pictures below {used}"

    def keys(self, split: Split) -> list[str]:
        return list(self._keys[split])

    def read(self, key: str) -> DepthImage:
        picture, depth = self._pairs[key]
        return DepthImage(key, read_picture(picture), read_depth_png(depth, MILLIMETRES))


def open_nyuv2(root: Path, depth: Depth = "auto") -> DepthSet:
    """NYU Depth v2 in whichever of the two layouts `root` has.

    Args:
        root: folder of the MATLAB files or of the tree of pictures.
        depth: which depth of the MATLAB file is scored.

    Raises:
        InputError: neither is there, or something of it is missing.
    """
    if not root.is_dir():
        raise InputError(f"there is no folder {root}; give the one that holds {LABELED}")
    if (root / LABELED).is_file() or (root / SPLITS).is_file():
        return NyuMat(root, depth)
    if not any((root / name).is_dir() for names in FOLDERS.values() for name in names):
        raise InputError(
            f"{root} has neither {LABELED} with {SPLITS} nor the folders official_splits/train and "
            "official_splits/test (or train and test); see docs/benchmarks-depth-and-labels.md"
        )
    return NyuFolder(root)


def import_h5py() -> ModuleType:
    """h5py, which only the MATLAB file needs.

    Raises:
        InputError: it is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise InputError(
            f"{LABELED} is an HDF5 file and h5py is not installed; "
            "`pip install worldmodel[benchmarks]`"
        ) from error
    return h5py


def _opened(h5py: ModuleType, path: Path) -> Any:
    try:
        return h5py.File(path, "r")
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{path} cannot be read as HDF5 (MATLAB 7.3); it may be cut short, fetch it again"
        ) from error


def _array(file: Any, name: str, path: Path) -> Any:
    """An array that lies in the file itself; none that would have other files read."""
    import h5py

    if name not in file:
        raise InputError(f"{path} has no array {name}, it has {', '.join(sorted(file)) or 'none'}")
    is_inside = isinstance(file.get(name, getlink=True), h5py.HardLink)
    array = file[name] if is_inside else None
    if not isinstance(array, h5py.Dataset) or array.external or array.is_virtual:
        raise InputError(f"{path}: {name} is no array of its own; take the published file")
    return array


def _read_splits(path: Path, count: int) -> dict[Split, list[int]]:
    """Numbers of the pictures of both splits, counted from 0."""
    from scipy.io import loadmat

    try:
        content = loadmat(path, variable_names=["trainNdxs", "testNdxs"])
    except Exception as error:  # scipy raises many kinds for a file that is not MATLAB's
        raise InputError(f"{path} cannot be read as a MATLAB 5 file; fetch it again") from error
    numbers: dict[Split, list[int]] = {}
    for split in FOLDERS:
        name = f"{split}Ndxs"
        stored = np.asarray(content.get(name, []))
        if not stored.size or stored.dtype.kind not in "uif":
            raise InputError(f"{path} has no list of numbers {name}")
        found = np.sort(stored.astype(np.int64).ravel())
        if found[0] < 1 or found[-1] > count:
            raise InputError(
                f"{path}: {name} goes from {found[0]} to {found[-1]}, counted from 1, but there "
                f"are {count} pictures"
            )
        numbers[split] = [int(number) - 1 for number in found]
    shared = set(numbers["train"]) & set(numbers["test"])
    if shared:
        raise InputError(f"{path}: {len(shared)} pictures are in both splits")
    return numbers


def _first_folder(root: Path, split: Split) -> Path:
    for name in FOLDERS[split]:
        if (root / name).is_dir():
            return root / name
    raise InputError(f"{root} has no folder {' or '.join(FOLDERS[split])}")


def _pairs(folder: Path, split: Split) -> dict[str, tuple[Path, Path]]:
    """Picture and depth by key, sorted by scene and number."""
    pairs, lonely = {}, []
    for picture in sorted(folder.glob("*/rgb_*")):
        if picture.suffix.lower() not in PICTURES:
            continue
        number = picture.stem.removeprefix("rgb_")
        depth = picture.with_name(f"sync_depth_{number}.png")
        pairs[f"{split}/{picture.parent.name}/{number}"] = (picture, depth)
        if not depth.is_file():
            lonely.append(depth)
    if not pairs:
        raise InputError(f"{folder} has no <scene>/rgb_NNNNN.jpg")
    if lonely:
        raise InputError(
            f"{len(lonely)} of {len(pairs)} pictures in {folder} have no depth; the first missing "
            f"file is {lonely[0]}"
        )
    return pairs
