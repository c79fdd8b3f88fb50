"""Is it still there? Probed where no frame can tell."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldmodel.evaluation.probes.linear import LinearProbe, fit_ridge
from worldmodel.evaluation.probes.observe import CONTEXT, UNTRAINED_CONTEXT
from worldmodel.evaluation.probes.samples import Rows, Samples
from worldmodel.evaluation.probes.states import Source, asked_steps, step_ends
from worldmodel.evaluation.probes.whereabouts import HIDDEN_FOR, MIN_ROWS, absent
from worldmodel.evaluation.scores import auroc, bootstrap_groups, wilson


@dataclass(frozen=True)
class HiddenWorlds:
    """Pairs of worlds, one with and one without the object, while their frames are equal.

    Attributes:
        present: `(num_blocks, 2)`, whether the object exists in A and in B.
        windows: `(num_blocks, T)`, frames equal to the bit in both.
        states: per source and level `(num_blocks, 2, A_l, F_l)` at the asked steps.
        spans: frames per step of each level.
    """

    present: np.ndarray
    windows: np.ndarray
    states: dict[Source, list[Tensor]]
    spans: Sequence[int]

    def __len__(self) -> int:
        return len(self.present)

    @classmethod
    def join(cls, parts: Sequence["HiddenWorlds"]) -> "HiddenWorlds | None":
        """All pairs of several; None where there are none."""
        if not parts:
            return None
        states = {
            source: [
                torch.cat(levels)
                for levels in zip(*(part.states[source] for part in parts), strict=True)
            ]
            for source in parts[0].states
        }
        return cls(
            np.concatenate([part.present for part in parts]),
            np.concatenate([part.windows for part in parts]),
            states,
            parts[0].spans,
        )

    def rows(self, source: Source, level: int) -> tuple[Tensor, np.ndarray, np.ndarray, np.ndarray]:
        """Both worlds at the steps that end in a window.

        Returns:
            States, targets +1 (it exists) and -1, the block of each row, and for how many frames
            the worlds have looked the same by then.
        """
        span, num_frames = self.spans[level], self.windows.shape[1]
        assert self.states[source][level].shape[2] == len(asked_steps(num_frames, span))
        ends = step_ends(num_frames, span)
        differ = self.present[:, 0] != self.present[:, 1]
        blocks, steps = np.nonzero(self.windows[:, ends] & differ[:, None])
        pairs = self.states[source][level][
            torch.from_numpy(blocks), :, torch.from_numpy(steps)
        ].flatten(0, 1)
        sign = np.where(self.present[blocks], 1.0, -1.0).reshape(-1, 1)
        lengths = _run_lengths(self.windows)[blocks, ends[steps]]
        return pairs, sign, np.repeat(blocks, 2), np.repeat(lengths, 2)


def _run_lengths(inside: np.ndarray) -> np.ndarray:
    """At each frame the number of frames in a row, this one included, that are inside."""
    runs = np.zeros(inside.shape, dtype=np.int64)
    for frame in range(inside.shape[1]):
        before = runs[:, frame - 1] if frame else 0
        runs[:, frame] = np.where(inside[:, frame], before + 1, 0)
    return runs


def behind_rows(train: Samples, source: Source, level: int) -> Rows:
    """Training clips of single worlds, while the object is hidden or would be."""
    sign = np.where(train.present, 1.0, -1.0)[:, None, None]
    targets = np.broadcast_to(sign, (len(sign), len(train.ends(level)), 1))
    return train.rows(source, level, train.mask("behind", level), targets)


def fit_permanence(
    train: Samples, val: HiddenWorlds, source: Source, level: int
) -> tuple[LinearProbe, float] | None:
    """The probe of one level and its accuracy on validation blocks; None with too few rows."""
    features, targets, _ = behind_rows(train, source, level)
    held, wanted, _, _ = val.rows(source, level)
    if min(len(targets), len(wanted)) < MIN_ROWS or len(np.unique(targets)) < 2:
        return None
    probe, _ = fit_ridge((features, targets), (held, wanted))
    return probe, float((probe(held) * wanted > 0).mean())


def permanence_section(train: Samples, val: HiddenWorlds | None, test: HiddenWorlds | None) -> dict:
    """`permanence`: is the object behind the screen?

    Args:
        train: training clips of single worlds, with and without the object.
        val: blocks that choose strength and level.
        test: blocks that are reported on.
    """
    if val is None or test is None:
        return absent("no blocks in which one of the worlds lacks the object")
    chosen: tuple[float, int] | None = None
    right: dict[tuple[Source, int], np.ndarray] = {}
    table: dict[str, dict[str, dict]] = {}
    scores: dict[tuple[Source, int], dict[str, float]] = {}
    for source, name in ((CONTEXT, "context"), (UNTRAINED_CONTEXT, "untrained_context")):
        for level in range(len(train.spans)):
            fitted = fit_permanence(train, val, source, level)
            states, sign, _, _ = test.rows(source, level)
            if fitted is None or len(sign) < MIN_ROWS:
                continue
            guess = fitted[0](states)
            right[source, level] = (guess * sign > 0)[:, 0].astype(np.float64)
            scores[source, level] = {
                "accuracy": float(right[source, level].mean()),
                "auroc": auroc(guess[:, 0], sign[:, 0] > 0),
            }
            table.setdefault(name, {})[f"level{level}"] = scores[source, level]
            if source == CONTEXT and (chosen is None or fitted[1] > chosen[0]):
                chosen = fitted[1], level
    if chosen is None:
        return absent(f"fewer than {MIN_ROWS} steps with the object's whereabouts hidden")
    level = chosen[1]
    _, _, blocks, lengths = test.rows(CONTEXT, level)
    own = right[CONTEXT, level]
    return {
        **scores[CONTEXT, level],
        "ci95_accuracy": _interval(own, blocks),
        "num_steps": len(own),
        "num_blocks": len(np.unique(blocks)),
        "level": level,
        "by_frames_hidden": _by_length(lengths, own, right.get((UNTRAINED_CONTEXT, level))),
        "by_level": table,
        "null": {"untrained": scores[UNTRAINED_CONTEXT, level]},
    }


def _interval(right: np.ndarray, blocks: np.ndarray) -> list[float] | None:
    """95 % interval of the accuracy, resampling blocks; Wilson's where all steps came out alike."""
    if (right == right[0]).all():
        return wilson(float(right[0]), len(np.unique(blocks)))
    return bootstrap_groups(right, np.ones_like(right), blocks, lambda total, count: total / count)


def _by_length(
    lengths: np.ndarray, own: np.ndarray, untrained: np.ndarray | None
) -> dict[str, dict[str, float]]:
    """Accuracy by how long the worlds have looked the same."""
    table: dict[str, dict[str, float]] = {}
    for first, last in HIDDEN_FOR:
        rows = (lengths >= first) & (lengths <= last)
        if rows.sum() < MIN_ROWS:
            continue
        name = f"frames{first}to{last}" if last < 10**6 else f"frames{first}on"
        table[name] = {"accuracy": float(own[rows].mean()), "num_steps": int(rows.sum())}
        if untrained is not None:
            table[name]["untrained"] = float(untrained[rows].mean())
    return table
