"""Everything that is measured of one model, in the order in which it must happen.

Training clips teach the probes and the trivial predictors, validation clips and blocks choose every
setting, and only then are test clips and blocks looked at, as they stream by. Memory does not grow
with the number of test clips but by their answers, some kB each.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from worldmodel.data.shards import SampleRef, read_metadata
from worldmodel.evaluation.collapse import EffectiveRank
from worldmodel.evaluation.footage import (
    Block,
    Footage,
    block_metadata,
    is_event,
    mirrored_too,
    read_block,
    read_footage,
    seen_fps,
)
from worldmodel.evaluation.network import (
    CHUNK,
    Network,
    levels_of,
    one_thread,
    run_chunk,
)
from worldmodel.evaluation.passes import Pace, run_pass
from worldmodel.evaluation.pictures import HiddenClip, Shown
from worldmodel.evaluation.prediction import PredictionErrors
from worldmodel.evaluation.probes.depth import (
    MAX_TRAIN_CLIPS,
    MAX_VAL_CLIPS,
    DepthClip,
    DepthPlan,
    DepthSamples,
    fit_depth,
    take_depth,
)
from worldmodel.evaluation.probes.depth_scores import (
    DepthPictures,
    DepthScores,
)
from worldmodel.evaluation.probes.objects import PERMANENCE_KINDS, hidden_windows, is_present
from worldmodel.evaluation.probes.observe import (
    CONTEXT,
    MODEL,
    UNTRAINED,
    UNTRAINED_CONTEXT,
    Observation,
    observe,
)
from worldmodel.evaluation.probes.permanence import HiddenWorlds, permanence_section
from worldmodel.evaluation.probes.rollout import (
    AheadAnswers,
    RolloutAnswers,
    ahead_section,
    answer_ahead,
    answer_rollouts,
    rollout_section,
    token_heads,
)
from worldmodel.evaluation.probes.samples import PARTS, Samples
from worldmodel.evaluation.probes.states import asked_steps, flat_states
from worldmodel.evaluation.probes.stored import StoredProbes
from worldmodel.evaluation.probes.things import (
    QUESTIONS,
    ThingAnswers,
    ThingProbes,
    answer_things,
    fit_things,
    thing_section,
)
from worldmodel.evaluation.probes.whereabouts import (
    Answers,
    Whereabouts,
    answer,
    camera_section,
    fit_whereabouts,
    position_section,
    velocity_section,
)
from worldmodel.evaluation.surprise import (
    BlockScores,
    ScoreBlocks,
    choose,
    headline_section,
    join_scores,
    surprise_sections,
)
from worldmodel.evaluation.surprise.scoring import CONTEXT_FRAMES
from worldmodel.models.checkpoint import LoadedModel

# Blocks of which whole states are kept, half a MB each; of all others only scores.
MAX_HIDDEN_BLOCKS = 400
# Results of blocks are small: workers may go on for long while this process fits probes.
BLOCK_CHUNKS_AHEAD = 128
# What is shown of depth where it is not probed.
NO_PICTURES = DepthPictures(
    torch.zeros(0, 3, 1, 1, dtype=torch.uint8), np.zeros((0, 1, 1)), np.zeros((0, 1, 1))
)


@dataclass(frozen=True)
class Data:
    """Samples to measure on, by split; those of training and validation already chosen.

    Attributes:
        clips: of train, val and test.
        blocks: of val and test, and of ood where the set has any.
    """

    clips: Mapping[str, Sequence[SampleRef]]
    blocks: Mapping[str, Sequence[SampleRef]]


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is measured: the whole report by default; less of it costs less and says less.

    Attributes:
        event_clips, free_clips: training clips for probes and trivial predictors. Event clips count
            twice, mirrored as well. With 1000, 800 and 600 event clips r2 of visible positions was
            .77, .77, .77, of hidden ones .16, .18, .13: no more than the difference between two
            samples of clips.
        val_clips: validation clips, which choose strengths and levels of probes.
        num_untrained: untrained networks on test blocks.
        num_untrained_unseen: on the blocks with unseen looks fewer do: they take a fifth of the
            whole time otherwise.
        context_frames: lengths of a limited past at which blocks are scored too; none leaves
            `surprise_by_context` without numbers.
        depth: whether depth is probed.
        rollouts: whether the model is rolled out on its own predictions.
        kinds: of blocks; None for all.
    """

    event_clips: int = 500
    free_clips: int = 150
    val_clips: int = 400
    num_untrained: int = 10
    num_untrained_unseen: int = 3
    context_frames: tuple[int, ...] = CONTEXT_FRAMES
    depth: bool = True
    rollouts: bool = True
    kinds: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Run:
    """How to run.

    Attributes:
        device: of the networks.
        pace: of passes over samples; changes no number.
        seed: of untrained networks, small MLPs and bootstrap.
        effort: how much is measured; `Data` holds the samples that it asks for.
    """

    device: torch.device
    pace: Pace = field(default_factory=Pace)
    seed: int = 0
    effort: Effort = field(default_factory=Effort)


