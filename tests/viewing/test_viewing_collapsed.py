"""A model that has collapsed: every picture of a notebook is drawn, or says why it is not.

`flat` has equal tokens everywhere, so that all that is left of their differences is rounding;
`rank_one` has tokens on a line, which say little and yet something.
"""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from square_world import write_squares
from squares_model import COLLAPSES, write_model

from worldmodel.errors import InputError
from worldmodel.evaluation.footage import find_samples, read_samples
from worldmodel.evaluation.passes import Pace
from worldmodel.evaluation.probes.observe import MODEL, UNTRAINED
from worldmodel.evaluation.videos.video_figures import check_ratios
from worldmodel.models.checkpoint import LoadedModel, load_model
from worldmodel.viewing import (
    attention,
    depth,
    neighbours,
    permanence,
    readings,
    time_scales,
    tokens,
    videos,
)

HERE = Pace(num_workers=0, quiet=True)
# Numbers that are none would be drawn as gaps or as infinite bars, and numpy would say so.
pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("squares")
    write_squares(folder, {"train": 16, "val": 8, "test": 17}, {"val": 3, "test": 3})
    return folder


@pytest.fixture(scope="module", params=COLLAPSES)
def collapse(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def checkpoint(collapse: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "last.ckpt", collapse)


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> LoadedModel:
    return load_model(checkpoint)


@pytest.fixture(scope="module")
def clips(root: Path, model: LoadedModel) -> dict[str, list]:
    return {
        split: list(read_samples(find_samples(root, split, "clips"), model.clip, blocks=False))
        for split in ("train", "val", "test")
    }


@pytest.fixture(scope="module")
def encoded(model: LoadedModel, clips: dict[str, list]) -> dict[str, list[torch.Tensor]]:
    networks = {"model": model.network, "untrained": model.untrained(0)}
    return {name: tokens.encode_clips(each, clips["test"]) for name, each in networks.items()}


def texts(figure: Figure) -> str:
    """Everything that is written in a figure, which is drawn for it."""
    figure.canvas.draw()
    return "\n".join(text.get_text() for text in figure.findobj(Text) if text.get_visible())


def drawn(figure: Figure) -> np.ndarray:
    """Every height at which a line of a figure goes, and every value of a map."""
    lines = [line.get_ydata() for axes in figure.axes for line in axes.get_lines()]
    maps = [image.get_array() for axes in figure.axes for image in axes.images]
    return np.concatenate([np.asarray(each, float).ravel() for each in (*lines, *maps, [])])


def test_spectra_name_the_levels_that_have_collapsed(
    encoded: dict[str, list[torch.Tensor]], collapse: str
) -> None:
    whole, within = (
        {n: [tokens.Spectrum.of(x, within) for x in each] for n, each in encoded.items()}
        for within in (False, True)
    )
    figure = tokens.spectra(whole, within)
    words = texts(figure)
    assert "level 0 has collapsed: its tokens use 1.0 of 16 directions; level 1 has" in words
    assert ("level 0, model: all equal" in words) is (collapse == "flat")
    curves = {line.get_label(): len(line.get_ydata()) for line in figure.axes[0].get_lines()}
    # No spectrum of rounding: of equal tokens nothing is drawn, of those on a line one point.
    own = [count for label, count in curves.items() if ", model" in label]
    assert own == [int(collapse == "rank_one")] * 2
    assert min(count for label, count in curves.items() if ", untrained" in label) > 3


def test_colours_and_their_words(
    encoded: dict[str, list[torch.Tensor]],
    clips: dict[str, list],
    model: LoadedModel,
    collapse: str,
) -> None:
    level = model.network.levels[0]
    patches = tokens.Patches.of(clips["test"], level.grid, level.span)
    found = tokens.Directions.of(encoded["model"][0], patches)
    colours = found.colours(encoded["model"][0][0])
    assert np.isfinite(colours).all()
    if collapse == "flat":
        assert set(found.words) == {"all tokens are equal"} and (colours == 0.5).all()
    assert np.isfinite(found.variance).all()
    strip = {"level 0,\nmodel": (encoded["model"][0][0], level.grid, found)}
    assert isinstance(tokens.direction_strip(clips["test"][0], strip), Figure)


def test_tokens_that_are_equal_have_no_neighbours(
    encoded: dict[str, list[torch.Tensor]],
    clips: dict[str, list],
    model: LoadedModel,
    collapse: str,
) -> None:
    level = model.network.levels[0]
    patches = tokens.Patches.of(clips["test"], level.grid, level.span)
    features = {name: each[0].numpy() for name, each in encoded.items()}
    sample = neighbours.sample_tokens(patches, per_label=40)
    rows = {n: x.reshape(-1, x.shape[-1])[sample] for n, x in features.items()}
    labels, of = patches.label.ravel()[sample], patches.clip.ravel()[sample]
    votes = neighbours.neighbour_votes(rows, labels, of)
    figure = neighbours.neighbour_rows(clips["test"], patches, sample, [0], rows)
    pictures = [len([ax for ax in figure.axes[:8] if ax.images]), len(figure.axes[8].images)]
    if collapse == "flat":
        assert set(votes["model"].values()) == {1 / len(np.unique(labels))}
        assert pictures == [1, 1] and "model:\nall equal" in texts(figure)
        maps = {"model": neighbours.token_map(torch.from_numpy(rows["model"]))}
        assert "all tokens are equal" in texts(neighbours.token_maps(maps, patches, sample, 0))
    else:
        assert pictures == [8, 1] and "all equal" not in texts(figure)
    assert isinstance(neighbours.vote_bars(votes), Figure)


def test_equal_tokens_are_found_again_as_often_as_by_chance(
    encoded: dict[str, list[torch.Tensor]],
    clips: dict[str, list],
    model: LoadedModel,
    collapse: str,
) -> None:
    level = model.network.levels[0]
    patches = tokens.Patches.of(clips["test"], level.grid, level.span)
    features = {name: each[0].numpy() for name, each in encoded.items()}
    number, step, token = readings.most_travelled(clips["test"], patches)
    maps = {
        name: readings.likeness(each[number], each.mean((0, 1, 2)), step, token)
        for name, each in features.items()
    }
    figure = readings.likeness_strip(clips["test"][number], maps, patches, step, token)
    found = readings.found_again(features, clips["test"], patches, [1, 2])
    assert ("model:\nall equal" in texts(figure)) is (collapse == "flat")
    if collapse == "flat":
        assert not maps["model"].any()
        assert found["all"]["model"] == pytest.approx(1 / 16)
    places = {name: readings.change_by_place(each) for name, each in features.items()}
    none = {name: -np.ones(16) for name in features}
    assert isinstance(readings.place_maps({"change": places, "r2": none}, level.grid), Figure)
    weights = attention.attention_over_time(model.network, encoded["model"])
    assert all(bool(each.isfinite().all()) for each in weights)


def test_time_scales(model: LoadedModel, root: Path, collapse: str) -> None:
    scales = time_scales.measure_scales(model, root, pace=HERE)
    figures = (time_scales.memory_spectra, time_scales.places_ahead)
    errors = (time_scales.horizon_errors, time_scales.predictability)
    one_level = (time_scales.by_contents, time_scales.change_strip)
    own = scales.networks[MODEL]
    assert scales.networks[UNTRAINED].still == frozenset()
    assert own.still == (frozenset({0, 1}) if collapse == "flat" else frozenset())
    if collapse == "flat":
        assert own.errors == {}
        assert time_scales.scale_table(scales).count("its tokens never change") == 2
        for draw in (*errors, *one_level):
            with pytest.raises(InputError, match=r"ever change.*train longer"):
                draw(scales)
        assert "never change" in texts(time_scales.places_ahead(scales))
        words = texts(time_scales.memory_spectra(scales))
        assert words.count("all equal") == 2 and "level 1: never change" in words
    else:
        assert np.isfinite([list(each.values()) for each in own.errors.values()]).all()
        figures = (*figures, *errors, *one_level)
    for draw in figures:
        assert np.isfinite(drawn(draw(scales))).all()


def test_one_level_alone_may_have_collapsed(model: LoadedModel, root: Path, collapse: str) -> None:
    scales = time_scales.measure_scales(model, root, pace=HERE)
    own = scales.networks[MODEL]
    kept = {place: each for place, each in own.errors.items() if place[0] == 1}
    half = replace(own, still=frozenset({0}), errors=kept)
    if collapse == "rank_one":
        networks = scales.networks | {MODEL: half}
        for draw in (time_scales.horizon_errors, time_scales.predictability):
            figure = draw(replace(scales, networks=networks))
            assert "its tokens never change" in texts(figure)
            assert any(axes.get_legend() for axes in figure.axes)


def test_permanence(model: LoadedModel, root: Path, collapse: str) -> None:
    networks = {MODEL: model.network, UNTRAINED: model.untrained(0)}
    watched = permanence.watch_tracks(networks, model.clip, root, pace=HERE)
    belief = permanence.believe(watched)
    for figure in (
        permanence.belief_frames(belief, watched, belief.longest_hidden(2)),
        permanence.belief_over_time(belief, watched.keys, belief.longest_hidden(2)),
        permanence.belief_errors(belief),
    ):
        figure.canvas.draw()
    judgement = permanence.judge_blocks(model, root, ("reveal", "permanence"), 2, pace=HERE)
    block = permanence.clearest_block(root, "reveal", model.clip)
    words = texts(permanence.block_surprise(block, judgement))
    kinds = texts(permanence.kind_accuracies(judgement, ("reveal", "permanence")))
    flat = collapse == "flat"
    assert words.count("whatever happens surprises it alike") == 5 * flat
    assert (re.search(r"ahead: \S+, (right|wrong)", words) is None) is flat
    assert kinds.count("whatever happens surprises the model alike") == 2 * flat
    wins = judgement.wins("reveal", judgement.scores.places)
    assert (set(wins[MODEL].tolist()) == {0.5}) is flat
    assert wins[UNTRAINED].shape == (2, 3)
    presence = permanence.ask_presence(watched, judgement)
    permanence.presence_over_time(presence).canvas.draw()


def test_a_video(checkpoint: Path, root: Path, tmp_path: Path, collapse: str) -> None:
    film = videos.example_film(root, tmp_path)
    results = videos.run_commands(film, checkpoint, tmp_path)
    watched = videos.watch(film, checkpoint, num_untrained=1)
    flat = collapse == "flat"
    known = watched.combined[np.isfinite(watched.combined)]
    assert (not known.any()) is flat
    assert ("nothing stands out" in texts(videos.peak_frames(watched))) or not flat
    assert texts(videos.similarity(watched, results.encoded)).count("all equal") == 4 * flat
    for figure in (
        videos.beside_nulls(watched),
        videos.same_twice(watched),
        videos.token_strip(watched, results.encoded, [(4, 4), (2, 2)]),
    ):
        assert figure is not None
        figure.canvas.draw()
    checks = check_ratios(results.summary["checks"])
    assert all(np.ptp(axes.get_ylim()) >= 0.04 - 1e-9 for axes in checks.axes)


def test_depth_of_equal_tokens_is_that_of_the_mean(
    model: LoadedModel, root: Path, collapse: str
) -> None:
    networks = {"model": model.network, "untrained": model.untrained(0)}
    found = depth.read_depth(networks, model.clip, root, conv=False, pace=HERE)
    cases = depth.readers(found)
    own, mean = (found.rmse(cases[name])[0] for name in ("model", "mean"))
    if collapse == "flat":
        assert own == pytest.approx(mean, rel=1e-3)
    maps = depth.depth_maps(found, ["model", "untrained", "mean"])
    words = "model says the same of every frame: its tokens have collapsed"
    assert (words in texts(maps)) == (collapse == "flat")
    assert "untrained says" not in texts(maps)
    for figure in (
        maps,
        depth.depth_scores(found),
        depth.depth_by_frame(found, model.clip.fps),
    ):
        figure.canvas.draw()
