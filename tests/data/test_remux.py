"""Videos that are kept: other bytes around the same pictures, times and orientation."""

from pathlib import Path

import av
import numpy as np
import pytest
from footage import refs_of, times_of, two_scenes, write_video

from worldmodel.data import remux
from worldmodel.data.pack import pack
from worldmodel.data.shards import read_members, read_metadata
from worldmodel.data.video import open_video
from worldmodel.errors import InputError

EVEN = [40 * time for time in range(24)]
UNEVEN = [40 * time + 30 * (time % 5 == 0) for time in range(24)]


@pytest.mark.parametrize(
    ("container", "codec", "extension", "is_indexed"),
    [
        ("mp4", "libx264", "mp4", True),
        ("matroska", "libx264", "mp4", True),
        ("mpegts", "libx264", "mp4", False),
        ("mov", "mpeg4", "mp4", False),
        ("webm", "libvpx-vp9", "mp4", False),
        ("webm", "libvpx", "webm", False),
        ("avi", "msmpeg4", "mkv", False),
    ],
)
def test_keep_video__changes_the_container_and_nothing_else(
    tmp_path: Path, container: str, codec: str, extension: str, is_indexed: bool
) -> None:
    path = tmp_path / "video.mkv"
    times, clock = (list(range(24)), 25) if container == "avi" else (UNEVEN, 1000)
    write_video(path, times, container, codec, clock=clock)
    for name in ("out", "again"):
        pack([str(path)], tmp_path / name, processes=1, keep=True)
    (ref,), (again,) = refs_of(tmp_path / "out"), refs_of(tmp_path / "again")
    members = read_members(ref)
    assert members == read_members(again)
    assert ref.key == "video" and ref.video_extension == extension
    assert (f"{extension}.packets" in members) == is_indexed or container == "mpegts"
    before, after = open_video(path), open_video(members[extension])
    told = read_metadata(ref)
    for what in ("num_frames", "width", "height", "fps"):
        assert told[what] == getattr(after, what)
    assert (told["num_frames"], told["width"], told["height"]) == (24, 48, 32)
    assert told["scene_cuts"] == [] and told["start_seconds"] == 0.0
    indices = range(24)
    assert np.array_equal(before.get_frames(indices), after.get_frames(indices))
    assert before.pts_seconds(indices) == pytest.approx(after.pts_seconds(indices), abs=0.0011)
    if is_indexed:
        planned = open_video(members["mp4"], packets=members["mp4.packets"])
        assert np.array_equal(planned.get_frames([3, 17]), before.get_frames([3, 17]))


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_keep_video__keeps_the_orientation(tmp_path: Path, rotation: int) -> None:
    write_video(tmp_path / "turned.mov", EVEN, "mov", rotation=rotation)
    pack([str(tmp_path / "turned.mov")], tmp_path / "out", processes=1, keep=True)
    (ref,) = refs_of(tmp_path / "out")
    before, after = open_video(tmp_path / "turned.mov"), open_video(read_members(ref)["mp4"])
    assert (after.width, after.height) == (before.width, before.height)
    assert after.width == (32 if rotation % 180 else 48)
    assert np.array_equal(before.get_frames([0, 9]), after.get_frames([0, 9]))


def test_keep_video__notes_scene_cuts(tmp_path: Path) -> None:
    write_video(tmp_path / "two.mp4", [40 * t for t in range(70)], frames=two_scenes(40, 30))
    summary = pack([str(tmp_path / "two.mp4")], tmp_path / "out", processes=1, keep=True)
    (ref,) = refs_of(tmp_path / "out")
    assert read_metadata(ref)["scene_cuts"] == [40] and summary.num_cuts == 1
    pack([str(tmp_path / "two.mp4")], tmp_path / "o", processes=1, keep=True, scene_cuts=False)
    assert "scene_cuts" not in read_metadata(refs_of(tmp_path / "o")[0])


def test_keep_video__keeps_what_an_edit_list_hides_hidden(tmp_path: Path) -> None:
    write_video(tmp_path / "whole.mp4", EVEN)
    options = {"avoid_negative_ts": "disabled"}
    with (
        av.open(str(tmp_path / "whole.mp4")) as whole,
        av.open(str(tmp_path / "cut.mp4"), "w", container_options=options) as out,
    ):
        stream = out.add_stream_from_template(whole.streams.video[0])
        for packet in whole.demux(video=0):
            if packet.size:
                shift = round(0.12 / packet.time_base)  # three frames
                packet.pts, packet.dts, packet.stream = (
                    packet.pts - shift,
                    packet.dts - shift,
                    stream,
                )
                out.mux(packet)
    before = open_video(tmp_path / "cut.mp4")
    assert before.num_frames == 21
    pack([str(tmp_path / "cut.mp4")], tmp_path / "out", processes=1, keep=True)
    (ref,) = refs_of(tmp_path / "out")
    after = open_video(read_members(ref)["mp4"])
    assert np.array_equal(before.get_frames(range(21)), after.get_frames(range(21)))
    assert times_of(read_members(ref)["mp4"])[0] == 0


def test_keep_video__names_what_cannot_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "no-times.avi", list(range(24)), "avi", clock=25)
    with pytest.raises(InputError, match="does not say when a frame is shown; pack it without --k"):
        pack([str(tmp_path / "no-times.avi")], tmp_path / "out", processes=1, keep=True)
    write_video(tmp_path / "old.wmv", EVEN, "asf", "wmv2")
    write_video(tmp_path / "good.mp4", EVEN)
    damaged = bytearray((tmp_path / "good.mp4").read_bytes())
    at = damaged.index(b"mdat") + 1000
    damaged[at : at + 400] = bytes(400)
    (tmp_path / "damaged.mp4").write_bytes(damaged)
    summary = pack([str(tmp_path)], tmp_path / "some", processes=1, keep=True)
    assert set(summary.skipped) == {"damaged.mp4", "no-times.avi", "old.wmv"}
    assert "no container takes its packets as they are (codec wmv2)" in summary.skipped["old.wmv"]
    assert "cannot be decoded" in summary.skipped["damaged.mp4"]
    assert str(tmp_path) not in summary.skipped["damaged.mp4"]
    monkeypatch.setattr(remux, "MAX_MEMBER_BYTES", 1000)
    with pytest.raises(InputError, match=r"larger than 1000 bytes.* pack it without --keep"):
        pack([str(tmp_path / "good.mp4")], tmp_path / "large", processes=1, keep=True)
    assert not list((tmp_path / "large").rglob("*.part"))
