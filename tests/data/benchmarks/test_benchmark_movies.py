import numpy as np
import pytest
import torch
from PIL import Image

from worldmodel.data.benchmarks import BENCHMARKS, open_benchmark
from worldmodel.data.benchmarks.movies import (
    Movie,
    MovieSet,
    PictureFolder,
    VideoPart,
    file_within,
    list_pictures,
    load_picture,
    read_csv,
    read_picture,
)
from worldmodel.data.encode import encode_video
from worldmodel.data.video import open_video
from worldmodel.errors import InputError


def pictures(count=10, size=16, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def write_folder(folder, frames, prefix="scene", first=1):
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames, start=first):
        Image.fromarray(frame).save(folder / f"{prefix}_{number:03d}.png")


def channels_first(frames):
    return torch.from_numpy(frames).permute(0, 3, 1, 2)


def movie(key, possible, group="g"):
    return Movie(key, group, "c", possible, VideoPart.__new__(VideoPart))


def test_folder_is_read_to_the_bit_at_its_own_size(tmp_path):
    frames = pictures()
    write_folder(tmp_path / "m", frames)
    shown = PictureFolder(tmp_path / "m", "scene", 15.0).read(16, 15.0)
    assert torch.equal(shown.frames, channels_first(frames))
    assert shown.first_scored == 0


def test_rate_leaves_out_frames(tmp_path):
    frames = pictures()
    write_folder(tmp_path / "m", frames)
    shown = PictureFolder(tmp_path / "m", "scene", 15.0).read(16, 8.0)  # 15 / 8 rounds to 2
    assert torch.equal(shown.frames, channels_first(frames[::2]))


def test_order_is_by_number_and_not_by_name(tmp_path):
    frames = pictures(12)
    write_folder(tmp_path / "m", frames)
    for path in (tmp_path / "m").iterdir():
        number = int(path.stem.split("_")[1])
        path.rename(path.with_name(f"scene_{number}.png"))  # 10 now comes before 2 by name
    shown = PictureFolder(tmp_path / "m", "scene", 15.0).read(16, 15.0)
    assert torch.equal(shown.frames, channels_first(frames))


def test_scaling_agrees_with_that_of_video(tmp_path):
    ramp = np.linspace(0, 255, 48)
    frame = np.stack([*np.meshgrid(ramp, ramp), np.full((48, 48), 90.0)], -1).astype(np.uint8)
    write_folder(tmp_path / "m", frame[None])
    video = open_video(encode_video(frame[None].repeat(4, axis=0), 8.0, lossless=True))
    scaled = video.get_frames([0], size=(16, 16))[0].astype(float)
    found = read_picture(tmp_path / "m" / "scene_001.png", 16).astype(float)
    assert np.abs(found - scaled).max() <= 2
    means = frame.reshape(16, 3, 16, 3, 3).mean((1, 3))
    assert np.abs(found - means).max() <= 4


def test_whole_frame_is_squeezed_into_the_square(tmp_path):
    wide = np.zeros((16, 32, 3), np.uint8)
    wide[:, 16:] = 255
    write_folder(tmp_path / "m", wide[None])
    found = read_picture(tmp_path / "m" / "scene_001.png", 16)
    assert found[:, :7].max() <= 2 and found[:, 9:].min() >= 253


def test_transparency_and_palettes_are_turned_into_colours(tmp_path):
    frame = pictures(1)[0]
    Image.fromarray(frame).convert("RGBA").save(tmp_path / "a.png")
    assert np.array_equal(read_picture(tmp_path / "a.png", 16), frame)


@pytest.mark.parametrize(("gone", "text"), [([4], "lacks scene 4"), ([3, 7], "scene 3, scene 7")])
def test_gap_in_numbers_is_named(tmp_path, gone, text):
    write_folder(tmp_path / "m", pictures())
    for number in gone:
        (tmp_path / "m" / f"scene_{number:03d}.png").unlink()
    with pytest.raises(InputError, match=text):
        list_pictures(tmp_path / "m", "scene")


def test_two_files_of_one_number_are_refused(tmp_path):
    write_folder(tmp_path / "m", pictures(3))
    (tmp_path / "m" / "scene_2.png").write_bytes(b"")
    with pytest.raises(InputError, match="two pictures of one number"):
        list_pictures(tmp_path / "m", "scene")


def test_missing_folder_and_empty_folder_are_named(tmp_path):
    with pytest.raises(InputError, match=r"no folder .*gone"):
        list_pictures(tmp_path / "gone", "scene")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "Thumbs.db").write_bytes(b"x")
    with pytest.raises(InputError, match=r"no scene_001\.png"):
        list_pictures(tmp_path / "m", "scene")


@pytest.mark.parametrize("keep", [0, 4, 40, 200])
def test_broken_png_is_named(tmp_path, keep):
    write_folder(tmp_path / "m", pictures(2))
    path = tmp_path / "m" / "scene_002.png"
    path.write_bytes(path.read_bytes()[:keep])
    source = PictureFolder(tmp_path / "m", "scene", 15.0)
    with pytest.raises(InputError, match=r"movie k: .*scene_002\.png is no readable PNG"):
        Movie("k", "g", "c", True, source).read(16, 15.0)


def test_other_formats_do_not_pass_for_png(tmp_path):
    Image.fromarray(pictures(1)[0]).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").rename(tmp_path / "a.png")
    with pytest.raises(InputError, match="no readable PNG"):
        load_picture(tmp_path / "a.png")


