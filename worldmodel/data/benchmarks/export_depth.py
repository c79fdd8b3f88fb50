"""Our own clips in the layouts of depth benchmarks: what proves the readers without their data."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from worldmodel.data.benchmarks import kitti, nyuv2
from worldmodel.data.benchmarks.depth_images import DepthImage, Split
from worldmodel.errors import InputError
from worldmodel.evaluation.footage import Footage

Pictures = dict[Split, Iterable[DepthImage]]

# KITTI's annotated maps have a value in about one cell of five.
SPARSE_SHARE = 0.2
MAX_STORED = 65535


def pictures_of(clips: Iterable[Footage], frame_step: int = 8) -> Iterator[DepthImage]:
    """Every `frame_step`-th frame of some clips, from the middle of the first step on.

    Depth is taken at the nearest of its own pixels where frames have another size.
    """
    for clip in clips:
        height, width = clip.frames.shape[-2:]
        rows = np.arange(height) * clip.truth.depth.shape[1] // height
        columns = np.arange(width) * clip.truth.depth.shape[2] // width
        for number in range(frame_step // 2, len(clip.frames), frame_step):
            rgb = np.ascontiguousarray(clip.frames[number].permute(1, 2, 0).numpy())
            depth = clip.truth.depth[number][np.ix_(rows, columns)].astype(np.float32)
            yield DepthImage(f"{clip.key}-{number:03d}", rgb, depth)


def export_nyu_mat(root: Path, pictures: Pictures, with_raw: bool = True) -> None:
    """The two MATLAB files of NYU Depth v2, in MATLAB's order of axes.

    Args:
        root: folder to write to.
        pictures: of `train` and `test`, all of one size.
        with_raw: write `rawDepths` too, with the holes; `depths` has them filled with the farthest
            depth of the picture.
    """
    h5py = nyuv2.import_h5py()
    from scipy.io import savemat

    root.mkdir(parents=True, exist_ok=True)
    numbers: dict[str, list[int]] = {}
    with h5py.File(root / nyuv2.LABELED, "w") as file:
        count = 0
        for split, images in pictures.items():
            numbers[split] = []
            for image in images:
                filled = np.where(image.depth_m > 0, image.depth_m, image.depth_m.max())
                arrays = {"images": image.rgb.transpose(2, 1, 0), "depths": filled.T}
                if with_raw:
                    arrays["rawDepths"] = image.depth_m.T
                for name, array in arrays.items():
                    _append(file, name, array, count)
                count += 1
                numbers[split].append(count)  # counted from 1
    columns = {f"{split}Ndxs": np.array(found)[:, None] for split, found in numbers.items()}
    savemat(root / nyuv2.SPLITS, columns)


def _append(file: Any, name: str, array: np.ndarray, count: int) -> None:
    if name not in file:
        file.create_dataset(name, (0, *array.shape), array.dtype, maxshape=(None, *array.shape))
    stored = file[name]
    stored.resize(count + 1, axis=0)
    stored[count] = array


def export_nyu_folder(root: Path, pictures: Pictures) -> None:
    """NYU Depth v2 as a tree of lossless pictures; depth is rounded to millimetres."""
    for split, images in pictures.items():
        for number, image in enumerate(images):
            scene = f"scene_{number // 4:04d}"
            folder = root / "official_splits" / split / scene
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.rgb).save(folder / f"rgb_{number:05d}.png")
            _save_depth(folder / f"sync_depth_{number:05d}.png", image.depth_m, nyuv2.MILLIMETRES)


def export_kitti(
    root: Path, pictures: Pictures, share: float = SPARSE_SHARE, seed: int = 0
) -> dict[Split, Path]:
    """KITTI's raw and annotated trees, with lists in BTS' spelling.

    Args:
        root: folder to write to; pictures go below `raw/`, depth below `train/` and `val/`.
        pictures: of `train` and `test`.
        share: of the cells that keep their depth; the others become 0, as between laser lines.
        seed: of which.

    Returns:
        The lists, for `Kitti`.
    """
    generator = np.random.default_rng(seed)
    lists: dict[Split, Path] = {}
    for split, images in pictures.items():
        lines = []
        for number, image in enumerate(images):
            drive = f"2011_09_26_drive_{1 if split == 'train' else 9001:04d}_sync"
            shot = kitti.Shot(drive, "image_02", number)
            picture = root / "raw" / f"{shot.picture}.png"
            depth = root / kitti.FOLDERS[split] / shot.depth
            for path in (picture, depth):
                path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.rgb).save(picture)
            kept = generator.random(image.depth_m.shape) < share
            _save_depth(depth, np.where(kept, image.depth_m, 0), kitti.UNITS_PER_M)
            lines.append(f"{shot.picture}.png {shot.depth} 721.5377\n")
        lists[split] = root / kitti.LISTS[split][0]
        lists[split].write_text("".join(lines), encoding="utf-8")
    return lists


def _save_depth(path: Path, depth_m: np.ndarray, units_per_m: float) -> None:
    stored = np.rint(depth_m.astype(np.float64) * units_per_m)
    if stored.max(initial=0) > MAX_STORED:
        raise InputError(f"{path}: {depth_m.max():g} m cannot be stored in 16 bits")
    Image.fromarray(stored.astype(np.uint16)).save(path)
