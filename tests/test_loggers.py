"""What a person has a run log with, and where its files are then."""

import sys
from pathlib import Path

import pytest
import yaml

from worldmodel.cli import main
from worldmodel.runs import RUN_FOLDER

SMALL = str(Path(__file__).parent / "conf" / "small.yaml")


@pytest.fixture(autouse=True)
def fresh_process_state(monkeypatch):
    """Each run here stands for a process of its own."""
    monkeypatch.delenv(RUN_FOLDER, raising=False)
    monkeypatch.setattr(sys, "argv", ["worldmodel"])


@pytest.mark.parametrize("kind", ["CSVLogger", "TensorBoardLogger", False])
def test_fit__a_run_has_one_folder_whatever_it_logs_with(
    shards, tmp_path, monkeypatch, capsys, kind
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("somebody's own")
    logger = kind and {
        "class_path": f"lightning.pytorch.loggers.{kind}",
        "init_args": {"save_dir": "runs", "name": "mine"},
    }
    (tmp_path / "log.yaml").write_text(yaml.safe_dump({"trainer": {"logger": logger}}))
    command = ("fit", "--config", SMALL, "--config", "log.yaml")
    settings = ("--data.shards", f"{shards}/*.tar", "--trainer.max_steps", "2")
    settings += ("--trainer.val_check_interval", "2", "--trainer.limit_val_batches", "1")
    assert main([*command, *settings]) == 0
    assert (tmp_path / "config.yaml").read_text() == "somebody's own"
    run = tmp_path / "runs" / "small" / "version_0"
    assert [path.parent for path in run.parent.parent.glob("*/*")] == [run.parent]
    assert {"checkpoints", "config.yaml", "starts.jsonl"} <= {path.name for path in run.iterdir()}
    assert {path.name for path in run.glob("checkpoints/*")} == {"best.ckpt", "last.ckpt"}
    assert (run / "metrics.csv").is_file() == (kind == "CSVLogger")
    assert any(run.glob("events.*")) == (kind == "TensorBoardLogger")
    said = f"{kind} writes into runs/small/version_0, the run's folder, not runs/mine"
    assert (said in capsys.readouterr().out) == bool(kind)
