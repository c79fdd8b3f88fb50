"""Whether something is there is read from states that remember, where no frame can tell."""

import numpy as np
import torch
from planted_states import SPANS, is_blind, samples
from square_world import FRAMES, WINDOW, block

from worldmodel.evaluation.footage import Footage
from worldmodel.evaluation.probes.objects import Track, hidden_windows
from worldmodel.evaluation.probes.observe import CONTEXT, UNTRAINED_CONTEXT
from worldmodel.evaluation.probes.permanence import HiddenWorlds, permanence_section
from worldmodel.evaluation.probes.states import step_ends
from worldmodel.evaluation.scores import wilson


def remembers(clip: Footage, track: Track, frames: np.ndarray) -> torch.Tensor:
    """Whether a bright square was seen up to each frame, beside noise."""
    seen = ((clip.frames > 200).flatten(1).any(1)).cummax(0).values[torch.from_numpy(frames)]
    noise = is_blind(clip, track, frames)
    noise[:, 1] = seen.float()
    return noise


def worlds(seeds: range) -> HiddenWorlds:
    blocks = [block(seed) for seed in seeds]
    generator = torch.Generator().manual_seed(seeds.start)
    states: dict = {CONTEXT: [], UNTRAINED_CONTEXT: []}
    for span in SPANS:
        ends = torch.from_numpy(step_ends(FRAMES, span))
        noise = torch.randn(2, len(blocks), 2, len(ends), 4, generator=generator)
        for number, one in enumerate(blocks):
            seen = (one.frames > 200).flatten(2).any(2).cummax(1).values[:, ends]
            noise[0, number, :, :, 1] = seen.float()
        states[CONTEXT].append(noise[0])
        states[UNTRAINED_CONTEXT].append(noise[1])
    return HiddenWorlds(
        np.array([[True, False]] * len(blocks)),
        np.stack([hidden_windows(each) for each in blocks]),
        states,
        SPANS,
    )


def test_permanence_is_read_from_a_state_that_remembers_and_from_no_other() -> None:
    train = samples(30, 0, remembers)
    section = permanence_section(train, worlds(range(500, 515)), worlds(range(600, 620)))
    assert section["accuracy"] == 1
    assert section["auroc"] == 1
    assert section["num_blocks"] == 20
    assert section["ci95_accuracy"] == wilson(1.0, 20)  # no resample changes what is all right
    assert abs(section["null"]["untrained"]["accuracy"] - 0.5) < 0.2
    assert section["by_level"]["context"]["level0"]["accuracy"] == 1
    bins = section["by_frames_hidden"]
    assert sum(entry["num_steps"] for entry in bins.values()) == section["num_steps"]
    assert all(entry["accuracy"] == 1 for entry in bins.values())


def test_permanence_is_asked_only_where_both_worlds_look_the_same() -> None:
    some = worlds(range(3))
    states, sign, blocks, lengths = some.rows(CONTEXT, 0)
    asked = [frame for frame in step_ends(FRAMES, 1) if WINDOW[0] <= frame < WINDOW[1]]
    assert len(states) == 3 * 2 * len(asked)
    assert sign[:2, 0].tolist() == [1, -1]
    assert np.array_equal(np.unique(blocks), [0, 1, 2])
    assert lengths[::2][: len(asked)].tolist() == [frame - WINDOW[0] + 1 for frame in asked]
    alike = HiddenWorlds(np.array([[True, True]] * 3), some.windows, some.states, some.spans)
    assert len(alike.rows(CONTEXT, 0)[1]) == 0


def test_without_rows_it_says_so() -> None:
    train = samples(3, 0, remembers)
    assert "absent" in permanence_section(train, worlds(range(1)), worlds(range(1)))
