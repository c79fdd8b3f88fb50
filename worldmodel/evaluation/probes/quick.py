"""Probes of depth and place from a few dozen clips, fitted anew in a moment while a model trains.

They ask what the report's linear probes ask, by the same ridge regressions, of a hundredth of the
clips: enough to watch a model learn, not for its report. One part of the clips teaches, another
chooses ridge strength and level, and a third tells how far off the answers are.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.data.catalog import Catalog
from worldmodel.data.shards import SampleRef, read_metadata
from worldmodel.errors import InputError
from worldmodel.evaluation.footage import TRUTH_MEMBERS, Footage, is_event
from worldmodel.evaluation.network import LevelShape
from worldmodel.evaluation.nulls import sightings
from worldmodel.evaluation.probes.depth import DepthPlan, depth_cells, per_token
from worldmodel.evaluation.probes.depth_heads import CAP_M, NEAREST_M, Examples, fit_linear
from worldmodel.evaluation.probes.depth_metrics import cell_sums, scores_of
from worldmodel.evaluation.probes.linear import LinearProbe, fit_ridge
from worldmodel.evaluation.probes.objects import track_of
from worldmodel.evaluation.probes.samples import PARTS
from worldmodel.evaluation.probes.states import asked_steps, flat_states, step_ends
from worldmodel.evaluation.probes.stored import DepthReader, PlaceReader, StoredProbes
from worldmodel.evaluation.probes.whereabouts import MIN_ROWS
from worldmodel.evaluation.scores import mean_absolute_error, r2_score

# Samples that are looked at for each clip that is wanted: half follow an object that is there.
TRIES = 4


def has_truth(ref: SampleRef) -> bool:
    """Whether depth, ids and state of a sample are known, as in the physics world."""
    return {*TRUTH_MEMBERS, "json"} <= ref.members.keys()


def event_samples(catalog: Catalog, count: int, but: Collection[str] = ()) -> list[SampleRef]:
    """Samples with their truth that follow an object which is there, from an even selection.

    Args:
        catalog: of a split; of remote ones nothing is taken, for each sample would bring its shard.
        count: at most so many.
        but: keys of samples that are left out.
    """
    found: list[SampleRef] = []
    if catalog.is_remote or not len(catalog):
        return found
    for number in np.unique(np.linspace(0, len(catalog) - 1, TRIES * count).astype(int)):
        ref = catalog[int(number)]
        if has_truth(ref) and ref.key not in but and _follows_object(read_metadata(ref)):
            found.append(ref)
        if len(found) == count:
            break
    return found


def _follows_object(metadata: dict[str, Any]) -> bool:
    return is_event(metadata) and bool(metadata.get("present", True))


@dataclass(frozen=True)
class Labels:
    """What is true of one clip where it is asked.

    Attributes:
        metres: float32 `(n, rows, columns)` at the plan's frames, at most `CAP_M`.
        hit: bool, the same shape: the cell shows a surface.
        asked: per level and part of `PARTS` the asked steps that count, bool `(A_l,)`.
        places: per level `(A_l, 2)` px, the tracked object's centre.
        picture: (width, height) in px of the picture in which these are.
    """

    metres: np.ndarray
    hit: np.ndarray
    asked: Mapping[tuple[int, str], np.ndarray]
    places: Sequence[np.ndarray]
    picture: tuple[int, int]

    @classmethod
    def of(cls, clip: Footage, plan: DepthPlan, levels: Sequence[LevelShape]) -> "Labels":
        """What is true of a clip; its frames and maps are not kept."""
        metres, hit, _ = depth_cells(clip.truth, plan.frames, plan.cells)
        track = track_of(clip.truth)
        asked, places = {}, []
        for number, level in enumerate(levels):
            ends = step_ends(len(clip.frames), level.span)
            # As in the report: only where it was seen before.
            seen = sightings(track.position, track.visible | track.partly, level.span).seen
            places.append(track.position[ends])
            for part in PARTS:
                asked[number, part] = (seen & getattr(track, part))[ends]
        height, width = clip.truth.depth.shape[1:]
        return cls(metres, hit, asked, places, (width, height))


@dataclass(frozen=True)
class States:
    """What is read of one clip.

    Attributes:
        tokens: of level 0 at the plan's frames, float32 `(n, N, D)`.
        context: per level whole steps where they are asked, float32 `(A_l, F_l)`.
    """

    tokens: Tensor
    context: Sequence[Tensor]

    @classmethod
    def of_chunk(
        cls,
        plan: DepthPlan,
        levels: Sequence[LevelShape],
        num_frames: int,
        tokens: Sequence[Tensor],
        context: Sequence[Tensor],
    ) -> "list[States]":
        """Of some clips, from what `run_chunk` gave for them; copies, so that the rest can go."""
        own = plan.features(0, tokens[0]).float().clone()
        flat = [
            flat_states(values, level.grid, asked_steps(num_frames, level.span)).clone()
            for values, level in zip(context, levels, strict=True)
        ]
        return [cls(own[i], [each[i] for each in flat]) for i in range(len(own))]


@dataclass(frozen=True)
class Split:
    """Clips of one part: their labels and what is read of them, in the same order."""

    labels: Sequence[Labels]
    states: Sequence[States]

    def examples(self, grid: tuple[int, int]) -> Examples:
        """Of depth, for each token of the grid."""
        metres, hit = (
            np.concatenate([per_token(getattr(each, name), grid) for each in self.labels])
            for name in ("metres", "hit")
        )
        tokens = torch.cat([each.tokens for each in self.states])
        return Examples(tokens, metres.astype(np.float64), hit)

    def rows(self, level: int, part: str) -> tuple[Tensor, np.ndarray]:
        """States `(n, F_l)` of the steps that count, and the object's place there, `(n, 2)` px."""
        masks = [each.asked[level, part] for each in self.labels]
        states = [
            each.context[level][torch.from_numpy(mask)]
            for each, mask in zip(self.states, masks, strict=True)
        ]
        places = [each.places[level][mask] for each, mask in zip(self.labels, masks, strict=True)]
        return torch.cat(states), np.concatenate(places)


