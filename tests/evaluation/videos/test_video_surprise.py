"""Surprise on anybody's videos: right numbers at the right time, in files that keep apart."""

import csv
import json
import os
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from drifting_videos import drifting, write_video
from matplotlib.figure import Figure

from worldmodel.data.video import open_video
from worldmodel.errors import InputError
from worldmodel.evaluation.videos import video_figures, video_surprise
from worldmodel.evaluation.videos.long_video import SurpriseCurve, surprise_over_video
from worldmodel.evaluation.videos.sampled_video import (
    display_size,
    read_video,
    sampled_indices,
    walk_pictures,
)
from worldmodel.evaluation.videos.video_figures import (
    HEADER_PX,
    MIN_CANVAS_PX,
    PANEL_PX,
    Annotator,
    Peak,
    Timeline,
    check_ratios,
    surprise_over_time,
    tint,
)
from worldmodel.evaluation.videos.video_surprise import (
    choose_shown,
    combined_surprise,
    compare_orders,
    find_peaks,
    other_orders,
    surprise_videos,
    write_mp4,
)
from worldmodel.models.checkpoint import ClipSpec, load_model

CPU = torch.device("cpu")
CLIP = ClipSpec(num_frames=16, fps=8.0, size=16)


class NoBar:
    """Stands where a progress bar would."""

    total = 0
    num_updates = 0

    def update(self, count: int = 1) -> None:
        self.num_updates += count


def curve(values: Any, frames: Any = None, copied: Any = None) -> SurpriseCurve:
    values = np.array(values, dtype=np.float64)
    frames = np.arange(len(values)) if frames is None else np.array(frames)
    copied = values if copied is None else np.array(copied, dtype=np.float64)
    return SurpriseCurve(frames, values, np.repeat(values, 4).reshape(-1, 2, 2), copied)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 70 frames at 16 a second, 35 of which the model sees."""
    return write_video(tmp_path_factory.mktemp("videos") / "drift.mp4", drifting(70))


@pytest.fixture(scope="module")
def done(
    video: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """Folder and summary of that video."""
    out = tmp_path_factory.mktemp("out")
    (summary,) = surprise_videos(checkpoint, [str(video)], out, device=CPU)
    return out / "drift", summary


@pytest.fixture
def numbers_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the pictures, which take nine tenths of the time."""
    monkeypatch.setattr(video_surprise, "draw_video", lambda *_: {})
    monkeypatch.setattr(video_surprise, "write_curves", lambda *_: None)


# What is read


def test_frames_are_taken_at_the_models_rate_as_in_training() -> None:
    indices, fps = sampled_indices(np.arange(100) / 29.97, 29.97, 8.0)
    assert indices.tolist() == list(range(0, 100, 4))
    assert fps == 29.97 / 4
    # Slower than the model: every frame.
    assert sampled_indices(np.arange(5) / 5, 5.0, 8.0)[0].tolist() == [0, 1, 2, 3, 4]
    assert sampled_indices(np.zeros(1), 25.0, 8.0)[0].tolist() == [0]


def test_of_uneven_frames_those_nearest_to_even_times_are_taken() -> None:
    times = np.array([0, 1, 2, 3, 3.9, 4.4, 6.1, 7, 8]) / 16
    indices, fps = sampled_indices(times, 16.0, 8.0)
    assert fps == pytest.approx(8)
    assert indices.tolist() == [0, 2, 4, 6, 8]


def test_a_video_is_kept_on_disk_as_the_decoder_scales_it(video: Path, tmp_path: Path) -> None:
    bar = NoBar()
    with (tmp_path / "store").open("w+b") as store:
        sampled = read_video(video, CLIP, store, bar, passes=2)
        assert isinstance(sampled.frames, np.memmap)
        wanted = open_video(video).get_frames(list(range(0, 70, 2)), size=(16, 16))
        assert np.array_equal(sampled.frames, wanted)
        shown = [frame.numpy() for frame in sampled.in_order([3, 0])]
        assert np.array_equal(shown, wanted[[3, 0]].transpose(0, 3, 1, 2))
    assert bar.num_updates == 70 and bar.total == 70 + 2 * 35
    assert sampled.seconds.tolist() == pytest.approx([n / 8 for n in range(35)])
    pictures = list(walk_pictures(video, sampled))
    assert len(pictures) == 35 and pictures[0].shape == (480, 720, 3)


