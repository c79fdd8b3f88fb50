"""Probes of a few dozen clips: who teaches, who is asked, and that they find what is there."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from square_world import write_squares

from worldmodel.data.catalog import open_catalog
from worldmodel.errors import InputError
from worldmodel.evaluation.probes.depth import DepthPlan
from worldmodel.evaluation.probes.quick import (
    Labels,
    Split,
    States,
    event_samples,
    fit_quick,
)
from worldmodel.evaluation.probes.samples import PARTS

LEVELS: list[Any] = [
    SimpleNamespace(span=1, grid=(2, 2), num_tokens=4, dim=6, width=3, horizons=(1,)),
    SimpleNamespace(span=2, grid=(1, 1), num_tokens=1, dim=6, width=3, horizons=(1,)),
]
PLAN = DepthPlan.of(LEVELS, 8)


def split(seed: int, clips: int = 12) -> Split:
    """Tokens that say depth outright; states that say the place, level 1 without noise."""
    generator = np.random.default_rng(seed)
    labels, states = [], []
    to_depth = np.random.default_rng(9).normal(size=(6, 16))
    to_state = np.random.default_rng(8).normal(size=(2, 12))
    for _ in range(clips):
        tokens = generator.normal(size=(4, 4, 6))
        metres = 5 + 0.2 * tokens @ to_depth  # (frames, tokens, cells of a token)
        maps = metres.reshape(4, 2, 2, 4, 4).transpose(0, 1, 3, 2, 4).reshape(4, 8, 8)
        places = [generator.uniform(0, 16, (4, 2)) for _ in LEVELS]
        # Nearly nothing is known of hidden objects: too few steps for a probe.
        asked = {
            (level, part): np.full(4, part != "hidden") for level in range(2) for part in PARTS
        }
        context = [each @ to_state for each in places]
        context[0] = context[0] + generator.normal(size=context[0].shape) * 20
        labels.append(Labels(maps, np.ones_like(maps, dtype=bool), asked, places, (16, 16)))
        states.append(States(torch.from_numpy(tokens), [torch.from_numpy(c) for c in context]))
    return Split(labels, states)


def test_what_is_there_is_found_and_measured_beside_the_mean() -> None:
    quick = fit_quick(PLAN, LEVELS, split(0), split(1), split(2))
    assert quick.scores["depth_rmse_m"] < 0.05 < 0.4 < quick.scores["mean_depth_rmse_m"]
    assert set(quick.probes.position) == {"visible", "partly"}
    assert quick.probes.position["visible"].level == 1
    assert quick.scores["place_r2/visible"] == quick.probes.position["visible"].r2 > 0.99
    assert quick.probes.position["visible"].half_px < 0.5
    assert "place_r2/hidden" not in quick.scores


def test_those_who_measure_neither_teach_nor_choose() -> None:
    one, other = (
        fit_quick(PLAN, LEVELS, split(0), split(1), split(seed)).probes for seed in (2, 3)
    )
    assert one.depth is not None and other.depth is not None
    place, again = one.position["visible"].probe, other.position["visible"].probe
    assert torch.equal(place.weight, again.weight)
    assert torch.equal(one.depth.probe.usual, other.depth.probe.usual)
    assert one.depth.rmse_m != other.depth.rmse_m


def test_no_clips_no_probes() -> None:
    with pytest.raises(InputError, match="got 12, 0 and 12"):
        fit_quick(PLAN, LEVELS, split(0), replace(split(1), labels=[]), split(2))


def test_only_clips_that_follow_an_object_teach(shards, tmp_path) -> None:
    write_squares(tmp_path, {"val": 9}, {})
    catalog, _ = open_catalog(f"{tmp_path}/val/*.tar", 8, 8.0, lambda _: (16, 8.0))
    keys = [ref.key for ref in event_samples(catalog, 20)]
    # In every second clip of the squares there is no square.
    assert keys == [f"val-{number:06d}" for number in (0, 2, 4, 6, 8)]
    assert [ref.key for ref in event_samples(catalog, 2, {keys[0]})] == keys[1:3]
    plain, _ = open_catalog(f"{shards}/*.tar", 8, 8.0, lambda _: (32, 16.0))
    assert event_samples(plain, 20) == []
