from pathlib import Path

import numpy as np
import pytest
from patterns import clip_members, moving_pattern
from PIL import Image

from worldmodel.data.inspect import inspect_shards
from worldmodel.data.shards import write_shard
from worldmodel.data.video import encode_video
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
    assert f"contact sheet of 28 samples: {tmp_path / 'sheet.png'}" in report
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (8 * 136, 4 * 150)
        first = np.asarray(sheet)[4 : 4 + 128, 4 : 4 + 128]
    # Blue tells the number of the frame, 10 per frame: the middle one of 20.
    assert abs(first[..., 2].mean() - 100) < 8


def test_inspect__knows_blocks_plain_shards_and_whole_sets(tmp_path: Path) -> None:
    world = encode_video(moving_pattern(16), 16.0, lossless=True)
    block = {"a.mp4": world, "b.mp4": world, "json": b'{"kind": "reveal"}'}
    write_shard(tmp_path / "test" / "blocks-000000.tar", [("b-0", block)])
    write_shard(tmp_path / "train" / "plain.tar", [("v-0", {"mp4": clip_members()["mp4"]})])
    report = inspect_shards([str(tmp_path)], tmp_path / "sheet.png")
    assert "2 samples in 2 shards" in report
    assert "kinds: reveal: 2, video: 1" in report
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (3 * 136, 150)


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