def test_videos_are_shown_in_even_sides_of_readable_size() -> None:
    assert display_size(1280, 720, 1.0) == (854, 480)
    assert display_size(720, 1280, 1.0) == (480, 854)
    assert display_size(48, 32, 1.0) == (720, 480)
    wide = display_size(2000, 200, 1.0)
    assert wide[0] <= 1280 and wide == (1280, 128)
    assert display_size(720, 576, 16 / 11) == (872, 480)


# What is computed


def test_the_combined_curve_counts_levels_alike_whatever_their_units() -> None:
    fast = curve([1.0, 2, 3, 4, 5, 6, 7, 8, 9], frames=range(1, 10))
    slow = curve([100.0, 0, 100, 0], frames=[3, 5, 7, 9])
    found = combined_surprise({(0, 1): fast, (0, 2): fast, (1, 1): slow}, (1, 2), 11)
    fast_scaled = (np.arange(1, 10) - 5) / (4 / 1.349)
    slow_scaled = np.repeat([50, -50, 50, -50], 2) / (100 / 1.349)
    assert np.isnan(found[[0, 1, 10]]).all()
    np.testing.assert_allclose(found[2:10], (fast_scaled[1:] + slow_scaled) / 2)
    scaled = {(0, 1): curve(1e6 * fast.values, fast.frames), (1, 1): slow}
    np.testing.assert_allclose(combined_surprise(scaled, (1, 2), 11), found)


def test_a_rare_great_surprise_does_not_change_what_is_typical() -> None:
    calm = np.tile([1.0, 2.0, 3.0], 10)
    cut = calm.copy()
    cut[12] = 1000
    one, other = (combined_surprise({(0, 1): curve(v)}, (1,), 30) for v in (calm, cut))
    assert np.allclose(np.delete(one, 12), np.delete(other, 12), atol=0.05)
    assert other[12] > 100


def test_a_curve_without_spread_is_typical_throughout() -> None:
    assert combined_surprise({(0, 1): curve(np.ones(5))}, (1,), 5).tolist() == [0] * 5
    # Nothing but one event: its quartiles are equal, its standard deviation is not 0.
    once = combined_surprise({(0, 1): curve([0, 0, 0, 0, 0, 0, 0, 0, 1.0])}, (1,), 9)
    assert once[8] > 1 and not once[:8].any()


def test_peaks_are_local_high_and_apart() -> None:
    values = np.array([np.nan, 9, 8, 2, 5, 4.9, 4, 0.5, 0.9, 0.2, 3, 0, 7])
    assert find_peaks(values, 1, 10) == [4, 10, 12]
    assert find_peaks(values, 3, 10) == [4, 12]
    assert find_peaks(values, 1, 2) == [4, 12]
    assert find_peaks(np.full(4, np.nan), 1, 3) == []
    assert find_peaks(np.array([0.0, 0.0, 0.0]), 1, 3) == []


def test_other_orders_hold_each_frame_once() -> None:
    orders = other_orders(23, 4, seed=0)
    assert list(orders) == list(video_figures.CHECK_TITLES)
    for order in orders.values():
        assert sorted(order.tolist()) == list(range(23))
        assert order.tolist() != list(range(23))
    assert orders["backwards"].tolist() == list(range(22, -1, -1))
    blocks = orders["shuffled_blocks"]
    assert all(blocks[i : i + 4].tolist() == list(range(blocks[i], blocks[i] + 4)) for i in (0, 16))
    assert (blocks[:20:4] % 4 == 0).all() and blocks[20:].tolist() == [20, 21, 22]
    again, other = other_orders(23, 4, seed=0), other_orders(23, 4, seed=1)
    assert all(np.array_equal(orders[name], again[name]) for name in orders)
    assert not np.array_equal(orders["shuffled"], other["shuffled"])


def test_an_order_is_compared_by_the_mean_over_steps() -> None:
    order = np.arange(12)[::-1]
    forward = curve(np.full(11, 2.0), range(1, 12), np.full(11, 4.0))
    backwards = curve(np.full(11, 3.0), range(1, 12), np.full(11, 5.0))
    found = compare_orders(forward, backwards, order, 4, seed=0)
    assert found["ratio"] == 1.5 and found["copy_ratio"] == 1.25 and found["over_copy"] == 1.2
    # All segments are alike, so no resampling makes a difference.
    assert found["ci95"] == pytest.approx([1.5, 1.5])
    assert found["over_copy_ci95"] == pytest.approx([1.2, 1.2])
    assert (found["num_steps"], found["num_segments"]) == (11, 3)


