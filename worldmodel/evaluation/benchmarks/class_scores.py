"""How often is the right class first? Shares with their intervals; ties are broken by lot."""

import math
from typing import Any

import numpy as np

from worldmodel.evaluation.scores import wilson


def class_scores(scores: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """How often the right class is first, and among the first five.

    Args:
        scores: float `(n, classes)`, higher is likelier.
        labels: int `(n,)`.

    Returns:
        top1 with its 95 % interval, top5, and balanced_accuracy over the classes that occur.
    """
    first = top_credit(scores, labels, 1)
    by_class = [float(first[labels == label].mean()) for label in np.unique(labels)]
    top1 = math.fsum(first) / len(first)
    return {
        "top1": top1,
        "top5": math.fsum(top_credit(scores, labels, 5)) / len(first),
        "balanced_accuracy": math.fsum(by_class) / len(by_class),
        "ci95_top1": wilson(top1, len(first)),
    }


def top_credit(scores: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Chance that the right class is among the first k if ties are broken by lot; `(n,)`.

    Raises:
        ValueError: a score is not a number.
    """
    if np.isnan(scores).any():
        raise ValueError("class scores must be numbers, found NaN")
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    better, equal = (scores > own).sum(1), (scores == own).sum(1)
    return np.clip((k - better) / equal, 0.0, 1.0)
