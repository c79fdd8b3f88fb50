"""Pictures of a study: every number that is there is drawn, at its place or at the edge."""

from pathlib import Path

import pytest
from made_up_results import one_question, study_in, write_result
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from worldmodel.ablation.figure import ablation_figure, spectrum_figure, write_figures
from worldmodel.ablation.study import Study
from worldmodel.ablation.table import read_findings


@pytest.fixture
def study(tmp_path: Path) -> Study:
    study = study_in(tmp_path)
    for seed, visible in enumerate((0.50, 0.52, 0.54)):
        for question in ("scope", "regularizer"):
            write_result(tmp_path, study, question, "default", seed, visible=visible)
    write_result(tmp_path, study, "scope", "batch", 0, visible=0.6)
    return study


def drawn(study: Study, folder: Path) -> Figure:
    figure = ablation_figure(read_findings(study, folder))
    assert figure is not None
    return figure


def points(axes: Axes, gid: str) -> list[Line2D]:
    return [line for line in axes.lines if line.get_gid() == gid]


def test_both_figures_are_written(study: Study, tmp_path: Path) -> None:
    written = write_figures(study, tmp_path)
    assert [path.name for path in written] == ["ablation.png", "spectrum.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)


def test_a_row_for_each_question_and_a_column_for_each_number(study: Study, tmp_path: Path) -> None:
    figure = drawn(study, tmp_path)
    assert len(figure.axes) == 2 * 5
    visible_scope, visible_regularizer = figure.axes[2:4]
    assert [p.get_xdata()[0] for p in points(visible_scope, "score")] == pytest.approx([0.52, 0.6])
    assert [p.get_xdata()[0] for p in points(visible_scope, "null")] == pytest.approx([0.22, 0.3])
    assert visible_scope.get_xlim() == visible_regularizer.get_xlim()
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["default", "batch"]
    # Vicreg has no result: a dash in its row and no point.
    assert len(points(visible_regularizer, "score")) == 1
    assert [text.get_text() for text in visible_regularizer.texts] == ["-"]


def test_the_default_goes_through_all_rows_as_a_band(study: Study, tmp_path: Path) -> None:
    figure = drawn(study, tmp_path)
    for axes in figure.axes[2:4]:
        (band,) = axes.patches
        low, high = band.get_x(), band.get_x() + band.get_width()
        assert low < 0.52 < high and high - 0.52 == pytest.approx(0.52 - low)


def test_what_is_far_off_the_scale_is_an_arrow_at_its_edge(study: Study, tmp_path: Path) -> None:
    write_result(tmp_path, study, "regularizer", "vicreg", 0, visible=-40.0)
    axes = drawn(study, tmp_path).axes[3]
    normal, lost = points(axes, "score")
    assert normal.get_marker() == "o" and lost.get_marker() == "<"
    assert lost.get_xdata()[0] == axes.get_xlim()[0] > -10


def test_nothing_is_drawn_of_nothing(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    assert write_figures(study, tmp_path) == []
    findings = read_findings(study, tmp_path)
    assert ablation_figure(findings) is None and spectrum_figure(findings) is None


def test_spectra_are_those_of_the_scope(study: Study, tmp_path: Path) -> None:
    figure = spectrum_figure(read_findings(study, tmp_path))
    assert figure is not None
    level0, level1, shares, _ = figure.axes
    assert level0.get_title() == "level 0: steps of 0.125 s"
    curves = [line for line in level1.lines if len(line.get_xdata()) == 4]
    assert [line.get_label() for line in curves] == ["default", "batch"]
    assert list(curves[0].get_ydata()) == [0.9, 0.5, 0.1, -0.2]
    assert [bar.get_width() for bar in shares.patches[:3]] == pytest.approx([0.2, 0.5, 0.3])


def test_a_study_that_does_not_ask_about_the_scope_has_no_spectra(tmp_path: Path) -> None:
    study = one_question(tmp_path, "regularizer")
    write_result(tmp_path, study, "regularizer", "default", 0)
    assert [path.name for path in write_figures(study, tmp_path)] == ["ablation.png"]
