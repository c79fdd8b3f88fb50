"""The report's sections on violation of expectation, from scores of blocks."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from worldmodel.evaluation.scores import auroc
from worldmodel.evaluation.surprise.choice import (
    Choice,
    clip_scores,
    combined_scores,
    copy_scores,
    hidden_kinds,
    over_steps,
    spreads_of,
)
from worldmodel.evaluation.surprise.measures import (
    accuracy_interval,
    against_networks,
    bootstrap_networks,
    contrast_wins,
    holm,
    kind_mean,
    network_range,
    pair_wins,
    sign_test,
)
from worldmodel.evaluation.surprise.peaks import peak_times
from worldmodel.evaluation.surprise.scores import BlockFacts, BlockScores

Section = dict[str, Any]

TIERS = ("overall", "open_view")
SPLIT_BY: dict[str, Callable[[BlockFacts], str]] = {
    "by_hiding": lambda facts: facts.hiding,
    "by_variant": lambda facts: facts.variant,
    "by_camera": lambda facts: facts.camera,
}
NOTHING_PREDICTED = {
    "absent": "the model predicts nothing within its clips, so that nothing can surprise it"
}


def surprise_sections(
    test: BlockScores,
    choice: Choice | None,
    spans: Sequence[int],
    seed: int = 0,
    left_out: Sequence[str] = (),
) -> dict[str, Section]:
    """The sections `surprise`, `surprise_by_level`, `surprise_by_context`, `surprise_combined`.

    Args:
        test: model and untrained networks on test blocks.
        choice: made on validation blocks.
        spans: frames per step of each level.
        seed: of the bootstrap.
        left_out: kinds that the model's training left out.
    """
    if choice is None:
        names = ("surprise", "surprise_by_level", "surprise_by_context", "surprise_combined")
        return {name: dict(NOTHING_PREDICTED) for name in names}
    headline = headline_section(test, choice, spans, seed, left_out)
    headline["overall"]["choice_stability"] = choice.stability
    headline["overall"]["num_candidates"] = choice.num_candidates
    return {
        "surprise": headline,
        "surprise_by_level": by_level_section(test),
        "surprise_by_context": by_context_section(test),
        "surprise_combined": combined_section(test, choice),
    }


def headline_section(
    scores: BlockScores,
    choice: Choice | None,
    spans: Sequence[int],
    seed: int = 0,
    left_out: Sequence[str] = (),
) -> Section:
    """All measures of each kind and tier where the headline is: `surprise`, or `surprise_ood`.

    Args:
        scores: model and untrained networks on blocks.
        choice: made on validation blocks.
        spans: frames per step of each level.
        seed: of the bootstrap.
        left_out: kinds that the model's training left out.
    """
    if choice is None:
        return dict(NOTHING_PREDICTED)
    reader = _Reader(scores, choice, spans, seed)
    groups = groups_of(scores.kinds)
    section = {name: reader.group(rows) for name, rows in groups.items()}
    for kind in sorted(set(scores.kinds.tolist())):
        section[kind]["wins"] = reader.wins_by_block(groups[kind])
    for rows in tiers_of(scores.kinds).values():
        _correct([section[kind] for kind in sorted(set(scores.kinds[rows].tolist()))])
    for kind in left_out:
        if kind in section:
            section[kind]["left_out"] = True
    return section


def tiers_of(kinds: np.ndarray) -> dict[str, np.ndarray]:
    """Blocks of the hidden kinds and of those in open view, where there are any."""
    hidden = hidden_kinds(kinds)
    return {tier: rows for tier, rows in zip(TIERS, (hidden, ~hidden), strict=True) if rows.any()}


def groups_of(kinds: np.ndarray) -> dict[str, np.ndarray]:
    """Blocks of each kind and tier; each tier follows its kinds."""
    groups: dict[str, np.ndarray] = {}
    for tier, rows in tiers_of(kinds).items():
        groups |= {kind: kinds == kind for kind in sorted(set(kinds[rows].tolist()))}
        groups[tier] = rows
    return groups


def by_level_section(scores: BlockScores) -> Section:
    """Relative accuracy at every level and horizon with the whole past."""
    section: Section = {}
    for level, horizon in scores.places:
        entry = section.setdefault(f"level{level}", {}).setdefault(f"h{horizon}", {})
        entry |= _accuracies(scores.curves[level, horizon].mean(2), scores.kinds)
    return section


def by_context_section(scores: BlockScores) -> Section:
    """Relative accuracy at every level and horizon for each limited length of past."""
    section: Section = {}
    for level, horizon, frames in scores.windows:
        entry = section.setdefault(f"level{level}", {}).setdefault(f"h{horizon}", {})
        scored = over_steps(scores.curves[level, horizon, frames], "mean")
        entry[f"c{frames}"] = _accuracies(scored, scores.kinds)
    return section or {
        "absent": "its steps depend on more than their own frames, or clips are short"
    }


def combined_section(scores: BlockScores, choice: Choice) -> Section:
    """Relative accuracy of all places combined, and of each level's places."""
    levels = sorted({level for level, _ in scores.places})
    section: Section = {}
    for name, rows in groups_of(scores.kinds).items():
        section[name] = {}
        for level in (None, *levels):
            keys = [place for place in scores.places if level in (None, place[0])]
            wins = contrast_wins(combined_scores(scores.curves, keys, choice.spreads))[rows]
            accuracy = {"relative_accuracy": kind_mean(wins, scores.kinds[rows])}
            if level is None:
                section[name] |= accuracy | {"num_blocks": int(rows.sum())}
            else:
                section[name][f"level{level}"] = accuracy
    return section


