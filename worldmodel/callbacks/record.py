"""What a run was made with."""

import json
import os
import sys
from pathlib import Path

from lightning import Callback, LightningModule, Trainer

from worldmodel.environment import describe_environment


class RunRecord(Callback):
    """Adds a line to `starts.jsonl` in the run's folder each time it starts or goes on.

    With the step, the command, the devices, and code, packages and hardware; and the job under
    SLURM, by which a job that was put back into the queue finds its run (`runs.py`).
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = trainer.checkpoint_callback and trainer.checkpoint_callback.dirpath  # type: ignore[attr-defined]
        if not trainer.is_global_zero or not folder:
            return
        line = {
            "step": trainer.global_step,
            "command": sys.argv,
            "devices": trainer.world_size,
            "precision": trainer.precision,
            **describe_environment(),
        }
        if job := os.environ.get("SLURM_JOB_ID"):
            line["slurm_job"] = job
        path = Path(folder).parent / "starts.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
