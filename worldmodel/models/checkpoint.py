"""A trained model from a file, with nothing executed on the way."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from worldmodel.errors import InputError
from worldmodel.models.encoder import EncoderConfig
from worldmodel.models.hierarchy import Hierarchy, LevelConfig


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
    """Encoder, levels, clip and version as stored in the checkpoint."""
    sha256: str
    """Of the file."""
    global_step: int
    """Optimizer steps it was trained for."""
    file: Path = field(compare=False)

    def untrained(self, seed: int) -> Any:
        """A network of the same architecture with fresh weights, its output heads included."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            hierarchy = build_hierarchy(self.config)
            hierarchy.reset_heads()
        return hierarchy.eval().requires_grad_(False)


def build_hierarchy(config: dict[str, Any]) -> Hierarchy:
    """The architecture that a checkpoint's `worldmodel` entry describes, with fresh weights."""
    encoder = dict(config["encoder"])
    encoder["stem_channels"] = tuple(encoder["stem_channels"])
    levels = [
        LevelConfig(**{**level, "horizons": tuple(level["horizons"])}) for level in config["levels"]
    ]
    return Hierarchy(EncoderConfig(**encoder), levels)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint's content, with tensors on the CPU; no code in it is run.

    Raises:
        InputError: there is no such file, or it is not one of our checkpoints.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no checkpoint at {path}; give a file such as last.ckpt")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that is not its own
        raise InputError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}); "
            "it may be cut short or another kind of file"
        ) from error
    if not isinstance(checkpoint, dict) or "worldmodel" not in checkpoint:
        raise InputError(
            f"{path} is a torch file but not a checkpoint of `worldmodel fit`: "
            "it has no `worldmodel` entry"
        )
    return checkpoint


def load_model(path: str | Path) -> LoadedModel:
    """The network of a checkpoint, frozen and in evaluation mode.

    Args:
        path: a file of `worldmodel fit`. Or somebody else's encoder in the format of Hugging Face:
            a folder, or `hf://org/name`.

    Raises:
        InputError: the file is missing, is not a checkpoint, or does not fit its own description.
    """
    if Path(path).is_dir() or str(path).startswith("hf:"):
        from worldmodel.models.huggingface import load_encoder  # a heavy library, seldom needed

        return load_encoder(path)
    checkpoint = read_checkpoint(path)
    config = checkpoint["worldmodel"]
    prefix = "hierarchy."
    weights = {
        name.removeprefix(prefix): tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith(prefix)
    }
    try:
        hierarchy = build_hierarchy(config)
        hierarchy.load_state_dict(weights)
    except (KeyError, TypeError, RuntimeError) as error:
        raise InputError(
            f"{path} was written by version {config.get('version', 'unknown')} "
            f"and does not fit this one: {str(error).splitlines()[0]}"
        ) from error
    return LoadedModel(
        network=hierarchy.eval().requires_grad_(False),
        clip=ClipSpec(**config["clip"]),
        config=config,
        sha256=hashlib.sha256(Path(path).read_bytes()).hexdigest(),
        global_step=int(checkpoint["global_step"]),
        file=Path(path),
    )
