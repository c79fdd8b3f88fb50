"""The training of a hierarchy: one step reads as the method."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

import torch
from lightning import LightningModule
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grad_value_, clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from worldmodel import __version__
from worldmodel.blanks import BlankConfig, draw_blanks
from worldmodel.clips import ClipBatch
from worldmodel.compute import (
    ComputeConfig,
    check_compiler,
    check_precision,
    compile_parts,
    shard_parts,
)
from worldmodel.cuda_graph import RecordedStep, StepResult, why_not_recorded
from worldmodel.errors import InputError
from worldmodel.losses.objective import LossWeights, level_losses, total_loss
from worldmodel.losses.prediction import PredictionLoss, SquaredError
from worldmodel.losses.ranks import shared_batch
from worldmodel.losses.regularizers import Regularizer, SIGReg
from worldmodel.losses.scopes import SCOPES
from worldmodel.models.checkpoint import (
    architecture_differences,
    misfit,
    model_to_begin_with,
)
from worldmodel.models.encoder import EncoderConfig
from worldmodel.models.hierarchy import Hierarchy, LevelConfig
from worldmodel.models.target import SameEncoder, Target
from worldmodel.optim import OptimConfig, build_optimizer, build_schedule, take_effect
from worldmodel.spikes import SpikeConfig, SpikeGuard


class WorldModelTask(LightningModule):
    """Learn a hierarchical JEPA from clips, without actions, labels or pixels to reconstruct.

    Args:
        levels: from the fastest to the slowest.
        encoder: level 0's frame encoder.
        regularizer: what prevents collapse, over every scope; SIGReg if not given.
        target: what predictions are compared with; the same encoder, with gradient, if not given.
        weights: of the losses of each level; levels are weighted by `LevelConfig.weight`.
        optim: AdamW and its schedule.
        prediction_loss: what compares predicted with target tokens; squared error if not given.
        scope_regularizers: by scope, another regularizer than `regularizer`.
        joint: whether the losses of a level also train the levels below it.
        blanks: what is hidden from the predictors in training.
        top_down: whether each predictor also reads the states of the slower level above it.
        spikes: which steps of the optimizer are left out.
        compute: how the same numbers are had faster, or with less memory.
        init_from: a trained model of the same architecture to begin with instead of fresh weights:
            a checkpoint, a run's folder, an export, `hf://org/name`, or a shipped model's name.

    Raises:
        InputError: a choice is out of range, or `init_from` is missing or of another architecture.
    """

    def __init__(
        self,
        levels: Sequence[LevelConfig],
        encoder: EncoderConfig = EncoderConfig(),  # noqa: B008 - frozen
        regularizer: Regularizer | None = None,
        target: Target | None = None,
        weights: LossWeights = LossWeights(),  # noqa: B008 - frozen
        optim: OptimConfig = OptimConfig(),  # noqa: B008 - frozen
        prediction_loss: PredictionLoss | None = None,
        scope_regularizers: dict[str, Regularizer] | None = None,
        joint: bool = True,
        blanks: BlankConfig = BlankConfig(),  # noqa: B008 - frozen
        top_down: bool = False,
        spikes: SpikeConfig = SpikeConfig(),  # noqa: B008 - frozen
        compute: ComputeConfig = ComputeConfig(),  # noqa: B008 - frozen
        init_from: str | None = None,
    ) -> None:
        super().__init__()
        self.encoder_config, self.level_configs = encoder, tuple(levels)
        self.hierarchy = Hierarchy(encoder, self.level_configs, top_down)
        self.began_with: dict[str, Any] | None = None
        self._left_out_before: list[str] | None = None  # of a run that goes on
        if init_from is not None:
            model = model_to_begin_with(init_from, encoder, self.level_configs, top_down)
            self.hierarchy.load_state_dict(model.network.state_dict())
            self.began_with = {
                "source": init_from,
                "sha256": model.sha256,
                "global_step": model.global_step,
                "left_out": list((model.config.get("data") or {}).get("left_out", ())),
            }
        self.prediction_loss = prediction_loss or SquaredError()
        self.prediction_loss.attach(self.hierarchy)
        self.regularizers = scope_modules(regularizer or SIGReg(), scope_regularizers or {})
        self.target = target or SameEncoder()
        self.target.attach(self.hierarchy)
        self.weights = weights
        self.joint, self.blanks = joint, blanks
        self.optim = optim
        self.guard = SpikeGuard(spikes)
        self.compute_config, self._prepared = compute, False
        self.recorded: RecordedStep | None = None
        self._is_replay = False  # whether the last training step was one
        self.hierarchy.activation_checkpointing = compute.activation_checkpointing

    def setup(self, stage: str) -> None:
        check_precision(self.trainer.precision)

    def configure_model(self) -> None:
        """Compile and shard what is to be; Lightning calls this once before a run, maybe again."""
        if self._prepared:
            return
        self._prepared = True
        others = (self.prediction_loss, self.regularizers)
        if self.compute_config.compile:
            check_compiler(self.trainer.strategy.root_device)
            compile_parts(self.hierarchy, others)
        if self.device_mesh is not None:
            mesh = self.device_mesh["data_parallel"]
            shard_parts((self.hierarchy, self.target), others, mesh)
        if self.compute_config.cuda_graph:
            self._record_steps()

    def _record_steps(self) -> None:
        reason = why_not_recorded(
            self.trainer.strategy.root_device,
            self.trainer.world_size,
            ["model.blanks"] if self.blanks.share else [],
            is_sharded=self.device_mesh is not None,
        )
        if reason is None:
            self.recorded = RecordedStep(self, self._find)
        elif self.compute_config.cuda_graph != "auto":
            raise InputError(
                f"model.compute.cuda_graph is true, but {reason}; set it to auto or false"
            )

    def objective(self, batch: ClipBatch) -> tuple[list[dict[str, Tensor]], dict[str, Any]]:
        """Losses of every level, and what they were computed from."""
        tokens = self.hierarchy.encode(batch.frames, self.joint)
        targets = self.target(self.hierarchy, batch.frames, tokens)
        with shared_batch(batch.num_clips, batch.num_places, batch.frames.device):
            blanks = None
            if self.training and self.blanks.share:
                blanks = draw_blanks(self.blanks, self.hierarchy, tokens, self.global_step)
            predictions = self.hierarchy.predict(tokens, blanks, self.joint)
            losses = [
                level_losses(
                    tokens[number],
                    predictions[number].predicted,
                    targets[number],
                    self.regularizers,
                    self.weights,
                    # Every level and step draws its own directions; the same on every rank.
                    seed=self.global_step * len(tokens) + number,
                    prediction_loss=self.prediction_loss,
                    level=number,
                    frames=batch.frames,
                )
                for number in range(len(tokens))
            ]
        shown = slice(batch.num_clips)  # of nothing there is nothing to see
        seen = {
            "targets": [target.detach()[shown] for target in targets],
            "predicted": [
                {h: p.detach()[shown] for h, p in prediction.predicted.items()}
                for prediction in predictions
            ],
        }
        return losses, seen

    def total(self, losses: Sequence[dict[str, Tensor]]) -> Tensor:
        """Sum over levels, each with its weight, of its weighted losses."""
        terms = [
            config.weight * total_loss(level, self.weights)
            for config, level in zip(self.level_configs, losses, strict=True)
        ]
        return torch.stack(terms).sum()

    def _find(self, batch: ClipBatch) -> StepResult:
        losses, seen = self.objective(batch)
        return StepResult(self.total(losses), losses, seen)

    def training_step(self, batch: ClipBatch, batch_idx: int) -> dict[str, Any]:
        self._is_replay = self.recorded is not None and self.recorded.takes(batch)
        if self.recorded is not None and self._is_replay:
            found = self.recorded.replay(batch, self.global_step)
        else:
            found = self._find(batch)
        self._log("train", found.loss, found.losses, len(batch))
        return {"loss": found.loss, **found.seen}

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """The backward pass; that of a replayed step is done already."""
        if self.recorded is not None and self._is_replay:
            self.recorded.hand_over(1 / self.trainer.accumulate_grad_batches)
        else:
            super().backward(loss, *args, **kwargs)

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> dict[str, Any]:
        found = self._find(batch)
        rows = batch.counted
        # As many on every rank: clips that are missing have been weighed already.
        self._log(
            "val", found.loss, found.losses, batch.num_places if batch.num_missing else len(rows)
        )
        seen = found.seen
        return {
            "loss": found.loss,
            "targets": [level[rows] for level in seen["targets"]],
            "predicted": [{h: p[rows] for h, p in level.items()} for level in seen["predicted"]],
        }

    def _log(
        self, stage: str, loss: Tensor, losses: Sequence[dict[str, Tensor]], batch_size: int
    ) -> None:
        if stage == "train" and not self._is_logged_step:
            return
        values = {f"{stage}/loss": loss}
        for number, level in enumerate(losses):
            values |= {f"{stage}/level{number}/{name}": value for name, value in level.items()}
        self.log_dict(
            # A replay writes its numbers where the one before did.
            {name: value.detach().clone() for name, value in values.items()},
            batch_size=batch_size,
            sync_dist=stage == "val",
        )

    @property
    def _is_logged_step(self) -> bool:
        """Whether the loggers take this step's numbers.

        Lightning keeps no others, but handing it all of them costs 3 % of a step of `tiny`.
        """
        every = int(self.trainer.log_every_n_steps)  # type: ignore[attr-defined]
        return every > 0 and (self.global_step + 1) % every == 0

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """One step of the optimizer, after which the target follows."""
        super().optimizer_step(*args, **kwargs)
        self.target.update(self.hierarchy)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradient by its global norm or its values, log the norm it had, and judge it.

        Lightning refuses to clip for a fused optimizer under autocast, because with fp16 that one
        would still have to unscale the gradients; bf16 and fp32 have no scale.
        """
        gradients = [each.grad for each in self.parameters() if each.grad is not None]
        norm = get_total_norm(gradients)
        if isinstance(norm, DTensor):  # of weights that are sharded
            norm = norm.full_tensor()
        if gradient_clip_val and gradient_clip_algorithm == "value":
            clip_grad_value_(self.parameters(), gradient_clip_val)
        elif gradient_clip_val:
            clip_grads_with_norm_(self.parameters(), gradient_clip_val, norm)
        if self._is_logged_step:
            self.log("train/gradient_norm", norm)
        self.guard.judge(norm, optimizer)

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer(self, self.optim)
        total_steps = int(self.trainer.estimated_stepping_batches)
        schedule = build_schedule(optimizer, self.optim, total_steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_train_start(self) -> None:
        """Of a run that goes on: its settings are the configuration's, not the checkpoint's."""
        schedules = [cast(LambdaLR, each.scheduler) for each in self.trainer.lr_scheduler_configs]
        changes = take_effect(self.trainer.optimizers[0], schedules, self.optim)
        if changes:
            rank_zero_only(print)(
                f"from step {self.trainer.global_step} on: {', '.join(changes)}", flush=True
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is needed to build the model again without this class, and the random state."""
        datamodule = getattr(self.trainer, "datamodule", None)
        left_out = list(getattr(datamodule, "left_out", ()))
        if self.began_with is not None:  # what its weights had been shown is known to this one too
            left_out = [kind for kind in left_out if kind in self.began_with["left_out"]]
        if self._left_out_before is not None:  # it may go on with other sets
            left_out = [kind for kind in left_out if kind in self._left_out_before]
        checkpoint["worldmodel"] = {
            "version": __version__,
            "encoder": asdict(self.encoder_config),
            "levels": [asdict(level) for level in self.level_configs],
            "top_down": self.hierarchy.top_down,
            "clip": {
                "num_frames": getattr(datamodule, "num_frames", self.hierarchy.min_frames),
                "fps": getattr(datamodule, "fps", None),
                "size": self.hierarchy.size,
            },
            "data": {"left_out": left_out},
        }
        if self.began_with is not None:
            checkpoint["worldmodel"]["began_with"] = self.began_with
        checkpoint["spikes"] = self.guard.state_dict()
        checkpoint["rng_state"] = {"torch": torch.get_rng_state()}
        if torch.cuda.is_available():
            checkpoint["rng_state"]["cuda"] = torch.cuda.get_rng_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the random state, the usual gradient and what was shown; Lightning the rest.

        Raises:
            InputError: it is of another model than the configuration's.
        """
        known = checkpoint["worldmodel"]
        differences = architecture_differences(
            known, self.encoder_config, self.level_configs, self.hierarchy.top_down
        )
        # Where weights are shared out (fsdp2) they have been taken out and loaded by now.
        weights = checkpoint.get("state_dict")
        other = None if weights is None else misfit(self.state_dict(), weights)
        if differences or other:
            raise InputError(
                "the checkpoint is of another model than the configuration: "
                f"{'; '.join(differences[:3]) or other}. Go on with the model that made it, its "
                "config.yaml has it, or begin a new run without --ckpt_path"
            )
        # Its weights come from the checkpoint, whatever `init_from` says by now.
        self.began_with = known.get("began_with")
        self._left_out_before = list(known.get("data", {}).get("left_out", ()))
        if "spikes" in checkpoint:  # older ones had none
            self.guard.load_state_dict(checkpoint["spikes"])
        torch.set_rng_state(checkpoint["rng_state"]["torch"].cpu())
        if torch.cuda.is_available() and "cuda" in checkpoint["rng_state"]:
            torch.cuda.set_rng_state(checkpoint["rng_state"]["cuda"].cpu())


def scope_modules(regularizer: Regularizer, others: Mapping[str, Regularizer]) -> nn.ModuleDict:
    """Which regularizer each scope has.

    Raises:
        InputError: a name that is no scope.
    """
    unknown = sorted(others.keys() - SCOPES.keys())
    if unknown:
        raise InputError(
            f"scope_regularizers names {unknown[0]}, which is no scope; there are {list(SCOPES)}"
        )
    return nn.ModuleDict({scope: others.get(scope, regularizer) for scope in SCOPES})
