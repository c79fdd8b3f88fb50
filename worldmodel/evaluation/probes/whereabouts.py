"""Where is the tracked object, how fast does it move, how does the camera? Linear probes.

A step's context state has seen everything up to the last frame of the step; the truth it is asked
for is that of this frame. Probes are fitted on training clips, strength and level are chosen on
validation clips, and test clips are answered as they stream by: of them only answers are kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from worldmodel.evaluation.probes.linear import LinearProbe, fit_ridges
from worldmodel.evaluation.probes.mlp import MlpProbe
from worldmodel.evaluation.probes.observe import CONTEXT, MODEL, TOKENS, UNTRAINED_CONTEXT
from worldmodel.evaluation.probes.samples import PARTS, Samples, extend
from worldmodel.evaluation.probes.states import Source
from worldmodel.evaluation.scores import mean_absolute_error, r2_interval, r2_score

# Fewer rows than this say nothing, and a probe cannot be fitted to them.
MIN_ROWS = 12
CAMERA = "camera"
VELOCITIES = {f"velocity, {part}": part for part in PARTS}
"""The question how fast it moves -> which steps it is asked at."""
SOURCES = (CONTEXT, TOKENS, UNTRAINED_CONTEXT)
# Shares of the training clips that the curve of data efficiency is made of.
LABEL_SHARES = (0.01, 0.1)
# Frames for which the object has been hidden, in bins [first, last].
HIDDEN_FOR = ((1, 4), (5, 8), (9, 10**6))
MLP_WIDTH = 64

Asked = tuple[str, Source, int]
"""A question, what it is asked of, and the level."""


def absent(reason: str) -> dict[str, str]:
    """A section that could not be measured, and why."""
    return {"absent": reason}


@dataclass(frozen=True)
class Whereabouts:
    """Fitted probes.

    Attributes:
        probes: one for each question, source and level that had rows enough.
        clocks: per question and level.
        levels: of each question's headline: the best context state of the model on validation.
        mlps: a small network beside the headline's probe.
        few_labels: per question, network and share of training clips, at the headline's level.
        camera_spread: `(6,)`, m/s and rad/s, of the camera's velocity in training clips, by which
            it is divided: metres and radians must not be added up.
    """

    probes: dict[Asked, LinearProbe]
    clocks: dict[tuple[str, int], LinearProbe]
    levels: dict[str, int]
    mlps: dict[str, MlpProbe]
    few_labels: dict[tuple[str, Source, float], LinearProbe]
    camera_spread: np.ndarray


def question_rows(
    samples: Samples, source: Source, level: int, part: str, camera_spread: np.ndarray
) -> tuple[Tensor, dict[str, np.ndarray], np.ndarray]:
    """Features, targets of every question that is asked there, and the clip of each row.

    Args:
        samples: clips.
        source: what is asked.
        level: of the hierarchy.
        part: one of `PARTS`, or `camera`.
        camera_spread: see `Whereabouts`.
    """
    if part == CAMERA:
        features, motion, clips = samples.camera_rows(source, level)
        return features, {CAMERA: motion / camera_spread}, clips
    mask = samples.mask(part, level)
    features, place, clips = samples.rows(source, level, mask, samples.positions(level))
    targets = {part: place, f"velocity, {part}": samples.velocities(level)[mask]}
    return features, targets, clips


def fit_whereabouts(train: Samples, val: Samples, seed: int) -> Whereabouts:
    """Fit every probe; validation chooses strengths, and the headline's level.

    Args:
        train: clips to fit on.
        val: clips to choose on.
        seed: of the small networks and of which clips make up the small shares.
    """
    spread = train.camera_rows(CONTEXT, 0)[1].std(0)
    found = Whereabouts({}, {}, {}, {}, {}, np.where(spread > 0, spread, 1.0))
    best: dict[str, float] = {}
    for part in (*PARTS, CAMERA):
        for source in SOURCES:
            # The camera's motion is in no single frame; and what is hidden, or nearly so, in none
            # that shows something else.
            if source == TOKENS and part != "visible":
                continue
            for level in range(len(train.spans)):
                rows = question_rows(train, source, level, part, found.camera_spread)
                held = question_rows(val, source, level, part, found.camera_spread)
                if min(len(rows[2]), len(held[2])) < MIN_ROWS:
                    continue
                for name, (probe, _) in fit_ridges(rows[:2], held[:2]).items():
                    found.probes[name, source, level] = probe
                    score = r2_score(probe(held[0]), held[1][name])
                    if source == CONTEXT and score > best.get(name, -np.inf):
                        best[name], found.levels[name] = score, level
                if part in PARTS and source == CONTEXT:
                    found.clocks[part, level] = _fit_clock(train, val, part, level)
    for part in PARTS:
        if part in found.levels:
            _fit_more(found, train, val, part, seed)
    return found


def _fit_clock(train: Samples, val: Samples, part: str, level: int) -> LinearProbe:
    rows = []
    for samples in (train, val):
        mask = samples.mask(part, level)
        rows.append((samples.clock(level, mask), {part: samples.positions(level)[mask]}))
    return fit_ridges(rows[0], rows[1])[part][0]


def _fit_more(found: Whereabouts, train: Samples, val: Samples, part: str, seed: int) -> None:
    """The small network, and probes of few labels, at the headline's level."""
    level = found.levels[part]
    for source in (CONTEXT, UNTRAINED_CONTEXT):
        features, targets, clips = question_rows(train, source, level, part, found.camera_spread)
        held, wanted, _ = question_rows(val, source, level, part, found.camera_spread)
        order = np.random.default_rng(seed).permutation(np.unique(clips))
        if source == CONTEXT:
            rows = (features, targets[part]), (held, wanted[part])
            found.mlps[part] = MlpProbe(*rows, hidden=MLP_WIDTH, seed=seed)
        for share in LABEL_SHARES:
            chosen = np.isin(clips, order[: max(1, round(share * len(order)))])
            if chosen.sum() < 2:
                continue
            few = features[np.flatnonzero(chosen)], {part: targets[part][chosen]}
            found.few_labels[part, source, share] = fit_ridges(few, (held, wanted))[part][0]


