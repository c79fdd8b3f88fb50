"""Where surprise is read for the headline: chosen on validation blocks, before test is seen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from worldmodel.evaluation.network import Place
from worldmodel.evaluation.surprise.measures import contrast_wins, kind_mean
from worldmodel.evaluation.surprise.scores import BlockScores, CurveKey, Window

# Kinds that happen in open view: a tier of their own, no part of the overall figure nor of the
# choice of the headline, for a memory of three frames is enough.
OPEN_KINDS = ("gravity", "inertia", "collision")
CHOICE_RESAMPLES = 1000
# A single candidate must beat the combination by so many standard errors of their difference.
MARGIN = 2.0


@dataclass(frozen=True)
class Candidate:
    """A way to score a clip.

    Attributes:
        level: -1 for all levels and horizons combined.
        horizon: in the level's own steps; -1 for all combined.
        context_frames: frames of the past that the predictor sees; 0 for all of it.
    """

    level: int
    horizon: int
    context_frames: int = 0

    @property
    def key(self) -> Place | Window:
        """Where its curves are among the scores; of a single place only."""
        place = (self.level, self.horizon)
        return (*place, self.context_frames) if self.context_frames else place

    def copy_key(self) -> str:
        """Where the curves of the copy predictor for it are; of a single place only."""
        return copy_key(self.key)

    def describe(self, spans: Sequence[int], fps: float) -> str:
        """In words, such as `level 1, 4 steps (1.00 s) ahead`.

        Args:
            spans: frames per step of each level.
            fps: frames per second.
        """
        if self.level < 0:
            return "all levels combined"
        steps = f"{self.horizon} step" + "s" * (self.horizon > 1)
        seconds = self.horizon * spans[self.level] / fps
        words = f"level {self.level}, {steps} ({seconds:.2f} s) ahead"
        if self.context_frames:
            words += f", from the last {self.context_frames} frames alone"
        return words


COMBINED = Candidate(-1, -1)


@dataclass(frozen=True)
class Choice:
    """What validation blocks decide.

    Attributes:
        candidate: the headline's.
        place: the single place with the whole past that did best, for where surprise peaks.
        spreads: for `mean` and `max` over steps, per place and its copy predictor, the standard
            deviation of the scores of possible validation clips.
        stability: share of resamples of the validation blocks in which the same candidate wins.
        num_candidates: among how many.
    """

    candidate: Candidate
    place: Place
    spreads: dict[str, dict[CurveKey, float]]
    stability: float
    num_candidates: int


def copy_key(key: Place | Window) -> str:
    """Name of the copy predictor's curves at a place, or at a place with a window."""
    return f"copy{key[0]}.{key[1]}" + (f".c{key[2]}" if len(key) == 3 else "")


def over_steps(curve: np.ndarray, reduce: str) -> np.ndarray:
    """Clip scores `(num_blocks, 4)` from curves `(num_blocks, 4, steps)`, by `mean` or `max`."""
    return curve.mean(2) if reduce == "mean" else curve.max(2)


def spreads_of(curves: Mapping[CurveKey, np.ndarray]) -> dict[str, dict[CurveKey, float]]:
    """Standard deviation of possible clips' scores for each curve, by `mean` and `max`."""
    return {
        reduce: {
            key: float(over_steps(curve[:, :2], reduce).std()) for key, curve in curves.items()
        }
        for reduce in ("mean", "max")
    }


def combined_scores(
    curves: Mapping[CurveKey, np.ndarray],
    keys: Sequence[CurveKey],
    spreads: Mapping[str, Mapping[CurveKey, float]],
    reduce: str = "mean",
) -> np.ndarray:
    """Mean over places of clip scores in units of their spread; `(num_blocks, 4)`.

    Surprise is larger where tokens are, and slow levels say what fast ones cannot: without the
    spread as unit one level would decide alone.

    Args:
        curves: scores of a network.
        keys: which of them; one without any spread says nothing and is left out.
        spreads: of `spreads_of`, on other blocks.
        reduce: `mean` or `max` over steps.
    """
    total = np.zeros((len(curves[keys[0]]), 4))
    for key in keys:
        spread = spreads[reduce][key]
        if spread > 0:
            total += over_steps(curves[key], reduce) / (spread * len(keys))
    return total


def clip_scores(
    curves: Mapping[CurveKey, np.ndarray],
    candidate: Candidate,
    spreads: Mapping[str, Mapping[CurveKey, float]],
    reduce: str = "mean",
) -> np.ndarray:
    """Scores of the four clips of each block by a candidate; `(num_blocks, 4)`.

    Args:
        curves: scores of a network; all its places are combined for `COMBINED`.
        candidate: how.
        spreads: of the places; used by `COMBINED` only.
        reduce: `mean` or `max` over steps.
    """
    if candidate != COMBINED:
        return over_steps(curves[candidate.key], reduce)
    places = [key for key in curves if isinstance(key, tuple) and len(key) == 2]
    return combined_scores(curves, places, spreads, reduce)


