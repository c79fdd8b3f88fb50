from types import SimpleNamespace

import pytest
import torch

from worldmodel.callbacks import Throughput, throughput
from worldmodel.cost import StepCost


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(throughput, "time", clock)
    return clock


@pytest.fixture
def trainer(trainer_at):
    trainer = trainer_at(0)
    trainer.world_size, trainer.precision = 2, "bf16-mixed"
    trainer.strategy.root_device = torch.device("cpu")
    trainer.datamodule = SimpleNamespace(batch_size=4, num_frames=10)
    trainer.train_dataloader = SimpleNamespace(waited_seconds=7.0)
    return trainer


def run(callback, trainer, module, clock, steps, seconds, first=1):
    for step in range(first, first + steps):
        trainer.global_step = step
        clock.now += seconds
        callback.on_train_batch_end(trainer, module, None, None, 0)


def test_throughput__counts_frames_waits_and_child_years(trainer, module, clock):
    callback = Throughput(every_n_steps=10)
    callback.on_train_start(trainer, module)
    run(callback, trainer, module, clock, 9, 0.5)
    assert module.logged == {}
    trainer.train_dataloader.waited_seconds += 1.0
    run(callback, trainer, module, clock, 1, 0.5, first=10)
    assert module.logged["speed/frames_per_second"] == pytest.approx(2 * 4 * 10 / 0.5)
    assert module.logged["speed/data_wait_share"] == pytest.approx(1.0 / 5.0)
    # 80 frames a second on a device, of 1.6e8 in a year.
    assert module.logged["speed/child_years_per_device_day"] == pytest.approx(80 * 86400 / 1.6e8)
    assert "speed/mfu" not in module.logged


def test_throughput__leaves_validation_out_and_starts_anew(trainer, module, clock):
    callback = Throughput(every_n_steps=2)
    callback.on_train_start(trainer, module)
    run(callback, trainer, module, clock, 1, 1.0)
    callback.on_validation_start(trainer, module)
    clock.now += 60
    callback.on_validation_end(trainer, module)
    run(callback, trainer, module, clock, 1, 1.0, first=2)
    assert module.logged["speed/frames_per_second"] == pytest.approx(80)
    run(callback, trainer, module, clock, 2, 0.25, first=3)
    assert module.logged["speed/frames_per_second"] == pytest.approx(320)


def test_throughput__steps_of_several_batches(trainer, module, clock):
    callback = Throughput(every_n_steps=2)
    callback.on_train_start(trainer, module)
    looks = []
    module.log_dict = lambda values, **_: looks.append(values["speed/frames_per_second"])
    for step in (0, 0, 1, 1, 2, 2, 3, 3, 4):
        run(callback, trainer, module, clock, 1, 0.5, first=step)
    assert looks == [pytest.approx(160)] * 2


def test_throughput__mfu_where_the_peak_is_known(trainer, module, clock, monkeypatch):
    asked = []
    monkeypatch.setattr(
        throughput, "get_available_flops", lambda device, kind: asked.append(kind) or 10**12
    )
    trainer.strategy.root_device = torch.device("cuda")
    callback = Throughput(every_n_steps=1)
    callback.cost = StepCost(flops=int(2e11), weights=1, kept_bytes=1, state_bytes=1)
    callback.on_train_start(trainer, module)
    run(callback, trainer, module, clock, 1, 0.5)
    assert asked == [torch.bfloat16]
    assert module.logged["speed/mfu"] == pytest.approx(0.4)
