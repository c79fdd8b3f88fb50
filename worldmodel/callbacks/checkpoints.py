"""When checkpoints are written, and how: whole or not at all."""

import os
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint


class LastCheckpoint(ModelCheckpoint):
    """Keeps `last.ckpt`: every n steps, at the end, and when the run is interrupted.

    Args:
        every_n_train_steps: optimizer steps between two writes.
        dirpath: folder; `checkpoints/` in the run's folder if not given.
    """

    def __init__(self, every_n_train_steps: int = 100, dirpath: str | None = None) -> None:
        super().__init__(
            dirpath=dirpath,
            filename="last",
            every_n_train_steps=every_n_train_steps,
            save_top_k=1,
            enable_version_counter=False,
        )

    @property
    def state_key(self) -> str:
        # The same for every interval and folder: a run may be resumed with another of either.
        return "LastCheckpoint"

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        if trainer.global_step > self._last_global_step_saved:
            self.save_now(trainer)

    def save_now(self, trainer: Trainer) -> None:
        """Write it, whatever the step."""
        self._save_none_monitor_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        # Only when a person stops the run: all ranks then come here. After any other error on one
        # rank the others would wait in the write for ever.
        if isinstance(exception, KeyboardInterrupt) and trainer.global_step > 0:
            self.save_now(trainer)
            if trainer.is_global_zero:
                print(
                    f"\nstopped at step {trainer.global_step}; saved {self.best_model_path}. "
                    "The same command with --ckpt_path last goes on from there.",
                    flush=True,
                )


class BestCheckpoint(ModelCheckpoint):
    """Keeps `best.ckpt`: the lowest mean longest-horizon skill ratio on validation."""

    def __init__(self, dirpath: str | None = None) -> None:
        super().__init__(
            dirpath=dirpath,
            filename="best",
            monitor="val/skill_ratio",
            mode="min",
            save_top_k=1,
            enable_version_counter=False,
        )

    @property
    def state_key(self) -> str:
        return "BestCheckpoint"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all: to a file beside it, which then takes its name."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        path = Path(path)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        for leftover in path.parent.glob(f".{path.name}.*.partial"):  # of a run that was killed
            leftover.unlink(missing_ok=True)
        try:
            super().save_checkpoint(checkpoint, partial, storage_options)
            # The bytes must be on the disk before the name points at them.
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
