from unittest.mock import Mock

import pytest
import torch
from lightning import LightningModule, Trainer

from worldmodel.callbacks import (
    AtomicCheckpointIO,
    BestCheckpoint,
    LastCheckpoint,
    LevelMonitor,
    RunProgressBar,
    ThreadsPerProcess,
)


@pytest.fixture
def module(hierarchy) -> Mock:
    """The part of a task that callbacks see; remembers what was logged."""
    module = Mock(spec=LightningModule)
    module.hierarchy, module.logged = hierarchy, {}
    module.log_dict = lambda values, **_: module.logged.update(values)
    module.log = lambda name, value, **_: module.logged.update({name: value})
    return module


def trainer_at(step: int, module: Mock) -> Mock:
    trainer = Mock(spec=Trainer)
    trainer.global_step, trainer.estimated_stepping_batches = step, 100
    trainer.callback_metrics = module.logged
    return trainer


def outputs(hierarchy, tokens=None) -> dict:
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 12, 16, 16), (4, 6, 4, 16), (4, 3, 1, 16)]
    tokens = tokens or [torch.randn(shape, generator=generator) for shape in shapes]
    predicted = [
        {h: level_tokens for h in level.horizons}
        for level, level_tokens in zip(hierarchy.levels, tokens, strict=True)
    ]
    return {"targets": tokens, "predicted": predicted}


def test_monitor__copying_has_copy_ratio_one_and_no_skill(module):
    monitor = LevelMonitor(every_n_steps=1)
    monitor.setup(trainer_at(0, module), module, "fit")
    monitor.on_train_batch_end(trainer_at(1, module), module, outputs(module.hierarchy), None, 0)
    for level in range(3):
        assert module.logged[f"train/level{level}/copy_ratio"] == pytest.approx(1.0)
        # The best trivial predictor of noise is its mean, far better than a copy.
        assert module.logged[f"train/level{level}/skill_ratio"] > 1.3
    assert module.logged["train/level0/effective_rank"] > 14


def test_monitor__looks_only_every_n_steps(module):
    monitor = LevelMonitor(every_n_steps=10)
    monitor.setup(trainer_at(0, module), module, "fit")
    monitor.on_train_batch_end(trainer_at(9, module), module, outputs(module.hierarchy), None, 0)
    assert module.logged == {}


def test_monitor__says_in_words_that_a_level_collapsed_and_says_it_once(module, capsys):
    monitor = LevelMonitor(every_n_steps=1)
    monitor.setup(trainer_at(0, module), module, "fit")
    tokens = outputs(module.hierarchy)["targets"]
    tokens[1] = torch.ones_like(tokens[1])
    for step in (1, 2):
        batch = outputs(module.hierarchy, tokens)
        monitor.on_train_batch_end(trainer_at(step, module), module, batch, None, 0)
    said = capsys.readouterr().out
    assert said.count("level 1 has collapsed") == 1 and "1.0 of 16 directions" in said
    assert "level 0" not in said


def test_monitor__says_late_in_the_run_that_a_level_has_no_skill(module, capsys):
    monitor = LevelMonitor(every_n_steps=1, patience_share=0.5)
    monitor.setup(trainer_at(0, module), module, "fit")
    batch = outputs(module.hierarchy)
    monitor.on_train_batch_end(trainer_at(49, module), module, batch, None, 0)
    assert capsys.readouterr().out == ""
    monitor.on_train_batch_end(trainer_at(50, module), module, batch, None, 0)
    assert "level 2 predicts no better than a rule without a model" in capsys.readouterr().out


def test_monitor__validation_is_the_mean_over_levels(module):
    monitor = LevelMonitor()
    monitor.setup(trainer_at(0, module), module, "fit")
    monitor.on_validation_epoch_start(trainer_at(0, module), module)
    for batch in range(2):
        monitor.on_validation_batch_end(
            trainer_at(0, module), module, outputs(module.hierarchy), None, batch
        )
    monitor.on_validation_epoch_end(trainer_at(0, module), module)
    skills = [module.logged[f"val/level{level}/skill_ratio"] for level in range(3)]
    assert module.logged["val/skill_ratio"] == pytest.approx(sum(skills) / 3)


def test_monitor__state_survives_a_checkpoint(module):
    first, second = LevelMonitor(every_n_steps=1), LevelMonitor(every_n_steps=1)
    for monitor in (first, second):
        monitor.setup(trainer_at(0, module), module, "fit")
    first.on_train_batch_end(trainer_at(1, module), module, outputs(module.hierarchy), None, 0)
    second.load_state_dict(first.state_dict())
    for place, fit in first.fits.fits.items():
        assert torch.equal(fit.coefficients, second.fits.fits[place].coefficients)


def test_progress_bar__shows_skill_and_rank_of_every_level(module):
    module.logged |= {"train/loss": torch.tensor(1.5)}
    for level in range(3):
        module.logged[f"train/level{level}/skill_ratio"] = torch.tensor(0.9)
        module.logged[f"train/level{level}/effective_rank"] = torch.tensor(40.2)
    shown = RunProgressBar().get_metrics(trainer_at(1, module), module)
    assert shown == {"loss": "1.500", **{f"L{i}": "skill 0.90 rank 40" for i in range(3)}}


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


def test_threads__are_shared_among_local_processes(module, monkeypatch):
    chosen = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    for devices in (1, 4, 16):
        trainer = trainer_at(0, module)
        trainer.num_devices = devices
        ThreadsPerProcess().setup(trainer, module, "fit")
    assert chosen == [2, 1]
