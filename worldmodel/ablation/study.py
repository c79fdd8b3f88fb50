"""A study: questions about a configuration, and the variants of it that answer them.

A study is a YAML file (`configs/ablation.yaml`). Each variant names what it changes in the base
configuration; variants that come to the same configuration are trained once.
"""

import copy
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from worldmodel.errors import InputError

STUDY_KEYS = ("base", "steps", "seeds", "development", "questions")
QUESTION_KEYS = ("asks", "variants")
# What a variant may say beside what it changes in the configuration.
VARIANT_KEYS = ("steps", "seeds", "set")
OVERRIDDEN_KEYS = ("model", "data", "trainer")
# Of the trainer these are the study's: equal budgets, and no validation that costs time.
TRAINER_OF_THE_STUDY = {"limit_val_batches": 0, "enable_progress_bar": False}
# Names become those of files.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
DIGEST_LETTERS = 8


@dataclass(frozen=True, kw_only=True)
class WorldSet:
    """A set of the physics world, generated where it is missing.

    Attributes:
        path: its folder.
        num_clips, num_blocks, size, seed: see `worldmodel.world.generate.generate`.
        mix: shares of what scenes show that differ from the defaults of `Mix`.
        leave_out: kinds of event that its training clips do not show.
    """

    path: str
    num_clips: int = 2000
    num_blocks: int = 0
    size: int = 64
    seed: int = 0
    mix: dict[str, float] = field(default_factory=dict)
    leave_out: tuple[str, ...] = ()

    def make(self) -> None:
        """Generate it; nothing happens where it is there already.

        Raises:
            InputError: an argument is out of range, or the folder holds another set.
        """
        from worldmodel.world.generate import generate  # a renderer that studies seldom need
        from worldmodel.world.style import Mix

        generate(
            Path(self.path),
            num_clips=self.num_clips,
            num_blocks=self.num_blocks,
            size=self.size,
            seed=self.seed,
            mix=Mix(**self.mix),
            leave_out=self.leave_out,
        )


@dataclass(frozen=True)
class Variant:
    """One answer to a question.

    Attributes:
        question: its id.
        name: unique within the question.
        config: the whole configuration of the training but for its seed and its folder.
        seeds: of the runs; those of all variants of the same configuration together.
        training_set: generated for it; None where it learns from the base's.
    """

    question: str
    name: str
    config: dict[str, Any]
    seeds: tuple[int, ...]
    training_set: WorldSet | None = None

    @property
    def steps(self) -> int:
        """Optimizer steps of a run."""
        return self.config["trainer"]["max_steps"]

    @property
    def frames_per_step(self) -> int:
        """Frames that one optimizer step sees."""
        return self.config["data"]["batch_size"] * self.config["data"]["num_frames"]

    @property
    def digest(self) -> str:
        """Of the configuration: variants with the same one share their runs."""
        return digest_of(self.config)

    def label(self, seed: int) -> str:
        """Stable name of a run, and of its result below the study's folder."""
        return f"{self.question}/{self.name}-seed{seed}"


@dataclass(frozen=True)
class Question:
    """What is asked, and the variants that answer.

    Attributes:
        name: its id.
        asks: the question in words.
        variants: in the order of the file.
    """

    name: str
    asks: str
    variants: tuple[Variant, ...]


@dataclass(frozen=True)
class Study:
    """A whole study.

    Attributes:
        file: that it was read from.
        root: the set that the base learns from; probes learn from it too.
        development: the set that is measured on.
        questions: in the order of the file.
    """

    file: Path
    root: Path
    development: WorldSet
    questions: tuple[Question, ...]

    def variants(self) -> list[Variant]:
        """All variants of all questions."""
        return [variant for question in self.questions for variant in question.variants]

    def choose(self, only: Sequence[str]) -> tuple[Question, ...]:
        """The questions of these ids; all of them if none are given.

        Raises:
            InputError: there is no such question.
        """
        known = [question.name for question in self.questions]
        for name in only:
            if name not in known:
                raise InputError(f"{self.file} asks no question {name}; it asks {', '.join(known)}")
        return tuple(each for each in self.questions if not only or each.name in only)


