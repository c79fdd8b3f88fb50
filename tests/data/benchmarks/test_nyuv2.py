"""NYU Depth v2: both layouts come back as they were written, and what is missing is named."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from worldmodel.clips import Truth
from worldmodel.data.benchmarks.depth_images import DepthImage, DepthSet
from worldmodel.data.benchmarks.export_depth import (
    export_nyu_folder,
    export_nyu_mat,
    pictures_of,
)
from worldmodel.data.benchmarks.nyuv2 import LABELED, NyuMat, open_nyuv2
from worldmodel.errors import InputError
from worldmodel.evaluation.footage import Footage

h5py = pytest.importorskip("h5py")

HEIGHT, WIDTH = 48, 64


def picture(seed: int) -> DepthImage:
    generator = np.random.default_rng(seed)
    depth = generator.uniform(0.5, 12, (HEIGHT, WIDTH)).astype(np.float32)
    depth[generator.random(depth.shape) < 0.1] = 0
    return DepthImage(f"{seed}", generator.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8), depth)


TRAIN, TEST = [picture(seed) for seed in range(5)], [picture(seed) for seed in range(5, 8)]


@pytest.fixture
def mat(tmp_path: Path) -> Path:
    export_nyu_mat(tmp_path, {"train": TRAIN, "test": TEST})
    return tmp_path


def read_all(source: DepthSet) -> list[DepthImage]:
    return [source.read(key) for split in ("train", "test") for key in source.keys(split)]


def test_matlab_files_come_back_to_the_bit(mat: Path) -> None:
    source = open_nyuv2(mat)
    assert (len(source.keys("train")), len(source.keys("test"))) == (5, 3)
    for found, written in zip(read_all(source), TRAIN + TEST, strict=True):
        assert np.array_equal(found.rgb, written.rgb)
        assert np.array_equal(found.depth_m, written.depth_m)


def test_matlab_axes_are_columns_first_and_splits_count_from_1(mat: Path) -> None:
    with h5py.File(mat / LABELED) as file:
        assert file["images"].shape == (8, 3, WIDTH, HEIGHT)
        assert file["depths"].shape == (8, WIDTH, HEIGHT)
        assert file["images"][6, 2, 10, 20] == TEST[1].rgb[20, 10, 2]
    savemat(mat / "splits.mat", {"trainNdxs": [[2]], "testNdxs": [[8], [1]]})
    source = open_nyuv2(mat)
    assert source.keys("test") == ["00000", "00007"]
    assert np.array_equal(source.read("00007").rgb, TEST[2].rgb)


def test_holes_are_filled_only_where_asked(mat: Path) -> None:
    raw, filled = NyuMat(mat), NyuMat(mat, "filled")
    assert (raw.read("00000").depth_m == 0).any()
    assert (filled.read("00000").depth_m > 0).all()
    assert "rawDepths" in raw.source
    assert ", depths" in filled.source


def test_a_file_without_raw_depth_gives_the_filled_one_and_says_so(tmp_path: Path) -> None:
    export_nyu_mat(tmp_path, {"train": TRAIN, "test": TEST}, with_raw=False)
    assert ", depths" in open_nyuv2(tmp_path).source
    with pytest.raises(InputError, match="no array rawDepths, it has depths, images"):
        open_nyuv2(tmp_path, "raw")


def test_the_tree_of_pictures_comes_back_to_the_millimetre(tmp_path: Path) -> None:
    export_nyu_folder(tmp_path, {"train": TRAIN, "test": TEST})
    source = open_nyuv2(tmp_path)
    assert source.keys("train")[4] == "train/scene_0001/00004"
    for found, written in zip(read_all(source), TRAIN + TEST, strict=True):
        assert np.array_equal(found.rgb, written.rgb)
        assert np.abs(found.depth_m - written.depth_m).max() <= 0.00051
        assert np.array_equal(found.depth_m == 0, written.depth_m == 0)


def test_only_measured_cells_within_eigens_crop_and_10_m_are_scored(mat: Path) -> None:
    source = open_nyuv2(mat)
    full = source.crop(480, 640)
    rows, columns = np.flatnonzero(full.any(1)), np.flatnonzero(full.any(0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (45, 470, 41, 600)
    depth = np.full((480, 640), 3, np.float32)
    depth[100, 100:104] = 0, 10, 9.99, 1e-3
    depth[44, 100] = depth[45, 40] = 3
    image = DepthImage("x", np.zeros((480, 640, 3), np.uint8), depth)
    assert source.valid(image)[100, 99:105].tolist() == [True, False, False, True, False, True]
    assert source.valid(image).sum() == 426 * 560 - 3
    assert not source.valid(image)[44].any()
    assert source.crop(48, 64).sum() == (47 - 4) * (60 - 4)


@pytest.mark.parametrize("name", [LABELED, "splits.mat"])
def test_a_missing_file_is_named(mat: Path, name: str) -> None:
    (mat / name).unlink()
    with pytest.raises(InputError, match=f"has no {name}"):
        open_nyuv2(mat)


def test_an_empty_folder_says_what_it_should_hold(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"neither nyu_depth_v2_labeled\.mat with splits\.mat nor"):
        open_nyuv2(tmp_path)
    with pytest.raises(InputError, match="there is no folder"):
        open_nyuv2(tmp_path / "nowhere")


def test_broken_files_are_named(mat: Path) -> None:
    whole = (mat / LABELED).read_bytes()
    (mat / LABELED).write_bytes(whole[: len(whole) // 3])
    with pytest.raises(InputError, match="cannot be read as HDF5"):
        open_nyuv2(mat)
    (mat / LABELED).write_bytes(whole)
    for content in (b"", b"not matlab at all" * 50):
        (mat / "splits.mat").write_bytes(content)
        with pytest.raises(InputError, match=r"splits\.mat cannot be read as a MATLAB 5 file"):
            open_nyuv2(mat)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"trainNdxs": [[0]], "testNdxs": [[1]]}, "trainNdxs goes from 0 to 0, counted from 1"),
        ({"trainNdxs": [[1]], "testNdxs": [[9]]}, "there are 8 pictures"),
        ({"trainNdxs": [[1], [2]], "testNdxs": [[2]]}, "1 pictures are in both splits"),
        ({"trainNdxs": [[1]]}, "no list of numbers testNdxs"),
        ({"trainNdxs": ["a"], "testNdxs": [[1]]}, "no list of numbers trainNdxs"),
    ],
)
def test_splits_that_do_not_fit_are_refused(mat: Path, splits: dict, message: str) -> None:
    savemat(mat / "splits.mat", splits)
    with pytest.raises(InputError, match=message):
        open_nyuv2(mat)


def test_arrays_of_other_axes_or_in_other_files_are_refused(mat: Path) -> None:
    with h5py.File(mat / LABELED, "a") as file:
        images = file["images"][:]
        del file["images"]
        file["images"] = images.transpose(0, 2, 3, 1)
    with pytest.raises(InputError, match=r"should hold images \(n, 3, width, height\)"):
        open_nyuv2(mat)
    with h5py.File(mat / "other.h5", "w") as file:
        file["images"] = images
    with h5py.File(mat / LABELED, "a") as file:
        del file["images"]
        file["images"] = h5py.ExternalLink(str(mat / "other.h5"), "/images")
    with pytest.raises(InputError, match="images is no array of its own"):
        open_nyuv2(mat)


def test_without_h5py_the_way_to_install_it_is_told(
    mat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match=r"pip install worldmodel\[benchmarks\]"):
        open_nyuv2(mat)


def test_what_is_missing_or_wrong_in_the_tree_is_named(tmp_path: Path) -> None:
    export_nyu_folder(tmp_path, {"train": TRAIN, "test": TEST})
    depth = tmp_path / "official_splits/test/scene_0000/sync_depth_00001.png"
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(depth)
    with pytest.raises(InputError, match="one channel with 16 bits, found uint8"):
        open_nyuv2(tmp_path).read("test/scene_0000/00001")
    Image.fromarray(np.zeros((HEIGHT, WIDTH - 1), np.uint16)).save(depth)
    with pytest.raises(InputError, match="take both from the same release"):
        open_nyuv2(tmp_path).read("test/scene_0000/00001")
    depth.write_bytes(depth.read_bytes()[:60])
    with pytest.raises(InputError, match="cannot be read as a picture"):
        open_nyuv2(tmp_path).read("test/scene_0000/00001")
    depth.unlink()
    with pytest.raises(InputError, match=r"1 of 3 pictures .* first missing file is .*00001\.png"):
        open_nyuv2(tmp_path)
    (tmp_path / "official_splits/test").rename(tmp_path / "official_splits/other")
    with pytest.raises(InputError, match="no folder official_splits/test or test"):
        open_nyuv2(tmp_path)


def test_pictures_of_a_clip_carry_the_depth_of_their_frame() -> None:
    generator = np.random.default_rng(0)
    frames = torch.from_numpy(generator.integers(0, 256, (16, 3, 8, 8), np.uint8))
    depth = generator.uniform(1, 9, (16, 4, 4)).astype(np.float32)
    clip = Footage("k", frames, Truth(depth, np.zeros((16, 4, 4), np.uint8), {}), {}, 1)
    first, second = pictures_of([clip], frame_step=8)
    assert (first.key, second.key) == ("k-004", "k-012")
    assert np.array_equal(second.rgb[..., 1], frames[12, 1].numpy())
    assert np.array_equal(second.depth_m, depth[12].repeat(2, 0).repeat(2, 1))
