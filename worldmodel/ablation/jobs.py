"""The runs of a study, and the files that hold their results."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldmodel.ablation.study import Question, Study, Variant
from worldmodel.errors import InputError


@dataclass(frozen=True)
class Job:
    """One run: a configuration and a seed.

    Attributes:
        variants: that share it, in the order of the study; the first names its folder.
        seed: of weights, order and mirrors.
    """

    variants: tuple[Variant, ...]
    seed: int

    @property
    def first(self) -> Variant:
        """The variant that the run is named after."""
        return self.variants[0]

    @property
    def label(self) -> str:
        """For people."""
        return self.first.label(self.seed)

    @property
    def run_name(self) -> str:
        """Of its folder; another configuration under the same name has another one."""
        return f"{self.label.replace('/', '-')}-{self.first.digest}"

    def config(self, out: Path) -> dict[str, Any]:
        """The whole configuration of its training, in a study's folder."""
        config = {"name": self.run_name, "seed_everything": self.seed, **self.first.config}
        config["trainer"] = {**config["trainer"], "default_root_dir": str(out)}
        return config


def jobs_of(study: Study, questions: Sequence[Question]) -> list[Job]:
    """The runs that some questions need, each once, in the order of the study."""
    sharing: dict[str, list[Variant]] = {}
    for variant in study.variants():
        sharing.setdefault(variant.digest, []).append(variant)
    asked = [variant for question in questions for variant in question.variants]
    return [
        Job(tuple(sharing[digest]), seed)
        for digest in dict.fromkeys(variant.digest for variant in asked)
        for seed in sharing[digest][0].seeds
    ]


def result_path(out: Path, variant: Variant, seed: int) -> Path:
    """Where the result of a run is, for one of the variants that share it."""
    return out / f"{variant.label(seed)}.json"


def failure_path(out: Path, variant: Variant, seed: int) -> Path:
    """Where it is noted that a run failed."""
    return out / f"{variant.label(seed)}.failed.json"


def share_result(out: Path, job: Job, measured_on: dict[str, Any]) -> bool:
    """Whether the run's result is there; if so, all its variants have it.

    One of another configuration, or measured on something else, does not count.
    """
    wanted = (job.first.digest, measured_on)
    found = [read_result(result_path(out, variant, job.seed)) for variant in job.variants]
    usable = [each for each in found if each and (each["digest"], each["measured_on"]) == wanted]
    if not usable:
        return False
    for variant, each in zip(job.variants, found, strict=True):
        if each not in usable:
            write_json(result_path(out, variant, job.seed), usable[0] | name_of(variant))
    return True


def name_of(variant: Variant) -> dict[str, str]:
    """As a result says whose it is."""
    return {"question": variant.question, "variant": variant.name}


def read_result(path: Path) -> dict[str, Any] | None:
    """A result; None where there is none.

    Raises:
        InputError: the file is no result.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a result: {error}; remove it") from error
    needed = ("digest", "measured_on", "sections")
    if not isinstance(found, dict) or any(name not in found for name in needed):
        raise InputError(f"{path} is no result of a study; remove it")
    return found


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)
