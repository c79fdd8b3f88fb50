"""One line for the whole run."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from worldmodel.callbacks.levels import levels_of


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
        for name, metric, text in (
            ("frames/s", "speed/frames_per_second", ".0f"),
            ("waits", "speed/data_wait_share", ".0%"),
            ("mfu", "speed/mfu", ".0%"),
        ):
            if metric in metrics:
                shown[name] = format(float(metrics[metric]), text)
        if float(metrics.get("train/skipped_steps", 0)):
            shown["skipped"] = int(metrics["train/skipped_steps"])
        return shown


def _total_steps(trainer: Trainer) -> int | None:
    """Optimizer steps of the whole run, if it is bounded."""
    total = trainer.estimated_stepping_batches
    return int(total) if total != float("inf") else None