def _accuracies(scored: np.ndarray, kinds: np.ndarray) -> Section:
    wins = contrast_wins(scored)
    return {
        name: {"relative_accuracy": kind_mean(wins[rows], kinds[rows])}
        for name, rows in groups_of(kinds).items()
    }


class _Reader:
    """Reads all measures of some of the blocks where the headline is."""

    def __init__(
        self, scores: BlockScores, choice: Choice, spans: Sequence[int], seed: int
    ) -> None:
        self.scores, self.choice, self.spans, self.seed = scores, choice, spans, seed
        candidate, curves = choice.candidate, scores.curves
        self.means = clip_scores(curves, candidate, choice.spreads)
        self.largest = clip_scores(curves, candidate, choice.spreads, "max")
        self.wins = contrast_wins(self.means)
        # Networks differ in how much surprises them, so that each has its own spread as unit.
        self.untrained = np.array(
            [
                contrast_wins(clip_scores(other.curves, candidate, spreads_of(other.curves)))
                for other in scores.untrained
            ]
        ).reshape(-1, len(scores.keys))
        self.simple = {"copy": contrast_wins(copy_scores(curves, candidate, choice.spreads))} | {
            name: contrast_wins(curves[name].mean(2)) for name in ("pixels_short", "pixels_long")
        }
        place = choice.place
        self.times = [
            peak_times(values[place], scores.facts, place, spans[place[0]])
            for values in (curves, *(other.curves for other in scores.untrained))
        ]
        networks = (scores.space, *(other.space for other in scores.untrained))
        self.spaces = [space[place] for space in networks if place in space]

    def wins_by_block(self, rows: np.ndarray) -> dict[str, float]:
        """What came of each block of some rows, so that runs can be compared block by block."""
        return {self.scores.keys[row]: float(self.wins[row]) for row in np.flatnonzero(rows)}

    def group(self, rows: np.ndarray) -> Section:
        """All measures of the blocks of some rows, a mask `(num_blocks,)`."""
        kinds, wins, choice = self.scores.kinds[rows], self.wins[rows], self.choice
        impossible = np.tile([False, False, True, True], len(wins))
        entry: Section = {
            "relative_accuracy": kind_mean(wins, kinds),
            "ci95": accuracy_interval(wins, kinds, self.seed),
            "relative_accuracy_max": kind_mean(contrast_wins(self.largest[rows]), kinds),
            "pair_accuracy": kind_mean(pair_wins(self.means[rows]), kinds),
            "auroc": auroc(self.means[rows].reshape(-1), impossible),
            "auroc_max": auroc(self.largest[rows].reshape(-1), impossible),
            "num_blocks": len(wins),
            "level": choice.candidate.level,
            "horizon": choice.candidate.horizon,
            "context_frames": choice.candidate.context_frames,
            "place": choice.candidate.describe(self.spans, self.scores.facts[0].fps),
            # Over blocks, which count alike here; the accuracy of a tier is a mean over kinds.
            "p_value": {"chance": sign_test(wins)},
            "null": {name: kind_mean(values[rows], kinds) for name, values in self.simple.items()},
            "peak": self._peak(rows),
        }
        if len(self.untrained):
            others = self.untrained[:, rows]
            entry["p_value"]["untrained"] = against_networks(wins, others)
            entry["null"]["untrained"] = untrained_null(others, kinds, self.seed)
        if self.spaces:
            entry["peak_space"] = self._peak_space(rows)
        for title, name_of in SPLIT_BY.items():
            parts = self._split(rows, name_of)
            if parts:
                entry[title] = parts
        return entry

    def _peak(self, rows: np.ndarray) -> Section:
        """Does surprise peak when the impossible happens, and that of untrained networks?"""
        level, horizon = self.choice.place
        known = ~np.isnan(self.times[0][rows, :, 2])
        if not known.any():
            return {"absent": "surprise is not known where the impossible happens"}
        rates = np.array([times[rows][known].mean(0) for times in self.times])
        found: Section = {
            "hit_rate": float(rates[0, 0]),
            "excess_hit_rate": float(rates[0, 1]),
            "chance": float(rates[0, 2]),
            "num_clips": int(known.sum()),
            "level": level,
            "horizon": horizon,
        }
        if len(rates) > 1:
            hit, excess = rates[1:, :2].mean(0).tolist()
            found["null"] = {"untrained": {"hit_rate": hit, "excess_hit_rate": excess}}
        return found

    def _peak_space(self, rows: np.ndarray) -> Section:
        """Does the largest excess lie where the tracked object is?"""
        known = ~np.isnan(self.spaces[0][rows, :, 1])
        if not known.any():
            return {"absent": "no single object is tracked, or it is outside the picture"}
        rates = np.array([space[rows][known].mean(0) for space in self.spaces])
        found: Section = {
            "hit_rate": float(rates[0, 0]),
            "chance": float(rates[0, 1]),
            "num_clips": int(known.sum()),
            "level": self.choice.place[0],
            "horizon": self.choice.place[1],
        }
        if len(rates) > 1:
            found["null"] = {"untrained": {"hit_rate": float(rates[1:, 0].mean())}}
        return found

    def _split(self, rows: np.ndarray, name_of: Callable[[BlockFacts], str]) -> Section:
        """Relative accuracy of the rows by what `name_of` says of their blocks, if it says so."""
        names = np.array([name_of(facts) for facts in self.scores.facts])
        parts: Section = {}
        for name in sorted(set(names[rows].tolist()) - {""}):
            some = rows & (names == name)
            kinds = self.scores.kinds[some]
            parts[name] = {
                "relative_accuracy": kind_mean(self.wins[some], kinds),
                "num_blocks": int(some.sum()),
            }
            if len(self.untrained):
                others = [kind_mean(wins[some], kinds) for wins in self.untrained]
                parts[name]["untrained"] = float(np.mean(others))
        return parts


def untrained_null(wins: np.ndarray, kinds: np.ndarray, seed: int) -> Section:
    """What untrained networks score on the same blocks.

    Args:
        wins: `(num_networks, num_blocks)`.
        kinds: `(num_blocks,)`.
        seed: of the bootstrap.
    """
    accuracies = [kind_mean(own, kinds) for own in wins]
    low, high = network_range(accuracies)
    interval = bootstrap_networks(wins, kinds, seed)
    return {
        "mean": float(np.mean(accuracies)),
        "std": float(np.std(accuracies)),
        "num_networks": len(accuracies),
        "accuracies": accuracies,
        "low": low,
        "high": high,
        "ci95": interval,
        "biased": not interval[0] <= 0.5 <= interval[1],
    }


def _correct(entries: Sequence[Section]) -> None:
    """Give the kinds of one tier p-values corrected for their number."""
    for test in ("chance", "untrained"):
        if all(test in entry["p_value"] for entry in entries):
            corrected = holm([entry["p_value"][test] for entry in entries])
            for entry, value in zip(entries, corrected, strict=True):
                entry.setdefault("p_holm", {})[test] = value
