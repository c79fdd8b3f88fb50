import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from patterns import moving_pattern

from worldmodel.data import pyav_video
from worldmodel.data.encode import encode_video
from worldmodel.data.pyav_video import plan_segments
from worldmodel.data.video import open_video
from worldmodel.errors import InputError


def encode(
    container: str, codec: str, rotation: int | None = None, pixel_aspect: Fraction | None = None
) -> bytes:
    """24 frames of 48x32 pixels at 12 frames a second with the codec's own settings."""
    buffer = io.BytesIO()
    options = {"g": "8"} if codec.startswith("libx26") else {}
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream(codec, 12, options=options)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.codec_context.thread_count = 1  # with more, x264's bytes differ from run to run
        if pixel_aspect is not None:
            stream.sample_aspect_ratio = pixel_aspect
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for index, picture in enumerate(moving_pattern(24, 32, 48)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 12)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return buffer.getvalue()


def decode_in_sequence(data: bytes) -> np.ndarray:
    with av.open(io.BytesIO(data)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        ("mp4", "libx264"),
        ("mov", "mpeg4"),
        ("matroska", "libx264"),
        ("webm", "libvpx"),
        ("avi", "libx264"),  # no times in the file, B-frames
        ("mpegts", "libx264"),  # times do not start at 0
    ],
)
def test_get_frames__equals_sequential_decoding(container: str, codec: str) -> None:
    data = encode(container, codec)
    expected = decode_in_sequence(data)
    video = open_video(data)
    assert (video.num_frames, video.width, video.height) == (24, 48, 32)
    assert video.fps == pytest.approx(12)
    for indices in ([0], [23], [0, 5, 11], [9, 17], [20, 3, 3], list(range(24)), [7, 8]):
        assert np.array_equal(video.get_frames(indices), expected[indices]), indices
    times = video.pts_seconds([0, 1, 12, 23])
    assert times == pytest.approx([0, 1 / 12, 1, 23 / 12], abs=0.001)


