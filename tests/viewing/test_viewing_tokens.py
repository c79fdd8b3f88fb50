"""What is said of tokens holds for tokens whose content is planted, and not for noise."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from square_world import FRAMES, SIZE, footage

from worldmodel.errors import InputError
from worldmodel.evaluation.figures import GREEN, RED
from worldmodel.evaluation.footage import Footage
from worldmodel.evaluation.probes.objects import track_of
from worldmodel.models.encoder import EncoderConfig
from worldmodel.models.hierarchy import Hierarchy, LevelConfig
from worldmodel.viewing import neighbours, readings
from worldmodel.viewing import tokens as view

GRID = (4, 4)
TOKENS = GRID[0] * GRID[1]


def texts(figure) -> str:
    found = [figure.get_suptitle()]
    for axes in figure.axes:
        found += [axes.get_title(), axes.get_xlabel(), axes.get_ylabel()]
        found += [text.get_text() for text in axes.texts]
    return " | ".join(found)


def scene(seed: int) -> Footage:
    clip = footage(seed)
    return replace(clip, metadata=clip.metadata | {"fps": 8.0})


@pytest.fixture(scope="module")
def clips() -> list[Footage]:
    return [scene(seed) for seed in range(10)]


@pytest.fixture(scope="module")
def patches(clips: list[Footage]) -> view.Patches:
    return view.Patches.of(clips, GRID, 1)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def planted(patches: view.Patches, seed: int = 0) -> np.ndarray:
    """Tokens that hold depth, and the share of a body three times as large, and little noise."""
    values = 0.05 * noise(*patches.label.shape, 6, seed=seed)
    depth = patches.facts["depth"]
    values[..., 0] += (depth - depth.mean()) / depth.std()
    values[..., 1] += 3 * patches.facts["bodies"] / patches.facts["bodies"].std()
    return values


def test_tokens_of_clips_are_those_of_each_clip_alone(
    encoder_config: EncoderConfig, level_configs: list[LevelConfig]
) -> None:
    torch.manual_seed(0)
    network = Hierarchy(replace(encoder_config, size=SIZE), level_configs[:1]).eval()
    clips = [scene(seed) for seed in range(9)]
    (tokens,) = view.encode_clips(network, clips)
    assert tokens.shape[:2] == (9, FRAMES)
    with torch.no_grad():
        alone = network.encode(clips[8].frames[None])[0]
    assert torch.allclose(tokens[8], alone[0], atol=1e-5)


def test_patches_say_what_the_truth_says(clips: list[Footage], patches: view.Patches) -> None:
    assert patches.label.shape == (10, FRAMES, TOKENS)
    truth = clips[3].truth
    cell = (slice(4, 8), slice(8, 12))  # row 1, column 2: token 6
    assert patches.facts["depth"][3, 0, 6] == pytest.approx(truth.depth[0][cell].mean())
    bodies = patches.facts["bodies"][3, :, 6]
    assert bodies == pytest.approx((truth.ids[(slice(None), *cell)] == 1).mean((1, 2)))
    assert (patches.label[3, :, 6] == "box").tolist() == (bodies >= view.BODY_SHARE).tolist()
    assert set(np.unique(patches.label)) == {"sphere", "box", view.BACKGROUND}
    # Nobody is asked to tell a patch of the floor by its share.
    nowhere = patches.facts["bodies"] == 0
    assert (patches.share[nowhere] == 1).all()
    pixels = clips[3].frames[0, :, cell[0], cell[1]].permute(1, 2, 0).reshape(-1) / 255
    assert patches.pixels[3, 0, 6] == pytest.approx(pixels.numpy())


def test_steps_of_several_frames_are_read_at_their_end(clips: list[Footage]) -> None:
    slow = view.Patches.of(clips[:2], (2, 2), 4)
    fast = view.Patches.of(clips[:2], (2, 2), 1)
    assert slow.label.shape == (2, FRAMES // 4, 4)
    assert np.array_equal(slow.facts["depth"], fast.facts["depth"][:, 3::4])


def test_slabs_and_the_largest_body_give_a_patch_its_name() -> None:
    clip = scene(1)
    clip.truth.ids[0] = 0
    clip.truth.ids[0, :4, :4] = 100
    clip.truth.ids[0, :1, :4] = 1  # a quarter
    clip.truth.ids[0, :2, 4:8] = 101
    found = view.Patches.of([clip], GRID, 1)
    assert found.label[0, 0, :3].tolist() == ["box", view.SLAB, view.BACKGROUND]
    assert found.share[0, 0, :3].tolist() == [0.25, 0.5, 1.0]


def test_directions_are_named_by_what_was_planted(patches: view.Patches) -> None:
    values = planted(patches)
    values[..., 0] = patches.facts["column"]
    found = view.Directions.of(torch.from_numpy(values), patches)
    assert found.words[0].startswith("more of a body") and found.correlation[0] > 0.95
    assert found.words[1].startswith("farther right") and found.correlation[1] > 0.95
    assert found.variance[0] > found.variance[1] > found.variance[2]
    # More of the colour is more of what the words say.
    red = found.colours(torch.from_numpy(values[0]))[..., 0]
    body = patches.facts["bodies"][0] > 0.3
    assert red[body].min() > red[~body & (patches.facts["bodies"][0] == 0)].max()


def test_directions_of_noise_have_no_name(patches: view.Patches) -> None:
    tokens = torch.from_numpy(noise(*patches.label.shape, 6))
    assert set(view.Directions.of(tokens, patches).words) == {"none of what is asked"}
    few = replace(patches.of_clip(0), label=patches.label[:1, :4])
    few = replace(few, facts={name: fact[:1, :4] for name, fact in few.facts.items()})
    assert set(view.Directions.of(tokens[:1, :4], few).words) == {"too few tokens to say"}


def test_the_strip_has_a_row_per_level_and_its_words(
    clips: list[Footage], patches: view.Patches
) -> None:
    tokens = torch.from_numpy(planted(patches))
    found = view.Directions.of(tokens, patches)
    levels = {"level 0": (tokens[0], GRID, found), "level 1": (tokens[0, 1::2], GRID, found)}
    figure = view.direction_strip(clips[0], levels, num_frames=4)
    assert len(figure.axes) == 3 * 5
    shown = figure.axes[5 + 3].images[0].get_array()
    assert np.allclose(shown, found.colours(tokens[0, -1:]).reshape(*GRID, 3))
    assert f"red, {found.variance[0]:.0%}: {found.words[0]}" in texts(figure)
    table = view.direction_table({"model": [found]})
    assert f"| 0 | model | {found.variance[0]:.0%}: {found.words[0]} |" in table


def test_a_sample_has_equally_many_of_each(patches: view.Patches) -> None:
    chosen = neighbours.sample_tokens(patches, per_label=20)
    labels = patches.label.ravel()[chosen]
    assert [(labels == name).sum() for name in ("box", "sphere", view.BACKGROUND)] == [20] * 3
    assert len(np.unique(chosen)) == 60
    assert np.array_equal(chosen, neighbours.sample_tokens(patches, per_label=20))


def test_a_map_of_few_tokens_is_refused() -> None:
    with pytest.raises(InputError, match="at least 16 tokens, got 3"):
        neighbours.token_map(torch.zeros(3, 5))


@pytest.mark.slow  # half a minute, nearly all of it UMAP's own compilation
def test_umap_puts_together_what_is_alike() -> None:
    pytest.importorskip("umap")
    tokens = torch.from_numpy(noise(40, 5))
    tokens[20:, 0] += 50
    places = neighbours.token_map(tokens)
    assert places.shape == (40, 2)
    centres = places[:20].mean(0), places[20:].mean(0)
    spread = np.linalg.norm(places[:20] - centres[0], axis=1).max()
    assert np.linalg.norm(centres[0] - centres[1]) > spread


def test_maps_are_coloured_by_what_tokens_show(patches: view.Patches) -> None:
    chosen = neighbours.sample_tokens(patches, per_label=10)
    maps = {"model": noise(30, 2), "untrained": noise(30, 2, seed=1)}
    figure = neighbours.token_maps(maps, patches, chosen, level=0)
    panels = [axes for axes in figure.axes if axes.collections and axes.get_label() == ""]
    assert len(panels) == 6
    colours = {to_hex(colour) for colour in panels[0].collections[0].get_facecolors()}
    assert len(colours) == 3 and RED.lower() in colours
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {
        "sphere",
        "box",
        view.BACKGROUND,
    }
    assert panels[0].get_ylabel() == "model" and panels[3].get_ylabel() == "untrained"
    assert any("depth of the patch, m" in axes.get_ylabel() for axes in figure.axes)


def test_neighbours_are_of_other_clips_and_one_of_each() -> None:
    clips = np.repeat(np.arange(5), 4)
    features = noise(20, 3)
    order, cosine = neighbours.neighbours(features, clips, 3)
    for number, row in enumerate(order):
        assert clips[number] not in clips[row]
        assert len(set(clips[row])) == 3
    assert (np.diff(cosine, axis=1) <= 0).all()
    # The very nearest of all other clips comes first.
    centred = features - features.mean(0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    likeness = (unit @ unit[0]) * (clips != 0) - (clips == 0)
    assert order[0, 0] == likeness.argmax()


def test_votes_are_right_where_tokens_hold_the_answer_and_by_chance_where_not() -> None:
    labels = np.tile(["box", "sphere", "cone", "cone"], 30)
    clips = np.repeat(np.arange(30), 4)
    knows = noise(120, 4) * 0.1 + 3 * (labels[:, None] == np.array(["box", "sphere", "cone", ""]))
    votes = neighbours.neighbour_votes({"model": knows, "noise": noise(120, 4)}, labels, clips, 9)
    assert votes["model"] == {"box": 1.0, "cone": 1.0, "sphere": 1.0}
    # A label that is twice as frequent does not win by that.
    assert np.mean(list(votes["noise"].values())) == pytest.approx(1 / 3, abs=0.12)
    assert votes["noise"]["cone"] < 0.75
    (axes,) = neighbours.vote_bars(votes, 9).axes
    assert [bar.get_height() for bar in axes.containers[0]] == [1.0] * 4
    assert "model, 1.00" in [text.get_text() for text in axes.get_legend().get_texts()]
    assert "9 nearest" in axes.get_title()


def test_the_clearest_token_fills_its_patch_most(patches: view.Patches) -> None:
    chosen = neighbours.sample_tokens(patches, per_label=40)
    (number,) = neighbours.clearest(patches, chosen, ["box"])
    share = patches.share.ravel()[chosen]
    labels = patches.label.ravel()[chosen]
    assert share[number] == share[labels == "box"].max() and labels[number] == "box"
    with pytest.raises(InputError, match="shows a cone"):
        neighbours.clearest(patches, chosen, ["cone"])


def test_rows_of_neighbours_frame_the_patch_and_mark_the_same_label(
    clips: list[Footage], patches: view.Patches
) -> None:
    chosen = neighbours.sample_tokens(patches, per_label=20)
    labels = patches.label.ravel()[chosen]
    features = {"model": (labels[:, None] == np.unique(labels)) + 0.01 * noise(60, 3)}
    query = neighbours.clearest(patches, chosen, ["box"])
    figure = neighbours.neighbour_rows(clips, patches, chosen, query, features, count=3)
    assert len(figure.axes) == 4
    token = int(chosen[query[0]]) % TOKENS
    box = figure.axes[0].patches[0]
    assert box.get_xy() == (token % 4 * 4 - 0.5, token // 4 * 4 - 0.5)
    assert box.get_width() == 4
    assert all(axes.title.get_fontweight() == "bold" for axes in figure.axes[1:])
    assert "box,\nmodel" in texts(figure)


def splits() -> tuple[dict[str, list[Footage]], dict[str, view.Patches]]:
    numbers = {"train": range(40), "val": range(40, 50), "test": range(50, 62)}
    made = {name: [scene(seed) for seed in seeds] for name, seeds in numbers.items()}
    return made, {name: view.Patches.of(each, GRID, 1) for name, each in made.items()}


def test_readings_find_what_is_there_and_nothing_in_noise() -> None:
    _, patches = splits()
    features = {
        "model": {name: planted(each) for name, each in patches.items()},
        "noise": {name: noise(*each.label.shape, 6) for name, each in patches.items()},
    }
    found = readings.read_facts(features, patches)
    assert list(found["model"]) == list(readings.ASKED)
    assert found["model"]["depth"] > 0.9 and found["model"]["bodies"] > 0.9
    assert abs(found["noise"]["depth"]) < 0.1
    (axes,) = readings.fact_bars(found).axes
    assert len(axes.patches) == 2 * len(readings.ASKED)
    assert axes.patches[0].get_height() == pytest.approx(found["model"]["depth"])
    assert [label.get_text() for label in axes.get_xticklabels()] == list(readings.ASKED.values())
    assert "r2" in axes.get_ylabel()


def test_the_place_that_holds_the_objects_place_is_found() -> None:
    made, patches = splits()
    features = {}
    for name, each in made.items():
        values = noise(*patches[name].label.shape, 4)
        values[:, :, 5, :2] = [track_of(clip.truth).position for clip in each]
        features[name] = values
    (found,) = readings.object_by_place({"model": features}, made, 1).values()
    assert found.shape == (TOKENS,)
    assert found[5] > 0.95 and np.delete(found, 5).max() < 0.3


def test_change_is_counted_where_it_is() -> None:
    values = np.zeros((2, 8, 4, 3))
    values[:, ::2, 1] = 1
    assert readings.change_by_place(values).tolist() == [0, 4, 0, 0]
    figure = readings.place_maps({"change": {"model": readings.change_by_place(values)}}, (2, 2))
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.00", "4.00", "0.00", "0.00"]
    assert "change" in texts(figure) and "model" in texts(figure)


def moving(clips: list[Footage], patches: view.Patches) -> np.ndarray:
    """Tokens of which one holds the object, wherever it is."""
    values = 0.01 * noise(*patches.label.shape, 5)
    for number, clip in enumerate(clips):
        where = readings.token_of_object(clip, GRID, 1)
        for step in np.flatnonzero(where >= 0):
            values[number, step, where[step], 0] += 1
    return values


def test_the_token_of_the_object_is_where_its_centre_is(clips: list[Footage]) -> None:
    where = readings.token_of_object(clips[0], GRID, 1)
    x, y = clips[0].truth.state["image_position"][:, 0].T
    seen = track_of(clips[0].truth).visible
    assert (where[seen] == (y // 4 * 4 + x // 4)[seen]).all()
    assert (where[~seen] == -1).all()


def test_who_follows_the_object_finds_it_again(clips: list[Footage], patches: view.Patches) -> None:
    features = {"model": moving(clips, patches), "noise": noise(*patches.label.shape, 5)}
    found = readings.found_again(features, clips, patches, [1, 3])
    assert found["all"]["model"].tolist() == [1.0, 1.0]
    assert found["moved"]["model"].tolist() == [1.0, 1.0]
    assert found["moved"]["same place"].tolist() == [0.0, 0.0]
    assert (found["all"]["noise"] < 0.3).all()
    assert (found["moved"]["questions"] < found["all"]["questions"]).all()
    figure = readings.found_again_curves(found, [0.125, 0.375], TOKENS)
    assert [len(axes.lines) for axes in figure.axes] == [4, 4]
    assert figure.axes[0].lines[0].get_ydata().tolist() == [1.0, 1.0]
    assert figure.axes[0].get_xlabel() == "time between, s"


def test_likeness_is_one_to_itself_and_shown_with_the_object(
    clips: list[Footage], patches: view.Patches
) -> None:
    values = moving(clips, patches)
    number, step, token = readings.most_travelled(clips, patches)
    where = readings.token_of_object(clips[number], GRID, 1)
    assert where[step] == token and step < FRAMES // 2
    maps = {"model": readings.likeness(values[number], values.mean((0, 1, 2)), step, token)}
    assert maps["model"][step, token] == pytest.approx(1)
    figure = readings.likeness_strip(clips[number], maps, patches, step, token, num_frames=5)
    first = figure.axes[0].patches
    assert [to_hex(each.get_edgecolor()) for each in first] == [GREEN.lower(), RED.lower()]
    assert figure.axes[5].images[0].get_array().shape == GRID
    assert "cosine" in texts(figure)


def test_without_a_tracked_object_nothing_is_followed(patches: view.Patches) -> None:
    absent = [footage(seed, present=False) for seed in range(10)]
    with pytest.raises(InputError, match="none of 10 clips"):
        readings.most_travelled(absent, patches)


def test_the_spectrum_tells_collapse_from_an_even_spread() -> None:
    even = view.Spectrum.of(torch.randn(20, 10, 16, 4, generator=torch.Generator().manual_seed(0)))
    assert even.effective_rank == pytest.approx(4, abs=0.05)
    assert even.share == pytest.approx(np.full(4, 0.25), abs=0.03)
    line = torch.arange(320.0).view(2, 10, 16, 1).expand(2, 10, 16, 4)
    assert view.Spectrum.of(line).effective_rank == pytest.approx(1, abs=0.01)
    # What never changes within a clip is gone once each clip's mean is.
    still = torch.randn(20, 1, 16, 4).expand(20, 10, 16, 4).clone()
    still[..., 0] += torch.randn(20, 10, 16)
    assert view.Spectrum.of(still, within=True).effective_rank == pytest.approx(1, abs=0.01)
    found = {"model": [even, even], "untrained": [view.Spectrum.of(line)] * 2}
    figure = view.spectra(found, found)
    assert len(figure.axes[0].lines) == 4
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels[0] == "level 0, model: 4 of 4"
    assert figure.axes[0].lines[2].get_linestyle() == "--"
