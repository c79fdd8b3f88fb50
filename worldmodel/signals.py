"""Signals of a scheduler while a training is not yet, or no longer, under way.

While it is, `StopOnSignal` hears them. Before and after it a signal ends a process, which is right
for one that somebody started by hand. In a job of several it is not: the job's script has but one
exit code to go by. `srun` gives the largest of its tasks' codes, and once a task has failed it
sends SIGTERM to all others, so that 143 may as well be a mistake in the configuration. A script
that puts its job back into the queue therefore names a code of its own for runs that were asked to
stop and have saved (`WORLDMODEL_STOP_CODE`). With it signals are heard from the start, to be obeyed
after the first steps, and none ends a process that is done.
"""

import os
import signal
from types import FrameType

from worldmodel.errors import InputError

# Names the exit code of a training that was asked to stop and has saved; 128 + the signal without.
STOP_CODE = "WORLDMODEL_STOP_CODE"
# What schedulers send before they take a machine away: SIGTERM from most, SIGUSR1 from SLURM's
# `--signal`.
FROM_SCHEDULERS = (signal.SIGTERM, signal.SIGUSR1)

_early: list[signal.Signals] = []


def stop_code() -> int | None:
    """What a job's script wants for the exit code of a run that was stopped; None without.

    Raises:
        InputError: it is no exit code.
    """
    text = os.environ.get(STOP_CODE, "")
    if not text:
        return None
    if not text.isdecimal() or not 0 < int(text) < 256:
        raise InputError(f"{STOP_CODE} must be a number from 1 to 255, got {text!r}")
    return int(text)


def hear_early() -> None:
    """From now on signals are remembered for the training that will begin, if a script asks so."""
    if stop_code() is not None:
        for number in FROM_SCHEDULERS:
            signal.signal(number, _remember)


def heard_early() -> signal.Signals | None:
    """The signal that came before the training, if one did."""
    return _early[-1] if _early else None


def hear_no_more() -> None:
    """From now on no signal ends this process, which is about to end, if a script asks so."""
    if stop_code() is not None:
        for number in FROM_SCHEDULERS:
            signal.signal(number, signal.SIG_IGN)


def _remember(number: int, frame: FrameType | None) -> None:
    _early.append(signal.Signals(number))