@dataclass
class Answers:
    """What probes and rules without a model said of the test clips, row by row.

    Attributes:
        true: per question and level; `clips` likewise.
        guesses: per question, level and who answered: a source, or the name of a rule.
        hidden_for: frames, of each hidden row.
    """

    true: dict[tuple[str, int], list[np.ndarray]] = field(default_factory=dict)
    clips: dict[tuple[str, int], list[np.ndarray]] = field(default_factory=dict)
    guesses: dict[tuple[str, int, Source | str], list[np.ndarray]] = field(default_factory=dict)
    hidden_for: dict[int, list[np.ndarray]] = field(default_factory=dict)
    num_clips: int = 0

    def of(self, name: str, level: int, who: Source | str) -> np.ndarray:
        """All answers of one, `(n, K)`."""
        return np.concatenate(self.guesses[name, level, who])

    def truth(self, name: str, level: int | None) -> np.ndarray:
        """What is true, `(n, K)`; no rows where nobody asked."""
        parts = [] if level is None else self.true.get((name, level), [])
        return np.concatenate(parts) if parts else np.zeros((0, 1))

    def merge(self, later: "Answers") -> None:
        """Take in the answers about the clips that follow."""
        extend(self.true, later.true)
        extend(self.guesses, later.guesses)
        extend(self.hidden_for, later.hidden_for)
        for key, parts in later.clips.items():
            self.clips.setdefault(key, []).extend(part + self.num_clips for part in parts)
        self.num_clips += later.num_clips


def answer(found: Whereabouts, test: Samples) -> Answers:
    """Ask every probe about some test clips."""
    answers = Answers(num_clips=len(test))
    if not len(test):
        return answers
    for (name, source, level), probe in found.probes.items():
        part = VELOCITIES.get(name, name)
        features, targets, clips = question_rows(test, source, level, part, found.camera_spread)
        answers.guesses[name, level, source] = [probe(features)]
        if source != CONTEXT:
            continue
        answers.true[name, level], answers.clips[name, level] = [targets[name]], [clips]
        if level != found.levels[name] or name not in PARTS:
            continue
        more: dict[str, LinearProbe | MlpProbe] = {
            f"share{share:g}": few
            for (question, whose, share), few in found.few_labels.items()
            if question == name and whose == CONTEXT
        }
        more["mlp"] = found.mlps[name]
        for who, each in more.items():
            answers.guesses[name, level, who] = [each(features)]
    _answer_by_rule(found, test, answers)
    return answers


def _answer_by_rule(found: Whereabouts, test: Samples, answers: Answers) -> None:
    """What needs no model, and the untrained network's probes of few labels."""
    for part, level in ((part, found.levels[part]) for part in PARTS if part in found.levels):
        mask, ends = test.mask(part, level), test.ends(level)
        known = test.sightings(level)
        rules = {
            "copy_last_seen": np.stack([each.last for each in known])[:, ends][mask],
            "constant_velocity": np.stack([each.extrapolated for each in known])[:, ends][mask],
            "clock": found.clocks[part, level](test.clock(level, mask)),
        }
        features = question_rows(test, UNTRAINED_CONTEXT, level, part, found.camera_spread)[0]
        for (question, source, share), probe in found.few_labels.items():
            if question == part and source == UNTRAINED_CONTEXT:
                rules[f"untrained_share{share:g}"] = probe(features)
        for name, guess in rules.items():
            answers.guesses[part, level, name] = [guess]
        if part == "hidden":
            lengths = np.stack([track.hidden_for for track in test.tracks])[:, ends]
            answers.hidden_for[level] = [lengths[mask]]


def _scores(guess: np.ndarray, true: np.ndarray) -> dict[str, float]:
    return {"r2": r2_score(guess, true), "mae_px": mean_absolute_error(guess, true)}


