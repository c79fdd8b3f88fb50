import io
import os
from pathlib import Path

import av
import pytest
from patterns import moving_pattern

from worldmodel.data.datamodule import ClipDataModule
from worldmodel.data.encode import encode_video
from worldmodel.data.pack import cut, pack, unique_keys
from worldmodel.data.shards import read_index, read_members, read_metadata, scan_shard
from worldmodel.data.video import open_video
from worldmodel.errors import InputError


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three good videos, one of them in a folder, and three that are none."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "sub dir").mkdir()
    (folder / "wide.mp4").write_bytes(encode_video(moving_pattern(40, 36, 64), 20.0))
    (folder / "tall.v2.MOV").write_bytes(encode_video(moving_pattern(24, 64, 36), 12.0))
    (folder / "sub dir" / "wide.mp4").write_bytes(encode_video(moving_pattern(24, 40, 40), 1.5))
    whole = (folder / "wide.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "no.mp4").write_text("hello\n")
    (folder / "short.mp4").write_bytes(encode_video(moving_pattern(8), 8.0))
    (folder / "notes.txt").write_text("no video, and nobody says it is")
    return folder


def test_pack__scales_cuts_and_says_what_it_skipped(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = pack([str(videos)], tmp_path / "out", size=32, processes=1)
    assert summary.num_videos == 3
    assert set(summary.skipped) == {"cut.mp4", "no.mp4", "short.mp4"}
    printed = capsys.readouterr().out
    for name in summary.skipped:
        assert f"skipped {name}: " in printed
    assert "it has 8 frames, at least 16" in summary.skipped["short.mp4"]
    assert "packed 3 of 6 videos" in printed
    refs = [ref for path in (tmp_path / "out").rglob("*.tar") for ref in scan_shard(path)]
    facts = {ref.key: read_metadata(ref) for ref in refs}
    # 24 frames at 1.5 a second are 16 seconds, and the shortest piece has 16 frames: two pieces.
    assert sorted(facts) == [
        "sub_dir_wide-0000",
        "sub_dir_wide-0001",
        "tall_v2-0000",
        "wide-0000",
    ]
    assert facts["wide-0000"] == {
        "source": "wide.mp4",
        "fps": 20.0,
        "num_frames": 40,
        "width": 58,
        "height": 32,
        "start_seconds": 0.0,
        "split": "train",
        "seed": None,
        "kind": "video",
    }
    assert (facts["tall_v2-0000"]["width"], facts["tall_v2-0000"]["height"]) == (32, 58)
    assert facts["sub_dir_wide-0001"]["start_seconds"] == pytest.approx(8.0)
    for ref in refs:
        video = open_video(read_members(ref, ["mp4"])["mp4"])
        told = facts[ref.key]
        assert (video.num_frames, video.width, video.height) == (
            told["num_frames"],
            told["width"],
            told["height"],
        )


def test_pack__keeps_the_pictures_in_order(videos: Path, tmp_path: Path) -> None:
    pack([str(videos / "wide.mp4")], tmp_path, size=36, processes=1)
    (ref,) = [ref for path in tmp_path.rglob("*.tar") for ref in scan_shard(path)]
    frames = open_video(read_members(ref, ["mp4"])["mp4"]).get_frames(range(40))
    apart = frames.astype(int) - open_video(videos / "wide.mp4").get_frames(range(40), (64, 36))
    assert abs(apart).mean() < 5


def test_pack__the_number_of_processes_changes_no_byte(videos: Path, tmp_path: Path) -> None:
    for name, processes in (("one", 1), ("two", 2)):
        pack([str(videos)], tmp_path / name, size=32, processes=processes)
    one, two = (
        {path.relative_to(tmp_path / name): path.read_bytes() for path in files}
        for name in ("one", "two")
        for files in [sorted(p for p in (tmp_path / name).rglob("*") if p.is_file())]
    )
    assert one == two
    assert read_index(tmp_path / "one")["arguments"] == {"command": "pack", "size": 32}


def test_pack__what_is_packed_can_be_trained_on(videos: Path, tmp_path: Path) -> None:
    pack([str(videos)], tmp_path, size=32, processes=1)
    module = ClipDataModule(str(tmp_path), batch_size=4, num_frames=4, size=32, fps=4.0)
    module.setup()
    assert next(iter(module.train_dataloader())).frames.shape == (4, 4, 3, 32, 32)


def test_pack__drops_the_sound(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "loud.mp4"), "w") as out:
        picture = out.add_stream("libx264", 8)
        picture.width, picture.height, picture.pix_fmt = 32, 32, "yuv420p"
        sound = out.add_stream("aac", 8000)
        for image in moving_pattern(20):
            out.mux(picture.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        for _ in range(16):
            frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
            frame.sample_rate = 8000
            for plane in frame.planes:
                plane.update(bytes(plane.buffer_size))
            out.mux(sound.encode(frame))
        out.mux([*picture.encode(), *sound.encode()])
    pack([str(tmp_path / "loud.mp4")], tmp_path / "out", size=32, processes=1)
    (ref,) = [ref for path in (tmp_path / "out").rglob("*.tar") for ref in scan_shard(path)]
    with av.open(io.BytesIO(read_members(ref, ["mp4"])["mp4"])) as container:
        assert [stream.type for stream in container.streams] == ["video"]


def test_pack__names_what_cannot_be_used(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"folder .*empty holds no video"):
        pack([str(tmp_path / "empty")], out)
    with pytest.raises(InputError, match="nowhere does not exist"):
        pack([str(tmp_path / "nowhere")], out)
    with pytest.raises(InputError, match=r"no\.mp4 is no video"):
        pack([str(videos / "no.mp4")], out)
    with pytest.raises(InputError, match=r"no\.mp4 is no video"):
        pack([str(videos / "wide.mp4"), str(videos / "no.mp4")], out)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.mp4").write_text("hello")
    with pytest.raises(InputError, match=r"none of 1 videos could be packed; x\.mp4: "):
        pack([str(tmp_path / "bad")], out, processes=1)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot write to .*file"):
        pack([str(videos)], tmp_path / "file" / "out")
    with pytest.raises(InputError, match="size must be an even number"):
        pack([str(videos)], out, size=33)
    assert not list(out.rglob("*.tar"))


def test_pack__replaces_its_own_set_and_no_other(videos: Path, tmp_path: Path) -> None:
    pack([str(videos)], tmp_path, size=32, processes=1)
    pack([str(videos / "wide.mp4")], tmp_path, size=16, processes=1)
    refs = [ref for path in tmp_path.rglob("*.tar") for ref in scan_shard(path)]
    assert [read_metadata(ref)["height"] for ref in refs] == [16]
    (tmp_path / "index.json").write_text('{"arguments": {"num_clips": 9}}')
    with pytest.raises(InputError, match="was not made by pack; choose another folder"):
        pack([str(videos / "wide.mp4")], tmp_path, size=16, processes=1)


def test_cut__covers_every_frame_once_in_pieces_of_at_most_ten_seconds() -> None:
    for num_frames, fps in ((16, 8.0), (300, 29.97), (301, 30.0), (5000, 25.0), (9000, 240.0)):
        pieces = cut(num_frames, fps)
        assert [frame for start, stop in pieces for frame in range(start, stop)] == list(
            range(num_frames)
        )
        lengths = [stop - start for start, stop in pieces]
        assert max(lengths) <= min(10 * fps, 600)
        assert max(lengths) - min(lengths) <= 1


def test_unique_keys__are_safe_and_no_two_alike() -> None:
    keys = unique_keys(["a b/c.d.mp4", "a_b/c_d.mp4", "A_B_C_D.mov", "ñ.mp4", "???.avi", "x" * 300])
    assert keys[:3] == ["a_b_c_d", "a_b_c_d_2", "A_B_C_D_3"]
    assert len({key.lower() for key in keys}) == len(keys)
    assert all(key and "." not in key and "/" not in key and len(key) < 90 for key in keys)


def test_pack__real_videos(tmp_path: Path) -> None:
    folder = os.environ.get("WORLDMODEL_TEST_VIDEOS")
    if not folder or not Path(folder).is_dir():
        pytest.skip("WORLDMODEL_TEST_VIDEOS names no folder of videos")
    summary = pack([folder], tmp_path, processes=1)
    assert summary.num_videos > 0
    module = ClipDataModule(str(tmp_path), batch_size=2, num_frames=16)
    module.setup()
    assert next(iter(module.train_dataloader())).frames.shape == (2, 16, 3, 64, 64)
