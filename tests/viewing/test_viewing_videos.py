"""A video of one's own: the commands' numbers beside their nulls, and an example that is known."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from squares_model import write_model

from worldmodel.data.encode import encode_video
from worldmodel.data.video import open_video
from worldmodel.errors import InputError
from worldmodel.evaluation.videos.long_video import SurpriseCurve
from worldmodel.viewing import videos
from worldmodel.viewing.videos import (
    Film,
    Results,
    Watched,
    beside_nulls,
    cosines,
    example_film,
    in_spreads,
    open_film,
    peak_frames,
    rank_correlation,
    results_folder,
    run_commands,
    same_twice,
    similarity,
    summed_gain,
    token_strip,
    watch,
)

SPLICE, FRAMES, FPS = 8, 16, 8.0


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from square_world import write_squares

    root = tmp_path_factory.mktemp("squares")
    write_squares(root, {"train": 2, "val": 2, "test": 2}, {"val": 1, "test": 2})
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "last.ckpt")


@pytest.fixture(scope="module")
def film(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Film:
    return example_film(squares, tmp_path_factory.mktemp("film"))


@pytest.fixture(scope="module")
def watched(film: Film, checkpoint: Path) -> Watched:
    return watch(film, checkpoint, num_untrained=2)


@pytest.fixture(scope="module")
def results(film: Film, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    return run_commands(film, checkpoint, tmp_path_factory.mktemp("out"))


@pytest.fixture(scope="module")
def own_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes with a cut between them, 40 frames in all."""
    frames = np.full((40, 32, 32, 3), 30, np.uint8)
    frames[20:] = (200, 60, 40)
    for number, picture in enumerate(frames):
        picture[8:16, number % 20 : number % 20 + 8] = (40, 240, 90)
    path = tmp_path_factory.mktemp("own") / "cut.mp4"
    path.write_bytes(encode_video(frames, FPS))
    return path


def texts(figure: Figure) -> str:
    """Everything that is written in a figure."""
    figure.canvas.draw()
    parts = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    for axes in figure.axes:
        parts += [axes.get_title(), axes.get_xlabel(), axes.get_ylabel()]
        if axes.get_legend() is not None:
            parts += [text.get_text() for text in axes.get_legend().get_texts()]
    return " ".join(parts + [text.get_text() for text in figure.texts])


# The example


def test_the_example_is_a_scene_twice_and_changes_worlds_the_second_time(
    film: Film, squares: Path
) -> None:
    from worldmodel.data.shards import read_members
    from worldmodel.evaluation.footage import find_samples

    ref = next(r for r in find_samples(squares, "test", "blocks") if "reveal" in r.key)
    members = read_members(ref, ("a.mp4", "b.mp4"))
    first, second = (
        open_video(members[f"{world}.mp4"]).get_frames(list(range(FRAMES))) for world in "ab"
    )
    wanted = np.concatenate([first, first[:SPLICE], second[SPLICE:]])
    found = open_video(film.path).get_frames(list(range(2 * FRAMES)))
    # Colours change by the encoding; where the bright square is does not.
    shown, asked = found.mean(-1) > 140, wanted.mean(-1) > 140
    assert (shown == asked).mean() > 0.99
    assert asked[SPLICE:FRAMES].any() and not asked[FRAMES + SPLICE :].any()
    assert film.again_seconds == FRAMES / FPS
    assert film.splice_seconds == (FRAMES + SPLICE) / FPS
    assert not np.array_equal(first[SPLICE:], second[SPLICE:])


def test_the_example_is_written_once(film: Film, squares: Path) -> None:
    before = film.path.stat().st_mtime_ns
    assert example_film(squares, film.path.parent) == film
    assert film.path.stat().st_mtime_ns == before


def test_ones_own_video_is_opened_by_its_path(own_video: Path, tmp_path: Path) -> None:
    assert open_film(str(own_video), tmp_path) == Film(own_video)
    with pytest.raises(InputError, match=r"there is no video nowhere\.mp4"):
        open_film("nowhere.mp4", tmp_path)


