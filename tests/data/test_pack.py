import hashlib
import io
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import av
import pytest
from footage import die_on_tall, refs_of, waves

from worldmodel.data import pack as pack_module
from worldmodel.data import pyav_video
from worldmodel.data.datamodule import ClipDataModule
from worldmodel.data.encode import encode_video
from worldmodel.data.index import read_index
from worldmodel.data.journal import STAGING_NAME, Packed, Source
from worldmodel.data.pack import pack
from worldmodel.data.pieces import cut_video
from worldmodel.data.shards import read_members, read_metadata
from worldmodel.data.sources import unique_keys
from worldmodel.data.video import open_video
from worldmodel.errors import InputError


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three good videos, one of them in a folder, and three that are none."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "sub dir").mkdir()
    (folder / "wide.mp4").write_bytes(encode_video(waves(40, 36, 64), 20.0))
    (folder / "tall.v2.MOV").write_bytes(encode_video(waves(24, 64, 36), 12.0))
    (folder / "sub dir" / "wide.mp4").write_bytes(encode_video(waves(24, 40, 40), 1.5))
    whole = (folder / "wide.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "no.mp4").write_text("hello\n")
    (folder / "short.mp4").write_bytes(encode_video(waves(8), 8.0))
    (folder / "notes.txt").write_text("no video, and nobody says it is")
    return folder


def hashes(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


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
    refs = refs_of(tmp_path / "out")
    facts = {ref.key: read_metadata(ref) for ref in refs}
    # At 1.5 a second 24 frames are 16 seconds, but halves of them would be too short for a clip.
    assert sorted(facts) == ["sub_dir_wide-0000", "tall_v2-0000", "wide-0000"]
    assert facts["wide-0000"] == {
        "source": "wide.mp4",
        "fps": 20.0,
        "num_frames": 40,
        "width": 56,
        "height": 32,
        "scene": 0,
        "start_seconds": 0.0,
        "split": "train",
        "seed": None,
        "kind": "video",
    }
    assert (facts["tall_v2-0000"]["width"], facts["tall_v2-0000"]["height"]) == (32, 56)
    for ref in refs:
        assert set(ref.members) == {"mp4", "mp4.packets", "json"}
        members = read_members(ref)
        video = open_video(members["mp4"], packets=members["mp4.packets"])
        told = facts[ref.key]
        assert (video.num_frames, video.width, video.height) == (
            told["num_frames"],
            told["width"],
            told["height"],
        )


def test_pack__keeps_the_pictures_in_order(videos: Path, tmp_path: Path) -> None:
    pack([str(videos / "wide.mp4")], tmp_path, size=36, processes=1)
    (ref,) = refs_of(tmp_path)
    frames = open_video(read_members(ref, ["mp4"])["mp4"]).get_frames(range(40))
    apart = frames.astype(int) - open_video(videos / "wide.mp4").get_frames(range(40), (64, 36))
    assert abs(apart).mean() < 5


def test_pack__the_number_of_processes_changes_no_byte(videos: Path, tmp_path: Path) -> None:
    for name, processes in (("one", 1), ("two", 2)):
        pack([str(videos)], tmp_path / name, size=32, processes=processes)
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")
    arguments = read_index(tmp_path / "one")["arguments"]
    assert len(arguments.pop("sources_sha256")) == 64
    assert arguments == {"command": "pack", "size": 32, "keep": False, "scene_cuts": True}


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
        for image in waves(20):
            out.mux(picture.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        for _ in range(16):
            frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
            frame.sample_rate = 8000
            for plane in frame.planes:
                plane.update(bytes(plane.buffer_size))
            out.mux(sound.encode(frame))
        out.mux([*picture.encode(), *sound.encode()])
    pack([str(tmp_path / "loud.mp4")], tmp_path / "out", size=32, processes=1)
    (ref,) = refs_of(tmp_path / "out")
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
    pack([str(videos)], tmp_path, size=16, processes=1)
    pack([str(videos / "wide.mp4")], tmp_path, size=16, processes=1)
    assert [ref.key for ref in refs_of(tmp_path)] == ["wide-0000"]
    shards = sorted(tmp_path.rglob("*.tar"))
    for arguments in ('{"num_clips": 9}', "{}", "null"):
        (tmp_path / "index.json").write_text(f'{{"arguments": {arguments}}}')
        with pytest.raises(InputError, match="was not made by pack; choose another folder"):
            pack([str(videos / "wide.mp4")], tmp_path, size=16, processes=1)
    assert sorted(tmp_path.rglob("*.tar")) == shards


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 32}, "a set made with size 16, but now asked for with size 32; choose another"),
        ({"keep": True}, "size 16, keep False, but now asked for with size None, keep True; ch"),
        ({"scene_cuts": False}, "made with scene_cuts True, but now asked for with scene_cuts Fal"),
    ],
)
def test_pack__a_set_with_other_options_is_not_replaced(
    videos: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    given = [str(videos / "wide.mp4")]
    pack(given, tmp_path, size=16, processes=1)
    before = hashes(tmp_path)
    with pytest.raises(InputError, match=message):
        pack(given, tmp_path, **{"size": 16, "processes": 1, **options})
    assert hashes(tmp_path) == before


def test_pack__a_video_that_was_changed_is_packed_again_though_its_size_is_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video, out = tmp_path / "v.mp4", tmp_path / "out"
    one, other = (encode_video(waves(20, 24, 24, phase=phase), 10.0) for phase in (0.0, 9.0))
    size = max(len(one), len(other)) + 8
    # A box that players pass over.
    one, other = (
        each + struct.pack(">I4s", size - len(each), b"free").ljust(size - len(each), b"\0")
        for each in (one, other)
    )
    video.write_bytes(one)
    pack([str(video)], out, size=16, processes=1)
    packed_ns = (out / "index.json").stat().st_mtime_ns
    video.write_bytes(other)
    os.utime(video, ns=(packed_ns + 1, packed_ns + 1))
    capsys.readouterr()
    pack([str(video)], out, size=16, processes=1)
    assert f"v.mp4 has changed since {out} was packed" in capsys.readouterr().out
    pack([str(video)], tmp_path / "whole", size=16, processes=1)
    assert hashes(out) == hashes(tmp_path / "whole")
    in_an_hour = time.time_ns() + 3600 * 10**9
    for mtime_ns in (packed_ns, in_an_hour):
        os.utime(video, ns=(mtime_ns, mtime_ns))
        pack([str(video)], out, size=16, processes=1)
        assert "nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize("entry", ["7", "{}", '{"path": 7, "bytes": 7}', '{"path": "a/b.tar"}'])
def test_pack__an_index_that_does_not_name_its_shards_is_named(
    videos: Path, tmp_path: Path, entry: str
) -> None:
    given = [str(videos / "wide.mp4")]
    pack(given, tmp_path, size=16, processes=1)
    index = read_index(tmp_path) | {"shards": [json.loads(entry)]}
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"for a shard it has .*, with no path or no bytes; copy"):
        pack(given, tmp_path, size=16, processes=1)


