"""A trained model from its files, with nothing executed on the way.

A model lies in a checkpoint of `worldmodel fit`, or in an export: a folder with `config.json` and
`model.safetensors` that `worldmodel export` has written. Some exports are shipped with the package
and go by their name.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from worldmodel.errors import InputError
from worldmodel.models.encoder import EncoderConfig
from worldmodel.models.hierarchy import Hierarchy, LevelConfig
from worldmodel.models.hub_files import WEIGHTS, find_folder, first_line, hash_files, read_json

CONFIG_NAME = "config.json"
MODEL_TYPE = "worldmodel"
"""What `model_type` in an export's `config.json` says; other people's encoders say their own."""
FORMAT_VERSION = 1
# The prefix of the hierarchy's weights in a checkpoint, beside the target's and the optimizer's.
PREFIX = "hierarchy."
NORMALISATION = {"rescale_factor": 1 / 255, "mean": [0.5] * 3, "std": [1 / 3] * 3}
"""What `Hierarchy.normalize` does to pixels 0 to 255: `(pixel * rescale_factor - mean) / std`."""


@dataclass(frozen=True, kw_only=True)
class ClipSpec:
    """The clips a model was trained on."""

    num_frames: int
    """Frames per clip."""
    fps: float
    """Frames per second of video time."""
    size: int
    """Height and width in pixels."""


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A network in evaluation mode and what is known about it."""

    network: Any
    """A `Hierarchy`, or an `Adapter` around somebody else's encoder: the same two methods."""
    clip: ClipSpec
    config: dict[str, Any]
    """Encoder, levels, clip and version as stored in the checkpoint; of an export `config.json`."""
    sha256: str
    """Of the file."""
    global_step: int
    """Optimizer steps it was trained for."""
    file: Path = field(compare=False)
    """The checkpoint, or an export's weights."""

    def untrained(self, seed: int) -> Any:
        """A network of the same architecture with fresh weights, its output heads included."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            hierarchy = build_hierarchy(self.config)
            hierarchy.reset_heads()
        return hierarchy.eval().requires_grad_(False)


def build_hierarchy(config: Mapping[str, Any]) -> Hierarchy:
    """The architecture that a checkpoint or an export describes, with fresh weights.

    Args:
        config: with `encoder` and `levels`; lists, as JSON has them, stand for tuples. `top_down`
            is false where it is not there: older ones could not have it.
    """
    levels = [LevelConfig(**_with_tuples(level)) for level in config["levels"]]
    encoder = EncoderConfig(**_with_tuples(config["encoder"]))
    return Hierarchy(encoder, levels, bool(config.get("top_down", False)))


def _with_tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
    }


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint's content, with tensors on the CPU; no code in it is run.

    Raises:
        InputError: there is no such file, or it is not one of our checkpoints.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"there is no checkpoint at {path}; give a file such as last.ckpt, a folder that "
            f"`worldmodel export` wrote, or a shipped model by its name: {name_shipped()}"
        )
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that is not its own
        raise InputError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}); "
            "it may be cut short or another kind of file"
        ) from error
    found = checkpoint if isinstance(checkpoint, dict) else {}
    for name, kind in (("worldmodel", dict), ("state_dict", dict), ("global_step", int)):
        if not isinstance(found.get(name), kind):
            raise InputError(
                f"{path} is a torch file but not a checkpoint of `worldmodel fit`: "
                f"it has no `{name}` entry"
            )
    return found


def hierarchy_weights(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of a checkpoint's hierarchy by their names in it, and no others."""
    return {
        name.removeprefix(PREFIX): tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith(PREFIX)
    }


def load_model(source: str | Path) -> LoadedModel:
    """A trained network, frozen and in evaluation mode.

    Args:
        source: a file of `worldmodel fit`, or the folder of a run, whose last checkpoint is taken;
            a folder of `worldmodel export`, or `hf://org/name` where such a folder lies on the Hub;
            the name of a shipped model. Or somebody else's
            encoder in the format of Hugging Face: a folder, or `hf://org/name`.

    Raises:
        InputError: the model is missing, is none, or does not fit its own description.
    """
    if str(source).startswith("hf:"):
        folder, name = find_folder(source)
        return load_export(folder) if is_export(folder) else _load_fetched(folder, name)
    export = find_export(source)
    if export is not None:
        return load_export(export)
    if Path(source).is_dir():
        last = last_of_run(Path(source))
        if last is None:
            from worldmodel.models.huggingface import load_encoder  # a heavy library, seldom needed

            return load_encoder(source)
        source = last
    checkpoint = read_checkpoint(source)
    config = checkpoint["worldmodel"]
    return LoadedModel(
        network=build_trained(config, hierarchy_weights(checkpoint), str(source)),
        clip=ClipSpec(**config["clip"]),
        config=config,
        sha256=hash_files([Path(source)]),
        global_step=int(checkpoint["global_step"]),
        file=Path(source),
    )


