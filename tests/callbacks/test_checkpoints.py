import pytest
import torch

from worldmodel.callbacks import AtomicCheckpointIO, BestCheckpoint, LastCheckpoint


def test_atomic_io__a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "last.ckpt"
    (tmp_path / f".{path.name}.1.partial").write_bytes(b"left by a run that was killed")
    AtomicCheckpointIO().save_checkpoint({"a": torch.ones(2)}, path)
    with pytest.raises(Exception, match="pickle"):
        AtomicCheckpointIO().save_checkpoint({"a": lambda: None}, path)
    assert torch.equal(torch.load(path, weights_only=True)["a"], torch.ones(2))
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_checkpoints__one_file_each_under_a_stable_key():
    last, best = LastCheckpoint(every_n_train_steps=7), BestCheckpoint()
    assert (last.filename, best.filename) == ("last", "best")
    assert last.state_key != best.state_key
    assert last.state_key == LastCheckpoint(every_n_train_steps=3).state_key
