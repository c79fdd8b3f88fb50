"""Tokens and states of anybody's videos: those that the model gives, at their time."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drifting_videos import drifting, write_video

from worldmodel.cli import main
from worldmodel.data.journal import Source
from worldmodel.data.transforms import crop_clip, scaled_size
from worldmodel.data.video import open_video
from worldmodel.errors import InputError
from worldmodel.evaluation.videos import video_tokens
from worldmodel.evaluation.videos.video_tokens import (
    EncodedVideo,
    StateWindows,
    encode_videos,
    load_tokens,
    paths_as_given,
    read_about,
    write_index,
)
from worldmodel.models.checkpoint import LoadedModel, load_model
from worldmodel.models.pretrained import WorldModel

CPU = torch.device("cpu")
SIZE, WINDOW, HOP = 16, 16, 8


@pytest.fixture(scope="module")
def moving(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint with heads and memory that do something: states depend on all of the past."""
    content = torch.load(checkpoint, weights_only=True)
    torch.manual_seed(1)
    for tensor in content["state_dict"].values():
        if tensor.is_floating_point():
            tensor += 0.05 * torch.randn_like(tensor)
    path = tmp_path_factory.mktemp("moving") / "last.ckpt"
    torch.save(content, path)
    return path


@pytest.fixture(scope="module")
def model(moving: Path) -> LoadedModel:
    return load_model(moving)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 75 frames at 16 a second, 38 of which the model sees."""
    return write_video(tmp_path_factory.mktemp("videos") / "drift.mp4", drifting(75))


@pytest.fixture(scope="module")
def encoded(
    video: Path, moving: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[EncodedVideo, Path]:
    """What was written of that video, and where."""
    out = tmp_path_factory.mktemp("out")
    encode_videos(moving, [str(video)], out, device=CPU)
    return load_tokens(out / "drift.npz"), out


def seen_frames(video: Path) -> np.ndarray:
    """uint8 `(T, size, size, 3)`, the frames that the model sees of a video of 48 x 32 pixels."""
    size = scaled_size(48, 32, SIZE)
    frames = open_video(video).get_frames(list(range(0, 75, 2)), size=size)
    return crop_clip(frames, SIZE, (0.5, 0.5), flip=False)


def index(out: Path) -> list[dict[str, Any]]:
    parquet = pytest.importorskip("pyarrow.parquet")
    return parquet.read_table(out / "index.parquet").to_pylist()


# What is computed


def test_tokens_are_the_models_own_to_the_bit(
    encoded: tuple[EncodedVideo, Path], video: Path, model: LoadedModel
) -> None:
    wanted = WorldModel(model).encode(seen_frames(video))
    assert len(encoded[0].tokens) == len(wanted) == 2
    for found, tokens in zip(encoded[0].tokens, wanted, strict=True):
        assert found.dtype == np.float32
        assert np.array_equal(found, tokens.numpy())


def test_each_state_is_that_of_the_first_window_that_holds_its_step(
    encoded: tuple[EncodedVideo, Path], video: Path, model: LoadedModel
) -> None:
    tool = WorldModel(model)
    tokens = tool.encode(seen_frames(video))
    for level, span in enumerate((1, 2)):
        known = 0
        for start in (0, 8, 16, 24):
            part = [own[start // s : (start + WINDOW) // s] for s, own in enumerate(tokens, 1)]
            states = tool.predict(part)[level].context.numpy()
            end = start // span + len(states)
            new = slice(known - start // span, None)
            np.testing.assert_allclose(encoded[0].context[level][known:end], states[new], atol=1e-5)
            known = end
        assert known == 38 // span == len(encoded[0].context[level])


def test_no_state_sees_more_than_the_models_clips_had(
    encoded: tuple[EncodedVideo, Path], moving: Path, tmp_path: Path
) -> None:
    for level, span in enumerate((1, 2)):
        ends = (np.arange(38 // span) + 1) * span
        past = encoded[0].past_frames[level]
        assert past.max() <= WINDOW and past[ends > WINDOW].min() > HOP
        assert past[ends <= WINDOW].tolist() == ends[ends <= WINDOW].tolist()
    # Frame 20 of those seen changes: states before it stay, and of those after it the ones that
    # had it among their past frames change, no others.
    frames = drifting(75)
    before = write_video(tmp_path / "a.mp4", frames, lossless=True)
    frames[40:42] = 255 - frames[40:42]
    after = write_video(tmp_path / "b.mp4", frames, lossless=True)
    encode_videos(moving, [str(before), str(after)], tmp_path / "out", device=CPU)
    one, other = (load_tokens(tmp_path / "out" / f"{name}.npz") for name in "ab")
    for level, span in enumerate((1, 2)):
        ends = (np.arange(38 // span) + 1) * span
        has_seen = (ends > 20) & (ends - one.past_frames[level] <= 20)
        changed = np.any(one.context[level] != other.context[level], axis=(1, 2))
        assert changed.tolist() == has_seen.tolist()
        assert has_seen.any() and not has_seen.all()


def test_states_do_not_depend_on_how_the_video_goes_on(
    encoded: tuple[EncodedVideo, Path], moving: Path, tmp_path: Path
) -> None:
    short = write_video(tmp_path / "short.mp4", drifting(75)[:48], lossless=True)
    long = write_video(tmp_path / "long.mp4", drifting(75), lossless=True)
    encode_videos(moving, [str(short), str(long)], tmp_path / "out", device=CPU)
    one, other = (load_tokens(tmp_path / "out" / f"{name}.npz") for name in ("short", "long"))
    for level in range(2):
        count = len(one.context[level])
        assert np.array_equal(one.context[level], other.context[level][:count])
        assert np.array_equal(one.tokens[level], other.tokens[level][:count])


def test_steps_carry_the_time_and_number_of_their_last_frame(
    encoded: tuple[EncodedVideo, Path],
) -> None:
    found = encoded[0]
    assert found.seconds[0].tolist() == pytest.approx([n / 8 for n in range(38)])
    assert found.seconds[1].tolist() == pytest.approx([(2 * n + 1) / 8 for n in range(19)])
    assert found.frames[0].tolist() == list(range(0, 75, 2))
    assert found.frames[1].tolist() == list(range(2, 75, 4))


@pytest.mark.parametrize("num_frames", [4, 15, 16, 17, 24, 25, 33, 64])
@pytest.mark.parametrize("span", [1, 2, 4])
def test_windows_hold_every_step_once(num_frames: int, span: int) -> None:
    windows = StateWindows(WINDOW, HOP)
    past: list[int] = []
    for start in windows.starts(num_frames):
        known = len(past)
        stop = min(start + WINDOW, num_frames)
        past += [(step + 1) * span - start for step in range(known, stop // span)]
    assert past == windows.past_frames(num_frames, span).tolist()


def test_windows_are_whole_steps_of_every_level(model: LoadedModel) -> None:
    levels = list(model.network.levels)
    assert StateWindows.of(levels, 16) == StateWindows(16, 8)
    assert StateWindows.of(levels, 7) == StateWindows(6, 2)
    assert StateWindows.of(levels, 1) == StateWindows(2, 2)


def test_the_square_in_the_middle_is_seen_unless_all_is_asked_for(
    video: Path, moving: Path, model: LoadedModel, tmp_path: Path
) -> None:
    (row,) = encode_videos(moving, [str(video)], tmp_path, whole=True, device=CPU)
    assert row["picture"] == "whole"
    frames = open_video(video).get_frames(list(range(0, 75, 2)), size=(SIZE, SIZE))
    wanted = WorldModel(model).encode(frames)[0].numpy()
    assert np.array_equal(load_tokens(tmp_path / "drift.npz").tokens[0], wanted)
    assert not np.array_equal(wanted, WorldModel(model).encode(seen_frames(video))[0].numpy())


# What is written


def test_the_index_says_what_lies_where(
    encoded: tuple[EncodedVideo, Path], video: Path, model: LoadedModel
) -> None:
    (row,) = index(encoded[1])
    assert row == encoded[0].about
    assert (row["key"], row["file"], row["source"]) == ("drift", "drift.npz", str(video))
    assert row["duration_seconds"] == pytest.approx(75 / 16)
    assert (row["source_fps"], row["source_frames"]) == (16, 75)
    assert (row["fps"], row["num_frames"], row["steps"]) == (8, 38, [38, 19])
    assert row["checkpoint_sha256"] == model.sha256
    assert (row["window_frames"], row["hop_frames"]) == (WINDOW, HOP)
    assert (row["level0_span"], row["level1_span"]) == (1, 2)
    for level in range(2):
        assert row[f"level{level}_tokens"] == list(encoded[0].tokens[level].shape)
        assert row[f"level{level}_context"] == list(encoded[0].context[level].shape)
    assert row["cut_seconds"] == []


def test_a_second_call_changes_nothing_and_a_third_adds(
    moving: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "videos"
    first = write_video(folder / "day" / "1.mp4", drifting(40))
    out = tmp_path / "out"
    rows = encode_videos(moving, [str(folder)], out, device=CPU)
    assert [row["source"] for row in rows] == [str(first)]
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert sorted(before) == ["day_1.npz", "index.parquet"]
    with monkeypatch.context() as patch:
        patch.setattr(video_tokens, "read_video", lambda *_, **__: pytest.fail("read again"))
        assert encode_videos(moving, [str(folder)], out, device=CPU) == rows
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    # Another video, whose file would have the same name, and the first one with other frames.
    write_video(tmp_path / "other" / "day_1.mp4", drifting(40, seed=1))
    write_video(first, drifting(48, seed=2))
    encode_videos(moving, [str(tmp_path / "other" / "day_1.mp4"), str(folder)], out, device=CPU)
    assert {row["key"]: row["source_frames"] for row in index(out)} == {
        "day_1": 48,
        "day_1_2": 40,
    }


def test_an_index_that_a_killed_call_left_out_is_made_from_the_files(
    moving: Path, video: Path, tmp_path: Path
) -> None:
    encode_videos(moving, [str(video)], tmp_path, device=CPU)
    wanted = (tmp_path / "index.parquet").read_bytes()
    (tmp_path / "index.parquet").unlink()
    (tmp_path / "mine.npz").write_bytes(b"something else")
    encode_videos(moving, [str(video)], tmp_path, device=CPU)
    assert (tmp_path / "index.parquet").read_bytes() == wanted
    assert (tmp_path / "mine.npz").read_bytes() == b"something else"
    assert write_index(tmp_path / "mine.npz") is None


def test_files_of_other_makers_are_never_written_over(
    moving: Path, video: Path, tmp_path: Path
) -> None:
    content = io.BytesIO()
    np.savez(content, x=np.arange(3))
    (tmp_path / "drift.npz").write_bytes(content.getvalue())
    (row,) = encode_videos(moving, [str(video)], tmp_path, device=CPU)
    assert row["file"] == "drift_2.npz"
    assert (tmp_path / "drift.npz").read_bytes() == content.getvalue()
    assert read_about(tmp_path / "drift.npz") is None
    with pytest.raises(InputError, match=r"drift\.npz is no file of `worldmodel encode`"):
        load_tokens(tmp_path / "drift.npz")


def test_tokens_of_two_models_or_pictures_do_not_mix(
    moving: Path, checkpoint: Path, video: Path, tmp_path: Path
) -> None:
    encode_videos(moving, [str(video)], tmp_path, device=CPU)
    with pytest.raises(InputError, match="tokens of another model"):
        encode_videos(checkpoint, [str(video)], tmp_path, device=CPU)
    with pytest.raises(InputError, match=r"of the centre of each frame.*leave out --whole"):
        encode_videos(moving, [str(video)], tmp_path, whole=True, device=CPU)


def test_broken_videos_are_named_and_passed_over(
    moving: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "videos", tmp_path / "out"
    write_video(folder / "good.mp4", drifting(40))
    write_video(folder / "short.mp4", drifting(2))
    (folder / "broken.mp4").write_bytes(b"no video")
    (row,) = encode_videos(moving, [str(folder)], out, device=CPU)
    assert row["key"] == "good"
    told = "".join(capfd.readouterr())
    assert "skipped broken.mp4" in told
    assert "skipped short.mp4: the video has 1 frames at the model's rate" in told
    assert sorted(path.name for path in out.iterdir()) == ["good.npz", "index.parquet"]
    named = [str(folder / "broken.mp4"), str(folder / "good.mp4")]
    with pytest.raises(InputError, match=r"broken\.mp4 could not be used: .*; 1 of 2 videos could"):
        encode_videos(moving, named, tmp_path / "named", device=CPU)
    assert len(index(tmp_path / "named")) == 1
    with pytest.raises(InputError, match="none of 1 videos could be used"):
        encode_videos(moving, named[:1], tmp_path / "none", device=CPU)
    assert not list((tmp_path / "none").iterdir())


def test_sources_are_called_what_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ("a/x.mp4", "a/deep/y.mp4", "b/z.mp4")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    sources = [
        Source(name, (tmp_path / path).resolve(), "key", 0, 0)
        for name, path in zip(("x.mp4", "deep/y.mp4", "z.mp4"), names, strict=True)
    ]
    found = paths_as_given(["a", "b/*.mp4"], sources)
    assert [found[source.path] for source in sources] == list(names)
    assert paths_as_given([str(tmp_path / "b" / "z.mp4")], sources[2:]) == {
        sources[2].path: str(tmp_path / "b" / "z.mp4")
    }


def test_what_cannot_be_is_refused(
    moving: Path, video: Path, model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write to"):
        encode_videos(moving, [str(video)], tmp_path / "file", device=CPU)
    with pytest.raises(InputError, match="does not exist"):
        encode_videos(moving, ["nowhere.mp4"], tmp_path / "out", device=CPU)
    monkeypatch.setattr(type(model.network), "steps_are_local", False)
    with pytest.raises(InputError, match="depend on their own frames alone"):
        encode_videos(moving, [str(video)], tmp_path / "out", device=CPU)


def test_the_command_says_what_it_wrote(
    moving: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["encode", str(video), "--checkpoint", str(moving), "--out", str(out)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told == [str(out / "drift.npz"), f"index: {out / 'index.parquet'}"]
    assert main(["encode", "nowhere", "--checkpoint", str(moving), "--out", str(out)]) == 2
    assert "nowhere does not exist" in capsys.readouterr().err