def digest_of(value: Any) -> str:
    """A short name for plain data: equal data, equal name."""
    text = json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LETTERS]


def merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with some of it replaced.

    Mappings are merged, everything else is replaced, lists as a whole. Where a `class_path` names
    another class, the `init_args` of the old one are dropped: they are not its own.

    Args:
        base: stays as it is.
        override: what is different.
    """
    merged = copy.deepcopy(dict(base))
    if "class_path" in override and _class_name(override) != _class_name(merged):
        merged.pop("init_args", None)
    for name, value in override.items():
        old = merged.get(name)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            merged[name] = merge(old, value)
        else:
            merged[name] = copy.deepcopy(value)
    return merged


def _class_name(config: Mapping[str, Any]) -> str:
    """Last part of its `class_path`: classes may be named with or without their module."""
    return str(config.get("class_path", "")).rpartition(".")[2]


def read_study(file: Path) -> Study:
    """Read a study and resolve its variants.

    Raises:
        InputError: a file is missing or no YAML, or a key is missing, unknown or of another kind;
            the message names its path.
    """
    content = read_yaml(file)
    reader = _Reader(file)
    reader.check_keys(content, "", STUDY_KEYS, STUDY_KEYS)
    base = read_yaml(Path(reader.take(content, "", "base", str)))
    root = _training_root(base, file)
    development = reader.world_set(content["development"], "development", named=True)
    if Path(development.path).resolve() == root.resolve():
        raise InputError(
            f"{file}: development.path is {development.path}, the set that the base learns from; "
            "name another folder, so that nothing is measured on what was learned"
        )
    steps = reader.whole_number(content["steps"], "steps", least=1)
    seeds = reader.seeds(content["seeds"], "seeds")
    questions = []
    for name, entry in reader.mapping(content, "", "questions").items():
        where = f"questions.{name}"
        reader.check_name(name, where)
        reader.check_keys(entry, where, QUESTION_KEYS, QUESTION_KEYS)
        variants = [
            reader.variant(str(name), variant, changes, base, steps, seeds)
            for variant, changes in reader.mapping(entry, where, "variants").items()
        ]
        asks = reader.take(entry, where, "asks", str)
        questions.append(Question(str(name), asks, tuple(variants)))
    return Study(file, root, development, _shared_seeds(questions))


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping.

    Raises:
        InputError: there is none, or it holds something else.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a mapping of keys to values, got {_kind(content)}")
    return content


def _training_root(base: Mapping[str, Any], file: Path) -> Path:
    """Folder of the set whose training shards the base configuration names."""
    found = base.get("data")
    data: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    for name in ("batch_size", "num_frames"):
        if not isinstance(data.get(name), int):
            raise InputError(f"{file}: the base must say data.{name}: budgets are counted with it")
    shards = data.get("shards")
    parent = Path(shards).parent if isinstance(shards, str) else Path()
    if parent.name != "train":
        raise InputError(
            f"{file}: the base's data.shards must be the training shards of one set of the physics "
            f"world, such as data/physics/train/clips-*.tar, got {shards}"
        )
    return parent.parent


def _shared_seeds(questions: Sequence[Question]) -> tuple[Question, ...]:
    """The same questions; variants of the same configuration have each other's seeds as well."""
    seeds: dict[str, set[int]] = {}
    for question in questions:
        for variant in question.variants:
            seeds.setdefault(variant.digest, set()).update(variant.seeds)
    return tuple(
        replace(
            question,
            variants=tuple(
                replace(variant, seeds=tuple(sorted(seeds[variant.digest])))
                for variant in question.variants
            ),
        )
        for question in questions
    )


def _kind(value: Any) -> str:
    """What a value is, for a message."""
    return "nothing" if value is None else f"{value!r}"


