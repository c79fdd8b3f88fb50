"""Small models for the squares' world, as a run leaves them: untrained, predicting, collapsed."""

import io
import re
from pathlib import Path
from typing import Any

import torch
from square_world import FPS, FRAMES, SIZE

from worldmodel.models.checkpoint import build_hierarchy
from worldmodel.models.hierarchy import Hierarchy

COLLAPSES = ("flat", "rank_one")
LAST_LAYERS = re.compile(r"levels\.\d+\.encoder\.(head\.1|layers\.4)\.weight")


def model_config(horizons: tuple[int, ...] = (1, 2)) -> dict[str, Any]:
    """Of a model of two levels.

    Args:
        horizons: of the lower one.
    """
    narrow = {"dim": 16, "width": 16, "depth": 1, "num_heads": 2, "pool": 2, "weight": 1.0}
    encoder = {"size": SIZE, "stem_channels": (8,), "depth": 1, "num_heads": 2, "mlp_ratio": 2.0}
    return {
        "version": "0",
        "encoder": encoder,
        "levels": [
            {"horizons": horizons, "stride": 1, **narrow},
            {"horizons": (1, 2), "stride": 2, **narrow},
        ],
        "clip": {"num_frames": FRAMES, "fps": FPS, "size": SIZE},
    }


def write_untrained(path: Path, global_step: int = 3) -> Path:
    """A checkpoint of an untrained model, as a run of so many steps leaves it."""
    config = model_config()
    torch.manual_seed(0)
    return _write(path, config, build_hierarchy(config), global_step)


def write_model(path: Path, collapse: str | None = None) -> Path:
    """A checkpoint of a model whose heads predict something.

    Args:
        path: of the file.
        collapse: `flat`, so that all tokens of a level are equal; or `rank_one`, on a line.
    """
    config = model_config(horizons=(1, 2, 4))
    with torch.random.fork_rng():
        torch.manual_seed(7)  # none of those of untrained networks
        hierarchy = build_hierarchy(config)
        hierarchy.reset_heads()
    for name, weight in hierarchy.state_dict().items():
        if collapse and LAST_LAYERS.fullmatch(name):
            left, sizes, right = torch.linalg.svd(weight)
            weight.copy_(sizes[0] * torch.outer(left[:, 0], right[0]))
            weight.mul_(collapse == "rank_one")
    return _write(path, config, hierarchy, global_step=3)


def _write(path: Path, config: dict[str, Any], hierarchy: Hierarchy, global_step: int) -> Path:
    weights = {f"hierarchy.{name}": value for name, value in hierarchy.state_dict().items()}
    content = io.BytesIO()  # torch keeps a file's name in what it writes
    torch.save({"worldmodel": config, "state_dict": weights, "global_step": global_step}, content)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.getvalue())
    return path
