"""A small untrained model for the squares' world, as a run leaves it, and collapsed ones."""

import io
import re
import sys
from pathlib import Path

import torch

# The squares' world lives with the tests of evaluation.
sys.path.insert(0, str(Path(__file__).parents[1] / "evaluation"))

from square_world import FPS, FRAMES, SIZE

from worldmodel.models.checkpoint import build_hierarchy

COLLAPSES = ("flat", "rank_one")
LAST_LAYERS = re.compile(r"levels\.\d+\.encoder\.(head\.1|layers\.4)\.weight")


def write_model(path: Path, collapse: str | None = None) -> Path:
    """A checkpoint of two levels whose heads predict something.

    Args:
        path: of the file.
        collapse: `flat`, so that all tokens of a level are equal; or `rank_one`, on a line.
    """
    narrow = {"dim": 16, "width": 16, "depth": 1, "num_heads": 2, "pool": 2, "weight": 1.0}
    config = {
        "version": "0",
        "encoder": {
            "size": SIZE,
            "stem_channels": (8,),
            "depth": 1,
            "num_heads": 2,
            "mlp_ratio": 2.0,
        },
        "levels": [
            {"horizons": (1, 2, 4), "stride": 1, **narrow},
            {"horizons": (1, 2), "stride": 2, **narrow},
        ],
        "clip": {"num_frames": FRAMES, "fps": FPS, "size": SIZE},
    }
    with torch.random.fork_rng():
        torch.manual_seed(7)  # none of those of untrained networks
        hierarchy = build_hierarchy(config)
        hierarchy.reset_heads()
    for name, weight in hierarchy.state_dict().items():
        if collapse and LAST_LAYERS.fullmatch(name):
            left, sizes, right = torch.linalg.svd(weight)
            weight.copy_(sizes[0] * torch.outer(left[:, 0], right[0]))
            weight.mul_(collapse == "rank_one")
    content = io.BytesIO()
    weights = {f"hierarchy.{name}": value for name, value in hierarchy.state_dict().items()}
    torch.save({"worldmodel": config, "state_dict": weights, "global_step": 3}, content)
    path.write_bytes(content.getvalue())
    return path