def _by_level(found: Whereabouts, answers: Answers, name: str) -> dict[str, dict[str, dict]]:
    """R² of every level's tokens and context states, the untrained network's beside it."""
    table: dict[str, dict[str, dict]] = {}
    for question, source, level in found.probes:
        true = answers.truth(name, level)
        if question != name or not len(true):
            continue
        kind = source.kind if source.network == MODEL else f"untrained_{source.kind}"
        table.setdefault(kind, {})[f"level{level}"] = {
            "r2": r2_score(answers.of(name, level, source), true),
            "num_frames": len(true),
        }
    return table


def position_section(found: Whereabouts, answers: Answers, part: str) -> dict:
    """`position.visible`, `.partly` or `.hidden`: the place of the tracked object in the image."""
    level = found.levels.get(part)
    true = answers.truth(part, level)
    if level is None or len(true) < MIN_ROWS:
        return absent(f"fewer than {MIN_ROWS} steps with the tracked object {part}")
    clips = np.concatenate(answers.clips[part, level])
    guess = answers.of(part, level, CONTEXT)
    rules = {"untrained": answers.of(part, level, UNTRAINED_CONTEXT)} | {
        name: answers.of(part, level, name)
        for name in ("copy_last_seen", "constant_velocity", "clock")
    }
    section = {
        **_scores(guess, true),
        "ci95_r2": r2_interval(guess, true, clips),
        "num_frames": len(true),
        "num_clips": len(np.unique(clips)),
        "level": level,
        "mlp": _scores(answers.of(part, level, "mlp"), true),
        "null": {name: _scores(each, true) for name, each in rules.items()},
        "by_level": _by_level(found, answers, part),
        "data_efficiency": _data_efficiency(answers, part, level, guess, rules["untrained"], true),
    }
    if part == "hidden":
        lengths = np.concatenate(answers.hidden_for[level])
        section["by_frames_hidden"] = by_frames_hidden(lengths, guess, rules, true)
    return section


def _data_efficiency(
    answers: Answers,
    part: str,
    level: int,
    guess: np.ndarray,
    untrained: np.ndarray,
    true: np.ndarray,
) -> dict[str, dict[str, float]]:
    """R² with few labelled training clips, and with all of them."""
    table: dict[str, dict[str, float]] = {}
    for share in LABEL_SHARES:
        if (part, level, f"share{share:g}") in answers.guesses:
            own = answers.of(part, level, f"share{share:g}")
            null = answers.of(part, level, f"untrained_share{share:g}")
            table[f"percent{100 * share:g}"] = {
                "r2": r2_score(own, true),
                "untrained_r2": r2_score(null, true),
            }
    table["percent100"] = {"r2": r2_score(guess, true), "untrained_r2": r2_score(untrained, true)}
    return table


def by_frames_hidden(
    lengths: np.ndarray, guess: np.ndarray, rules: Mapping[str, np.ndarray], true: np.ndarray
) -> dict[str, dict]:
    """Errors in px by how many frames the object has been hidden for.

    R² is of no use here: within a bin the places spread less than over all of them.
    """
    table = {}
    for first, last in HIDDEN_FOR:
        rows = (lengths >= first) & (lengths <= last)
        if rows.sum() < MIN_ROWS:
            continue
        name = f"frames{first}to{last}" if last < 10**6 else f"frames{first}on"
        table[name] = {
            "mae_px": mean_absolute_error(guess[rows], true[rows]),
            "num_frames": int(rows.sum()),
            "null": {
                rule: mean_absolute_error(each[rows], true[rows]) for rule, each in rules.items()
            },
        }
    return table


def velocity_section(found: Whereabouts, answers: Answers) -> dict:
    """`velocity`: px/s of the tracked object in the image, over the last two frames.

    In full view; `partly` and `hidden` are sections of their own in it.
    """
    seen, *others = (
        _motion_section(found, answers, name, "mae_px_per_second") for name in VELOCITIES
    )
    return seen | dict(zip(PARTS[1:], others, strict=True))


def camera_section(found: Whereabouts, answers: Answers) -> dict:
    """`camera_motion`: m/s and rad/s of the camera, each of six axes scaled by its spread."""
    return _motion_section(found, answers, CAMERA, "")


def _motion_section(found: Whereabouts, answers: Answers, name: str, unit: str) -> dict:
    level = found.levels.get(name)
    true = answers.truth(name, level)
    if level is None or len(true) < MIN_ROWS:
        return absent(f"fewer than {MIN_ROWS} steps at which {name} can be asked")
    clips = np.concatenate(answers.clips[name, level])
    guess = answers.of(name, level, CONTEXT)
    null = answers.of(name, level, UNTRAINED_CONTEXT)
    untrained = {"r2": r2_score(null, true)}
    section = {
        "r2": r2_score(guess, true),
        "ci95_r2": r2_interval(guess, true, clips),
        "num_frames": len(true),
        "num_clips": len(np.unique(clips)),
        "level": level,
        "null": {"untrained": untrained},
        "by_level": _by_level(found, answers, name),
    }
    if unit:
        section[unit] = mean_absolute_error(guess, true)
        untrained[unit] = mean_absolute_error(null, true)
    return section