def choose_training(refs: Sequence[SampleRef], effort: Effort) -> list[SampleRef]:
    """At most so many event clips and so many others, in the order of their keys."""
    event = [ref for ref in refs if is_event(read_metadata(ref))]
    names = {ref.key for ref in event}
    free = [ref for ref in refs if ref.key not in names]
    chosen = evenly(event, effort.event_clips) + evenly(free, effort.free_clips)
    return sorted(chosen, key=lambda ref: ref.key)


def choose_blocks(refs: Sequence[SampleRef], effort: Effort) -> list[SampleRef]:
    """The blocks of the kinds that are asked for."""
    if effort.kinds is None:
        return list(refs)
    return [ref for ref in refs if block_metadata(ref)["kind"] in effort.kinds]


def evenly(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` items, evenly spread over the list."""
    if len(items) <= count:
        return list(items)
    return [items[number * len(items) // count] for number in range(count)]


# --- What workers do -----------------------------------------------------------------------------


@dataclass
class Seen:
    """What a chunk of training or validation clips leaves behind."""

    observation: Observation
    depth: list[DepthClip]
    errors: PredictionErrors | None


@dataclass(frozen=True)
class WatchClips:
    """Makes of training or validation clips what probes learn from.

    Attributes:
        networks: `model` and `untrained`.
        fps: frames per second of the clips.
        errors: what trivial predictors learn from; None for validation clips.
        depth: whether anything is kept for its probes.
    """

    networks: Mapping[str, Network]
    fps: float
    errors: PredictionErrors | None
    depth: bool = True

    def __call__(self, clips: list[Footage]) -> Seen:
        """Of some clips; training clips of events are watched in a mirror as well."""
        if self.errors is not None:
            clips = list(mirrored_too(clips))
        seen = observe(self.networks, clips, self.fps)
        errors = None
        if self.errors is not None:
            errors = self.errors.blank()
            kept = torch.from_numpy(~np.array(seen.mirrored))
            errors.fit([values[kept] for values in seen.outputs[MODEL][0]])
        depth = depth_clips(self.networks, clips, seen) if self.depth else []
        seen.outputs.clear()
        return Seen(seen, depth, errors)


def depth_clips(
    networks: Mapping[str, Network], clips: Sequence[Footage], seen: Observation
) -> list[DepthClip]:
    """What the depth section keeps of some clips."""
    plan = DepthPlan.of(levels_of(networks[MODEL]), len(clips[0].frames))
    values = {
        name: {"tokens": tokens, "context": context}
        for name, (tokens, context, _) in seen.outputs.items()
    }
    return take_depth(plan, clips, values)


@dataclass
class Told:
    """What probes, predictors and rules said of some test clips, and how tokens spread."""

    answers: Answers
    things: ThingAnswers
    ahead: AheadAnswers
    rollouts: RolloutAnswers
    errors: PredictionErrors
    moments: list[EffectiveRank]
    depth: list[DepthClip]
    shown: list[HiddenClip] = field(default_factory=list)


@dataclass(frozen=True)
class ExamineClips:
    """Asks everything that was fitted about test clips.

    Attributes:
        networks: `model` and `untrained`.
        fps: frames per second of the clips.
        errors: with fitted trivial predictors.
        whereabouts, things: fitted probes.
        effort: says whether depth is asked for, and rollouts.
    """

    networks: Mapping[str, Network]
    fps: float
    errors: PredictionErrors
    whereabouts: Whereabouts
    things: ThingProbes
    effort: Effort

    def __call__(self, clips: list[Footage]) -> Told:
        """What is said of some clips."""
        seen = observe(self.networks, clips, self.fps)
        tokens, _, predicted = seen.outputs[MODEL]
        levels = levels_of(self.networks[MODEL])
        test = Samples.of(seen, [level.span for level in levels], self.fps, len(clips[0].frames))
        errors = self.errors.blank()
        errors.add(tokens, predicted)
        moments = [EffectiveRank(level.dim) for level in levels]
        for moment, values in zip(moments, tokens, strict=True):
            moment.update(values)
        heads = token_heads(self.whereabouts)
        return Told(
            answers=answer(self.whereabouts, test),
            things=answer_things(self.things, test),
            ahead=answer_ahead(levels, heads, seen),
            rollouts=answer_rollouts(self.networks[MODEL], heads, seen)
            if self.effort.rollouts
            else RolloutAnswers(),
            errors=errors,
            moments=moments,
            depth=depth_clips(self.networks, clips, seen) if self.effort.depth else [],
            shown=[
                HiddenClip.of(clip.key, test, number, self.whereabouts)
                for number, clip in enumerate(clips)
                if test.tracks[number].hidden.any()
            ],
        )


@dataclass
class Judged:
    """What blocks leave behind: surprise, and states while something is hidden."""

    scores: BlockScores
    hidden: HiddenWorlds | None
    first: list[Block]


@dataclass(frozen=True)
class JudgeBlocks:
    """Scores blocks, and keeps the states of worlds of which one lacks the object.

    Attributes:
        score: of all networks.
        networks: `model` and `untrained`, whose states are kept; none keeps no states.
        keep: kind of which one block is kept to be shown.
    """

    score: ScoreBlocks
    networks: Mapping[str, Network] | None
    device: torch.device
    keep: str = ""

    def __call__(self, blocks: list[Block]) -> Judged:
        """Of at most `CHUNK // 2` blocks."""
        some = [block for block in blocks if block.kind in PERMANENCE_KINDS]
        kept = [block for block in blocks if block.kind == self.keep]
        return Judged(
            self.score(blocks), _hidden_worlds(self.networks, some, self.device), kept[:1]
        )


def _hidden_worlds(
    networks: Mapping[str, Network] | None, blocks: Sequence[Block], device: torch.device
) -> HiddenWorlds | None:
    if networks is None or not blocks:
        return None
    num_frames = blocks[0].frames.shape[1]
    levels = levels_of(networks[MODEL])
    worlds = [world for block in blocks for world in block.frames]
    states = {}
    for source in (CONTEXT, UNTRAINED_CONTEXT):
        context = run_chunk(networks[source.network], worlds, device)[1]
        states[source] = [
            flat_states(values, level.grid, asked_steps(num_frames, level.span)).unflatten(
                0, (len(blocks), 2)
            )
            for values, level in zip(context, levels, strict=True)
        ]
    return HiddenWorlds(
        np.array([[is_present(truth) for truth in block.truth] for block in blocks]),
        np.stack([hidden_windows(block) for block in blocks]),
        states,
        [level.span for level in levels],
    )


# --- The order of events -------------------------------------------------------------------------


@one_thread()
def measure(model: LoadedModel, data: Data, run: Run) -> tuple[dict[str, Any], Shown]:
    """All sections of the report but `meta`, and what its pictures are made of."""
    networks = {
        MODEL: model.network.to(run.device),
        UNTRAINED: model.untrained(run.seed).to(run.device),
    }
    levels = levels_of(networks[MODEL])
    spans = [level.span for level in levels]
    clip, effort = model.clip, run.effort
    # All videos of a set have one rate.
    fps = seen_fps(data.clips["test"][0], clip)
    errors = PredictionErrors(
        [level.dim for level in levels], [level.horizons for level in levels], spans
    )
    read = partial(read_footage, clip=clip)
    read_one_block = partial(read_block, clip=clip, maps=False)

    def watch(split: str, depth: DepthSamples) -> Samples:
        fitted = errors if split == "train" else None
        work = WatchClips(networks, fps, fitted, effort.depth)
        samples = Samples(spans, fps, clip.num_frames)
        refs, title = data.clips[split], f"{split} clips"
        for seen in run_pass(refs, read, work, CHUNK, run.device, run.pace, title):
            samples.add(seen.observation)
            depth.add(seen.depth)
            if seen.errors is not None:
                errors.merge(seen.errors)
        return samples

    def judge(score: ScoreBlocks, split: str, keep: str = "") -> Iterator[Judged]:
        kept = None if split == "ood" else networks
        work = JudgeBlocks(score, kept, run.device, keep)
        refs, title = data.blocks[split], f"{split} blocks"
        chunk = CHUNK // 2
        return run_pass(
            refs, read_one_block, work, chunk, run.device, run.pace, title, BLOCK_CHUNKS_AHEAD
        )

    # What needs nothing but the model comes first, and workers go on with blocks while this process
    # fits probes: no core waits.
    scorer = partial(ScoreBlocks, networks[MODEL], context_frames=effort.context_frames)
    val_blocks = judge(scorer(device=run.device), "val")
    depth_train, depth_val = DepthSamples(MAX_TRAIN_CLIPS), DepthSamples(MAX_VAL_CLIPS)
    train, val = watch("train", depth_train), watch("val", depth_val)
    errors.solve()
    val_scores, val_hidden, _ = _collect(val_blocks)
    choice = choose(val_scores, spans, run.seed)
    count = effort.num_untrained if choice is not None else 0
    untrained = tuple(model.untrained(run.seed + n).to(run.device) for n in range(count))
    score = scorer(untrained, choice, run.device)
    test_blocks = judge(score, "test", keep="reveal")

    depth_scores, depth_probes = None, None
    if effort.depth:
        plan = DepthPlan.of(levels, clip.num_frames)
        depth_probes = fit_depth(plan, depth_train, depth_val, run.seed)
        depth_scores = DepthScores(depth_probes, len(data.clips["test"]))
    whereabouts, things = fit_whereabouts(train, val, run.seed), fit_things(train, val)
    examine = ExamineClips(networks, fps, errors, whereabouts, things, effort)
    test_clips = run_pass(
        data.clips["test"], read, examine, CHUNK, run.device, run.pace, "test clips"
    )
    told = _examine(test_clips, depth_scores, errors)
    unseen = None
    if data.blocks.get("ood"):
        unseen = judge(_only_headline(score, effort.num_untrained_unseen), "ood")
    test_scores, test_hidden, first = _collect(test_blocks)
    left_out = model.config.get("data", {}).get("left_out", ())
    report: dict[str, Any] = {
        "collapse": _collapse_section(told.moments, errors.clips),
        "prediction": errors.report(),
        "depth": {} if depth_scores is None else depth_scores.section(run.seed),
        "position": {part: position_section(whereabouts, told.answers, part) for part in PARTS},
        "velocity": velocity_section(whereabouts, told.answers),
        "camera_motion": camera_section(whereabouts, told.answers),
        **{name: thing_section(things, told.things, name) for name in QUESTIONS},
        "permanence": permanence_section(train, val_hidden, test_hidden),
        **surprise_sections(test_scores, choice, spans, run.seed, left_out),
        "position_ahead": ahead_section(told.ahead, levels),
        "rollout": rollout_section(networks[MODEL], told.rollouts, clip.num_frames)
        if effort.rollouts
        else {},
    }
    if unseen is not None:
        scores, _, _ = _collect(unseen)
        report["surprise_ood"] = headline_section(scores, choice, spans, run.seed, left_out)
    depth = NO_PICTURES if depth_scores is None else depth_scores.pictures()
    drawn = read_metadata(data.clips["test"][0])  # places are counted in the set's own pixels
    picture = (int(drawn["width"]), int(drawn["height"]))
    probes = StoredProbes.of(levels, picture, depth_probes, whereabouts, told.answers, report)
    shown = Shown(depth, told.shown, first, test_scores, choice, spans, fps, probes)
    return {name: section for name, section in report.items() if section}, shown


def _only_headline(score: ScoreBlocks, num_untrained: int) -> ScoreBlocks:
    """The same scorer where the headline is and nowhere else, beside fewer networks."""
    if score.choice is None:
        return score
    untrained = score.untrained[:num_untrained]
    return ScoreBlocks(score.model, untrained, score.choice, score.device, everywhere=False)


def _collect(parts: Iterator[Judged]) -> tuple[BlockScores, HiddenWorlds | None, list[Block]]:
    scores: list[BlockScores] = []
    hidden: list[HiddenWorlds] = []
    first: list[Block] = []
    for each in parts:
        scores.append(each.scores)
        first += each.first
        if each.hidden is not None and sum(len(some) for some in hidden) < MAX_HIDDEN_BLOCKS:
            hidden.append(each.hidden)
    return join_scores(scores), HiddenWorlds.join(hidden), first[:1]


def _examine(parts: Iterator[Told], depth: DepthScores | None, errors: PredictionErrors) -> Told:
    """Everything that was said of the test clips."""
    moments: list[EffectiveRank] = []
    whole = Told(
        Answers(), ThingAnswers(), AheadAnswers(), RolloutAnswers(), errors, moments, [], []
    )
    for part in parts:
        whole.answers.merge(part.answers)
        whole.things.merge(part.things)
        whole.ahead.merge(part.ahead)
        whole.rollouts.merge(part.rollouts)
        errors.merge(part.errors)
        if not moments:  # what was never updated warns when it is computed
            moments += part.moments
        else:
            for mine, theirs in zip(moments, part.moments, strict=True):
                mine.merge_state(theirs)
        if depth is not None:
            depth.add(part.depth)
        whole.shown = HiddenClip.longest(whole.shown + part.shown)
    return whole


def _collapse_section(moments: Sequence[EffectiveRank], num_clips: int) -> dict[str, dict]:
    """`collapse.level{l}` from the moments of test tokens."""
    section: dict[str, dict] = {}
    for level, rank in enumerate(moments):
        section[f"level{level}"] = {
            "effective_rank": float(rank.compute()),
            "rank_fraction": float(rank.compute()) / rank.dim,
            "min_std": float(rank.smallest_deviation()),
            "num_clips": num_clips,
        }
    return section
