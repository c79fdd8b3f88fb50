"""When checkpoints are written, and how: whole or not at all."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from worldmodel.errors import InputError

# Bytes; a disk with fewer that could not be written to was full.
NEARLY_FULL = 1e8


class LastCheckpoint(ModelCheckpoint):
    """Keeps `last.ckpt`: every n steps and at the end; `save_now` whenever it is asked to.

    Args:
        every_n_train_steps: optimizer steps between two writes.
        dirpath: folder; `checkpoints/` in the run's folder if not given.
        keep: how many of the last ones stay; those before `last.ckpt` as `step-{step}.ckpt`.
        asynchronous: write while the training goes on, from a copy of everything in memory; a run
            that is killed meanwhile goes on from the one before.

    Raises:
        InputError: a number is out of range.
    """

    def __init__(
        self,
        every_n_train_steps: int = 100,
        dirpath: str | None = None,
        keep: int = 1,
        asynchronous: bool = False,
    ) -> None:
        if keep < 1:
            raise InputError(f"checkpoint.keep must be at least 1, got {keep}")
        if every_n_train_steps < 0:
            raise InputError(
                "checkpoint.every_n_train_steps must be at least 0 (only at the end), got "
                f"{every_n_train_steps}"
            )
        self.keep, self.asynchronous = keep, asynchronous
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
        # Nothing is saved: the step is not finished (see `StopOnSignal`).
        if isinstance(exception, KeyboardInterrupt) and trainer.is_global_zero:
            found = Path(self.dirpath or ".") / "last.ckpt"
            there = (
                f"what was saved before is {found}; the same command with --ckpt_path unfinished "
                "goes on from there."
                if found.is_file()
                else "nothing was saved yet."
            )
            print(f"\nstopped at once, in step {trainer.global_step + 1}; {there}", flush=True)


class BestCheckpoint(ModelCheckpoint):
    """Keeps `best.ckpt`: the lowest mean longest-horizon skill ratio on validation.

    A run that goes on in its folder compares with those that lie there; one that goes on from
    another run's checkpoint in a new folder has its own.

    Args:
        keep: how many of the best stay; more than one are called `best-{step}.ckpt`.
        dirpath: folder; `checkpoints/` in the run's folder if not given.

    Raises:
        InputError: `keep` is below 1.
    """

    def __init__(self, keep: int = 1, dirpath: str | None = None) -> None:
        if keep < 1:
            raise InputError(f"best.keep must be at least 1, got {keep}")
        super().__init__(
            dirpath=dirpath,
            filename="best" if keep == 1 else "best-{step:08d}",
            auto_insert_metric_name=False,
            monitor="val/skill_ratio",
            mode="min",
            save_top_k=keep,
            enable_version_counter=False,
        )

    @property
    def state_key(self) -> str:
        return "BestCheckpoint"

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Know the best in the folder again, each by the score in its own file.

        Not by what the checkpoint says: `last.ckpt` is written before the validation of its step,
        and knows files by the folder's name at that time.
        """
        assert self.dirpath is not None  # since `setup`
        scores: dict[str, Tensor] = {}
        for path in Path(self.dirpath).glob("best*.ckpt"):
            # Weights stay on the disk: the score is a few bytes of it.
            saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            score = saved["callbacks"][self.state_key]["current_score"].clone()
            scores[os.path.join(self.dirpath, path.name)] = score
        best = sorted(scores, key=lambda name: float(scores[name]))[: self.save_top_k]
        if best:
            self.best_k_models = {name: scores[name] for name in best}
            self.best_model_path, self.best_model_score = best[0], scores[best[0]]
            self.kth_best_model_path, self.kth_value = best[-1], scores[best[-1]]

    def _update_best_and_save(
        self, current: Tensor, trainer: Trainer, monitor_candidates: dict[str, Tensor]
    ) -> None:
        # A run that was cut short after one of the best comes to its step again, and its name.
        self.best_k_models.pop(self.format_checkpoint_name(monitor_candidates), None)
        super()._update_best_and_save(current, trainer, monitor_candidates)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all: to a file beside it, which then takes its name.

    Args:
        keep: how many `last.ckpt` stay; earlier ones as `step-{step}.ckpt`.
    """

    def __init__(self, keep: int = 1) -> None:
        self.keep = keep

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write it.

        Raises:
            InputError: the disk is full, or the folder cannot be written to. What was there before
                stays.
        """
        path = Path(path)
        try:
            self._write(checkpoint, path, storage_options)
        except (OSError, RuntimeError) as error:  # torch's writer raises the latter
            there = f"; {path} of before is whole" if path.is_file() else ""
            raise InputError(
                f"cannot write the checkpoint {path}: {_reason(error, path)}{there}. Make room, or "
                "choose another trainer.default_root_dir"
            ) from error
        if self.keep > 1 and path.name == "last.ckpt":
            self._keep(path, int(checkpoint["global_step"]))

    def _keep(self, path: Path, step: int) -> None:
        """Give what was just written a name that stays, and let go of the oldest."""
        kept = path.with_name(f"step-{step:08d}.ckpt")
        kept.unlink(missing_ok=True)
        try:
            os.link(path, kept)  # the same bytes under two names: no more room, no time
        except OSError:  # a disk that cannot do it
            shutil.copyfile(path, kept)
        written = sorted(path.parent.glob("step-*.ckpt"), key=lambda file: file.stat().st_mtime)
        for old in written[: -self.keep]:
            old.unlink(missing_ok=True)

    def _write(self, checkpoint: dict[str, Any], path: Path, storage_options: Any | None) -> None:
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


def _reason(error: BaseException, path: Path) -> str:
    """Why a file could not be written; torch's writer does not say when the disk was full."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    free = shutil.disk_usage(path.parent).free
    if free < NEARLY_FULL:
        return f"{os.strerror(errno.ENOSPC)} ({free / 1e6:.0f} MB are free)"
    return str(error)
