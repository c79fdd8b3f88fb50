"""What watches a run: collapse and skill per level, the progress bar, and checkpoints."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from worldmodel.evaluation.collapse import EffectiveRank
from worldmodel.evaluation.prediction import PredictionErrors
from worldmodel.losses.regularizers import global_mean
from worldmodel.models.hierarchy import Level
from worldmodel.task import WorldModelTask

# Below this share of its width a level's tokens have collapsed; healthy runs stay above 0.15.
COLLAPSED_RANK = 0.05


class LevelMonitor(Callback):
    """Watches every level: does it predict better than a rule without a model, has it collapsed?

    Logs, for training batches and for the whole validation set, `level{l}/skill_ratio` (error at
    the longest horizon ÷ that of the best trivial predictor, as in the report),
    `level{l}/copy_ratio` and `level{l}/effective_rank`; `val/skill_ratio` is the mean over levels,
    by which the best checkpoint is chosen. Says so in plain words when a level has collapsed or
    does not beat the trivial rules.

    Args:
        every_n_steps: optimizer steps between two looks at a training batch.
        patience_share: share of the run after which a level is expected to beat the trivial rules.
    """

    # Share of what was known of the trivial predictors' fit that survives a look: they follow
    # tokens that change as the encoder learns.
    MEMORY = 0.8

    def __init__(self, every_n_steps: int = 50, patience_share: float = 0.5) -> None:
        self.every_n_steps, self.patience_share = every_n_steps, patience_share
        self.fits: PredictionErrors
        self.validation: PredictionErrors
        self.ranks: list[EffectiveRank] = []
        self.warned: set[tuple[int, str]] = set()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Before the checkpoint's state is loaded into it.
        self.fits = self._errors(pl_module)

    @staticmethod
    def _errors(pl_module: LightningModule) -> PredictionErrors:
        levels = levels_of(pl_module)
        return PredictionErrors(
            [level.dim for level in levels],
            [level.horizons for level in levels],
            [level.span for level in levels],
        )

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
        tokens, predicted = _on_cpu(outputs)
        self._follow(tokens)
        errors = self._errors(pl_module)
        errors.fits = self.fits.fits
        errors.add(tokens, predicted)
        ranks = [EffectiveRank(level.dim) for level in levels_of(pl_module)]
        for rank, level_tokens in zip(ranks, tokens, strict=True):
            rank.update(level_tokens)
        self._log("train", pl_module, errors, ranks)
        self._warn(trainer, pl_module)

    def _follow(self, tokens: Sequence[Tensor]) -> None:
        for fit in self.fits.fits.values():
            fit.gram *= self.MEMORY
            fit.moment *= self.MEMORY
        self.fits.fit(tokens)
        for fit in self.fits.fits.values():
            fit.gram, fit.moment = global_mean(fit.gram), global_mean(fit.moment)
        self.fits.solve()

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validation = self._errors(pl_module)
        self.validation.fits = self.fits.fits
        self.ranks = [EffectiveRank(level.dim) for level in levels_of(pl_module)]

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        tokens, predicted = _on_cpu(outputs)
        if not len(tokens[0]):  # nothing but padding
            return
        self.validation.add(tokens, predicted)
        for rank, level_tokens in zip(self.ranks, tokens, strict=True):
            rank.update(level_tokens)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        skills = self._log("val", pl_module, self.validation, self.ranks)
        pl_module.log("val/skill_ratio", sum(skills) / len(skills), rank_zero_only=True)

    def _log(
        self,
        stage: str,
        pl_module: LightningModule,
        errors: PredictionErrors,
        ranks: Sequence[EffectiveRank],
    ) -> list[float]:
        """Log one stage's numbers and return the levels' skill ratios at their longest horizons."""
        _reduce(errors)
        report = errors.report()
        skills = []
        for number, level in enumerate(levels_of(pl_module)):
            entry = report[f"level{number}"][f"h{level.horizons[-1]}"]
            skills.append(entry["skill_ratio"])
            values = {
                "skill_ratio": entry["skill_ratio"],
                "copy_ratio": entry["copy_ratio"],
                "effective_rank": float(ranks[number].compute()),
            }
            pl_module.log_dict(
                {f"{stage}/level{number}/{name}": value for name, value in values.items()},
                rank_zero_only=True,
            )
        return skills

    def _warn(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = trainer.callback_metrics
        late = trainer.global_step >= self.patience_share * trainer.estimated_stepping_batches
        for number, level in enumerate(levels_of(pl_module)):
            rank = float(metrics[f"train/level{number}/effective_rank"])
            skill = float(metrics[f"train/level{number}/skill_ratio"])
            if rank < max(COLLAPSED_RANK * level.dim, 1.5):
                self._say(
                    number,
                    f"level {number} has collapsed: at step {trainer.global_step} its tokens use "
                    f"{rank:.1f} of {level.dim} directions. Raise model.weights.batch and "
                    "within_clip, or lower the learning rate.",
                )
            elif late and skill >= 1:
                self._say(
                    number,
                    f"level {number} predicts no better than a rule without a model: at step "
                    f"{trainer.global_step} its error is {skill:.2f} of the best trivial "
                    "predictor's. Train longer, or weigh within_clip less if the tokens are noise.",
                )

    @rank_zero_only
    def _say(self, number: int, message: str) -> None:
        kind = message.split(":")[0]
        if (number, kind) not in self.warned:
            self.warned.add((number, kind))
            print(f"\nWARNING: {message}", flush=True)

    def state_dict(self) -> dict[str, Any]:
        return {
            f"level{level}.h{horizon}": {"gram": fit.gram, "moment": fit.moment}
            for (level, horizon), fit in self.fits.fits.items()
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for (level, horizon), fit in self.fits.fits.items():
            stored = state_dict[f"level{level}.h{horizon}"]
            fit.gram, fit.moment = stored["gram"].cpu(), stored["moment"].cpu()
            fit.solve()


def _total_steps(trainer: Trainer) -> int | None:
    """Optimizer steps of the whole run, if it is bounded."""
    total = trainer.estimated_stepping_batches
    return int(total) if total != float("inf") else None


def levels_of(pl_module: LightningModule) -> list[Level]:
    """The levels of the task in training."""
    return list(cast(WorldModelTask, pl_module).hierarchy.levels)


def _on_cpu(outputs: Mapping[str, Any]) -> tuple[list[Tensor], list[dict[int, Tensor]]]:
    """Targets and predictions of a step as float32 on the CPU."""
    tokens = [level.float().cpu() for level in outputs["targets"]]
    predicted = [{h: p.float().cpu() for h, p in level.items()} for level in outputs["predicted"]]
    return tokens, predicted


def _reduce(errors: PredictionErrors) -> None:
    """Replace the sums of squared errors by their means over ranks; ratios are then global."""
    for place, sums in errors.sums.items():
        known = torch.tensor([*sums.values(), errors.counts[place]], dtype=torch.float64)
        *values, count = global_mean(known).tolist()
        errors.sums[place] = dict(zip(sums, values, strict=True))
        # A rank may have had nothing but padding.
        errors.counts[place] = round(count)


class RunProgressBar(TQDMProgressBar):
    """One line for the whole run: steps, the loss, and per level skill ratio and effective rank.

    Runs are measured in steps; epochs would start the bar again every few seconds on a small set.
    """

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        super().on_train_start(trainer, *_)
        bar = self.train_progress_bar
        bar.total, bar.initial, bar.n = (
            _total_steps(trainer),
            trainer.global_step,
            trainer.global_step,
        )
        bar.set_description("training")

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        """Nothing: the bar goes on."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        step = trainer.global_step
        if step % self.refresh_rate == 0 or step == self.train_progress_bar.total:
            self.train_progress_bar.n = step
            self.train_progress_bar.set_postfix(self.get_metrics(trainer, pl_module))

    def init_validation_tqdm(self) -> Tqdm:
        return Tqdm(disable=True)

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        metrics = trainer.callback_metrics
        shown: dict[str, int | str | float | dict[str, float]] = {}
        if "train/loss" in metrics:
            shown["loss"] = f"{float(metrics['train/loss']):.3f}"
        for number in range(len(levels_of(pl_module))):
            prefix = f"train/level{number}"
            if f"{prefix}/skill_ratio" in metrics:
                skill = float(metrics[f"{prefix}/skill_ratio"])
                rank = float(metrics[f"{prefix}/effective_rank"])
                shown[f"L{number}"] = f"skill {skill:.2f} rank {rank:.0f}"
        return shown


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
            self._save_none_monitor_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        # Only when a person stops the run: all ranks then come here. After any other error on one
        # rank the others would wait in the write for ever.
        if isinstance(exception, KeyboardInterrupt) and trainer.global_step > 0:
            self._save_none_monitor_checkpoint(trainer, self._monitor_candidates(trainer))
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


class ThreadsPerProcess(Callback):
    """Shares the CPU's cores among the processes of this machine.

    Without it every rank starts a thread per core, and two ranks on two cores run slower than one.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        local = max(1, trainer.num_devices)
        if local > 1:
            torch.set_num_threads(max(1, torch.get_num_threads() // local))
