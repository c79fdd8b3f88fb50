"""Scores of the depth probes on test clips, beside their nulls: the report's section `depth`."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from worldmodel.errors import InputError
from worldmodel.evaluation.network import one_thread
from worldmodel.evaluation.probes.depth import HEADLINE, MEAN, PIXELS, Case, DepthClip, DepthProbes
from worldmodel.evaluation.probes.depth_metrics import NUM_SUMS, cell_sums, scores_of
from worldmodel.evaluation.scores import bootstrap_groups, percentile_interval

NUM_PICTURES = 6
RESAMPLES = 2000

Score = Callable[[Case], dict[str, object]]
"""What is reported of a probe."""


@dataclass(frozen=True)
class DepthPictures:
    """A few test frames, evenly spread.

    Attributes:
        frames: uint8 `(n, C, H, W)`.
        true: metres `(n, rows, columns)`.
        probed: metres, the same shape, by the headline's probe.
    """

    frames: Tensor
    true: np.ndarray
    probed: np.ndarray


class DepthScores:
    """Scores of all probes on clips that pass by; of a clip only its sums stay.

    Args:
        probes: from `fit_depth`.
        num_clips: test clips that will come; says which frames are shown.
        num_pictures: how many frames are shown.
    """

    def __init__(
        self, probes: DepthProbes, num_clips: int, num_pictures: int = NUM_PICTURES
    ) -> None:
        self.probes = probes
        self.num_clips = 0
        # Per case and clip the sums over all cells, and over those of objects.
        self._sums: dict[Case, list[np.ndarray]] = {case: [] for case in (*probes.probes, MEAN)}
        self._moving: list[bool | None] = []
        self._num_frames = len(probes.plan.frames)
        total = num_clips * self._num_frames
        self._shown = set(np.linspace(0, max(total - 1, 0), num_pictures).astype(int).tolist())
        self._pictures: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    @one_thread()
    def add(self, clips: Iterable[DepthClip]) -> None:
        """Score the next test clips.

        One clip at a time: products of matrices may round differently for another number of rows.
        """
        for clip in clips:
            for case, sums in self._sums.items():
                guess = self.probes.maps(case, clip)
                sums.append(
                    np.stack(
                        [cell_sums(guess, clip.metres, cells) for cells in (clip.hit, clip.objects)]
                    )
                )
                if case == HEADLINE:
                    self._show(clip, guess)
            self._moving.append(clip.moving_camera)
            self.num_clips += 1

    def _show(self, clip: DepthClip, guess: np.ndarray) -> None:
        for frame in range(self._num_frames):
            if self.num_clips * self._num_frames + frame in self._shown:
                # Copies: a view would keep the whole clip.
                kept = clip.frames[frame].copy(), clip.metres[frame].copy(), guess[frame].copy()
                self._pictures.append(kept)

    def pictures(self) -> DepthPictures:
        """The shown frames.

        Raises:
            InputError: no clips came.
        """
        self._check()
        frames, true, probed = zip(*self._pictures, strict=True)
        return DepthPictures(
            torch.from_numpy(np.stack(frames)), np.stack(true).astype(np.float64), np.stack(probed)
        )

    def section(self, seed: int = 0) -> dict[str, object]:
        """The report's section `depth`.

        Args:
            seed: of the bootstrap.

        Raises:
            InputError: no clips came, or none shows a surface.
        """
        self._check()
        plan, nulls = self.probes.plan, self._nulls(HEADLINE)
        section = self._scores(HEADLINE, seed) | {
            "level": 0,
            "source": "tokens",
            "head": "linear",
            "num_clips": self.num_clips,
            "num_frames": self.num_clips * self._num_frames,
            "cells_per_frame": plan.cells[0] * plan.cells[1],
            "num_train_clips": self.probes.train_clips[100],
            "num_val_clips": self.probes.num_val_clips,
            "null": {name: self._scores(case) for name, case in nulls.items()}
            | {"pixels": self._scores(Case(PIXELS)), "mean": self._scores(MEAN)},
            "conv": self._beside(
                Case(HEADLINE.reading, "conv"), self._scores, partial(self._scores, seed=seed)
            ),
            "by_level": self._by_level(),
            "data_efficiency": {
                f"percent{percent}": {
                    "num_clips": count,
                    **self._beside(Case(HEADLINE.reading, percent=percent), self._short),
                }
                for percent, count in self.probes.train_clips.items()
            },
        }
        if "untrained" in nulls:
            section["ci95_gain_over_untrained_m"] = self._gain(nulls["untrained"], seed)
        cameras = self._by_camera(HEADLINE)
        for camera, scores in cameras.items():
            others = nulls | {"pixels": Case(PIXELS), "mean": MEAN}
            scores["null"] = {
                name: {"rmse_m": self._by_camera(case)[camera]["rmse_m"]}
                for name, case in others.items()
            }
        return section | ({"by_camera": cameras} if cameras else {})

    def _check(self) -> None:
        if not any(sums[0, 0] for sums in self._sums[MEAN]):
            raise InputError(
                f"none of {self.num_clips} test clips shows a surface, so depth has no score; "
                "evaluate on a set with test clips of the physics world"
            )

    def _table(self, case: Case) -> np.ndarray:
        """`(clips, 2, NUM_SUMS)`: over all cells, and over those of objects."""
        return np.array(self._sums[case]).reshape(-1, 2, NUM_SUMS)

    def _scores(self, case: Case, seed: int | None = None) -> dict[str, object]:
        """All metrics over all cells, and over those of objects where there are any.

        Args:
            case: whose.
            seed: of the resampling that intervals are made by; None leaves them out.
        """
        everything, objects = np.moveaxis(self._table(case), 1, 0)
        scores = self._area(everything, seed)
        return scores | ({"objects": self._area(objects, seed)} if objects[:, 0].any() else {})

    @staticmethod
    def _area(table: np.ndarray, seed: int | None) -> dict[str, object]:
        """Metrics of the sums of each clip, `(clips, NUM_SUMS)`."""
        scores: dict[str, object] = dict(scores_of(table.sum(0)))
        return scores if seed is None else scores | {"ci95_rmse_m": _rmse_interval(table, seed)}

    def _short(self, case: Case) -> dict[str, object]:
        scores = scores_of(self._table(case)[:, 0].sum(0))
        return {name: scores[name] for name in ("rmse_m", "delta1")}

    def _by_camera(self, case: Case) -> dict[str, dict[str, object]]:
        """Scores of clips whose camera moves and of those whose camera stands, if any are known."""
        table = self._table(case)[:, 0]
        found: dict[str, dict[str, object]] = {}
        for name, moves in (("moving", True), ("standing", False)):
            chosen = np.array([moving is moves for moving in self._moving])
            if table[chosen, 0].sum():
                scores = scores_of(table[chosen].sum(0))
                found[name] = {"num_clips": int(chosen.sum()), "rmse_m": scores["rmse_m"]}
        return found

    def _nulls(self, case: Case) -> dict[str, Case]:
        """The same probe on the networks that are compared with the model."""
        return {
            other.reading.network: other
            for other in self.probes.probes
            if other != case and other == _of_network(case, other.reading.network)
        }

    def _beside(self, case: Case, score: Score, headline: Score | None = None) -> dict[str, object]:
        """Scores of a probe, by `headline` if that is given, beside those of its nulls."""
        nulls = {name: score(other) for name, other in self._nulls(case).items()}
        return (headline or score)(case) | {"null": nulls}

    def _by_level(self) -> dict[str, dict[str, object]]:
        """Per level and source, all of them asked in the same frames and cells."""
        found: dict[str, dict[str, object]] = {}
        for case in self.probes.probes:
            if case == Case(case.reading) == _of_network(case, HEADLINE.reading.network):
                cameras = self._by_camera(case)
                scores = self._beside(case, self._short)
                level = found.setdefault(f"level{case.reading.level}", {})
                level[case.reading.source] = scores | ({"by_camera": cameras} if cameras else {})
        return found

    def _gain(self, null: Case, seed: int) -> list[float] | None:
        """95 % interval of the null's rmse minus the model's in metres; None of a single clip.

        Both are scored on the same resampled clips: clips that are hard for both cancel.
        """
        table, other = self._table(HEADLINE)[:, 0], self._table(null)[:, 0]
        table, other = table[table[:, 0] > 0], other[table[:, 0] > 0]
        if len(table) < 2:
            return None
        rows = np.random.default_rng(seed).integers(0, len(table), size=(RESAMPLES, len(table)))
        rmse, other_rmse = (
            np.sqrt(sums[rows, 1].sum(1) / sums[rows, 0].sum(1)) for sums in (table, other)
        )
        return percentile_interval(other_rmse - rmse, len(table))


def _rmse_interval(table: np.ndarray, seed: int) -> list[float] | None:
    """95 % interval of the rmse in metres, resampling clips, from the sums `(clips, NUM_SUMS)`."""
    clips = np.arange(len(table))
    return bootstrap_groups(table[:, 1], table[:, 0], clips, lambda a, b: np.sqrt(a / b), seed)


def _of_network(case: Case, network: str) -> Case:
    """The same probe on another network."""
    return replace(case, reading=replace(case.reading, network=network))
