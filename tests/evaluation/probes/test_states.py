"""Probes read at most so many numbers per step, at moments that every level can answer for."""

import numpy as np
import torch

from worldmodel.evaluation.probes.states import (
    MAX_FEATURES,
    asked_steps,
    flat_states,
    step_ends,
    thing_frames,
)


def test_every_second_frame_is_asked_and_slow_levels_at_every_step() -> None:
    assert step_ends(12, 1).tolist() == [1, 3, 5, 7, 9, 11]
    assert step_ends(12, 2).tolist() == [1, 3, 5, 7, 9, 11]
    assert step_ends(12, 4).tolist() == [3, 7, 11]
    assert step_ends(13, 3).tolist() == [2, 5, 8, 11]


def test_things_are_asked_where_a_step_of_every_level_ends() -> None:
    for spans in ([1], [2], [5], [1, 2, 4], [1, 3], [1, 5], [1, 3, 9], [1, 7], [1, 2, 6]):
        frames = thing_frames(36, spans)
        assert len(frames)
        assert all(np.isin(frames, step_ends(36, span)).all() for span in spans), spans
        assert np.diff(frames).min() >= 4
        assert frames[0] >= 3, "what touches and what carries is not known of frame 0"


def test_small_steps_are_read_as_they_are() -> None:
    values = torch.randn(3, 8, 4, 5)
    flat = flat_states(values, (2, 2), asked_steps(8, 1))
    assert torch.equal(flat, values[:, 1::2].flatten(2))


def test_large_steps_are_averaged_over_cells_and_projected_without_loss_of_distances() -> None:
    values = torch.randn(2, 1, 64, 600, generator=torch.Generator().manual_seed(1))
    flat = flat_states(values, (8, 8), np.arange(1))
    assert flat.shape == (2, 1, MAX_FEATURES)
    assert torch.equal(flat, flat_states(values, (8, 8), np.arange(1)))
    cells = values.view(2, 4, 2, 4, 2, 600).mean((2, 4)).flatten(1)
    near, true = (flat[0, 0] - flat[1, 0]).norm(), (cells[0] - cells[1]).norm()
    assert abs(near / true - 1) < 0.1


def test_large_grids_that_fit_after_averaging_are_not_projected() -> None:
    values = torch.randn(1, 1, 256, 32)
    flat = flat_states(values, (16, 16), np.arange(1))
    cells = values.view(1, 4, 4, 4, 4, 32).mean((2, 4)).flatten(1)
    assert torch.allclose(flat[0], cells, atol=1e-6)