def test_a_set_without_the_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="evaluation needs clips and blocks"):
        example_film(tmp_path, tmp_path)


def test_results_lie_in_the_folder_of_the_project(tmp_path: Path) -> None:
    below = tmp_path / "notebooks"
    below.mkdir()
    assert results_folder(below) == below / "your-video"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "tiny.yaml").touch()
    assert results_folder(below) == tmp_path / "runs" / "your-video"


# What is measured


def test_the_commands_run_quietly_and_on_the_same_pictures(
    results: Results, film: Film, watched: Watched, capfd: pytest.CaptureFixture[str]
) -> None:
    assert (results.folder / "surprise.png").is_file()
    assert results.summary["seen"]["num_frames"] == results.encoded.about["num_frames"] == 32
    assert results.encoded.about["picture"] == "whole"
    assert results.tokens.name == "twice.npz"
    # What the model is shown here is what the command showed it.
    mean = results.summary["surprise"]["level0"]["h4"]["mean"]
    assert watched.curves[0, 4].values.mean() == pytest.approx(mean)
    assert capfd.readouterr().err == ""


def test_halves_are_seen_by_themselves(watched: Watched) -> None:
    assert len(watched.halves) == 3
    for first, second in watched.halves:
        for place, curve in first.items():
            assert np.array_equal(curve.frames, second[place].frames)
            assert curve.frames.max() == FRAMES - 1
    assert watched.untrained.shape == (2, 32)
    assert watched.pixels.shape == watched.combined.shape == (32,)
    assert not np.allclose(watched.untrained[0], watched.combined, equal_nan=True)


def test_of_ones_own_video_nothing_is_known(own_video: Path, checkpoint: Path) -> None:
    own = watch(Film(own_video), checkpoint, num_untrained=0)
    assert own.halves == [] and own.untrained.shape == (0, 40)
    assert same_twice(own) is None
    assert own.cut_seconds == pytest.approx([20 / FPS])
    assert "scene cut" in texts(beside_nulls(own))
    assert "untrained" not in texts(beside_nulls(own))


def test_a_video_is_measured_by_its_own_spread() -> None:
    values = np.r_[np.tile([1.0, 2.0, 3.0], 20), 500.0]
    found = in_spreads(values)
    assert np.median(found) == 0 and found[0] == pytest.approx(-1.349 / 2)
    assert in_spreads(np.ones(5)).tolist() == [0] * 5


def test_ranks_agree_whatever_the_scale() -> None:
    generator = np.random.default_rng(0)
    one, other = generator.normal(size=(2, 50))
    stats = pytest.importorskip("scipy.stats")
    wanted = stats.spearmanr(np.round(one), np.round(other)).statistic
    assert rank_correlation(np.round(one), np.round(other)) == pytest.approx(wanted)
    assert rank_correlation(one, np.exp(one)) == pytest.approx(1)
    gaps = np.where(np.arange(50) < 10, np.nan, one)
    assert rank_correlation(gaps, one) == pytest.approx(1)
    assert rank_correlation(np.ones(50), one) == 0
    assert rank_correlation(np.full(50, np.nan), one) == 0


def test_gains_are_summed_over_what_the_first_time_gave() -> None:
    def curve(values: list[float]) -> SurpriseCurve:
        array = np.array(values)
        return SurpriseCurve(np.arange(len(array)), array, np.zeros((len(array), 1, 1)), array)

    found = summed_gain(curve([1.0, 2.0, 1.0]), curve([1.0, 3.0, 2.0]))
    assert found.tolist() == [0, 0.25, 0.5]
    assert summed_gain(curve([0.0]), curve([0.0])).tolist() == [0]