def test_get_frames__gives_the_true_times_of_uneven_frames() -> None:
    buffer = io.BytesIO()
    pts = [0, 40, 80, 200, 240, 480, 520, 560]
    with av.open(buffer, "w", format="matroska") as out:
        stream = out.add_stream("libx264", 25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for time, picture in zip(pts, moving_pattern(8, 32, 48), strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    video = open_video(buffer.getvalue())
    assert video.pts_seconds(range(8)) == pytest.approx([time / 1000 for time in pts])


@pytest.mark.parametrize(("rotation", "size"), [(0, (48, 32)), (90, (32, 48)), (180, (48, 32))])
def test_get_frames__turns_the_picture_upright(rotation: int, size: tuple[int, int]) -> None:
    data = encode("mp4", "libx264", rotation)
    video = open_video(data)
    assert (video.width, video.height) == size
    upright = np.rot90(decode_in_sequence(data)[9], rotation // 90)  # PyAV does not turn it
    assert np.array_equal(video.get_frames([9])[0], upright)
    assert video.get_frames([9], (12, 20)).shape == (1, 20, 12, 3)


def test_pixel_aspect__is_that_of_the_picture_as_shown() -> None:
    assert open_video(encode("mp4", "libx264")).pixel_aspect == 1
    assert open_video(encode("mp4", "libx264", None, Fraction(2))).pixel_aspect == 2
    assert open_video(encode("mp4", "libx264", 90, Fraction(2))).pixel_aspect == 0.5


def test_get_frames__scaled_down_is_the_mean_of_the_area() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    small = open_video(encode_video(frames, 8.0, lossless=True)).get_frames([0, 1], (8, 8))
    mean = frames.reshape(2, 8, 4, 8, 4, 3).mean(axis=(2, 4))
    assert np.abs(small - mean).max() < 3


def test_get_frames__names_frames_outside_the_video() -> None:
    video = open_video(encode_video(moving_pattern(5), 8.0))
    for wanted in ([5], [-1], [0, 9]):
        with pytest.raises(IndexError, match="has 0 to 4"):
            video.get_frames(wanted)


def test_plan_segments__never_decodes_a_frame_twice_and_skips_groups_without_wanted_frames() -> (
    None
):
    keyframes = [0, 16, 32, 48]
    assert plan_segments([3, 5], keyframes) == [(0, [3, 5])]
    assert plan_segments([3, 40], keyframes) == [(0, [3]), (32, [40])]
    assert plan_segments([15, 16, 31, 33], keyframes) == [(0, [15, 16, 31, 33])]
    assert plan_segments([50], keyframes) == [(48, [50])]


def test_encode_video__lossless_comes_back_to_the_bit() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (20, 31, 33, 3), dtype=np.uint8)
    video = open_video(encode_video(frames, 16.0, lossless=True))
    assert (video.fps, video.num_frames, video.width, video.height) == (16, 20, 33, 31)
    assert np.array_equal(video.get_frames(range(20)), frames)


def test_encode_video__lossy_is_close_and_small() -> None:
    frames = moving_pattern(32)
    data = encode_video(frames, 30000 / 1001)
    video = open_video(data)
    assert video.fps == pytest.approx(30000 / 1001, rel=1e-9)
    assert np.abs(video.get_frames(range(32)).astype(int) - frames).mean() < 4
    assert len(data) < frames.nbytes / 10


@pytest.mark.parametrize("lossless", [False, True])
def test_encode_video__equal_frames_give_equal_bytes(lossless: bool) -> None:
    frames = moving_pattern(20)
    assert encode_video(frames, 16.0, lossless) == encode_video(frames.copy(), 16.0, lossless)


def test_encode_video__does_not_depend_on_what_lay_in_memory_before() -> None:
    # x264's macroblock tree made 1 in 20 encodings of so small frames another.
    frames, generator, junk = moving_pattern(24, 16, 16), np.random.default_rng(0), []
    found = set()
    for _ in range(60):
        junk = [*junk[-20:], generator.bytes(int(generator.integers(100, 50000)))]
        found.add(encode_video(frames, 16.0))
    assert len(found) == 1


@pytest.mark.parametrize("fps", [30000 / 1001, 0.5, 1 / 90, 1 / 3600])
def test_encode_video__keeps_the_rate_down_to_a_frame_in_an_hour(fps: float) -> None:
    video = open_video(encode_video(moving_pattern(8), fps))
    assert video.fps == pytest.approx(fps, rel=1e-6)
    assert video.pts_seconds([7]) == pytest.approx(7 / fps, rel=1e-6)


def test_encode_video__has_a_keyframe_every_gop() -> None:
    data = encode_video(moving_pattern(40), 16.0, gop=12)
    with av.open(io.BytesIO(data)) as container:
        keys = [packet.is_keyframe for packet in container.demux(video=0) if packet.size]
    assert [index for index, key in enumerate(keys) if key] == [0, 12, 24, 36]


@pytest.mark.parametrize(
    ("frames", "fps", "message"),
    [
        (np.zeros((4, 32, 32, 3), np.float32), 8.0, "must be uint8"),
        (np.zeros((4, 32, 32), np.uint8), 8.0, r"must be uint8 \(T, H, W, 3\)"),
        (np.zeros((4, 31, 32, 3), np.uint8), 8.0, "even sides, got 32x31"),
        (np.zeros((4, 32, 32, 3), np.uint8), 0.0, "fps must be above 0"),
    ],
)
def test_encode_video__refuses(frames: np.ndarray, fps: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode_video(frames, fps)


def test_open_video__refuses_what_is_no_video(tmp_path: Path) -> None:
    whole = encode_video(moving_pattern(20), 16.0)
    with pytest.raises(InputError, match="is empty"):
        open_video(b"")
    with pytest.raises(InputError, match="cannot be decoded"):
        open_video(b"hello\n" * 100)
    with pytest.raises(InputError, match="cannot be decoded"):
        open_video(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"none\.mp4 does not exist"):
        open_video(tmp_path / "none.mp4")


def test_open_video__follows_no_playlist_to_other_files(tmp_path: Path) -> None:
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(encode_video(moving_pattern(20), 16.0))
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{secret}\n#EXT-X-ENDLIST\n"
    (tmp_path / "list.m3u8").write_text(playlist)
    concat = f"ffconcat version 1.0\nfile {secret}\n"
    for data in (playlist.encode(), concat.encode(), tmp_path / "list.m3u8"):
        with pytest.raises(InputError, match="cannot be decoded"):
            open_video(data)


def test_open_video__refuses_frames_too_large_to_be_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode_video(moving_pattern(4), 8.0)
    monkeypatch.setattr(pyav_video, "MAX_PIXELS", 1000)
    with pytest.raises(InputError, match="claims frames of 32x32 pixels; at most 1000"):
        open_video(data)


def test_get_frames__a_damaged_video_is_an_error_and_never_another_picture() -> None:
    data = bytearray(encode_video(moving_pattern(20), 16.0))
    start = data.index(b"mdat") + 4
    data[start : start + 400] = bytes(400)
    with pytest.raises(InputError, match="cannot be decoded"):
        open_video(bytes(data)).get_frames(range(20))


def test_decord__gives_the_frames_and_times_of_pyav() -> None:
    pytest.importorskip("decord")
    data = encode("mp4", "libx264")
    ours, theirs = open_video(data), open_video(data, "decord")
    assert (theirs.num_frames, theirs.width, theirs.height) == (24, 48, 32)
    assert theirs.fps == pytest.approx(12)
    wanted = [3, 17, 8]
    size = (96, 64)
    apart = ours.get_frames(wanted, size).astype(int) - theirs.get_frames(wanted, size)
    assert np.abs(apart).mean() < 4
    assert theirs.pts_seconds(wanted) == pytest.approx(ours.pts_seconds(wanted))
    with pytest.raises(InputError, match="narrower than 64 pixels, 48 were wanted"):
        theirs.get_frames(wanted)
    with pytest.raises(InputError, match="no pictures 72 pixels wide; use decoder 'auto'"):
        theirs.get_frames(wanted, (72, 48))
    with pytest.raises(InputError, match="cannot be decoded by decord"):
        open_video(b"hello" * 99, "decord")


def test_decord__says_what_to_do_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "decord", None)
    with pytest.raises(InputError, match=r"pip install decord.*or use decoder 'auto'"):
        open_video(b"x", "decord")
