"""What the tests of studies share: a set and a checkpoint small enough to measure in seconds."""

import io
import sys
from pathlib import Path

import pytest
import torch

# The squares' world lives with the tests of evaluation.
sys.path.insert(0, str(Path(__file__).parents[1] / "evaluation"))

from square_world import FPS, FRAMES, SIZE, write_squares

from worldmodel.models.checkpoint import build_hierarchy


@pytest.fixture(scope="session")
def square_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a set with 24, 10 and 3 clips, and 2 and 3 blocks per kind."""
    root = tmp_path_factory.mktemp("squares")
    write_squares(root, {"train": 24, "val": 10, "test": 3}, {"val": 2, "test": 3})
    return root


def write_checkpoint(path: Path, global_step: int = 3) -> Path:
    """An untrained model of two levels, as a run of so many steps leaves it."""
    narrow = {"dim": 16, "width": 16, "depth": 1, "num_heads": 2, "pool": 2, "weight": 1.0}
    encoder = {"size": SIZE, "stem_channels": (8,), "depth": 1, "num_heads": 2, "mlp_ratio": 2.0}
    config = {
        "version": "0",
        "encoder": encoder,
        "levels": [
            {"horizons": (1, 2), "stride": 1, **narrow},
            {"horizons": (1, 2), "stride": 2, **narrow},
        ],
        "clip": {"num_frames": FRAMES, "fps": FPS, "size": SIZE},
    }
    torch.manual_seed(0)
    weights = build_hierarchy(config).state_dict()
    content = io.BytesIO()
    torch.save(
        {
            "worldmodel": config,
            "state_dict": {f"hierarchy.{name}": value for name, value in weights.items()},
            "global_step": global_step,
        },
        content,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.getvalue())
    return path


@pytest.fixture(scope="session")
def square_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("run") / "checkpoints" / "last.ckpt")


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `step1.ckpt` and `step3.ckpt`."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for step in (1, 3):
        write_checkpoint(folder / f"step{step}.ckpt", step)
    return folder
