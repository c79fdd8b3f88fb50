"""How a run ends before its time: asked to by a signal, or because a process of it failed."""

import contextlib
import os
import signal
import threading
import time
from types import FrameType
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from worldmodel.callbacks.checkpoints import LastCheckpoint
from worldmodel.losses.ranks import global_mean
from worldmodel.signals import FROM_SCHEDULERS, heard_early, stop_code

# And Ctrl-C.
SIGNALS = (*FROM_SCHEDULERS, signal.SIGINT)
# Within which another SIGINT is the same Ctrl-C: torchrun passes on what the terminal has sent to
# every process already.
SAME_PRESS_SECONDS = 1.0
# Which the process that failed has to say why.
LAST_WORDS_SECONDS = 2.0


class StopOnSignal(Callback):
    """On Ctrl-C, SIGTERM or SIGUSR1 to any process: finishes the step, saves it, ends the run.

    Between two steps alone is everything of one moment: weights, moments, schedule and the place in
    the data. Within one the clips in hand would be lost to a run that goes on from there, or the
    schedule a step behind the weights. Who cannot wait for a step, or for the validation that runs,
    presses Ctrl-C again: the run ends there, and goes on from what was saved before.

    Processes agree on the step by an exchange now and then, for each may have been told at another
    moment, or not at all. They end together, too: srun ends all once one has left, and what rank 0
    still writes in the background must be on the disk by then. A run that was asked in its last
    step is complete, not stopped.

    Args:
        every_n_steps: optimizer steps between two exchanges; a process alone looks at every step.
    """

    def __init__(self, every_n_steps: int = 10) -> None:
        self.every_n_steps = every_n_steps
        self.received: signal.Signals | None = None
        self.stopped = False
        self._received_at = 0.0
        self._speaks = False
        self._step = 0
        self._before: dict[signal.Signals, Any] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Lightning's own handlers, which would be there before ours and after them, put a SLURM job
        # back into the queue a second time, with a checkpoint of their own (`hpc_ckpt_1.ckpt`) that
        # is preferred from then on. On SIGTERM they talk to other ranks, whatever those are doing.
        connector = trainer._signal_connector
        if hasattr(connector, "register_signal_handlers"):
            connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.received = self.received or heard_early()
        self._speaks, self._step = trainer.is_global_zero, trainer.global_step
        if threading.current_thread() is threading.main_thread():  # nobody else is told of signals
            # A shell has what it began in the background ignore Ctrl-C, which is for others then.
            heard = [each for each in SIGNALS if signal.getsignal(each) != signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._note) for number in heard}
        # Lightning asks rank 0 about SIGTERM before every batch, and waits for the device to do so.
        loop = trainer.fit_loop.epoch_loop
        if hasattr(loop, "_broadcast_sigterm_tensor"):
            loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            now = time.monotonic()
            if self.received is not signal.SIGINT:
                self._received_at = now
                self._promise()
            elif now - self._received_at > SAME_PRESS_SECONDS:
                signal.default_int_handler(number, frame)
        self.received = signal.Signals(number)

    def _promise(self) -> None:
        if self._speaks:
            message = "\nfinishing the step, then saving; Ctrl-C again stops at once, without\n"
            with contextlib.suppress(OSError):  # a terminal that is gone
                # Not by print, in the middle of which we may be.
                os.write(1, message.encode())

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        step = trainer.global_step
        if step == self._step:  # gradients still add up, and no checkpoint keeps them
            return
        self._step = step
        if trainer.world_size > 1:
            if step % self.every_n_steps:
                return
            told = torch.tensor(float(self.received is not None), device=pl_module.device)
            asked = bool(global_mean(told) > 0)
        else:
            asked = self.received is not None
        if not asked or self.stopped or step == trainer.max_steps:
            return
        self.stopped = trainer.should_stop = True
        last = next(
            each for each in trainer.checkpoint_callbacks if isinstance(each, LastCheckpoint)
        )
        last.save_now(trainer)
        if trainer.is_global_zero:
            name = self.received.name if self.received else "a signal to another process"
            print(
                f"\nstopped by {name} at step {step}; saved {last.best_model_path}. "
                "The same command with --ckpt_path unfinished goes on from there.",
                flush=True,
            )

    @property
    def exit_code(self) -> int:
        """Of the command: 0 unless stopped.

        Then what a job's script asks for, or what a shell has for a process that a signal ended.
        """
        if not self.stopped:
            return 0
        return stop_code() or 128 + (self.received or signal.SIGTERM)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore(signal.SIGINT)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.stopped:
            trainer.strategy.barrier()
        self._restore(*FROM_SCHEDULERS)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._restore(*SIGNALS)

    def _restore(self, *numbers: signal.Signals) -> None:
        for number in numbers:
            if number in self._before:
                signal.signal(number, self._before.pop(number))


class EndTogether(Callback):
    """Where the first process of a machine fails, ends the others that it started there.

    Of the others' failures Lightning's launcher takes care, within five seconds; started by
    torchrun or SLURM, those do. Without it processes on GPUs wait for the one that failed until a
    timeout of half an hour.
    """

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        launcher = trainer.strategy.launcher
        if isinstance(launcher, _SubprocessScriptLauncher) and not isinstance(
            exception, KeyboardInterrupt
        ):
            if is_lost_peer(exception):
                time.sleep(LAST_WORDS_SECONDS)
            launcher.kill(signal.SIGKILL)


def is_lost_peer(error: BaseException | None) -> bool:
    """Whether an error only says that another process of the training is gone."""
    words = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL")
    while error is not None:
        is_distributed = isinstance(error, torch.distributed.DistError) or (
            isinstance(error, RuntimeError) and any(word in str(error) for word in words)
        )
        if is_distributed:
            return True
        error = error.__cause__ or error.__context__
    return False
