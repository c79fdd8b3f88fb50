"""How much the impossible surprises a model, and whether it knows that a thing is there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from worldmodel.errors import InputError
from worldmodel.evaluation.collapse import all_alike
from worldmodel.evaluation.footage import Block, find_samples, read_block
from worldmodel.evaluation.measure import Effort, JudgeBlocks, choose_blocks
from worldmodel.evaluation.network import CHUNK, Place, levels_of, one_thread
from worldmodel.evaluation.passes import Pace, run_pass
from worldmodel.evaluation.probes.linear import LinearProbe
from worldmodel.evaluation.probes.observe import MODEL, UNTRAINED
from worldmodel.evaluation.probes.permanence import HiddenWorlds, fit_permanence
from worldmodel.evaluation.probes.states import ASK_EVERY_FRAMES
from worldmodel.evaluation.scores import bootstrap_groups
from worldmodel.evaluation.surprise import (
    COMBINED,
    BlockScores,
    Candidate,
    ScoreBlocks,
    choose,
    contrast_wins,
    join_scores,
)
from worldmodel.evaluation.surprise.choice import (
    CurveKey,
    clip_scores,
    copy_key,
    copy_scores,
    spreads_of,
)
from worldmodel.models.checkpoint import ClipSpec, LoadedModel
from worldmodel.viewing.permanence.belief import CPU, NETWORKS, Watched

PROBED_KINDS = ("permanence", "reveal", "continuity")


@dataclass(frozen=True)
class Judgement:
    """What the networks make of blocks.

    Attributes:
        scores: of test blocks: the model's, its untrained networks' and those of rules.
        spreads: of possible validation clips, the units in which levels are combined.
        hidden: states of validation and test blocks of which one world lacks the object.
        spans: frames per step of each level.
        fps: frames per second.
    """

    scores: BlockScores
    spreads: Mapping[str, Mapping[CurveKey, float]]
    hidden: Mapping[str, HiddenWorlds]
    spans: Sequence[int]
    fps: float

    def wins(self, kind: str, places: Sequence[Place]) -> dict[str, np.ndarray]:
        """Relative accuracy of each block of a kind, some places combined.

        Args:
            kind: of block.
            places: levels and horizons.

        Returns:
            `model` and `copy` `(num_blocks,)`, `untrained` `(num_networks, num_blocks)`. All blocks
            are ties, one half, where whatever happens surprises the model alike.
        """
        rows, curves = self.scores.kinds == kind, self.scores.curves
        surprised = [place for place in places if self.is_surprised(place)]
        places = surprised or places
        candidate = COMBINED if len(places) > 1 else Candidate(*places[0])
        some: dict[CurveKey, np.ndarray] = {place: curves[place] for place in places}
        copies: dict[CurveKey, np.ndarray] = {
            copy_key(place): curves[copy_key(place)] for place in places
        }
        # Networks differ in how much surprises them, so that each has its own spread as unit.
        others = [
            clip_scores(
                {place: each.curves[place] for place in places},
                candidate,
                spreads_of(each.curves),
            )
            for each in self.scores.untrained
        ]
        own = contrast_wins(clip_scores(some, candidate, self.spreads))
        return {
            MODEL: (own if surprised else np.full_like(own, 0.5))[rows],
            "copy": contrast_wins(copy_scores(some | copies, candidate, self.spreads))[rows],
            UNTRAINED: np.array([contrast_wins(each)[rows] for each in others]),
        }

    def is_surprised(self, place: Place) -> bool:
        """Whether anything surprises the model more than something else, at a level and horizon.

        If not, its level has collapsed, and contrasts are those of rounding.
        """
        return not all_alike(self.scores.curves[place].reshape(-1, 1))

    def rule(self, kind: str, name: str) -> float:
        """Relative accuracy of `pixels_short` or `pixels_long` on the blocks of a kind."""
        wins = contrast_wins(self.scores.curves[name].mean(2))
        return float(wins[self.scores.kinds == kind].mean())


def judge_blocks(
    model: LoadedModel,
    root: Path,
    kinds: Sequence[str],
    num_untrained: int = 5,
    pace: Pace | None = None,
) -> Judgement:
    """Score a set's blocks by a model and untrained networks, everywhere, with the whole past.

    Args:
        model: whose blocks; its untrained networks have seeds from 0 on.
        root: folder of a set of the physics world.
        kinds: of the test blocks that are scored; of those without the object in one world states
            are kept as well.
        num_untrained: how many.
        pace: of the passes; changes no number.

    Raises:
        InputError: the set lacks blocks of these kinds, or the model predicts nothing.
    """
    networks = {MODEL: model.network, UNTRAINED: model.untrained(0)}
    spans = [level.span for level in levels_of(model.network)]
    score = ScoreBlocks(model.network, context_frames=())
    scores, hidden, choice = {}, {}, None
    for split in ("val", "test"):
        refs = choose_blocks(find_samples(root, split, "blocks"), Effort(kinds=tuple(kinds)))
        if not refs:
            raise InputError(f"{root} has no {split} blocks of {', '.join(kinds)}")
        read = partial(read_block, clip=model.clip, maps=False)
        work = JudgeBlocks(score, networks, CPU)
        parts = list(run_pass(refs, read, work, CHUNK // 2, CPU, pace or Pace(quiet=True)))
        scores[split] = join_scores([part.scores for part in parts])
        joined = HiddenWorlds.join([part.hidden for part in parts if part.hidden is not None])
        if joined is not None:
            hidden[split] = joined
        if split == "val":
            choice = choose(scores["val"], spans)
            if choice is None:
                raise InputError("the model predicts nothing within its clips: no surprise")
            untrained = tuple(model.untrained(seed) for seed in range(num_untrained))
            # Untrained networks are scored everywhere where everything is combined.
            choice = replace(choice, candidate=COMBINED)
            score = replace(score, untrained=untrained, choice=choice)
    assert choice is not None
    return Judgement(scores["test"], choice.spreads, hidden, spans, model.clip.fps)


def clearest_block(root: Path, kind: str, clip: ClipSpec) -> Block:
    """The test block of a kind whose two worlds look most different, so that one sees what changes.

    Chosen by pixels (mean absolute difference over all frames), never by a score.

    Raises:
        InputError: there is none.
    """
    refs = choose_blocks(find_samples(root, "test", "blocks"), Effort(kinds=(kind,)))
    if not refs:
        raise InputError(f"{root} has no test block of the kind {kind}")
    blocks = [read_block(ref, clip, maps=False) for ref in refs]
    return max(blocks, key=_world_difference)


def _world_difference(block: Block) -> float:
    """Mean absolute difference of the worlds' pixels."""
    return float(block.frames.float().diff(dim=0).abs().mean())