def test_segments_are_of_the_video_whatever_the_order() -> None:
    # What surprises lies in the first half of the video, forwards and backwards.
    loud = (np.arange(40) < 20) + 1.0
    order = np.arange(40)[::-1]
    found = compare_orders(curve(loud), curve(loud[order]), order, 5, seed=0)
    assert found["ratio"] == 1 and found["ci95"] == pytest.approx([1, 1])


def test_the_interval_of_a_ratio_grows_with_what_segments_differ_by() -> None:
    generator = np.random.default_rng(0)
    order = generator.permutation(400)
    forward = curve(np.ones(400))
    widths = []
    for noise in (0.1, 0.5):
        source_values = 2 + noise * np.repeat(generator.normal(size=20), 20)
        found = compare_orders(forward, curve(source_values[order]), order, 20, seed=0)
        low, high = found["ci95"]
        assert low < found["ratio"] < high
        widths.append(high - low)
        # 95 % of a mean over 20 segments.
        sigma = source_values[::20].std() / np.sqrt(20)
        assert high - low == pytest.approx(2 * 1.96 * sigma, rel=0.1)
    assert widths[1] > 3 * widths[0]


def test_ratios_to_nothing_and_few_segments_are_left_open() -> None:
    order = np.arange(10)
    still = compare_orders(curve(np.zeros(10)), curve(np.ones(10)), order, 2, seed=0)
    assert still["ratio"] is still["over_copy"] is still["ci95"] is None
    short = compare_orders(curve(np.ones(10)), curve(np.ones(10)), order, 5, seed=0)
    assert short["ratio"] == 1 and short["ci95"] is None and short["num_segments"] == 2


def test_the_farthest_place_of_the_lowest_level_is_shown_unless_another_is_asked_for() -> None:
    places = [(1, 4), (0, 2), (0, 8), (0, 4)]
    assert choose_shown(places, None) == (0, 8)
    assert choose_shown(places, (1, 4)) == (1, 4)
    with pytest.raises(InputError, match=r"level 1, horizon 2; .* 0\.2, 0\.4, 0\.8, 1\.4"):
        choose_shown(places, (1, 2))


# What is written


def test_the_table_holds_every_place_at_its_time(
    done: tuple[Path, dict[str, Any]], video: Path, checkpoint: Path
) -> None:
    frames = open_video(video).get_frames(list(range(0, 70, 2)), size=(16, 16))
    seen = torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous()
    curves = surprise_over_video(load_model(checkpoint).network, seen, 16, CPU)
    rows = table(done[0] / "surprise.csv")
    assert list(rows[0]) == ["time_seconds", "frame", "level", "horizon", "surprise", "copy"]
    for (level, horizon), found in curves.items():
        own = [r for r in rows if (int(r["level"]), int(r["horizon"])) == (level, horizon)]
        assert [float(row["surprise"]) for row in own] == found.values.tolist()
        assert [float(row["copy"]) for row in own] == found.copied.tolist()
        assert [int(row["frame"]) for row in own] == (2 * found.frames).tolist()
        assert [float(row["time_seconds"]) for row in own] == pytest.approx(found.frames / 8)
    assert len(rows) == sum(len(found.frames) for found in curves.values())
    combined = combined_surprise(curves, (1, 2), 35)
    rows = table(done[0] / "combined.csv")
    known = np.flatnonzero(~np.isnan(combined))
    assert [float(row["combined"]) for row in rows] == combined[known].tolist()
    assert [int(row["frame"]) for row in rows] == (2 * known).tolist()


