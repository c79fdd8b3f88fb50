"""Pictures while a run goes on: what tokens look like, and what surprises the model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from worldmodel.callbacks.levels import levels_of
from worldmodel.callbacks.occasional import Occasional, apart
from worldmodel.data.datamodule import ClipDataModule
from worldmodel.data.remote import is_url
from worldmodel.evaluation import figures
from worldmodel.evaluation.footage import Block, find_samples, read_block
from worldmodel.evaluation.surprise import prediction_surprise, splice_frames
from worldmodel.evaluation.surprise.scoring import FourClips
from worldmodel.models.checkpoint import ClipSpec
from worldmodel.models.hierarchy import Level
from worldmodel.task import WorldModelTask

Outputs = tuple[list[Tensor], list[dict[int, Tensor]]]
"""Of some clips, per level: tokens, and per horizon the predicted ones."""
# The kind of block that is shown, where there are blocks of it.
KIND = "reveal"
# Curves that TensorBoard shows in one chart each, training and validation together.
CHARTS = ("skill_ratio", "copy_ratio", "effective_rank", "prediction", "batch", "within_clip")


class Pictures(Occasional):
    """Adds pictures to TensorBoard, and to Weights & Biases where that logs the run.

    `pictures/tokens`: the first validation clip over the tokens of every level, their three main
    directions as colours, which are turned so that they follow those of the picture before; a
    checkpoint keeps these, so that they do in a run that goes on, too.
    `pictures/surprise`: surprise over time on the four clips of a validation block, at each level's
    farthest horizon; only where the validation set is one of the physics world with blocks. And
    charts of every level, training and validation in one, under `Custom scalars`.

    The first process alone draws; where weights are spread over devices all of them run the model.
    The random state, the model's mode and every number of the training stay as they are. There are
    no pictures without validation. What goes wrong is told once and ends the pictures, not the run.

    Args:
        every_n_steps: optimizer steps between two sets of pictures; 0 draws none.
        max_share: most that they may take of the training's time; where they would take more, a
            set is left out.

    Raises:
        InputError: a number is out of range.
    """

    option = noun = "pictures"
    remedy = "--pictures.every_n_steps 0 leaves them out"
    # 0.9 to 1.3 s of CPU for the tiny configuration.
    first_seconds = 1.0

    def __init__(self, every_n_steps: int = 250, max_share: float = 0.01) -> None:
        super().__init__(every_n_steps, max_share)
        self._clip: Tensor
        self._block: Block | None = None
        self._along: list[np.ndarray] | None = None  # per level, of the last picture

    def state_dict(self) -> dict[str, Any]:
        """Where the last picture's tokens lie along its directions: some kB to be followed by."""
        return {"along": [torch.from_numpy(each) for each in self._along or ()]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._along = [each.numpy() for each in state_dict["along"]] or None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if self.every_n_steps and trainer.is_global_zero:
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_custom_scalars(charts(len(levels_of(pl_module))))

    def prepare(self, trainer: Trainer, task: WorldModelTask) -> bool:
        datamodule: ClipDataModule = trainer.datamodule  # type: ignore[attr-defined]
        if not any(takes_pictures(each) for each in trainer.loggers):
            return False
        if not trainer.limit_val_batches or not len(datamodule.val_refs):
            return False
        self._clip = datamodule.val_clip().frames[:1]
        self._block = first_block(datamodule)
        return True

    def look(self, trainer: Trainer, task: WorldModelTask) -> list[Outputs]:
        clips = [self._clip]
        if self._block is not None:
            clips.append(FourClips(self._block).frames)
        with apart(trainer, task):
            return [run(task, each) for each in clips]

    def show(self, trainer: Trainer, task: WorldModelTask, seen: list[Outputs]) -> None:
        levels, step = levels_of(task), trainer.global_step
        drawn = {"tokens": self._draw_tokens([level[0] for level in seen[0][0]], levels)}
        if self._block is not None:
            heading = f"{self._block.key}, step {step}"
            drawn["surprise"] = draw_surprise(self._block, *seen[1], levels, heading)
        for name, figure in drawn.items():
            for logger in trainer.loggers:
                if takes_pictures(logger):
                    add_picture(logger, f"pictures/{name}", as_pixels(figure), step)

    def _draw_tokens(self, tokens: list[Tensor], levels: Sequence[Level]) -> Figure:
        self._along = turned(tokens, self._along)
        grids = [(level.grid[0], level.grid[1]) for level in levels]
        return figures.token_strip(self._clip[0], tokens, grids, self._along)


def draw_surprise(
    block: Block,
    tokens: Sequence[Tensor],
    predicted: Sequence[dict[int, Tensor]],
    levels: Sequence[Level],
    heading: str,
) -> Figure:
    """Surprise over time on the four clips of a block.

    Args:
        block: which.
        tokens: per level `(4, T_l, N_l, D_l)`; `predicted` likewise, by horizon.
        predicted: of these tokens.
        levels: of the model.
        heading: above everything.
    """
    curves, seconds, titles = [], [], []
    for number, level in enumerate(levels):
        horizon = max(level.horizons)
        curve = prediction_surprise(tokens[number], predicted[number][horizon], horizon)
        ends = (np.arange(curve.shape[1]) + horizon + 1) * level.span - 1
        curves.append(curve)
        seconds.append(ends / block.fps)
        titles.append(f"level {number}, {horizon * level.span / block.fps:g} s ahead")
    events = [frame / block.fps for frame in splice_frames(block.windows, 1) or ()]
    return figures.surprise_levels(curves, events, seconds, titles, heading)


def turned(tokens: Sequence[Tensor], along: Sequence[np.ndarray] | None) -> list[np.ndarray]:
    """Main directions of tokens, turned towards those of the picture before.

    Args:
        tokens: per level `(T_l, N_l, D_l)`.
        along: what this gave for that picture; None for the first one.
    """
    before = to_follow(tokens, along)
    return [
        figures.main_directions(values, like) for values, like in zip(tokens, before, strict=True)
    ]


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


def run(task: WorldModelTask, frames: Tensor) -> Outputs:
    """Tokens and predictions of clips, float32 on the CPU; within `apart`.

    Args:
        task: whose model is run.
        frames: uint8 `(B, T, C, H, W)`.
    """
    tokens = task.hierarchy.encode(frames.to(task.device))
    predictions = task.hierarchy.predict(tokens)
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
