"""The file for the Rerun viewer: what is logged when, with a recorder in its place."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from worldmodel.cli import main
from worldmodel.errors import InputError
from worldmodel.evaluation.videos import rerun_file
from worldmodel.evaluation.videos.long_video import SurpriseCurve
from worldmodel.evaluation.videos.rerun_file import tokens_of, write_rerun

CPU = torch.device("cpu")
FRAMES = 10


class Recorder:
    """Keeps what would be written: per name the times and what was shown."""

    def __init__(self, application: str) -> None:
        self.logged: dict[str, list[tuple[float, Any]]] = {}
        self.path, self.now, self.closed = "", 0.0, False
        Recorder.last = self

    def save(self, path: str) -> None:
        self.path = path

    def set_time(self, timeline: str, duration: float) -> None:
        assert timeline == "video"
        self.now = duration

    def log(self, name: str, what: Any) -> None:
        self.logged.setdefault(name, []).append((self.now, what))

    def flush(self) -> None:
        pass

    def disconnect(self) -> None:
        self.closed = True


class Picture(np.ndarray):
    def compress(self, jpeg_quality: int) -> "Picture":
        return self


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Recorder]]:
    stand_in = SimpleNamespace(
        RecordingStream=Recorder,
        Image=lambda pixels: np.asarray(pixels).view(Picture),
        Scalars=lambda value: value,
    )
    monkeypatch.setattr(rerun_file, "import_rerun", lambda: stand_in)
    yield Recorder


def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (FRAMES, 32, 32, 3), dtype=np.uint8)


def test_tokens_of_a_long_video_are_those_of_its_windows(hierarchy) -> None:
    whole = tokens_of(hierarchy, frames(), 8, CPU)
    # Spans are 1, 2 and 4: the last two frames fill no step of the slowest level.
    assert [len(level) for level in whole] == [8, 4, 2]
    clip = torch.from_numpy(frames()[:8]).permute(0, 3, 1, 2)[None]
    for own, direct in zip(whole, hierarchy.encode(clip), strict=True):
        torch.testing.assert_close(own, direct[0].detach())


def test_everything_stands_on_one_timeline(hierarchy, recorder, tmp_path: Path) -> None:
    seconds = np.arange(FRAMES) / 8
    curve = SurpriseCurve(
        np.array([3, 5]), np.array([0.5, 0.7]), np.zeros((2, 2, 2)), np.array([0.9, 0.8])
    )
    combined = np.array([np.nan] * 4 + [1.0] * 6)
    tokens = tokens_of(hierarchy, frames(), 8, CPU)
    path = tmp_path / "surprise.rrd"
    write_rerun(path, iter(frames()), seconds, tokens, hierarchy, {(1, 2): curve}, combined)
    logged = recorder.last.logged
    assert recorder.last.path == str(path) and recorder.last.closed
    assert [time for time, _ in logged["video"]] == seconds.tolist()
    assert logged["surprise/level1/h2"] == [(3 / 8, 0.5), (5 / 8, 0.7)]
    assert logged["copy/level1/h2"] == [(3 / 8, 0.9), (5 / 8, 0.8)]
    assert len(logged["surprise/combined"]) == 6  # nothing where nothing is known
    # A step's tokens stand from its last frame on: nothing is shown before it was seen.
    assert [time for time, _ in logged["tokens/level2"]] == [3 / 8, 7 / 8]
    for level, grid in enumerate((4, 2, 1)):
        picture = logged[f"tokens/level{level}"][0][1]
        assert picture.shape == (grid, grid, 3) and picture.dtype == np.uint8


def test_without_the_package_one_line_says_what_to_install(monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(InputError, match=r"pip install 'worldmodel\[rerun\]'"):
        rerun_file.import_rerun()
    command = ["surprise", "x.mp4", "--checkpoint", "tiny", "--out", str(tmp_path), "--rerun"]
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "rerun-sdk" in line


def test_a_real_file_is_written_where_the_package_is_there(hierarchy, tmp_path: Path) -> None:
    pytest.importorskip("rerun")
    tokens = tokens_of(hierarchy, frames(), 8, CPU)
    path = tmp_path / "surprise.rrd"
    seconds, combined = np.arange(FRAMES) / 8, np.ones(FRAMES)
    write_rerun(path, iter(frames()), seconds, tokens, hierarchy, {}, combined)
    assert path.read_bytes()[:4] in (b"RRF2", b"RRIO") and path.stat().st_size > 1000
