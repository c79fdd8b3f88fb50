from types import SimpleNamespace

import pytest
import torch

from worldmodel.callbacks import (
    BestCheckpoint,
    LastCheckpoint,
    Preflight,
    Throughput,
    preflight,
)
from worldmodel.errors import InputError
from worldmodel.losses.regularizers import Regularizer
from worldmodel.task import WorldModelTask


@pytest.fixture
def task(encoder_config, level_configs) -> WorldModelTask:
    return WorldModelTask(level_configs, encoder_config)


@pytest.fixture
def trainer(trainer_at, tmp_path):
    trainer = trainer_at(0)
    trainer.world_size, trainer.precision, trainer.accumulate_grad_batches = 2, "32-true", 1
    trainer.strategy.root_device = torch.device("cpu")
    trainer.datamodule = SimpleNamespace(batch_size=8, num_frames=12)
    trainer.checkpoint_callback.dirpath = str(tmp_path / "not" / "there" / "yet")
    trainer.callbacks, trainer.num_devices = [Throughput()], 1
    trainer.checkpoint_callbacks = [LastCheckpoint(), BestCheckpoint()]
    return trainer


def fly(trainer, task) -> Preflight:
    callback = Preflight()
    callback.setup(trainer, task, "fit")
    callback.on_fit_start(trainer, task)
    return callback


def test_preflight__says_what_it_takes(trainer, task, capsys, monkeypatch):
    monkeypatch.setattr(preflight, "free_memory", lambda device: int(3e9))
    monkeypatch.setattr(preflight, "product_speed", lambda device, precision: 1e11)
    callback = fly(trainer, task)
    cost = callback.cost
    first, second = capsys.readouterr().out.splitlines()
    assert first == (
        "a step: 8 clips of 12 frames on each of 2 devices, "
        f"{cost.flops / 1e9:,.1f} GFLOP each; 0.03 M weights"
    )
    needed = (cost.kept_bytes + cost.state_bytes) / 1e6
    assert second.startswith(
        f"needs about {needed:.0f} MB of memory a device (3.0 GB free) and 1 MB"
    )
    assert second.endswith("; a minute or less")
    assert trainer.callbacks[0].cost == cost


def test_preflight__of_a_run_that_goes_on_counts_the_steps_to_come(trainer, task, monkeypatch):
    counted = []
    monkeypatch.setattr(preflight, "duration", lambda steps, *_: counted.append(steps) or "")
    callback = Preflight()
    callback.setup(trainer, task, "fit")
    callback.on_load_checkpoint(trainer, task, {"global_step": 70})
    callback.on_fit_start(trainer, task)
    assert counted == [30]


class Hinge(Regularizer):
    """Asks for a number on the way, as a person's own may."""

    def forward(self, rows, seed):
        spread = rows.var()
        return rows.new_zeros(()) if spread.item() > 1 else 1 - spread


def test_preflight__a_step_that_cannot_be_counted_is_said_and_goes_on(
    trainer, encoder_config, level_configs, capsys
):
    callback = fly(trainer, WorldModelTask(level_configs, encoder_config, regularizer=Hinge()))
    assert callback.cost is None and trainer.callbacks[0].cost is None
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("what the run needs is not known") and "Tensor.item()" in line


@pytest.mark.parametrize(
    ("steps", "said"),
    [(100, "a minute or less"), (36000, "roughly 60 min"), (360000, "roughly 10 h")],
)
def test_duration__in_words(trainer, task, steps, said, monkeypatch):
    callback = fly(trainer, task)
    per_step = callback.cost.flops / preflight.TYPICAL_EFFICIENCY
    monkeypatch.setattr(preflight, "product_speed", lambda device, precision: 10 * per_step)
    assert preflight.duration(steps, callback.cost, trainer) == f"; {said}"
    assert preflight.duration(float("inf"), callback.cost, trainer) == ""


def test_preflight__refuses_a_batch_that_cannot_fit_and_names_one_that_would(
    trainer, task, monkeypatch
):
    cost = fly(trainer, task).cost
    room = cost.state_bytes + cost.kept_bytes // 2
    monkeypatch.setattr(preflight, "free_memory", lambda device: room)
    with pytest.raises(InputError, match=r"data\.batch_size 3 would fit.*activation_checkpointing"):
        fly(trainer, task)
    monkeypatch.setattr(preflight, "free_memory", lambda device: cost.state_bytes // 2)
    with pytest.raises(InputError, match="no batch would fit"):
        fly(trainer, task)


def test_preflight__half_precision_keeps_less(trainer, task, capsys, monkeypatch):
    cost = fly(trainer, task).cost
    monkeypatch.setattr(preflight, "free_memory", lambda device: cost.kept_bytes)
    with pytest.warns(UserWarning, match="would fit"):
        fly(trainer, task)
    trainer.precision = "bf16-mixed"
    fly(trainer, task)


def test_preflight__refuses_a_disk_that_is_full(trainer, task, monkeypatch):
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**5))
    with pytest.raises(InputError, match=r"checkpoints need 1 MB more .* has 0 MB free"):
        fly(trainer, task)


def test_room__of_what_is_kept_and_not_there_yet(trainer, task, tmp_path):
    cost = fly(trainer, task).cost
    each = preflight.CHECKPOINT_BYTES_PER_WEIGHT * cost.weights
    assert preflight.room_for_checkpoints(trainer, cost, tmp_path) == 3 * each
    trainer.checkpoint_callbacks = [LastCheckpoint(keep=4), BestCheckpoint(keep=2)]
    assert preflight.room_for_checkpoints(trainer, cost, tmp_path) == 7 * each
    for number in range(8):
        (tmp_path / f"{number}.ckpt").touch()
    assert preflight.room_for_checkpoints(trainer, cost, tmp_path) == each


def test_preflight__processes_on_a_cpu_share_its_memory(trainer, task, capsys, monkeypatch):
    monkeypatch.setattr(preflight, "free_memory", lambda device: int(4e9))
    trainer.num_devices = 2
    fly(trainer, task)
    assert "(2.0 GB free)" in capsys.readouterr().out


def test_free_memory__of_this_machine():
    found = preflight.free_memory(torch.device("cpu"))
    assert found is None or 1e7 < found < 1e14
