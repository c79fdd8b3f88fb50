import errno
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from lightning import Trainer
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.plugins.io import AsyncCheckpointIO

from worldmodel.callbacks import (
    AtomicCheckpointIO,
    BestCheckpoint,
    LastCheckpoint,
    checkpoints,
)
from worldmodel.errors import InputError


def test_atomic_io__a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "last.ckpt"
    (tmp_path / f".{path.name}.1.partial").write_bytes(b"left by a run that was killed")
    AtomicCheckpointIO().save_checkpoint({"a": torch.ones(2)}, path)
    with pytest.raises(Exception, match="pickle"):
        AtomicCheckpointIO().save_checkpoint({"a": lambda: None}, path)
    assert torch.equal(torch.load(path, weights_only=True)["a"], torch.ones(2))
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_atomic_io__a_full_disk_is_said_and_what_was_there_stays(
    tmp_path, monkeypatch, asynchronous
):
    path = tmp_path / "last.ckpt"
    plain = AtomicCheckpointIO()
    plain.save_checkpoint({"a": torch.ones(2)}, path)
    old = path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    writer = AsyncCheckpointIO(plain) if asynchronous else plain
    with pytest.raises(
        InputError, match=r"No space left on device; .*last\.ckpt of before is whole"
    ):
        writer.save_checkpoint({"a": torch.zeros(2)}, path)
        writer.teardown()
    assert path.read_bytes() == old
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_atomic_io__torchs_own_writer_on_a_device_that_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr(
        TorchCheckpointIO, "save_checkpoint", lambda *_: torch.save({}, "/dev/full")
    )
    monkeypatch.setattr(
        checkpoints.shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000)
    )
    with pytest.raises(InputError, match=r"No space left on device \(1 MB are free\)\. Make room"):
        AtomicCheckpointIO().save_checkpoint({}, tmp_path / "last.ckpt")
    assert not list(tmp_path.iterdir())


def test_atomic_io__a_folder_that_cannot_be_written_to(tmp_path):
    file = tmp_path / "file"
    file.write_text("no folder")
    with pytest.raises(InputError, match=r"cannot write the checkpoint .*: Not a directory\. Make"):
        AtomicCheckpointIO().save_checkpoint({}, file / "last.ckpt")


@pytest.mark.parametrize("links", [True, False])
def test_atomic_io__the_last_few_stay(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", Mock(side_effect=OSError("not on this disk")))
    writer = AtomicCheckpointIO(keep=2)
    for step in (5, 10, 15):
        writer.save_checkpoint({"global_step": step}, tmp_path / "last.ckpt")
        writer.save_checkpoint({"global_step": step}, tmp_path / "best.ckpt")
        time.sleep(0.02)
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["best.ckpt", "last.ckpt", "step-00000010.ckpt", "step-00000015.ckpt"]
    assert torch.load(tmp_path / "step-00000010.ckpt")["global_step"] == 10


def test_checkpoints__how_many_stay():
    assert BestCheckpoint(keep=3).filename == "best-{step:08d}"
    for kind, name in ((LastCheckpoint, "checkpoint"), (BestCheckpoint, "best")):
        with pytest.raises(InputError, match=rf"{name}\.keep must be at least 1, got 0"):
            kind(keep=0)


def test_checkpoints__one_file_each_under_a_stable_key():
    last, best = LastCheckpoint(every_n_train_steps=7), BestCheckpoint()
    assert (last.filename, best.filename) == ("last", "best")
    assert last.state_key != best.state_key
    assert last.state_key == LastCheckpoint(every_n_train_steps=3).state_key


class Scored(BoringModel):
    """Of which each validation has a score that was thought up."""

    def __init__(self, scores):
        super().__init__()
        self.scores = iter(scores)

    def on_validation_epoch_end(self):
        self.log("val/skill_ratio", next(self.scores))


def run_to(step: int, root: Path, scores: list[float], keep: int = 1, resume: bool = True) -> None:
    """Validate after every second step, up to a step, and again where it was cut short."""
    folder = root / "checkpoints"
    last = LastCheckpoint(every_n_train_steps=4, dirpath=str(folder))
    trainer = Trainer(
        accelerator="cpu",
        max_steps=step,
        limit_val_batches=1,
        val_check_interval=2,
        num_sanity_val_steps=0,
        logger=False,
        default_root_dir=root,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[last, BestCheckpoint(keep)],
    )
    trainer.fit(Scored(scores), ckpt_path=str(folder / "last.ckpt") if resume else None)


def best_steps(root: Path) -> list[int]:
    found = [torch.load(path)["global_step"] for path in root.glob("checkpoints/best*.ckpt")]
    return sorted(found)


def test_best__a_resumed_run_overwrites_it_by_a_better_one_only(tmp_path):
    # last.ckpt is of step 4 and older than the validation of that step.
    run_to(4, tmp_path, [0.9, 0.5], resume=False)
    run_to(6, tmp_path, [0.8])
    assert best_steps(tmp_path) == [4]
    moved = tmp_path / "elsewhere"
    shutil.move(tmp_path / "checkpoints", moved / "checkpoints")
    run_to(8, moved, [0.7])
    assert best_steps(moved) == [4]
    run_to(10, moved, [0.4])
    assert best_steps(moved) == [10]


def test_best__several_of_a_run_that_was_cut_short(tmp_path):
    run_to(4, tmp_path, [0.9, 0.5], keep=2, resume=False)
    kept = tmp_path / "kept"
    shutil.copytree(tmp_path / "checkpoints", kept)
    run_to(8, tmp_path, [0.6, 0.55], keep=2)
    assert best_steps(tmp_path) == [4, 8]
    # Cut short after step 8 it goes on from step 4: the same again, and none is lost.
    shutil.copy(kept / "last.ckpt", tmp_path / "checkpoints" / "last.ckpt")
    run_to(8, tmp_path, [0.6, 0.54], keep=2)
    assert best_steps(tmp_path) == [4, 8]
    run_to(10, tmp_path, [0.7], keep=2)
    assert best_steps(tmp_path) == [4, 8]
