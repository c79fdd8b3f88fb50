"""What a thing is, is read from the token that shows it."""

import numpy as np
import pytest
import torch
from planted_states import SPANS, is_blind, observation
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from square_world import FPS, FRAMES, footage

from worldmodel.evaluation.footage import Footage
from worldmodel.evaluation.probes.objects import Track
from worldmodel.evaluation.probes.observe import CONTEXT, TOKENS
from worldmodel.evaluation.probes.samples import Samples
from worldmodel.evaluation.probes.things import (
    ThingAnswers,
    answer_things,
    balance,
    balanced_accuracy,
    fit_things,
    one_hot,
    thing_section,
)


def tells_category(clip: Footage, track: Track, frames: np.ndarray) -> torch.Tensor:
    """The category, beside noise."""
    noise = is_blind(clip, track, frames)
    noise[:, 0] = 3 + float(clip.truth.state["category"][0])
    return noise


def clips_of(count: int, first: int) -> Samples:
    clips = [footage(first + n) for n in range(count)]
    return Samples.of(observation(clips, is_blind, tells_category), SPANS, FPS, FRAMES)


@pytest.fixture(scope="module")
def section() -> dict:
    found = fit_things(clips_of(24, 0), clips_of(12, 100))
    return thing_section(found, answer_things(found, clips_of(16, 200)), "category")


def test_a_planted_category_is_read_from_the_tokens_that_hold_it(section: dict) -> None:
    assert (section["source"], section["balanced_accuracy"], section["auroc"]) == ("tokens", 1, 1)
    assert section["null"]["untrained"]["auroc"] < 0.8
    assert section["null"]["pixels"]["auroc"] < 0.8
    assert section["by_level"]["context"]["level0"]["balanced_accuracy"] < 0.8
    # All right in sixteen clips: Wilson's interval for as many.
    assert section["ci95_auroc"] == pytest.approx([0.806, 1], abs=1e-3)
    assert section["chance"] == 0.5
    assert section["num_clips"] == 16


def test_a_question_whose_answer_never_varies_is_absent() -> None:
    found = fit_things(clips_of(24, 0), clips_of(12, 100))
    answers = answer_things(found, clips_of(16, 200))
    assert "animacy" not in found.classes
    assert "one class of animacy" in thing_section(found, answers, "animacy")["absent"]
    # Two classes in training and validation, one in the test clips that came.
    odd = clips_of(2, 201)
    odd._things[0].category[:] = 1
    assert "test clips show one class" in thing_section(
        found, answer_things(found, odd), "category"
    ).get("absent", "")


def test_things_of_later_chunks_belong_to_later_clips() -> None:
    found = fit_things(clips_of(24, 0), clips_of(12, 100))
    parts = ThingAnswers()
    for first in (200, 204, 208):
        parts.merge(answer_things(found, clips_of(4, first)))
    clips = np.concatenate(parts.clips)
    assert clips.min() == 0 and clips.max() == 11 and parts.num_clips == 12
    assert len(np.concatenate(parts.true["category"])) == len(clips)
    assert len(np.concatenate(parts.values["category", TOKENS, 1])) == len(clips)
    assert ("category", CONTEXT, 0) in parts.values


def test_scores_are_those_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    true = generator.integers(0, 4, 200)
    guess = np.where(generator.random(200) < 0.5, true, generator.integers(0, 4, 200))
    assert balanced_accuracy(guess, true) == pytest.approx(
        balanced_accuracy_score(true, guess), abs=1e-12
    )
    from worldmodel.evaluation.probes.things import _scores

    values = generator.normal(size=(200, 2))
    scores = _scores(values, true % 2, np.array([0, 1]))
    assert scores["auroc"] == pytest.approx(
        roc_auc_score(true % 2, values[:, 1] - values[:, 0]), abs=1e-12
    )


def test_balanced_rows_give_every_class_the_same_weight() -> None:
    labels = np.array([0] * 90 + [1] * 9 + [5])
    weights = balance(labels)
    totals = [weights[labels == each].sum() for each in (0, 1, 5)]
    assert totals == pytest.approx([100 / 3] * 3)
    assert weights.mean() == pytest.approx(1)


def test_a_class_that_training_did_not_show_has_no_column() -> None:
    assert one_hot(np.array([2, 7]), np.array([1, 2])).tolist() == [[0, 1], [0, 0]]
