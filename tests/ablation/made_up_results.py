"""A small study, and results of it that nobody measured."""

import json
from pathlib import Path
from typing import Any

import yaml

from worldmodel.ablation.study import Study, read_study

BASE = {
    "name": "base",
    "seed_everything": 7,
    "trainer": {"accelerator": "cpu", "max_steps": 99, "gradient_clip_val": 1.0},
    "data": {
        "shards": "data/physics/train/clips-*.tar",
        "batch_size": 2,
        "num_frames": 12,
        "fps": 8,
        "size": 32,
    },
    "model": {
        "encoder": {"size": 32, "stem_channels": [8, 8], "num_heads": 2},
        "levels": [
            {"stride": 1, "horizons": [1, 2], "dim": 16, "width": 16, "depth": 1, "num_heads": 2},
            {"stride": 2, "horizons": [1, 2], "dim": 16, "width": 16, "depth": 1, "num_heads": 2},
        ],
        "regularizer": {
            "class_path": "worldmodel.losses.regularizers.SIGReg",
            "init_args": {"num_directions": 16},
        },
        "weights": {"prediction": 1, "batch": 10, "within_clip": 5},
    },
}
VICREG = {"model": {"regularizer": {"class_path": "worldmodel.losses.regularizers.VICReg"}}}
STUDY = {
    "steps": 3,
    "seeds": [0],
    "development": {"path": "data/dev", "num_clips": 4, "num_blocks": 1, "seed": 1},
    "questions": {
        "scope": {
            "asks": "Which scope?",
            "variants": {
                "default": {"seeds": [0, 1, 2]},
                "batch": {"model": {"weights": {"within_clip": 0}}},
            },
        },
        "regularizer": {"asks": "Which one?", "variants": {"default": {}, "vicreg": VICREG}},
    },
}


def write_study(
    folder: Path, study: dict[str, Any] | None = None, base: dict[str, Any] | None = None
) -> Path:
    """The files of a study; its base stands beside it."""
    path = folder / "base.yaml"
    path.write_text(yaml.safe_dump(base or BASE, sort_keys=False))
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump({"base": str(path), **(study or STUDY)}, sort_keys=False))
    return file


def sections(
    visible: float = 0.5, overall: float = 0.6, skill: float = 0.9, half: float = 0.05
) -> dict[str, Any]:
    """Those sections of a report that tables read, of a model of two levels."""

    def probe(value: float) -> dict[str, Any]:
        interval = [value - half, value + half]
        return {"r2": value, "ci95_r2": interval, "null": {"untrained": {"r2": value - 0.3}}}

    def kind(value: float) -> dict[str, Any]:
        null = {"untrained": {"mean": 0.5}}
        return {"relative_accuracy": value, "ci95": [value - half, value + half], "null": null}

    horizons = {
        "h2": {"skill_ratio": 1.5, "copy_ratio": 1.5},
        "h10": {"skill_ratio": skill, "copy_ratio": 0.7},
    }
    return {
        "collapse": {f"level{level}": {"rank_fraction": 0.6} for level in range(2)},
        "prediction": {f"level{level}": horizons for level in range(2)},
        "position": {"visible": probe(visible), "hidden": probe(0.1)},
        "surprise": {"reveal": kind(0.7), "overall": kind(overall)},
        "depth": {
            "rmse_m": 0.4216,
            "ci95_rmse_m": [0.41, 0.43],
            "null": {"untrained": {"rmse_m": 0.44}},
        },
    }


def spectrum(num_steps: int = 8) -> dict[str, Any]:
    """Of two levels of four directions."""
    level = {
        "autocorrelations": [0.9, 0.5, 0.1, -0.2],
        "variance_shares": {"within_clips": 0.2, "between_clips": 0.5, "between_positions": 0.3},
        "num_steps": num_steps,
        "step_seconds": 0.125,
    }
    return {"level0": level, "level1": level}


def write_result(
    out: Path, study: Study, question: str, name: str, seed: int, **scores: float
) -> None:
    """A result as a study leaves it."""
    (variant,) = [v for v in study.variants() if (v.question, v.name) == (question, name)]
    result = {
        "question": question,
        "variant": name,
        "digest": variant.digest,
        "seed": seed,
        "steps": variant.steps,
        "seconds": 12.3,
        "frames_per_second_per_core": 567.8,
        "measured_on": {},
        "sections": sections(**scores),
        "spectrum": spectrum(),
    }
    path = out / f"{variant.label(seed)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result))


def study_in(folder: Path) -> Study:
    """The small study, read."""
    return read_study(write_study(folder))


def one_question(folder: Path, question: str) -> Study:
    """The small study with one of its questions alone."""
    questions = {question: STUDY["questions"][question]}
    return read_study(write_study(folder, {**STUDY, "questions": questions}))