@dataclass(frozen=True)
class QuickProbes:
    """Fitted probes, and how well they did on the clips that neither taught nor chose.

    Attributes:
        probes: ready to read; `about` of them is empty.
        scores: `depth_rmse_m`, beside it `mean_depth_rmse_m` of saying the mean depth map, and per
            part `place_r2/{part}`, for which 0 is what saying the mean place gets.
    """

    probes: StoredProbes
    scores: Mapping[str, float]


def fit_quick(
    plan: DepthPlan, levels: Sequence[LevelShape], fit: Split, choose: Split, measure: Split
) -> QuickProbes:
    """Fit all probes in closed form.

    Args:
        plan: that labels and states were taken with.
        levels: of the model.
        fit: teaches.
        choose: chooses the ridge's strength, and the level whose states tell places best.
        measure: tells how far off the answers are.

    Raises:
        InputError: a part has no clips.
    """
    if not (fit.labels and choose.labels and measure.labels):
        raise InputError(
            "quick probes need clips to fit, to choose and to measure, got "
            f"{len(fit.labels)}, {len(choose.labels)} and {len(measure.labels)}"
        )
    depth, scores = _fit_depth(plan, fit, choose, measure)
    places: dict[str, PlaceReader] = {}
    for part in PARTS:
        found = _fit_place(levels, fit, choose, measure, part)
        if found is not None:
            places[part] = found
            scores[f"place_r2/{part}"] = found.r2
    return QuickProbes(StoredProbes(depth, places, {}), scores)


def _once(examples: Examples) -> Callable[[], Iterable[Examples]]:
    return lambda: [examples]


def _fit_depth(
    plan: DepthPlan, fit: Split, choose: Split, measure: Split
) -> tuple[DepthReader, dict[str, float]]:
    grid = plan.answering(0)
    probe = fit_linear(_once(fit.examples(grid)), _once(choose.examples(grid)))
    held = measure.examples(grid)
    rmse_m = _rmse(probe(held.features), held)
    mean = np.broadcast_to(np.clip(probe.mean, NEAREST_M, CAP_M), held.metres.shape)
    scores = {"depth_rmse_m": rmse_m, "mean_depth_rmse_m": _rmse(mean, held)}
    return DepthReader(probe, grid, plan.cells, rmse_m), scores


def _rmse(guess: np.ndarray, held: Examples) -> float:
    return scores_of(cell_sums(guess, held.metres, held.hit))["rmse_m"]


def _fit_place(
    levels: Sequence[LevelShape], fit: Split, choose: Split, measure: Split, part: str
) -> PlaceReader | None:
    """The best level's probe of where the object is; None where a part has too few steps."""
    best: tuple[float, int, LinearProbe] | None = None
    for number in range(len(levels)):
        rows, chosen = fit.rows(number, part), choose.rows(number, part)
        if min(len(rows[1]), len(chosen[1]), len(measure.rows(number, part)[1])) < MIN_ROWS:
            continue
        probe, _ = fit_ridge(rows, chosen)
        score = r2_score(probe(chosen[0]), chosen[1])
        if best is None or score > best[0]:
            best = score, number, probe
    if best is None:
        return None
    _, number, probe = best
    held, true = measure.rows(number, part)
    guess = probe(held)
    return PlaceReader(
        probe,
        (levels[number].grid[0], levels[number].grid[1]),
        fit.labels[0].picture,
        r2_score(guess, true),
        mean_absolute_error(guess, true),
        float(np.median(np.linalg.norm(guess - true, axis=1))),
        number,
    )
