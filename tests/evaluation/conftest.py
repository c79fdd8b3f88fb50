"""A whole set, and a checkpoint, of the squares' world: small enough to evaluate in seconds."""

import json
from pathlib import Path

import pytest
import torch
from square_world import write_squares
from squares_model import write_untrained

from worldmodel.data.index import index_sha256
from worldmodel.evaluation.measure import Effort, Run, measure
from worldmodel.evaluation.passes import Pace
from worldmodel.evaluation.probes.stored import write_probes
from worldmodel.evaluation.provenance import describe
from worldmodel.evaluation.report import finite, open_data
from worldmodel.models.checkpoint import load_model
from worldmodel.models.hub_files import PROBES


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a set with 24, 10 and 10 clips and 3 blocks per kind."""
    root = tmp_path_factory.mktemp("squares")
    write_squares(root, {"train": 24, "val": 10, "test": 11}, {"val": 2, "test": 3})
    return root


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model of two levels, as a run leaves it."""
    folder = tmp_path_factory.mktemp("run") / "version_0"
    path = write_untrained(folder / "checkpoints" / "last.ckpt")
    (folder / "metrics.csv").write_text(
        "epoch,step,train/loss,train/level0/h1/copy_ratio\n0,1,2.5,\n0,2,2.0,0.9\n0,3,1.8,0.8\n"
    )
    return path


@pytest.fixture(scope="session")
def probed(squares: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with probes of that checkpoint and their report, little else measured."""
    out = tmp_path_factory.mktemp("probed")
    model, less = load_model(checkpoint), Effort(num_untrained=1, context_frames=(), rollouts=False)
    data, counts = open_data(squares, less)
    run = Run(torch.device("cpu"), Pace(num_workers=0, quiet=True), effort=less)
    sections, shown = measure(model, data, run)
    meta = describe(model, index_sha256(squares), counts)
    assert shown.probes is not None
    write_probes(out / PROBES, shown.probes, model, meta)
    (out / "report.json").write_text(json.dumps(finite({"meta": meta} | sections)))
    return out