def last_of_run(folder: Path) -> Path | None:
    """The last checkpoint of a run, or of the only run in a folder of them; None if it is no run.

    Raises:
        InputError: the run has none, there are several runs, or there is nothing.
    """
    found = [*folder.glob("checkpoints/last.ckpt"), *folder.glob("*/checkpoints/last.ckpt")]
    if len(found) > 1:
        versions = " or ".join(sorted(path.parents[1].name for path in found))
        raise InputError(f"{folder} holds several runs: give {versions} of it")
    if found:
        return found[0]
    if not any(folder.iterdir()):
        raise InputError(
            f"{folder} is empty: give a file such as last.ckpt, a folder that `worldmodel export` "
            f"wrote, or a shipped model by its name: {name_shipped()}"
        )
    # What a run writes before its first step.
    if any(folder.glob("config.yaml")) or any(folder.glob("*/config.yaml")):
        raise InputError(
            f"{folder} is a run without a checkpoint, cut before its first: fit again, with a "
            "smaller --checkpoint.every_n_train_steps if it ends too soon again"
        )
    return None


def _load_fetched(folder: Path, name: str) -> LoadedModel:
    """Somebody else's encoder from the Hub, under its address rather than its folder's name."""
    from worldmodel.models.huggingface import load_encoder

    try:
        encoder = load_encoder(folder)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    return replace(encoder, config=encoder.config | {"source": name})


def build_trained(
    config: Mapping[str, Any], weights: Mapping[str, Tensor], place: str
) -> Hierarchy:
    """The network that a configuration describes, with its weights, frozen.

    What is described is compared with the weights before any memory is taken for it, and the
    global random state is left as it was.

    Args:
        config: with `encoder`, `levels` and `version`.
        weights: by name.
        place: where they come from, for errors.

    Raises:
        InputError: the description cannot be built, or the weights do not fit it.
    """
    mismatch = f"{place} was written by version {config.get('version', 'unknown')}"
    try:
        with torch.device("meta"):
            described = build_hierarchy(config).state_dict()
    except Exception as error:  # whatever a constructor raises for arguments that make no sense
        raise InputError(f"{mismatch} and cannot be built here: {first_line(error)}") from error
    other = misfit(described, weights)
    if other is not None:
        raise InputError(f"{mismatch} and does not fit this one: {other}")
    with torch.random.fork_rng(devices=[]):
        hierarchy = build_hierarchy(config)
    hierarchy.load_state_dict(dict(weights))
    return hierarchy.eval().requires_grad_(False)


def model_to_begin_with(
    source: str | Path, encoder: EncoderConfig, levels: Sequence[LevelConfig], top_down: bool
) -> LoadedModel:
    """A trained model of a given architecture, whose weights a training shall begin with.

    Args:
        source: as for `load_model`.
        encoder: of the configuration, as the following.
        levels: from the fastest to the slowest.
        top_down: see `Hierarchy`.

    Raises:
        InputError: the model is missing, or its architecture is another.
    """
    model = load_model(source)
    if not isinstance(model.network, Hierarchy):
        raise InputError(f"model.init_from: {source} is not a model of `worldmodel fit`")
    differences = architecture_differences(model.config, encoder, levels, top_down)
    if differences:
        raise InputError(
            f"model.init_from: {source} has another architecture than the configuration: "
            f"{'; '.join(differences[:3])}. Take encoder, levels and top_down from the "
            "configuration that made it"
        )
    return model


def architecture_differences(
    config: Mapping[str, Any], encoder: EncoderConfig, levels: Sequence[LevelConfig], top_down: bool
) -> list[str]:
    """Where the network that a checkpoint or an export describes is another one, in words.

    Args:
        config: as for `build_hierarchy`.
        encoder: of the network here, as the following.
        levels: from the fastest to the slowest.
        top_down: see `Hierarchy`.
    """
    here = [
        ("encoder", asdict(encoder)),
        *((f"levels.{number}", asdict(each)) for number, each in enumerate(levels)),
    ]
    there = [
        asdict(EncoderConfig(**_with_tuples(config["encoder"]))),
        *(asdict(LevelConfig(**_with_tuples(level))) for level in config["levels"]),
    ]
    differences = [
        f"{place}.{name} is {own[name]} here and {other[name]} there"
        for (place, own), other in zip(here, there, strict=False)
        for name in own
        # A level's share of the loss is no part of the network.
        if own[name] != other[name] and name != "weight"
    ]
    if len(here) != len(there):
        differences.append(f"there are {len(here) - 1} levels here and {len(there) - 1} there")
    if top_down != bool(config.get("top_down", False)):
        differences.append(f"top_down is {top_down} here and {not top_down} there")
    return differences


