"""A report of the squares' world, evaluated once, and copies of it to spoil."""

import shutil
from functools import partial
from pathlib import Path

import pytest

from worldmodel.evaluation import report as room
from worldmodel.evaluation.measure import Effort, Run

# Every section is there, at half the time.
LITTLE = Effort(num_untrained=2, context_frames=(4,), rollouts=True)


@pytest.fixture(scope="session")
def evaluated(squares: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished report; nobody writes into it."""
    out = tmp_path_factory.mktemp("evaluated")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "Run", partial(Run, effort=LITTLE))
        room.evaluate(checkpoint, out, squares, num_workers=0)
    return out


@pytest.fixture
def folder(evaluated: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    copy = tmp_path / "report"
    shutil.copytree(evaluated, copy)
    return copy
