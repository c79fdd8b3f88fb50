"""A run that was cut short and goes on sees exactly what it had not seen yet."""

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from worldmodel.clips import ClipBatch
from worldmodel.data.datamodule import ClipDataModule

# 27 training samples of 28 in batches of 6: 4 batches an epoch, 10 steps are two epochs and a half.
NUM_STEPS = 10
BATCHES_PER_EPOCH = 4


class Recorder(lightning.LightningModule):
    """Learns one number, and notes every batch and a random number for each."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, tuple[str, ...], float, float]] = []

    def training_step(self, batch: ClipBatch, batch_idx: int) -> torch.Tensor:
        mean = batch.frames.float().mean()
        self.seen.append((batch_idx, batch.keys, float(mean), float(torch.rand(()))))
        return (self.weight - mean) ** 2

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> None:
        loss = (self.weight - batch.frames.float().mean()) ** 2
        self.log("val_loss", loss, batch_size=len(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class RestoreRandomNumbers(Callback):
    """Keeps torch's random state, as training does."""

    def __init__(self) -> None:
        self.state: torch.Tensor | None = None

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["random_state"] = torch.get_rng_state()

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self.state = checkpoint["random_state"]

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if self.state is not None:
            torch.set_rng_state(self.state)


def train(
    shards: Path,
    root: Path,
    ckpt_path: Path | None = None,
    num_workers: int = 0,
    at_epoch_end: bool = False,
) -> Recorder:
    torch.manual_seed(0)
    model = Recorder()
    when = {"save_on_train_epoch_end": True} if at_epoch_end else {"every_n_train_steps": 1}
    checkpoints = ModelCheckpoint(root, "{step}", save_top_k=-1, **when)
    trainer = lightning.Trainer(
        max_steps=NUM_STEPS,
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        callbacks=[checkpoints, RestoreRandomNumbers()],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )
    data = ClipDataModule(
        str(shards / "*.tar"), batch_size=6, num_frames=4, size=16, num_workers=num_workers, seed=5
    )
    trainer.fit(model, data, ckpt_path=ckpt_path, weights_only=True)
    return model


@pytest.mark.filterwarnings("ignore:.*dirpath has changed")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_resume__sees_the_batches_that_were_left(
    uneven_shards: Path, tmp_path: Path, num_workers: int
) -> None:
    whole = train(uneven_shards, tmp_path / "whole", num_workers=num_workers)
    assert [batch_idx for batch_idx, *_ in whole.seen] == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    # 4 and 8 are the ends of epochs, 3 and 5 the batches beside.
    for stop in (1, 3, 4, 5, 8) if num_workers == 0 else (3, 4):
        saved = tmp_path / "whole" / f"step={stop}.ckpt"
        rest = train(uneven_shards, tmp_path / f"rest{stop}", saved, num_workers)
        assert rest.seen == whole.seen[stop:], f"stopped after {stop} steps"
        assert torch.equal(rest.weight, whole.weight)


@pytest.mark.filterwarnings("ignore:.*dirpath has changed")
def test_resume__from_the_end_of_an_epoch_skips_none(uneven_shards: Path, tmp_path: Path) -> None:
    # Lightning counts an epoch too many here, and its next one would be left out.
    whole = train(uneven_shards, tmp_path / "whole", at_epoch_end=True)
    for stop in (4, 8):
        saved = tmp_path / "whole" / f"step={stop}.ckpt"
        rest = train(uneven_shards, tmp_path / f"rest{stop}", saved, at_epoch_end=True)
        assert rest.seen == whole.seen[stop:], f"stopped after {stop} steps"