def misfit(described: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str | None:
    """Where weights differ from those that are described, in words; None where they fit."""
    lacking, beyond = sorted(described.keys() - weights), sorted(weights.keys() - described)
    other = [
        name
        for name in sorted(described.keys() & weights)
        if described[name].shape != weights[name].shape
    ]
    for problem, names in (
        ("it lacks", lacking),
        ("it holds what the architecture has not:", beyond),
        ("of another shape:", other),
    ):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            return f"{problem} {', '.join(names[:3])}{more}"
    return None


def shipped_folder() -> Path:
    """The folder of the models that come with the package."""
    return Path(str(resources.files("worldmodel"))) / "weights"


def shipped_names() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.parent.name for path in shipped_folder().glob(f"*/{CONFIG_NAME}"))


def name_shipped() -> str:
    """The names for people, one after the other."""
    return ", ".join(shipped_names()) or "none in this installation"


def find_export(source: str | Path) -> Path | None:
    """The folder of an export, fetched from the Hub where it lies there; None if there is none.

    Args:
        source: a shipped model's name, which only a text can be, a folder, its `model.safetensors`,
            or `hf://org/name`.
    """
    if isinstance(source, str) and source in shipped_names():
        return shipped_folder() / source
    if str(source).startswith("hf:"):
        folder = find_folder(source)[0]
    else:
        folder = Path(source)
        if folder.name == WEIGHTS and folder.is_file():
            folder = folder.parent
    return folder if is_export(folder) else None


def is_export(folder: Path) -> bool:
    """Whether a folder holds a `config.json` of ours; what else it holds may be damaged."""
    try:
        config = json.loads((folder / CONFIG_NAME).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and config.get("model_type") == MODEL_TYPE


def read_export_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of an export.

    Raises:
        InputError: it is of a later version, lacks something, or asks for what is not done here.
    """
    path = folder / CONFIG_NAME
    config = read_json(path)
    version = config.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise InputError(f"{path} is damaged: its format_version is {version!r}; export it again")
    if version > FORMAT_VERSION:
        raise InputError(
            f"{path} is of format version {version}, this program knows up to {FORMAT_VERSION}; "
            "update the program"
        )
    kinds: dict[str, type | tuple[type, ...]] = {
        "encoder": dict,
        "levels": list,
        "clip": dict,
        "global_step": int,
        "weights_sha256": str,
    }
    for name, kind in kinds.items():
        if not isinstance(config.get(name), kind):
            raise InputError(
                f"{path} is damaged: its {name} is {config.get(name)!r:.60}; export it again"
            )
    if config.get("normalisation") != NORMALISATION:
        raise InputError(
            f"{path} asks for pixels normalised by {config.get('normalisation')!r:.120}, this "
            f"program does {NORMALISATION}; update the program"
        )
    return config


def check_clip(clip: Mapping[str, Any], place: str) -> ClipSpec:
    """The clips that a configuration names.

    Raises:
        InputError: a number is missing or cannot be one of frames, frames per second or pixels.
    """
    num_frames, fps, size = (clip.get(name) for name in ("num_frames", "fps", "size"))
    whole = all(type(value) is int and value > 0 for value in (num_frames, size))
    if not whole or type(fps) not in (int, float) or not 0 < fps < float("inf"):  # type: ignore[operator]
        raise InputError(
            f"{place} does not say what clips the model was trained on: frames, frames per second "
            f"and pixels a side are {num_frames!r:.20}, {fps!r:.20} and {size!r:.20}"
        )
    return ClipSpec(num_frames=int(num_frames), fps=float(fps), size=int(size))  # type: ignore[arg-type]


def load_export(folder: Path) -> LoadedModel:
    """The network of an export, frozen and in evaluation mode.

    Raises:
        InputError: a file is missing or damaged, or they do not fit each other or this program.
    """
    config = read_export_config(folder)
    clip = check_clip(config["clip"], str(folder / CONFIG_NAME))
    file = folder / WEIGHTS
    if not file.is_file():
        raise InputError(f"{folder} has no {WEIGHTS}; copy or export the model again")
    try:
        found = hash_files([file])
        if found != config["weights_sha256"]:
            raise InputError(
                f"{file} has the SHA-256 {found[:12]}…, {CONFIG_NAME} says "
                f"{config['weights_sha256'][:12]}…; it has been damaged or changed: copy or export "
                "the model again"
            )
        weights = load_file(file)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{file} cannot be read as safetensors ({first_line(error)}); copy or export the model "
            "again"
        ) from error
    return LoadedModel(
        network=build_trained(config, weights, str(folder)),
        clip=clip,
        config=config,
        sha256=found,
        global_step=config["global_step"],
        file=file,
    )
