"""Time-scales: the report's numbers by seconds, places and events, drawn as they are."""

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from squares_model import write_model

from worldmodel.errors import InputError
from worldmodel.evaluation.footage import find_samples, read_footage
from worldmodel.evaluation.measure import Data, Effort, Run, measure
from worldmodel.evaluation.network import run_chunk
from worldmodel.evaluation.passes import Pace
from worldmodel.evaluation.prediction import PredictionErrors
from worldmodel.evaluation.probes.observe import MODEL, UNTRAINED
from worldmodel.evaluation.probes.rollout import RolloutAnswers
from worldmodel.models.checkpoint import LoadedModel, load_model
from worldmodel.viewing import time_scales
from worldmodel.viewing.time_scales import (
    CONTENTS,
    NUM_BINS,
    NUM_SHOWN,
    Scales,
    Sizes,
    by_contents,
    change_strip,
    fine_against_coarse,
    horizon_errors,
    measure_scales,
    memory_spectra,
    places_ahead,
    predictability,
    rollout_intervals,
    scale_table,
    tenths,
    token_contents,
    token_errors,
)

HERE = Pace(num_workers=0, quiet=True)
LESS = Effort(num_untrained=1, depth=False, context_frames=())
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set with 24, 10 and 28 clips, half of them without a square."""
    from square_world import write_squares

    root = tmp_path_factory.mktemp("squares")
    write_squares(root, {"train": 24, "val": 10, "test": 28}, {"val": 2, "test": 2})
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(write_model(tmp_path_factory.mktemp("model") / "last.ckpt"))


@pytest.fixture(scope="module")
def scales(model: LoadedModel, squares: Path) -> Scales:
    return measure_scales(model, squares, pace=HERE)


def texts(figure: Figure) -> str:
    """Everything that is written in a figure."""
    figure.canvas.draw()
    parts = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    for axes in figure.axes:
        parts += [axes.get_title(), axes.get_xlabel(), axes.get_ylabel()]
        parts += [text.get_text() for text in axes.texts]
        if axes.get_legend() is not None:
            parts += [text.get_text() for text in axes.get_legend().get_texts()]
    return " ".join(parts)


# What is measured


def test_errors_are_those_of_the_report(scales: Scales, model: LoadedModel, squares: Path) -> None:
    refs = {split: find_samples(squares, split, "clips") for split in ("train", "val", "test")}
    blocks = {split: find_samples(squares, split, "blocks") for split in ("val", "test")}
    report, _ = measure(model, Data(refs, blocks), Run(CPU, HERE, effort=LESS))
    for level, horizons in report["prediction"].items():
        for horizon, wanted in horizons.items():
            found = scales.networks[MODEL].section[level][horizon]
            # The report fits its rules on mirrored clips too.
            assert found["error"] == pytest.approx(wanted["error"], rel=1e-6)
            assert found["copy_ratio"] == pytest.approx(wanted["copy_ratio"], rel=1e-6)
            place = int(level.removeprefix("level")), int(horizon.removeprefix("h"))
            errors = scales.networks[MODEL].errors[place]
            assert errors["model"] / errors["copy"] == pytest.approx(found["copy_ratio"])
    for name, entry in report["position_ahead"]["level0"].items():
        own = scales.networks[MODEL].ahead["level0"][name]
        assert (own["num_frames"], own["horizon_frames"]) == (
            entry["num_frames"],
            entry["horizon_frames"],
        )


def test_errors_are_over_the_variance_within_clips(
    scales: Scales, model: LoadedModel, squares: Path
) -> None:
    clips = [read_footage(ref, model.clip).frames for ref in find_samples(squares, "test", "clips")]
    parts = [run_chunk(model.network, clips[start : start + 8], CPU)[0] for start in (0, 8, 16, 24)]
    for level in range(2):
        tokens = torch.cat([part[level] for part in parts]).double()
        variance = (tokens - tokens.mean(1, keepdim=True)).square().mean()
        copied = (tokens[:, 2:] - tokens[:, 1:-1]).square().mean()
        found = scales.networks[MODEL].errors[level, 1]["copy"]
        assert found == pytest.approx(float(copied / variance), rel=1e-5)


def test_both_networks_answer_for_the_same_clips(scales: Scales) -> None:
    assert set(scales.networks) == {MODEL, UNTRAINED}
    assert scales.num_clips == 28
    own, null = scales.networks[MODEL], scales.networks[UNTRAINED]
    assert np.array_equal(own.contents, null.contents)
    assert own.errors.keys() == null.errors.keys() and own.errors != null.errors
    assert scales.seconds((1, 2)) == 0.5


def test_the_same_call_gives_the_same_numbers_in_any_number_of_processes(
    scales: Scales, model: LoadedModel, squares: Path
) -> None:
    again = measure_scales(model, squares, pace=Pace(num_workers=2, quiet=True))
    for name, entry in scales.networks.items():
        assert again.networks[name].errors == entry.errors
        assert again.networks[name].ahead == entry.ahead
        assert np.array_equal(again.networks[name].by_token[1], entry.by_token[1])


def test_fewer_clips_can_be_asked_for(model: LoadedModel, squares: Path) -> None:
    few = measure_scales(model, squares, Sizes(event_clips=8, val_clips=8, test_clips=3), pace=HERE)
    assert few.num_clips == 3
    # Three clips are too few to say where an object will be.
    assert few.networks[MODEL].rollout == {}
    with pytest.raises(InputError, match="no level could be rolled out"):
        fine_against_coarse(few)
    assert len(places_ahead(few).axes) == 2


def test_errors_of_tokens_add_up_to_those_of_all() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(3, 9, 4, 5, generator=generator)
    predicted = {2: torch.randn(3, 9, 4, 5, generator=generator)}
    errors = PredictionErrors([5], [(2,)], [1])
    errors.fit([tokens])
    errors.solve()
    errors.add([tokens], [predicted])
    found = token_errors(errors, 0, 2, tokens, predicted)
    assert found.shape == (3, 6, 4, 5)
    sums, count = errors.sums[0, 2], errors.counts[0, 2]
    for number, name in enumerate(("model", "copy", "running_mean", "ar1"), 1):
        assert float(found[..., number].mean()) == pytest.approx(sums[name] / count, rel=1e-5)
    change = (tokens[:, 1:7] - tokens[:, :6]).square().mean(-1)
    torch.testing.assert_close(found[..., 0], change)


def test_tokens_are_sorted_by_what_they_show_now_and_then() -> None:
    ids = np.zeros((4, 4, 8), np.uint8)
    # Two tokens a row, two rows, one frame ahead, from frame 1 on.
    ids[1, :2, :4] = 1
    ids[2:, :2, 4:] = 2
    ids[:, 2:, :4] = 100
    ids[3, 2:, 4:] = 101
    found = token_contents(ids, (2, 2), 1)
    assert [[CONTENTS[kind].replace("\n", " ") for kind in row] for row in found] == [
        ["thing leaves", "thing arrives", "screen stays", "nothing stays"],
        ["nothing stays", "thing stays", "screen stays", "screen comes or goes"],
    ]
    # A pixel in sixteen is no thing.
    ids[:] = 0
    ids[3, 0, 0] = 1
    assert not token_contents(ids, (1, 1), 1).any()


def test_tenths_hold_as_many_rows_each_in_order() -> None:
    rows = np.stack([np.arange(100)[::-1], np.arange(100)], axis=1).astype(float)
    change, means = tenths(rows)
    assert change.tolist() == [4.5 + 10 * number for number in range(NUM_BINS)]
    assert means[0].tolist() == [4.5, 94.5]
    assert len(tenths(rows[:3])[0]) == 3


def test_routes_are_compared_clip_by_clip() -> None:
    true = np.zeros((30, 2))
    scatter = np.random.default_rng(0).uniform(0, 20, (30, 2))
    answers = RolloutAnswers(
        {(4, "copy"): [scatter + 1], (4, "fine_rollout"): [scatter]}, {4: [true]}
    )
    found = rollout_intervals(answers, 4)
    # Each clip's error is 1 px less, however much errors differ between clips.
    assert found["fine_rollout_nearer"] == pytest.approx(1)
    assert found["fine_rollout_nearer_ci95"] == pytest.approx([1, 1])
    low, high = found["copy_ci95"]
    assert low < (scatter + 1).mean() < high and high - low > 1


# What is drawn


def test_errors_are_drawn_by_level_and_seconds(scales: Scales) -> None:
    figure = horizon_errors(scales)
    assert len(figure.axes) == 4
    fast, slow, ratios, _ = figure.axes
    # Three rules, the model, and the line at 1.
    assert len(fast.lines) == 5 and len(ratios.lines) == 4
    assert fast.lines[3].get_xdata().tolist() == [0.125, 0.25, 0.5]
    assert slow.lines[3].get_xdata().tolist() == [0.25, 0.5]
    errors = scales.networks[MODEL].errors
    assert fast.lines[3].get_ydata()[2] == errors[0, 4]["model"]
    assert ratios.lines[0].get_ydata()[2] == pytest.approx(
        errors[0, 4]["model"] / errors[0, 4]["copy"]
    )
    told = texts(figure)
    for part in ("seconds ahead", "mean so far", "untrained network", "level 1: 4 tokens"):
        assert part in told


def test_the_table_has_a_row_for_each_level_and_horizon(scales: Scales) -> None:
    lines = scale_table(scales).splitlines()
    assert len(lines) == 2 + 5
    assert len({line.count("|") for line in lines}) == 1
    ratio = scales.networks[MODEL].section["level1"]["h2"]["copy_ratio"]
    assert lines[-1].startswith(f"| 1 | 0.25 s | 0.5 s | {ratio:.2f} |")


def test_spectra_of_both_networks_are_drawn_for_each_level(scales: Scales) -> None:
    figure = memory_spectra(scales)
    tokens, states, shares = figure.axes
    assert len(tokens.lines) == len(states.lines) == 4
    longest = scales.networks[MODEL].tokens[1]["time_constants"][0]
    assert tokens.lines[1].get_ydata()[0] == pytest.approx(longest * 0.25)
    names = [tick.get_text() for tick in shares.get_yticklabels()]
    assert names == ["level 0", "untrained", "level 1", "untrained"]
    widths = sum(bar.get_width() for bar in shares.patches)
    assert widths == pytest.approx(4)
    assert "time constant, s" in texts(figure)


def test_predictability_is_mapped_by_position_and_by_change(scales: Scales) -> None:
    figure = predictability(scales)
    maps = [axes for axes in figure.axes if axes.images]
    level = scales.networks[MODEL].by_token[0].mean(0)
    wanted = (level[:, 1] / level[:, 2]).reshape(scales.levels[0].grid)
    np.testing.assert_allclose(maps[0].images[0].get_array(), wanted, rtol=1e-5)
    assert len(maps[0].texts) == scales.levels[0].num_tokens
    curves = [axes for axes in figure.axes if len(axes.lines) == 4]
    assert len(curves) == 2 and len(curves[0].lines[3].get_xdata()) == NUM_BINS
    assert "by last change" in texts(figure)


def test_bars_stand_for_what_tokens_show(scales: Scales) -> None:
    figure = by_contents(scales)
    (axes,) = figure.axes
    own = scales.networks[MODEL]
    kinds = np.unique(own.contents)
    assert len(axes.patches) == 4 * len(kinds)
    heights = [bar.get_height() for bar in axes.patches[: len(kinds)]]
    wanted = [own.by_token[0][own.contents == kind, 1].mean() for kind in kinds]
    np.testing.assert_allclose(heights, wanted)
    told = texts(figure)
    assert "of tokens" in told and "untrained network's tokens" in told


def test_the_strip_shows_one_clip_with_both_errors(scales: Scales) -> None:
    figure = change_strip(scales)
    panels = [axes for axes in figure.axes if axes.images]
    assert len(panels) == 3 * NUM_SHOWN
    strip = scales.networks[MODEL].strip
    last = panels[2 * NUM_SHOWN - 1].images[0]
    np.testing.assert_array_equal(
        last.get_array(), strip["copy"][-1].reshape(scales.levels[0].grid)
    )
    # Both maps have one scale.
    assert last.get_clim() == panels[-1].images[0].get_clim()
    assert np.array_equal(
        panels[NUM_SHOWN - 1].images[0].get_array(), scales.shown[-1].permute(1, 2, 0).numpy()
    )
    assert scales.shown_key in figure.get_suptitle() and scales.strip_horizon == 2


def test_places_are_drawn_beside_copies_and_the_untrained_network(scales: Scales) -> None:
    figure = places_ahead(scales)
    assert len(figure.axes) == 2
    fast = figure.axes[0]
    names = [line.get_label() for line in fast.lines if not line.get_label().startswith("_")]
    assert names == [
        "tokens that came",
        "last tokens (copy)",
        "untrained: tokens that came",
        "untrained: last tokens (copy)",
        "predicted tokens",
    ]
    entry = scales.networks[MODEL].ahead["level0"]["h1"]
    assert fast.lines[-1].get_ydata()[0] == entry["r2"]
    assert "r2 of the object's place" in texts(figure)


def test_routes_are_drawn_with_their_gain_and_cost(scales: Scales) -> None:
    own = scales.networks[MODEL].rollout
    assert list(own) == ["gap4", "gap8"]
    figure = fine_against_coarse(scales)
    left, middle, right = figure.axes
    assert left.lines[0].get_ydata().tolist() == [own[gap]["fine_rollout"] for gap in own]
    assert middle.lines[0].get_ydata().tolist() == [own[gap]["fine_rollout_nearer"] for gap in own]
    assert right.lines[0].get_ydata().tolist() == [own[gap]["fine_rollout_mflops"] for gap in own]
    # Level 1 is the slowest of two, none lies between; one more is of untrained tokens.
    assert len(left.lines) == len(time_scales.ROUTES)
    assert "px nearer than copying" in texts(figure) and "Mflop" in texts(figure)
