import json
from pathlib import Path

import numpy as np
import pytest
from patterns import clip_members, moving_pattern
from PIL import Image

from worldmodel.clips import Truth
from worldmodel.data.encode import encode_video
from worldmodel.data.inspect import inspect_shards
from worldmodel.data.shards import write_shard
from worldmodel.data.truth import encode_truth
from worldmodel.errors import InputError


def test_inspect__says_what_is_there_and_draws_it(uneven_shards: Path, tmp_path: Path) -> None:
    report = inspect_shards([str(uneven_shards / "*.tar")], tmp_path / "sheet.png")
    assert "28 samples in 4 shards" in report
    assert "u-003.tar: 1 samples" in report
    assert "members: json 28, mp4 28" in report
    assert "videos: 28, 560 frames" in report
    assert "kinds: free: 28" in report
    assert "sizes: 32x32: 28" in report
    assert "frames per second: 16.0: 28" in report
    assert "seconds per video: 1.25 to 1.25" in report
    assert f"contact sheet of 6 samples: {tmp_path / 'sheet.png'}" in report
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (7 * 116 + 4, 6 * 130)
        first = np.asarray(sheet)[14 : 14 + 112, 4:]
    # Blue tells the number of the frame, 10 per frame: the first, the middle and the last of 20.
    for column, frame in ((0, 0), (3, 9), (6, 19)):
        blue = first[:, column * 116 : column * 116 + 112, 2].mean()
        assert abs(blue - 10 * frame) < 8


def test_inspect__knows_blocks_plain_shards_and_whole_sets(tmp_path: Path) -> None:
    world = encode_video(moving_pattern(16), 16.0, lossless=True)
    block = {"a.mp4": world, "b.mp4": world, "json": b'{"kind": "reveal"}'}
    write_shard(tmp_path / "test" / "blocks-000000.tar", [("b-0", block)])
    write_shard(tmp_path / "train" / "plain.tar", [("v-0", {"mp4": clip_members()["mp4"]})])
    report = inspect_shards([str(tmp_path)], tmp_path / "sheet.png")
    assert "2 samples in 2 shards" in report
    assert "kinds: reveal: 2, video: 1" in report
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (7 * 116 + 4, 3 * 130), "a strip for the clip and two for the block"


def test_inspect__shows_depth_and_ids_of_every_kind(tmp_path: Path) -> None:
    rows, columns = np.mgrid[:16, :16]
    depth = np.broadcast_to(np.where(columns < 8, 2.6, 7.5), (16, 16, 16)).astype(np.float32)
    ids = np.broadcast_to(np.where(rows < 8, 1, 0), (16, 16, 16)).astype(np.uint8)
    state = {"camera_pose": np.zeros((16, 3, 4), np.float32)}
    truth = encode_truth(Truth(depth, ids, state))
    samples = []
    for number, kind in enumerate(["free", "reveal", "free", "gravity"] * 5):
        metadata = json.dumps({"kind": kind}).encode()
        samples.append((f"s-{number:02d}", clip_members() | truth | {"json": metadata}))
    write_shard(tmp_path / "a.tar", samples)
    report = inspect_shards([str(tmp_path / "a.tar")], tmp_path / "sheet.png")
    assert "contact sheet of 16 samples" in report, "six free ones, and all five of each other kind"
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (9 * 116 + 4, 16 * 130)
        first = np.asarray(sheet)[14 : 14 + 112, 4:].astype(int)
    shown = first[:, 7 * 116 : 7 * 116 + 112]
    assert shown[50, 10].sum() > shown[50, 100].sum(), "near is brighter than far"
    identities = first[:, 8 * 116 : 8 * 116 + 112]
    assert identities[10, 50].sum() > 0 and identities[100, 50].sum() == 0


def test_inspect__names_broken_samples(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", [("good", clip_members()), ("bad", {"mp4": b"hello" * 99})])
    report = inspect_shards([str(tmp_path / "a.tar")], tmp_path / "sheet.png")
    assert "broken: bad of" in report
    assert "cannot be decoded" in report
    assert "videos: 1," in report


def test_inspect__names_what_cannot_be_used(uneven_shards: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.tar"):
        inspect_shards([str(tmp_path / "none.tar")], tmp_path / "sheet.png")
    (tmp_path / "text.tar").write_text("hello")
    with pytest.raises(InputError, match=r"text\.tar is no readable tar"):
        inspect_shards([str(tmp_path / "text.tar")], tmp_path / "sheet.png")
    with pytest.raises(InputError, match=r"cannot write .*sheet\.png"):
        inspect_shards([str(uneven_shards)], tmp_path / "text.tar" / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()


def block_shard(path: Path, **metadata: object) -> list[str]:
    world = encode_video(moving_pattern(16), 16.0, lossless=True)
    members = {"a.mp4": world, "b.mp4": world, "json": json.dumps(metadata).encode()}
    write_shard(path, [("b-0", members)])
    return [str(path)]


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({}, r"a\.mp4 of b-0 in .* has 16 frames and changes at frames none"),
        ({"splice_frames": 5}, r"b-0\.json of .* splice_frames \[frame, …\].* found 5 and None"),
        ({"splice_frames": ["x"]}, r"found \['x'\] and None"),
        ({"splice_frames": [8], "hidden_windows": [7]}, r"found \[8\] and \[7\]"),
        ({"splice_frames": [8], "hidden_windows": None}, r"found \[8\] and None"),
        ({"splice_frames": [400]}, r"it has 16 frames and changes at frames \[400\]"),
    ],
)
def test_inspect__blocks_that_do_not_say_where_they_change_are_named(
    tmp_path: Path, told: dict[str, object], message: str
) -> None:
    shards = block_shard(tmp_path / "a.tar", kind="reveal", **told)
    assert "kinds: reveal: 2" in inspect_shards(shards, tmp_path / "sheet.png")
    with pytest.raises(InputError, match=message):
        inspect_shards(shards, tmp_path / "sheet.png", tmp_path / "blocks")


@pytest.mark.parametrize("kind", ["../b", "\ud800\x1b[2J\0", "k" * 300, ["a", "b"], "日本"])
def test_inspect__a_kind_may_be_anything(tmp_path: Path, kind: object) -> None:
    shards = block_shard(tmp_path / "a.tar", kind=kind, splice_frames=[8], hidden_windows=[[6, 9]])
    report = inspect_shards(shards, tmp_path / "sheet.png", tmp_path / "blocks")
    report.encode()
    assert "\x1b" not in report
    assert len(list((tmp_path / "blocks").glob("*.png"))) == 1
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".png"] == ["sheet.png"]


def test_inspect__of_a_time_lapse(tmp_path: Path) -> None:
    video = encode_video(moving_pattern(16), 1 / 3000)
    write_shard(tmp_path / "a.tar", [("v", {"mp4": video})])
    report = inspect_shards([str(tmp_path / "a.tar")], tmp_path / "sheet.png")
    assert "frames per second: 0.000333: 1" in report
