"""Pieces end where scenes end, and keep the times and the upright pictures of their video."""

from pathlib import Path

import numpy as np
import pytest
from footage import refs_of, times_of, two_scenes, waves, write_video

from worldmodel.data import pieces
from worldmodel.data.encode import encode_video
from worldmodel.data.pack import pack
from worldmodel.data.pieces import MIN_FRAMES, longest_piece, plan_pieces, shorten
from worldmodel.data.shards import read_members, read_metadata
from worldmodel.data.video import open_video
from worldmodel.errors import InputError


@pytest.mark.parametrize(
    ("num_frames", "fps"), [(16, 8.0), (300, 29.97), (301, 30.0), (5000, 25.0), (9000, 240.0)]
)
def test_plan_pieces__covers_a_scene_in_equal_pieces_of_at_most_ten_seconds(
    num_frames: int, fps: float
) -> None:
    plan, num_dropped = plan_pieces(num_frames, [], longest_piece(fps))
    covered = [frame for start, stop, _ in plan for frame in range(start, stop)]
    assert covered == list(range(num_frames)) and num_dropped == 0
    lengths = [stop - start for start, stop, _ in plan]
    assert max(lengths) <= min(max(10 * fps, 2 * MIN_FRAMES), 600)
    assert max(lengths) - min(lengths) <= 1 and min(lengths) >= MIN_FRAMES


def test_plan_pieces__never_straddles_a_cut_and_drops_short_scenes() -> None:
    plan, num_dropped = plan_pieces(200, [50, 60, 145], 80)
    assert plan == [(0, 50, 0), (60, 102, 2), (102, 145, 2), (145, 200, 3)]
    assert num_dropped == 10
    assert plan_pieces(40, [15, 30], 80) == ([], 40)


def test_shorten__leaves_no_piece_over_ten_seconds_that_can_be_halved() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        spacings = np.repeat(generator.choice([0.01, 0.04, 0.2, 0.5, 3.0], 20), 25)
        times = np.cumsum(spacings)
        plan, _ = plan_pieces(500, [120, 300], longest_piece(499 / (times[-1] - times[0])))
        short = shorten(plan, times)
        covered = [frame for start, stop, _ in short for frame in range(start, stop)]
        assert covered == list(range(500))
        for start, stop, scene in short:
            assert stop - start >= MIN_FRAMES
            assert scene == (start >= 120) + (start >= 300) == (stop > 120) + (stop > 300)
            assert times[stop - 1] - times[start] <= 10 or stop - start <= 2 * MIN_FRAMES


@pytest.mark.parametrize("fps", [0.1, 2.0, 8.0, 24000 / 1001, 30.0, 240.0])
def test_shorten__leaves_constant_rates_alone(fps: float) -> None:
    for num_frames in (16, 32, 33, 299, 301, 1000):
        plan, _ = plan_pieces(num_frames, [], longest_piece(fps))
        assert shorten(plan, np.round(np.arange(num_frames) / fps, 3)) == plan


def test_cut_video__pieces_say_their_own_rate_where_the_videos_varies(tmp_path: Path) -> None:
    # 25 frames a second, then 5: on average 9
    times = [40 * t for t in range(200)] + [7960 + 200 * t for t in range(1, 121)]
    write_video(tmp_path / "dark.mp4", times)
    pack([str(tmp_path / "dark.mp4")], tmp_path / "out", size=32, processes=1, scene_cuts=False)
    found = []
    for ref in refs_of(tmp_path / "out"):
        members, told = read_members(ref), read_metadata(ref)
        seconds = times_of(members["mp4"])
        assert seconds[-1] <= 10
        assert told["fps"] == pytest.approx((len(seconds) - 1) / seconds[-1], rel=0.005)
        assert open_video(members["mp4"]).fps == pytest.approx(told["fps"], rel=0.005)
        found += (seconds + told["start_seconds"]).tolist()
    assert found == pytest.approx([time / 1000 for time in times], abs=0.002)


