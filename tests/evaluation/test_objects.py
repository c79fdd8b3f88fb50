"""Probes of objects find what is planted, and count the right frames."""

import numpy as np
import pytest
import torch
from square_world import FRAMES, WINDOW, Planted, block, footage, square_clip

from worldmodel.evaluation.objects import (
    HiddenWorlds,
    ObjectSamples,
    hidden_windows,
    permanence_section,
    position_section,
    track_of,
    velocity_section,
)
from worldmodel.evaluation.surprise import world_states

SPANS = [1, 2]


def samples(count: int, first: int, networks: dict[str, object]) -> ObjectSamples:
    """Clips whose context states are what a function of (clip, level) says."""
    found = ObjectSamples(SPANS, 8.0)
    clips = [footage(first + n, present=n % 3 != 2) for n in range(count)]
    places = found.add_truth(clips)
    assert places == list(range(count))
    for name, state_of in networks.items():
        for clip, track in zip(clips, found.tracks, strict=True):
            levels = [state_of(clip, track, found.ends(level))[None] for level in range(2)]
            found.add_context(name, levels, [0])
    return found


def knows(clip: object, track: object, ends: np.ndarray) -> torch.Tensor:
    """A state that holds the position, turned and shifted, and last change."""
    x = torch.from_numpy(track.position[ends]).float()
    change = torch.from_numpy(np.diff(track.position, axis=0, prepend=track.position[:1])[ends])
    both = torch.cat([x, change.float()], dim=1)
    return (both @ torch.tensor([[1.0, 2, 0, 0], [0, 1, 3, 0], [0, 0, 1, 1], [1, 0, 0, 2]]) + 3)[
        :, None
    ]


def is_blind(clip: object, track: object, ends: np.ndarray) -> torch.Tensor:
    generator = torch.Generator().manual_seed(int(clip.key[-3:]))
    return torch.randn(len(ends), 1, 4, generator=generator)


@pytest.fixture(scope="module")
def splits() -> tuple[ObjectSamples, ObjectSamples, ObjectSamples]:
    networks = {"model": knows, "untrained": is_blind}
    return samples(30, 0, networks), samples(12, 100, networks), samples(15, 200, networks)


def test_track_is_visible_or_hidden_where_the_square_is() -> None:
    track = track_of(square_clip(True, 0)[1])
    assert track.hidden.tolist() == [WINDOW[0] <= t < WINDOW[1] for t in range(FRAMES)]
    assert np.array_equal(track.visible, track.inside & ~track.hidden)
    gone = track_of(square_clip(False, 0)[1])
    assert not (gone.visible | gone.hidden | gone.inside).any()


@pytest.mark.parametrize("part", ["visible", "hidden"])
def test_a_planted_position_is_decoded_and_nothing_from_noise(part: str, splits: tuple) -> None:
    section, decoder = position_section(splits, part, seed=0)
    assert section["r2"] > 0.999
    assert section["mae_px"] < 0.1
    assert section["null"]["untrained"]["r2"] < 0.3
    assert section["ci95_r2"][0] <= section["r2"] <= section["ci95_r2"][1]
    assert decoder.level == section["level"]
    # 10 of 15 test clips have a square; hidden for 6 frames each.
    if part == "hidden" and section["level"] == 0:
        assert section["num_frames"] == 60
        assert section["num_clips"] == 10


def test_nulls_know_the_past_places_and_no_more(splits: tuple) -> None:
    hidden = position_section(splits, "hidden", seed=0)[0]["null"]
    assert hidden["constant_velocity"]["r2"] == pytest.approx(1, abs=1e-6)
    assert hidden["copy_last_seen"]["mae_px"] > 0.5
    assert hidden["copy_last_seen"]["r2"] < 1


def test_velocity_is_in_pixels_per_second(splits: tuple) -> None:
    targets = splits[2].targets("moving", 0)
    mask = splits[2].mask("moving", 0)
    speed = targets[mask][:, 0]
    assert speed.min() >= 0.6 * 8 and speed.max() <= 0.9 * 8 + 1e-3
    section = velocity_section(splits)
    assert section["r2"] > 0.99
    assert section["null"]["untrained"]["r2"] < 0.3


def test_a_set_without_hidden_frames_says_so_instead_of_failing() -> None:
    empty = tuple(ObjectSamples(SPANS, 8.0) for _ in range(3))
    section, decoder = position_section(empty, "hidden", seed=0)
    assert "hidden" in section["absent"]
    assert decoder is None
    assert "absent" in velocity_section(empty)


def hidden_worlds(seeds: range, model: Planted) -> HiddenWorlds:
    blocks = [block(seed) for seed in seeds]
    noise = [
        torch.randn(
            len(blocks), 2, FRAMES // span, 3, generator=torch.Generator().manual_seed(span)
        )
        for span in SPANS
    ]
    return HiddenWorlds(
        np.array([[True, False]] * len(blocks)),
        np.stack([hidden_windows(each) for each in blocks]),
        {"model": world_states(model, blocks, torch.device("cpu")), "untrained": noise},
        SPANS,
    )


def test_permanence_is_read_from_a_state_that_remembers_and_from_no_other() -> None:
    """The planted state is what was seen so far: it alone differs where frames are equal."""
    model = Planted(remembers=True)

    def remembered(clip: object, track: object, ends: np.ndarray) -> torch.Tensor:
        with torch.no_grad():
            levels = model.predict(model.encode(clip.frames[None]))
        return next(p.context[0] for p in levels if p.context.shape[1] == len(ends))

    def noise(clip: object, track: object, ends: np.ndarray) -> torch.Tensor:
        return is_blind(clip, track, ends)[..., :3]

    train = samples(24, 0, {"model": remembered, "untrained": noise})
    section = permanence_section(
        train, hidden_worlds(range(500, 510), model), hidden_worlds(range(600, 612), model)
    )
    assert section["accuracy"] == 1
    assert section["auroc"] == 1
    assert section["num_blocks"] == 12
    assert abs(section["null"]["untrained"]["accuracy"] - 0.5) < 0.2


def test_permanence_is_asked_only_where_both_worlds_look_the_same() -> None:
    worlds = hidden_worlds(range(3), Planted(remembers=True))
    states, sign, blocks = worlds.rows("model", 0)
    assert len(states) == 3 * 2 * (WINDOW[1] - WINDOW[0])
    assert sign[:2, 0].tolist() == [1, -1]
    assert np.array_equal(np.unique(blocks), [0, 1, 2])
    alike = HiddenWorlds(np.array([[True, True]] * 3), worlds.windows, worlds.context, worlds.spans)
    assert len(alike.rows("model", 0)[1]) == 0