def test_the_annotated_video_shows_every_frame_that_the_model_saw(
    done: tuple[Path, dict[str, Any]],
) -> None:
    with av.open(str(done[0] / "annotated.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert float(stream.average_rate) == 8
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(frames) == 35
    assert frames[0].shape == (HEADER_PX + 480 + PANEL_PX, 720, 3)


def test_a_model_that_copies_has_the_copy_predictors_ratios(
    done: tuple[Path, dict[str, Any]],
) -> None:
    # The heads of this model are 0, so it predicts what it sees.
    folder, summary = done
    assert json.loads((folder / "summary.json").read_bytes()) == summary
    for entries in summary["checks"].values():
        for entry in (entry for level in entries.values() for entry in level.values()):
            assert entry["ratio"] == entry["copy_ratio"]
            assert entry["over_copy"] == 1 and entry["over_copy_ci95"] == [1, 1]
    for horizon in ("h1", "h2"):
        assert summary["surprise"]["level0"][horizon]["copy_ratio"] == 1
        # Backwards the pairs of frames are the same.
        backwards = summary["checks"]["backwards"]["level0"][horizon]
        assert backwards["copy_ratio"] == pytest.approx(1, abs=1e-6)
        assert summary["checks"]["shuffled"]["level0"][horizon]["ratio"] > 1.05
    assert summary["shown"] == {"level": 0, "horizon": 2}
    assert summary["source"] == {"fps": 16, "num_frames": 70, "cut_seconds": []}
    assert summary["seen"]["num_frames"] == 35 and summary["seen"]["window_frames"] == 16
    assert summary["surprise"]["level1"]["h2"]["ahead_seconds"] == 0.5


def test_the_same_call_gives_the_same_tables(
    done: tuple[Path, dict[str, Any]], video: Path, checkpoint: Path
) -> None:
    before = {name: (done[0] / name).read_bytes() for name in ("surprise.csv", "combined.csv")}
    (again,) = surprise_videos(checkpoint, [str(video)], done[0].parent, device=CPU)
    assert again | {"seconds": 0} == done[1] | {"seconds": 0}
    assert {name: (done[0] / name).read_bytes() for name in before} == before
    assert sorted(path.name for path in done[0].iterdir()) == [
        "annotated.mp4",
        "checks.png",
        "combined.csv",
        "summary.json",
        "surprise.csv",
        "surprise.png",
    ]


@pytest.mark.usefixtures("numbers_only")
def test_videos_of_one_name_keep_apart(checkpoint: Path, tmp_path: Path) -> None:
    paths = [
        write_video(tmp_path / name / "x.mp4", drifting(40, seed))
        for seed, name in enumerate(("a", "b"))
    ]
    out = tmp_path / "out"
    both = surprise_videos(checkpoint, [str(path) for path in paths], out, device=CPU)
    assert [Path(summary["folder"]).name for summary in both] == ["x", "x_2"]
    assert [Path(summary["video"]) for summary in both] == paths
    # Alone it still goes to its own folder.
    (again,) = surprise_videos(checkpoint, [str(paths[1])], out, device=CPU)
    assert again["folder"] == both[1]["folder"]
    first = json.loads((out / "x" / "summary.json").read_bytes())
    assert first["video"] == str(paths[0])


@pytest.mark.usefixtures("numbers_only")
def test_broken_videos_are_named_and_passed_over(
    checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "videos"
    write_video(folder / "good.mp4", drifting(40))
    write_video(folder / "short.mp4", drifting(2))
    (folder / "broken.mp4").write_bytes(b"no video")
    (found,) = surprise_videos(checkpoint, [str(folder)], tmp_path / "out", device=CPU)
    assert found["name"] == "good.mp4"
    told = "".join(capfd.readouterr())
    assert "skipped broken.mp4" in told and "skipped short.mp4: the video has 1 frames" in told
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["good"]
    named = [str(folder / "good.mp4"), str(folder / "broken.mp4")]
    with pytest.raises(InputError, match=r"broken\.mp4 could not be used: .*; 1 of 2 videos could"):
        surprise_videos(checkpoint, named, tmp_path / "named", device=CPU)
    assert (tmp_path / "named" / "good" / "summary.json").is_file()
    (folder / "good.mp4").unlink()
    with pytest.raises(InputError, match=r"none of 2 videos could be used; first broken\.mp4"):
        surprise_videos(checkpoint, [str(folder)], tmp_path / "none", device=CPU)


def test_what_cannot_be_is_refused_before_any_work(
    checkpoint: Path, video: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"level 0, horizon 5; level\.horizon may be 0\.1, 0\.2"):
        surprise_videos(checkpoint, [str(video)], tmp_path / "out", place=(0, 5), device=CPU)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="does not exist"):
        surprise_videos(checkpoint, ["nowhere.mp4"], tmp_path / "out", device=CPU)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write to"):
        surprise_videos(checkpoint, [str(video)], tmp_path / "file", device=CPU)


@pytest.mark.usefixtures("numbers_only")
def test_a_cut_is_found_and_marked(checkpoint: Path, tmp_path: Path) -> None:
    scenes = np.full((100, 32, 48, 3), 20, np.uint8)
    scenes[:50] = (90, 200, 240)
    for time, picture in enumerate(scenes):
        left = abs(time % 60 - 30)
        picture[8:20, left : left + 12] = (230, 40, 10)
    path = write_video(tmp_path / "cut.mp4", scenes)
    (found,) = surprise_videos(checkpoint, [str(path)], tmp_path / "out", (1, 1), CPU)
    assert found["shown"] == {"level": 1, "horizon": 1}
    assert found["source"]["cut_seconds"] == pytest.approx([50 / 16])
    highest = max(found["peaks"], key=lambda peak: peak["combined"])
    assert highest["after_cut"] and 0 <= highest["time_seconds"] - 50 / 16 < 0.5


def test_a_video_in_which_nothing_happens_is_no_error(checkpoint: Path, tmp_path: Path) -> None:
    path = write_video(tmp_path / "still.mp4", drifting(1).repeat(50, axis=0), lossless=True)
    (found,) = surprise_videos(checkpoint, [str(path)], tmp_path / "out", device=CPU)
    assert found["peaks"] == []
    assert found["checks"]["shuffled"]["level0"]["h1"]["ratio"] is None
    text = (tmp_path / "out" / "still" / "summary.json").read_text()
    assert "NaN" not in text and "Infinity" not in text


def test_an_encoding_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def pictures() -> Any:
        yield np.zeros((32, 32, 3), np.uint8)
        raise InputError("damaged")

    with pytest.raises(InputError, match="damaged"):
        write_mp4(tmp_path / "x.mp4", pictures(), 8.0)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_real_videos(checkpoint: Path, tmp_path: Path) -> None:
    folder = os.environ.get("WORLDMODEL_TEST_VIDEOS")
    if not folder:
        pytest.skip("WORLDMODEL_TEST_VIDEOS names no folder of videos")
    for found in surprise_videos(checkpoint, [folder], tmp_path, device=CPU):
        shuffled = found["checks"]["shuffled"]["level0"]["h1"]
        assert shuffled["ci95"][0] > 1
        assert abs(found["checks"]["backwards"]["level0"]["h1"]["copy_ratio"] - 1) < 1e-6
        assert (Path(found["folder"]) / "annotated.mp4").stat().st_size > 10_000


# Pictures


def timeline(cuts: tuple[float, ...] = ()) -> Timeline:
    return Timeline(np.arange(20) / 8, 1 / 8, (1, 2), cuts)


def two_levels() -> dict[tuple[int, int], SurpriseCurve]:
    slow = curve(np.arange(8.0), range(5, 20, 2))
    return {
        (0, 1): curve(np.arange(19.0), range(1, 20)),
        (0, 4): curve(np.ones(16), range(4, 20)),
        (1, 2): slow,
    }


def labels(figure: Figure) -> str:
    texts = [(axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) for axes in figure.axes]
    return " ".join(" ".join(part) for part in texts)


def test_curves_stand_by_level_over_seconds_below_their_peaks() -> None:
    combined = np.r_[np.full(4, np.nan), np.arange(16.0)]
    picture = np.zeros((9, 16, 3), np.uint8)
    peaks = [Peak(1.0, 5.0, picture, False), Peak(2.0, 12.0, picture, True)]
    figure = surprise_over_time(two_levels(), combined, timeline((1.5,)), peaks, "a video")
    first, second, top, fast, slow = figure.axes
    assert (first.get_title(), second.get_title()) == ("1: 1.0 s", "2: 2.0 s, cut")
    assert [text.get_text() for text in top.texts] == ["1", "2"]
    assert top.lines[0].get_xdata().tolist() == (np.arange(20) / 8).tolist()
    # A copy, each horizon, and the cut.
    assert len(fast.lines) == 1 + 2 + 1 and len(slow.lines) == 1 + 1 + 1
    names = [text.get_text() for text in fast.get_legend().get_texts()]
    assert names == ["copy, 0.50 s ahead", "0.12 s ahead", "0.50 s ahead"]
    assert fast.lines[1].get_ydata().tolist() == list(range(19))
    assert slow.lines[1].get_xdata().tolist() == [n / 8 for n in range(5, 20, 2)]
    assert fast.lines[-1].get_xdata() == [1.5, 1.5]
    assert "time, s" in labels(figure) and "distance" in labels(figure)
    assert figure.get_suptitle() == "a video"


def test_curves_without_peaks_and_cuts_have_no_pictures() -> None:
    figure = surprise_over_time(two_levels(), np.full(20, np.nan), timeline(), [], "x")
    assert len(figure.axes) == 3
    assert figure.axes[0].get_legend() is None
    figure.canvas.draw()


def test_ratios_stand_beside_the_copys_in_each_order() -> None:
    entry = {"ratio": 1.2, "ci95": [1.1, 1.4], "copy_ratio": 1.3, "copy_ci95": None}
    entry |= {"over_copy": 0.9, "over_copy_ci95": [0.8, 1.0]}
    empty = dict.fromkeys(entry)
    checks = {
        name: {"level0": {"h1": entry}, "level1": {"h2": empty}}
        for name in video_figures.CHECK_TITLES
    }
    figure = check_ratios(checks)
    assert len(figure.axes) == 6
    for axes in figure.axes[:3]:
        assert axes.lines[0].get_ydata()[0] == 1.2 and axes.lines[1].get_ydata()[0] == 1.3
        assert np.isnan(axes.lines[0].get_ydata()[1])
    assert figure.axes[3].lines[0].get_ydata()[0] == 0.9
    assert [tick.get_text() for tick in figure.axes[5].get_xticklabels()] == ["0.1", "1.2"]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == [video_figures.MODEL_LABEL, video_figures.COPY_LABEL]
    assert "played backwards" in labels(figure) and "level.horizon" in labels(figure)
    figure.canvas.draw()


def test_a_tint_lies_on_its_cell_alone_and_grows_with_surprise() -> None:
    picture = np.full((40, 60, 3), 100, np.uint8)
    before = picture.copy()
    found = tint(picture, np.array([[0.0, 0.0, 1.0], [0.5, 0.0, 0.0]])).astype(int)
    assert np.array_equal(picture, before)
    assert (found[:20, :40] == 100).all() and (found[20:, 20:] == 100).all()
    weak, strong = (np.abs(found[cell] - 100).max() for cell in ((30, 10), (10, 50)))
    assert 0 < weak < strong
    assert (found[:20, 40:] == found[10, 50]).all()
    assert np.array_equal(tint(picture, np.zeros((1, 1))), picture)


def test_the_annotated_frame_holds_map_header_and_cursor() -> None:
    maps = np.zeros((8, 2, 2))
    maps[3, 1, 0] = 1.0
    slow = SurpriseCurve(np.arange(5, 20, 2), maps.mean((1, 2)), maps, np.ones(8))
    annotator = Annotator(slow, (1, 2), timeline((1.0,)), (100, 60), "a name " * 30)
    picture = np.full((60, 100, 3), 50, np.uint8)
    left = (MIN_CANVAS_PX - 100) // 2
    drawn = [annotator.draw(picture, number) for number in range(20)]
    assert {frame.shape for frame in drawn} == {(HEADER_PX + 60 + PANEL_PX, MIN_CANVAS_PX, 3)}
    shown = [frame[HEADER_PX : HEADER_PX + 60, left : left + 100] for frame in drawn]
    # The fourth step holds frames 10 and 11.
    assert [n for n in range(20) if not np.array_equal(shown[n], picture)] == [10, 11]
    assert (shown[10][:30] == 50).all() and (shown[10][30:, 50:] == 50).all()
    assert not drawn[10][HEADER_PX : HEADER_PX + 60, :left].any()
    headers = [frame[:HEADER_PX] for frame in drawn]
    assert not np.array_equal(headers[0], headers[10])
    assert not np.array_equal(headers[10], headers[11])
    red = np.round(255 * np.array([0xD5, 0x5E, 0x00]) / 255)
    row = [frame[HEADER_PX + 60 + PANEL_PX // 2] for frame in (drawn[2], drawn[18])]
    places = [np.flatnonzero((pixels == red).all(1)).mean() for pixels in row]
    assert places[0] < places[1] - 100


def test_the_panel_says_what_it_shows() -> None:
    figure = video_figures.curve_panel(two_levels()[1, 2], timeline((1.0,)), (0.5, 2.0), 800)
    axes, bar = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("time, s", "surprise")
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["copy", "model", "scene cut"]
    assert axes.lines[1].get_ydata().tolist() == list(range(8))
    assert bar.get_ylim() == (0.5, 2.0) and bar.get_ylabel() == "per token"
