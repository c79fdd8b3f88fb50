"""Counts the steps that were left out, and stops a run that diverges."""

from typing import Any

from lightning import Callback, LightningModule, Trainer

from worldmodel.callbacks.log_once import log_once
from worldmodel.task import WorldModelTask


class SpikeWatch(Callback):
    """Logs `train/skipped_steps`, and stops the run where too many of the last steps were left out.

    Args:
        every_n_steps: optimizer steps between two looks; each waits for the device.

    Raises:
        InputError: the training diverges.
    """

    def __init__(self, every_n_steps: int = 50) -> None:
        self.every_n_steps = every_n_steps

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if trainer.global_step % self.every_n_steps:
            return
        assert isinstance(pl_module, WorldModelTask)
        log_once(trainer, pl_module, {"train/skipped_steps": float(pl_module.guard.num_skipped)})
        pl_module.guard.check()
