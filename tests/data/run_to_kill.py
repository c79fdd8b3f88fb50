"""A training run that notes what it sees, to be killed at any moment and started again.

python run_to_kill.py SHARDS FOLDER RANKS WORKERS STEPS
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from worldmodel.callbacks import AtomicCheckpointIO
from worldmodel.clips import ClipBatch
from worldmodel.data.datamodule import ClipDataModule

BATCH_SIZE = 3


class Noting(lightning.LightningModule):
    """Learns one number and writes a line for every batch, before anything else happens to it."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch: ClipBatch, batch_idx: int) -> torch.Tensor:
        loss = (self.weight - batch.frames.float().mean() / 255) ** 2
        line = {
            "run": os.environ["RUN_NUMBER"],
            "step": self.global_step,
            "rank": self.global_rank,
            "clips": [
                [key, float(pts[0])] for key, pts in zip(batch.keys, batch.pts_seconds, strict=True)
            ],
            "loss": loss.item().hex(),
        }
        with (self.folder / f"seen-{self.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        time.sleep(0.03)  # else a run would be over before it can be killed
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def main(shards: str, folder: str, ranks: str, workers: str, steps: str) -> None:
    root = Path(folder)
    last = root / "last.ckpt"
    settings: dict[str, Any] = {"strategy": "ddp"} if int(ranks) > 1 else {}
    trainer = lightning.Trainer(
        max_steps=int(steps),
        max_epochs=-1,
        accelerator="cpu",
        devices=int(ranks),
        logger=False,
        callbacks=[
            ModelCheckpoint(root, "last", every_n_train_steps=2, enable_version_counter=False)
        ],
        plugins=[AtomicCheckpointIO()],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **settings,
    )
    data = ClipDataModule(
        f"{shards}/*.tar",
        val_shards=f"{shards}/u-003.tar",
        batch_size=BATCH_SIZE,
        num_frames=4,
        size=16,
        num_workers=int(workers),
        seed=5,
    )
    checkpoint = str(last) if last.exists() else None
    trainer.fit(Noting(root), data, ckpt_path=checkpoint, weights_only=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
