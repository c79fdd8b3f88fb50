"""What a run will need, said before it starts; and refused where it cannot be had."""

import shutil
import time
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from worldmodel.callbacks.checkpoints import LastCheckpoint
from worldmodel.callbacks.throughput import Throughput
from worldmodel.cost import StepCost, count_step
from worldmodel.errors import InputError
from worldmodel.models.hub_files import first_line
from worldmodel.strategy import ShardedStrategy
from worldmodel.task import WorldModelTask

# What is kept for the backward pass under 16-bit autocast, in shares of what is kept in float32:
# products are kept in half the bytes, normalisations and losses are not.
KEPT_IN_HALF = 0.6
# The estimate leaves out what single operations need for themselves. Above this share of the free
# memory a person is warned; above the other one there is no point in trying.
TIGHT, IMPOSSIBLE = 0.9, 1.2
# Weights and two moments of the optimizer, in float32.
CHECKPOINT_BYTES_PER_WEIGHT = 12
# Operations per second of a training, in shares of what one large matrix product reaches.
TYPICAL_EFFICIENCY = 0.25


class Preflight(Callback):
    """Says what a step costs, what memory, disk and time the run will take, and checks the first.

    A step that asks for a number it has computed (`Tensor.item()`), as a loss of one's own may,
    cannot be counted without computing it; that is said, and the run goes on.

    Raises:
        InputError: the batch cannot fit into memory, or checkpoints onto the disk.
    """

    cost: StepCost | None = None
    steps_done = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Before the model is compiled, sharded or wrapped.
        assert isinstance(pl_module, WorldModelTask)
        if stage == "fit":
            datamodule = trainer.datamodule  # type: ignore[attr-defined]
            try:
                self.cost = count_step(pl_module, datamodule.batch_size, datamodule.num_frames)
            except InputError:
                raise
            except Exception as error:  # a step that is wrong itself says so when it is computed
                self._say(
                    "what the run needs is not known, for a step cannot be counted without "
                    f"computing it: {type(error).__name__}: {first_line(error)}"
                )
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, Throughput):
                    callback.cost = self.cost

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # The trainer knows it only after `on_fit_start`.
        self.steps_done = int(checkpoint["global_step"])

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.cost is None:
            return
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        batch_size, num_frames = datamodule.batch_size, datamodule.num_frames
        cost = self.cost
        device = trainer.strategy.root_device
        half = trainer.precision.startswith(("bf16", "16"))
        kept = int(cost.kept_bytes * (KEPT_IN_HALF if half else 1))
        is_sharded = isinstance(trainer.strategy, ShardedStrategy)
        state = cost.state_bytes // (trainer.world_size if is_sharded else 1)
        needed, free = kept + state, free_memory(device)
        if free is not None and device.type == "cpu":
            free //= trainer.num_devices  # which share the machine's
        folder = Path(trainer.checkpoint_callback.dirpath or ".")  # type: ignore[union-attr]
        room, disk = room_for_checkpoints(trainer, cost, folder), free_disk(folder)
        steps = trainer.estimated_stepping_batches - self.steps_done
        self._say(
            f"a step: {batch_size} clips of {num_frames} frames on each of {trainer.world_size} "
            f"devices, {cost.flops / 1e9:,.1f} GFLOP each; {cost.weights / 1e6:.2f} M weights"
        )
        self._say(
            f"needs about {gigabytes(needed)} of memory a device"
            + ("" if free is None else f" ({gigabytes(free)} free)")
            + f" and {gigabytes(room)} of disk ({gigabytes(disk)} free)"
            + duration(steps, cost, trainer)
        )
        if free is not None and needed > TIGHT * free:
            fitting = int((TIGHT * free - state) / kept * batch_size)
            message = (
                f"a step needs about {gigabytes(needed)} of memory, and {gigabytes(free)} are free "
                f"on {device}; "
                + (f"data.batch_size {fitting} would fit" if fitting > 0 else "no batch would fit")
                + ". Lower it (with trainer.accumulate_grad_batches the gradient is still that of "
                "many clips), or set model.compute.activation_checkpointing to true"
            )
            if needed > IMPOSSIBLE * free:
                raise InputError(message)
            rank_zero_warn(message)
        if disk < room:
            raise InputError(
                f"checkpoints need {gigabytes(room)} more and {folder} has {gigabytes(disk)} free; "
                "make room, or choose another trainer.default_root_dir"
            )

    @rank_zero_only
    def _say(self, message: str) -> None:
        print(message, flush=True)


def room_for_checkpoints(trainer: Trainer, cost: StepCost, folder: Path) -> int:
    """Bytes of those that will be kept and are not there yet, and of one being written."""
    kept = [
        each.keep if isinstance(each, LastCheckpoint) else each.save_top_k
        for each in trainer.checkpoint_callbacks
        if isinstance(each, ModelCheckpoint)
    ]
    missing = max(0, sum(kept) - len(list(folder.glob("*.ckpt"))))
    return (missing + 1) * CHECKPOINT_BYTES_PER_WEIGHT * cost.weights


def gigabytes(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e9:.1f} GB" if count >= 5e7 else f"{count / 1e6:.0f} MB"


def duration(steps: int | float, cost: StepCost, trainer: Trainer) -> str:
    """How long so many steps take, roughly, in words; nothing where their number is not known."""
    if steps == float("inf"):
        return ""
    batches = steps * trainer.accumulate_grad_batches
    speed = TYPICAL_EFFICIENCY * product_speed(trainer.strategy.root_device, trainer.precision)
    minutes = batches * cost.flops / speed / 60
    if minutes < 1:
        return "; a minute or less"
    return f"; roughly {minutes:.0f} min" if minutes < 90 else f"; roughly {minutes / 60:.0f} h"


def product_speed(device: torch.device, precision: str) -> float:
    """Operations per second of large matrix products on this device, tried for a moment."""
    half = precision.startswith(("bf16", "16")) and device.type == "cuda"
    size = 8192 if device.type == "cuda" else 1024
    with torch.random.fork_rng(devices=[]):
        factor = torch.ones(size, size, device=device, dtype=torch.bfloat16 if half else None)
    times = []
    for _ in range(4):  # the first one wakes everything up
        begun = time.perf_counter()
        float((factor @ factor)[0, 0])  # waits for the device
        times.append(time.perf_counter() - begun)
    return 2 * size**3 / min(times)


def free_memory(device: torch.device) -> int | None:
    """Bytes that this process could take; None where that is not known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # no Linux
        return None
    entries = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(entries["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in entries else None


def free_disk(folder: Path) -> int:
    """Bytes free where a folder is or will be."""
    there = next(each for each in (folder, *folder.resolve().parents) if each.exists())
    return shutil.disk_usage(there).free