def test_cosines_are_those_of_deviations_from_the_mean() -> None:
    rows = np.array([[2.0, 1.0], [0.0, 1.0], [1.0, 2.0], [1.0, 0.0], [1.0, 1.0]])
    found = cosines(rows)
    assert found[0].tolist() == pytest.approx([1, -1, 0, 0, 0])
    assert found[4].tolist() == [0] * 5


# What is drawn


def test_nulls_stand_beside_the_model_over_time(watched: Watched) -> None:
    figure = beside_nulls(watched)
    (axes,) = figure.axes
    told = texts(figure)
    for part in (
        "2 untrained networks, their range",
        "change of pixels (rank correlation",
        "model, all levels and horizons",
        "the scene once more",
        "worlds change, hidden",
        "time, s",
    ):
        assert part in told
    drawn = next(line for line in axes.lines if str(line.get_label()).startswith("model"))
    np.testing.assert_array_equal(drawn.get_ydata(), watched.combined)
    marks = [line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 2]
    assert film_times(watched) <= set(marks)


def film_times(watched: Watched) -> set[float]:
    film = watched.film
    assert film.again_seconds is not None and film.splice_seconds is not None
    return {film.again_seconds, film.splice_seconds}


def test_peaks_show_what_came_and_what_it_was_predicted_from(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    curve = watched.curves[0, 4]
    monkeypatch.setattr(videos, "find_peaks", lambda *_: [int(curve.frames[2]), 20])
    figure = peak_frames(watched)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == 3 * 2
    frame = int(curve.frames[2])
    before, now = (np.asarray(axes.images[0].get_array()) for axes in (shown[0], shown[2]))
    times = now.shape[0] // watched.frames.shape[1]
    assert np.array_equal(now[::times, ::times], watched.frames[frame])
    assert np.array_equal(before[::times, ::times], watched.frames[frame - 4])
    assert f"{watched.seconds[frame]:.2f} s" in shown[0].get_title()
    assert "level 0, 0.50 s ahead" in figure.get_suptitle()
    monkeypatch.setattr(videos, "find_peaks", lambda *_: [])
    assert "nothing stands out" in texts(peak_frames(watched))


def test_both_times_are_drawn_over_each_other(watched: Watched) -> None:
    figure = same_twice(watched)
    assert figure is not None
    above, below = figure.axes[0], figure.axes[2]
    first, second = watched.halves[0]
    np.testing.assert_array_equal(above.lines[0].get_ydata(), first[0, 4].values)
    np.testing.assert_array_equal(above.lines[1].get_ydata(), second[0, 4].values)
    # Two untrained networks, the model, the line at 0 and the change of worlds.
    assert len(below.lines) == 2 + 1 + 1 + 1
    gain = summed_gain(first[0, 4], second[0, 4])
    np.testing.assert_array_equal(below.lines[2].get_ydata(), gain)
    told = texts(figure)
    for part in ("as it can be", "as it cannot", "untrained networks", "time in the scene, s"):
        assert part in told


def test_tokens_are_shown_at_their_seconds(watched: Watched, results: Results) -> None:
    figure = token_strip(watched, results.encoded, [(4, 4), (2, 2)])
    assert len(figure.axes) == 3 * 8
    assert figure.axes[0].get_title() == "0.0 s"
    assert figure.axes[7].get_title() == f"{watched.seconds[-1]:.1f} s"
    assert "level 1" in texts(figure)


def test_alike_moments_are_drawn_for_pixels_tokens_and_states(
    watched: Watched, results: Results
) -> None:
    figure = similarity(watched, results.encoded)
    panels = {axes.get_title(): axes for axes in figure.axes if axes.images}
    assert {"pixels", "level 0 tokens", "level 0 states", "level 1 states"} <= set(panels)
    states = results.encoded.context[1]
    wanted = cosines(states.reshape(len(states), -1))
    np.testing.assert_allclose(panels["level 1 states"].images[0].get_array(), wanted)
    assert "cosine" in texts(figure)
