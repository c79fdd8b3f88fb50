"""The file for the Rerun viewer: what is logged when, with a recorder in its place."""

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from viewer_stand_in import Stream, put_in_place

from worldmodel.cli import main
from worldmodel.data.encode import encode_video
from worldmodel.errors import InputError
from worldmodel.evaluation.probes.stored import StoredProbes, read_probes
from worldmodel.evaluation.videos import rerun_file, video_surprise
from worldmodel.evaluation.videos.long_video import SurpriseCurve
from worldmodel.evaluation.videos.readouts import Belief, DepthMaps, Readouts
from worldmodel.evaluation.videos.recorder import Recorder
from worldmodel.evaluation.videos.rerun_file import Recorded, about_text, tokens_of, write_rerun
from worldmodel.models.checkpoint import ClipSpec, load_model
from worldmodel.models.hub_files import PROBES

CPU = torch.device("cpu")
FRAMES = 10


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Stream]:
    return put_in_place(monkeypatch, rerun_file, video_surprise)


def views_of(layout: Any) -> list[Any]:
    """Every view of a layout, in order."""
    if layout.kind.endswith("View"):
        return [layout]
    return [view for part in layout.given for view in views_of(part)]


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
    known = Recorded(seconds, (32, 32), tokens, {(1, 2): curve}, combined, None, "# words")
    write_rerun(path, iter(frames()), hierarchy, known)
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
    # Words stand at no time of their own; without probes there is no depth and no belief.
    assert logged["about"] == [(None, "# words")]
    assert not any(name.startswith(("depth", "video/")) for name in logged)
    origins = [view.origin for view in views_of(recorder.last.layout)]
    assert origins[:2] == ["video", "about"] and "depth" not in origins
    assert [name for name in origins if name.startswith("tokens")] == [
        f"tokens/level{level}" for level in range(3)
    ]


def test_depth_and_belief_stand_over_the_frames(hierarchy, recorder, tmp_path: Path) -> None:
    seconds = np.arange(FRAMES) / 4
    metres = np.linspace(1.25, 6.5, FRAMES * 16).reshape(FRAMES, 4, 4)
    places = np.stack([np.linspace(0.1, 0.9, 5), np.full(5, 0.5)], axis=1)
    belief = Belief(np.arange(1, FRAMES, 2), places, (0.1, 0.2))
    readouts = Readouts(DepthMaps(np.arange(FRAMES), metres, 0.45), {"hidden": belief})
    tokens = tokens_of(hierarchy, frames(), 8, CPU)
    known = Recorded(seconds, (200, 100), tokens, {}, np.ones(FRAMES), readouts, "")
    write_rerun(tmp_path / "x.rrd", iter(frames()), hierarchy, known)
    logged = recorder.last.logged
    assert [time for time, _ in logged["depth"]] == seconds.tolist()
    first = logged["depth"][0][1]
    assert first.given[0].dtype == np.float32 and first.meter == 1.0
    np.testing.assert_allclose(first.given[0], metres[0], rtol=1e-6)
    assert first.depth_range == (1.25, 6.5)  # one scale for the whole video
    points = logged["video/belief/hidden"]
    assert [time for time, _ in points] == seconds[1::2].tolist()
    # In pixels of the picture as it is drawn, from the left and the top.
    np.testing.assert_allclose([what.given[0][0] for _, what in points], places * (200, 100))
    assert points[0][1].labels == "if wholly hidden"
    rings = [what.given[0][0] for _, what in logged["video/belief/hidden/half"]]
    np.testing.assert_allclose(np.ptp(rings[2], axis=0), [40, 40], rtol=0.01)
    np.testing.assert_allclose(rings[2][:-1].mean(0), places[2] * (200, 100))
    trails = [what.given[0][0] for _, what in logged["video/belief/hidden/trail"]]
    assert [len(trail) for trail in trails] == [1, 2, 3, 3, 3]  # a second has two steps
    np.testing.assert_allclose(trails[4], places[2:] * (200, 100))
    names = [view.name for view in views_of(recorder.last.layout)]
    assert names[:2] == ["video and belief", "depth, 1.2 m (dark) to 6.5 m (bright)"]


# Whose answers they are, in words and from which file

CLIP = ClipSpec(num_frames=16, fps=8.0, size=16)


@pytest.fixture
def probes(probed: Path, checkpoint: Path) -> StoredProbes:
    return read_probes(probed / PROBES, load_model(checkpoint))


def test_the_recording_says_what_its_probes_were_fitted_on(probes: StoredProbes) -> None:
    text = about_text("cat.mp4", CLIP, 8.0, (64, 64), probes)
    assert text.startswith("# cat.mp4\n")
    assert "Fitted on the physics world alone** (24 clips of the set " in text
    assert probes.depth is not None and f"erred by {probes.depth.rmse_m:.2f} m" in text
    hidden = probes.position["hidden"]
    assert f"wholly hidden (**orange**): level {hidden.level}, half within" in text
    assert f"{hidden.half_px:.1f} px of a picture of 16, r2 {hidden.r2:.2f}" in text
    assert "squeezed" not in text and "frames a second" not in text