def test_cut_video__pieces_are_scenes(tmp_path: Path) -> None:
    frames = two_scenes(40, 30)
    write_video(tmp_path / "two.mp4", [40 * t for t in range(70)], frames=frames)
    summary = pack([str(tmp_path / "two.mp4")], tmp_path / "out", size=32, processes=1)
    assert (summary.num_cuts, summary.num_samples + summary.num_val_samples) == (1, 2)
    first, second = refs_of(tmp_path / "out")
    told = [read_metadata(ref) for ref in (first, second)]
    assert [(each["num_frames"], each["scene"]) for each in told] == [(40, 0), (30, 1)]
    assert [each["start_seconds"] for each in told] == pytest.approx([0.0, 1.6])
    picture = open_video(read_members(second)["mp4"]).get_frames([0])[0]
    assert np.abs(picture.astype(int) - frames[40]).mean() < 12
    summary = pack(
        [str(tmp_path / "two.mp4")], tmp_path / "one", size=32, processes=1, scene_cuts=False
    )
    assert (summary.num_cuts, summary.num_samples + summary.num_val_samples) == (0, 1)


def test_cut_video__is_the_same_where_the_video_is_too_long_to_be_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "two.mp4", [40 * t for t in range(70)], frames=two_scenes(40, 30))
    pack([str(tmp_path / "two.mp4")], tmp_path / "held", size=32, processes=1)
    monkeypatch.setattr(pieces, "MAX_HELD_BYTES", 1000)
    monkeypatch.setattr(pieces, "CHUNK", 7)
    pack([str(tmp_path / "two.mp4")], tmp_path / "twice", size=32, processes=1)
    one, two = (
        [path.read_bytes() for path in sorted((tmp_path / name).rglob("*.tar"))]
        for name in ("held", "twice")
    )
    assert one == two


def test_cut_video__scenes_that_are_all_too_short_are_named(tmp_path: Path) -> None:
    frames = np.concatenate([two_scenes(15, 15)])
    write_video(tmp_path / "short.mp4", [40 * t for t in range(30)], frames=frames)
    with pytest.raises(InputError, match="each of its 2 scenes is shorter than 16 frames"):
        pack([str(tmp_path / "short.mp4")], tmp_path / "out", size=32, processes=1)


def test_cut_video__keeps_the_true_times_of_uneven_frames(tmp_path: Path) -> None:
    # 25 frames a second, then 10 in the dark
    times = [40 * t for t in range(30)] + [1160 + 100 * t for t in range(1, 21)]
    write_video(tmp_path / "dark.mkv", times, "matroska")
    pack([str(tmp_path / "dark.mkv")], tmp_path / "out", size=32, processes=1)
    (ref,) = refs_of(tmp_path / "out")
    members = read_members(ref)
    assert times_of(members["mp4"]) == pytest.approx([time / 1000 for time in times], abs=1e-4)
    video = open_video(members["mp4"], packets=members["mp4.packets"])
    assert video.pts_seconds(range(50)) == pytest.approx(times_of(members["mp4"]), abs=1e-9)
    assert read_metadata(ref)["fps"] == pytest.approx(49 / 3.16, rel=0.01)


def test_cut_video__a_constant_rate_stays_exact(tmp_path: Path) -> None:
    frames = waves(400, 32, 32)
    (tmp_path / "ntsc.mp4").write_bytes(encode_video(frames, 30000 / 1001))
    # milliseconds, as mkv rounds them
    write_video(tmp_path / "film.mkv", [round(t * 1001 / 24) for t in range(48)], "matroska")
    pack([str(tmp_path)], tmp_path / "out", size=32, processes=1, scene_cuts=False)
    film, *ntsc = refs_of(tmp_path / "out")
    for ref in ntsc:
        data = read_members(ref)["mp4"]
        assert open_video(data).fps == 30000 / 1001 == read_metadata(ref)["fps"]
        steps = np.diff(times_of(data))
        assert np.ptp(steps) < 1e-9 and steps[0] == pytest.approx(1001 / 30000, abs=1e-9)
    assert read_metadata(ntsc[1])["start_seconds"] == pytest.approx(200 * 1001 / 30000)
    assert np.ptp(np.diff(times_of(read_members(film)["mp4"]))) < 1e-4


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_cut_video__turns_the_picture_upright(tmp_path: Path, rotation: int) -> None:
    write_video(tmp_path / "turned.mp4", [40 * t for t in range(20)], rotation=rotation)
    pack([str(tmp_path / "turned.mp4")], tmp_path / "out", size=32, processes=1)
    (ref,) = refs_of(tmp_path / "out")
    packed = open_video(read_members(ref)["mp4"])
    upright = np.rot90(waves(20, 32, 48)[7], rotation // 90)
    assert (packed.height, packed.width) == upright.shape[:2]
    assert packed.rotation == 0
    assert np.abs(packed.get_frames([7])[0].astype(int) - upright).mean() < 12
