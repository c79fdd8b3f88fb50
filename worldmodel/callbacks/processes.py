"""What the processes of a run share."""

import torch
from lightning import Callback, LightningModule, Trainer


class ThreadsPerProcess(Callback):
    """Shares the CPU's cores among the processes of this machine.

    Without it every rank starts a thread per core, and two ranks on two cores run slower than one.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        local = max(1, trainer.num_devices)
        if local > 1:
            torch.set_num_threads(max(1, torch.get_num_threads() // local))
