"""Pictures show what they are given, with units, and leave nothing behind."""

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import _pylab_helpers
from matplotlib.figure import Figure

from worldmodel.evaluation import figures

FRAMES = torch.randint(0, 255, (2, 12, 3, 8, 8), generator=torch.Generator().manual_seed(0)).byte()


def labels(figure: Figure) -> str:
    return " ".join(text for axes in figure.axes for text in (axes.get_xlabel(), axes.get_ylabel()))


def test_metrics_are_read_where_they_are_and_not_where_they_are_none(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    assert figures.read_metrics(path) == {}
    assert figures.loss_curves(path) is None
    path.write_text("epoch,step,train/loss,name\n0,1,2.5,a\n0,2,,b\n0,3,1.5,c\n")
    columns = figures.read_metrics(path)
    assert list(columns) == ["train/loss"]
    assert columns["train/loss"][0].tolist() == [1, 3]
    assert columns["train/loss"][1].tolist() == [2.5, 1.5]
    assert "optimizer step" in labels(figures.loss_curves(path))


def test_an_empty_metrics_file_gives_no_picture(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("")
    assert figures.loss_curves(tmp_path / "metrics.csv") is None


def test_depth_strip_has_four_rows_and_metres() -> None:
    depth = np.random.default_rng(0).uniform(1, 9, (3, 4, 4))
    figure = figures.depth_strip(FRAMES[0, :3], depth, depth + 0.1)
    assert len(figure.axes) == 4 * 3 + 3
    assert " m" in labels(figure)


def test_surprise_block_shows_four_curves_and_the_change() -> None:
    curves = np.arange(40.0).reshape(4, 10)
    figure = figures.surprise_block(FRAMES, curves, [0.7], np.arange(10) / 8, "a block")
    axes = figure.subfigs[1].axes[0]
    assert len(axes.lines) == 5
    assert axes.lines[2].get_ydata().tolist() == curves[2].tolist()
    assert axes.lines[4].get_xdata() == [0.7, 0.7]


def test_hidden_position_shades_hidden_frames() -> None:
    hidden = np.zeros(12, dtype=bool)
    hidden[4:7] = True
    decoded = [(np.array([1, 5]), np.array([3.0, 4.0]))]
    figure = figures.hidden_position([np.arange(12.0)], [hidden], decoded, 8.0, 1)
    assert len(figure.axes[0].patches) == 3
    assert "px" in labels(figure)


def kind_entry(score: float, biased: bool) -> dict:
    null = {"mean": 0.5, "low": 0.3, "high": 0.7, "num_networks": 10, "biased": biased}
    entry = {"relative_accuracy": score, "ci95": [score - 0.1, score + 0.05], "num_blocks": 20}
    return entry | {"place": "level 1, 2 steps ahead", "null": {"untrained": null}}


def test_surprise_kinds_shows_each_kind_beside_its_untrained_networks() -> None:
    section = {"reveal": kind_entry(0.9, False), "collision": kind_entry(0.6, True)}
    (axes,) = figures.surprise_kinds(section).axes
    assert [bar.get_height() for bar in axes.patches] == [0.9, 0.6, 0.5, 0.5]
    assert [label.get_text() for label in axes.get_xticklabels()] == [
        "reveal\n20 blocks",
        "collision\n20 blocks",
    ]
    # Only the kind whose null is not at chance is marked.
    assert [text.get_text() for text in axes.texts] == ["not at\nchance"]
    assert "level 1, 2 steps ahead" in axes.get_title()
    assert figures.surprise_kinds({"absent": "it predicts nothing"}) is None


def test_position_ahead_shows_prediction_copy_and_real_tokens_of_each_level() -> None:
    def entry(frames: int, error: float) -> dict:
        null = {"copy": {"mae_px": error + 1}}
        return {"horizon_frames": frames, "mae_px": error, "real_tokens": {"mae_px": 1.0}} | {
            "null": null
        }

    section = {
        "level0": {"h2": entry(2, 4.0), "h1": entry(1, 3.0)},
        "level1": {"h1": entry(2, 5.0)},
    }
    (axes,) = figures.position_ahead(section).axes
    lines = {line.get_label(): line for line in axes.lines}
    assert len(lines) == 6
    assert lines["level 0, predicted"].get_xdata().tolist() == [1, 2]
    assert lines["level 0, predicted"].get_ydata().tolist() == [3, 4]
    assert lines["level 1, copied"].get_ydata().tolist() == [6]
    assert "px" in axes.get_ylabel() and "frames" in axes.get_xlabel()
    assert figures.position_ahead({}) is None


def test_tokens_that_differ_get_colours_that_differ() -> None:
    tokens = torch.zeros(4, 4, 5)
    tokens[2:, :, 0] = 1
    colours = figures.token_colours(tokens, (2, 2))
    assert colours.shape == (4, 2, 2, 3)
    assert np.abs(colours[0] - colours[3]).max() == pytest.approx(1)
    assert np.array_equal(colours[0], colours[1])
    assert figures.token_strip(FRAMES[0], [tokens], [(2, 2)]).axes


def test_no_figure_is_kept_by_pyplot() -> None:
    figures.token_strip(FRAMES[0], [torch.zeros(len(FRAMES[0]), 4, 8)], [(2, 2)])
    assert not _pylab_helpers.Gcf.figs


def test_surprise_levels_has_a_panel_for_each_level() -> None:
    curves = [np.ones((4, 6)), 2 * np.ones((4, 3))]
    seconds = [np.arange(6) / 8, np.arange(3) / 4]
    figure = figures.surprise_levels(curves, [0.3], seconds, ["level 0", "level 1"], "a block")
    assert [axes.get_title() for axes in figure.axes] == ["level 0", "level 1"]
    for axes in figure.axes:
        assert len(axes.lines) == 5 and axes.get_xlabel() == "time, s"  # four clips and the event
        assert axes.get_ylim()[0] == 0
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels[2:] == ["AB, impossible", "BA, impossible", "change of worlds, hidden"]
