"""KITTI's depth: trees and lists come back as they were written, and what is missing is named."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from worldmodel.data.benchmarks.depth_images import DepthImage
from worldmodel.data.benchmarks.export_depth import export_kitti
from worldmodel.data.benchmarks.kitti import Kitti
from worldmodel.errors import InputError

HEIGHT, WIDTH = 24, 80


def picture(seed: int) -> DepthImage:
    generator = np.random.default_rng(seed)
    depth = generator.uniform(2, 90, (HEIGHT, WIDTH)).astype(np.float32)
    return DepthImage(f"{seed}", generator.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8), depth)


TRAIN, TEST = [picture(seed) for seed in range(4)], [picture(seed) for seed in range(4, 7)]
DRIVE = "2011_09_26_drive_9001_sync"
DEPTH = f"val/{DRIVE}/proj_depth/groundtruth/image_02"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    export_kitti(tmp_path, {"train": TRAIN, "test": TEST}, share=0.3)
    return tmp_path


def test_pictures_come_back_to_the_bit_and_depth_to_a_512th_of_a_metre(root: Path) -> None:
    source = Kitti(root)
    assert source.keys("test")[1] == f"{DRIVE}/image_02/0000000001"
    for split, written in (("train", TRAIN), ("test", TEST)):
        keys = source.keys(split)
        assert len(keys) == len(written)
        for key, image in zip(keys, written, strict=True):
            found = source.read(key)
            measured = found.depth_m > 0
            assert np.array_equal(found.rgb, image.rgb)
            assert 0.2 < measured.mean() < 0.4
            assert np.abs(found.depth_m - image.depth_m)[measured].max() <= 1 / 512 + 1e-6


def test_the_stored_value_is_256_times_the_metres(root: Path) -> None:
    stored = np.zeros((HEIGHT, WIDTH), np.uint16)
    stored[10, 30] = 2560
    Image.fromarray(stored).save(root / DEPTH / "0000000000.png")
    image = Kitti(root).read(f"{DRIVE}/image_02/0000000000")
    assert image.depth_m[10, 30] == 10
    assert np.count_nonzero(image.depth_m) == 1


@pytest.mark.parametrize(
    ("crop", "rows", "columns"),
    [("garg", (153, 371), (44, 1197)), ("eigen", (124, 342), (44, 1197))],
)
def test_crops_are_the_published_ones(
    root: Path, crop: str, rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    mask = Kitti(root, crop=crop).crop(375, 1242)
    found = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert (found[0][0], found[0][-1] + 1) == rows
    assert (found[1][0], found[1][-1] + 1) == columns
    assert mask.sum() == (rows[1] - rows[0]) * (columns[1] - columns[0])


def test_cells_without_depth_or_beyond_80_m_are_not_scored(root: Path) -> None:
    source = Kitti(root)
    depth = np.full((HEIGHT, WIDTH), 20, np.float32)
    depth[12, 30:33] = 0, 80, 79.9
    valid = source.valid(DepthImage("x", np.zeros((HEIGHT, WIDTH, 3), np.uint8), depth))
    assert valid[12, 29:34].tolist() == [True, False, False, True, True]
    assert not valid[:9].any()


def test_without_lists_the_benchmarks_own_folders_are_the_splits(root: Path) -> None:
    with_lists = Kitti(root)
    for path in root.glob("*.txt"):
        path.unlink()
    source = Kitti(root)
    assert source.keys("test") == with_lists.keys("test")
    assert "eigen_test_files_with_gt.txt" in with_lists.source
    assert "folders train, val" in source.source


def test_a_list_in_monodepths_spelling_names_the_same_pictures(root: Path, tmp_path: Path) -> None:
    expected = Kitti(root)
    lists = {}
    for split, drive in (("train", "2011_09_26_drive_0001_sync"), ("test", DRIVE)):
        lists[split] = tmp_path / f"{split}.txt"
        count = len(expected.keys(split))
        lists[split].write_text("".join(f"2011_09_26/{drive} {n} l\n" for n in range(count)))
    source = Kitti(root, lists)
    assert source.keys("test") == expected.keys("test")
    assert np.array_equal(
        source.read(source.keys("test")[2]).depth_m, expected.read(source.keys("test")[2]).depth_m
    )


def test_test_pictures_without_depth_are_counted_and_too_many_refused(tmp_path: Path) -> None:
    export_kitti(tmp_path, {"train": TRAIN, "test": [TEST[0]] * 12})
    path = tmp_path / "eigen_test_files_with_gt.txt"
    missing = f"2011_09_26/{DRIVE}/image_02/data/00000000{{}}.png None 721.5377\n"
    path.write_text(path.read_text() + missing.format(77))
    source = Kitti(tmp_path)
    assert (len(source.keys("test")), source.num_left_out) == (12, 1)
    path.write_text(path.read_text() + missing.format(78))
    with pytest.raises(InputError, match=r"2 of 14 pictures .* have no depth .* such as .*00077"):
        Kitti(tmp_path)


def test_a_picture_or_depth_of_a_list_that_is_missing_is_named(root: Path) -> None:
    depth = root / DEPTH / "0000000002.png"
    depth.rename(root / "elsewhere.png")
    with pytest.raises(InputError, match=r"names depth for .*9001_sync/image_02/0000000002"):
        Kitti(root)
    (root / "elsewhere.png").rename(depth)
    (root / f"raw/2011_09_26/{DRIVE}/image_02/data/0000000001.png").unlink()
    with pytest.raises(
        InputError, match=r"no picture .*0000000001\.png .* fetch the raw recording"
    ):
        Kitti(root)


def test_missing_folders_and_lists_are_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        Kitti(root / "nowhere")
    with pytest.raises(InputError, match=r"there is no list .*nowhere\.txt"):
        Kitti(root, {"train": root / "nowhere.txt", "test": root / "nowhere.txt"})
    with pytest.raises(InputError, match="needs a list for train and one for test, got test"):
        Kitti(root, {"test": root / "eigen_test_files_with_gt.txt"})
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="unpack data_depth_annotated"):
        Kitti(empty)


@pytest.mark.parametrize(
    "line",
    [
        "just words in a line",
        "2011_09_26/2011_09_26_drive_0002_sync 69 x",
        "2011_09_26/2011_09_26_drive_0002_sync abc l",
        "2011_09_26/../image_02/data/0000000000.png None 1",
        "2011_09_26/2011_09_26_drive_0002_sync/image_00/data/0000000000.png None 1",
    ],
)
def test_a_line_that_names_no_picture_is_refused_with_its_number(root: Path, line: str) -> None:
    path = root / "eigen_train_files_with_gt.txt"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(InputError, match=r"eigen_train_files_with_gt\.txt, line 5: "):
        Kitti(root)


def test_lists_that_share_pictures_are_refused(root: Path) -> None:
    train, test = (root / f"eigen_{split}_files_with_gt.txt" for split in ("train", "test"))
    train.write_text(train.read_text() + test.read_text())
    with pytest.raises(InputError, match="3 pictures are in both splits"):
        Kitti(root)


def test_a_picture_of_another_size_than_its_depth_is_refused(root: Path) -> None:
    Image.fromarray(np.zeros((HEIGHT, WIDTH - 1), np.uint16)).save(root / DEPTH / "0000000000.png")
    with pytest.raises(InputError, match="take both from the same release"):
        Kitti(root).read(f"{DRIVE}/image_02/0000000000")


def test_depth_beyond_16_bits_is_not_exported(tmp_path: Path) -> None:
    image = DepthImage("x", TRAIN[0].rgb, np.full((HEIGHT, WIDTH), 300, np.float32))
    with pytest.raises(InputError, match="300 m cannot be stored in 16 bits"):
        export_kitti(tmp_path, {"train": [image], "test": []})
