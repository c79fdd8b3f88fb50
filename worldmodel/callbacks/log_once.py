"""Numbers that are measured at some training steps only."""

from collections.abc import Mapping

from lightning import LightningModule, Trainer


def log_once(trainer: Trainer, pl_module: LightningModule, values: Mapping[str, float]) -> None:
    """Log what was measured at the training step that has just ended.

    Not as everything else: what is logged at one step Lightning hands to its loggers at every later
    one of the epoch again, and files would hold numbers that nobody measured then.

    Args:
        trainer: whose loggers; the bar and other callbacks see the values as well.
        pl_module: the task.
        values: by name, the same on all ranks or known to the first alone.
    """
    pl_module.log_dict(dict(values), rank_zero_only=True, logger=False)
    for logger in trainer.loggers:
        logger.log_metrics(dict(values), step=trainer.global_step - 1)  # counted from 0 there