def copy_scores(
    curves: Mapping[CurveKey, np.ndarray],
    candidate: Candidate,
    spreads: Mapping[str, Mapping[CurveKey, float]],
) -> np.ndarray:
    """Scores of the four clips of each block by the copy predictor in a candidate's place."""
    if candidate != COMBINED:
        return over_steps(curves[candidate.copy_key()], "mean")
    keys = [copy_key(k) for k in curves if isinstance(k, tuple) and len(k) == 2]
    return combined_scores(curves, keys, spreads)


def hidden_kinds(kinds: np.ndarray) -> np.ndarray:
    """Which blocks are of a hidden kind, `(n,)`; all of them if none is."""
    hidden = ~np.isin(kinds, OPEN_KINDS)
    return hidden if hidden.any() else np.ones(len(kinds), dtype=bool)


def candidates_of(scores: BlockScores, spans: Sequence[int]) -> list[Candidate]:
    """All candidates, the preferred first where they are equals.

    The one that looks farthest ahead in frames, of these the lowest level, of these the one that
    sees the whole past, or more of it; the combination last.
    """
    single = [Candidate(*key) for key in (*scores.places, *scores.windows)]
    whole = 1 + max((candidate.context_frames for candidate in single), default=0)

    def rank(candidate: Candidate) -> tuple[int, int, int]:
        seen = candidate.context_frames or whole
        return -candidate.horizon * spans[candidate.level], candidate.level, -seen

    return sorted(single, key=rank) + ([COMBINED] if len(scores.places) > 1 else [])


def choose(scores: BlockScores, spans: Sequence[int], seed: int = 0) -> Choice | None:
    """The headline's candidate, from validation blocks of hidden kinds.

    All levels and horizons combined, unless a single candidate has a higher mean over kinds of
    relative accuracy by more than `MARGIN` standard errors of the difference; of several the best,
    of equals the first of `candidates_of`. Sixty blocks do not tell ten candidates apart: over 400
    draws of 10 blocks a kind out of 90, scored on the others, the highest mean alone was behind by
    .01 to .03 overall and .02 to .06 on `reveal` in six of seven trained networks, and .01 ahead in
    one.

    Args:
        scores: of the model on validation blocks.
        spans: frames per step of each level.
        seed: of the resampling for `stability`.

    Returns:
        None where the model predicts nothing within its clips.
    """
    candidates = candidates_of(scores, spans)
    if not candidates:
        return None
    spreads = spreads_of(scores.curves)
    hidden = hidden_kinds(scores.kinds)
    kinds = scores.kinds[hidden]
    wins = np.stack(
        [
            contrast_wins(clip_scores(scores.curves, candidate, spreads)[hidden])
            for candidate in candidates
        ]
    )
    merits = np.round([kind_mean(row, kinds) for row in wins], 9)
    margins = _margins(wins, kinds) if candidates[-1] == COMBINED else None
    best = int(_winners(merits[None], margins)[0])
    whole = [
        number
        for number, candidate in enumerate(candidates)
        if candidate != COMBINED and not candidate.context_frames
    ]
    single = candidates[max(whole, key=lambda number: (merits[number], -number))]
    winners = _winners(_resampled_merits(wins, kinds, seed), margins)
    return Choice(
        candidate=candidates[best],
        place=(single.level, single.horizon),
        spreads=spreads,
        stability=float((winners == best).mean()),
        num_candidates=len(candidates),
    )


def _margins(wins: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """By how much each candidate must beat the last one, the combination.

    Returns:
        `MARGIN` standard errors of the difference of their merits, blocks being drawn within kinds.
        Endless where no kind has two blocks, for then nothing tells how blocks differ.
    """
    groups = [(wins[:-1] - wins[-1])[:, kinds == kind] for kind in np.unique(kinds)]
    several = [own.var(1, ddof=1) for own in groups if own.shape[1] > 1]
    if not several:
        return np.full(len(wins) - 1, np.inf)
    # A kind with a single block says nothing about its spread: it has the others' mean.
    usual = np.mean(several, axis=0)
    variances = [
        (own.var(1, ddof=1) if own.shape[1] > 1 else usual) / own.shape[1] for own in groups
    ]
    return MARGIN * np.sqrt(np.sum(variances, axis=0)) / len(groups)


def _winners(merits: np.ndarray, margins: np.ndarray | None) -> np.ndarray:
    """Which candidate wins in each sample of blocks, `(num_samples,)`.

    Args:
        merits: `(num_samples, num_candidates)`.
        margins: of all but the last one, which wins where no other beats it by its margin; None
            where the last one has no such right.
    """
    if margins is not None:
        lower = merits[:, :-1] <= merits[:, -1:] + margins
        merits = np.concatenate([np.where(lower, -1.0, merits[:, :-1]), merits[:, -1:]], axis=1)
    return merits.argmax(1)


def _resampled_merits(wins: np.ndarray, kinds: np.ndarray, seed: int) -> np.ndarray:
    """Merit of each candidate in each resample of the blocks within their kinds."""
    generator = np.random.default_rng(seed)
    names = np.unique(kinds)
    merits = np.zeros((CHOICE_RESAMPLES, len(wins)))
    for kind in names:
        own = wins[:, kinds == kind]
        size = own.shape[1]
        counts = generator.multinomial(size, [1 / size] * size, CHOICE_RESAMPLES)
        merits += counts @ own.T / (size * len(names))
    return np.round(merits, 9)
