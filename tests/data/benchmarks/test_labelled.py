"""Labelled videos: layouts come back as written; what is missing, broken or unknown is told."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from worldmodel.clips import Truth
from worldmodel.data.benchmarks.export_labelled import (
    LabelledClip,
    clips_of,
    encode_webm,
    export_kinetics,
    export_list,
    export_ssv2,
)
from worldmodel.data.benchmarks.labelled import (
    LabelledSet,
    SkippedVideos,
    open_labelled,
    read_clips,
)
from worldmodel.data.encode import encode_video
from worldmodel.errors import InputError
from worldmodel.evaluation.footage import Footage
from worldmodel.models.checkpoint import ClipSpec

SIZE, FPS = 16, 8.0
SPEC = ClipSpec(num_frames=4, fps=FPS, size=SIZE)
NAMES = ("falling down", "rolling left", "rolling right")


def clip(number: int, prefix: str) -> LabelledClip:
    """A grey clip whose brightness is its class."""
    frames = np.full((6, SIZE, SIZE, 3), 60 * (number % 3) + 40, np.uint8)
    return LabelledClip(f"{prefix}{number:03d}", frames, FPS, NAMES[number % 3])


def clips() -> dict[str, list[LabelledClip]]:
    return {
        "train": [clip(number, "t") for number in range(6)],
        "validation": [clip(number, "v") for number in range(1, 4)],
    }


EXPORTS = {"ssv2": export_ssv2, "kinetics": export_kinetics, "list": export_list}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    roots = {name: tmp_path_factory.mktemp(name) for name in EXPORTS}
    for name, root in roots.items():
        EXPORTS[name](root, clips())
    return roots


@pytest.fixture
def roots(written: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """Copies that a test may break."""
    return {
        name: Path(shutil.copytree(root, tmp_path / name, symlinks=True))
        for name, root in written.items()
    }


def labels(found: LabelledSet, split: str) -> list[int]:
    return [video.label for video in found.videos[split]]


@pytest.mark.parametrize("name", EXPORTS)
def test_a_layout_gives_the_classes_and_frames_that_were_written(
    written: dict[str, Path], name: str
) -> None:
    found = open_labelled(name, written[name])
    assert len(found.classes) == 3
    assert (len(found.videos["train"]), len(found.videos["validation"])) == (6, 3)
    assert not any(skipped.reasons for skipped in found.skipped.values())
    for split in ("train", "validation"):
        for video in found.videos[split]:
            frames = read_clips(video.path, SPEC).frames
            assert (frames.shape, frames.dtype) == ((1, 4, 3, SIZE, SIZE), torch.uint8)
            # Class n is as bright as its number; the codec may be off by a little.
            assert abs(frames.float().mean().item() - 60 * video.label - 40) < 4


def test_something_something_classes_are_templates_without_brackets(
    written: dict[str, Path],
) -> None:
    found = open_labelled("ssv2", written["ssv2"])
    assert found.classes[1] == "Showing something rolling left"
    assert labels(found, "train") == [0, 1, 2, 0, 1, 2]
    assert labels(found, "validation") == [1, 2, 0]
    assert found.videos["train"][0].path.suffix == ".webm"


def test_kinetics_without_a_csv_takes_what_the_folders_hold(roots: dict[str, Path]) -> None:
    root = roots["kinetics"]
    listed = open_labelled("kinetics", root)
    for path in root.glob("*.csv"):
        path.unlink()
    (root / "train" / "rolling left").rename(root / "train" / "rolling_left")
    found = open_labelled("kinetics", root)
    assert found.classes == listed.classes == NAMES
    assert labels(found, "train") == labels(listed, "train") == [0, 0, 1, 1, 2, 2]


def test_a_list_may_have_spaces_absolute_paths_and_gaps(roots: dict[str, Path]) -> None:
    root = roots["list"]
    (root / "videos" / "t000.mp4").rename(root / "videos" / "my video.mp4")
    absolute = root / "videos" / "t001.mp4"
    (root / "train.csv").write_text(f"videos/my video.mp4 3\n\n{absolute} 17\n")
    (root / "val.csv").rename(root / "val.txt")
    (root / "val.txt").write_text("videos/v001.mp4 17\n")
    found = open_labelled("list", root)
    assert found.classes == ("3", "17")
    assert {video.key: video.label for video in found.videos["train"]} == {
        "videos/my video.mp4": 0,
        str(absolute): 1,
    }
    assert labels(found, "validation") == [1]


@pytest.mark.parametrize("name", EXPORTS)
def test_a_missing_video_is_skipped_and_named_and_too_many_refused(
    roots: dict[str, Path], name: str
) -> None:
    video = open_labelled(name, roots[name]).videos["train"][2]
    video.path.unlink()
    found = open_labelled(name, roots[name], max_skipped_share=0.2)
    assert found.skipped["train"].reasons == {video.key: "there is no such file"}
    assert len(found.videos["train"]) == 5
    with pytest.raises(InputError, match=r"more than 1\.00% of the 6 videos .* train cannot be"):
        open_labelled(name, roots[name])


def test_an_unknown_label_is_refused_with_its_place(roots: dict[str, Path]) -> None:
    path = roots["ssv2"] / "labels" / "validation.json"
    entries = json.loads(path.read_text())
    entries[1]["template"] = "Eating [something]"
    path.write_text(json.dumps(entries))
    with pytest.raises(InputError, match=r"entry 1: unknown label 'Eating something'"):
        open_labelled("ssv2", roots["ssv2"])
    (roots["kinetics"] / "val" / "abseiling").mkdir()
    (roots["kinetics"] / "val" / "abseiling" / "x_000000_000010.mp4").write_bytes(b"")
    (roots["kinetics"] / "val.csv").unlink()
    with pytest.raises(InputError, match=r"unknown label 'abseiling'; .* has no folder"):
        open_labelled("kinetics", roots["kinetics"])
    with (roots["list"] / "val.csv").open("a") as file:
        file.write("videos/v001.mp4 9\n")
    with pytest.raises(InputError, match=r"val\.csv, line 4: unknown label 9"):
        open_labelled("list", roots["list"])


@pytest.mark.parametrize(
    "line", ["videos/t000.mp4", "videos/t000.mp4 -1", "a.mp4,3", "a.mp4 1.5", "a 9999999999"]
)
def test_a_line_without_path_or_label_is_refused(roots: dict[str, Path], line: str) -> None:
    with (roots["list"] / "train.csv").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match=r"train\.csv, line 7: should be a path, a space and"):
        open_labelled("list", roots["list"])


@pytest.mark.parametrize(
    ("name", "gone", "message"),
    [
        ("ssv2", "labels/labels.json", r"has no labels/labels\.json"),
        ("ssv2", "labels/train.json", r"has no labels/train\.json"),
        ("ssv2", "20bn-something-something-v2", "has no folder 20bn-something-something-v2"),
        ("kinetics", "val", "has no folder val or validation"),
        ("list", "val.csv", r"has no list val\.csv or val\.txt"),
    ],
)
def test_a_missing_part_is_named(
    roots: dict[str, Path], name: str, gone: str, message: str
) -> None:
    path = roots[name] / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(InputError, match=message):
        open_labelled(name, roots[name])


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("labels/labels.json", "{", "is no JSON"),
        ("labels/labels.json", "[1]", "should map each class to its number"),
        ("labels/labels.json", '{"a": 0, "b": 0}', "from 0 to 1, each once"),
        ("labels/labels.json", '{"a": "x"}', "should map each class to its number"),
        ("labels/train.json", "{}", "should be a list of videos, found dict"),
        ("labels/train.json", "[3]", "entry 0 should have an id and a template"),
        ("labels/train.json", "[]", "has no train videos"),
    ],
)
def test_broken_labels_of_something_something_are_named(
    roots: dict[str, Path], file: str, content: str, message: str
) -> None:
    (roots["ssv2"] / file).write_text(content)
    with pytest.raises(InputError, match=message):
        open_labelled("ssv2", roots["ssv2"])


def test_a_broken_csv_of_kinetics_is_named(roots: dict[str, Path]) -> None:
    root = roots["kinetics"]
    (root / "val.csv").write_text("label,youtube_id\nrolling left,x\n")
    with pytest.raises(InputError, match=r"val\.csv has no column time_start, time_end"):
        open_labelled("kinetics", root)
    (root / "val.csv").write_text("label,youtube_id,time_start,time_end\nrolling left,x,a,1\n")
    with pytest.raises(InputError, match=r"val\.csv, line 2: times should be seconds"):
        open_labelled("kinetics", root)
    (root / "val.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"val\.csv cannot be read as text"):
        open_labelled("kinetics", root)


def test_other_names_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there are ssv2, kinetics, list"):
        open_labelled("ucf101", tmp_path)
    with pytest.raises(InputError, match="there is no folder"):
        open_labelled("ssv2", tmp_path / "nowhere")


def counting(num_frames: int, fps: float = FPS, width: int = SIZE) -> bytes:
    """A video whose frame n is of brightness 4 n, brighter in its middle square."""
    frames = np.zeros((num_frames, SIZE, width, 3), np.uint8)
    frames[:, :, (width - SIZE) // 2 : (width + SIZE) // 2] = (
        4 * np.arange(num_frames, dtype=np.uint8)[:, None, None, None]
    )
    return encode_video(frames, fps, lossless=True)


def shown(path: Path, num_clips: int = 1) -> list[list[int]]:
    frames = read_clips(path, SPEC, num_clips).frames
    return (frames[:, :, 0].float().mean((2, 3)) / 4).int().tolist()


def test_clips_are_the_middle_or_evenly_spread(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(counting(20))
    assert shown(path) == [[8, 9, 10, 11]]
    assert shown(path, 3) == [[0, 1, 2, 3], [8, 9, 10, 11], [16, 17, 18, 19]]
    path.write_bytes(counting(20, fps=4 * FPS))
    assert shown(path) == [[3, 7, 11, 15]]


def test_a_video_too_short_is_taken_slower_and_at_last_stands_still(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(counting(8, fps=4 * FPS))
    found = read_clips(path, SPEC)
    assert (found.is_slower, found.is_held) == (True, False)
    assert shown(path) == [[0, 2, 4, 6]]
    path.write_bytes(counting(3))
    found = read_clips(path, SPEC)
    assert (found.is_slower, found.is_held) == (False, True)
    assert shown(path, 2) == [[0, 1, 2, 2]] * 2


def test_the_middle_square_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(counting(8, width=3 * SIZE))
    assert shown(path) == [[2, 3, 4, 5]]


def test_a_broken_video_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"no video" * 100)
    with pytest.raises(InputError, match=r"broken\.mp4 cannot be decoded"):
        read_clips(path, SPEC)


def test_skipped_videos_stop_at_their_share() -> None:
    skipped = SkippedVideos("x", 300)
    for number in range(3):
        skipped.add(str(number), "gone")
    with pytest.raises(InputError, match=r"4 so far, the last: 3: gone"):
        skipped.add("3", "gone")


def test_footage_becomes_clips_with_its_kind_as_class() -> None:
    frames = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    truth = Truth(np.zeros((5, 8, 8), np.float32), np.zeros((5, 8, 8), np.uint8), {})
    (found,) = clips_of([Footage("k", frames, truth, {"kind": "gravity", "fps": 24}, 3)])
    assert (found.key, found.fps, found.name) == ("k", 8.0, "gravity")
    assert np.array_equal(found.frames[2, :, :, 1], frames[2, 1].numpy())


def test_webm_is_near_lossless(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    small = generator.integers(0, 256, (4, 4, 4, 1), np.uint8)
    frames = np.repeat(small.repeat(4, 1).repeat(4, 2), 3, 3)
    (tmp_path / "v.webm").write_bytes(encode_webm(frames, FPS))
    found = read_clips(tmp_path / "v.webm", SPEC).frames[0].permute(0, 2, 3, 1).numpy()
    assert np.abs(found.astype(int) - frames).mean() < 6
