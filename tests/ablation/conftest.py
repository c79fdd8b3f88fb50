"""What the tests of studies share: a set and a checkpoint small enough to measure in seconds."""

import sys
from pathlib import Path

import pytest

# The squares' world lives with the tests of evaluation.
sys.path.insert(0, str(Path(__file__).parents[1] / "evaluation"))

from square_world import write_squares
from squares_model import write_untrained


@pytest.fixture(scope="session")
def square_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a set with 24, 10 and 3 clips, and 2 and 3 blocks per kind."""
    root = tmp_path_factory.mktemp("squares")
    write_squares(root, {"train": 24, "val": 10, "test": 3}, {"val": 2, "test": 3})
    return root


@pytest.fixture(scope="session")
def square_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_untrained(tmp_path_factory.mktemp("run") / "checkpoints" / "last.ckpt")


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `step1.ckpt` and `step3.ckpt`."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for step in (1, 3):
        write_untrained(folder / f"step{step}.ckpt", step)
    return folder