def test_what_is_unlike_the_probes_clips_is_said(probes: StoredProbes) -> None:
    text = about_text("cat.mp4", CLIP, 5.0, (160, 90), probes)
    assert "seen at 5 frames a second, the probes were fitted at 8: things move 1.6 times" in text
    assert "1.78 times as wide as high and was squeezed" in text
    without = about_text("cat.mp4", CLIP, 5.0, (160, 90), None, "why.")
    assert "**depth** and **belief** are not here: why." in without
    assert "physics world" not in without


def surprise(checkpoint: Path, video: Path, out: Path, *more: str) -> int:
    given = ["surprise", str(video), "--checkpoint", str(checkpoint), "--out", str(out)]
    return main([*given, *more])


@pytest.fixture
def drift(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A video; without the pictures that no recording needs."""
    monkeypatch.setattr(video_surprise, "draw_video", lambda *_: {})
    monkeypatch.setattr(video_surprise, "write_curves", lambda *_: None)
    path = tmp_path / "drift.mp4"
    moving = np.stack([np.roll(frames()[0], step, axis=1) for step in range(40)])
    path.write_bytes(encode_video(moving, 8.0))
    return path


def test_named_probes_give_depth_and_belief(
    checkpoint: Path, probed: Path, drift: Path, recorder, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "out"
    assert surprise(checkpoint, drift, out, "--rerun", "--probes", str(probed)) == 0
    logged = recorder.last.logged
    assert len(logged["video"]) == len(logged["depth"]) == 40
    assert {"video/belief/visible", "video/belief/hidden", "surprise/combined"} <= set(logged)
    assert "physics world" in logged["about"][0][1]
    assert "no depth" not in capsys.readouterr().err


def test_without_probes_words_say_so_and_the_rest_stands(
    checkpoint: Path, drift: Path, recorder, tmp_path: Path, capsys
) -> None:
    assert surprise(checkpoint, drift, tmp_path / "out", "--rerun") == 0
    logged = recorder.last.logged
    assert len(logged["video"]) == 40 and logged["surprise/combined"] and "depth" not in logged
    assert "are not here: this model came without probes" in logged["about"][0][1]
    assert "no depth and no belief: this model came without probes" in capsys.readouterr().err


def test_another_models_probes_are_refused_if_named_and_passed_over_if_found(
    checkpoint: Path, probed: Path, drift: Path, recorder, tmp_path: Path, capsys
) -> None:
    run = tmp_path / "version_0"
    (run / "checkpoints").mkdir(parents=True)
    content = torch.load(checkpoint, weights_only=True)
    torch.save(content | {"global_step": 4}, run / "checkpoints" / "last.ckpt")
    shutil.copytree(probed, run / "report")
    later = run / "checkpoints" / "last.ckpt"
    command = ("--rerun", "--probes", str(probed))
    assert surprise(later, drift, tmp_path / "out", *command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "has probes of checkpoint" in line and line.endswith("evaluate this one")
    recorder_of_last = Recorder.of(load_model(later), CPU, None)
    assert recorder_of_last.probes is None
    assert "has probes of checkpoint" in recorder_of_last.missing
    # Those beside the very model are taken without being named.
    shutil.copy(checkpoint, later)
    assert Recorder.of(load_model(later), CPU, None).probes is not None


def test_probes_are_for_the_viewer_alone(checkpoint: Path, probed: Path, drift, capsys) -> None:
    out = drift.parent / "out"
    assert surprise(checkpoint, drift, out, "--probes", str(probed)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "add --rerun" in line and not out.exists()


def test_without_the_package_one_line_says_what_to_install(monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(InputError, match=r"pip install 'worldmodel\[rerun\]'"):
        rerun_file.import_rerun()
    command = ["surprise", "x.mp4", "--checkpoint", "tiny", "--out", str(tmp_path), "--rerun"]
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "rerun-sdk" in line


def test_a_real_file_holds_everything_where_the_package_is_there(
    checkpoint: Path, probed: Path, drift: Path, tmp_path: Path
) -> None:
    pytest.importorskip("rerun")
    from rerun.chunk import RrdReader

    out = tmp_path / "out"
    assert surprise(checkpoint, drift, out, "--rerun", "--probes", str(probed)) == 0
    path = out / "drift" / "surprise.rrd"
    rows: dict[str, int] = {}
    for chunk in RrdReader(path).stream():
        if chunk.entity_path.startswith("/__"):
            continue
        rows[chunk.entity_path] = rows.get(chunk.entity_path, 0) + chunk.num_rows
        assert chunk.is_static == (chunk.entity_path == "/about")
        assert chunk.is_static or "video" in chunk.timeline_names
    probes = read_probes(probed / PROBES, load_model(checkpoint))
    expected = {"/about": 1, "/video": 40, "/depth": 40, "/tokens/level0": 40, "/tokens/level1": 20}
    for part, place in probes.position.items():
        steps = 40 // (1, 2)[place.level]
        for name in ("", "/half", "/trail"):
            expected[f"/video/belief/{part}{name}"] = steps
    assert expected.items() <= rows.items()
    assert rows["/surprise/level0/h1"] == rows["/copy/level0/h1"] == 39
    assert 30 < rows["/surprise/combined"] < 40
    assert len(RrdReader(path).blueprints()) == 1
