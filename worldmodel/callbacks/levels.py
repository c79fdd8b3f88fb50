"""What each level has learned so far: skill, collapse, and both in plain words."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from worldmodel.callbacks.log_once import log_once
from worldmodel.evaluation.collapse import EffectiveRank, has_collapsed
from worldmodel.evaluation.prediction import PredictionErrors
from worldmodel.losses.ranks import global_mean
from worldmodel.models.hierarchy import Level
from worldmodel.task import WorldModelTask


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

    # Of a training batch, so that a look costs a large one no more than a small one: sums are in
    # float64, six times the memory of bf16 tokens for each of the trivial predictors.
    CLIPS = 8
    # Share of what was known of the trivial predictors' fit that survives a look: they follow
    # tokens that change as the encoder learns.
    MEMORY = 0.8

    def __init__(self, every_n_steps: int = 50, patience_share: float = 0.5) -> None:
        self.every_n_steps, self.patience_share = every_n_steps, patience_share
        self.fits: PredictionErrors
        self.validation: PredictionErrors
        self.ranks: list[EffectiveRank] = []
        self.warned: set[tuple[int, str]] = set()
        self._looked_at = 0

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

    @staticmethod
    def _ranks(pl_module: LightningModule) -> list[EffectiveRank]:
        return [EffectiveRank(level.dim).to(pl_module.device) for level in levels_of(pl_module)]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._looked_at = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        step = trainer.global_step
        if step % self.every_n_steps or step == self._looked_at:  # several batches make a step
            return
        self._looked_at = step
        tokens, predicted = _first_clips(outputs, self.CLIPS)
        # On no rank: a step that is not finite is left out, and one look at it would spoil the fits
        # for good; and a rank may have no clip to look at.
        usable = len(tokens[0]) > 0 and all(level.isfinite().all() for level in tokens)
        if global_mean(torch.tensor(float(usable))) < 1:
            return
        self._follow(tokens)
        errors = self._errors(pl_module)
        errors.fits = self.fits.fits
        errors.add(tokens, predicted)
        ranks = self._ranks(pl_module)
        for rank, level_tokens in zip(ranks, tokens, strict=True):
            rank.update(level_tokens)
        self._log("train", trainer, pl_module, errors, ranks)
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
        self.ranks = self._ranks(pl_module)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        tokens, predicted = _first_clips(outputs)
        if not len(tokens[0]):  # nothing but padding
            return
        self.validation.add(tokens, predicted)
        for rank, level_tokens in zip(self.ranks, tokens, strict=True):
            rank.update(level_tokens)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        skills = self._log("val", trainer, pl_module, self.validation, self.ranks)
        pl_module.log("val/skill_ratio", sum(skills) / len(skills), rank_zero_only=True)

    def _log(
        self,
        stage: str,
        trainer: Trainer,
        pl_module: LightningModule,
        errors: PredictionErrors,
        ranks: Sequence[EffectiveRank],
    ) -> list[float]:
        """Log one stage's numbers and return the levels' skill ratios at their longest horizons."""
        _reduce(errors)
        report = errors.report()
        skills: list[float] = []
        found: dict[str, float] = {}
        for number, level in enumerate(levels_of(pl_module)):
            entry = report[f"level{number}"][f"h{level.horizons[-1]}"]
            skills.append(entry["skill_ratio"])
            values = {
                "skill_ratio": entry["skill_ratio"],
                "copy_ratio": entry["copy_ratio"],
                "effective_rank": float(ranks[number].compute()),
            }
            found |= {f"{stage}/level{number}/{name}": value for name, value in values.items()}
        if stage == "train":
            log_once(trainer, pl_module, found)
        else:
            pl_module.log_dict(found, rank_zero_only=True)
        return skills

    def _warn(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = trainer.callback_metrics
        late = trainer.global_step >= self.patience_share * trainer.estimated_stepping_batches
        for number, level in enumerate(levels_of(pl_module)):
            rank = float(metrics[f"train/level{number}/effective_rank"])
            skill = float(metrics[f"train/level{number}/skill_ratio"])
            if has_collapsed(rank, level.dim):
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


def levels_of(pl_module: LightningModule) -> list[Level]:
    """The levels of the task in training."""
    return list(cast(WorldModelTask, pl_module).hierarchy.levels)


def _first_clips(
    outputs: Mapping[str, Any], clips: int | None = None
) -> tuple[list[Tensor], list[dict[int, Tensor]]]:
    """Targets and predictions of a step's first clips, where they are."""
    tokens = [level[:clips] for level in outputs["targets"]]
    return tokens, [{h: p[:clips] for h, p in level.items()} for level in outputs["predicted"]]


def _reduce(errors: PredictionErrors) -> None:
    """Replace the sums of squared errors by their means over ranks; ratios are then global."""
    for place, sums in errors.sums.items():
        known = torch.tensor([*sums.values(), errors.counts[place]], dtype=torch.float64)
        *values, count = global_mean(known).tolist()
        errors.sums[place] = dict(zip(sums, values, strict=True))
        # A rank may have had nothing but padding.
        errors.counts[place] = round(count)
