"""What is believed of hidden things and how surprise is shown, on worlds that are known."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

sys.path.append(str(Path(__file__).parents[1] / "evaluation"))
from square_world import FPS, FRAMES, SIZE, WINDOW, Planted, write_squares

from worldmodel.errors import InputError
from worldmodel.evaluation.footage import find_samples, read_block
from worldmodel.evaluation.passes import Pace
from worldmodel.evaluation.probes.objects import Track
from worldmodel.evaluation.probes.observe import MODEL, UNTRAINED
from worldmodel.models.checkpoint import ClipSpec, LoadedModel, build_hierarchy
from worldmodel.models.hierarchy import LevelPrediction
from worldmodel.viewing import permanence
from worldmodel.viewing.permanence import CLOCK, LAST_SEEN, VELOCITY

CLIP = ClipSpec(num_frames=FRAMES, fps=FPS, size=SIZE)
HERE = Pace(num_workers=0, quiet=True)


class Forgetful(Planted):
    """Without memory, in its predictions and in its states."""

    def __init__(self) -> None:
        super().__init__(remembers=False)

    def predict(self, tokens: list[torch.Tensor]) -> list[LevelPrediction]:
        found = super().predict(tokens)
        return [
            replace(prediction, context=own) for prediction, own in zip(found, tokens, strict=True)
        ]


class KnownModel(LoadedModel):
    """Remembers; its untrained networks forget."""

    def untrained(self, seed: int) -> Forgetful:
        return Forgetful()


def known_model() -> KnownModel:
    network = Planted(remembers=True)
    return KnownModel(
        network=network, clip=CLIP, config={}, sha256="", global_step=0, file=Path("none")
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("squares")
    write_squares(folder, {"train": 24, "val": 10, "test": 8}, {"val": 3, "test": 3})
    return folder


@pytest.fixture(scope="module")
def watched(root: Path) -> permanence.Watched:
    narrow = {"dim": 16, "width": 16, "depth": 1, "num_heads": 2, "horizons": (1, 2)}
    config = {
        "encoder": {"size": SIZE, "stem_channels": (8,), "depth": 1, "num_heads": 2},
        "levels": [narrow | {"stride": 1}, narrow | {"stride": 2}],
    }
    networks = {}
    with torch.random.fork_rng(devices=[]):
        for seed, name in enumerate((MODEL, UNTRAINED)):
            torch.manual_seed(seed)
            networks[name] = build_hierarchy(config).eval().requires_grad_(False)
    counts = {"train": 24, "val": 10, "test": 8}
    return permanence.watch_tracks(networks, CLIP, root, counts, HERE)


@pytest.fixture(scope="module")
def belief(watched: permanence.Watched) -> permanence.Belief:
    return permanence.believe(watched, num_members=3)


@pytest.fixture(scope="module")
def judgement(root: Path) -> permanence.Judgement:
    return permanence.judge_blocks(known_model(), root, ("reveal",), num_untrained=2, pace=HERE)


def shown_panels(figure: Figure) -> list:
    return [axes for axes in figure.axes if axes.get_visible() and axes.lines]


def test_training_clips_count_in_a_mirror_as_well(watched: permanence.Watched) -> None:
    assert len(watched.samples["train"]) == 2 * 24
    assert len(watched.samples["test"]) == len(watched.keys) == 8
    again = watched.footage(3)
    assert again.key == watched.keys[3]
    assert (
        np.allclose(
            again.truth.state["image_position"][:, 0], watched.samples["test"].tracks[3].position
        )
        or not watched.samples["test"].present[3]
    )


def test_a_set_without_events_is_refused(tmp_path: Path, root: Path) -> None:
    with pytest.raises(InputError, match="make a set with"):
        permanence.watch_tracks({MODEL: Planted(True)}, CLIP, tmp_path, pace=HERE)


def test_belief_is_asked_where_the_object_was_seen_before(belief: permanence.Belief) -> None:
    present = np.array([track.inside.any() for track in belief.tracks])
    assert not belief.asked[~present].any() and belief.asked[present].any(1).all()
    assert set(belief.said) == {MODEL, UNTRAINED, LAST_SEEN, VELOCITY, CLOCK}
    parts = [belief.part(name) for name in ("visible", "partly", "hidden")]
    assert np.array_equal(np.sum(parts, axis=0), belief.asked)
    # Squares keep their speed, so that the rule is right, and the place last seen is behind.
    hidden = belief.part("hidden")
    assert belief.error(VELOCITY, hidden)[0] == pytest.approx(0, abs=1e-4)
    off, (low, high) = belief.error(LAST_SEEN, hidden)
    assert 0 < low <= off <= high
    assert belief.r2(VELOCITY, hidden) == pytest.approx(1)


def test_members_are_other_probes_of_the_same_states(belief: permanence.Belief) -> None:
    members, said = belief.members[MODEL], belief.said[MODEL]
    assert members.shape == (3, *said.shape)
    assert np.abs(members[0] - members[1]).max() > 0
    middle = np.abs(members.mean(0) - said)[belief.asked].mean()
    assert middle < 3 * members.std(0)[belief.asked].mean()


def test_the_same_seed_draws_the_same_members(
    watched: permanence.Watched, belief: permanence.Belief
) -> None:
    again = permanence.believe(watched, num_members=2)
    assert np.array_equal(again.members[MODEL], belief.members[MODEL][:2])


def track(hidden: slice, visible: slice) -> Track:
    masks = {"hidden": np.zeros(8, dtype=bool), "visible": np.zeros(8, dtype=bool)}
    masks["hidden"][hidden], masks["visible"][visible] = True, True
    place = np.stack([np.arange(8.0), np.full(8, 4.0)], axis=1)
    inside = np.ones(8, dtype=bool)
    return Track(place, inside, partly=~inside, screens=np.zeros((8, 0, 4)), **masks)


def made_up() -> permanence.Belief:
    """Stays hidden for 4 frames; comes out after 2; comes out after 3."""
    tracks = [
        track(slice(4, 8), slice(0, 4)),
        track(slice(2, 4), np.r_[0:2, 4:8]),
        track(slice(3, 6), np.r_[0:3, 6:8]),
    ]
    true = np.stack([each.position for each in tracks])
    said = {who: true + off for off, who in enumerate((MODEL, UNTRAINED, LAST_SEEN))}
    said |= {VELOCITY: true + 3, CLOCK: true + 4}
    members = {name: np.stack([said[name] - 1, said[name] + 1]) for name in (MODEL, UNTRAINED)}
    asked = np.ones((3, 8), dtype=bool)
    return permanence.Belief(0, np.arange(8), 8.0, tracks, asked, said, members)


def test_clips_are_chosen_by_how_long_the_object_is_hidden() -> None:
    belief = made_up()
    assert belief.longest_hidden(3) == [0, 2, 1]
    assert belief.longest_hidden(3, comes_out=True) == [2, 1]


def test_belief_over_time_shows_truth_band_and_hidden_frames() -> None:
    belief = made_up()
    figure = permanence.belief_over_time(belief, ("a", "b", "c"), [0, 2])
    assert len(figure.axes) == 4
    first = figure.axes[0]
    lines = {line.get_label(): line for line in first.lines}
    assert lines["model"].get_ydata().tolist() == belief.said[MODEL][0, :, 0].tolist()
    assert lines["true"].get_ydata().tolist() == np.arange(8.0).tolist()
    assert len(first.patches) == 4  # one for each hidden frame
    band = first.collections[0].get_paths()[0].vertices[:, 1]
    assert band.min() == pytest.approx(-0.9) and band.max() == pytest.approx(7.9)
    assert figure.axes[1].get_title() == "c"
    assert "px" in first.get_ylabel() and "time, s" in figure.axes[2].get_xlabel()
    assert {line.get_label() for line in figure.axes[2].lines} == {"true", "untrained", "last seen"}


def test_belief_errors_has_each_rule_in_each_bin() -> None:
    few = made_up()
    belief = replace(
        few,
        tracks=list(few.tracks) * 6,
        asked=np.tile(few.asked, (6, 1)),
        said={who: np.tile(said, (6, 1, 1)) for who, said in few.said.items()},
    )
    (axes,) = permanence.belief_errors(belief).axes
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == ["in full view\n90 steps", "hidden, 0 to 0.5 s\n54 steps"]
    handles, names = axes.get_legend_handles_labels()
    assert names[0] == "model" and "clock (rule)" in names and len(names) == 5
    assert [handle.lines[0].get_ydata().tolist() for handle in handles] == [
        [off, off] for off in (0.0, 1.0, 2.0, 3.0, 4.0)
    ]


def test_belief_frames_marks_the_true_place_and_what_is_hidden(
    belief: permanence.Belief, watched: permanence.Watched
) -> None:
    (number,) = belief.longest_hidden(1)
    figure = permanence.belief_frames(belief, watched, [number])
    assert len(figure.axes) == permanence.COLUMNS
    titles = " ".join(axes.get_title() for axes in figure.axes)
    assert "visible" in titles and "hidden" in titles
    first = figure.axes[0]
    step = np.flatnonzero(belief.asked[number])[0]
    assert [first.lines[0].get_xdata()[0], first.lines[0].get_ydata()[0]] == pytest.approx(
        belief.true[number, step].tolist()
    )
    wide = [axes for axes in figure.axes if "hidden" in axes.get_title()]
    assert all(axes.spines["left"].get_linewidth() == 3 for axes in wide)
    assert first.spines["left"].get_linewidth() < 3
    legend = {text.get_text() for text in figure.legends[0].get_texts()}
    assert legend == {"true", "model", "untrained", "frame: wholly hidden"}


def test_a_model_that_remembers_wins_and_one_that_forgets_ties(
    judgement: permanence.Judgement,
) -> None:
    for places in ([(0, 1)], judgement.scores.places):
        wins = judgement.wins("reveal", places)
        assert wins[MODEL].tolist() == [1, 1, 1]
        assert wins[UNTRAINED].shape == (2, 3)
    assert judgement.wins("reveal", [(0, 1)])[UNTRAINED].tolist() == [[0.5] * 3] * 2
    assert judgement.rule("reveal", "pixels_short") == 0.5


def test_kind_accuracies_show_all_places_and_their_combinations(
    judgement: permanence.Judgement,
) -> None:
    (axes, *rest) = permanence.kind_accuracies(judgement, ("reveal",)).axes
    assert not any(other.get_visible() for other in rest)
    labels = [label.get_text() for label in axes.get_xticklabels()]
    places = ["L0 0.125 s", "L0 0.25 s", "L1 0.25 s", "L1 0.5 s"]
    assert labels == [*places, "L0 all", "L1 all", "all"]
    model = next(each for each in axes.containers if each.get_label() == "model, 95 %")
    values = model.lines[0].get_ydata().tolist()
    # It errs nowhere on possible clips of level 0: without any spread there is nothing to combine.
    assert values[:4] == [1.0] * 4 and values[4:] == [0.5, 1.0, 1.0]
    assert "reveal (3 blocks)" in axes.get_title()
    with pytest.raises(InputError, match="solidity"):
        permanence.kind_accuracies(judgement, ("solidity",))
    # Of several kinds those that were scored are shown, and of the others it is said.
    figure = permanence.kind_accuracies(judgement, ("solidity", "reveal"))
    (words,) = (text.get_text() for text in figure.axes[0].texts)
    assert words == "no block of this kind was scored"
    assert figure.axes[1].get_title().startswith("reveal (") and figure.legends[0].get_texts()


def test_block_surprise_has_every_place_and_marks_equal_frames(
    root: Path, judgement: permanence.Judgement
) -> None:
    block = permanence.clearest_block(root, "reveal", CLIP)
    figure = permanence.block_surprise(block, judgement)
    strips, plots = figure.subfigs
    columns = permanence.COLUMNS
    assert len(strips.axes) == 4 * columns
    frames = np.linspace(0, FRAMES - 1, columns).astype(int)
    equal = [WINDOW[0] <= frame < WINDOW[1] for frame in frames]
    assert ["equal" in axes.get_title() for axes in strips.axes[:columns]] == equal
    ends = [axes.spines["left"].get_linestyle() for axes in strips.axes[columns - 1 :: columns]]
    assert ends == ["solid", "solid", "--", "--"]
    panels = shown_panels(plots)
    assert len(panels) == len(judgement.scores.places) == 4
    for axes, place in zip(panels, judgement.scores.places, strict=True):
        curves = judgement.scores.curves[place][judgement.scores.keys.index(block.key)]
        assert [line.get_ydata().tolist() for line in axes.lines[:4]] == curves.tolist()
        assert f"level {place[0]}" in axes.get_title() and "right" in axes.get_title()
        assert len(axes.patches) == WINDOW[1] - WINDOW[0]
    assert panels[0].lines[0].get_xdata()[0] == pytest.approx(1 / FPS)
    assert panels[0].lines[4].get_xdata() == [8 / FPS, 8 / FPS]


def test_the_clearest_block_is_the_one_whose_worlds_differ_most(root: Path) -> None:
    refs = [ref for ref in find_samples(root, "test", "blocks") if "reveal" in ref.key]
    blocks = [read_block(ref, CLIP, maps=False) for ref in refs]
    frames = [block.frames.numpy().astype(float) for block in blocks]
    differences = [np.abs(worlds[0] - worlds[1]).mean() for worlds in frames]
    chosen = permanence.clearest_block(root, "reveal", CLIP)
    assert chosen.key == blocks[int(np.argmax(differences))].key


def test_a_block_that_was_not_scored_is_refused(
    root: Path, judgement: permanence.Judgement
) -> None:
    other = permanence.clearest_block(root, "permanence", CLIP)
    with pytest.raises(InputError, match=r"permanence-\d{4} was not scored; blocks of reveal were"):
        permanence.block_surprise(other, judgement)
    with pytest.raises(InputError, match="no test block of the kind gravity"):
        permanence.clearest_block(root, "gravity", CLIP)
    with pytest.raises(InputError, match="no val blocks of gravity"):
        permanence.judge_blocks(known_model(), root, ("gravity",), pace=HERE)


@pytest.fixture(scope="module")
def presence(root: Path, judgement: permanence.Judgement) -> permanence.Presence:
    networks = {MODEL: Planted(remembers=True), UNTRAINED: Forgetful()}
    counts = {"train": 24, "val": 10, "test": 8}
    watched = permanence.watch_tracks(networks, CLIP, root, counts, HERE)
    return permanence.ask_presence(watched, judgement)


def test_presence_is_known_to_who_remembers_and_to_nobody_else(
    presence: permanence.Presence,
) -> None:
    everything = np.ones(len(presence.there), dtype=bool)
    assert presence.accuracy(MODEL, everything) == (1.0, [1.0, 1.0])
    assert presence.accuracy(UNTRAINED, everything)[0] == 0.5
    assert presence.there.mean() == 0.5
    assert presence.seconds.max() <= (WINDOW[1] - WINDOW[0]) / FPS


def test_presence_without_blocks_says_what_is_lacking(
    watched: permanence.Watched, judgement: permanence.Judgement
) -> None:
    with pytest.raises(InputError, match="permanence, reveal, continuity"):
        permanence.ask_presence(watched, replace(judgement, hidden={}))


def test_presence_over_time_shows_answers_and_how_many_are_right() -> None:
    there = np.tile([True, False], 24)
    said = {MODEL: np.where(there, 0.5, -0.25), UNTRAINED: np.full(48, 0.1)}
    seconds = np.repeat([0.25, 0.5], 24)
    answers = permanence.Presence(0, said, there, np.arange(48) // 4, seconds)
    model, untrained, right = permanence.presence_over_time(answers).axes
    assert model.lines[0].get_ydata().tolist() == [0.5, 0.5]
    assert model.lines[1].get_ydata().tolist() == [-0.25, -0.25]
    assert untrained.lines[0].get_ydata().tolist() == [0.1, 0.1]
    assert [line.get_ydata().tolist() for line in right.lines[:2]] == [[1.0, 1.0], [0.5, 0.5]]
    assert model.get_ylim() == untrained.get_ylim()
    assert right.lines[0].get_xdata().tolist() == [0.25, 0.5]