def test_video_is_read_to_the_bit(tmp_path):
    frames = pictures()
    path = tmp_path / "v.mp4"
    path.write_bytes(encode_video(frames, 16.0, lossless=True))
    assert torch.equal(VideoPart(path).read(16, 16.0).frames, channels_first(frames))
    assert torch.equal(VideoPart(path).read(16, 8.0).frames, channels_first(frames[::2]))


def test_part_of_a_video_begins_where_it_should(tmp_path):
    frames = pictures()
    path = tmp_path / "v.mp4"
    path.write_bytes(encode_video(frames, 8.0, lossless=True))
    shown = VideoPart(path, first_shown=3, first_scored=5).read(16, 8.0)
    assert torch.equal(shown.frames, channels_first(frames[3:]))
    assert shown.first_scored == 2


def test_scored_part_begins_at_the_first_kept_frame_that_lies_in_it(tmp_path):
    path = tmp_path / "v.mp4"
    path.write_bytes(encode_video(pictures(), 16.0, lossless=True))
    # Kept are 0, 2, 4, 6, 8; of these 6 is the first from 5 on.
    assert VideoPart(path, 0, 5).read(16, 8.0).first_scored == 3
    assert VideoPart(path, 0, 4).read(16, 8.0).first_scored == 2


def test_longer_one_of_a_pair_loses_its_first_frames(tmp_path):
    long, short = pictures(10), pictures(8, seed=1)
    for name, frames in (("long", long), ("short", short)):
        (tmp_path / f"{name}.mp4").write_bytes(encode_video(frames, 8.0, lossless=True))
    parts = VideoPart(tmp_path / "long.mp4", 0, 5), VideoPart(tmp_path / "short.mp4", 0, 2)
    first = VideoPart(parts[0].path, 0, 5, partner=parts[1]).read(16, 8.0)
    second = VideoPart(parts[1].path, 0, 2, partner=parts[0]).read(16, 8.0)
    assert torch.equal(first.frames, channels_first(long[2:]))
    assert torch.equal(second.frames, channels_first(short))
    # Five frames are scored of the long one and six of the short one: five count of both.
    assert first.first_scored == second.first_scored == 3


def test_part_beyond_the_end_is_refused(tmp_path):
    path = tmp_path / "v.mp4"
    path.write_bytes(encode_video(pictures(), 8.0, lossless=True))
    with pytest.raises(InputError, match=r"has 10 frames, but .* begin at frame 10"):
        VideoPart(path, 10, 10).read(16, 8.0)


@pytest.mark.parametrize("keep", [0, 100, 400])
def test_broken_video_is_named(tmp_path, keep):
    path = tmp_path / "v.mp4"
    path.write_bytes(encode_video(pictures(), 8.0, lossless=True)[:keep])
    with pytest.raises(InputError, match=r"movie k: .*v\.mp4"):
        Movie("k", "g", "c", True, VideoPart(path)).read(16, 8.0)


def test_labels_are_all_there_or_none(tmp_path):
    with pytest.raises(InputError, match=r"1 of 2 movies are not said .* \(b\)"):
        MovieSet("x", "s", (movie("a", True), movie("b", None)))
    assert not MovieSet("x", "s", (movie("a", None),)).is_labelled
    assert MovieSet("x", "s", (movie("a", False),)).is_labelled
    assert not MovieSet("x", "s", ()).is_labelled


def test_key_that_comes_twice_is_refused():
    with pytest.raises(InputError, match="lists a more than once"):
        MovieSet("x", "s", (movie("a", True), movie("a", True)))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "no column a, b; it has none"),
        (b"a,c\n1,2\n", "no column b; it has a, c"),
        (b"a,b\n", "no row"),
        (b"a,b\n1,2\n3\n", "row 3, has not as many cells"),
        (b"a,b\n1,2,3\n", "row 2, has not as many cells"),
        (b"a,b\n\xff\xfe,2\n", "no csv file in UTF-8"),
        (b'a,b\n"1,2\n', "no csv file"),
    ],
)
def test_csv_that_is_none_is_refused(tmp_path, content, text):
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(InputError, match=f"{text}.*; get it"):
        read_csv(tmp_path / "x.csv", ["a", "b"], "get it")


def test_csv_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "x.csv").write_bytes(b'\xef\xbb\xbfa,b\r\n1,"2,3"\r\n')
    assert read_csv(tmp_path / "x.csv", ["a"], "") == [{"a": "1", "b": "2,3"}]


@pytest.mark.parametrize("name", ["../x", "/etc/hostname", "a/../../x", "", "a\\b"])
def test_csv_cannot_lead_out_of_the_folder(tmp_path, name):
    with pytest.raises(InputError, match="no file within"):
        file_within(tmp_path, name, tmp_path / "x.csv")


def test_video_that_a_csv_names_must_be_there(tmp_path):
    with pytest.raises(InputError, match=r"names v\.mp4, but there is no"):
        file_within(tmp_path, "v.mp4", tmp_path / "x.csv")


def test_unknown_name_split_and_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match="no benchmark 'intphys3'; known are intphys, intphys2"):
        open_benchmark("intphys3", tmp_path)
    with pytest.raises(InputError, match="grasp has no split 'dev'; it has level2"):
        open_benchmark("grasp", tmp_path, "dev")
    with pytest.raises(InputError, match=r"no folder .*gone; give the folder of grasp"):
        open_benchmark("grasp", tmp_path / "gone")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_empty_folder_is_refused_by_each(tmp_path, name):
    with pytest.raises(InputError, match=r"there is no|has no"):
        open_benchmark(name, tmp_path)
