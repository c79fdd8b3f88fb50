"""KITTI depth: pictures from a car, 1242 x 375 or so, with depth from a laser (Uhrig et al. 2017).

Pictures lie as in the raw recordings and depth as in the depth benchmark, below `root` or below
the folders named in `RAW` and `ANNOTATED`:

    2011_09_26/2011_09_26_drive_0001_sync/image_02/data/0000000005.png
    {train,val}/2011_09_26_drive_0001_sync/proj_depth/groundtruth/image_02/0000000005.png

Depth is a 16-bit PNG, metres = value / 256, 0 where the laser hit nothing: about one cell in five
has a value.

Splits are lists in files, one picture a line, in either of two spellings:

    2011_09_26/2011_09_26_drive_0002_sync/image_02/data/0000000069.png <path of its depth> 721.5377
    2011_09_26/2011_09_26_drive_0002_sync 69 l

the first from BTS, the second from Monodepth; l is image_02 and r is image_03. Eigen's test list
has 697 pictures, of which 652 have such depth. Without lists the benchmark's own train and val
folders are the splits.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from worldmodel.data.benchmarks.depth_images import (
    DepthImage,
    DepthSet,
    Split,
    read_depth_png,
    read_picture,
)
from worldmodel.errors import InputError

UNITS_PER_M = 256.0
CAP_M = 80.0
RAW = ("", "raw", "kitti_raw", "raw_data", "input")
ANNOTATED = ("", "annotated", "data_depth_annotated", "depth", "gt_depth")
PARTS = ("train", "val", "")
LISTS: dict[Split, tuple[str, ...]] = {
    "train": ("eigen_train_files_with_gt.txt", "train_files.txt"),
    "test": ("eigen_test_files_with_gt.txt", "test_files.txt"),
}
FOLDERS: dict[Split, str] = {"train": "train", "test": "val"}
DRIVE = re.compile(r"\d{4}_\d{2}_\d{2}_drive_\d{4}_(sync|extract)")
CAMERAS = {"l": "image_02", "r": "image_03"}

# Shares of height (top, bottom) and width (left, right), from the code that Godard et al. 2017
# published for both crops; the products are cut to whole pixels.
CROPS = {
    "garg": (0.40810811, 0.99189189, 0.03594771, 0.96405229),
    "eigen": (0.3324324, 0.91351351, 0.0359477, 0.96405229),
}
Crop = Literal["garg", "eigen"]

# 45 of Eigen's 697 test pictures have no depth: 6.5 %.
MAX_LEFT_OUT_SHARE = 0.1


@dataclass(frozen=True)
class Shot:
    """Where a picture lies: `2011_09_26_drive_0001_sync`, `image_02`, 5."""

    drive: str
    camera: str
    number: int

    @property
    def key(self) -> str:
        """Its name."""
        return f"{self.drive}/{self.camera}/{self.number:010d}"

    @property
    def picture(self) -> str:
        """Its path without the ending."""
        date = self.drive[:10]
        return f"{date}/{self.drive}/{self.camera}/data/{self.number:010d}"

    @property
    def depth(self) -> str:
        """Path of its depth."""
        return f"{self.drive}/proj_depth/groundtruth/{self.camera}/{self.number:010d}.png"


class Kitti(DepthSet):
    """KITTI's pictures that have depth.

    Args:
        root: folder of the pictures and the annotated depth.
        lists: for `train` and `test` each a file of lines; by default the files named in `LISTS`
            where `root` has them, else the folders train and val.
        crop: which part of a picture is scored.

    Raises:
        InputError: a folder, a list or a picture of a list is missing, or a line cannot be read.
    """

    name = "kitti"
    cap_m = CAP_M

    def __init__(
        self, root: Path, lists: Mapping[str, Path] | None = None, crop: Crop = "garg"
    ) -> None:
        if not root.is_dir():
            raise InputError(f"there is no folder {root}; give the one that holds KITTI")
        if crop not in CROPS:
            raise InputError(f"the crop must be garg or eigen, got {crop!r}")
        self.root, self.crop_name = root, crop
        lists = _find_lists(root) if lists is None else lists
        self._depths: dict[str, Path] = {}
        self._pictures: dict[str, Path] = {}
        self._keys: dict[Split, list[str]] = {}
        if lists and set(lists) != set(LISTS):
            raise InputError(
                f"KITTI needs a list for train and one for test, got {', '.join(sorted(lists))}"
            )
        for split, part in FOLDERS.items():
            if lists:
                self._take_list(split, lists[split])
            else:
                self._take_folder(split, part)
        self.source = f"annotated depth, {crop} crop, split by " + (
            f"{lists['train'].name} and {lists['test'].name}" if lists else "the folders train, val"
        )
        shared = set(self._keys["train"]) & set(self._keys["test"])
        if shared:
            raise InputError(f"{len(shared)} pictures are in both splits, such as {min(shared)}")

    def keys(self, split: Split) -> list[str]:
        return list(self._keys[split])

    def read(self, key: str) -> DepthImage:
        depth = read_depth_png(self._depths[key], UNITS_PER_M)
        return DepthImage(key, read_picture(self._pictures[key]), depth)

    def crop(self, height: int, width: int) -> np.ndarray:
        top, bottom, left, right = CROPS[self.crop_name]
        mask = np.zeros((height, width), bool)
        mask[int(top * height) : int(bottom * height), int(left * width) : int(right * width)] = 1
        return mask

    def _take_list(self, split: Split, path: Path) -> None:
        keys, left_out = set(), []
        for shot, depth_is_named in _read_list(path):
            depth = self._find_depth(shot)
            if depth is None:
                left_out.append(shot.key)
                if depth_is_named:
                    raise InputError(
                        f"{path} names depth for {shot.key}, but {self.root} has no "
                        f"{shot.depth} below {_names(ANNOTATED)}, there in train or val"
                    )
                continue
            self._depths[shot.key], self._pictures[shot.key] = depth, self._find_picture(shot)
            keys.add(shot.key)
        if not keys or len(left_out) > MAX_LEFT_OUT_SHARE * (len(keys) + len(left_out)):
            raise InputError(
                f"{len(left_out)} of {len(keys) + len(left_out)} pictures of {path} have no depth "
                f"in {self.root}{', such as ' + left_out[0] if left_out else ''}; unpack "
                "data_depth_annotated.zip there"
            )
        self._keys[split] = sorted(keys)
        if split == "test":
            self.num_left_out = len(left_out)

    def _take_folder(self, split: Split, part: str) -> None:
        pattern = "*/proj_depth/groundtruth/image_0[23]/*.png"
        for name in ANNOTATED:
            depths = sorted((self.root / name / part).glob(pattern))
            if depths:
                break
        else:
            raise InputError(
                f"{self.root} has no {part}/<drive>/proj_depth/groundtruth/image_02/*.png, below "
                f"{_names(ANNOTATED)}; unpack data_depth_annotated.zip there"
            )
        keys = []
        for depth in depths:
            drive, camera = depth.parents[3].name, depth.parent.name
            shot = _shot(drive, camera, depth.stem, depth)
            self._depths[shot.key], self._pictures[shot.key] = depth, self._find_picture(shot)
            keys.append(shot.key)
        self._keys[split] = sorted(keys)

    def _find_depth(self, shot: Shot) -> Path | None:
        for name in ANNOTATED:
            for part in PARTS:
                path = self.root / name / part / shot.depth
                if path.is_file():
                    return path
        return None

    def _find_picture(self, shot: Shot) -> Path:
        for name in RAW:
            for ending in (".png", ".jpg"):
                path = self.root / name / f"{shot.picture}{ending}"
                if path.is_file():
                    return path
        raise InputError(
            f"{self.root} has no picture {shot.picture}.png (or .jpg), below {_names(RAW)}; fetch "
            f"the raw recording {shot.drive}"
        )


def _names(folders: tuple[str, ...]) -> str:
    return ", ".join(name or "the folder itself" for name in folders)


def _find_lists(root: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for split, names in LISTS.items():
        for name in names:
            if (root / name).is_file():
                found.setdefault(split, root / name)
    return found


def _shot(drive: str, camera: str, number: str, where: object) -> Shot:
    is_number = number.isascii() and number.isdigit()
    if not (is_number and camera in CAMERAS.values() and DRIVE.fullmatch(drive)):
        raise InputError(
            f"{where}: should be a numbered picture of image_02 or image_03 in a drive such as "
            f"2011_09_26_drive_0001_sync, found {drive[:100]!r}, {camera[:100]!r}, {number[:100]!r}"
        )
    return Shot(drive, camera, int(number))


def _read_list(path: Path) -> list[tuple[Shot, bool]]:
    """Pictures of a list, and for each whether the line names a depth for it."""
    if not path.is_file():
        raise InputError(f"there is no list {path}; give a file of lines, one picture each")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text") from error
    shots = [
        _parse_line(line.split(), f"{path}, line {number}")
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not shots:
        raise InputError(f"{path} has no line; give a file of lines, one picture each")
    return shots


def _parse_line(words: list[str], where: str) -> tuple[Shot, bool]:
    parts = PurePosixPath(words[0].lstrip("/")).parts
    if len(parts) >= 4 and parts[-2] == "data":
        is_named = len(words) > 1 and words[1] != "None"
        return _shot(parts[-4], parts[-3], PurePosixPath(parts[-1]).stem, where), is_named
    if len(words) == 3 and len(parts) >= 1 and words[2] in CAMERAS:
        return _shot(parts[-1], CAMERAS[words[2]], words[1], where), False
    raise InputError(
        f"{where}: neither `<date>/<drive>/image_02/data/<number>.png <depth> <focal length>` nor "
        f"`<date>/<drive> <number> l`: {' '.join(words)[:200]!r}"
    )