@dataclass(frozen=True)
class _Reader:
    """Takes parts of a study's file and says where something is wrong.

    Attributes:
        file: of the study.
    """

    file: Path

    def fail(self, where: str, problem: str) -> InputError:
        """What to raise about a key's path."""
        return InputError(f"{self.file}: {where or 'the study'} {problem}")

    def check_keys(
        self, entry: Any, where: str, known: Sequence[str], needed: Sequence[str] = ()
    ) -> None:
        """Refuse what is no mapping, unknown keys, and the lack of needed ones."""
        if not isinstance(entry, dict):
            raise self.fail(where, f"must be a mapping, got {_kind(entry)}")
        for name in entry:
            if name not in known:
                path = f"{where}.{name}" if where else str(name)
                raise self.fail(path, f"is no known key; known are {', '.join(known)}")
        for name in needed:
            if name not in entry:
                raise self.fail(where, f"lacks the key {name}")

    def check_name(self, name: Any, where: str) -> None:
        """Refuse what cannot be part of a file's name."""
        if not isinstance(name, str | int) or isinstance(name, bool):
            raise self.fail(where, f"is named {name!r}, which YAML reads as no text: quote it")
        if not NAME.fullmatch(str(name)):
            raise self.fail(
                where, "must be named with letters, digits and _.+- alone: files are named after it"
            )

    def take(self, entry: Mapping[str, Any], where: str, name: str, kind: type) -> Any:
        """A value of a kind."""
        path = f"{where}.{name}" if where else name
        if not isinstance(entry[name], kind):
            raise self.fail(path, f"must be a {kind.__name__}, got {_kind(entry[name])}")
        return entry[name]

    def mapping(self, entry: Mapping[str, Any], where: str, name: str) -> dict[Any, Any]:
        """A mapping that is not empty."""
        found = self.take(entry, where, name, dict)
        if not found:
            raise self.fail(f"{where}.{name}" if where else name, "must name at least one")
        return found

    def whole_number(self, value: Any, where: str, least: int = 0) -> int:
        """A whole number, at least `least`."""
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self.fail(where, f"must be a whole number of at least {least}, got {value!r}")
        return value

    def seeds(self, value: Any, where: str) -> tuple[int, ...]:
        """A list of different seeds, at least one."""
        if not isinstance(value, list) or not value:
            raise self.fail(where, f"must be a list of seeds such as [0, 1], got {value!r}")
        seeds = tuple(self.whole_number(each, where) for each in value)
        if len(set(seeds)) < len(seeds):
            raise self.fail(where, f"names a seed twice: {value!r}")
        return seeds

    def world_set(self, entry: Any, where: str, *, named: bool, size: int = 64) -> WorldSet:
        """A set; unless it must be `named`, its folder may be left to its arguments."""
        known = [each.name for each in fields(WorldSet)]
        self.check_keys(entry, where, known, ["path"] if named else [])
        for name, value in entry.items():
            if name not in ("path", "mix", "leave_out"):
                least = 1 if name in ("num_clips", "size") else 0
                self.whole_number(value, f"{where}.{name}", least)
        mix = entry.get("mix", {})
        if not isinstance(mix, dict):
            raise self.fail(f"{where}.mix", f"must be a mapping of shares, got {_kind(mix)}")
        self._check_mix(mix, f"{where}.mix")
        arguments = {
            "size": size,
            **entry,
            "mix": {name: float(mix[name]) for name in mix},
            "leave_out": self._kinds(entry.get("leave_out", []), f"{where}.leave_out"),
        }
        found = WorldSet(**{"path": "", **arguments})
        if found.path:
            self.take(entry, where, "path", str)
            return found
        told = {name: value for name, value in asdict(found).items() if name != "leave_out"}
        if found.leave_out:
            told["leave_out"] = list(found.leave_out)
        return replace(found, path=f"data/ablation-{digest_of(told)}")

    def _kinds(self, names: Any, where: str) -> tuple[str, ...]:
        """Kinds of event, as a list has them."""
        from worldmodel.world.open_blocks import KINDS

        unknown = [each for each in names if each not in KINDS] if isinstance(names, list) else []
        if not isinstance(names, list) or unknown:
            raise self.fail(where, f"must be a list of {', '.join(KINDS)}; got {names!r}")
        return tuple(names)

    def _check_mix(self, mix: Mapping[str, Any], where: str) -> None:
        from worldmodel.world.style import Mix

        self.check_keys(mix, where, [each.name for each in fields(Mix)])
        for name, share in mix.items():
            if isinstance(share, bool) or not isinstance(share, int | float):
                raise self.fail(f"{where}.{name}", f"must be a share from 0 to 1, got {share!r}")
        try:
            Mix(**{name: float(share) for name, share in mix.items()})
        except InputError as error:
            raise self.fail(where, f"cannot be: {error}") from error

    def variant(
        self,
        question: str,
        name: Any,
        changes: Any,
        base: Mapping[str, Any],
        steps: int,
        seeds: tuple[int, ...],
    ) -> Variant:
        """A variant with its whole configuration."""
        where = f"questions.{question}.variants.{name}"
        self.check_name(name, where)
        self.check_keys(changes, where, (*VARIANT_KEYS, *OVERRIDDEN_KEYS))
        for owned in ("max_steps", "default_root_dir", *TRAINER_OF_THE_STUDY):
            if owned in (changes.get("trainer") or {}):
                raise self.fail(f"{where}.trainer.{owned}", "is the study's own; see `steps`")
        if "steps" in changes:
            steps = self.whole_number(changes["steps"], f"{where}.steps", least=1)
        if "seeds" in changes:
            seeds = self.seeds(changes["seeds"], f"{where}.seeds")
        config = merge(base, {key: changes[key] for key in OVERRIDDEN_KEYS if key in changes})
        for owned in ("name", "seed_everything"):
            config.pop(owned, None)
        config = merge(config, {"trainer": {"max_steps": steps, **TRAINER_OF_THE_STUDY}})
        training_set = None
        if "set" in changes:
            size = config["data"].get("size", 64)
            training_set = self.world_set(changes["set"], f"{where}.set", named=False, size=size)
            config["data"]["shards"] = f"{training_set.path}/train/clips-*.tar"
        return Variant(question, str(name), config, seeds, training_set)


