"""What is it, is it alive, does something carry it, does it touch anything? Asked of one token.

The probe reads the token that shows an object's centre, not the whole step: so it is told where to
look and asked what is there. Every object in full view counts, not the tracked one alone. Linear
probes by weighted least squares on one target per class, each class counting the same: with equal
weights the rare class, which is the one that is asked about, would hardly count.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from worldmodel.evaluation.probes.linear import LinearProbe, fit_ridges
from worldmodel.evaluation.probes.objects import Things
from worldmodel.evaluation.probes.observe import MODEL, PLACED_SOURCES, UNTRAINED
from worldmodel.evaluation.probes.samples import Samples, extend
from worldmodel.evaluation.probes.states import Source
from worldmodel.evaluation.probes.whereabouts import MIN_ROWS, absent
from worldmodel.evaluation.scores import auroc, percentile_interval, wilson
from worldmodel.world.forms import CATEGORIES

QUESTIONS = {
    "category": "category",
    "animacy": "animate",
    "support": "supported",
    "contact": "touching",
}
"""Section of the report -> attribute of `Things`."""
PIXELS = "pixels"
RESAMPLES = 1000


def class_of(things: Things, question: str) -> np.ndarray:
    """The class of each thing, whole numbers: of categories their index, else 0 or 1."""
    return np.asarray(getattr(things, QUESTIONS[question])).astype(np.int64)


@dataclass(frozen=True)
class ThingProbes:
    """Fitted probes.

    Attributes:
        classes: per question the classes that training clips show, in the order of the probe's
            columns.
        probes: per question, source (or `pixels`) and level.
        sources: per question the model's source and level that is best on validation.
    """

    classes: dict[str, np.ndarray]
    probes: dict[tuple[str, Source | str, int], LinearProbe]
    sources: dict[str, tuple[Source, int]]


def fit_things(train: Samples, val: Samples) -> ThingProbes:
    """Fit every probe; validation chooses strengths, and what the headline reads."""
    found = ThingProbes({}, {}, {})
    things, held = train.things, val.things
    for question in QUESTIONS:
        classes = np.unique(class_of(things, question))
        both = np.unique(class_of(held, question))
        # A class that validation does not show cannot be chosen for.
        if min(len(things), len(held)) >= MIN_ROWS and len(classes) > 1 and len(both) > 1:
            found.classes[question] = classes
    best: dict[str, float] = {}
    readers: list[tuple[Source | str, int]] = [(PIXELS, 0)]
    readers += [(source, level) for source in PLACED_SOURCES for level in range(len(train.spans))]
    for reader, level in readers if found.classes else []:
        targets, weights, wanted = {}, {}, {}
        for question, classes in found.classes.items():
            labels = class_of(things, question)
            targets[question] = one_hot(labels, classes)
            weights[question] = balance(labels)
            wanted[question] = one_hot(class_of(held, question), classes)
        read = (_read(train, reader, level), targets), (_read(val, reader, level), wanted)
        for question, (probe, _) in fit_ridges(*read, weights).items():
            found.probes[question, reader, level] = probe
            if not isinstance(reader, Source) or reader.network != MODEL:
                continue
            guess = found.classes[question][probe(read[1][0]).argmax(1)]
            score = balanced_accuracy(guess, class_of(held, question))
            if score > best.get(question, -np.inf):
                best[question], found.sources[question] = score, (reader, level)
    return found


def _read(samples: Samples, reader: Source | str, level: int) -> Tensor:
    return samples.placed(reader, level) if isinstance(reader, Source) else samples.patches


def one_hot(labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """`(n, len(classes))`, 1 in the column of each label; a class of none of them has no 1."""
    return (labels[:, None] == classes).astype(np.float64)


def balance(labels: np.ndarray) -> np.ndarray:
    """A weight for each row so that every class counts the same; their mean is 1."""
    _, number, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return len(labels) / (len(counts) * counts[number].astype(np.float64))


def balanced_accuracy(guess: np.ndarray, true: np.ndarray) -> float:
    """Mean over the classes that occur of the share of their rows that are guessed right."""
    classes = np.unique(true)
    return float(np.mean([np.mean(guess[true == each] == each) for each in classes]))


@dataclass
class ThingAnswers:
    """What the probes said of the things in test clips.

    Attributes:
        true: per question the class of each thing.
        clips: whose clip it is.
        values: per question, reader and level the probe's `(n, classes)`.
    """

    true: dict[str, list[np.ndarray]] = field(default_factory=dict)
    clips: list[np.ndarray] = field(default_factory=list)
    values: dict[tuple[str, Source | str, int], list[np.ndarray]] = field(default_factory=dict)
    num_clips: int = 0

    def merge(self, later: "ThingAnswers") -> None:
        """Take in the answers about the clips that follow."""
        extend(self.true, later.true)
        extend(self.values, later.values)
        self.clips += [part + self.num_clips for part in later.clips]
        self.num_clips += later.num_clips


def answer_things(found: ThingProbes, test: Samples) -> ThingAnswers:
    """Ask every probe about the things in some test clips."""
    answers = ThingAnswers(num_clips=len(test))
    things = test.things
    answers.clips = [things.clip]
    answers.true = {question: [class_of(things, question)] for question in found.classes}
    for (question, reader, level), probe in found.probes.items():
        answers.values[question, reader, level] = [probe(_read(test, reader, level))]
    return answers


def _scores(values: np.ndarray, true: np.ndarray, classes: np.ndarray) -> dict[str, float]:
    scores = {"balanced_accuracy": balanced_accuracy(classes[values.argmax(1)], true)}
    if len(classes) == 2:
        scores["auroc"] = auroc(values[:, 1] - values[:, 0], true == classes[1])
    else:
        scores["accuracy"] = float(np.mean(classes[values.argmax(1)] == true))
    return scores


def thing_section(found: ThingProbes, answers: ThingAnswers, question: str) -> dict:
    """`category`, `animacy`, `support` or `contact`."""
    if question not in found.classes:
        return absent(f"training or validation clips show one class of {question} only")
    true = np.concatenate(answers.true[question])
    classes = found.classes[question]
    if len(true) < MIN_ROWS or len(np.unique(true)) < 2:
        return absent(f"test clips show one class of {question} only")
    clips = np.concatenate(answers.clips)
    source, level = found.sources[question]

    def values(reader: Source | str, at: int) -> np.ndarray:
        return np.concatenate(answers.values[question, reader, at])

    headline = values(source, level)
    scores = _scores(headline, true, classes)
    name = "auroc" if len(classes) == 2 else "balanced_accuracy"
    table: dict[str, dict[str, dict]] = {}
    for key in answers.values:
        if key[0] == question and isinstance(key[1], Source):
            reader = key[1]
            kind = reader.kind if reader.network == MODEL else f"untrained_{reader.kind}"
            table.setdefault(kind, {})[f"level{key[2]}"] = _scores(
                values(reader, key[2]), true, classes
            )
    counts = np.array([(true == each).sum() for each in classes])
    section: dict[str, Any] = {
        **scores,
        f"ci95_{name}": _interval(headline, true, clips, classes, name),
        "chance": 0.5 if name == "auroc" else 1 / len(np.unique(true)),
        "num_things": len(true),
        "num_clips": len(np.unique(clips)),
        "level": level,
        "source": source.kind,
        "null": {
            "untrained": _scores(values(Source(UNTRAINED, source.kind), level), true, classes),
            "pixels": _scores(values(PIXELS, 0), true, classes),
        },
        "by_level": table,
    }
    if question == "category":
        section["num_per_class"] = {
            CATEGORIES[int(each)]: int(count) for each, count in zip(classes, counts, strict=True)
        }
    else:
        section["num_positive"] = int(counts[-1])
    return section


def _interval(
    values: np.ndarray, true: np.ndarray, clips: np.ndarray, classes: np.ndarray, name: str
) -> list[float] | None:
    """95 % interval of a score, resampling clips; draws that lack a class are left out.

    None of a single clip. Where every draw is as right as can be, Wilson's interval for as many.
    """
    _, number = np.unique(clips, return_inverse=True)
    count = int(number.max()) + 1
    if count < 2:
        return None
    order = np.argsort(number, kind="stable")
    starts = np.searchsorted(number[order], np.arange(count + 1))
    generator = np.random.default_rng(0)
    found = []
    for _ in range(RESAMPLES):
        drawn = generator.integers(0, count, size=count)
        rows = np.concatenate([order[starts[clip] : starts[clip + 1]] for clip in drawn])
        if len(np.unique(true[rows])) == len(np.unique(true)):
            found.append(_scores(values[rows], true[rows], classes)[name])
    if not found:
        return [0.0, 1.0]
    if min(found) == max(found) and found[0] in (0, 1):
        return wilson(found[0], count)
    return percentile_interval(found, count)
