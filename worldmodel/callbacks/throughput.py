"""How fast a run is, and what it waits for."""

import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities.throughput import get_available_flops

from worldmodel.callbacks.log_once import log_once
from worldmodel.cost import StepCost
from worldmodel.data.datamodule import ClipDataModule

# A five-year-old has seen about 8 x 10^8 frames, at ten a second while awake (LeCun).
FRAMES_PER_CHILD_YEAR = 8e8 / 5
SECONDS_PER_DAY = 86400


class Throughput(Callback):
    """Logs how fast a run is, over the steps since it looked last, validation apart.

    `speed/frames_per_second` of all processes; `speed/data_wait_share`, the share of the time in
    which this process had no clips to work on (all of the decoding where `num_workers` is 0);
    `speed/child_years_per_device_day`, how much of what a child has seen one device sees in a day;
    and on GPUs whose peak is known `speed/mfu`, the share of it that the model's own operations are
    (model FLOP utilisation, Chowdhery et al. 2022, arXiv 2204.02311, app. B).

    Args:
        every_n_steps: optimizer steps between two looks.
    """

    def __init__(self, every_n_steps: int = 50) -> None:
        self.every_n_steps = every_n_steps
        self.cost: StepCost | None = None
        self._peak: float | None = None
        self._begun = self._waited = 0.0
        self._apart = 0.0
        self._paused = 0.0
        self._batches = self._looked_at = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._peak = available_flops(trainer)
        self._restart(trainer)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self._batches += 1
        step = trainer.global_step
        if step % self.every_n_steps or step == self._looked_at:  # several batches make a step
            return
        seconds = time.perf_counter() - self._begun - self._apart
        datamodule: ClipDataModule = trainer.datamodule  # type: ignore[attr-defined]
        frames = self._batches * datamodule.batch_size * datamodule.num_frames
        per_device = frames / seconds
        values = {
            "frames_per_second": per_device * trainer.world_size,
            "data_wait_share": (waited_seconds(trainer) - self._waited) / seconds,
            "child_years_per_device_day": per_device * SECONDS_PER_DAY / FRAMES_PER_CHILD_YEAR,
        }
        if self.cost is not None and self._peak:
            values["mfu"] = self.cost.flops * self._batches / seconds / self._peak
        log_once(trainer, pl_module, {f"speed/{name}": value for name, value in values.items()})
        self._restart(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._paused = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._apart += time.perf_counter() - self._paused

    def _restart(self, trainer: Trainer) -> None:
        self._begun, self._apart, self._batches = time.perf_counter(), 0.0, 0
        self._looked_at = trainer.global_step
        self._waited = waited_seconds(trainer)


def waited_seconds(trainer: Trainer) -> float:
    """How long the training loader has let this process wait so far."""
    return float(getattr(trainer.train_dataloader, "waited_seconds", 0.0))


def available_flops(trainer: Trainer) -> float | None:
    """Operations per second that the device could do at most; None where that is not known."""
    return peak_of(trainer.strategy.root_device, str(trainer.precision))


def peak_of(device: torch.device, precision: str) -> float | None:
    """The same of any device.

    Args:
        device: a GPU; of others it is not known.
        precision: Lightning's name of it.
    """
    if device.type != "cuda":
        return None
    half = {"bf16": torch.bfloat16, "16": torch.float16}
    kind = next((half[name] for name in half if precision.startswith(name)), torch.float32)
    flops = get_available_flops(device, kind)
    return None if flops is None else float(flops)
