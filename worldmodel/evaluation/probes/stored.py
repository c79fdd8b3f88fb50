"""The report's probes of depth and place as a small file, so that other videos can be read.

`probes.safetensors` lies in the folder of a report, and beside the weights of an export: the very
probes that gave the headline's numbers, float64 as they were fitted, so that reading them needs
neither the set nor a second fit. Beside the tensors one entry of JSON says what they read, in which
units they answer, how well they did on the test split, and whose states they were fitted on: probes
of another model are refused. Numbers and text, nothing that could be run.

For 4 x 4 tokens of 64 numbers they take 54 kB, for 16 x 16 of 768 (`configs/large.yaml`) 1.9 MB,
most of it the mean features at every place.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from worldmodel.errors import InputError
from worldmodel.evaluation.network import LevelShape, levels_of
from worldmodel.evaluation.probes.depth import HEADLINE, DepthProbes, as_map
from worldmodel.evaluation.probes.depth_heads import CAP_M, DepthProbe, LinearHead
from worldmodel.evaluation.probes.linear import LinearProbe
from worldmodel.evaluation.probes.observe import CONTEXT
from worldmodel.evaluation.probes.samples import PARTS
from worldmodel.evaluation.probes.states import flat_states
from worldmodel.evaluation.probes.whereabouts import Answers, Whereabouts
from worldmodel.models.checkpoint import LoadedModel
from worldmodel.models.hub_files import PROBES, first_line

FORMAT_VERSION = 1
ABOUT = "worldmodel_probes"
"""The one entry of metadata, JSON; of several the order is not fixed, and so neither the bytes."""

_DAMAGE = (SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError)
"""What reading a file raises that holds something else than it should."""


@dataclass(frozen=True)
class DepthReader:
    """The linear probe of the report's section `depth`.

    Attributes:
        probe: from the tokens of a frame to metres.
        grid: rows and columns of tokens.
        cells: rows and columns of the map.
        rmse_m: its error on the test split.
        level: whose tokens it reads.
    """

    probe: DepthProbe
    grid: tuple[int, int]
    cells: tuple[int, int]
    rmse_m: float
    level: int = 0

    def __call__(self, tokens: Tensor) -> np.ndarray:
        """Metres `(T, rows, columns)` from tokens `(T, N, D)`, each map from its own step alone."""
        return as_map(self.probe(tokens.float()), self.grid, self.cells)


@dataclass(frozen=True)
class PlaceReader:
    """A linear probe of the report's section `position`.

    Attributes:
        probe: from the context state of a step to x and y.
        grid: rows and columns of tokens.
        picture: (width, height) in px of the pictures in which it says where something is.
        r2: of its answers on the test split; `mae_px` likewise, mean absolute error of x and of y.
        half_px: median distance from the truth there: as far from an answer lies half of what is
            true.
        level: whose context states it reads.
    """

    probe: LinearProbe
    grid: tuple[int, int]
    picture: tuple[int, int]
    r2: float
    mae_px: float
    half_px: float
    level: int

    def __call__(self, context: Tensor) -> np.ndarray:
        """Where the tracked object is, `(T, 2)` px from the left and the top.

        It may lie outside of the picture.

        Args:
            context: states `(T, N, W)`.
        """
        states = flat_states(context[None], self.grid, np.arange(len(context)))
        return self.probe(states[0])


@dataclass(frozen=True)
class StoredProbes:
    """What is read from a model's tokens and states.

    Attributes:
        depth: None where depth was not probed.
        position: by how much of the object showed where the probe was fitted: `visible`, `partly`,
            `hidden`. Those that the report has a score of.
        about: what else the file says: `checkpoint_sha256` (a list), `protocol_sha256`,
            `index_sha256` and `num_train_clips` of the set, `clip`, `version`. Empty until written.
    """

    depth: DepthReader | None
    position: Mapping[str, PlaceReader]
    about: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        levels: Sequence[LevelShape],
        picture: tuple[int, int],
        depth: DepthProbes | None,
        whereabouts: Whereabouts,
        answers: Answers,
        report: Mapping[str, Any],
    ) -> "StoredProbes":
        """The probes of a report's headlines, as they were fitted.

        Args:
            levels: of the model.
            picture: (width, height) of the set's pictures in px.
            depth: fitted probes of depth, if there are any.
            whereabouts: fitted probes of places.
            answers: what they said of the test clips.
            report: its sections `depth` and `position`.
        """
        reader = None
        if depth is not None:
            probe, rmse_m = depth.probes[HEADLINE], float(report["depth"]["rmse_m"])
            reader = DepthReader(probe, depth.plan.answering(0), depth.plan.cells, rmse_m)
        places = {}
        for part in PARTS:
            section = report["position"][part]
            if "r2" not in section:  # absent
                continue
            level = whereabouts.levels[part]
            off = answers.of(part, level, CONTEXT) - answers.truth(part, level)
            places[part] = PlaceReader(
                whereabouts.probes[part, CONTEXT, level],
                (levels[level].grid[0], levels[level].grid[1]),
                picture,
                float(section["r2"]),
                float(section["mae_px"]),
                float(np.median(np.linalg.norm(off, axis=1))),
                level,
            )
        return cls(reader, places, {})


def write_probes(path: Path, probes: StoredProbes, model: LoadedModel, meta: dict) -> None:
    """Write the file; the same probes of the same model give the same bytes.

    Args:
        path: of the file.
        probes: of a report on the model.
        model: whose states they read.
        meta: the report's section.
    """
    about: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "version": meta["version"],
        "checkpoint_sha256": hashes_of(model),
        "protocol_sha256": meta["protocol_sha256"],
        "index_sha256": meta["data"]["index_sha256"],
        "num_train_clips": meta["data"]["num_train_clips"],
        "clip": {
            "num_frames": model.clip.num_frames,
            "fps": model.clip.fps,
            "size": model.clip.size,
        },
        "position": {},
    }
    tensors: dict[str, Tensor] = {}
    depth = probes.depth
    if depth is not None:
        assert isinstance(depth.probe.head, LinearHead), "the headline is linear"
        head = depth.probe.head.probe
        tensors |= {
            "depth.mean": torch.from_numpy(depth.probe.mean),
            "depth.usual": depth.probe.usual,
            "depth.weight": head.weight,
            "depth.bias": head.bias,
        }
        about["depth"] = {
            "level": depth.level,
            "source": "tokens",
            "unit": "m",
            "cap_m": CAP_M,
            "grid": list(depth.grid),
            "cells": list(depth.cells),
            "strength": head.strength,
            "rmse_m": depth.rmse_m,
        }
    for part, place in probes.position.items():
        tensors |= {
            f"position.{part}.weight": place.probe.weight,
            f"position.{part}.bias": place.probe.bias,
        }
        about["position"][part] = {
            "level": place.level,
            "source": "context",
            "unit": "px",
            "picture": list(place.picture),
            "strength": place.probe.strength,
            "r2": place.r2,
            "mae_px": place.mae_px,
            "half_px": place.half_px,
        }
    # A probe's share of a larger matrix is a view of it, which has no place in a file.
    whole = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    path.write_bytes(save(whole, metadata={ABOUT: json.dumps(about, allow_nan=False)}))


def hashes_of(model: LoadedModel) -> list[str]:
    """By which hashes a model goes: that of its file, and of the checkpoint an export came from."""
    origin = model.config.get("checkpoint_sha256")
    more = [origin] if isinstance(origin, str) and origin != model.sha256 else []
    return [model.sha256, *more]


def read_about(path: Path, known: Collection[str]) -> dict[str, Any]:
    """What the file says of its probes.

    Args:
        path: of the file.
        known: hashes that the model goes by, see `hashes_of`.

    Raises:
        InputError: it is missing or damaged, of a later version, or belongs to another model.
    """
    if not path.is_file():
        raise InputError(
            f"there is no {path}; `worldmodel evaluate` writes {PROBES} into the folder of its "
            "report"
        )
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})[ABOUT])
        version, owners = about["format_version"], list(about["checkpoint_sha256"])
    except (*_DAMAGE, RecursionError) as error:
        raise InputError(
            f"{path} cannot be read as probes ({type(error).__name__}: {first_line(error)}); "
            "evaluate the model again"
        ) from error
    if version != FORMAT_VERSION:
        raise InputError(
            f"{path} is of format version {version!r:.20}, this program knows {FORMAT_VERSION}; "
            "evaluate the model again, or update the program"
        )
    if not set(owners) & set(known):
        raise InputError(
            f"{path} has probes of checkpoint {owners[0]!s:.12}, not of {next(iter(known)):.12}; "
            "evaluate this one"
        )
    return about


def read_probes(path: Path, model: LoadedModel) -> StoredProbes:
    """The probes of a file, ready to read this model; nothing is fitted.

    Args:
        path: of the file.
        model: whose tokens and states they are to read.

    Raises:
        InputError: it is missing or damaged, of a later version, or belongs to another model.
    """
    about = read_about(path, hashes_of(model))
    levels = levels_of(model.network)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        depth, position = about.pop("depth", None), about.pop("position")
        int(about["num_train_clips"]), str(about["index_sha256"])  # every reader tells of them
        if not set(position) <= set(PARTS):
            raise ValueError(f"places of {', '.join(sorted(position))}, not of {', '.join(PARTS)}")
        reader = None if depth is None else _depth_reader(depth, tensors, levels)
        places = {
            part: _place_reader(said, part, tensors, levels) for part, said in position.items()
        }
    except _DAMAGE as error:
        raise InputError(
            f"{path} is damaged ({type(error).__name__}: {first_line(error)}); evaluate the model "
            "again"
        ) from error
    return StoredProbes(reader, places, about)


def _take(tensors: Mapping[str, Tensor], name: str, *shape: int) -> Tensor:
    """A tensor of the file, as it must be.

    Raises:
        ValueError: it is not.
    """
    found = tensors[name]
    if tuple(found.shape) != shape or found.dtype != torch.float64:
        raise ValueError(
            f"{name} is {found.dtype} {tuple(found.shape)}, the model asks for float64 {shape}"
        )
    if not torch.isfinite(found).all():
        raise ValueError(f"{name} is not finite")
    return found


def _depth_reader(
    said: Mapping[str, Any], tensors: Mapping[str, Tensor], levels: Sequence[LevelShape]
) -> DepthReader:
    level, grid, cells = int(said["level"]), _pair(said["grid"]), _pair(said["cells"])
    shape = levels[level]
    if grid != tuple(shape.grid) or cells[0] % grid[0] or cells[1] % grid[1]:
        raise ValueError(f"{cells} cells of {grid} tokens, but the model has {shape.grid}")
    each = cells[0] * cells[1] // shape.num_tokens
    weight = _take(tensors, "depth.weight", shape.dim, each)
    probe = LinearProbe(weight, _take(tensors, "depth.bias", each), float(said["strength"]))
    mean = _take(tensors, "depth.mean", shape.num_tokens, each).numpy()
    usual = _take(tensors, "depth.usual", shape.num_tokens, shape.dim)
    return DepthReader(
        DepthProbe(mean, usual, LinearHead(probe)), grid, cells, float(said["rmse_m"]), level
    )


def _place_reader(
    said: Mapping[str, Any],
    part: str,
    tensors: Mapping[str, Tensor],
    levels: Sequence[LevelShape],
) -> PlaceReader:
    level = int(said["level"])
    shape = levels[level]
    grid = (shape.grid[0], shape.grid[1])
    blank = torch.zeros(1, 1, shape.num_tokens, shape.width)
    width = flat_states(blank, grid, np.arange(1)).shape[-1]
    weight = _take(tensors, f"position.{part}.weight", width, 2)
    bias = _take(tensors, f"position.{part}.bias", 2)
    return PlaceReader(
        LinearProbe(weight, bias, float(said["strength"])),
        grid,
        _pair(said["picture"]),
        float(said["r2"]),
        float(said["mae_px"]),
        float(said["half_px"]),
        level,
    )


def _pair(numbers: Sequence[Any]) -> tuple[int, int]:
    first, second = (int(number) for number in numbers)
    if min(first, second) < 1:
        raise ValueError(f"{first} and {second} are no numbers of rows, columns or pixels")
    return first, second


def find_probes(source: str | Path | None, model: LoadedModel) -> Path | None:
    """Where a model's probes lie.

    Args:
        source: the file, or the folder it lies in; None for beside the model: in its export, in the
            `report/` of its run, or next to its file.
        model: as it was loaded.

    Returns:
        None where nothing was named and nothing lies there.
    """
    if source is not None:
        return Path(source) / PROBES if Path(source).is_dir() else Path(source)
    folder = model.file.parent
    run = [folder.parent / "report" / PROBES] if folder.name == "checkpoints" else []
    return next((path for path in [*run, folder / PROBES] if path.is_file()), None)