def test_pack__shards_of_others_are_left_alone(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "clips-000000.tar").write_bytes(b"mine")
    with pytest.raises(InputError, match="did not make"):
        pack([str(videos)], tmp_path, processes=1)
    assert (tmp_path / "train" / "clips-000000.tar").read_bytes() == b"mine"


def test_pack__does_nothing_the_second_time(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = pack([str(videos)], tmp_path, size=32, processes=1)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    second = pack([str(videos)], tmp_path, size=32, processes=2)
    assert "nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert (second.num_videos, second.num_samples, second.num_val_samples) == (
        first.num_videos,
        first.num_samples,
        first.num_val_samples,
    )


def test_pack__what_is_hidden_is_no_source(tmp_path: Path) -> None:
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "a.mp4").write_bytes(encode_video(waves(20), 10.0))
    (tmp_path / ".b.mp4").write_bytes(b"")
    with pytest.raises(InputError, match="holds no video"):
        pack([str(tmp_path)], tmp_path / "out")


def test_pack__a_decoder_that_crashes_loses_its_video_alone(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack_module, "cut_video", die_on_tall)
    summary = pack([str(videos)], tmp_path, size=32, processes=2)
    assert summary.skipped["tall.v2.MOV"] == "its decoder crashed (SIGSEGV)"
    assert [ref.key for ref in refs_of(tmp_path)] == ["sub_dir_wide-0000", "wide-0000"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ZeroDivisionError("Fraction(1, 0)"), "it cannot be packed (ZeroDivisionError: Fraction"),
        (av.error.EOFError(1, "End of file"), "it cannot be packed (EOFError: End of file)"),
        (InputError("it is odd"), "it is odd"),
    ],
)
def test_pack__whatever_is_wrong_with_a_video_the_others_are_packed(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def fail_on_tall(source: Source, folder: Path, size: int, scene_cuts: bool) -> Packed:
        if source.name.startswith("tall"):
            raise error
        return cut_video(source, folder, size, scene_cuts)

    monkeypatch.setattr(pack_module, "cut_video", fail_on_tall)
    summary = pack([str(videos)], tmp_path / "out", size=32, processes=1)
    assert summary.num_videos == 2
    assert summary.skipped["tall.v2.MOV"].startswith(reason)


def test_pack__a_full_disk_is_no_matter_of_the_video(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(source: Source, folder: Path, size: int, scene_cuts: bool) -> Packed:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pack_module, "cut_video", fail)
    with pytest.raises(InputError, match=r"cannot write to .*: No space left"):
        pack([str(videos)], tmp_path / "out", size=32, processes=1)


def test_pack__a_time_lapse_is_packed(tmp_path: Path) -> None:
    (tmp_path / "slow.mp4").write_bytes(encode_video(waves(20), 1 / 3000))
    summary = pack([str(tmp_path / "slow.mp4")], tmp_path / "out", size=32, processes=1)
    assert summary.num_samples == 1
    assert read_metadata(refs_of(tmp_path / "out")[0])["fps"] == pytest.approx(1 / 3000)


def test_pack__names_in_no_encoding_are_told_without_harm(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [b"caf\xe9.mp4", b"esc\x1b[2J.mp4"]
    for name in names:
        shutil.copy(videos / "no.mp4", os.fsencode(tmp_path) + b"/" + name)
    with pytest.raises(InputError, match="none of 2 videos could be packed") as error:
        pack([str(tmp_path)], tmp_path / "out", size=32, processes=1)
    shutil.copy(videos / "wide.mp4", tmp_path)
    shutil.copy(videos / "wide.mp4", os.fsencode(tmp_path) + b"/gut\xe9.mp4")
    summary = pack([str(tmp_path)], tmp_path / "out", size=32, processes=1)
    assert (summary.num_videos, len(summary.skipped)) == (2, 2)
    printed = capsys.readouterr().out
    for text in (printed, str(error.value)):
        assert "caf\\udce9.mp4: " in text and "esc\\x1b[2J.mp4: " in text
        text.encode()  # without surrogates, which no terminal takes


def test_pack__fills_shards_as_it_goes_and_frees_what_waited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack_module, "SAMPLES_PER_SHARD", 2)
    video = encode_video(waves(20), 10.0)
    for number in range(7):
        (tmp_path / f"{number}.mp4").write_bytes(video)
    waiting = []

    def look(source: Source, folder: Path, size: int, scene_cuts: bool) -> Packed:
        waiting.append(len(list((tmp_path / "out" / STAGING_NAME).glob("videos/*/*.mp4"))))
        return cut_video(source, folder, size, scene_cuts)

    monkeypatch.setattr(pack_module, "cut_video", look)
    pack([str(tmp_path)], tmp_path / "out", size=32, processes=1)
    assert waiting == [0, 1, 0, 1, 0, 1, 0]
    shards = read_index(tmp_path / "out")["shards"]
    assert [shard["num_samples"] for shard in shards] == [2, 2, 2, 1]
    monkeypatch.setattr(pack_module, "MAX_SHARD_BYTES", 10)
    pack([str(tmp_path / "?.mp4")], tmp_path / "small", size=32, processes=1)
    assert len(read_index(tmp_path / "small")["shards"]) == 7, "a shard is bounded in bytes too"


def test_pack__where_all_would_be_validation_all_are_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = encode_video(waves(20), 10.0)
    for number in range(3):
        (tmp_path / f"v{number}.mp4").write_bytes(video)
    monkeypatch.setattr(pack_module, "SAMPLES_PER_SHARD", 2)
    monkeypatch.setattr(pack_module, "_for_validation", lambda key: True)
    summary = pack([str(tmp_path)], tmp_path / "all", size=32, processes=1)
    assert (summary.num_samples, summary.num_val_samples) == (3, 0)
    monkeypatch.setattr(pack_module, "_for_validation", lambda key: key != "v2-0000")
    summary = pack([str(tmp_path / "*.mp4")], tmp_path / "some", size=32, processes=1)
    assert (summary.num_samples, summary.num_val_samples) == (1, 2)
    splits = {ref.key: read_metadata(ref)["split"] for ref in refs_of(tmp_path / "some")}
    assert splits == {"v0-0000": "val", "v1-0000": "val", "v2-0000": "train"}


def test_pack__a_video_beyond_the_limits_is_skipped(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyav_video, "MAX_FRAMES", 30)
    summary = pack([str(videos)], tmp_path, size=32, processes=1)
    assert "claims 40 frames" in summary.skipped["wide.mp4"]
    monkeypatch.setattr(pyav_video, "MAX_PIXELS", 40 * 40)
    with pytest.raises(InputError, match=r"tall\.v2\.MOV: video claims frames of 36x64 pixels"):
        pack([str(videos / "*.MOV")], tmp_path / "small", size=32, processes=1)


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Four videos and one that is none."""
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(4):
        frames = waves(20, 24, 24, phase=9.0 * number)
        (folder / f"{number}.mp4").write_bytes(encode_video(frames, 10.0))
    (folder / "2b.mp4").write_text("hello")
    return folder


# Packs with the arguments given; dies for good at the Nth file that takes its final name, and notes
# which videos it decodes.
KILLED = """
import os, signal, sys
from pathlib import Path
from worldmodel.data import pack

decode, replace = pack.cut_video, os.replace
pack.SAMPLES_PER_SHARD = 2

def noted(source, folder, size, scene_cuts):
    with open(log, "a") as file:
        file.write(source.name + "\\n")
    return decode(source, folder, size, scene_cuts)

def fatal(old, new):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(old, new)

pack.cut_video, os.replace = noted, fatal
for line in sys.stdin:
    videos, out, size, left, log = line.split()
    left = int(left)
    child = os.fork()
    if not child:
        sys.stderr = open(os.devnull, "w")
        pack.pack([videos], Path(out), size=int(size), processes=1)
        os._exit(0)
    print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def index_tells_the_truth(out: Path) -> bool:
    """Whether every shard that the index names is there, if there is an index."""
    if not (out / "index.json").exists():
        return True
    places = [(out / shard["path"], shard["bytes"]) for shard in read_index(out)["shards"]]
    return all(path.is_file() and path.stat().st_size == size for path, size in places)


def test_pack__killed_at_any_moment_it_goes_on_to_the_same_bytes(
    many: Path, tmp_path: Path
) -> None:
    """Over a set that is there already, killed before each file that takes its final name."""
    with subprocess.Popen(
        [sys.executable, "-c", KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as forks:

        def run(out: Path, kill_at: int = 0, videos: Path = many) -> int:
            forks.stdin.write(f"{videos} {out} 32 {kill_at} {out}.log\n")
            forks.stdin.flush()
            while not (line := forks.stdout.readline()).startswith("ended"):
                assert line, "the forking process has died"
            return int(line.split()[1])

        assert run(tmp_path / "earlier", videos=many / "?.mp4") == run(tmp_path / "whole") == 0
        wanted = hashes(tmp_path / "whole")
        for kill_at in range(1, 100):
            out = tmp_path / f"killed-{kill_at}"
            log = Path(f"{out}.log")
            shutil.copytree(tmp_path / "earlier", out)
            log.touch()
            code = run(out, kill_at)
            assert index_tells_the_truth(out)
            if code == 0:
                break
            assert code == -signal.SIGKILL
            finished = len(list(out.glob(f"{STAGING_NAME}/videos/*.json")))
            begun = len(log.read_text().split())
            assert run(out) == 0
            assert hashes(out) == wanted, kill_at
            again = len(log.read_text().split()) - begun
            assert again == (0 if begun == 5 and not finished else 5 - finished)
        forks.stdin.close()
    assert kill_at > 20, "every kind of file has been met"


def test_pack__an_unfinished_packing_is_not_continued_with_other_arguments(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    interrupt_after(2, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        pack([str(many)], out, size=32, processes=1)
    with pytest.raises(InputError, match=r"made with size 32, but now asked for with size 16; .*"):
        pack([str(many)], out, size=16, processes=1)


def test_pack__a_source_that_has_changed_meanwhile_is_decoded_again(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack_module, "SAMPLES_PER_SHARD", 2)
    out = tmp_path / "out"
    decoded = interrupt_after(4, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        pack([str(many)], out, size=32, processes=1)
    assert decoded == ["0.mp4", "1.mp4", "2.mp4", "2b.mp4"]
    (many / "2.mp4").write_bytes(encode_video(waves(30, 24, 24), 10.0))
    decoded = interrupt_after(99, monkeypatch)
    pack([str(many)], out, size=32, processes=1)
    # Of 0 and 1 a shard was written, which might have held what has changed.
    assert decoded == ["0.mp4", "1.mp4", "2.mp4", "3.mp4"]
    pack([str(many)], tmp_path / "whole", size=32, processes=1)
    assert hashes(out) == hashes(tmp_path / "whole")


def interrupt_after(count: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ctrl-C where another video than the first `count` is begun; returns those that are."""
    decoded: list[str] = []

    def work(source: Source, folder: Path, size: int, scene_cuts: bool) -> Packed:
        if len(decoded) == count:
            raise KeyboardInterrupt
        decoded.append(source.name)
        return cut_video(source, folder, size, scene_cuts)

    monkeypatch.setattr(pack_module, "cut_video", work)
    return decoded


def test_pack__two_at_once_into_one_folder_are_refused(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(source: Source, folder: Path, size: int, scene_cuts: bool) -> Packed:
        with pytest.raises(InputError, match="another process writes a set into"):
            pack([str(many)], tmp_path / "out", size=32, processes=1)
        return cut_video(source, folder, size, scene_cuts)

    monkeypatch.setattr(pack_module, "cut_video", work)
    pack([str(many / "1.mp4")], tmp_path / "out", size=32, processes=1)


@pytest.mark.slow
def test_pack__killed_again_and_again_with_workers_it_ends_with_the_same_bytes(
    tmp_path: Path,
) -> None:
    for number in range(24):
        frames = waves(90, 64, 64, phase=5.0 * number)
        (tmp_path / f"{number:02d}.mp4").write_bytes(encode_video(frames, 10.0))
    pack([str(tmp_path)], tmp_path / "whole", size=32, processes=2)
    out = tmp_path / "killed"
    command = [
        sys.executable,
        "-m",
        "worldmodel",
        "pack",
        str(tmp_path / "*.mp4"),
        "--out",
        str(out),
    ]
    command += ["--size", "32", "--processes", "2"]
    seconds, num_kills = 0.0, 0
    for _ in range(20):
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as run:
            before = len(list(out.glob(f"{STAGING_NAME}/videos/*.json")))
            while run.poll() is None:
                time.sleep(0.02)
                if len(list(out.glob(f"{STAGING_NAME}/videos/*.json"))) > before + 2:
                    time.sleep(seconds)
                    run.kill()
                    num_kills += 1
                    break
        seconds += 0.02
        if (out / "index.json").exists():
            break
    assert num_kills > 2
    assert hashes(out) == hashes(tmp_path / "whole")


@pytest.mark.slow
def test_pack__on_ray_the_same_bytes(videos: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    pack([str(videos)], tmp_path / "one", size=32, processes=1)
    pack([str(videos)], tmp_path / "ray", size=32, processes=2, engine="ray")
    assert hashes(tmp_path / "one") == hashes(tmp_path / "ray")


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
