"""Class scores against scikit-learn and scipy, and by hand where there are ties."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from worldmodel.evaluation.benchmarks.class_scores import class_scores, top_credit


def test_scores_agree_with_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 8, 300)
    scores = generator.normal(size=(300, 8)) + 1.5 * np.eye(8)[labels]
    found = class_scores(scores, labels)
    every = np.arange(8)
    assert found["top1"] == pytest.approx(
        top_k_accuracy_score(labels, scores, k=1, labels=every), abs=1e-12
    )
    assert found["top5"] == pytest.approx(
        top_k_accuracy_score(labels, scores, k=5, labels=every), abs=1e-12
    )
    assert found["balanced_accuracy"] == pytest.approx(
        balanced_accuracy_score(labels, scores.argmax(1)), abs=1e-12
    )


def test_ties_count_as_if_broken_by_lot() -> None:
    labels = np.array([0, 1, 2, 3])
    assert top_credit(np.zeros((4, 10)), labels, 1).tolist() == [0.1] * 4
    assert top_credit(np.zeros((4, 10)), labels, 5).tolist() == [0.5] * 4
    assert class_scores(np.zeros((4, 3)), np.array([0, 1, 2, 2]))["top5"] == 1
    scores = np.array([[2.0, 1, 1, 0]])
    credits = [float(top_credit(scores, np.array([1]), k)[0]) for k in (1, 2, 3)]
    assert credits == [0, 0.5, 1]
    with pytest.raises(ValueError, match="found NaN"):
        top_credit(np.array([[np.nan, 0.0]]), np.array([0]), 1)
