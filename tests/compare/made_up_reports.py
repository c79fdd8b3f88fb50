"""Reports that nobody measured, whose truth is known."""

import json
from pathlib import Path
from typing import Any

import yaml

CLIP = {"num_frames": 12, "fps": 8.0, "size": 32}
LEVELS = [{"stride": 1, "horizons": [1, 4]}, {"stride": 2, "horizons": [1, 2]}]
ENCODER = {"size": 32}


def probe(value: float, half: float, score: str = "r2") -> dict[str, Any]:
    interval = [value - half, value + half]
    null = {"untrained": {score: value - 0.3}}
    return {score: value, f"ci95_{score}": interval, "null": null, "num_clips": 90}


def kind(wins: list[float] | None, value: float | None = None, half: float = 0.1) -> dict[str, Any]:
    """A kind of block: with what came of each, or as older reports have it."""
    score = sum(wins) / len(wins) if wins is not None else value
    assert score is not None
    entry: dict[str, Any] = {
        "relative_accuracy": score,
        "ci95": [score - half, score + half],
        "num_blocks": 20 if wins is None else len(wins),
        "null": {"untrained": {"mean": 0.5}},
    }
    if wins is not None:
        entry["wins"] = {f"block-{number:03d}": win for number, win in enumerate(wins)}
    return entry


def report(
    visible: float = 0.5,
    depth: float = 0.45,
    skill: float = 0.9,
    half: float = 0.05,
    rank: float = 0.5,
    reveal: dict[str, Any] | None = None,
    overall: dict[str, Any] | None = None,
    sha: str = "aa",
    **meta: Any,
) -> dict[str, Any]:
    """A small report of a model of two levels."""

    def level(frames: tuple[int, ...]) -> dict[str, Any]:
        return {
            f"h{number}": {"skill_ratio": skill, "horizon_frames": ahead}
            for number, ahead in enumerate(frames, 1)
        }

    reveal = kind(None, 0.7) if reveal is None else reveal
    return {
        "meta": {
            "version": "0.1.0",
            "git_commit": "c0ffee",
            "protocol_sha256": "proto",
            "checkpoint_sha256": sha,
            "global_step": 100,
            "config": {"encoder": ENCODER, "levels": LEVELS, "clip": CLIP},
            "data": {"index_sha256": "set", "split": "test", "num_clips": 200, "num_blocks": 180},
            **meta,
        },
        "collapse": {
            name: {"effective_rank": 64 * rank, "rank_fraction": rank}
            for name in ("level0", "level1")
        },
        "prediction": {"level0": level((1, 4)), "level1": level((2, 4))},
        "depth": {
            "rmse_m": depth,
            "ci95_rmse_m": [depth - half, depth + half],
            "null": {"untrained": {"rmse_m": 0.5}},
        },
        "position": {"visible": probe(visible, half)},
        "surprise": {"reveal": reveal, "overall": overall or reveal},
    }


def write_run(folder: Path, seed: int, content: dict[str, Any], **model: Any) -> Path:
    """A run's version as `fit` and `evaluate` leave it."""
    (folder / "report").mkdir(parents=True)
    (folder / "report" / "report.json").write_text(json.dumps(content))
    config = {
        "seed_everything": seed,
        "trainer": {"max_steps": 100},
        "data": {"shards": "data/set/train/*.tar", "batch_size": 8},
        "model": {"encoder": ENCODER, "levels": LEVELS, "weights": {"batch": 10}, **model},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder
