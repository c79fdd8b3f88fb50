"""Pictures while a run goes on: what tokens look like, and what surprises the model."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributed.tensor import DTensor

from worldmodel.callbacks.levels import levels_of
from worldmodel.data.datamodule import ClipDataModule
from worldmodel.data.remote import is_url
from worldmodel.errors import InputError
from worldmodel.evaluation import figures
from worldmodel.evaluation.footage import Block, find_samples, read_block
from worldmodel.evaluation.surprise import prediction_surprise, splice_frames
from worldmodel.evaluation.surprise.scoring import FourClips
from worldmodel.models.checkpoint import ClipSpec
from worldmodel.task import WorldModelTask

# The kind of block that is shown, where there are blocks of it.
KIND = "reveal"
# What a set is taken to cost before one was drawn: 0.9 to 1.3 s of CPU for the tiny configuration.
FIRST_SECONDS = 1.0
# Curves that TensorBoard shows in one chart each, training and validation together.
CHARTS = ("skill_ratio", "copy_ratio", "effective_rank", "prediction", "batch", "within_clip")


class Pictures(Callback):
    """Adds pictures to TensorBoard, and to Weights & Biases where that logs the run.

    `pictures/tokens`: the first validation clip over the tokens of every level, their three main
    directions as colours, which are turned so that they follow those of the picture before; a
    checkpoint keeps these, so that they do in a run that goes on, too.
    `pictures/surprise`: surprise over time on the four clips of a validation block, at each level's
    farthest horizon; only where the validation set is one of the physics world with blocks. And
    charts of every level, training and validation in one, under `Custom scalars`.

    The first process alone draws. The random state, the model's mode and every number of the
    training stay as they are. There are no pictures without validation, nor where weights are
    spread over devices, of which one cannot run the model alone. What goes wrong is told once and
    ends the pictures, not the run.

    Args:
        every_n_steps: optimizer steps between two sets of pictures; 0 draws none.
        max_share: most that they may take of the training's time; where they would take more, a
            set is left out.

    Raises:
        InputError: a number is out of range.
    """

    def __init__(self, every_n_steps: int = 250, max_share: float = 0.01) -> None:
        if every_n_steps < 0 or not 0 < max_share <= 1:
            raise InputError(
                "pictures.every_n_steps must be at least 0 and pictures.max_share above 0 and at "
                f"most 1, got {every_n_steps} and {max_share}"
            )
        self.every_n_steps, self.max_share = every_n_steps, max_share
        self.seconds = 0.0
        self._last_seconds = FIRST_SECONDS
        self._begun = 0.0
        self._drawn_at = -1
        self._ended = False
        self._clip: Tensor | None = None
        self._block: Block | None = None
        self._along: list[np.ndarray] | None = None  # per level, of the last picture

    def state_dict(self) -> dict[str, Any]:
        """Where the last picture's tokens lie along its directions: some kB to be followed by."""
        return {"along": [torch.from_numpy(each) for each in self._along or ()]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._along = [each.numpy() for each in state_dict["along"]] or None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begun = time.perf_counter()
        if self.every_n_steps and trainer.is_global_zero:
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_custom_scalars(charts(len(levels_of(pl_module))))

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        step = trainer.global_step
        if not self.every_n_steps or step % self.every_n_steps or step == self._drawn_at:
            return
        if self._ended or not trainer.is_global_zero or not self._in_time():
            return
        self._drawn_at = step  # several batches may make a step
        begun = time.perf_counter()
        try:
            self._draw(trainer, pl_module)
        except Exception as error:  # of files, of drawing, of a logger: none is worth a run
            self._ended = True
            rank_zero_warn(
                f"no more pictures of this run: {type(error).__name__}: {error}. "
                "--pictures.every_n_steps 0 leaves them out"
            )
        self._last_seconds = time.perf_counter() - begun
        self.seconds += self._last_seconds

    def _in_time(self) -> bool:
        """Whether another set may be drawn, if it takes as long as the last one."""
        elapsed = time.perf_counter() - self._begun
        return self.seconds + self._last_seconds <= self.max_share * elapsed

    def _draw(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, WorldModelTask)
        loggers = [each for each in trainer.loggers if takes_pictures(each)]
        sharded = any(isinstance(each, DTensor) for each in pl_module.hierarchy.parameters())
        if not loggers or sharded or not trainer.limit_val_batches:
            self._ended = True
            return
        if self._clip is None:
            datamodule: ClipDataModule = trainer.datamodule  # type: ignore[attr-defined]
            if not len(datamodule.val_refs):
                self._ended = True
                return
            self._clip = datamodule.val_clip().frames[:1]
            self._block = first_block(datamodule)
        for name, figure in self._figures(trainer, pl_module).items():
            for logger in loggers:
                add_picture(logger, f"pictures/{name}", as_pixels(figure), trainer.global_step)

    def _figures(self, trainer: Trainer, pl_module: WorldModelTask) -> dict[str, Figure]:
        assert self._clip is not None
        tokens, _ = run_apart(trainer, pl_module, self._clip)
        own = [level[0] for level in tokens]
        before = to_follow(own, self._along)
        self._along = [
            figures.main_directions(values, like) for values, like in zip(own, before, strict=True)
        ]
        grids = [(level.grid[0], level.grid[1]) for level in levels_of(pl_module)]
        drawn = {"tokens": figures.token_strip(self._clip[0], own, grids, self._along)}
        if self._block is not None:
            drawn["surprise"] = self._surprise(trainer, pl_module, self._block)
        return drawn

    def _surprise(self, trainer: Trainer, pl_module: WorldModelTask, block: Block) -> Figure:
        tokens, predicted = run_apart(trainer, pl_module, FourClips(block).frames)
        curves, seconds, titles = [], [], []
        for number, level in enumerate(levels_of(pl_module)):
            horizon = max(level.horizons)
            curve = prediction_surprise(tokens[number], predicted[number][horizon], horizon)
            ends = (np.arange(curve.shape[1]) + horizon + 1) * level.span - 1
            curves.append(curve)
            seconds.append(ends / block.fps)
            titles.append(f"level {number}, {horizon * level.span / block.fps:g} s ahead")
        events = [frame / block.fps for frame in splice_frames(block.windows, 1) or ()]
        heading = f"{block.key}, step {trainer.global_step}"
        return figures.surprise_levels(curves, events, seconds, titles, heading)


def to_follow(
    tokens: Sequence[Tensor], along: Sequence[np.ndarray] | None
) -> Sequence[np.ndarray | None]:
    """What the main directions of tokens are to be turned towards, per level; None for nothing.

    Args:
        tokens: per level `(T_l, N_l, D_l)`.
        along: those of the picture before, `(T_l N_l, 3)`. It may have been of another clip, where
            a run goes on with other data.
    """
    if along is None or any(
        len(like) != values.shape[:2].numel() for values, like in zip(tokens, along, strict=True)
    ):
        return [None] * len(tokens)
    return along


@torch.no_grad()
def run_apart(
    trainer: Trainer, pl_module: WorldModelTask, frames: Tensor
) -> tuple[list[Tensor], list[dict[int, Tensor]]]:
    """Tokens and predictions of clips, on the CPU, with nothing of the training changed.

    Not compiled: another number of clips than a batch has would compile everything anew.

    Args:
        trainer: whose precision is used.
        pl_module: the task.
        frames: uint8 `(B, T, C, H, W)`.
    """
    device = pl_module.device
    devices = [device] if device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices=devices),
        torch.compiler.set_stance("force_eager"),
        trainer.precision_plugin.forward_context(),
    ):
        tokens = pl_module.hierarchy.encode(frames.to(device))
        predictions = pl_module.hierarchy.predict(tokens)
    return (
        [level.float().cpu() for level in tokens],
        [{h: p.float().cpu() for h, p in each.predicted.items()} for each in predictions],
    )