@dataclass(frozen=True)
class Presence:
    """Answers to: is the object behind the screen? Where the frames of both worlds are equal.

    Attributes:
        level: whose context states are read, the best on validation blocks.
        said: `(rows,)` by network: above 0 for yes.
        there: `(rows,)` it is.
        blocks: `(rows,)`.
        seconds: `(rows,)`, for how long both worlds have looked the same, rounded up to the time
            between two questions.
    """

    level: int
    said: Mapping[str, np.ndarray]
    there: np.ndarray
    blocks: np.ndarray
    seconds: np.ndarray

    def accuracy(self, who: str, rows: np.ndarray) -> tuple[float, list[float]]:
        """Share of right answers among rows, and its 95 % interval over blocks.

        Not a number of a single one.
        """
        right = ((self.said[who] > 0) == self.there)[rows].astype(np.float64)
        ends = bootstrap_groups(
            right, np.ones_like(right), self.blocks[rows], lambda total, count: total / count
        )
        return float(right.mean()), ends or [np.nan, np.nan]


@one_thread()
def ask_presence(watched: Watched, judgement: Judgement) -> Presence:
    """Fit the probe of permanence to single worlds and ask it where no frame can tell.

    Raises:
        InputError: too few steps, or no blocks of which one world lacks the object.
    """
    train, hidden = watched.samples["train"], judgement.hidden
    probes: dict[str, dict[int, tuple[LinearProbe, float]]] = {name: {} for name in NETWORKS}
    for name, source in NETWORKS.items() if len(hidden) == 2 else ():
        for level in range(len(train.spans)):
            fitted = fit_permanence(train, hidden["val"], source, level)
            if fitted is not None:
                probes[name][level] = fitted
    levels = [level for level in probes[MODEL] if level in probes[UNTRAINED]]
    if not levels:
        raise InputError(
            f"too few steps at which an object is hidden; take more clips, and blocks of the kinds "
            f"{', '.join(PROBED_KINDS)}"
        )
    level = max(levels, key=lambda each: (probes[MODEL][each][1], -each))
    said = {}
    for name, source in NETWORKS.items():
        states, sign, blocks, frames = hidden["test"].rows(source, level)
        said[name] = probes[name][level][0](states)[:, 0]
    # Windows begin at odd and at even frames: without rounding neighbours are of other blocks.
    every = max(ASK_EVERY_FRAMES, train.spans[level])
    seconds = np.ceil(frames / every) * every / judgement.fps
    return Presence(level, said, sign[:, 0] > 0, blocks, seconds)
