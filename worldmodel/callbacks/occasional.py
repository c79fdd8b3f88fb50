"""Looks at a model now and then while it trains, in a small share of the time."""

import time
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch.distributed.fsdp import FSDPModule

from worldmodel.errors import InputError
from worldmodel.task import WorldModelTask


class Occasional(Callback):
    """Prepares once, then every so many steps looks at the model and shows what it saw.

    The first process alone does all of it. Where weights are shared out (FSDP2) the model can only
    be run by all processes together: all of them prepare and look, the first one shows. The random
    state and every number of the training stay as they are. What goes wrong is told once and ends
    the looks, not the run; only where all processes look an error in that ends the run, for they
    would no longer be at the same place of it.

    Args:
        every_n_steps: optimizer steps between two looks; 0 for none.
        max_share: most that they may take of the training's time; where one would take more, it is
            left out.

    Attributes:
        option: what this is called on the command line.
        noun: what it makes; `remedy` how it is left out, as messages say both.
        first_seconds: what a look is taken to cost before there was one.

    Raises:
        InputError: a number is out of range.
    """

    option: str
    noun: str
    remedy: str
    first_seconds: float

    def __init__(self, every_n_steps: int, max_share: float) -> None:
        if every_n_steps < 0 or not 0 < max_share <= 1:
            raise InputError(
                f"{self.option}.every_n_steps must be at least 0 and {self.option}.max_share above "
                f"0 and at most 1, got {every_n_steps} and {max_share}"
            )
        self.every_n_steps, self.max_share = every_n_steps, max_share
        self.seconds = 0.0
        self._last_seconds = self.first_seconds
        self._begun = 0.0
        self._looked_at = -1
        self._prepared = False
        self._ended = False

    @abstractmethod
    def prepare(self, trainer: Trainer, task: WorldModelTask) -> bool:
        """Read what is needed; whether there is anything to look at."""

    @abstractmethod
    def look(self, trainer: Trainer, task: WorldModelTask) -> Any:
        """Run the model, within `apart`."""

    @abstractmethod
    def show(self, trainer: Trainer, task: WorldModelTask, seen: Any) -> None:
        """Hand over what `look` gave; in the first process."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begun = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if self.every_n_steps and not trainer.global_step % self.every_n_steps:
            self.visit(trainer, pl_module)

    def visit(self, trainer: Trainer, pl_module: LightningModule, always: bool = False) -> None:
        """Look and show, unless that was done at this step or would take too much of the time.

        Args:
            trainer: of the run.
            pl_module: the task.
            always: whatever it takes.
        """
        together = is_sharded(pl_module)
        if trainer.global_step == self._looked_at or not (together or trainer.is_global_zero):
            return
        going = not self._ended and (always or self._in_time())
        if together:  # the first process has the clock, and all do the same
            going = bool(trainer.strategy.broadcast(going))
        if not going:
            return
        self._looked_at = trainer.global_step  # several batches may make a step
        begun = time.perf_counter()
        if not self._prepared:
            self._prepare(trainer, pl_module, together)
        prepared = time.perf_counter()
        self._look_and_show(trainer, pl_module, together)
        ended = time.perf_counter()
        self._last_seconds = ended - prepared
        self.seconds += ended - begun

    def _prepare(self, trainer: Trainer, pl_module: Any, together: bool) -> None:
        self._prepared, ready = True, False
        with self._told():
            ready = self.prepare(trainer, pl_module)
        if together:
            ready = trainer.strategy.reduce_boolean_decision(ready)
        self._ended |= not ready

    def _look_and_show(self, trainer: Trainer, pl_module: Any, together: bool) -> None:
        if self._ended:
            return
        with nullcontext() if together else self._told():
            seen = self.look(trainer, pl_module)
        if trainer.is_global_zero and not self._ended:
            with self._told():
                self.show(trainer, pl_module, seen)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What goes wrong within it, with files, drawing or a logger, is not worth a run."""
        try:
            yield
        except Exception as error:
            self._ended = True
            rank_zero_warn(
                f"no more {self.noun} of this run: {type(error).__name__}: {error}. {self.remedy}"
            )

    def _in_time(self) -> bool:
        """Whether there is time for another look, if it takes as long as the last one."""
        elapsed = time.perf_counter() - self._begun
        return self.seconds + self._last_seconds <= self.max_share * elapsed


def is_sharded(pl_module: LightningModule) -> bool:
    """Whether a process has only its part of the weights."""
    return any(isinstance(each, FSDPModule) for each in cast(Any, pl_module).hierarchy.modules())


@contextmanager
def apart(trainer: Trainer, pl_module: LightningModule) -> Iterator[None]:
    """Within it the model can be run, in the training's precision, with nothing of it changed.

    Not compiled: another number of clips than a batch has would compile everything anew.
    """
    device = pl_module.device
    with (
        torch.no_grad(),
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        torch.compiler.set_stance("force_eager"),
        trainer.precision_plugin.forward_context(),
    ):
        yield
    for part in cast(Any, pl_module).hierarchy.modules():
        # Weights that were gathered for a pass that no backward pass follows.
        if isinstance(part, FSDPModule):
            part.reshard()
