"""Where a report comes from: which model, which set, which code."""

import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import worldmodel
from worldmodel.models.checkpoint import LoadedModel

# Index hash of the default set as first generated (x86-64, the pinned renderer). Another CPU may
# round rays differently; the report says so instead of comparing unlike with like.
REFERENCE_INDEX_SHA256 = "91add0d91948d78dd5d156573d1453f109265fcd1e1c0a4b32d5a16ddea92078"
PACKAGES = (
    "torch",
    "lightning",
    "numpy",
    "av",
    "mujoco-core",
    "numba",
    "torchmetrics",
    "matplotlib",
)


def describe(model: LoadedModel, index: str, counts: Mapping[str, int]) -> dict[str, Any]:
    """The section `meta`: what was evaluated, on what, with what.

    Args:
        model: the checkpoint.
        index: SHA-256 of the set's index.
        counts: `num_{split}_clips` and `num_{split}_blocks`.
    """
    return {
        "version": worldmodel.__version__,
        "git_commit": git_commit(),
        "packages": {name: package_version(name) for name in PACKAGES},
        **describe_model(model),
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


def git_commit() -> str:
    """Commit of the source tree this package lies in, or `unknown`."""
    folder = Path(worldmodel.__file__).resolve().parent
    try:
        found = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip()


def package_version(name: str) -> str:
    """Installed version of a package, or `missing`."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing"
