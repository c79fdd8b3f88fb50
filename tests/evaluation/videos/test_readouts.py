"""What probes read from a video: a window at a time, whatever comes later."""

from pathlib import Path

import numpy as np
import pytest
import torch

from worldmodel.evaluation.network import run_chunk
from worldmodel.evaluation.probes.stored import StoredProbes, read_probes
from worldmodel.evaluation.videos.readouts import Readouts, read_video_out
from worldmodel.models.checkpoint import LoadedModel, load_model
from worldmodel.models.hub_files import PROBES

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> LoadedModel:
    return load_model(checkpoint)


@pytest.fixture(scope="module")
def probes(probed: Path, model: LoadedModel) -> StoredProbes:
    return read_probes(probed / PROBES, model)


def frames(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (count, 16, 16, 3), dtype=np.uint8)


def read(model: LoadedModel, probes: StoredProbes, shown: np.ndarray) -> Readouts:
    return read_video_out(model.network, shown, model.clip.num_frames, CPU, probes)


def test_every_step_has_one_answer(model: LoadedModel, probes: StoredProbes) -> None:
    spans = [level.span for level in model.network.levels]
    for count in (2, 5, 16, 17, 43, 150):  # 150: more than one chunk of windows
        found = read(model, probes, frames(count))
        assert found.depth is not None
        assert found.depth.frames.tolist() == list(range(count))
        assert found.depth.metres.shape == (count, *probes.depth.cells)  # type: ignore[union-attr]
        for part, belief in found.beliefs.items():
            span = spans[probes.position[part].level]
            assert belief.frames.tolist() == list(range(span - 1, count // span * span, span))
            assert belief.places.shape == (len(belief.frames), 2)


def test_answers_do_not_depend_on_what_comes_later(
    model: LoadedModel, probes: StoredProbes
) -> None:
    shown = frames(60)
    whole = read(model, probes, shown)
    for count in (10, 16, 33):
        part = read(model, probes, shown[:count])
        assert part.depth is not None and whole.depth is not None
        np.testing.assert_allclose(part.depth.metres, whole.depth.metres[:count], atol=1e-6)
        for name, belief in part.beliefs.items():
            same = whole.beliefs[name].places[: len(belief.places)]
            np.testing.assert_allclose(belief.places, same, atol=1e-6)


def test_later_windows_see_half_a_window_of_past(model: LoadedModel, probes: StoredProbes) -> None:
    # Windows of 16 frames lie 8 apart: frame 20 is in the last hop of the one that starts at 8.
    shown = frames(40)
    found = read(model, probes, shown)
    clip = torch.from_numpy(shown[8:24]).permute(0, 3, 1, 2)
    tokens, context, _ = run_chunk(model.network, [clip], CPU)
    place = probes.position["hidden"]
    span = model.network.levels[place.level].span
    expected = place(context[place.level][0])[12 // span] / place.picture
    step = int(np.flatnonzero(found.beliefs["hidden"].frames == 20 - 20 % span + span - 1)[0])
    np.testing.assert_allclose(found.beliefs["hidden"].places[step], expected, atol=1e-6)
    assert probes.depth is not None and found.depth is not None
    np.testing.assert_allclose(found.depth.metres[20], probes.depth(tokens[0][0])[12], atol=1e-6)


def test_the_ring_is_a_share_of_the_picture(model: LoadedModel, probes: StoredProbes) -> None:
    for part, belief in read(model, probes, frames(16)).beliefs.items():
        half = probes.position[part].half_px / 16
        assert belief.half == (half, half) and half > 0