def first_block(datamodule: ClipDataModule) -> Block | None:
    """The first block of the validation set, `KIND` before others; None where it has none."""
    names = [shard.name for shard in datamodule.val_refs.shards]
    folder = Path(names[0]).resolve().parent if names and not is_url(names[0]) else None
    if folder is None or folder.name != "val" or not any(folder.glob("blocks-*.tar")):
        return None
    refs = find_samples(folder.parent, "val", "blocks")
    ref = next((each for each in refs if KIND in each.key), refs[0])
    clip = ClipSpec(num_frames=datamodule.num_frames, fps=datamodule.fps, size=datamodule.size)
    return read_block(ref, clip, maps=False)


def takes_pictures(logger: Logger) -> bool:
    """Whether a logger can keep pictures: TensorBoard's, and whichever has `log_image`."""
    return isinstance(logger, TensorBoardLogger) or hasattr(logger, "log_image")


def add_picture(logger: Logger, name: str, pixels: np.ndarray, step: int) -> None:
    """Hand a picture over.

    Args:
        logger: one that `takes_pictures`.
        name: of the picture.
        pixels: uint8 `(H, W, 3)`.
        step: of the optimizer.
    """
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(name, pixels, step, dataformats="HWC")
    else:
        logger.log_image(name, [pixels], step=step)  # type: ignore[attr-defined]


def as_pixels(figure: Figure) -> np.ndarray:
    """A figure as uint8 `(H, W, 3)`; pyplot, which is global, stays out of it."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def charts(num_levels: int, names: Sequence[str] = CHARTS) -> dict[str, dict[str, list[Any]]]:
    """TensorBoard's `Custom scalars`: per level a chart of each number, of all stages."""
    return {
        f"level {level}": {
            name.replace("_", " "): ["Multiline", [rf"(train|val)/level{level}/{name}$"]]
            for name in names
        }
        for level in range(num_levels)
    }
