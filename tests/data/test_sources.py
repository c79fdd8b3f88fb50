"""Which videos a person means: none is lost, and none is there twice."""

from pathlib import Path

from footage import waves

from worldmodel.data.encode import encode_video
from worldmodel.data.pack import pack
from worldmodel.data.sources import find_sources


def test_find_sources__goes_through_linked_folders_once(tmp_path: Path) -> None:
    inside, elsewhere = tmp_path / "videos", tmp_path / "elsewhere"
    for folder in (inside / "own", elsewhere / "deep"):
        folder.mkdir(parents=True)
    (inside / "own" / "one.mp4").touch()
    (elsewhere / "two.mp4").touch()
    (elsewhere / "deep" / "three.mp4").touch()
    (inside / "a link").symlink_to(elsewhere)
    (inside / "again").symlink_to(elsewhere / "deep")
    (inside / "a copy of own").symlink_to(inside / "own")
    (elsewhere / "deep" / "back").symlink_to(inside)
    (inside / "nowhere").symlink_to(tmp_path / "missing")
    (inside / ".hidden").symlink_to(elsewhere)
    sources, named = find_sources([str(inside)])
    assert [source.name for source in sources] == [
        "a link/deep/three.mp4",
        "a link/two.mp4",
        "own/one.mp4",
    ]
    assert not named


def test_pack__files_of_one_name_are_all_counted(tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b", "c")):
        (tmp_path / name).mkdir()
        num_frames = 8 if number else 20  # the latter two are too short
        (tmp_path / name / "v.mp4").write_bytes(encode_video(waves(num_frames), 8.0))
    files = [str(tmp_path / name / "v.mp4") for name in ("a", "b", "c")]
    summary = pack(files, tmp_path / "out", size=32, processes=1)
    assert (summary.num_videos, summary.num_samples) == (1, 1)
    assert set(summary.skipped) == {"v.mp4", files[2]}