def refuse_misfits(variants: Sequence[Variant], file: Path) -> None:
    """Build each variant's model once: a mistake shall show before hours are spent.

    Args:
        variants: of a study.
        file: that it was read from.

    Raises:
        InputError: a configuration that `worldmodel fit` would refuse.
    """
    # Torch and Lightning take seconds that reading a study does not need.
    from jsonargparse import ArgumentError, ArgumentParser
    from lightning import Trainer

    from worldmodel.data.datamodule import ClipDataModule
    from worldmodel.task import WorldModelTask

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(WorldModelTask, "model")
    parser.add_class_arguments(ClipDataModule, "data")
    parser.add_class_arguments(Trainer, "trainer", instantiate=False)
    seen = set()
    for variant in variants:
        if variant.digest in seen:
            continue
        seen.add(variant.digest)
        # A copy: the parser puts objects of its own in the place of mappings.
        config = copy.deepcopy(variant.config)
        parts = {name: config[name] for name in OVERRIDDEN_KEYS if name in config}
        where = f"{file}: questions.{variant.question}.variants.{variant.name}"
        try:
            built = parser.instantiate_classes(parser.parse_object(parts))
        except (ArgumentError, InputError) as error:
            raise InputError(f"{where}: {' '.join(str(error).split())}") from error
        needed, given = built.model.hierarchy.min_frames, built.data.num_frames
        if given < needed:
            raise InputError(
                f"{where}: the levels' horizons need clips of {needed} frames, got "
                f"data.num_frames={given}"
            )
