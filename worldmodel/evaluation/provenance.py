"""Where a report comes from: which model, which set, which code."""

import hashlib
from collections.abc import Mapping
from typing import Any

from worldmodel.environment import describe_environment
from worldmodel.evaluation.protocol import PROTOCOL
from worldmodel.models.checkpoint import LoadedModel

# Index hash of the default set as first generated (x86-64, the pinned renderer). Another CPU may
# round rays differently; the report says so instead of comparing unlike with like.
REFERENCE_INDEX_SHA256 = "91add0d91948d78dd5d156573d1453f109265fcd1e1c0a4b32d5a16ddea92078"


def describe(model: LoadedModel, index: str, counts: Mapping[str, int]) -> dict[str, Any]:
    """The section `meta`: what was evaluated, on what, with what.

    Args:
        model: the checkpoint.
        index: SHA-256 of the set's index.
        counts: `num_{split}_clips` and `num_{split}_blocks`.
    """
    return {
        **describe_environment(),
        **describe_model(model),
        "protocol_sha256": hashlib.sha256(PROTOCOL.encode()).hexdigest(),
        "data": {
            "index_sha256": index,
            "split": "test",
            "num_clips": counts["num_test_clips"],
            "num_blocks": counts["num_test_blocks"],
            "reference_hash_equal": index == REFERENCE_INDEX_SHA256,
            **counts,
        },
    }


def describe_model(model: LoadedModel) -> dict[str, Any]:
    """Which checkpoint it is, and how it is built."""
    return {
        "checkpoint_sha256": model.sha256,
        "global_step": model.global_step,
        "config": model.config,
    }
